"""Stand-ins for values, floats and integers, and the nodes that operations on them record."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from microgpt.oracle import Value
from microgpt.oracle import _number as number_of

MAX_EXACT_INT = 2**53

_KEEPS_INTS = {"+", "*", "**", "max", "where", "dot", "sum"}


class RecordingError(TypeError):
    """A loss that cannot be recorded, and why."""


class Recorded(Value):
    """The stand-in for a `Value` while a loss is recorded: its operations record nodes.

    It has no number: the oracle's methods compute with 1.0, and nothing reads the result.
    """

    __slots__ = ("recorder", "slot")
    _data = 1.0  # in place of the slot

    def __init__(self, recorder: Recorder, slot: int) -> None:
        self.recorder = recorder
        self.slot = slot

    def _operand(self, x: Any) -> Recorded:
        return Recorded(self.recorder, self.recorder.slot(x))

    def _result(self, operation: str, data: Any, children: Any, slopes: Any) -> Recorded:
        return self.recorder.node(operation, *[child.slot for child in children])

    def __pow__(self, k: Any) -> Recorded:
        if isinstance(k, Value):
            raise RecordingError("an exponent must be a number")
        number = _number(k)
        if abs(number) >= MAX_EXACT_INT:
            raise RecordingError(f"an exponent of {k} cannot be recorded")
        return self.recorder.node("**", self.slot, number)

    def _refuse(self, *_: object) -> NoReturn:
        raise RecordingError(
            "a value has no number while its loss is recorded: what Python reads or compares would "
            "stay as it is now. Use maximum, where, softmax or cross_entropy of microgpt, or pass "
            "the number to the compiled loss as a float"
        )

    data = grad = _children = _local_grads = property(_refuse)
    __float__ = __int__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __eq__ = __ne__ = __hash__ = backward = _refuse
    __repr__ = object.__repr__


class Number:
    """The stand-in for a float input: an operand of values, as a number is."""

    __slots__ = ("recorder", "slot")

    def __init__(self, recorder: Recorder, slot: int) -> None:
        self.recorder = recorder
        self.slot = slot

    def __neg__(self) -> Number:
        return Number(self.recorder, self.recorder.node("*", self.slot, self._slot(-1.0)).slot)

    def __pow__(self, k: Any) -> Number:
        if k != -1:  # of a value divided by it
            self._refuse()
        return Number(self.recorder, self.recorder.node("**", self.slot, -1.0).slot)

    def _slot(self, x: float) -> int:
        return self.recorder.slot(x)

    def _operate(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Recorded) else self._refuse()

    def _refuse(self, *_: object) -> NoReturn:
        raise RecordingError(
            "a float that is passed to a compiled loss can only meet values: what Python computes "
            "or compares from it alone would stay as it is now. Compute it outside and pass it too"
        )

    __add__ = __sub__ = __mul__ = __truediv__ = _operate
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rpow__ = __abs__ = _refuse
    __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = __round__ = _refuse
    __float__ = __int__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __eq__ = __ne__ = _refuse
    __hash__ = _refuse


class Index:
    """The stand-in for an integer: it chooses a row of the weights, or a target."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def _refuse(self, *_: object) -> NoReturn:
        raise RecordingError(
            "an integer that is passed to a compiled loss can only choose a row of the weights "
            "(weights['wte'][token]) or a target (cross_entropy(logits, target), "
            "softmax(logits)[target]); pass one that must be known as a string or a bool, or "
            "close over it"
        )

    __index__ = __int__ = __float__ = __bool__ = __len__ = __iter__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __mod__ = _refuse
    __floordiv__ = __truediv__ = __pow__ = __format__ = __str__ = __repr__ = _refuse
    __hash__ = _refuse


class Rows(list):  # type: ignore[type-arg] # lists in lists
    """A list of the weights, which an `Index` can choose a row from. It stays as it is."""

    slots: tuple[int, ...] | None = None  # of its items, once they are operands

    def __getitem__(self, i: Any) -> Any:
        if not isinstance(i, Index):
            return super().__getitem__(i)
        rows = [[x.slot for x in row] if isinstance(row, list) else [] for row in self]
        first, width = (rows[0][0], len(rows[0])) if rows and rows[0] else (0, 0)
        expected = list(range(first, first + width * len(rows)))
        if not width or [slot for row in rows for slot in row] != expected:
            raise RecordingError("an integer can only choose a row of a matrix of the weights")
        return self[0][0].recorder.gather(i.number, first, len(rows), width)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RecordingError("the loss changes a list of the weights: let it change a copy")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = clear = sort = reverse = pop = _refuse


class Probabilities(Sequence[Recorded]):
    """The result of a softmax: by number as any list, or once by an `Index`."""

    def __init__(self, recorder: Recorder, logits: Sequence[Any]) -> None:
        self.recorder = recorder
        self.nodes: dict[int, Recorded] = {}
        self.selected = False
        shift = recorder.largest([recorder.slot(logit) for logit in logits])
        shifted = [recorder.node("+", recorder.slot(logit), shift).slot for logit in logits]
        self.exps = [recorder.node("exp", x).slot for x in shifted]
        self.total = recorder.node("sum", self.exps)

    def __len__(self) -> int:
        return len(self.exps)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        if isinstance(i, Index):
            if self.selected or self.nodes:
                self._refuse()
            self.selected = True
            self.recorder.limit(i.number, len(self.exps))
            inverse = self.total**-1
            return self.recorder.node("select", i.number, self.exps, self.total.slot, inverse.slot)
        if self.selected:
            self._refuse()
        i = range(len(self))[i]
        if i not in self.nodes:
            inverse = self.total**-1
            self.nodes[i] = self.recorder.node("*", self.exps[i], inverse.slot)
        return self.nodes[i]

    def _refuse(self) -> NoReturn:
        raise RecordingError(
            "a softmax that a target chooses from has no other use while a loss is recorded: take "
            "the softmax again for the other one"
        )


def _number(x: Any) -> float:
    return x if type(x) is float else math.copysign(x, x)


class Recorder:
    """The nodes of a loss: for each slot what it is computed by, and from which slots."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.weights = {id(value): i for i, value in enumerate(values)}
        self.n_weights = len(values)
        self.nodes: list[tuple[Any, ...]] = [("",)] * self.n_weights
        self.order: list[tuple[Any, ...]] = []  # forward, as computed
        self.constants: dict[tuple[bool, bytes], int] = {}
        # The slots that may hold an int: constants, and nodes of such slots alone.
        self.ints: set[int] = set()
        # Of these, those that are zero as an int alone: relus, and products of them and constants.
        self.zeros: set[int] = set()
        self.unsigned: set[int] = set()  # the products
        self.is_uncertain = False  # whether some zero's sign depends on what is an int
        self.choices: list[int] = []  # of each integer input: how many it can choose from
        self.numbers: list[int] = []  # slots of the float inputs
        self.gathered: dict[int, int] = {}  # slot: the first slot of its row

    def node(self, op: str, *args: Any) -> Recorded:
        self.nodes.append((op, *args))
        slot = len(self.nodes) - 1
        self.order.append((op, slot, *args))
        if op == "relu" or (self.ints and op in _KEEPS_INTS and self._of_ints(op, args)):
            self.ints.add(slot)
            if op == "relu":
                self.zeros.add(slot)
            elif op == "*":
                self._product_of_ints(slot, *args)
        return Recorded(self, slot)

    def _product_of_ints(self, slot: int, a: int, b: int) -> None:
        """Record whether a product that is zero has a sign: an int has none."""
        if a in self.zeros and b in self.zeros:
            return  # an int only of two zeros, whose double is positive
        numbers = {i: array("d", x)[0] for (_, x), i in self.constants.items()}
        factor = numbers.get(a) if b in self.zeros else numbers.get(b)
        if factor is None or not (a in self.zeros or b in self.zeros):
            self.is_uncertain = True
        elif factor:
            self.zeros.add(slot)
            self.unsigned.add(slot)

    def _of_ints(self, op: str, args: tuple[Any, ...]) -> bool:
        """Return whether a node may be an int: as the oracle's rule for its operation says."""
        ints = self.ints
        if op == "**":
            return args[0] in ints
        if op == "dot":
            return all(a in ints and b in ints for a, b in zip(*args))
        if op == "sum":
            return all(x in ints for x in args[0])
        if op in ("max", "where"):
            return any(x in ints for x in args[-2:])
        return args[0] in ints and args[1] in ints

    def leaf(self) -> int:
        self.nodes.append(("",))
        return len(self.nodes) - 1

    def slot(self, x: Any) -> int:
        """Return the slot of an operand: a stand-in, or a number."""
        if isinstance(x, (Recorded, Number)):
            if x.recorder is not self:
                raise RecordingError("a value of another recording, or of an earlier one, is used")
            return x.slot
        if hasattr(x, "_children"):
            if id(x) in self.weights:
                return self.weights[id(x)]
            raise RecordingError(
                "a Value that is not among the weights is used: its number would stay as it is "
                "now. Pass it with the weights"
            )
        if isinstance(x, (Index, Sequence)):
            raise RecordingError(f"an operand must be a value or a number, not {type(x).__name__}")
        number = number_of(x)
        key = type(number) is int, array("d", [number]).tobytes()
        if key not in self.constants:
            slot = self.constants[key] = self.leaf()
            if key[0]:
                self.ints.add(slot)
        return self.constants[key]

    def mirror(self, weights: Any) -> Any:
        """Return the weights' lists and dictionaries with stand-ins in them."""
        if isinstance(weights, dict):
            return {key: self.mirror(x) for key, x in weights.items()}
        if isinstance(weights, tuple):
            return tuple([self.mirror(x) for x in weights])
        if isinstance(weights, list):
            return Rows([self.mirror(x) for x in weights])
        return Recorded(self, self.weights[id(weights)])

    def input(self, x: Any) -> Any:
        """Return an input with stand-ins for its numbers."""
        if type(x) is int:
            self.choices.append(0)
            return Index(len(self.choices) - 1)
        if type(x) is float:
            self.numbers.append(self.leaf())
            return Number(self, self.numbers[-1])
        if isinstance(x, (list, tuple)):
            return type(x)([self.input(item) for item in x])
        return x

    def gather(self, number: int, first: int, rows: int, width: int) -> list[Recorded]:
        if first + rows * width > self.n_weights:
            raise RecordingError("an integer can only choose a row of a matrix of the weights")
        slots = [self.leaf() for _ in range(width)]
        self.limit(number, rows)
        self.order.append(("gather", slots[0], number, first, rows, width))
        self.gathered.update(dict.fromkeys(slots, slots[0]))
        return [Recorded(self, slot) for slot in slots]

    def limit(self, number: int, n: int) -> None:
        self.choices[number] = min(self.choices[number] or n, n)

    def largest(self, slots: list[int]) -> int:
        out = self.leaf()
        self.order.append(("largest", out, slots))
        return out

    # The functions of lists, where `microgpt.functions` meets a stand-in.

    def dot(self, a: Sequence[Any], b: Sequence[Any]) -> Any:
        return self.product(self.slots(a), self.slots(b))

    def linear(self, x: Sequence[Any], w: Sequence[Sequence[Any]]) -> list[Any]:
        slots = self.slots(x)
        return [self.product(self.slots(row), slots) for row in w]

    def product(self, a: tuple[int, ...], b: tuple[int, ...]) -> Any:
        n = min(len(a), len(b))
        if not n:
            return 0  # as the sum of nothing
        return self.node("dot", a if n == len(a) else a[:n], b if n == len(b) else b[:n])

    def slots(self, x: Iterable[Any]) -> tuple[int, ...]:
        if type(x) is not Rows:
            return tuple(
                [
                    xi.slot if type(xi) is Recorded and xi.recorder is self else self.slot(xi)
                    for xi in x
                ]
            )
        if x.slots is None:
            x.slots = tuple([self.slot(xi) for xi in x])
        return x.slots

    def softmax(self, logits: Sequence[Any]) -> Probabilities:
        return Probabilities(self, list(logits))

    def maximum(self, a: Any, b: Any) -> Recorded:
        return self.node("max", self.slot(a), self.slot(b))

    def where(self, condition: Any, a: Any, b: Any) -> Recorded:
        return self.node("where", self.slot(condition), self.slot(a), self.slot(b))
