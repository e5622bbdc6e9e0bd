"""The same graph computed many times: as a new graph each time, or by one tape."""

import random

import pytest
from bits import bits


def mixed(engine, inputs, count):
    """Return the last of a growing list of operations, each of nodes a few places back.

    The yardstick of small-graph engines: softplus, a sum of four, a product and a
    softmax of four in turn. With these places the numbers stay between 0 and 2.
    """
    recent = list(inputs)
    for i in range(count):
        a, b, c, d = recent[-2], recent[-3], recent[-5], recent[-6]
        if i % 4 == 0:  # softplus
            node = (a.exp() + 1).log()
        elif i % 4 == 1:
            node = a + b + c + d
        elif i % 4 == 2:
            node = a * b
        else:
            node = engine.functions.softmax([a, b, c, d])[0]
        recent.append(node)
    return recent[-1]


def network(engine, inputs, weights):
    """Return a 2-16-16-1 network of ReLU neurons."""
    x, weights = inputs, iter(weights)
    for n_out in (16, 16, 1):
        rows = [[next(weights) for _ in x] for _ in range(n_out)]
        x = engine.functions.linear(x, rows)
        x = [y.relu() for y in x] if n_out > 1 else x
    return x[0]


def leaves(engine, count, seed=0):
    rng = random.Random(seed)
    return [engine.Value(rng.uniform(-1, 1)) for _ in range(count)]


def gradients(loss, inputs):
    return bits(loss, *(x.grad for x in inputs))


@pytest.fixture
def scalar(engine):
    if engine.NAME == "fused":
        pytest.skip("Value and Tape are the cython engine's")
    return engine


@pytest.mark.parametrize("count", [100, 10_000])
def test_replay(scalar, oracle, timed, count):
    specified = leaves(oracle, 8)
    loss = mixed(oracle, specified, count)
    loss.backward()

    inputs = leaves(scalar, 8)
    if scalar.NAME == "python":

        def again():
            loss = mixed(scalar, inputs, count)
            loss.backward()
            return loss.data

    else:
        tape = scalar.Tape(mixed(scalar, inputs, count), inputs=inputs)

        def again():
            loss = tape.forward()
            tape.backward()
            return loss

    assert gradients(again(), inputs) == gradients(loss.data, specified)
    timed("forward and backward again", f"{count:,} mixed operations", again)


def test_rows(scalar, oracle, timed):
    rows = [[random.Random(i).gauss(0, 1), i / 500] for i in range(513)]

    def begin(engine):
        return leaves(engine, 2), leaves(engine, 32 + 256 + 16, 1)

    def new_graphs(engine, inputs, weights):
        losses = []
        for row in rows:
            for x, number in zip(inputs, row):
                x.data = number
            loss = network(engine, inputs, weights)
            loss.backward()
            losses.append(loss.data)
        return losses

    inputs, weights = begin(oracle)
    specified = bits(*new_graphs(oracle, inputs, weights), *(w.grad for w in weights))
    inputs, weights = begin(scalar)
    if scalar.NAME == "python":

        def again():
            return new_graphs(scalar, inputs, weights)

    else:
        tape = scalar.Tape(network(scalar, inputs, weights), inputs=inputs)

        def again():
            return tape.run(rows)

    assert bits(*again(), *(w.grad for w in weights)) == specified
    timed(
        "a row of a 2-16-16-1 network",
        "eight rows at a time",
        again,
        count=len(rows),
    )
