"""An attribute that backward reads: most nodes have its usual value."""
import math, random
random.seed(3)
class Value:
    def __init__(self, data, children=(), local_grads=(), requires_grad=True):
        self.data = data
        self.grad = 0
        self._children = children
        self._local_grads = local_grads
        self.requires_grad = requires_grad
    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1, 1))
    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))
    def __pow__(self, other): return Value(self.data**other, (self,), (other * self.data**(other-1),))
    def log(self): return Value(math.log(self.data), (self,), (1/self.data,))
    def exp(self): return Value(math.exp(self.data), (self,), (math.exp(self.data),))
    def relu(self): return Value(max(0, self.data), (self,), (float(self.data > 0),))
    def __neg__(self): return self * -1
    def __radd__(self, other): return self + other
    def __sub__(self, other): return self + (-other)
    def __rsub__(self, other): return other + (-self)
    def __rmul__(self, other): return self * other
    def __truediv__(self, other): return self * other**-1
    def __rtruediv__(self, other): return other * self**-1
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
                if child.requires_grad:
                    child.grad += local_grad * v.grad

def lin(x, w): return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]
W = [[Value(random.gauss(0, 1)) for _ in range(9)] for _ in range(9)]
V = [[Value(random.gauss(0, 1)) for _ in range(9)] for _ in range(2)]
params = [p for M in (W, V) for r in M for p in r]
print(len(params))
def model(x):
    h = [a.relu() for a in lin(x, W)]
    return lin(h, V)

a=Value(2.0,requires_grad=False);b=Value(3.0)
c=a*b+b*b;c.backward();print(a.grad,b.grad,c.grad,c.data)
b.requires_grad=False; c.backward(); print(a.grad,b.grad); b.requires_grad=True; c.backward(); print(a.grad,b.grad)
for p in params[:5]: p.requires_grad=False
o=model([Value(1.0)]*9); l=o[0]*o[1]; l.backward(); print([p.grad for p in params[:8]], l.data)
for p in params: p.data -= 0.1*p.grad; p.grad=0
print([p.data for p in params[:8]])
