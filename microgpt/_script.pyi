"""The compiled nodes of `microgpt run`; its Python side takes them as they come."""

from typing import Any

INIT: str
MISSING: object
NATIVE: dict[str, int]
NUMBER: dict[str, int]
OPS: dict[str, int]
SWITCHED: int
INITIAL: int

def new_family() -> Family: ...
def configure(
    family: Family,
    native: int = 0,
    to_float: bool = False,
    grad_int: bool = False,
    root_int: bool = False,
    late: bool = False,
    ones_int: bool = False,
    minus_int: bool = False,
    relu_keeps: bool = False,
    relu_int: bool = False,
    relu_slope_int: bool = False,
    tanh_square: bool = False,
) -> None: ...
def adopt(family: Family, cls: type, **choices: Any) -> None: ...
def state_of(self: Any) -> dict[str, Any]: ...
def peek(self: Any, name: str) -> Any: ...
def exponent(self: Any) -> Any: ...
def backward(self: Any) -> Any: ...
def exp(self: Any) -> Any: ...
def log(self: Any) -> Any: ...
def relu(self: Any) -> Any: ...
def tanh(self: Any) -> Any: ...
def tanh_exp(self: Any) -> Any: ...
def sigmoid(self: Any) -> Any: ...
def dot(a: Any, b: Any) -> Any: ...
def linear(x: Any, w: Any, x_first: bool) -> Any: ...
def rmsnorm(x: Any, eps: Any) -> Any: ...
def softmax(logits: Any) -> Any: ...
def run_loop(
    sequences: Any,
    kind: Any,
    n: int,
    loads: Any,
    program: Any,
    constants: Any,
    stores: Any,
    ints_allowed: bool,
) -> Any: ...

class Family:
    cls: Any
    init: Any
    children: Any
    container: Any
    leaf_container: Any
    slopes: Any
    slopes_container: Any
    leaf_slopes_container: Any
    pair: Any
    child_at: Any
    backward: Any
    closures: Any
    defaults: Any
    initial: Any
    order: Any
    positional: Any
    keywords: Any
    guards: Any
    has_slots: Any
    is_weak: Any
    switches: Any
    own: Any
    data: Any
    grad: Any
    stored_data: Any
    stored_grad: Any

class NodeBase:
    _microgpt_data: Any
    _microgpt_grad: Any

class Base(NodeBase):
    __slots__ = ()
    def __reduce_ex__(self, protocol: Any) -> Any: ...
    def __setstate__(self, state: Any) -> None: ...

class Field:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...
    def __set__(self, instance: Any, value: Any, /) -> None: ...
    def __delete__(self, instance: Any, /) -> None: ...

class Backward:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __getattr__(self, name: str, /) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __deepcopy__(self, memo: Any) -> Any: ...
    def __reduce_ex__(self, protocol: Any) -> Any: ...
