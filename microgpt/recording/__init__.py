"""A loss recorded once for each shape of its inputs, and computed without Python after that.

`compile(loss, weights)` calls `loss(weights, *inputs)` with stand-ins: a `Recorded` for each
weight, an `Index` for each integer. Operations on them are recorded as steps over numbered
slots, which `Recording` of src/recording computes. An integer chooses rows of the weights and
targets, so one recording serves all documents of a length.

The gradients are added in the order of the oracle's walk. That order depends on the targets alone:
the probability that a target chooses is visited first, so its logit comes before the others.
`walk` therefore cuts what lies below a softmax into one group for each target, and `Recording`
plays the groups in the order of the targets that it was given.

A recording cannot see what Python does with numbers. So a stand-in has no number: reading `data`,
comparing, or choosing from a plain list by an `Index` is an error that says so.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from microgpt import functions
from microgpt.recording.recorder import Recorded, Recorder, RecordingError

__all__ = ["Compiled", "RecordingError", "compile"]

MAX_RECORDINGS = 256  # the oldest is dropped after that


class Compiled:
    """The result of `compile`: a loss and its gradients, computed without Python code."""

    has_ints = False  # whether a weight's number is an int

    def __init__(self, loss: Callable[..., Any], weights: Any) -> None:
        self.__wrapped__ = loss
        self.weights = weights
        self.values: list[Any] = list(_leaves(weights))
        self.numbers: Any = None
        self._recordings: dict[Any, Any] = {}
        self._lock = threading.RLock()  # for the numbers, which calls in several threads share

    def __call__(self, *inputs: Any) -> float:
        """Return the loss, and add its derivative by each weight into that weight's grad.

        Raises:  as `compile`, and what the loss itself raises
        """
        return self._call([inputs], single=True)

    def mean(self, rows: Sequence[Sequence[Any]]) -> float:
        """Do as a call for the mean of several losses, one for each row of inputs.

        Order:   (1 / n) * sum of the losses, rows first to last from 0, as one graph
        Raises:  as a call; ValueError if there is no row
        """
        if not rows:
            raise ValueError("a mean needs at least one row of inputs")
        return self._call(rows, single=False)

    def forward(self, *inputs: Any) -> float:
        """Return the loss alone.

        Raises:  as a call
        """
        if not self.is_compiled:
            return self._graph([inputs], single=True).data
        with self._lock:
            self.load()
            loss = None
            if not self.has_ints:
                recording, *numbers = self._recording(inputs, backward=False)
                if not recording.depends:
                    loss = recording.replay(self.numbers, *numbers)
        if loss is None:
            loss = self._graph([inputs], single=True).data
        return loss

    def record(self) -> None:
        """Forget the recordings: the next call of each shape runs the loss again."""
        self._recordings.clear()

    @property
    def is_compiled(self) -> bool:
        """Whether the weights are the compiled engine's `Value`s; others' operations may differ.

        Without it the loss runs each time.
        """
        kinds = set(map(type, self.values))
        return len(kinds) == 1 and kinds.pop().__module__ == "microgpt._value"

    def load(self) -> None:
        """Read the weights' numbers and gradients."""
        from microgpt import _record, _value

        if self.numbers is None or not _value.are_values(self.weights, self.values):
            self.values = list(_leaves(self.weights))  # the lists have other Values now
            self.record()
            self.distinct = list({id(value): value for value in self.values}.values())
            self.numbers = _record.Numbers(len(self.distinct))
        numbers = self.numbers
        self.has_ints = _value.read_values(
            self.distinct, numbers.data, numbers.grads, numbers.int_grads
        )

    def store(self, *, data: bool = False) -> None:
        """Write the gradients, and the numbers if asked, to the weights.

        With an int among them nothing was computed, and nothing is written.
        """
        from microgpt import _value

        if self.has_ints:
            return
        numbers = self.numbers
        _value.write_values(
            self.distinct, numbers.grads, numbers.int_grads, numbers.data if data else None
        )

    def add_gradients(self, rows: Sequence[Sequence[Any]], single: bool) -> float | None:
        """Return the loss and add its gradients to those loaded; None if that needs a graph.

        A graph is needed if a step raises, or if the loss or a gradient may be an int.
        """
        if self.has_ints:
            return None
        n = len(rows)
        recordings = [self._recording(inputs) for inputs in rows]
        if max(recording.depends for recording, *_ in recordings) > (not single):
            return None
        before = None if single else (self.numbers.grads[:], self.numbers.int_grads[:])
        losses = [0.0] * n
        # The walk goes through the last row's graph first.
        for i in range(n - 1, -1, -1):
            recording, integers, floats = recordings[i]
            loss = recording.replay(self.numbers, integers, floats, 1 if single else 1 / n)
            if loss is None:
                if before is not None:
                    self.numbers.grads[: len(before[0])], self.numbers.int_grads[:] = before
                return None
            losses[i] = loss
        if single:
            return losses[0]
        total = 0.0
        for loss in losses:
            total += loss
        return total * (1 / n)

    def _call(self, rows: Sequence[Sequence[Any]], single: bool) -> float:
        if self.is_compiled:
            with self._lock:
                self.load()
                loss = self.add_gradients(rows, single)
                if loss is not None:
                    self.store()
                    return loss
        out = self._graph(rows, single)  # raises again if a step has raised
        out.backward()
        return out.data

    def _graph(self, rows: Sequence[Sequence[Any]], single: bool) -> Any:
        losses = [self.__wrapped__(self.weights, *inputs) for inputs in rows]
        for loss in losses:
            if not hasattr(loss, "_children"):
                raise TypeError(f"the loss must return a Value, not {type(loss).__name__}")
        return losses[0] if single else (1 / len(losses)) * sum(losses)

    def _recording(
        self, inputs: Sequence[Any], backward: bool = True
    ) -> tuple[Any, list[int], list[float]]:
        """Return the recording for the shape of the inputs, and their integers and floats."""
        integers: list[int] = []
        floats: list[float] = []
        shape = tuple([_shape(x, integers, floats) for x in inputs])
        recording = self._recordings.get(shape)
        if recording is None or (backward and not recording.has_backward):
            recording = self._record(inputs, backward)
            self._recordings.pop(shape, None)
            if len(self._recordings) >= MAX_RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[shape] = recording
        return recording, integers, floats

    def _record(self, inputs: Sequence[Any], backward: bool) -> Any:
        recorder = Recorder(self.distinct)
        weights = recorder.mirror(self.weights)
        stand_ins = [recorder.input(x) for x in inputs]
        before = random.getstate()
        token = functions.recorder.set(recorder)
        try:
            out = self.__wrapped__(weights, *stand_ins)
        finally:
            functions.recorder.reset(token)
        if random.getstate() != before:
            raise RecordingError(
                "the loss draws random numbers, which would stay the same: draw them outside and "
                "pass them as floats"
            )
        if not isinstance(out, Recorded):
            raise RecordingError(f"the loss must return a Value, not {type(out).__name__}")
        if recorder.nodes[out.slot][0] == "":
            raise RecordingError("the loss is a weight or an input itself: nothing is computed")
        from microgpt.recording.steps import Assembler  # which is compiled

        return Assembler(recorder).recording(out.slot, backward)


def compile(loss: Callable[..., Any], weights: Any) -> Compiled:
    """Return loss(weights, *inputs) as a function of the inputs that runs without Python.

    Calling it is `out = loss(weights, *inputs); out.backward()`, to the last bit, and returns
    `out.data`. The loss itself is called once for each shape of the inputs: integers, floats,
    and lists of them; anything else, such as a string, belongs to the shape. An integer chooses
    a row of the weights or a target. Numbers that the loss takes from elsewhere stay as they
    were when it was recorded.

    >>> from microgpt import Value
    >>> weights = [[Value(1.0), Value(2.0)]]
    >>> step = compile(lambda w, x, y: (w[0][0] * x + w[0][1] - y) ** 2, weights)
    >>> step(3.0, 4.0), weights[0][0].grad
    (1.0, 6.0)

    Raises:  TypeError if weights hold anything but leaf Values, or an input is a `Value`;
             RecordingError, a TypeError, for a loss that cannot be recorded, saying why;
             IndexError for an integer out of range
    """
    return Compiled(loss, weights)


def _leaves(weights: Any) -> Iterator[Any]:
    """Yield the Values in lists, tuples and dictionaries, in order."""
    if isinstance(weights, (list, tuple)):
        for x in weights:
            yield from _leaves(x)
    elif isinstance(weights, dict):
        for x in weights.values():
            yield from _leaves(x)
    elif hasattr(weights, "_children"):
        if len(weights._children):
            raise TypeError(f"a weight must be a leaf: {weights!r} has been computed")
        yield weights
    else:
        raise TypeError(
            f"weights must be Values in lists and dictionaries, not {type(weights).__name__}"
        )


def _shape(x: Any, integers: list[int], numbers: list[float]) -> Any:
    """Return the shape of an input; append its integers and floats."""
    kind = type(x)
    if kind is int:
        integers.append(x)
        return int
    if kind is float:
        numbers.append(x)
        return float
    if kind is list or kind is tuple:
        if set(map(type, x)) == {int}:
            integers.extend(x)
            return (kind, int, len(x))
        return (kind, *[_shape(item, integers, numbers) for item in x])
    if hasattr(x, "_children"):
        raise TypeError("an input must be a number, not a Value: pass it with the weights")
    if x is not None and kind is not str and kind is not bool:
        raise TypeError(
            f"an input must be integers, floats, strings or lists of them, not {kind.__name__}"
        )
    return (kind, x)
