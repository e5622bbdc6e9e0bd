"""The original program with its import line changed: its functions and Adam are ours."""

from pathlib import Path

import pytest
from bits import bits
from golden.original import Original, read_documents

DOCUMENTS = read_documents(Path(__file__).parent.parent / "tests" / "golden" / "names.txt")
STEPS = 10


class Imported(Original):
    """The original, whose functions come from an engine."""

    def __init__(self, documents, engine):
        super().__init__(documents, engine.Value)
        self.functions, self.adam = engine.functions, engine.Adam(self.params)
        self.linear, self.softmax = self.functions.linear, self.functions.softmax
        self.rmsnorm = self.functions.rmsnorm

    def logits(self, token_id, pos_id, keys, values):
        w, linear, rmsnorm = self.weights, self.linear, self.rmsnorm
        x = rmsnorm([t + p for t, p in zip(w["wte"][token_id], w["wpe"][pos_id])])
        for layer in range(self.n_layer):
            skip, x = x, rmsnorm(x)
            q = linear(x, w[f"layer{layer}.attn_wq"])
            keys[layer].append(linear(x, w[f"layer{layer}.attn_wk"]))
            values[layer].append(linear(x, w[f"layer{layer}.attn_wv"]))
            mixed = self.functions.attention(q, keys[layer], values[layer], self.n_head)
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
            logits = self.logits(tokens[pos_id], pos_id, keys, values)
            losses.append(self.functions.cross_entropy(logits, tokens[pos_id + 1]))
        return (1 / n) * sum(losses)

    def training(self, num_steps=1000):
        for step in range(num_steps):
            loss = self.loss(self.documents[step % len(self.documents)])
            loss.backward()
            self.adam.step()
            yield loss.data


def steps(training, count):
    return [next(training) for _ in range(count)]


def test_imported_functions(engine, oracle, timed):
    if engine.NAME == "fused":
        pytest.skip("the functions over Value are the cython engine's")

    def begin():  # what a script's author does not have: the oracle's row is the original itself
        if engine.NAME == "python":
            return Original(DOCUMENTS, engine.Value).training()
        return Imported(DOCUMENTS, engine).training()

    specified = steps(Original(DOCUMENTS, oracle.Value).training(), 2)
    assert bits(*steps(begin(), 2)) == bits(*specified)
    timed(
        "the original loop, its functions imported",
        "a step of 4,192 weights",
        steps,
        lambda: (begin(), STEPS),
        count=STEPS,
    )
