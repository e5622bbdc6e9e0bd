"""A microgpt model in numpy: `python model.py TEXT` prints the likeliest characters after TEXT.

The weights lie beside this file, in model.npz. Sums are taken in the order of the
scalar program, and powers and exponentials one number at a time, so that the logits
are microgpt's to the last bit; with `x @ w.T` and `numpy.exp` it is faster and close.
"""

import math
import pathlib
import sys

import numpy

WEIGHTS = pathlib.Path(__file__).with_name("model.npz")


def linear(x, w):
    """Return x (n, n_in) times w (n_out, n_in) transposed, summed over n_in left to right."""
    y = numpy.zeros((len(x), len(w)))
    for j in range(w.shape[1]):
        y += w[:, j] * x[:, j, None]
    return y


def softmax(x):
    exps = [math.exp(xi - max(x)) for xi in x]
    total = 0.0
    for e in exps:
        total += e
    return [e * total**-1 for e in exps]


def rmsnorm(x):
    squares = numpy.zeros(len(x))
    for j in range(x.shape[1]):
        squares += x[:, j] * x[:, j]
    mean = squares * x.shape[1] ** -1
    return x * numpy.array([[(m + 1e-5) ** -0.5] for m in mean.tolist()])


def attention(q, k, v):
    """Return the output of one attention head; all arrays are (n, head_dim)."""
    scores = linear(q, k) * (q.shape[1] ** 0.5) ** -1
    attended = numpy.zeros_like(v)
    for t, row in enumerate(scores.tolist()):
        for s, weight in enumerate(softmax(row[: t + 1])):
            attended[t] += weight * v[s]
    return attended


def gpt(tokens, weights):
    """Return the logits (n, vocab_size) of what follows each of tokens (n,)."""
    n_layer, n_head = int(weights["n_layer"]), int(weights["n_head"])
    x = rmsnorm(weights["wte"][tokens] + weights["wpe"][: len(tokens)])
    for i in range(n_layer):
        h = rmsnorm(x)
        q, k, v = (linear(h, weights[f"layer{i}.attn_w{name}"]) for name in "qkv")
        heads = zip(*(numpy.split(part, n_head, axis=1) for part in (q, k, v)))
        attended = numpy.hstack([attention(*head) for head in heads])
        x = linear(attended, weights[f"layer{i}.attn_wo"]) + x
        hidden = numpy.maximum(linear(rmsnorm(x), weights[f"layer{i}.mlp_fc1"]), 0)
        x = linear(hidden, weights[f"layer{i}.mlp_fc2"]) + x
    return linear(x, weights["lm_head"])


def load(path=WEIGHTS):
    """Return {name: matrix} and the characters; the id after the last is BOS."""
    with numpy.load(path, allow_pickle=False) as file:
        weights = dict(file)
    return weights, "".join(map(chr, weights["vocabulary"]))


if __name__ == "__main__":
    weights, characters = load()
    tokens = [len(characters), *map(characters.index, "".join(sys.argv[1:]))]
    probabilities = softmax(gpt(tokens, weights)[-1].tolist())
    for token in sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:5]:
        name = repr(characters[token]) if token < len(characters) else "the end"
        print(f"{probabilities[token]:.4f}", name)
