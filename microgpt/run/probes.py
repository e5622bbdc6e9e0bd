"""Programs over nodes, which compare a script's class with the compiled one.

Each probe is run with both classes and yields all that a script can see: data, gradients, children,
local gradients and all other attributes of every node, the types of numbers and their bits, and
exceptions. Both have to yield the same. mypy cannot type the lambdas that bind a loop's variables
by default arguments: type: ignore[misc].
"""

from __future__ import annotations

import itertools
import math
import operator
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

from microgpt import _script

INF, NAN = math.inf, math.nan


def _rounded_otherwise(*pairs: tuple[Callable[[float], float], Callable[[float], float]]) -> Any:
    """Return for each two formulas a number where their last bits differ.

    libm's pow rounds one result in a thousand otherwise than a multiplication, a division or sqrt.
    """
    found: list[float] = []
    for one, other in pairs:
        draw = random.Random(1)
        numbers = (draw.uniform(0.1, 1.9) for _ in range(20_000))
        found.append(next((x for x in numbers if one(x) != other(x)), 0.7))
    return found


def _tanh(x: float) -> float:
    return (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1)


HARD: list[float] = _rounded_otherwise(
    (lambda x: x * x, lambda x: x**2),
    (lambda x: 1 / x, lambda x: x**-1),
    (math.sqrt, lambda x: x**0.5),
    (lambda x: 1 / math.sqrt(x), lambda x: x**-0.5),
    (lambda x: math.tanh(x) * math.tanh(x), lambda x: math.tanh(x) ** 2),
    (lambda x: _tanh(x) * _tanh(x), lambda x: _tanh(x) ** 2),
)
NUMBERS: list[Any] = [1.5, -2.5, 0.0, -0.0, 3, -2, 0, 1e-300, 1e200, INF, -INF, NAN]
PAIRS: list[tuple[Any, Any]] = [
    (1.5, -2.5), (3, 0.1), (-0.0, 0.0), (0, -2), (2, 3), (1.5, 0), (0.0, 1.5), (-2, -0.0),
    (0, 0.1), (-2, 0), (1e16, 1.0), (1.0, 1e-300), (1e200, 1e200), (1e-300, 1e-300),
    (INF, 0.0), (0.0, INF), (INF, -INF), (1.5, HARD[1]), (HARD[1], HARD[1]),
    (NAN, 1.0), (2, NAN), (0.0, -0.0), (3, 1e200), (-1, 7.25), (0, 0), (0.1, 0.7),
]  # fmt: skip
EXPONENTS: list[Any] = [2, 3, 0.5, -1, -0.5, 2.0, 1, 0, -2, 1.5, -1.0]
POWERS = [
    *itertools.product((1.5, 3, 0), EXPONENTS),
    *itertools.product(HARD[:4], (2, 3, 0.5, -1, -0.5)),
    *(
        (a, k)
        for i, k in enumerate(EXPONENTS)
        for a in ((0.1, -2.5, 0.0), (-2, 1e200, 1e-200))[i % 2]
    ),
]


def number(x: Any) -> Any:
    """Return a number's type and its bits."""
    if type(x) is float:
        return "nan" if x != x else struct.pack("<d", x)
    if isinstance(x, (int, complex, str, bytes, type(None))):
        return type(x).__name__, x
    return repr(x)


class Probe:
    """A class, its attributes, which of them holds closures, and whether sets hold nodes."""

    def __init__(self, cls: type, family: Any, sets: bool) -> None:
        self.cls: Any = cls
        self.names, self.closure, self.sets = family.order, family.backward, sets
        self.data: Any = operator.attrgetter(family.data)
        self.grad: Any = operator.attrgetter(family.grad)
        self.data_name, self.grad_name = family.data, family.grad
        self.others: list[str] = list(family.defaults)
        make, step = getattr(family.pair, "_make", family.pair or tuple), 1 - 2 * family.child_at
        self.pair: Callable[[Any], Any] = lambda pair: make(pair[::step])
        # Without telling the node that its list or set of children is in the script's hands.
        self.get: Any = _script.peek if issubclass(cls, _script.NodeBase) else getattr

    def outcome(self, program: Callable[[], Any], *operands: Any) -> Any:
        """Return the visible state after a program, and after one and two backwards."""
        seen = Seen(self)
        result = []
        try:
            root = program()
            result.append(seen([*operands, root]))
            if type(root) is self.cls:
                for _ in range(2):
                    result.append(seen(root.backward()))
                    result.append([number(self.grad(node)) for node in seen.keep])
                    others = itertools.product(seen.keep, self.others)  # which backward may set
                    result.append([seen(seen.attribute(*other)) for other in others])
        except Exception as error:
            result.append((type(error).__name__, str(error)))
        return result


class Seen:
    """Describes graphs of one class, nodes numbered in the order in which they are met."""

    def __init__(self, probe: Probe) -> None:
        self.cls, self.get = probe.cls, probe.get
        self.names = [name for name in probe.names if name != probe.closure]
        self.numbers: dict[int, int] = {}
        self.keep: list[Any] = []

    def __call__(self, x: Any) -> Any:
        if isinstance(x, self.cls):
            if id(x) in self.numbers:
                return "node", self.numbers[id(x)]
            self.numbers[id(x)] = len(self.numbers)
            self.keep.append(x)
            values = [(name, self(self.attribute(x, name))) for name in self.names]
            return "new", type(x) is self.cls, values
        if isinstance(x, (set, frozenset)):
            # A set of nodes has no order: old ones by number, then new ones by what they keep.
            old = sorted(self(n) for n in x if id(n) in self.numbers)
            new = sorted((n for n in x if id(n) not in self.numbers), key=self.kept)
            return type(x).__name__, old, [self(n) for n in new]
        if isinstance(x, (list, tuple)):
            return type(x).__name__, [self(part) for part in x]
        if isinstance(x, dict):
            return "dict", [(key, self(value)) for key, value in x.items()]
        return number(x)

    def attribute(self, node: Any, name: str) -> Any:
        try:
            value = self.get(node, name)
        except AttributeError:
            return "nothing"
        return "its id" if type(value) is int and value == id(node) else value

    def kept(self, node: Any) -> str:
        values = (self.attribute(node, name) for name in self.names)
        sizes = (set, frozenset, list, tuple)
        return repr([len(v) if isinstance(v, sizes) else number(v) for v in values])


# ------------------------------------------------------------------ one operation at a time


def nodes(probe: Probe, name: str) -> Iterator[Any]:
    """Yield outcomes of a binary operator of two nodes."""
    call = OPERATORS[name]
    for a, b in PAIRS:
        x, y = probe.cls(a), probe.cls(b)
        yield probe.outcome(lambda x=x, y=y: call(x, y), x, y)  # type: ignore[misc]
    for a in (1.5, 3):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x: call(x, x), x)  # type: ignore[misc]
    yield from late(probe, name)


def numbers(probe: Probe, name: str) -> Iterator[Any]:
    """Yield outcomes of a binary operator of a node and a number, or of a number and a node."""
    call, reflected = OPERATORS[name], name in REFLECTED
    others: tuple[Any, ...] = ("1", None, True, 10**20, [1.0])
    for a, b in (*PAIRS[1::2], *((1.5, other) for other in others)):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x, b=b: call(b, x) if reflected else call(x, b), x)  # type: ignore[misc]
    if reflected:
        yield from late(probe, name)


def power(probe: Probe, name: str) -> Iterator[Any]:
    for i, (a, k) in enumerate(POWERS):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x, k=k, f=(1, 0.7)[i % 2]: x**k * probe.cls(f), x)  # type: ignore[misc]
    for k in ("2", None, probe.cls(2.0), True):
        x = probe.cls(1.5)
        yield probe.outcome(lambda x=x, k=k: x**k, x)  # type: ignore[misc]
    yield from late(probe, name)


def unary(probe: Probe, name: str) -> Iterator[Any]:
    call = OPERATORS.get(name) or (lambda x: getattr(x, name)())
    for a in NUMBERS:
        x = probe.cls(a)
        yield probe.outcome(lambda x=x: call(x), x)  # type: ignore[misc]
    for a in (0.3, -0.7, 2.2, 1.1, -800.0, 800.0, 20.5, HARD[1], *HARD[4:]):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x: call(x) * probe.cls(0.7), x)  # type: ignore[misc]
    yield from late(probe, name)


def late(probe: Probe, name: str) -> Iterator[Any]:
    """Yield gradients where data is changed between an operation and its backward."""
    call: Any = OPERATORS.get(name)
    for change, (a, b) in itertools.product(range(3), ((1.5, -2.5), (0.7, 3.25), (2, 3))):
        x, y = probe.cls(a), probe.cls(b)
        try:
            if name in ("__neg__", "__pow__"):
                root = call(x)
            elif call is None:
                root = getattr(x, name)()
            else:
                root = call(b, x) if name in REFLECTED else call(x, y)
            setattr((x, y, root)[change], probe.data_name, 0.75)
            root.backward()
            yield number(probe.grad(x)), number(probe.grad(y))
        except Exception as error:
            yield type(error).__name__


REFLECTED = ("__radd__", "__rmul__", "__rsub__", "__rtruediv__")
OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": lambda a, b: a + b,
    "__radd__": lambda a, b: a + b,
    "__mul__": lambda a, b: a * b,
    "__rmul__": lambda a, b: a * b,
    "__sub__": lambda a, b: a - b,
    "__rsub__": lambda a, b: a - b,
    "__truediv__": lambda a, b: a / b,
    "__rtruediv__": lambda a, b: a / b,
    "__neg__": lambda a: -a,
    "__pow__": lambda a: a**3,
}


# ------------------------------------------------------------------ whole graphs


def graphs(probe: Probe, operators: set[str], methods: list[str]) -> Iterator[Any]:
    """Yield outcomes of random graphs that share leaves: the order of the walk and of all sums."""
    draw = random.Random(20)
    exact = probe.sets  # which have no order: take numbers whose sums have no roundings
    choices = ["__add__", "__mul__"] * 2 + ([] if exact else methods[:4])
    choices += {"__pow__"} & operators
    choices += {"__sub__"} & operators if "__neg__" in operators else ()
    choices += sorted({"__radd__", "__rmul__"} & operators)
    for case in range(16):
        data = [draw.choice((1, 2, -1, 3)) if exact else draw.gauss(0, 1) for _ in range(4)]
        if case % 4 == 0:
            data[0] = draw.choice((2, 1, 0)) if not exact else data[1]
        leaves = [probe.cls(float(x) if exact or type(x) is float else x) for x in data]
        graph = list(leaves)
        for _ in range(draw.randrange(3, 8 if exact else 14)):
            a, b = draw.choice(graph), draw.choice(graph[-5:])
            op = draw.choice(choices)
            k = draw.choice((2.0, -1.0, 0.5)) if exact else draw.choice((0.7, 2, -1.25))
            if exact and abs(probe.data(a)) + abs(probe.data(b)) > 16:
                op = "__add__"
            try:
                if op == "__pow__":
                    node = a**2
                elif op in REFLECTED:
                    node = OPERATORS[op](k, a)
                elif op in OPERATORS:
                    node = OPERATORS[op](a, b)
                else:
                    node = getattr(a * probe.cls(0.5), op)()
            except (ValueError, OverflowError, ZeroDivisionError):
                node = a + probe.cls(0.5)
            graph.append(node)
        if case % 3 == 0:
            setattr(leaves[1], probe.data_name, 0.5 if exact else draw.gauss(0, 1))
        if case % 5 == 0:
            setattr(leaves[2], probe.grad_name, 1.5)
        try:
            yield probe.outcome(lambda root=graph[-1]: root, *graph)  # type: ignore[misc]
            draw.choice(graph).backward()
            yield [number(probe.grad(node)) for node in graph]
        except Exception as error:
            yield type(error).__name__


def constructor(probe: Probe, roles: tuple[str, ...], keywords: dict[str, str]) -> Iterator[Any]:
    """Yield nodes from the constructor, by places and by names."""
    seen = Seen(probe)
    x, y = probe.cls(1.5), probe.cls(2)
    setattr(x, probe.grad_name, 0.3)
    values: dict[str, list[Any]] = {
        "data": [0.25, 3, True, -0.0, 10**30],
        "children": [(x,), (x, y), (), (x, y, x), (x, x)],
        "slopes": [(0.5,), (2, 1.25), (), (0.1, 2.0, 0.7), (0.1, 0.7)],
        "pairs": [
            tuple(map(probe.pair, pairs))
            for pairs in (
                ((x, 0.5),), ((x, 2), (y, 1.25)), (), ((x, 0.1), (y, 2.0), (x, 0.7)), ((x, None),)
            )
        ],
    }  # fmt: skip
    others = ["", "tanh", None, 3, "x"]

    def made(arguments: list[Any], named: dict[str, Any]) -> Any:
        try:
            node = probe.cls(*arguments, **named)
        except Exception as error:
            return type(error).__name__
        result = [seen(node)]
        try:
            (node * probe.cls(2.0)).backward()
            result.append([number(probe.grad(n)) for n in seen.keep])
        except Exception as error:
            result.append(type(error).__name__)
        return result

    for case in range(5):
        for count in range(1, len(roles) + 1):
            yield made([values.get(role, others)[case] for role in roles[:count]], {})
        named = {name: values.get(role, others)[case] for name, role in keywords.items()}
        data = [named.pop(name) for name, role in keywords.items() if role == "data"]
        for some in (named, *({name: named[name]} for name in named)):
            yield made(data, some)
