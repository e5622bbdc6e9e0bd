"""Gradients of functions of plain numbers, recorded once and replayed after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from microgpt import engine


def value_and_grad(f: Callable[..., engine.Value]) -> ValueAndGrad:
    """Return a function of numbers that gives f's value and its derivative by each of them.

    f takes as many `Value`s as the function takes numbers, and returns one. It is
    called once for each number of arguments: after that its graph is replayed. So
    what f decides by looking at `.data` stays decided: let it use `maximum` and
    `where`, which a replay decides again, or call `record()` on the result.

    >>> slope = value_and_grad(lambda x, y: x * y + y**2)
    >>> slope(3.0, 2.0)
    (10.0, (2.0, 7.0))

    Order:   f's own graph; other `Value`s that f uses get their gradients added
    Raises:  TypeError if f gives no `Value`; ValueError if its graph has a node that
             cannot be computed again; what the operations raise
    """
    return ValueAndGrad(f)


class ValueAndGrad:
    """What `value_and_grad` returns: call it with numbers."""

    def __init__(self, f: Callable[..., engine.Value]) -> None:
        self.__wrapped__ = f
        self._tapes: dict[int, tuple[list[engine.Value], Any]] = {}

    def __call__(self, *numbers: float) -> tuple[float, tuple[float, ...]]:
        if len(numbers) in self._tapes:
            inputs, tape = self._tapes[len(numbers)]
            value = tape.forward(numbers)
        else:
            inputs, tape, value = self._record(numbers)
        for x in inputs:
            x.grad = 0.0
        tape.backward()
        return value, tuple([x.grad for x in inputs])

    def record(self) -> None:
        """Forget the recorded graphs, so that the next call runs f again."""
        self._tapes.clear()

    def _record(self, numbers: tuple[float, ...]) -> tuple[list[engine.Value], Any, float]:
        inputs = [engine.Value(number) for number in numbers]
        out = self.__wrapped__(*inputs)
        if not isinstance(out, engine.Value):
            raise TypeError(f"the function must return a Value, not {type(out).__name__}")
        if not hasattr(engine.Tape, "forward"):  # the oracle runs f every time
            return inputs, engine.Tape(out), out.data
        tape = engine.Tape(out, inputs)
        self._tapes[len(numbers)] = inputs, tape
        return inputs, tape, out.data
