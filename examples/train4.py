"""Step 4: heads and layers. With them the model is the GPT."""

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


# %% The model: heads that look at different things, and layers one after the other
n_embd, n_head, n_layer, block_size = 16, 4, 1, 16
head_dim = n_embd // n_head


def matrix(n_out, n_in):
    return [[Value(random.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]


state_dict = {
    "wte": matrix(vocab_size, n_embd),
    "wpe": matrix(block_size, n_embd),
    "lm_head": matrix(vocab_size, n_embd),
}
for i in range(n_layer):
    for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
        state_dict[f"layer{i}.{name}"] = matrix(n_embd, n_embd)
    state_dict[f"layer{i}.mlp_fc1"] = matrix(4 * n_embd, n_embd)
    state_dict[f"layer{i}.mlp_fc2"] = matrix(n_embd, 4 * n_embd)
params = [p for w in state_dict.values() for row in w for p in row]


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
    x = [t + p for t, p in zip(state_dict["wte"][token], state_dict["wpe"][pos])]
    x = rmsnorm(x)
    for i in range(n_layer):
        residual, x = x, rmsnorm(x)
        q = linear(x, state_dict[f"layer{i}.attn_wq"])
        keys[i].append(linear(x, state_dict[f"layer{i}.attn_wk"]))
        values[i].append(linear(x, state_dict[f"layer{i}.attn_wv"]))
        x = []
        for start in range(0, n_embd, head_dim):
            head = range(start, start + head_dim)
            scores = [sum(q[j] * k[j] for j in head) / head_dim**0.5 for k in keys[i]]
            attention = softmax(scores)
            x += [sum(a * v[j] for a, v in zip(attention, values[i])) for j in head]
        x = linear(x, state_dict[f"layer{i}.attn_wo"])
        x = [a + b for a, b in zip(x, residual)]
        residual, x = x, rmsnorm(x)
        x = [a.relu() for a in linear(x, state_dict[f"layer{i}.mlp_fc1"])]
        x = linear(x, state_dict[f"layer{i}.mlp_fc2"])
        x = [a + b for a, b in zip(x, residual)]
    return linear(x, state_dict["lm_head"])


def loss_of(tokens):
    n = min(block_size, len(tokens) - 1)
    keys, values = [[] for _ in range(n_layer)], [[] for _ in range(n_layer)]
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
    keys, values = [[] for _ in range(n_layer)], [[] for _ in range(n_layer)]
    token, sample = BOS, ""
    for pos in range(block_size):
        probs = softmax([a / temperature for a in gpt(token, pos, keys, values)])
        token = random.choices(range(vocab_size), weights=[p.data for p in probs])[0]
        if token == BOS:
            break
        sample += chars[token]
    print(f"sample {i + 1:2d}: {sample}")
