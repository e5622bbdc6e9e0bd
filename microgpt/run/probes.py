"""Programs over nodes, and what can be seen of what they do.

Each probe is run with the script's class and with the compiled one; what it returns has to
be equal: data, gradients, children, local gradients and all other attributes of every node,
the types of numbers and their bits, and exceptions.
"""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

INF, NAN = math.inf, math.nan
NUMBERS: list[Any] = [1.5, -2.5, 0.0, -0.0, 3, -2, 0, 1e-300, 1e200, INF, -INF, NAN]
PAIRS: list[tuple[Any, Any]] = [
    (1.5, -2.5), (3, 0.1), (-0.0, 0.0), (0, -2), (2, 3), (1.5, 0), (0.0, 1.5), (-2, -0.0),
    (0, 0.1), (-2, 0), (1e16, 1.0), (1.0, 1e-300), (1e200, 1e200), (1e-300, 1e-300),
    (INF, 0.0), (0.0, INF), (INF, -INF),
    (NAN, 1.0), (2, NAN), (0.0, -0.0), (3, 1e200), (-1, 7.25), (0, 0), (0.1, 0.7),
]  # fmt: skip
EXPONENTS: list[Any] = [2, 3, 0.5, -1, -0.5, 2.0, 1, 0, -2, 1.5, -1.0]
POWERS = [
    *itertools.product((1.5, 3, 0), EXPONENTS),
    *(
        (a, k)
        for i, k in enumerate(EXPONENTS)
        for a in ((0.1, -2.5, 0.0), (-2, 1e200, 1e-200))[i % 2]
    ),
]


def number(x: Any) -> Any:
    """Return what can be seen of a number: its type and its bits."""
    if type(x) is float:
        return "nan" if x != x else struct.pack("<d", x)
    if isinstance(x, (int, complex, str, bytes, type(None))):
        return type(x).__name__, x
    return repr(x)


class Seen:
    """Describes graphs of one class, nodes numbered in the order in which they are met."""

    def __init__(self, cls: type, names: tuple[str, ...], closure: str | None) -> None:
        self.cls, self.names, self.closure = cls, names, closure
        self.numbers: dict[int, int] = {}
        self.keep: list[Any] = []

    def __call__(self, x: Any) -> Any:
        if isinstance(x, self.cls):
            if id(x) in self.numbers:
                return "node", self.numbers[id(x)]
            self.numbers[id(x)] = len(self.numbers)
            self.keep.append(x)
            return (
                "new",
                type(x) is self.cls,
                *(
                    (name, self(getattr(x, name, "nothing")))
                    for name in self.names
                    if name != self.closure
                ),
            )
        if isinstance(x, (set, frozenset)):
            # A set of nodes has no order: old ones by number, then the new one, or by their data.
            old = sorted(self(n) for n in x if id(n) in self.numbers)
            new = sorted(
                (n for n in x if id(n) not in self.numbers), key=lambda n: repr(number(n.data))
            )
            return type(x).__name__, old, [self(n) for n in new]
        if isinstance(x, (list, tuple)):
            return type(x).__name__, [self(part) for part in x]
        if isinstance(x, dict):
            return "dict", [(key, self(value)) for key, value in x.items()]
        return number(x)


class Probe:
    """What the probes need to know of a class: its names, and a way to see its graphs."""

    def __init__(
        self, cls: type, names: tuple[str, ...], children: str, closure: str | None
    ) -> None:
        self.cls: Any = cls
        self.names, self.children, self.closure = names, children, closure
        self.is_set = False

    def seen(self) -> Seen:
        return Seen(self.cls, self.names, self.closure)

    def outcome(self, program: Callable[[], Any], *operands: Any, backwards: int = 2) -> Any:
        """Return what can be seen after a program and after one and two backwards of its result."""
        seen = self.seen()
        result = []
        try:
            root = program()
            result.append(seen([*operands, root]))
            if type(root) is self.cls:
                for _ in range(backwards):
                    root.backward()
                    result.append([number(node.grad) for node in seen.keep])
        except Exception as error:
            result.append((type(error).__name__, str(error)))
        return result


# ------------------------------------------------------------------ one operation at a time


def binary(probe: Probe, name: str) -> Iterator[Any]:
    """Yield outcomes of a binary operator, called as Python's operators call it."""
    call = OPERATORS[name]
    reflected = name.startswith("__r") and name != "__rshift__"
    for a, b in PAIRS[::2] if reflected else PAIRS:
        x = probe.cls(b if reflected else a)
        if reflected:
            yield probe.outcome(lambda x=x, a=a: call(a, x), x)  # type: ignore[misc]
        else:
            y = probe.cls(b)
            yield probe.outcome(lambda x=x, y=y: call(x, y), x, y)  # type: ignore[misc]
    if not reflected:
        for a, b in PAIRS[1::2]:
            x = probe.cls(a)
            yield probe.outcome(lambda x=x, b=b: call(x, b), x)  # type: ignore[misc]
        for a in (1.5, 3):
            x = probe.cls(a)
            yield probe.outcome(lambda x=x: call(x, x), x)  # type: ignore[misc]
    for other in ("1", None, True, 10**20, [1.0]):
        x = probe.cls(1.5)
        yield probe.outcome(lambda x=x, o=other: call(o, x) if reflected else call(x, o), x)  # type: ignore[misc]


def power(probe: Probe, name: str) -> Iterator[Any]:
    for i, (a, k) in enumerate(POWERS):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x, k=k, f=(1, 0.7)[i % 2]: x**k * f, x)  # type: ignore[misc]
    for a, k in ((1.1, 3), (0.3, 0.5), (2.7, -1.5), (1.9, 5)):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x, k=k: x**k * 0.7, x)  # type: ignore[misc]
    for k in ("2", None, probe.cls(2.0), True):
        x = probe.cls(1.5)
        yield probe.outcome(lambda x=x, k=k: x**k, x)  # type: ignore[misc]


def unary(probe: Probe, name: str) -> Iterator[Any]:
    def call(x: Any) -> Any:
        return -x if name == "__neg__" else getattr(x, name)()

    for a in NUMBERS:
        x = probe.cls(a)
        yield probe.outcome(lambda x=x: call(x), x)  # type: ignore[misc]
    for a in (0.3, -0.7, 2.2, 1.1, -800.0, 800.0, 20.5):
        x = probe.cls(a)
        yield probe.outcome(lambda x=x: call(x) * 0.7, x)  # type: ignore[misc]


def late(probe: Probe, name: str) -> Iterator[Any]:
    """Yield gradients where data is changed between an operation and its backward."""
    call = OPERATORS.get(name)
    for change in (0, 1, 2):
        for a, b in ((1.5, -2.5), (0.7, 3.25), (2, 3)):
            x, y = probe.cls(a), probe.cls(b)
            try:
                if name == "__pow__":
                    root = x**3
                elif call is None:
                    root = getattr(x, name)()
                elif name.startswith("__r"):
                    root = call(b, x)
                elif name == "__neg__":
                    root = -x
                else:
                    root = call(x, y)
                node = (x, y, root)[change]
                node.data = 0.75
                root.backward()
                yield number(x.grad), number(y.grad)
            except Exception as error:
                yield type(error).__name__


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "__add__": lambda a, b: a + b,
    "__radd__": lambda a, b: a + b,
    "__mul__": lambda a, b: a * b,
    "__rmul__": lambda a, b: a * b,
    "__sub__": lambda a, b: a - b,
    "__rsub__": lambda a, b: a - b,
    "__truediv__": lambda a, b: a / b,
    "__rtruediv__": lambda a, b: a / b,
    "__neg__": lambda a, b: -a,
}


# ------------------------------------------------------------------ whole graphs


def graphs(probe: Probe, operators: set[str], methods: list[str]) -> Iterator[Any]:
    """Yield outcomes of random graphs that share leaves: the order of the walk and of all sums."""
    draw = random.Random(20)
    exact = probe.is_set  # whose order is none: take numbers whose sums have no roundings
    choices = ["+", "*", "+", "*"] + ["-"] * ("__sub__" in operators and "__neg__" in operators)
    choices += ["**"] * ("__pow__" in operators) + (methods[:4] if not exact else [])
    choices += ["k+"] * ("__radd__" in operators) + ["k*"] * ("__rmul__" in operators)
    for case in range(16):
        numbers = [draw.choice((1, 2, -1, 3)) if exact else draw.gauss(0, 1) for _ in range(4)]
        if case % 4 == 0:
            numbers[0] = draw.choice((2, 1, 0)) if not exact else numbers[1]
        leaves = [probe.cls(float(x) if exact or type(x) is float else x) for x in numbers]
        nodes = list(leaves)
        for _ in range(draw.randrange(3, 8 if exact else 14)):
            a, b = draw.choice(nodes), draw.choice(nodes[-5:])
            op = draw.choice(choices)
            k = draw.choice((2.0, -1.0, 0.5)) if exact else draw.choice((0.7, 2, -1.25))
            if exact and abs(a.data) + abs(b.data) > 16:
                op = "+"
            if op == "+":
                node = a + b
            elif op == "*":
                node = a * b
            elif op == "-":
                node = a - b
            elif op == "**":
                node = a**2
            elif op == "k+":
                node = k + a
            elif op == "k*":
                node = k * a
            else:
                try:
                    node = getattr(a * 0.5, op)()
                except (ValueError, OverflowError, ZeroDivisionError):
                    node = a + 0.5
            nodes.append(node)
        if case % 3 == 0:
            leaves[1].data = 0.5 if exact else draw.gauss(0, 1)
        if case % 5 == 0:
            leaves[2].grad = 1.5
        root = nodes[-1]
        try:
            yield probe.outcome(lambda root=root: root, *nodes)  # type: ignore[misc]
            draw.choice(nodes).backward()
            yield [number(node.grad) for node in nodes]
        except Exception as error:
            yield type(error).__name__


def constructor(probe: Probe, roles: tuple[str, ...], keywords: dict[str, str]) -> Iterator[Any]:
    """Yield nodes from the constructor, by places and by names."""
    seen = probe.seen()
    x, y = probe.cls(1.5), probe.cls(2)
    x.grad = 0.3
    values: dict[str, list[Any]] = {
        "data": [0.25, 3, True, -0.0, 10**30],
        "children": [(x,), (x, y), (), (x, y, x), (x, x)],
        "slopes": [(0.5,), (2, 1.25), (), (0.1, 2.0, 0.7), (0.1, 0.7)],
    }
    for case in range(5):
        for count in range(1, len(roles) + 1):
            arguments = [
                values.get(role, ["", "tanh", None, 3, "x"])[case] for role in roles[:count]
            ]
            yield _made(probe, seen, arguments, {})
        named = {
            name: values.get(role, ["", "x", None, 2, "y"])[case] for name, role in keywords.items()
        }
        data = [named.pop(name) for name, role in keywords.items() if role == "data"]
        yield _made(probe, seen, data, named)
        for name in named:
            yield _made(probe, seen, data, {name: named[name]})


def _made(probe: Probe, seen: Seen, arguments: list[Any], named: dict[str, Any]) -> Any:
    try:
        node = probe.cls(*arguments, **named)
    except Exception as error:
        return type(error).__name__
    result = [seen(node)]
    try:
        (node * 2.0).backward()
        result.append([number(n.grad) for n in seen.keep])
    except Exception as error:
        result.append(type(error).__name__)
    return result
