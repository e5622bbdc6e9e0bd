"""Random programs over graphs of `Value`, and all that an engine shows when it runs one.

A program is a list of steps (name, i, j, k): a name of `STEPS`, two indices and a
number. An index counts the nodes made so far from the last one back, modulo their
number, so any list of steps is a program, shares nodes, and shrinks well.

Numpy's arrays of objects, where numpy is installed, hold the only references to
what they compute, which is how the compiled engine knows a temporary.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import operator
import pickle
import re
from collections.abc import Callable, Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

try:
    import numpy
except ImportError:  # the arrays' steps are left out then
    numpy = None

Number = float | complex | str | None
Step = tuple[str, int, int, Any]
Program = list[Step]

EXTREME = [
    *(math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, -5e-324, 2.2e-308, -1e-200, 1e154),
    *(1.7976931348623157e308, -1e308, 1e-308, 709.8, -745.2, 1e16, 1.0000000000000002),
]
ODD = [2**53 + 1, -(10**22), 10**400, -(10**400), 710, True, None, "1", 1j]
PLAIN = [0, 1, -1, 2, -2, 3, 0.5, -0.5, 1e-5, -0.0]
LARGEST_COPY = 40  # nodes: Python's own recursion through a deeper graph has its limit


class Machine:
    """What a program has made so far on one engine."""

    def __init__(self, engine: SimpleNamespace) -> None:
        self.Value = engine.Value
        self.Tape = engine.Tape
        self.functions = engine.functions
        self.Named, self.Contrary = _subclasses(engine.Value)
        self.settled = _settled(engine.Value, engine.ATTRIBUTES)
        self.nodes = [self.Value(1.5)]
        self.arrays: list[Any] = []
        self.tapes: list[Any] = []
        self.seen: list[Any] = []

    def __getitem__(self, i: int) -> Any:
        return self.nodes[-1 - i % len(self.nodes)]

    def row(self, i: int, n: int = 0) -> list[Any]:
        """Return n nodes from i back, or a number of them that depends on i."""
        return [self[i + (1 + i % 3) * step] for step in range(n or 1 + i % 11)]

    def pairs(self, i: int, j: int) -> Iterator[tuple[Any, Any]]:
        return zip(self.row(i, 1 + j % 9), self.row(j, 1 + j % 9))

    def array(self, i: int) -> Any:
        """Return an array of three products that nothing else holds, or one made before."""
        if self.arrays and i % 4:
            return self.arrays[i % len(self.arrays)]
        out = numpy.empty(3, dtype=object)
        out[:] = self.row(i, 3)
        self.arrays.append(out * out[::-1])
        return self.arrays[-1]

    def look(self, node: Any) -> None:
        self.seen.append((_number(node.data), _number(node.grad), len(node._children)))
        self.seen.append([_number(grad) for grad in node._local_grads])


def _subclasses(value: Any) -> tuple[Any, Any]:
    """Return a subclass that adds to `Value` and one that contradicts it."""

    class Named(value):
        name = "named"

    class Contrary(value):
        def __neg__(self) -> Any:
            return Contrary(-self.data, (self,), (-1.0,))

        def __pow__(self, other: Any) -> Any:
            return super().__pow__(other) * 1.0

        def __radd__(self, other: Any) -> Any:
            return super().__radd__(other)

        def __rmul__(self, other: Any) -> Any:
            return super().__rmul__(other) * 1.0

    return Named, Contrary


def _settled(value: Any, attributes: tuple[str, ...]) -> list[Any]:
    """Return subclasses with settings of their own."""

    class Own(value, results="own", attributes=True):
        __slots__ = attributes

    class Fixed(value, results="fixed"):
        __slots__ = ()

    class OfFixed(Fixed):
        pass

    class Light(value, relu="not negative"):
        __slots__ = ()

    class Heavy(value, results="own", relu="not negative"):
        pass

    return [Own, Fixed, OfFixed, Light, Heavy]


def told(error: Exception) -> tuple[str, str]:
    """Return an exception's class and text; a compiled class's full name is its engine's."""
    return type(error).__name__, re.sub(r"\bmicrogpt\._\w+\.", "", str(error))


def _number(x: Any) -> str:
    """Return a number as it is compared: by its type and bits, NaN being one."""
    return f"int {x}" if type(x) is int else float(x).hex()


# ----------------------------------------------- steps that need more than an expression


def _constructed(m: Machine, i: int, j: int, k: Any) -> Any:
    children = m.row(i, j % 6) if j % 6 else []
    return m.Value(k, tuple(children), tuple(math.cos(i + n) for n in range(len(children))))


def _fan(m: Machine, i: int, j: int, k: Any) -> Any:
    children = tuple(m.row(i, 100 + j))
    return m.Value(k, children, tuple(math.sin(n) for n in range(len(children))))


def _chain(m: Machine, i: int, j: int, k: Any) -> Any:
    out, a = m[i], m[j]
    for n in range(1 + (i * j) % 300):
        out = out * a if n % 3 else out + k
    return out


def _broken_sum(m: Machine, i: int, j: int, k: Any) -> Any:
    def terms() -> Iterator[Any]:
        for x, y in m.pairs(i, j):
            yield x * y
        m.look(m[j])
        yield m[i] / 0

    return sum(terms())


def _edited_sum(m: Machine, i: int, j: int, k: Any) -> Any:
    def terms() -> Iterator[Any]:
        for n, (x, y) in enumerate(m.pairs(i, j)):
            yield x * y
            if n == i % 4:
                x.data = float(k)
            elif n == j % 4:
                y.grad = float(k)
            elif n == 3:
                m[i + j].backward()

    return sum(terms())


def _kept_sum(m: Machine, i: int, j: int, k: Any) -> list[Any]:
    products = [x * y for x, y in m.pairs(i, j)]
    return [*products[:: 1 + i % 3], sum(products)]


def _accumulated(m: Machine, i: int, j: int, k: Any) -> list[Any]:
    products = (x * y for x, y in m.pairs(i, j))
    return list(itertools.accumulate(products, initial=0))[1 :: 1 + i % 3]


def _attention(m: Machine, i: int, j: int, k: Any) -> list[Any]:
    rows = [m.row(i + n, 4) for n in range(1 + j % 3)]
    out: list[Any] = m.functions.attention(m.row(j, 4), rows, rows[::-1], (1, 2, 4)[i % 3])
    return out


def _function(m: Machine, seed: int, inputs: list[Any]) -> Any:
    """Return a value computed from inputs by a few steps that a Tape can replay."""
    rng = Random(seed)
    inner = copy.copy(m)
    inner.nodes = list(inputs)
    for _ in range(2 + seed % 10):
        step = STEPS[rng.choice(REPLAYED)]
        made = step(inner, rng.randrange(20), rng.randrange(20), rng.gauss(0, 1))
        inner.nodes += made if isinstance(made, list) else [made]
    return sum(inner.nodes)  # so that none is left out of the tape


def _replayed(m: Machine, i: int, j: int, k: Any) -> list[Any]:
    """Compute a function of three inputs, then again with other numbers."""
    rng = Random(j)
    inputs = [m.Value(rng.gauss(0, 1)) for _ in range(3)]
    numbers = [float(k), rng.gauss(0, 1), rng.gauss(0, 2)]
    out = _function(m, i, inputs)
    if hasattr(m.Tape, "forward"):
        tape = m.Tape(out, inputs)
        tape.forward(numbers)
    else:
        inputs = [m.Value(number) for number in numbers]
        out = _function(m, i, inputs)
        tape = m.Tape(out)
    tape.backward()
    if hasattr(tape, "refresh"):
        tape.refresh()
    return [*inputs, out]


def _replayed_rows(m: Machine, i: int, j: int, k: Any) -> list[Any]:
    """Compute a function of three inputs for many rows of numbers."""
    rng = Random(j)
    inputs = [m.Value(rng.gauss(0, 1)) for _ in range(3)]
    rows = [[rng.gauss(0, 1), float(k), rng.gauss(0, 1)] for _ in range(1 + j % 30)]
    out = _function(m, i, inputs)
    losses = []
    m.nodes += inputs  # to be seen if a row raises
    if hasattr(m.Tape, "run"):
        losses = list(m.Tape(out, inputs).run(rows))
    else:
        for row in rows:
            for x, number in zip(inputs, row):
                x.data = number
            out = _function(m, i, inputs)
            out.backward()
            losses.append(out.data)
    m.seen.append([_number(loss) for loss in losses])
    return []


def _tape(m: Machine, i: int, j: int, k: Any) -> None:
    m.tapes.append(m.Tape(m[i]))
    m.seen.append(len(m.tapes[-1]))


def _play_tape(m: Machine, i: int, j: int, k: Any) -> None:
    if m.tapes:
        m.tapes[i % len(m.tapes)].backward()


def _clear(m: Machine, i: int, j: int, k: Any) -> None:
    for node in m.nodes:
        node.grad = 0.0


def _forget(m: Machine, i: int, j: int, k: Any) -> None:
    del m.nodes[1 + i % len(m.nodes) :: 1 + j % 7]
    del m.tapes[j % 4 :]


def _copied(m: Machine, i: int, j: int, k: Any) -> Any:
    if j % 3 == 0 or len(m.Tape(m[i])) > LARGEST_COPY:
        return copy.copy(m[i])
    return copy.deepcopy(m[i]) if j % 3 == 1 else pickle.loads(pickle.dumps(m[i]))


def _made_again(m: Machine, i: int, j: int, k: Any) -> None:
    m[i].__init__(k, (m.Value(2.0), m.Value(j)), (0.5, k))


def _set(m: Machine, node: Any, name: str, k: Any) -> None:
    setattr(node, name, k)


def _array_made(m: Machine, i: int, j: int, k: Any) -> None:
    a, b = m.array(i), m.array(j)
    m.arrays.append((a + b, a * b, 0 + a, a + a, (0 + a) + b, k * a)[(i + j) % 6])


def _array_added_to(m: Machine, i: int, j: int, k: Any) -> None:
    a, b = m.array(i), m.array(j)
    numpy.add(a, b, out=a)


def _array_accumulated(m: Machine, i: int, j: int, k: Any) -> None:
    m.arrays.append(numpy.add.accumulate(0 + m.array(i)))


def _array_dropped(m: Machine, i: int, j: int, k: Any) -> None:
    if m.arrays:
        del m.arrays[i % len(m.arrays)]


EXPRESSIONS: dict[str, Callable[[Machine, int, int, Any], Any]] = {
    "leaf": lambda m, i, j, k: m.Value(k),
    "subclass": lambda m, i, j, k: m.Named(k),
    "contrary": lambda m, i, j, k: m.Contrary(k),
    "settled": lambda m, i, j, k: m.settled[i % len(m.settled)](k),
    "settled of two": lambda m, i, j, k: m.settled[i % len(m.settled)](k, [m[j]], [k]),
    "a + b": lambda m, i, j, k: m[i] + m[j],
    "a * b": lambda m, i, j, k: m[i] * m[j],
    "a - b": lambda m, i, j, k: m[i] - m[j],
    "a / b": lambda m, i, j, k: m[i] / m[j],
    "a + k": lambda m, i, j, k: m[i] + k,
    "k + a": lambda m, i, j, k: k + m[i],
    "a * k": lambda m, i, j, k: m[i] * k,
    "k * a": lambda m, i, j, k: k * m[i],
    "a - k": lambda m, i, j, k: m[i] - k,
    "k - a": lambda m, i, j, k: k - m[i],
    "a / k": lambda m, i, j, k: m[i] / k,
    "k / a": lambda m, i, j, k: k / m[i],
    "a ** k": lambda m, i, j, k: m[i] ** k,
    "a ** b": lambda m, i, j, k: m[i] ** m[j],
    "-a": lambda m, i, j, k: -m[i],
    "log": lambda m, i, j, k: m[i].log(),
    "exp": lambda m, i, j, k: m[i].exp(),
    "relu": lambda m, i, j, k: m[i].relu(),
    "tanh": lambda m, i, j, k: m[i].tanh(),
    "sigmoid": lambda m, i, j, k: m[i].sigmoid(),
    "0 + a * b": lambda m, i, j, k: 0 + m[i] * m[j],
    "0 + a": lambda m, i, j, k: 0 + m[i],
    "sum": lambda m, i, j, k: sum(m.row(i)),
    "sum from k": lambda m, i, j, k: sum((x * y for x, y in m.pairs(i, j)), k),
    "sum of products": lambda m, i, j, k: sum(x * y for x, y in m.pairs(i, j)),
    "sum of squares": lambda m, i, j, k: sum(x * x for x in m.row(i)) / (1 + j),
    "sum of scaled": lambda m, i, j, k: sum(x * y * k for x, y in m.pairs(i, j)),
    "sum of mixed": lambda m, i, j, k: sum(
        x * y if n % 3 else x for n, (x, y) in enumerate(m.pairs(i, j))
    ),
    "sum and more": lambda m, i, j, k: sum(x * y for x, y in m.pairs(i, j)) + m[j] * k + m[i],
    "sum of sums": lambda m, i, j, k: sum([sum(m.row(i)), 0 + m[i] * m[j], sum(m.row(j))]),
    "sum and itself": lambda m, i, j, k: (s := sum(x * y for x, y in m.pairs(i, j))) + s,
    "sum by map": lambda m, i, j, k: sum(map(operator.mul, m.row(i), m.row(j))),
    "sum by reduce": lambda m, i, j, k: functools.reduce(
        operator.add, map(operator.mul, m.row(i), m.row(j)), 0
    ),
    "sum accumulated": _accumulated,
    "sum of kept": _kept_sum,
    "sum that fails": _broken_sum,
    "sum while edited": _edited_sum,
    "node": _constructed,
    "uneven node": lambda m, i, j, k: m.Named(k, m.row(i, 3)[: i % 4], (0.5, -2.0, 3.0)[: j % 4]),
    "fan": _fan,
    "chain": _chain,
}
FUNCTIONS: dict[str, Callable[[Machine, int, int, Any], Any]] = {
    "dot": lambda m, i, j, k: m.functions.dot(m.row(i), m.row(j)),
    "dot of temporaries": lambda m, i, j, k: m.functions.dot(
        [x * y for x, y in m.pairs(i, j)], [x + k for x in m.row(i)]
    ),
    "linear": lambda m, i, j, k: m.functions.linear(m.row(i), [m.row(j), m.row(i), m.row(i + j)]),
    "softmax": lambda m, i, j, k: m.functions.softmax(m.row(i))[:: 1 + j % 3],
    "rmsnorm": lambda m, i, j, k: m.functions.rmsnorm(m.row(i))[:: 1 + j % 3],
    "attention": _attention,
    "cross entropy": lambda m, i, j, k: m.functions.cross_entropy(m.row(i), j % 12),
    "maximum": lambda m, i, j, k: m.functions.maximum(m[i], m[j]),
    "where": lambda m, i, j, k: m.functions.where(m[i], m[j], m[i + j]),
    "operation": lambda m, i, j, k: m.functions.Operation(math.sin, math.cos)(m[i]),
    "replay": _replayed,
    "replay of rows": _replayed_rows,
}
REPLAYED = [
    *("a + b", "a * b", "a - b", "a / b", "a + k", "k * a", "k - a", "-a", "0 + a * b"),
    *("exp", "log", "relu", "tanh", "sigmoid"),
    *("sum", "sum of products", "sum and more", "sum of squares"),
    *("dot", "linear", "softmax", "rmsnorm", "attention", "maximum", "where", "operation"),
]
CHANGES: dict[str, Callable[[Machine, int, int, Any], Any]] = {
    "backward": lambda m, i, j, k: m[i].backward(),
    "tape": _tape,
    "play tape": _play_tape,
    "clear": _clear,
    "forget": _forget,
    "set data": lambda m, i, j, k: _set(m, m[i], "data", k),
    "set grad": lambda m, i, j, k: _set(m, m[i], "grad", k),
    "look": lambda m, i, j, k: m.look(m[i]),
    "look inside": lambda m, i, j, k: list(m[i]._children[: j % 7]),
    "copy": _copied,
    "make again": _made_again,
}
ARRAYS: dict[str, Callable[[Machine, int, int, Any], Any]] = {
    "array": _array_made,
    "array added to": _array_added_to,
    "array accumulated": _array_accumulated,
    "array sum": lambda m, i, j, k: numpy.add.reduce(m.array(i)),
    "array dot": lambda m, i, j, k: numpy.dot(m.array(i), m.array(j)),
    "array item": lambda m, i, j, k: m.array(i)[j % 3],
    "array dropped": _array_dropped,
    "array item's data": lambda m, i, j, k: _set(m, m.array(i)[j % 3], "data", k),
    "array item's grad": lambda m, i, j, k: _set(m, m.array(i)[j % 3], "grad", k),
    "array item played": lambda m, i, j, k: m.array(i)[j % 3].backward(),
    "array item seen": lambda m, i, j, k: m.look(m.array(i)[j % 3]),
    "array item made again": lambda m, i, j, k: m.array(i)[j % 3].__init__(k),
}
STEPS = {**EXPRESSIONS, **FUNCTIONS, **CHANGES, **ARRAYS}
FAMILIES = [EXPRESSIONS, EXPRESSIONS, FUNCTIONS, CHANGES] + [ARRAYS] * (numpy is not None)
NAMES = set().union(*FAMILIES)


def program(rng: Random) -> Program:
    """Return a random program: of one or many families of steps, tame or wild numbers."""
    families = FAMILIES if rng.random() < 0.7 else [EXPRESSIONS, rng.choice(FAMILIES)]
    names = [list(family) for family in families]
    wild = rng.choice([0.0, 0.0, 0.02, 0.2])
    size = rng.choice([5, 10, 20, 40, 80, 400])
    reach = rng.choice([4, 20, 60])

    def number() -> Any:
        if rng.random() < wild:
            return rng.choice(EXTREME if rng.random() < 0.8 else ODD)
        return rng.choice(PLAIN) if rng.random() < 0.2 else rng.gauss(0, 1)

    steps = [("leaf", 0, 0, number()) for _ in range(rng.randrange(6))]
    for _ in range(rng.randint(1, size)):
        name = rng.choice(rng.choice(names))
        steps.append((name, rng.randrange(reach), rng.randrange(reach), number()))
    return steps


def show(program: Program, engine: SimpleNamespace) -> list[Any]:
    """Return all that a program shows on an engine, ending with every node of its graphs."""
    machine = Machine(engine)
    for name, i, j, k in program:
        try:
            made = STEPS[name](machine, i, j, k)
        except Exception as error:
            machine.seen.append((name, *told(error)))
            continue
        if isinstance(made, engine.Value):
            machine.nodes.append(made)
        elif isinstance(made, list):
            machine.nodes += [node for node in made if isinstance(node, engine.Value)]
        else:
            machine.seen.append((name, type(made).__name__))
    machine.nodes[-1].backward()
    made = [node for array in machine.arrays for node in array]
    machine.seen.append([_number(node.data) for node in machine.nodes + made])
    machine.seen.append([_number(node.grad) for node in machine.nodes + made])
    return machine.seen + _nodes(machine.nodes + made)


def _nodes(roots: list[Any]) -> list[Any]:
    """Return class, numbers and children of all nodes below roots, numbered as they are met."""
    number = {id(root): n for n, root in enumerate(dict.fromkeys(roots))}
    found = list(dict.fromkeys(roots))
    shown = []
    for node in found:  # grows
        places = []
        for child in node._children:
            if id(child) not in number:
                number[id(child)] = len(found)
                found.append(child)
            places.append(number[id(child)])
        numbers = [_number(x) for x in (node.data, node.grad, *node._local_grads)]
        shown.append((type(node).__name__, numbers, places))
    return shown


def size(shown: list[Any]) -> int:
    """Return how many nodes `show` has shown."""
    return sum(
        isinstance(entry, tuple) and len(entry) == 3 and type(entry[2]) is list for entry in shown
    )
