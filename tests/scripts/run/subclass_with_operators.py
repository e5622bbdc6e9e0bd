"""A subclass overrides an operator, another only adds."""

import math
import random


class Value:
    __slots__ = ("data", "grad", "_children", "_local_grads")

    def __init__(self, data, children=(), local_grads=()):
        self.data = data
        self.grad = 0
        self._children = children
        self._local_grads = local_grads

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, other):
        return Value(self.data**other, (self,), (other * self.data ** (other - 1),))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def exp(self):
        return Value(math.exp(self.data), (self,), (math.exp(self.data),))

    def relu(self):
        return Value(max(0, self.data), (self,), (float(self.data > 0),))

    def __neg__(self):
        return self * -1

    def __radd__(self, other):
        return self + other

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return other + (-self)

    def __rmul__(self, other):
        return self * other

    def __truediv__(self, other):
        return self * other**-1

    def __rtruediv__(self, other):
        return other * self**-1

    def backward(self):
        topo = []
        visited = set()

        def build_topo(v):
            if v not in visited:
                visited.add(v)
                for child in v._children:
                    build_topo(child)
                topo.append(v)

        build_topo(self)
        self.grad = 1
        for v in reversed(topo):
            for child, local_grad in zip(v._children, v._local_grads):
                child.grad += local_grad * v.grad


class Named(Value):
    def __init__(self, data, name=""):
        super().__init__(data)
        self.name = name

    def __mul__(self, other):
        print("times", self.name)
        return super().__mul__(other)


class Plain(Value):
    __slots__ = ()

    @property
    def double(self):
        return self.data * 2


a, b, c = Named(1.5, "a"), Value(-2.0), Plain(0.5)
d = (a * b + b * a) * c + c + a + 2 * c + (b - c) + (c - b) + sum([a, b, c])
d.backward()
print(
    d.data,
    a.grad,
    b.grad,
    c.grad,
    c.double,
    type(d).__name__,
    type(c + 1).__name__,
    a.name,
    vars(a)["name"],
)
print(
    isinstance(a, Value),
    [type(x).__name__ for x in (b + c)._children],
    [type(x).__name__ for x in (c + b)._children],
)
