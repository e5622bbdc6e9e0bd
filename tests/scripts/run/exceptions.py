"""What fails fails with the same words, and leaves the graph as it was."""

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


a, zero = Value(-8.0), Value(0.0)
for f in (
    lambda: zero**-1,
    lambda: 1 / zero,
    lambda: a / 0,
    lambda: a.log(),
    lambda: Value(1000.0).exp(),
    lambda: a + "1",
    lambda: a * None,
    lambda: "1" - a,
    lambda: a**a,
    lambda: a @ a,
    lambda: Value(1e200) ** 2,
    lambda: (a**0.5).data,
    lambda: Value(),
    lambda: a.relu(1),
    lambda: sum([[], a]),
    lambda: a < zero,
    lambda: (zero**0.5).backward(),
    lambda: a.missing,
):
    try:
        print(f())
    except Exception as error:
        print(type(error).__name__, error)
b = a * a
b.backward()
print(a.grad, zero.grad)

del b._children
for name in ("_children", "data"):
    try:
        print(getattr(b, name) is None)
    except AttributeError:
        print(name, "is gone")
print([name for name in vars(Value) if name != "__doc__"], Value.__slots__)
