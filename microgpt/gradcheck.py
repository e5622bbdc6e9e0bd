"""Check gradients: each is compared with how the loss changes when its weight does.

Finite differences move a weight by h to both sides: their error is about h * h plus the loss's
rounding over h, so some six digits agree. A complex step computes the loss once with the
weight at w + ih, h = 1e-30: its imaginary part over h is the derivative, to the last digits,
because no subtraction loses any. It needs a loss of the package's own operations and
functions: an Operation's rules are for real numbers.
"""

from __future__ import annotations

import cmath
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from microgpt import engine, functions
from microgpt.model import Model
from microgpt.recording import _leaves

STEP = 1e-6
COMPLEX_STEP = 1e-30
TOLERANCES = 1e-6, 1e-12  # of differences and of complex steps


class GradientError(AssertionError):
    """A gradient that is not the loss's derivative."""


class Check(NamedTuple):
    """A weight's gradient beside its derivative found another way."""

    weight: int
    gradient: float
    found: float

    @property
    def error(self) -> float:
        """The difference, relative to the larger of both and 1."""
        return abs(self.gradient - self.found) / max(abs(self.gradient), abs(self.found), 1.0)


def gradcheck(
    loss: Callable[..., Any],
    weights: Any,
    *inputs: Any,
    indices: Iterable[int] | None = None,
    complex_step: bool = False,
    tolerance: float | None = None,
) -> list[Check]:
    """Compare the gradients of loss(weights, *inputs) with derivatives found another way.

    indices are the weights to check, in order through the lists and dictionaries of Values
    that weights are; None is all.

    >>> from microgpt import Value
    >>> gradcheck(lambda w: w[0] * w[1] + w[0].tanh(), [Value(0.5), Value(3.0)])[1].gradient
    0.5

    Writes:  nothing that stays: data and grad of the weights are as before
    Raises:  GradientError if one differs by more than the tolerance: 1e-6, or 1e-12 with a
             complex step; TypeError if weights hold anything but leaf Values
    """
    values = list(_leaves(weights))
    if tolerance is None:
        tolerance = TOLERANCES[complex_step]
    before = [value.grad for value in values]
    try:
        for value in values:
            value.grad = 0.0
        loss(weights, *inputs).backward()
        gradients = [float(value.grad) for value in values]
    finally:
        for value, grad in zip(values, before):
            value.grad = grad
    checks = []
    for i in range(len(values)) if indices is None else indices:
        derive = _complex if complex_step else _difference
        check = Check(i, gradients[i], derive(loss, weights, inputs, values[i]))
        checks.append(check)
        if not check.error <= tolerance:
            raise GradientError(
                f"weight {i}: its gradient is {check.gradient!r}, the derivative found is "
                f"{check.found!r}"
            )
    return checks


def check_model(
    model: Model, tokens: Sequence[int], count: int, rng: random.Random
) -> Iterator[tuple[str, tuple[list[Check], list[Check]]]]:
    """Yield for each matrix of a model the checks of count weights, drawn by rng.

    One of them has the gradient 0, if there are such. They are by differences of the
    model's losses, and by complex steps through the plain model.

    Adds to: the gradients of the model's weights
    Raises:  as the model's `loss`
    """
    before = list(model.gradients())
    model.loss(tokens).backward()
    gradients = [now - then for now, then in zip(model.gradients(), before)]
    weights = array("d", model.weights())
    plain = engine.load("python").models[model.name](**vars(model.config))
    plain.set_weights(weights)
    first = 0
    for name, (rows, columns) in model.config.shapes().items():
        size = rows * columns
        checks: tuple[list[Check], list[Check]] = [], []
        places = rng.sample(range(first, first + size), size)
        zeros = [i for i in places if not gradients[i]][:1]
        for i in sorted((zeros + [i for i in places if gradients[i]])[:count]):
            losses = []
            for step in (STEP, -STEP):
                moved = weights[:]
                moved[i] += step
                model.set_weights(moved)
                losses.append((moved[i], model.loss(tokens).data))
            model.set_weights(weights)
            (right, above), (left, below) = losses
            checks[0].append(Check(i, gradients[i], (above - below) / (right - left)))
            exact = _complex(plain._document_loss, plain.state_dict, (tokens,), plain.params[i])
            checks[1].append(Check(i, gradients[i], exact))
        yield name, checks
        first += size


def _difference(loss: Any, weights: Any, inputs: Sequence[Any], value: Any) -> float:
    there = value.data
    try:
        value.data = there + STEP
        above = loss(weights, *inputs).data
        value.data = there - STEP
        below = loss(weights, *inputs).data
    finally:
        value.data = there
    distance: float = (there + STEP) - (there - STEP)
    return float(above - below) / distance


def _complex(loss: Any, weights: Any, inputs: Sequence[Any], value: Any) -> float:
    token = functions.recorder.set(_Functions)
    try:
        moved = loss(_mirror(weights, value), *inputs)
    finally:
        functions.recorder.reset(token)
    return float(moved.number.imag / COMPLEX_STEP)


def _mirror(weights: Any, moved: Any) -> Any:
    """Return the weights' lists and dictionaries with complex numbers in them."""
    if isinstance(weights, dict):
        return {key: _mirror(x, moved) for key, x in weights.items()}
    if isinstance(weights, (list, tuple)):
        return type(weights)([_mirror(x, moved) for x in weights])
    return Complex(complex(weights.data, COMPLEX_STEP if weights is moved else 0.0))


class Complex:
    """A complex number with a `Value`'s operations."""

    __slots__ = ("number",)

    def __init__(self, number: complex) -> None:
        self.number = number

    @property
    def data(self) -> float:
        """The real part, which comparisons see."""
        return self.number.real

    def __add__(self, other: Any) -> Complex:
        return Complex(self.number + _number(other))

    def __mul__(self, other: Any) -> Complex:
        return Complex(self.number * _number(other))

    def __pow__(self, k: float) -> Complex:
        return Complex(self.number**k)

    def __neg__(self) -> Complex:
        return Complex(-self.number)

    def __sub__(self, other: Any) -> Complex:
        return Complex(self.number - _number(other))

    def __rsub__(self, other: Any) -> Complex:
        return Complex(other - self.number)

    def __truediv__(self, other: Any) -> Complex:
        return Complex(self.number / _number(other))

    def __rtruediv__(self, other: Any) -> Complex:
        return Complex(other / self.number)

    __radd__, __rmul__ = __add__, __mul__

    def log(self) -> Complex:
        return Complex(cmath.log(self.number))

    def exp(self) -> Complex:
        return Complex(cmath.exp(self.number))

    def tanh(self) -> Complex:
        return Complex(cmath.tanh(self.number))

    def sigmoid(self) -> Complex:
        return 1.0 / (1.0 + (-self).exp())

    def relu(self) -> Complex:
        return self if self.number.real > 0 else Complex(0.0)


def _number(x: Any) -> Any:
    return x.number if isinstance(x, Complex) else x


class _Functions:
    """Functions of lists over `Complex`, in place of `microgpt.functions`."""

    @staticmethod
    def dot(a: Sequence[Any], b: Sequence[Any]) -> Any:
        return sum(x * y for x, y in zip(a, b))

    @staticmethod
    def linear(x: Sequence[Any], w: Sequence[Sequence[Any]]) -> list[Any]:
        x = list(x)
        return [_Functions.dot(row, x) for row in w]

    @staticmethod
    def softmax(logits: Sequence[Any]) -> list[Any]:
        logits = list(logits)
        largest = max(_number(logit).real for logit in logits)
        exps = [(logit - largest).exp() for logit in logits]
        total = sum(exps)
        return [e / total for e in exps]

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return a if _number(a).real >= _number(b).real else b

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        return a if _number(condition).real > 0 else b
