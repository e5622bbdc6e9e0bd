"""Step 2: the chain rule by a class. The network of step 1; `Value` finds its gradients."""

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


# %% Autograd: every operation knows its own derivatives, backward multiplies and adds them
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


# %% The model of step 1, over Values
n_embd, n_hidden = 8, 16


def matrix(n_out, n_in):
    return [[Value(random.gauss(0, 0.2)) for _ in range(n_in)] for _ in range(n_out)]


wte, w1, w2 = matrix(vocab_size, n_embd), matrix(n_hidden, n_embd), matrix(vocab_size, n_hidden)
params = [p for w in (wte, w1, w2) for row in w for p in row]


def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


def softmax(logits):
    largest = max(value.data for value in logits)
    exps = [(value - largest).exp() for value in logits]
    total = sum(exps)
    return [e / total for e in exps]


def logits_of(token):
    h = [a.relu() for a in linear(wte[token], w1)]
    return linear(h, w2)


def loss_of(tokens):
    pairs = list(zip(tokens, tokens[1:]))
    losses = [-softmax(logits_of(token))[target].log() for token, target in pairs]
    return sum(losses) * (1 / len(pairs))


# %% Training: forward, backward, a step against the gradient
num_steps = int(os.environ.get("NUM_STEPS", 1000))
learning_rate = 0.5
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

# %% New names
for i in range(10):
    token, sample = BOS, ""
    while len(sample) < 16:
        probs = [p.data for p in softmax(logits_of(token))]
        token = random.choices(range(vocab_size), weights=probs)[0]
        if token == BOS:
            break
        sample += chars[token]
    print(f"sample {i + 1:2d}: {sample}")
