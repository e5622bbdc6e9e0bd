"""The graph that linear, softmax and rmsnorm built is looked into afterwards."""

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


def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


def softmax(logits):
    max_val = max(val.data for val in logits)
    exps = [(val - max_val).exp() for val in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x):
    ms = sum(xi * xi for xi in x) / len(x)
    scale = (ms + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def shown(node, depth=0):
    if depth < 5:
        print("  " * depth, node.data, node.grad, node._local_grads)
        for child in node._children:
            shown(child, depth + 1)


x = [Value(0.5), Value(-1.5), Value(2.5)]
w = [[Value(0.1 * i - 0.2 * j) for i in range(3)] for j in range(4)]
y = linear([xi.relu() for xi in rmsnorm(x)], w)
p = softmax(y)
shown(p[1])
loss = -p[2].log() + y[0]
loss.backward()
shown(loss)
loss.backward()
shown(loss)
print([n.grad for n in x], [[n.grad for n in row] for row in w])
print(
    [n.data for n in softmax([Value(1), Value(2)])],
    linear([Value(1), Value(2)], [[Value(3), Value(4)]])[0].data,
)
print(linear([0.5, 0.25], [[2.0, 4.0]]), linear(x, []), softmax([Value(3.0)])[0].data)
for bad in ([], [Value(1e9), Value("a")]):
    try:
        print(softmax(bad))
    except Exception as error:
        print(type(error).__name__, error)
