"""Ints in data and gradients, printed as they are."""

import json
import math


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


a, b = Value(2), Value(-3)
c = a * b + a**2 - 7 + (b * 2).relu()
c.backward()
print(c.data, a.grad, b.grad, a.relu().data, b.relu().data, (a / 2).data, (a - 2).data, (-a).data)
print(type(c.data), type(a.grad), type((a + 0.5).data), (a**-1).data, (b**3).data, (a**0).data)
d = (a + 1) * (a + 1)
d.backward()
print(a.grad, [x.grad for x in d._children], d._local_grads, sum([a, b, a]).data)
print(
    json.dumps([a.data, a.grad, d.data, Value(0).relu().data, float(b.data)]),
    f"{a.grad:>5}|{d.data:d}",
)
print((Value(10**20) * 3).data, (Value(2**53) + 1).data, Value(True).data, (Value(True) + 1).data)
