"""An independent reference: the original 200-line program, rewritten in one file.

It imports nothing of the package: its `Value` walks the graph recursively, its
Adam is a loop at the end of the step. Run as a program it trains 1,000 steps on
names.txt and writes the golden figures beside it, with a fingerprint of the libm
that they belong to:

    python tests/golden/original.py tests/golden
"""

import hashlib
import math
import platform
import random
import sys
from pathlib import Path


class Value:
    """A node of the graph; `backward` is the recursive walk of the original."""

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
        finished, visited = [], set()

        def visit(node):
            if node not in visited:
                visited.add(node)
                for child in node._children:
                    visit(child)
                finished.append(node)

        visit(self)
        self.grad = 1
        for node in finished[::-1]:
            for child, slope in zip(node._children, node._local_grads):
                child.grad += slope * node.grad


class Original:
    """The original's global variables as one object, over any `Value`."""

    def __init__(self, documents, value=Value, n_embd=16, n_head=4, n_layer=1, block_size=16):
        self.rng = random.Random(42)
        self.documents = list(documents)
        self.rng.shuffle(self.documents)
        self.chars = sorted({char for document in self.documents for char in document})
        self.bos = len(self.chars)
        self.n_embd, self.n_head, self.n_layer = n_embd, n_head, n_layer
        self.block_size, self.head_dim = block_size, n_embd // n_head

        def matrix(n_out, n_in):
            return [[value(self.rng.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]

        vocab_size = self.bos + 1
        self.weights = {
            "wte": matrix(vocab_size, n_embd),
            "wpe": matrix(block_size, n_embd),
            "lm_head": matrix(vocab_size, n_embd),
        }
        for layer in range(n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                self.weights[f"layer{layer}.{name}"] = matrix(n_embd, n_embd)
            self.weights[f"layer{layer}.mlp_fc1"] = matrix(4 * n_embd, n_embd)
            self.weights[f"layer{layer}.mlp_fc2"] = matrix(n_embd, 4 * n_embd)
        self.params = [p for rows in self.weights.values() for row in rows for p in row]

    @staticmethod
    def linear(x, w):
        return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]

    @staticmethod
    def softmax(logits):
        top = max(logit.data for logit in logits)
        exps = [(logit - top).exp() for logit in logits]
        total = sum(exps)
        return [e / total for e in exps]

    @staticmethod
    def rmsnorm(x):
        ms = sum(xi * xi for xi in x) / len(x)
        scale = (ms + 1e-5) ** -0.5
        return [xi * scale for xi in x]

    def logits(self, token_id, pos_id, keys, values):
        w, linear, rmsnorm = self.weights, self.linear, self.rmsnorm
        x = rmsnorm([t + p for t, p in zip(w["wte"][token_id], w["wpe"][pos_id])])
        for layer in range(self.n_layer):
            skip, x = x, rmsnorm(x)
            q = linear(x, w[f"layer{layer}.attn_wq"])
            keys[layer].append(linear(x, w[f"layer{layer}.attn_wk"]))
            values[layer].append(linear(x, w[f"layer{layer}.attn_wv"]))
            mixed = []
            for head in range(self.n_head):
                lo = head * self.head_dim
                hi = lo + self.head_dim
                ks = [k[lo:hi] for k in keys[layer]]
                vs = [v[lo:hi] for v in values[layer]]
                scores = [
                    sum(q[lo + j] * k[j] for j in range(self.head_dim)) / self.head_dim**0.5
                    for k in ks
                ]
                shares = self.softmax(scores)
                mixed.extend(
                    sum(shares[t] * vs[t][j] for t in range(len(vs))) for j in range(self.head_dim)
                )
            x = [a + b for a, b in zip(linear(mixed, w[f"layer{layer}.attn_wo"]), skip)]
            skip, x = x, rmsnorm(x)
            x = [xi.relu() for xi in linear(x, w[f"layer{layer}.mlp_fc1"])]
            x = [a + b for a, b in zip(linear(x, w[f"layer{layer}.mlp_fc2"]), skip)]
        return linear(x, w["lm_head"])

    def loss(self, document):
        tokens = [self.bos, *(self.chars.index(char) for char in document), self.bos]
        n = min(self.block_size, len(tokens) - 1)
        keys, values = [[] for _ in range(self.n_layer)], [[] for _ in range(self.n_layer)]
        losses = []
        for pos_id in range(n):
            probs = self.softmax(self.logits(tokens[pos_id], pos_id, keys, values))
            losses.append(-probs[tokens[pos_id + 1]].log())
        return (1 / n) * sum(losses)

    def training(self, num_steps=1000):
        """Yield the loss of each step, after Adam's update."""
        rate, beta1, beta2, eps = 0.01, 0.85, 0.99, 1e-8
        params = self.params
        m, v = [0.0] * len(params), [0.0] * len(params)
        for step in range(num_steps):
            loss = self.loss(self.documents[step % len(self.documents)])
            loss.backward()
            lr = rate * (1 - step / num_steps)
            for i, p in enumerate(params):
                m[i] = beta1 * m[i] + (1 - beta1) * p.grad
                v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
                m_hat = m[i] / (1 - beta1 ** (step + 1))
                v_hat = v[i] / (1 - beta2 ** (step + 1))
                p.data -= lr * m_hat / (v_hat**0.5 + eps)
                p.grad = 0
            yield loss.data

    def samples(self, count=20, temperature=0.5):
        """Yield names drawn from the model."""
        for _ in range(count):
            keys, values = [[] for _ in range(self.n_layer)], [[] for _ in range(self.n_layer)]
            token_id, name = self.bos, ""
            for pos_id in range(self.block_size):
                logits = self.logits(token_id, pos_id, keys, values)
                probs = self.softmax([logit / temperature for logit in logits])
                token_id = self.rng.choices(
                    range(self.bos + 1), weights=[prob.data for prob in probs]
                )[0]
                if token_id == self.bos:
                    break
                name += self.chars[token_id]
            yield name


def read_documents(path):
    """Return the lines of a file, stripped, without the blank ones."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [line.strip() for line in lines if line.strip()]


def libm_fingerprint():
    """Return a digest of this machine's exp, log and pow on 60,000 fixed arguments."""
    rng, digest = random.Random(1), hashlib.sha256()
    for _ in range(20_000):
        x = rng.uniform(0, 40)
        for y in (math.exp(-x), math.log(x), x ** rng.choice((-1, -0.5, 0.5, 2, -1.5))):
            digest.update(y.hex().encode())
    return digest.hexdigest()


def main(folder):
    """Write the golden figures into folder, which holds names.txt."""
    folder = Path(folder)
    model = Original(read_documents(folder / "names.txt"))
    losses = [loss.hex() for loss in model.training()]
    (folder / "names_1000.losses.hex").write_text("\n".join(losses) + "\n")
    (folder / "names_1000.samples").write_text("\n".join(model.samples()) + "\n")
    libm = f"{' '.join(platform.libc_ver())} {platform.machine()}\n{libm_fingerprint()}\n"
    (folder / "libm.txt").write_text(libm)


if __name__ == "__main__":
    main(sys.argv[1])
