"""micrograd on the compiled engine: `Value`, `Neuron`, `Layer`, `MLP`, and the graph as a picture.

A program written for micrograd changes its import lines and keeps the rest. These
are the differences:

- Children stand in the order in which they were written, left to right, and
  gradients are added in the order that follows. micrograd keeps children in a
  set, whose order, and with it the last bits, change from run to run.
- A derivative is taken when a node is made, as everywhere in microgpt: to change
  `data` between forward and backward does not change it.
- A derivative cannot be given as a function: `_backward` can be called but not
  set. A new operation is written with `local_grads`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence
from contextvars import ContextVar
from typing import Any

from microgpt import engine, oracle
from microgpt.engine import Tape

__all__ = ["MLP", "Layer", "Module", "Neuron", "Value", "draw_dot", "no_grad"]

MAX_DRAWN = 400
Activation = Any  # a name of ACTIVATIONS, a function of a Value, True for relu or False for none


class Value(engine.Value, results="own", relu="not negative", init="leaf", attributes=True):
    """A node of a graph, as micrograd has it.

    A new operation is a node with its derivatives:
    `Value(math.sin(x.data), (x,), "sin", local_grads=(math.cos(x.data),))`; without
    local_grads nothing flows back through it. Where micrograd has _op, microgpt has
    local_grads, which may stand there as well.

    Raises:  TypeError if data or a local gradient is not a number or a child not a
             `Value`; ValueError if there is not one local gradient for each child
    Source:  micrograd `Value`
    """

    __slots__ = engine.ATTRIBUTES
    label = _written_op = ""

    def __init__(
        self,
        data: float,
        _children: Iterable[oracle.Value] = (),
        _op: str | Iterable[float] = "",
        label: str = "",
        *,
        local_grads: Iterable[float] | None = None,
    ) -> None:
        if not isinstance(_op, str):
            local_grads, _op = _op, ""
        children = tuple(_children)
        if children and _is_off.get():
            children, local_grads = (), None
        grads = () if local_grads is None else tuple(local_grads)
        if local_grads is not None and len(grads) != len(children):
            raise ValueError(f"{len(grads)} local gradients for {len(children)} children")
        super().__init__(data, children, grads)
        if _op != self._written_op:
            self._written_op = _op
        if label != self.label:
            self.label = label

    @property
    def _op(self) -> str:
        """The operation that made the node; empty for a leaf, unless set."""
        operation = self._written_op or self._operation
        return "ReLU" if operation == "relu" else operation

    @_op.setter
    def _op(self, text: str) -> None:
        self._written_op = text

    def _power(self, base: oracle.Value | float, exponent: oracle.Value) -> oracle.Value:
        a: Any = base if hasattr(base, "_children") else Value(base)
        x, k = a.data, exponent.data
        data = x**k
        grads = (k * x ** (k - 1), data * math.log(x))
        return Value(data, (a, exponent), "**", local_grads=grads)

    # By number, as floats compare; two values are equal only if they are the same node.
    def __lt__(self, other: oracle.Value | float) -> bool:
        return self.data < _number(other)

    def __le__(self, other: oracle.Value | float) -> bool:
        return self.data <= _number(other)

    def __gt__(self, other: oracle.Value | float) -> bool:
        return self.data > _number(other)

    def __ge__(self, other: oracle.Value | float) -> bool:
        return self.data >= _number(other)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __abs__(self) -> oracle.Value:
        out = _Operation(abs, _sign)(self)
        out._op = "abs"  # type: ignore[attr-defined] # the result is of this class
        return out

    def sqrt(self) -> oracle.Value:
        """Return the square root: self ** 0.5."""
        return self**0.5

    def zero_grad(self) -> None:
        """Set the grad of this value, and of all that it was computed from, to 0."""
        for node in _finished(self):
            node.grad = 0

    @property
    def _prev(self) -> KeysView[oracle.Value]:
        """The distinct children: equal to micrograd's set, in order from left to right."""
        return dict.fromkeys(self._children).keys()

    @property
    def _backward(self) -> Callable[[], None]:
        """A function that adds this node's terms to the gradients of its children."""

        def add_into_children() -> None:
            for child, local_grad in zip(self._children, self._local_grads):
                child.grad += local_grad * self.grad

        return add_into_children

    @_backward.setter
    def _backward(self, function: Callable[[], None]) -> None:
        raise AttributeError(
            "_backward cannot be set: give the derivatives by the children when the node is "
            "made, as in Value(data, (x,), 'sin', local_grads=(math.cos(x.data),))"
        )


_Operation = engine.functions.Operation


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


class no_grad(contextlib.ContextDecorator):  # noqa: N801 - as torch and micrograd's forks spell it
    """Compute without a graph: operations on these Values give leaves.

    `with no_grad():` holds in its own thread or task; as a decorator, in a function's calls.
    """

    _lock = threading.Lock()
    _open = 0  # in all threads: Value's operators ask only meanwhile

    def __init__(self) -> None:
        self._tokens: list[Any] = []

    def _recreate_cm(self) -> no_grad:
        return no_grad()  # each call of a decorated function has its own

    def __enter__(self) -> None:
        with no_grad._lock:
            no_grad._open += 1
            if no_grad._open == 1:
                for name in _OPERATORS:
                    setattr(Value, name, _detached(name, vars(Value).get(name)))
        self._tokens.append(_is_off.set(True))

    def __exit__(self, *_: object) -> None:
        _is_off.reset(self._tokens.pop())
        with no_grad._lock:
            no_grad._open -= 1
            if no_grad._open == 0:
                for name in _OPERATORS:
                    own = vars(Value)[name].own
                    setattr(Value, name, own) if own else delattr(Value, name)


_is_off: ContextVar[bool] = ContextVar("no_grad", default=False)
_OPERATORS = [
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
    *("__rtruediv__", "__pow__", "__rpow__", "__neg__", "__abs__"),
    *(
        name
        for name in dir(Value)
        if callable(getattr(Value, name)) and not name.startswith("_")
        if name not in ("backward", "zero_grad")  # which make no node
    ),
]


def _detached(name: str, own: Any) -> Any:
    """Return an operator of Value that gives a leaf where no_grad holds."""
    operator = own or getattr(Value.__base__, name)

    @functools.wraps(operator)
    def detached(self: Value, *others: Any) -> Any:
        out = operator(self, *others)
        if not _is_off.get() or out is NotImplemented:
            return out
        return out._result("", out.data, (), ())

    detached.own = own  # type: ignore[attr-defined] # of a function
    return detached


class Module:
    """The base class of neurons, layers and networks.

    Source:  micrograd `Module`
    """

    def zero_grad(self) -> None:
        """Set the grad of all parameters to 0."""
        for p in self.parameters():
            p.grad = 0.0

    def parameters(self) -> list[Value]:
        """Return the parameters: none in the base class."""
        return []


class Neuron(Module):
    """A weighted sum of nin inputs and a bias, through an activation.

    nonlin, or activation, is "relu", "tanh", "sigmoid", "linear", a function of a Value,
    True for relu, or False or None for none.

    Order:   from the bias, inputs left to right; weights drawn as
             random.uniform(-1, 1), first to last; the bias starts as 0
    Raises:  ValueError for the name of an activation that there is not
    Source:  micrograd `Neuron`
    """

    def __init__(self, nin: int, nonlin: Activation = True, *, activation: Activation = "") -> None:
        self.w = [Value(random.uniform(-1, 1)) for _ in range(nin)]
        self.b = Value(0)
        self.nonlin = nonlin if activation == "" else activation
        _function(self.nonlin)

    def __call__(self, x: Iterable[Value | float]) -> Value:
        total = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)
        if self.nonlin is True:  # as micrograd has it
            return total.relu()  # type: ignore[return-value] # of the operand's class
        return _function(self.nonlin)(total)

    @property
    def activation(self) -> str:
        """The name of the activation."""
        if callable(self.nonlin):
            return getattr(self.nonlin, "__name__", "function")
        return _NAMES.get(self.nonlin, str(self.nonlin).lower())

    def parameters(self) -> list[Value]:
        """Return the weights, then the bias."""
        return [*self.w, self.b]

    def __repr__(self) -> str:
        name = {"relu": "ReLU"}.get(self.activation, self.activation.capitalize())
        return f"{name}Neuron({len(self.w)})"


class Layer(Module):
    """nout neurons that read the same nin inputs.

    Shapes:  x (nin,), returns (nout,), or where nout is 1 the one value itself
    Raises:  as `Neuron`
    Source:  micrograd `Layer`
    """

    def __init__(
        self, nin: int, nout: int, nonlin: Activation = True, *, activation: Activation = ""
    ) -> None:
        self.neurons = [Neuron(nin, nonlin, activation=activation) for _ in range(nout)]

    def __call__(self, x: Sequence[Value | float]) -> list[Value] | Value:
        x = list(x)
        out = [neuron(x) for neuron in self.neurons]
        return out[0] if len(out) == 1 else out

    def parameters(self) -> list[Value]:
        """Return the parameters of the neurons, first to last."""
        return [p for neuron in self.neurons for p in neuron.parameters()]

    def __repr__(self) -> str:
        return f"Layer of [{', '.join(map(str, self.neurons))}]"


class MLP(Module):
    """Layers of nouts neurons one after the other, the last without an activation.

    activation is that of the other layers; activations are those of all, one a layer.

    Shapes:  x (nin,), returns (nouts[-1],), or where that is 1 the one value itself
    Raises:  as `Neuron`; ValueError if there are not as many activations as layers
    Source:  micrograd `MLP`
    """

    def __init__(
        self,
        nin: int,
        nouts: Sequence[int],
        activation: Activation = True,
        *,
        activations: Sequence[Activation] | None = None,
    ) -> None:
        if activations is None:
            activations = [*[activation] * (len(nouts) - 1), False]
            _function(activation)
        elif len(activations) != len(nouts):
            raise ValueError(f"{len(activations)} activations for {len(nouts)} layers")
        self.layers = [Layer(*sizes) for sizes in zip([nin, *nouts], nouts, activations)]

    def __call__(self, x: Sequence[Value | float]) -> list[Value] | Value:
        out: Any = x
        for layer in self.layers:
            out = layer([out] if isinstance(out, Value) else out)
        return out

    def parameters(self) -> list[Value]:
        """Return the parameters of the layers, first to last."""
        return [p for layer in self.layers for p in layer.parameters()]

    def __repr__(self) -> str:
        return f"MLP of [{', '.join(map(str, self.layers))}]"


_NAMES = {True: "relu", False: "linear", None: "linear"}
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: x.relu(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "linear": lambda x: x,
}


def _function(activation: Activation) -> Callable[[Any], Any]:
    """Return the function of an activation."""
    if callable(activation):
        return activation
    name = _NAMES.get(activation, str(activation).lower())
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def draw_dot(root: oracle.Value, format: str = "svg", rankdir: str = "LR") -> Any:
    """Return a graphviz.Digraph of the graph that root was computed by.

    A notebook shows it, `render` writes it to a file. A box is a node, with its label,
    data and grad, and an ellipse the operation that made it. Needs the package graphviz; to
    render also Graphviz's program `dot`.

    Order:   nodes and edges as a depth-first walk finishes them, children left to right
    Raises:  TypeError if root is not a `Value`; ValueError if it has more than 400
             nodes or rankdir is neither "LR" nor "TB"; ImportError without graphviz
    Source:  micrograd `draw_dot`
    """
    if rankdir not in ("LR", "TB"):
        raise ValueError(f"rankdir must be 'LR' or 'TB', not {rankdir!r}")
    n = len(Tape(root))
    if n > MAX_DRAWN:
        raise ValueError(
            f"a graph of {n:,} nodes cannot be read: draw_dot takes at most {MAX_DRAWN}; "
            "draw a smaller part, such as one neuron or one example"
        )
    try:
        import graphviz
    except ImportError as error:
        raise ImportError("draw_dot needs graphviz: pip install 'microgpt-cython[viz]'") from error
    dot = graphviz.Digraph(format=format, graph_attr={"rankdir": rankdir})
    names: dict[oracle.Value, str] = {}
    for node in _finished(root):
        name = names[node] = str(len(names))
        label, op = str(getattr(node, "label", "")), str(getattr(node, "_op", ""))
        text = f"data {node.data:.4f} | grad {node.grad:.4f}"
        if label:
            text = f"{_escaped(label)} | {text}"
        dot.node(name, label=f"{{ {text} }}", shape="record")
        target = name
        if op:
            target = f"{name}op"
            dot.node(target, label=graphviz.escape(op))
            dot.edge(target, name)
        for child in dict.fromkeys(node._children):
            dot.edge(names[child], target)
    return dot


def _finished(root: oracle.Value) -> Iterator[oracle.Value]:
    """Yield each node that root depends on after its children, root last."""
    seen = {root}
    stack = [(root, iter(root._children))]
    while stack:
        node, children = stack[-1]
        child = next((child for child in children if child not in seen), None)
        if child is None:
            stack.pop()
            yield node
        else:
            seen.add(child)
            stack.append((child, iter(child._children)))


def _number(x: Any) -> float:
    number: float = x.data if hasattr(x, "_children") else x
    return number


def _escaped(text: str) -> str:
    """Return text as it stands for itself in a record's label."""
    return re.sub(r"([\\{}|<>])", r"\\\1", text)
