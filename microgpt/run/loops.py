"""Loops over parameters: Adam, SGD and their kin, as programs of vector operations.

Only the iterable of a loop is rewritten:

    for i, p in enumerate(params):    becomes    for i, p in LOOP.over(enumerate(params)):

`over` runs the body once on symbols: `p.data`, `p.grad` and `m[i]` are symbols, whose arithmetic
is written down; everything else is computed by Python itself. A body that needs to know a
symbol's value, or touches anything that could differ from element to element, is `Unsupported`.
The operations then run on all elements but the last as vectors, in their order, and
`over` returns an iterator of the last one, so that the body itself leaves its names and raises
its exceptions. Where an element would raise, a node stands twice or an item is no float,
nothing is changed and the loop runs as it stands.

    LOOP is a constant of the code object: no name of the script can collide with it.
"""

from __future__ import annotations

import ast
import math
import sys
import types
from typing import Any, NoReturn, cast

from microgpt import _script

ELEMENTS = "_microgpt_elements"
MIN_ELEMENTS = 64  # below, the preparation takes longer than the loop
MAX_INT = 2**53
MAX_REGISTERS = 255
DATA, GRAD = 0, 1
ITEM = 2
ADD, SUB, MUL, DIV, POW, NEG, SQRT, MAX, MIN = range(9)
OF_ELEMENTS: dict[Any, int] = {math.sqrt: SQRT, max: MAX, min: MIN, pow: POW}
OF_NUMBERS = {abs, max, min, pow, *(f for f in vars(math).values() if callable(f))}
_PLAIN_LOOKUPS: tuple[Any, ...] = tuple(
    kind.__getattribute__ for kind in (object, type, types.ModuleType)
)
SIMPLE = (float, int, bool, str, type(None))

# The compiled classes whose nodes a loop may change, with what they call data and grad.
kinds: dict[type, dict[str, int]] = {}
compiled: set[Loop] = set()  # the loops that have run as vectors, for the report


class Unsupported(Exception):  # noqa: N818 - a decision, not a fault
    """The loop runs as Python code."""


class Loop:
    """One `for` statement of a script."""

    def __init__(self, statement: ast.For, filename: str) -> None:
        self.fresh = isinstance(statement.iter, ast.Call)  # no name keeps its iterator
        self.line, self.filename = statement.lineno, filename
        once = ast.For(
            target=statement.target,
            iter=ast.Name(ELEMENTS, ast.Load()),
            body=list(statement.body),
            orelse=[],
        )
        self.tree = ast.Module([ast.copy_location(once, statement)], [])
        self.assigned = {
            node.id
            for node in ast.walk(once)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        self.code: types.CodeType | None = None

    def over(self, iterable: Any) -> Any:
        """Run all elements but the last, and return the rest of the iterable."""
        try:
            if self.code is None:
                tree = ast.fix_missing_locations(self.tree)
                self.code = compile(tree, self.filename, "exec", dont_inherit=True)
            for loaded in (MIXED, FLOATS):
                trace = _Trace(sys._getframe(1), self.assigned, loaded)
                element, n = trace.opened(iterable, self.fresh)
                if n <= MIN_ELEMENTS or not kinds:
                    return iterable
                trace.names[ELEMENTS] = (element,)
                try:
                    exec(self.code, {"__builtins__": {}}, cast(Any, trace))
                except Unsupported:
                    continue
                if not trace.run(n - 1):
                    return iterable
                compiled.add(self)
                return _rest(iterable, n - 1)
        except Exception:  # what the loop itself raises, it raises by itself
            pass
        return iterable


# ------------------------------------------------------------------ symbols


def _unsupported(*arguments: Any) -> NoReturn:
    raise Unsupported


class _Proxy:
    """A stand-in for an object of the script while the body is run once."""

    __iter__ = __contains__ = None
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _unsupported
    _microgpt_trace: Any
    _microgpt_value: Any

    def __init__(self, trace: _Trace, value: Any) -> None:
        self.__dict__.update(_microgpt_trace=trace, _microgpt_value=value)


class _Index(_Proxy):
    """The number of the element."""


class _Object(_Proxy):
    """An object whose attributes and items are read."""

    def __getattr__(self, name: str) -> Any:
        value = self._microgpt_value
        owner = value if isinstance(value, type) else type(value)
        if type(value).__getattribute__ not in _PLAIN_LOOKUPS:
            raise Unsupported
        for cls in owner.__mro__:
            member = cls.__dict__.get(name)
            if hasattr(type(member), "__get__") and type(member) is not types.MemberDescriptorType:
                raise Unsupported  # a property or a method, which could do anything
        return self._microgpt_trace.proxy(getattr(value, name))

    def __getitem__(self, key: Any) -> Any:
        if type(self._microgpt_value) is not dict or type(key) not in SIMPLE:
            raise Unsupported
        return self._microgpt_trace.proxy(self._microgpt_value[key])

    def __setattr__(self, name: str, value: Any) -> None:
        raise Unsupported


class _Function(_Proxy):
    """A function of numbers."""

    def __call__(self, *arguments: Any) -> Any:
        if all(type(x) in (int, float) for x in arguments):
            return self._microgpt_value(*arguments)
        code = OF_ELEMENTS[self._microgpt_value]
        if len(arguments) != (1 if code == SQRT else 2):
            raise Unsupported
        return self._microgpt_trace.operation(code, arguments[0], arguments[-1])


class _Sequence(_Proxy):
    """A list or tuple, with an item for each element; or of numbers that stay the same."""

    def __getitem__(self, index: Any) -> Any:
        if type(index) is _Index:
            return self._microgpt_trace.element(self._microgpt_value)
        item = self._microgpt_value[index]
        if type(index) is not int or type(item) not in (int, float, list, tuple):
            raise Unsupported
        self._microgpt_trace.unchanged.append(self._microgpt_value)
        return self._microgpt_trace.proxy(item)

    def __setitem__(self, index: Any, number: Any) -> None:
        sequence, field = self._microgpt_trace.place(self._microgpt_value)
        if type(index) is not _Index or field != ITEM:
            raise Unsupported
        self._microgpt_trace.store((sequence, ITEM), number)


class _Element(_Proxy):
    """A node of the element; its value is its list's number."""

    def __getattr__(self, name: str) -> Any:
        return self._microgpt_trace.load(self._microgpt_trace.field(self._microgpt_value, name))

    def __setattr__(self, name: str, number: Any) -> None:
        place = self._microgpt_trace.field(self._microgpt_value, name)
        self._microgpt_trace.store(place, number)


class _Number(_Proxy):
    """A number of the element: its value is a register and its kind."""


def _add_operators() -> None:
    names = {"add": ADD, "sub": SUB, "mul": MUL, "truediv": DIV, "pow": POW}
    for name, code in names.items():
        setattr(_Number, f"__{name}__", lambda a, b, c=code: a._microgpt_trace.operation(c, a, b))
        setattr(_Number, f"__r{name}__", lambda a, b, c=code: a._microgpt_trace.operation(c, b, a))
    setattr(_Number, "__neg__", lambda a: a._microgpt_trace.operation(NEG, a, a))


_add_operators()

# What a register may hold: FLOATS; floats and the int 0 (gradients that nothing has reached);
# the same number for all elements, `float` or for an int its sign.
FLOATS, MIXED = "floats", "mixed"


class _Trace:
    """The names of a body, and the program that it turns out to be."""

    def __init__(self, frame: types.FrameType, assigned: set[str], loaded: str) -> None:
        self.scopes = frame.f_locals, frame.f_globals, frame.f_builtins
        self.assigned, self.loaded = assigned, loaded
        self.names: dict[str, Any] = {}
        self.sequences: list[Any] = []
        self.are_nodes: list[bool] = []
        self.unchanged: list[Any] = []
        self.current: dict[tuple[int, int], Any] = {}  # by sequence and field
        self.stored: set[tuple[int, int]] = set()
        self.loads: list[tuple[int, int, int]] = []
        self.constants: list[tuple[int, float]] = []
        self.code = bytearray()
        self.n_registers = 0

    def opened(self, iterable: Any, fresh: bool) -> tuple[Any, int]:
        """Return a proxy of an iterable's element, and its length."""
        kind = type(iterable)
        if kind is list or kind is tuple:
            return self.element(iterable), len(iterable)
        if kind is _VALUES or kind is _ITEMS:
            items = list(iterable)
            if kind is _VALUES:
                return self.element(items), len(items)
            return (_Proxy(self, None), self.element([value for _, value in items])), len(items)
        if kind is range and not iterable.start and iterable.step == 1:
            return _Index(self, None), len(iterable)
        if kind in _ITERATORS:
            _, (values,), *index = iterable.__reduce__()
            if index in ([0], [None]):  # None of a range, which starts with what is left
                return self.opened(values, fresh)
        if kind is enumerate and fresh:
            _, (inner, start) = iterable.__reduce__()
            element, n = self.opened(inner, fresh)
            return ((_Proxy if start else _Index)(self, None), element), n
        if kind is zip and fresh:
            _, iterators, *state = iterable.__reduce__()
            if not state:
                parts = [self.opened(part, fresh) for part in iterators]
                return tuple(element for element, _ in parts), min(n for _, n in parts)
        raise Unsupported

    # names, as the body finds and sets them

    def __getitem__(self, name: str) -> Any:
        if name in self.names:
            return self.names[name]
        if name in self.assigned:
            raise Unsupported  # it is of the element before
        for scope in self.scopes:
            if name in scope:
                return self.proxy(scope[name])
        raise Unsupported

    def __setitem__(self, name: str, value: Any) -> None:
        self.names[name] = value

    def proxy(self, value: Any) -> Any:
        if type(value) in SIMPLE:
            return value
        if type(value) in (list, tuple):
            return _Sequence(self, value)
        if isinstance(value, types.BuiltinFunctionType) and value in OF_NUMBERS:
            return _Function(self, value)
        if isinstance(value, _script.NodeBase):
            raise Unsupported  # it could be one of the elements
        return _Object(self, value)

    # the element

    def place(self, values: Any) -> tuple[int, int | None]:
        """Return the number of a list, and its field if it is one of numbers."""
        known = [known is values for known in self.sequences]
        if True not in known:
            self.sequences.append(values)
            self.are_nodes.append(type(values[0]) in kinds)
        number = [*known, True].index(True)
        return number, None if self.are_nodes[number] else ITEM

    def element(self, values: Any) -> Any:
        number, field = self.place(values)
        return _Element(self, number) if field is None else self.load((number, field))

    def field(self, number: int, name: str) -> tuple[int, int]:
        return number, kinds[type(self.sequences[number][0])][name]

    def load(self, place: tuple[int, int]) -> Any:
        if place not in self.current:
            register = self.register()
            self.loads.append((register, *place))
            kind = FLOATS if place[1] == ITEM else self.loaded
            self.current[place] = _Number(self, (register, kind))
        return self.current[place]

    def store(self, place: tuple[int, int], number: Any) -> None:
        register, kind = self.operand(number)
        if kind not in (FLOATS, float) and (kind, place[1]) != (0, GRAD):
            raise Unsupported
        self.current[place] = _Number(self, (register, kind))
        self.stored.add(place)

    # the program

    def register(self) -> int:
        if self.n_registers == MAX_REGISTERS:
            raise Unsupported
        self.n_registers += 1
        return self.n_registers - 1

    def operand(self, x: Any) -> tuple[int, Any]:
        """Return the register and the kind of a number."""
        if type(x) is _Number:
            return cast("tuple[int, Any]", x._microgpt_value)
        if type(x) is not float and (type(x) is not int or abs(x) > MAX_INT):
            raise Unsupported
        register = self.register()
        self.constants.append((register, float(x)))
        return register, float if type(x) is float else (x > 0) - (x < 0)

    def operation(self, code: int, a: Any, b: Any) -> _Number:
        left, left_kind = self.operand(a)
        right, right_kind = (left, left_kind) if b is a else self.operand(b)
        kind = _kind(code, left_kind, right_kind)
        register = self.register()
        self.code += bytes((code, register, left, right))
        return _Number(self, (register, kind))

    def run(self, n: int) -> bool:
        """Run the program on the first n elements; return whether it ran."""
        nodes = [values for is_node, values in zip(self.are_nodes, self.sequences) if is_node]
        changed = {id(self.sequences[sequence]) for sequence, _ in self.stored}
        if not nodes or not changed or any(id(values) in changed for values in self.unchanged):
            return False
        stores = []
        for place in self.stored:
            register, kind = self.operand(self.current[place])
            stores.append((register, *place, kind == 0))
        return bool(
            _script.run_loop(
                list(zip(self.are_nodes, self.sequences)),
                type(nodes[0][0]),
                n,
                self.loads,
                bytes(self.code),
                self.constants,
                stores,
                self.loaded is MIXED,
            )
        )


def _kind(code: int, a: Any, b: Any) -> Any:
    """Return the kind of a result.

    Raises:  Unsupported where an int could differ from the float that stands for it
    """
    kinds_of = {a, b}
    if not kinds_of - {FLOATS, float}:
        return FLOATS
    if code in (MAX, MIN):
        if kinds_of - {FLOATS, float, MIXED, 0}:
            raise Unsupported
        return MIXED
    if code in (SQRT, DIV) or (code != NEG and kinds_of & {FLOATS, float}):
        return FLOATS
    ints = [kind for kind in kinds_of if type(kind) is int]
    if (
        (code in (ADD, SUB, MUL) and not ints)
        or (code == MUL and ints[0] >= 0)
        or (code == POW and a is MIXED and b == 1)
    ):
        return MIXED
    raise Unsupported


# ------------------------------------------------------------------ iterables

_EMPTY: dict[str, Any] = {}
_VALUES, _ITEMS = type(_EMPTY.values()), type(_EMPTY.items())
_ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())), type(iter(range(0))))


def _rest(iterable: Any, done: int) -> Any:
    """Return what an iterable gives after so many elements."""
    if type(iterable) is range:
        return iterable[done:]
    if type(iterable) is enumerate:
        inner, start = cast(Any, iterable).__reduce__()[1]
        return enumerate(_rest(inner, done), start + done)
    if type(iterable) is zip:
        for part in iterable.__reduce__()[1]:
            _rest(part, done)
        return iterable
    is_view = type(iterable) in (_VALUES, _ITEMS)
    iterator: Any = iter(list(iterable) if is_view else iterable)
    iterator.__setstate__(done)
    return iterator
