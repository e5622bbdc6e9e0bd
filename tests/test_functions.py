"""The model's functions give every engine the graph of the original's expressions."""

import fractions
import inspect
import math
import random
import types

import numpy as np
import pytest
from bits import bits, told

from microgpt import adam, functions

NAMES = ["attention", "cross_entropy", "dot", "linear", "rmsnorm", "softmax"]


def numbers(n, seed=0):
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(n)]


def seen(leaves, outs):
    """Run a backward from every output and return all numbers that can be seen then."""
    total = sum(out * (i + 1) for i, out in enumerate(outs))
    total.backward()
    total.backward()  # the nodes inside have gradients by now, which count
    found, todo = [], [total]
    while todo and len(found) < 2000:
        node = todo.pop()
        found.append(bits(node.data, node.grad, *node._local_grads))
        todo += node._children
    return bits(*[x for leaf in leaves for x in (leaf.data, leaf.grad)]), found


def graph(engine, build, n=24):
    leaves = [engine.Value(x) for x in numbers(n)]
    try:
        return seen(leaves, build(engine.functions, leaves))
    except Exception as error:
        return told(error)


def abs_of(value):
    return value if value.data > 0 else -value


def rows(values, width):
    return [values[i : i + width] for i in range(0, len(values), width)]


BUILDS = {
    "dot": lambda f, v: [f.dot(v[:8], v[8:16])],
    "dot of unequal lengths": lambda f, v: [f.dot(v[:8], v[8:11]), f.dot(v[:2], v[8:11])],
    "dot with itself": lambda f, v: [f.dot(v, v)],
    "dot of repeated": lambda f, v: [f.dot([v[0]] * 5, [v[0], v[1], v[0], v[1], v[1]])],
    "dot of nested": lambda f, v: [f.dot([v[0], v[0] * v[1], (v[0] * v[1]).exp()], v[:3])],
    "dot whose term reaches the next": lambda f, v: [
        f.dot([a := v[0] * v[1], b := a + v[2], a * b], [b, a, v[3].relu()])
    ],
    "dots that share": lambda f, v: [f.dot(v[:8], h := f.linear(v[:8], rows(v, 8) * 3)[:8]), *h],
    "dot of long": lambda f, v: [f.dot(v * 20, v[::-1] * 20)],
    "dot added to": lambda f, v: [f.dot(v[:4], v[4:8]) + v[0] * v[1] + v[2]],
    "dots summed": lambda f, v: [sum([f.dot(v[:4], v[4:8]), f.dot(v, v)])],
    "dot of iterators": lambda f, v: [f.dot(iter(v), map(float, range(24)))],
    "linear of iterators": lambda f, v: f.linear(iter(v[:8]), map(iter, rows(v, 8))),
    "linear of an iterator and lists": lambda f, v: f.linear(iter(v[:8]), rows(v, 8)),
    "softmax of an iterator": lambda f, v: f.softmax(x for x in v),
    "rmsnorm of an iterator": lambda f, v: f.rmsnorm(map(abs_of, v)),
    "cross entropy of an iterator": lambda f, v: [f.cross_entropy(iter(v), 3)],
    "attention of iterators": lambda f, v: f.attention(
        iter(v[:4]), map(iter, rows(v[4:16], 4)), (iter(row) for row in rows(v[:12], 4)), 2
    ),
    "softmax with numbers": lambda f, v: f.softmax([0.25, *v[:3], 2, np.float32(0.1)]),
    "softmax of a number first": lambda f, v: f.softmax([2.5, v[0]]),
    "rmsnorm with numbers": lambda f, v: f.rmsnorm([0.25, v[0], v[1]]),
    "cross entropy with numbers": lambda f, v: [f.cross_entropy([0.25, v[0], 1], 0)],
    "linear with numbers": lambda f, v: f.linear([0.25, v[0]], [[v[1], 3.0], [2, v[2]]]),
    "attention with numbers": lambda f, v: f.attention([0.5, v[0]], [[v[1], 1]], [[v[2], 0.5]], 2),
    "maximum with a number": lambda f, v: [f.maximum(v[0], 0.5), f.maximum(0.5, v[0])],
    "where with numbers": lambda f, v: [f.where(v[0], 1, v[1]), f.where(1.0, v[0], 2)],
    "operation with a number": lambda f, v: [
        f.Operation(lambda a, b: a * b, lambda a, b: iter((b, a)))(v[0], 3.0)
    ],
    "operation by float32": lambda f, v: [
        f.Operation(np.float32, np.float32)(v[0]) * v[1],
        f.Operation(lambda a: a, lambda a: np.array([a]))(v[0]),
        f.Operation(lambda a, b: a, lambda a, b: np.float32([a, b]))(v[0], v[1]),
        f.Operation(lambda a: a, lambda a: fractions.Fraction(1, 3))(v[0]),
    ],
    "dot and numbers": lambda f, v: [f.dot(v[:3], [2, 0.5, np.float64(3)])],
    "dot of generators": lambda f, v: [f.dot((x for x in v[:3]), (x for x in v[3:6]))],
    "dot of tuples": lambda f, v: [f.dot(tuple(v[:3]), tuple(v[3:6]))],
    "dot of an array": lambda f, v: [f.dot(np.array(v[:3], dtype=object), v[3:6])],
    "linear": lambda f, v: f.linear(v[:4], rows(v, 4)),
    "linear twice": lambda f, v: f.linear(f.linear(v[:6], rows(v, 6)), rows(v, 4)),
    "linear, outputs dropped": lambda f, v: f.linear(v[:4], rows(v, 4))[2:4],
    "linear, rows of numbers": lambda f, v: f.linear(v[:3], [v[3:6], [1, 2.0, -3], v[6:9]]),
    "linear of numbers": lambda f, v: f.linear([1.0, 2, 3], rows(v, 3)),
    "linear of a generator": lambda f, v: f.linear((x for x in v[:3]), rows(v[:3], 3)),
    "linear over a generator": lambda f, v: f.linear(v[:3], (v[i : i + 3] for i in (3, 6))),
    "softmax": lambda f, v: f.softmax(v[:7]),
    "softmax, one used": lambda f, v: [f.softmax(v[:7])[3]],
    "softmax of one": lambda f, v: f.softmax(v[:1]),
    "softmax of the same": lambda f, v: f.softmax([v[0]] * 4),
    "softmax of far apart": lambda f, v: f.softmax([v[0] * 1e3, v[1] * 1e300, v[2]]),
    "softmax of nan": lambda f, v: f.softmax([v[0], v[1] * math.nan, v[2]]),
    "softmax of infinite": lambda f, v: f.softmax([v[0], v[1] * math.inf, v[2]]),
    "rmsnorm": lambda f, v: f.rmsnorm(v[:9]),
    "rmsnorm of rmsnorm": lambda f, v: f.rmsnorm(f.rmsnorm(v[:9])),
    "rmsnorm of huge": lambda f, v: f.rmsnorm([x * 1e200 for x in v[:3]]),
    "cross_entropy": lambda f, v: [f.cross_entropy(v[:5], 2), f.cross_entropy(v[:5], 4)],
    "cross_entropy from the end": lambda f, v: [f.cross_entropy(v[:5], -1)],
    "cross_entropy of no chance": lambda f, v: [f.cross_entropy([v[0] * 1e9, v[0] * -1e9], 0)],
    "attention": lambda f, v: f.attention(v[:4], rows(v[4:16], 4), rows(v[12:], 4), 2),
    "attention to itself": lambda f, v: f.attention(v[:4], [v[:4]] * 3, [v[:4]] * 3, 4),
    "attention, one head of three": lambda f, v: f.attention(v[:3], [v[3:6]], [v[6:9]], 1),
    "attention over uneven": lambda f, v: f.attention(v[:4], [v[4:8]], [v[8:12], v[12:16]], 2),
}
FAILURES = {
    "attention that does not divide": lambda f, v: f.attention(v[:4], [v[:4]], [v[:4]], 3),
    "attention of no head": lambda f, v: f.attention(v[:4], [v[:4]], [v[:4]], 0),
    "attention to nothing": lambda f, v: f.attention(v[:4], [], [], 2),
    "attention over short rows": lambda f, v: f.attention(v[:4], [v[:4]], [v[:2]], 2),
    "cross_entropy past the end": lambda f, v: [f.cross_entropy(v[:5], 5)],
    "cross_entropy of a name": lambda f, v: [f.cross_entropy(v[:5], "a")],
    "softmax of numbers": lambda f, v: f.softmax([2.5, 1]),
    "maximum of numbers": lambda f, v: f.maximum(2.5, 1),
    "softmax of nothing": lambda f, v: f.softmax([]),
    "rmsnorm of nothing": lambda f, v: f.rmsnorm([]),
    "linear of text": lambda f, v: f.linear("ab", rows(v, 2)),
    "linear of None": lambda f, v: f.linear(v[:2], None),
}


@pytest.mark.parametrize("name", BUILDS)
def test_function_makes_the_originals_graph(compiled, oracle, name):
    specified = graph(oracle, BUILDS[name])
    assert not isinstance(specified[1], str), specified
    assert graph(compiled, BUILDS[name]) == specified


@pytest.mark.parametrize("name", FAILURES)
def test_function_fails_as_the_original_does(compiled, oracle, name):
    specified = graph(oracle, FAILURES[name])
    assert isinstance(specified[1], str), specified
    assert graph(compiled, FAILURES[name]) == specified


def test_functions_of_nothing_are_the_number_zero(engine):
    f, v = engine.functions, engine.Value(2.0)
    assert [f.dot([], [v]), f.dot([v], []), *f.linear([], [[v], []])] == [0, 0, 0, 0]
    assert f.linear([v], []) == []


def test_subclass_meets_its_own_operators(engine):
    class Loud(engine.Value):
        def __mul__(self, other):
            made.append("mul")
            return super().__mul__(other)

    made = []
    loud = Loud(2.0)
    result = engine.functions.dot([loud, loud], [engine.Value(3.0), loud])
    assert (made, result.data) == (["mul", "mul"], 10.0)


STEPS = [
    lambda f, pick, pool: [f.dot(pick[::2], pick[1::2])],
    lambda f, pick, pool: f.linear(pick, [pick[::-1], pick[1:], pool[-len(pick) :]]),
    lambda f, pick, pool: f.softmax(pick)[:2],
    lambda f, pick, pool: f.rmsnorm(pick),
    lambda f, pick, pool: f.attention(pick, [pick, pick[::-1]], [pick[::-1], pick], 2),
    lambda f, pick, pool: [f.cross_entropy(pick, len(pick) // 2)],
    lambda f, pick, pool: [sum(a * b for a, b in zip(pick, pool))],
    lambda f, pick, pool: [pick[0].relu() + pick[-1] * 0.5],
]


@pytest.mark.parametrize("seed", range(30))
def test_entangled_functions_show_the_same(compiled, oracle, seed):
    def build(f, v):
        rng = random.Random(seed)
        pool = list(v[:12])
        for _ in range(12):
            pick = [rng.choice(pool) for _ in range(2 * rng.randint(1, 6))]
            pool += rng.choice(STEPS)(f, pick, pool)
        return rng.sample(pool, 5)

    assert graph(compiled, build) == graph(oracle, build)


@pytest.mark.parametrize("name", [*NAMES, "update"])
def test_compiled_function_has_the_specifications_words(compiled, name):
    ours = getattr(compiled.functions, name)
    specified = getattr(adam if name == "update" else functions, name)
    assert isinstance(ours, types.BuiltinFunctionType)
    assert inspect.getdoc(ours) == inspect.getdoc(specified)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(specified).parameters)
