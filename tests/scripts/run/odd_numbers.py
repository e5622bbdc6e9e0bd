"""Fractions, Decimals, complex numbers and bools as data; gradients of -0.0."""

import math
from decimal import Decimal
from fractions import Fraction


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


for x in (Fraction(1, 3), Decimal("0.5"), 2j, True, 10**30, float("inf")):
    try:
        a, b = Value(x), Value(3)
        c = a * b + a + b
        c.backward()
        print(
            repr(c.data),
            repr(a.grad),
            repr(b.grad),
            repr((a * 2).data),
            repr((-a).data),
            len(c._children),
        )
    except Exception as error:
        print(type(error).__name__, error)
a = Value(1.5)
a.grad = Fraction(1, 2)
(a * a).backward()
print(a.grad)
a.data = None
print(a.data)


def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


x, y = Value(2.0), Value(3.0)
for total in linear([x, y], [[y, x], [x, x]]):
    x.grad = y.grad = total.grad = -0.0
    (total * -0.0).backward()
    print(total.grad, x.grad, y.grad)
