"""The specification: scalar autograd in pure Python.

Every other engine equals this file by `float.hex()` and by type: data, gradients,
exceptions and the state after an exception. It is meant to be read in one sitting,
so it is slow on purpose.

A `Value` is one node of a graph: a number, the nodes it was computed from
(`_children`), and the derivative by each of them (`_local_grads`), taken when
the node is made. `backward` walks the graph once and applies the chain rule.

Order is part of the specification, because float addition is not associative:
children are visited left to right, depth first, and the gradients are added in
the reverse of the order in which the walk finishes the nodes.

Ints stay ints as in the original, through `+`, `*`, `**` by an int of at least 0,
and the additions of gradients. Beyond 2**53, where not every int is a float, the
result is a float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

MAX_INT = 2**53
ATTRIBUTES = ("__dict__",)  # the `__slots__` of a class made with attributes=True


class ClassOptions(NamedTuple):
    """The choices of a subclass of `Value`, by the keywords of its definition."""

    results: type[Value] | None = None  # the class of results; None for the operand's own
    relu: str = "positive"
    init: Any = None  # the `__init__` of the class that chose "leaf"
    attributes: bool = False


def _number(x: float) -> float:
    """Return an int of at most 53 bits as it is, all other numbers as floats.

    A float is made as `math` functions read a number.
    """
    if type(x) is float:
        return x
    if (type(x) is int or type(x) is bool) and -MAX_INT <= x <= MAX_INT:
        return int(x)
    return math.copysign(x, x)


def _sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def _power(x: float, k: float) -> float:
    """Return x ** k, an int only where it has at most 53 bits."""
    if type(x) is type(k) is int and k >= 0:
        if k <= 53 or -1 <= x <= 1:
            power: float = x**k
            if -MAX_INT <= power <= MAX_INT:
                return power
        return float(x) ** k
    power = x**k
    if isinstance(power, complex):
        raise ValueError(f"{x} ** {k} is not a real number")
    return power


class Value:
    """One scalar node of a computation graph.

    A subclass chooses by keywords, as in `class V(Value, results="own")`:

    results     class of operators' results: "own", the left operand's; "fixed", V
                itself for subclasses of V too, as `Value` has it
    relu        "positive": x if x > 0 else 0; "not negative": 0 if x < 0 else x
    init        "leaf": its `__init__` given a number alone does as Value's, and may be left out
    attributes  True: nodes take attributes; `__slots__` must be `engine.ATTRIBUTES`

    Raises:  TypeError if data is not a number
    Source:  microgpt `Value`
    """

    __slots__ = ("_data", "_grad", "_children", "_local_grads", "_operation")
    _options = ClassOptions()

    def __init_subclass__(
        cls,
        *,
        results: str | None = None,
        relu: str | None = None,
        init: str | None = None,
        attributes: bool | None = None,
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        chosen = {"results": results, "relu": relu, "init": init, "attributes": attributes}
        cls._options = options_of(cls, chosen, ATTRIBUTES)

    def __init__(
        self, data: float, children: Iterable[Value] = (), local_grads: Iterable[float] = ()
    ) -> None:
        data = _number(data)
        children = tuple(children)
        grads = tuple([_number(grad) for grad in local_grads])
        for child in children:
            if not isinstance(child, Value):
                raise TypeError(f"children must be Values, not {type(child).__name__}")
        self._data: float = data
        self._grad: float = 0
        self._children: tuple[Value, ...] = children
        self._local_grads: tuple[float, ...] = grads  # by each child, taken here
        self._operation = ""

    @property
    def data(self) -> float:
        """The number; setting it does not change local gradients that are already computed."""
        return self._data

    @data.setter
    def data(self, number: float) -> None:
        self._data = _number(number)

    @property
    def grad(self) -> float:
        """The derivative of the root of `backward` by this value; each backward adds to it."""
        return self._grad

    @grad.setter
    def grad(self, number: float) -> None:
        self._grad = _number(number)

    def _result(
        self, operation: str, data: float, children: tuple[Value, ...], slopes: tuple[float, ...]
    ) -> Value:
        """Return the node of an operation on this value, of the class of its results."""
        cls = self._options.results or type(self)
        node = cls.__new__(cls)
        Value.__init__(node, data, children, slopes)
        node._operation = operation
        return node

    def _operand(self, x: Value | float) -> Value:
        """Return x itself if it is a `Value`, else a leaf of that number."""
        return x if isinstance(x, Value) else self._result("", x, (), ())

    def __reduce__(self) -> tuple[Any, ...]:
        from microgpt.copying import recipe  # which imports this module

        attributes = getattr(self, "__dict__", None)
        numbers = (self._data, self._grad, self._children, self._local_grads)
        return (*recipe(type(self)), (*numbers, self._operation, attributes))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        data, grad, children, local_grads, operation, attributes = state
        Value.__init__(self, data, children, local_grads)
        self._grad = _number(grad)
        self._operation = operation
        if attributes:
            self.__dict__.update(attributes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def _repr_html_(self) -> str:
        from microgpt.pages import value_html  # of notebooks alone

        return value_html(self)

    def __add__(self, other: Value | float) -> Value:
        b = self._operand(other)
        return self._result("+", self._data + b._data, (self, b), (1, 1))

    def __mul__(self, other: Value | float) -> Value:
        b = self._operand(other)
        return self._result("*", self._data * b._data, (self, b), (b._data, self._data))

    def __pow__(self, other: float) -> Value:
        if isinstance(other, Value):
            return self._power(self, other)
        x, k = self._data, _number(other)
        return self._result(_power_name(k), _power(x, k), (self,), (k * _power(x, k - 1),))

    def log(self) -> Value:
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        return self._result("log", math.log(self._data), (self,), (1 / self._data,))

    def exp(self) -> Value:
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        y = math.exp(self._data)
        return self._result("exp", y, (self,), (y,))

    def relu(self) -> Value:
        """Return the value itself where positive, else zero (for NaN too)."""
        x = self._data
        if self._options.relu == "positive":
            y = x if x > 0 else 0
            return self._result("relu", y, (self,), (float(y > 0),))
        y = 0 if x < 0 else x
        return self._result("relu", y, (self,), (int(y > 0),))

    def tanh(self) -> Value:
        """Return the hyperbolic tangent."""
        y = math.tanh(self._data)
        return self._result("tanh", y, (self,), (1.0 - y**2,))

    def sigmoid(self) -> Value:
        """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
        y = _sigmoid(self._data)
        return self._result("sigmoid", y, (self,), (y * (1.0 - y),))

    def __neg__(self) -> Value:
        return self * -1

    def __radd__(self, other: float) -> Value:
        return self + other

    def __sub__(self, other: Value | float) -> Value:
        return self + (-other)

    def __rpow__(self, other: float) -> Value:
        return self._power(other, self)

    def _power(self, base: Value | float, exponent: Value) -> Value:
        """Return base ** exponent, where a class has a rule for exponents that are Values."""
        return NotImplemented

    def __rsub__(self, other: float) -> Value:
        return other + (-self)

    def __rmul__(self, other: float) -> Value:
        return self * other

    def __truediv__(self, other: Value | float) -> Value:
        return self * other**-1

    def __rtruediv__(self, other: float) -> Value:
        return other * self**-1

    def backward(self) -> None:
        """Add the derivative of this value by each node into that node's `grad`.

        Order:   depth-first post-order, children left to right, reversed
        Writes:  grad of this value, as 1. Adds to: grad of all it depends on
        """
        Tape(self).backward()


Value._options = ClassOptions(results=Value)


def _power_name(k: float) -> str:
    return f"**{int(k)}" if -MAX_INT <= k <= MAX_INT and k == int(k) else f"**{k}"


def options_of(cls: Any, chosen: dict[str, Any], slots: tuple[str, ...]) -> ClassOptions:
    """Return the options of a class, of which it chooses those that are not None.

    Raises:  ValueError for a choice that there is not; TypeError for attributes in a
             class that has no `__slots__` for them
    """
    inherited: ClassOptions = cls._options
    chosen = {name: choice for name, choice in chosen.items() if choice is not None}
    choices: dict[str, tuple[Any, ...]] = {
        "results": ("own", "fixed"),
        "relu": ("positive", "not negative"),
        "init": ("leaf",),
        "attributes": (False, True),
    }
    for name, choice in chosen.items():
        if choice not in choices[name]:
            wanted = " or ".join(map(repr, choices[name]))
            raise ValueError(f"{name} of class {cls.__name__} must be {wanted}, not {choice!r}")
    if chosen.get("attributes") and tuple(vars(cls).get("__slots__", "none")) != slots:
        raise TypeError(f"class {cls.__name__} needs __slots__ = engine.ATTRIBUTES")
    if not chosen:
        return inherited
    if "init" in chosen:
        chosen["init"] = cls.__init__
    results = chosen.get("results", "fixed" if inherited.results else "own")
    return inherited._replace(**{**chosen, "results": None if results == "own" else cls})


class Tape:
    """The nodes a value depends on, in the order in which they are finished.

    With inputs, which are leaves whose numbers will change, the compiled engine's tape
    computes the graph again. The oracle keeps no operations, and has no such tape.

    Shapes:  len(tape) is the number of distinct nodes, the value itself included
    Order:   depth-first post-order, children left to right; an explicit stack,
             so that depth is no limit
    Raises:  TypeError if loss or an input is not a `Value`; ValueError if an input
             is no leaf, or a node cannot be computed again: one made through the
             constructor, whose rule is unknown; NotImplementedError for inputs on the oracle
    """

    __slots__ = ("_nodes",)

    def __init__(self, loss: Value, inputs: Iterable[Value] | None = None) -> None:
        if inputs is not None:
            raise NotImplementedError(
                "the oracle keeps no operations to compute again: build the graph anew, or "
                "take the compiled engine's Tape"
            )
        if not isinstance(loss, Value):
            raise TypeError(f"Tape takes a Value, not {type(loss).__name__}")
        self._nodes: list[Value] = []
        seen = {loss}
        stack: list[tuple[Value, Iterator[Value]]] = [(loss, iter(loss._children))]
        while stack:
            node, children = stack[-1]
            for child in children:
                if child not in seen:
                    seen.add(child)
                    stack.append((child, iter(child._children)))
                    break
            else:
                stack.pop()
                self._nodes.append(node)

    def __len__(self) -> int:
        return len(self._nodes)

    def backward(self) -> None:
        """Play the tape in reverse: set the value's grad to 1, add into the others.

        Writes:  grad of the last node, as 1. Adds to: grad of all other nodes
        """
        self._nodes[-1]._grad = 1
        for node in reversed(self._nodes):
            for child, local_grad in zip(node._children, node._local_grads):
                term = local_grad * node._grad
                child._grad = _number(child._grad + _number(term))
