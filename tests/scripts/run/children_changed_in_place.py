"""Lists of children and local gradients that are read, kept and changed."""

import math


class Value:
    def __init__(self, data, children=(), local_grads=()):
        self.data = data
        self.grad = 0
        self._children = children
        self._local_grads = local_grads

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, [self, other], [1, 1])

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, [self, other], [other.data, self.data])

    def __pow__(self, other):
        return Value(self.data**other, [self], [other * self.data ** (other - 1)])

    def log(self):
        return Value(math.log(self.data), [self], [1 / self.data])

    def exp(self):
        return Value(math.exp(self.data), [self], [math.exp(self.data)])

    def relu(self):
        return Value(max(0, self.data), [self], [float(self.data > 0)])

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


a = Value(2.0)
b = a * a
c = b + a
print(c._local_grads, b._local_grads, a._local_grads, b._children is b._children)
c.backward()
print(a.grad, b.grad)
b._local_grads[0] = 10.0
c.backward()
print(a.grad, b.grad)
c._children.append(a)
c._local_grads.append(0.5)
print(len(c._children), c._local_grads)
c.backward()
print(a.grad, b.grad)
d = a * 3
kept = d._children
d.backward()
print(a.grad, kept.pop().data, len(d._children))
b._children.clear()
c.backward()
print(a.grad, b._children)
c._children = []
c.backward()
print(a.grad, b.grad, c._local_grads)
