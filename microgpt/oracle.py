"""The specification: scalar autograd in pure Python.

Every other engine equals this file by `float.hex()`: data, gradients,
exceptions and the state after an exception. It is meant to be read in one
sitting, so it is slow on purpose.

A `Value` is one node of a graph: a float, the nodes it was computed from
(`_children`), and the derivative by each of them (`_local_grads`), taken when
the node is made. `backward` walks the graph once and applies the chain rule.

Order is part of the specification, because float addition is not associative:
children are visited left to right, depth first, and the gradients are added in
the reverse of the order in which the walk finishes the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

C = TypeVar("C", bound="Closed")


def _number(x: float) -> float:
    """Return x as a float, exactly as `math` functions read a number."""
    return x if type(x) is float else math.copysign(x, x)


def _sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


class Value:
    """One scalar node of a computation graph.

    Raises:  TypeError if data is not a number
    Source:  microgpt `Value`
    """

    __slots__ = ("_data", "_grad", "_children", "_local_grads")

    def __init__(
        self, data: float, children: Iterable[Value] = (), local_grads: Iterable[float] = ()
    ) -> None:
        data = _number(data)
        children = tuple(children)
        grads = tuple([_number(grad) for grad in local_grads])
        for child in children:
            if not isinstance(child, Value):
                raise TypeError(f"children must be Values, not {type(child).__name__}")
        self._data, self._grad = data, 0.0
        self._children, self._local_grads = children, grads

    @property
    def data(self) -> float:
        """The number; to change it leaves local gradients already taken as they are."""
        return self._data

    @data.setter
    def data(self, number: float) -> None:
        self._data = _number(number)

    @property
    def grad(self) -> float:
        """What backward has added: the derivative of its root by this value."""
        return self._grad

    @grad.setter
    def grad(self, number: float) -> None:
        self._grad = _number(number)

    def __reduce__(self) -> tuple[Any, ...]:
        from microgpt.copying import recipe  # which imports this module

        attributes = getattr(self, "__dict__", None)
        state = (self._data, self._grad, self._children, self._local_grads, attributes)
        return (*recipe(type(self)), state)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        data, grad, children, local_grads, attributes = state
        Value.__init__(self, data, children, local_grads)
        self._grad = _number(grad)
        if attributes:
            self.__dict__.update(attributes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def _repr_html_(self) -> str:
        from microgpt.pages import value_html  # of notebooks alone

        return value_html(self)

    def __add__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: Value | float) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, other: float) -> Value:
        other = other if type(other) is int else _number(other)
        data = self.data**other
        if isinstance(data, complex):
            raise ValueError(f"{self.data} ** {other} is not a real number")
        return Value(data, (self,), (other * self.data ** (other - 1),))

    def log(self) -> Value:
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def exp(self) -> Value:
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        return Value(math.exp(self.data), (self,), (math.exp(self.data),))

    def relu(self) -> Value:
        """Return the value itself where positive, else zero (for NaN too)."""
        return Value(max(0, self.data), (self,), (float(self.data > 0),))

    def tanh(self) -> Value:
        """Return the hyperbolic tangent."""
        t = math.tanh(self.data)
        return Value(t, (self,), (1.0 - t**2,))

    def sigmoid(self) -> Value:
        """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
        s = _sigmoid(self.data)
        return Value(s, (self,), (s * (1.0 - s),))

    def __neg__(self) -> Value:
        return self * -1

    def __radd__(self, other: float) -> Value:
        return self + other

    def __sub__(self, other: Value | float) -> Value:
        return self + (-other)

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
        Writes:  grad of this value, as 1.0. Adds to: grad of all it depends on
        """
        Tape(self).backward()


class Tape:
    """The nodes a value depends on, in the order in which they are finished.

    With inputs, leaves whose numbers will change, the compiled engine's tape computes
    the graph again. The oracle keeps no operations: to it, that is a new graph.

    Shapes:  len(tape) is the number of distinct nodes, the value itself included
    Order:   depth-first post-order, children left to right; an explicit stack,
             so that depth is no limit
    Raises:  TypeError if loss or an input is not a `Value`; ValueError if an input
             is no leaf, or a node cannot be computed again: one made through the
             constructor, whose rule is unknown; NotImplementedError for inputs, here
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
        """Play the tape in reverse: set the value's grad to 1.0, add into the others.

        Writes:  grad of the last node, as 1.0. Adds to: grad of all other nodes
        """
        self._nodes[-1].grad = 1.0
        for node in reversed(self._nodes):
            for child, local_grad in zip(node._children, node._local_grads):
                child.grad += local_grad * node.grad


class Closed(Value):
    """A `Value` whose operators give its class.

    Between classes the left one decides, and a number becomes a leaf of it: what a
    subclass adds, a result has too. `__init__` runs for nodes that are written out,
    not for results. `label` and `_op` are for people: a name, and what made the node.

    Raises:  TypeError if data is not a number
    Source:  micrograd `Value`
    """

    __slots__ = ("label", "_op")
    label: object
    _op: object

    def __init__(
        self, data: float, children: Iterable[Value] = (), local_grads: Iterable[float] = ()
    ) -> None:
        super().__init__(data, children, local_grads)
        self.label = self._op = ""

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments, state = super().__reduce__()
        return make, arguments, (state, self.label, self._op)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        state, self.label, self._op = state
        super().__setstate__(state)

    def __add__(self, other: Value | float) -> Value:
        return _own(self, super().__add__(_operand_like(self, other)), "+")

    def __mul__(self, other: Value | float) -> Value:
        return _own(self, super().__mul__(_operand_like(self, other)), "*")

    def __pow__(self, other: float) -> Value:
        node, k = super().__pow__(other), float(other)
        return _own(self, node, f"**{int(k)}" if k.is_integer() else f"**{k}")

    def log(self) -> Value:
        """Return the natural logarithm.

        Raises:  ValueError if data is zero or negative
        """
        return _own(self, super().log(), "log")

    def exp(self) -> Value:
        """Return e to the power of this value.

        Raises:  OverflowError if the result exceeds the largest float
        """
        return _own(self, super().exp(), "exp")

    def relu(self) -> Value:
        """Return the value itself where positive, else zero (for NaN too)."""
        return _own(self, super().relu(), "ReLU")

    def tanh(self) -> Value:
        """Return the hyperbolic tangent."""
        return _own(self, super().tanh(), "tanh")

    def sigmoid(self) -> Value:
        """Return 1 / (1 + exp(-x)), computed from the exponential that cannot overflow."""
        return _own(self, super().sigmoid(), "sigmoid")


def _own(like: C, node: Value, op: str) -> C:
    """Return a new plain node as one of the class of `like`."""
    own = type(like).__new__(type(like))
    Closed.__init__(own, node._data, node._children, node._local_grads)
    own._op = op
    return own


def _operand_like(left: Closed, x: Value | float) -> Value:
    """Return x itself if it is a `Value`, else a leaf of that number in the class of left."""
    return x if isinstance(x, Value) else _own(left, Value(x), "")


def uncollected(cls: type[C]) -> type[C]:
    """Return a new subclass of `Closed`, whose objects the garbage collector will not see.

    Python gives the objects of every class of its own a place on the collector's
    lists. A graph has no cycles, and a class with empty `__slots__` can add none.

    Raises:  TypeError if the class is no `Closed` or gives its objects attributes
    """
    if not issubclass(cls, Closed):
        raise TypeError(f"{cls.__name__} is not a subclass of Closed")
    if cls.__basicsize__ != Closed.__basicsize__ or cls.__dictoffset__ or cls.__weakrefoffset__:
        raise TypeError(f"{cls.__name__} needs __slots__ = (), as all its bases")
    return cls
