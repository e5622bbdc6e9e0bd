"""Sampling: names drawn from an untrained default model."""

import random


def sample(model, count):
    rng = random.Random(42)
    return [model.generate(temperature=0.5, rng=rng) for _ in range(count)]


def test_sampling(engine, oracle, timed):
    model = engine.GPT(27)
    assert sample(model, 3) == sample(oracle.GPT(27), 3)
    timed("sampling", "a name of at most 16 letters", sample, lambda: (model, 10), count=10)
