"""Random programs over `Value`, and what an engine shows when it runs one.

A program is a list of (instruction, i, j, number). Instructions name the nodes
made so far by index, most recent first, so that every program is valid, shares
nodes and shrinks well.
"""

import math

from bits import bits
from hypothesis import strategies as st

OPERATIONS = {
    "a + b": lambda a, b, k: a + b,
    "a * b": lambda a, b, k: a * b,
    "a - b": lambda a, b, k: a - b,
    "a / b": lambda a, b, k: a / b,
    "a + a": lambda a, b, k: a + a,
    "a * a": lambda a, b, k: a * a,
    "a + k": lambda a, b, k: a + k,
    "k + a": lambda a, b, k: k + a,
    "a * k": lambda a, b, k: a * k,
    "k * a": lambda a, b, k: k * a,
    "a - k": lambda a, b, k: a - k,
    "k - a": lambda a, b, k: k - a,
    "a / k": lambda a, b, k: a / k,
    "k / a": lambda a, b, k: k / a,
    "a ** k": lambda a, b, k: a**k,
    "-a": lambda a, b, k: -a,
    "log": lambda a, b, k: a.log(),
    "exp": lambda a, b, k: a.exp(),
    "relu": lambda a, b, k: a.relu(),
    "sum": lambda a, b, k: sum([a, b, k, a]),
    "a ** b": lambda a, b, k: a**b,
    "a + None": lambda a, b, k: a + None,
}
# Moderate numbers make deep graphs, extreme ones make exceptions, NaN and infinities.
NUMBERS = st.one_of(
    st.floats(-3, 3),
    st.sampled_from([0, 1, -1, 2, -2, 3, 0.5, -0.5, 1e-5, -0.0, True]),
    st.floats(),
    st.sampled_from([2**53 + 1, -(10**22), 10**400, 710, -746, 1e154, -1e-200, 5e-324]),
)
INDEX = st.integers(0, 40)
INSTRUCTIONS = st.tuples(
    st.one_of(
        st.sampled_from([*OPERATIONS, "leaf"]),
        st.sampled_from(["leaf", "subclass", "contrary", "node", "uneven node", "set data"]),
        st.sampled_from(["a + b", "a * b", "backward", "tape", "clear", "set grad"]),
        st.sampled_from(["long sum", "dot product", "look inside", "forget"]),
    ),
    INDEX,
    INDEX,
    NUMBERS,
)
PROGRAMS = st.integers(1, 60).flatmap(lambda n: st.lists(INSTRUCTIONS, min_size=n, max_size=n))


def large_program(rng, size):
    """Return a long program of moderate numbers, whose graph is deep and entangled."""
    names = [name for name in OPERATIONS if name not in ("a ** b", "a + None", "a ** k", "exp")]
    names += ["a + b", "a * b", "a - b", "leaf", "subclass", "contrary", "node", "tape"]
    names += ["long sum", "dot product", "dot product", "look inside"]
    return [
        (rng.choice(names), rng.randrange(60), rng.randrange(size), rng.uniform(-1.2, 1.2))
        for _ in range(size)
    ]


def subclasses(value):
    """Return a subclass that adds to `Value` and one that contradicts it."""

    class Named(value):
        name = "named"

    class Contrary(value):
        def __neg__(self):
            return Contrary(-self.data, (self,), (-1.0,))

        def __pow__(self, other):
            return super().__pow__(other) * 1.0

        def __radd__(self, other):
            return super().__radd__(other)

        def __rmul__(self, other):
            return super().__rmul__(other) * 1.0

    return Named, Contrary


def run(program, engine):
    """Return all that a program shows on an engine: exceptions, data, gradients, children."""
    value = engine.Value
    named, contrary = subclasses(value)
    nodes, shown = [value(1.5)], []
    for name, i, j, k in program:
        a, b = nodes[-1 - i % len(nodes)], nodes[-1 - j % len(nodes)]
        try:
            if name in OPERATIONS:
                nodes.append(OPERATIONS[name](a, b, k))
            elif name == "leaf":
                nodes.append(value(k))
            elif name == "subclass":
                nodes.append(named(k))
            elif name == "contrary":
                nodes.append(contrary(k))
            elif name == "node":
                children = [nodes[-1 - (i + j * n) % len(nodes)] for n in range(j % 5)]
                slopes = [math.cos(i + n) for n in range(j % 5)]
                nodes.append(value(k, tuple(children), tuple(slopes)))
            elif name == "uneven node":
                nodes.append(named(k, (a, b, a)[: i % 4], (0.5, -2.0, 3.0)[: j % 4]))
            elif name == "long sum":
                nodes.append(sum(nodes[-1 - (i + j * n) % len(nodes)] for n in range(1 + i)))
            elif name == "dot product":
                xs, ys = nodes[-1 - i % len(nodes) :], nodes[-1 - j % len(nodes) :]
                nodes.append(sum(x * y for x, y in zip(xs, ys)))
            elif name == "look inside":
                nodes.extend(a._children[:j])
            elif name == "forget":
                del nodes[1 + i % len(nodes) :: 1 + j % 7]
            elif name == "set data":
                a.data = float(k)
            elif name == "set grad":
                a.grad = float(k)
            elif name == "backward":
                a.backward()
            elif name == "tape":
                tape = engine.Tape(a)
                shown.append(len(tape))
                b.grad += 1.0
                tape.backward()
                tape.backward()
            elif name == "clear":
                for node in nodes:
                    node.grad = 0.0
        except Exception as error:
            shown.append((name, type(error).__name__))
    nodes[-1].backward()
    place = {id(node): n for n, node in enumerate(nodes)}
    for node in nodes:
        children = [place.get(id(child), "inner") for child in node._children]
        numbers = bits(node.data, node.grad, *node._local_grads)
        shown.append((type(node).__name__, numbers, children))
    return shown
