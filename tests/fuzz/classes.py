"""Random programs over a class of random settings, its subclass and `Value` itself."""

from __future__ import annotations

import math
from random import Random
from types import SimpleNamespace
from typing import Any

CHOICES: dict[str, list[Any]] = {
    "results": ["own", "fixed"],
    "relu": ["positive", "not negative"],
}
DATA = [0, 1, -1, 2, 3.5, -0.0, 2**53, -(2**53), 7, 0.1, math.inf]
NUMBERS = [0, 1, -1, 2, 3, 0.5, -0.0, 0.0, -2.5, 2**53, True, 2**60, 10**400, 1e308]
EXPONENTS = [2, 3, 0, 1, -1, 0.5, 2.0, -2, 53, 54, 60]


def show(engine: SimpleNamespace, seed: int) -> list[Any]:
    """Return all that program number `seed` shows on an engine: types, bits, errors."""
    rng = Random(f"classes {seed}")
    settings = {name: rng.choice(c) for name, c in CHOICES.items() if rng.random() < 0.6}
    kind = _class("V", engine.Value, rng, settings)
    below = _class("W", kind, rng, {})
    nodes = [kind(rng.choice(DATA))]
    shown: list[Any] = []

    def pick() -> Any:
        return nodes[-1 - rng.randrange(min(len(nodes), 8))]

    def some(n: int) -> list[Any]:
        return [pick() for _ in range(rng.randint(1, n))]

    steps = [
        lambda a, b, k: a + b,
        lambda a, b, k: a * b,
        lambda a, b, k: a - b,
        lambda a, b, k: a / b,
        lambda a, b, k: a + k,
        lambda a, b, k: k + a,
        lambda a, b, k: a * k,
        lambda a, b, k: k * a,
        lambda a, b, k: a - k,
        lambda a, b, k: k - a,
        lambda a, b, k: a ** rng.choice(EXPONENTS),
        lambda a, b, k: -a,
        lambda a, b, k: a.relu(),
        lambda a, b, k: a.exp() if abs(a.data) < 50 else a.tanh(),
        lambda a, b, k: a.log(),
        lambda a, b, k: a.sigmoid(),
        lambda a, b, k: sum(some(20)),
        lambda a, b, k: sum([x * y for x, y in zip(some(20), some(20))]),
        lambda a, b, k: sum([x * y for x, y in zip(some(3), some(3))], k),
        lambda a, b, k: kind(k),
        lambda a, b, k: below(k),
        lambda a, b, k: engine.Value(k),
        lambda a, b, k: kind(k, (a, b), (rng.choice([1, 2.5, 0, -3]), k)),
        lambda a, b, k: engine.functions.maximum(a, b),
        lambda a, b, k: setattr(a, "data", k),
        lambda a, b, k: setattr(a, "grad", k),
        lambda a, b, k: a.backward(),
    ]
    for _ in range(rng.randint(3, 40)):
        step, a, b, k = rng.choice(steps), pick(), pick(), rng.choice(NUMBERS)
        try:
            made = step(a, b, k)
        except (ArithmeticError, TypeError, ValueError) as error:
            shown.append((type(error).__name__, str(error)))
            continue
        if isinstance(made, engine.Value):
            nodes.append(made)
            shown.append((type(made).__name__, _number(made.data)))
    for node in dict.fromkeys(nodes):
        shown.append((type(node).__name__, _number(node.data), _number(node.grad)))
        try:
            shown.append([_number(x) for x in node._local_grads])
        except ArithmeticError as error:
            shown.append((type(error).__name__, str(error)))
        shown.append([(_number(c.data), _number(c.grad)) for c in node._children])
    return shown


def _class(name: str, base: Any, rng: Random, settings: dict[str, Any]) -> Any:
    members = {"__slots__": ()} if rng.random() < 0.5 else {}
    return type(name, (base,), members, **settings)


def _number(x: Any) -> tuple[str, str]:
    return type(x).__name__, float(x).hex()
