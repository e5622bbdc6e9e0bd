"""Sampling: names drawn from an untrained default model."""

import random

ROUNDS = {"python": 1, "cython": 10, "fused": 200}


def sample(model, rounds=1):
    """Return the last of some rounds of the same five names."""
    for _ in range(rounds):
        rng = random.Random(42)
        names = [model.generate(temperature=0.5, rng=rng) for _ in range(5)]
    return names


def test_sampling(engine, oracle, timed):
    model = engine.GPT(27)
    assert sample(model) == sample(oracle.GPT(27))
    rounds = ROUNDS[engine.NAME]
    timed(
        "sampling",
        "a name of at most 16 letters",
        sample,
        lambda: (model, rounds),
        count=5 * rounds,
    )
