"""Step 3: attention. A position sees those before it, through one head; norms and a residual."""

import math
import os
import random

# %% The data, as before
random.seed(42)
with open("names.txt") as file:
    docs = [line.strip() for line in file if line.strip()]
random.shuffle(docs)
chars = sorted(set("".join(docs)))
BOS = len(chars)
vocab_size = len(chars) + 1


def tokens_of(doc):
    return [BOS] + [chars.index(ch) for ch in doc] + [BOS]


# %% Autograd, as before
class Value:
    """A number that remembers what it was computed from."""

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

    def __pow__(self, k):
        return Value(self.data**k, (self,), (k * self.data ** (k - 1),))

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
        """Apply the chain rule, node by node, from this value back to the leaves."""
        order, seen = [], set()

        def visit(value):
            if value not in seen:
                seen.add(value)
                for child in value._children:
                    visit(child)
                order.append(value)

        visit(self)
        self.grad = 1
        for value in reversed(order):
            for child, local_grad in zip(value._children, value._local_grads):
                child.grad += local_grad * value.grad


# %% The model: token and position, attention to all positions so far, an MLP
n_embd, block_size = 16, 16


def matrix(n_out, n_in):
    return [[Value(random.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]


wte, wpe = matrix(vocab_size, n_embd), matrix(block_size, n_embd)
lm_head = matrix(vocab_size, n_embd)
wq, wk, wv, wo = (matrix(n_embd, n_embd) for _ in range(4))
fc1, fc2 = matrix(4 * n_embd, n_embd), matrix(n_embd, 4 * n_embd)
weights = (wte, wpe, lm_head, wq, wk, wv, wo, fc1, fc2)
params = [p for w in weights for row in w for p in row]


def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


def softmax(logits):
    largest = max(value.data for value in logits)
    exps = [(value - largest).exp() for value in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x):
    mean_square = sum(xi * xi for xi in x) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def gpt(token, pos, keys, values):
    x = rmsnorm([t + p for t, p in zip(wte[token], wpe[pos])])
    residual, x = x, rmsnorm(x)
    q = linear(x, wq)
    keys.append(linear(x, wk))
    values.append(linear(x, wv))
    scores = [sum(qj * kj for qj, kj in zip(q, k)) / n_embd**0.5 for k in keys]
    attention = softmax(scores)
    x = [sum(a * v[j] for a, v in zip(attention, values)) for j in range(n_embd)]
    x = [a + b for a, b in zip(linear(x, wo), residual)]
    residual, x = x, rmsnorm(x)
    x = linear([a.relu() for a in linear(x, fc1)], fc2)
    x = [a + b for a, b in zip(x, residual)]
    return linear(x, lm_head)


def loss_of(tokens):
    n = min(block_size, len(tokens) - 1)
    keys, values = [], []
    losses = []
    for pos in range(n):
        probs = softmax(gpt(tokens[pos], pos, keys, values))
        losses.append(-probs[tokens[pos + 1]].log())
    return (1 / n) * sum(losses)


# %% Training: forward, backward, a step against the gradient
num_steps = int(os.environ.get("NUM_STEPS", 1000))
learning_rate = 0.2
for step in range(num_steps):
    tokens = tokens_of(docs[step % len(docs)])
    loss = loss_of(tokens)
    loss.backward()
    rate = learning_rate * (1 - step / num_steps)
    for p in params:
        p.data -= rate * p.grad
        p.grad = 0
    if step < 5 or (step + 1) % 100 == 0:
        print(f"step {step + 1:4d} / {num_steps:4d} | loss {loss.data:.12f}")

# %% New names, a little cautious: a temperature below 1 makes likely letters likelier
temperature = 0.5
for i in range(10):
    keys, values = [], []
    token, sample = BOS, ""
    for pos in range(block_size):
        probs = softmax([a / temperature for a in gpt(token, pos, keys, values)])
        token = random.choices(range(vocab_size), weights=[p.data for p in probs])[0]
        if token == BOS:
            break
        sample += chars[token]
    print(f"sample {i + 1:2d}: {sample}")
