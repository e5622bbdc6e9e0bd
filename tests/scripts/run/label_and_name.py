"""Two more attributes, one without a parameter."""

import math
import random


class Value:
    __slots__ = ("data", "grad", "_children", "_local_grads", "label", "name")

    def __init__(
        self,
        data,
        children=(),
        local_grads=(),
        label="",
    ):
        self.data = data
        self.grad = 0
        self._children = children
        self.label = label
        self.name = None
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


random.seed(7)
w = [Value(random.gauss(0, 1)) for _ in range(20)]
m = [0.0] * len(w)
for step in range(4):
    loss = sum((wi * 0.5 - 0.25) ** 2 for wi in w) + (w[0] * w[1]).exp() * 0.1
    loss.backward()
    for i, p in enumerate(w):
        m[i] = 0.9 * m[i] + p.grad
        p.data -= 0.05 * m[i]
        p.grad = 0
    print(step, loss.data, [p.data for p in w[:3]])

a = Value(2.0, label="a")
a.name = "first"
b = a * 3
b.label = "b"
print(a.label, a.name, repr(b.label), b.name, (a + b).label == "")
try:
    a.other = 1
except AttributeError as error:
    print(error)
