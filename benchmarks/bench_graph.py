"""Building a graph, and playing it backward, by number of nodes."""

import pytest
from bits import bits

SIZES = [100, 1_000, 10_000, 100_000]

# The fused engine has no `Value` of its own.
pytestmark = pytest.mark.parametrize("engine", ["python", "cython"], indirect=True)


def build(value, size):
    """Return the leaves and the root of a graph of about `size` nodes, four a round."""
    leaves = [value(0.1 * i - 0.7) for i in range(16)]
    recent = leaves[:]
    for i in range(size // 4):
        a, b = recent[i % 16], recent[(i * 7 + 3) % 16]
        recent[(i * 5) % 16] = (a * b + a).relu() - 0.3
    return leaves, recent[(size // 4 * 5 - 5) % 16]


def gradients(engine, size):
    leaves, root = build(engine.Value, size)
    root.backward()
    return bits(root.data, *(leaf.grad for leaf in leaves))


@pytest.mark.parametrize("size", SIZES)
def test_building(engine, oracle, timed, size):
    assert gradients(engine, size) == gradients(oracle, size)
    timed(
        "building a graph",
        f"{size:,} nodes",
        build,
        lambda: (engine.Value, size),
        iterations=100_000 // size,
    )


@pytest.mark.parametrize("size", SIZES)
def test_backward(engine, oracle, timed, size):
    assert gradients(engine, size) == gradients(oracle, size)
    leaves, root = build(engine.Value, size)
    timed("backward", f"{size:,} nodes", root.backward, iterations=100_000 // size)
    assert leaves


def micrograd(value):
    """Return the gradients of the example in micrograd's README."""
    a, b = value(-4.0), value(2.0)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.backward()
    return a.grad, b.grad


def test_micrograd(engine, oracle, timed):
    assert bits(*micrograd(engine.Value)) == bits(*micrograd(oracle.Value))
    timed(
        "micrograd's README example",
        "39 nodes",
        micrograd,
        lambda: (engine.Value,),
        iterations=2000,
    )
