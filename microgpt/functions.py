"""The model's functions over lists of any `Value`, as the original writes them.

They are the specification of the compiled functions of the same names, which
make fewer nodes and give the same bits. Sums run left to right from 0.

Where a function takes a list it takes any iterable, and plain numbers among the
`Value`s, as the original's expressions do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from microgpt.oracle import Value, _number

if TYPE_CHECKING:
    # The surface of every engine's Value is the oracle's; nothing summed here is empty.
    def sum(values: Iterable[Value]) -> Value: ...


def _values(items: Iterable[Any]) -> list[Any]:
    """Return items as `Value`s: a number becomes the leaf that an operator makes of it."""
    items = list(items)
    first = next((x for x in items if hasattr(x, "backward")), None)
    if items and first is None:
        kinds = ", ".join(sorted({type(x).__name__ for x in items}))
        raise TypeError(f"at least one Value is needed, not {kinds} alone")
    return [x if hasattr(x, "backward") else (first + x)._children[1] for x in items]


# While a loss is recorded (`microgpt.compile`): the recorder, which makes nodes without numbers.
recorder: ContextVar[Any] = ContextVar("recorder", default=None)


def dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    """Return the sum of the products of a and b.

    Shapes:  a (n,), b (n,); of unequal lengths the shorter counts
    Order:   products summed left to right, from 0
    """
    if (recording := recorder.get()) is not None:
        return recording.dot(a, b)
    return sum(ai * bi for ai, bi in zip(a, b))


def linear(x: Sequence[Value], w: Sequence[Sequence[Value]]) -> list[Value]:
    """Return the matrix-vector product of w and x.

    Shapes:  x (n_in,), w (n_out, n_in), returns (n_out,)
    Order:   products summed over n_in left to right, from 0
    Source:  microgpt `linear`
    """
    x = list(x)
    if (recording := recorder.get()) is not None:
        return recording.linear(x, w)
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


def softmax(logits: Sequence[Value]) -> list[Value]:
    """Return the probabilities proportional to exp(logits).

    Shapes:  logits (n,), returns (n,)
    Order:   the largest logit is subtracted as a plain number; exponentials
             summed left to right from 0; each divided by the total on its own
    Source:  microgpt `softmax`
    """
    if (recording := recorder.get()) is not None:
        return recording.softmax(logits)
    logits = _values(logits)
    largest = max(logit.data for logit in logits)
    exps = [(logit - largest).exp() for logit in logits]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x: Sequence[Value]) -> list[Value]:
    """Return x divided by the root of its mean square.

    Shapes:  x (n,), returns (n,)
    Order:   squares summed left to right from 0
    Source:  arXiv:1910.07467; microgpt `rmsnorm`
    """
    x = list(x)
    mean_square = dot(x, x) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(
    q: Sequence[Value],
    keys: Sequence[Sequence[Value]],
    values: Sequence[Sequence[Value]],
    n_head: int,
) -> list[Value]:
    """Return the multi-head attention of one position's query over the positions so far.

    Shapes:  q (n_embd,), keys and values (positions, n_embd), returns (n_embd,)
    Order:   per head: scores over positions, softmax, then per output the
             weighted values summed over positions left to right, from 0
    Raises:  ValueError if n_embd is not a multiple of n_head
    Source:  arXiv:1706.03762; microgpt `gpt`
    """
    return attend(q, keys, values, n_head, softmax)


def attend(
    q: Sequence[Value],
    keys: Sequence[Sequence[Value]],
    values: Sequence[Sequence[Value]],
    n_head: int,
    softmax: Callable[[Sequence[Value]], list[Value]],
) -> list[Value]:
    """Return `attention`, computed with the given softmax."""
    q, keys, values = list(q), [list(k) for k in keys], [list(v) for v in values]
    if n_head < 1 or len(q) % n_head:
        raise ValueError(f"a query of {len(q)} does not divide into {n_head} heads")
    head_dim = len(q) // n_head
    attended: list[Value] = []
    for start in range(0, len(q), head_dim):
        head = slice(start, start + head_dim)
        q_head = q[head]
        scores = [dot(q_head, k[head]) / head_dim**0.5 for k in keys]
        weights = softmax(scores)
        attended += [dot(weights, [v[j] for v in values]) for j in range(start, start + head_dim)]
    return attended


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """Return minus the logarithm of the target's probability.

    Shapes:  logits (n,); target in 0..n-1
    Units:   nats
    Source:  microgpt's training loop
    """
    return -softmax(logits)[target].log()


def maximum(a: Value, b: Value) -> Value:
    """Return the larger of two values as a node of both, a where they are equal.

    Unlike Python's `max` of their data it is part of the graph: a replay of a Tape
    compares again. If either is NaN it is b.
    """
    if (recording := recorder.get()) is not None:
        return recording.maximum(a, b)
    a, b = _values((a, b))
    first = a.data >= b.data
    grads = (1.0, 0.0) if first else (0.0, 1.0)
    return a._result("max", a.data if first else b.data, (a, b), grads)


def where(condition: Value, a: Value, b: Value) -> Value:
    """Return a if the condition's data is positive, else b, as a node of all three.

    Unlike Python's `if` it is part of the graph: a replay of a Tape decides again.
    """
    if (recording := recorder.get()) is not None:
        return recording.where(condition, a, b)
    condition, a, b = _values((condition, a, b))
    true = condition.data > 0
    grads = (0.0, 1.0, 0.0) if true else (0.0, 0.0, 1.0)
    return a._result("where", a.data if true else b.data, (condition, a, b), grads)


class Operation:
    """A function over Values made of its rule on plain numbers, which a Tape can replay.

    `sin = Operation(math.sin, math.cos)` makes `sin(x)` a node of one child.

    Shapes:  forward(*numbers) returns a number; derivative(*numbers) returns the
             number, or for several arguments as many numbers as arguments
    Raises:  what forward and derivative raise; TypeError for no argument;
             ValueError if the derivative gives another number of numbers
    """

    def __init__(
        self,
        forward: Callable[..., float],
        derivative: Callable[..., float | Iterable[float]],
    ) -> None:
        self.forward = forward
        self.derivative = derivative

    def __call__(self, *values: Value) -> Value:
        if not values:
            raise TypeError("an operation takes at least one value")
        values = tuple(_values(values))
        numbers = [value.data for value in values]
        data = self.forward(*numbers)
        grads = tuple(map(_number, self.local_grads(numbers)))
        return values[0]._result("", data, values, grads)

    def local_grads(self, numbers: Sequence[float]) -> tuple[float, ...]:
        """Return the derivative by each argument."""
        derivative = self.derivative(*numbers)
        local_grads: tuple[float, ...]
        if isinstance(derivative, Iterable) and getattr(derivative, "ndim", None) != 0:
            local_grads = tuple(derivative)
        else:  # an array of no dimension says that it is iterable
            local_grads = (derivative,)  # type: ignore[assignment] # a number
        if len(local_grads) != len(numbers):
            raise ValueError(
                f"the derivative gave {len(local_grads)} numbers for {len(numbers)} arguments"
            )
        return local_grads
