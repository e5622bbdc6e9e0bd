"""From a script's class to the compiled class that takes its place.

`_Observed` finds what objects of the class keep. A class is then made from `_script.NodeBase` with
all members of the script's own, and `_choose` lets those operators run compiled that no probe can
tell from the script's.
"""

from __future__ import annotations

import dis
import itertools
import math
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import getweakrefs

from microgpt import _script
from microgpt.run import attributes, loops, probes
from microgpt.run.functions import calling
from microgpt.run.mentions import SIMPLE, Mentions

FORBIDDEN = (
    "__setattr__ __getattribute__ __getattr__ __new__ __del__ __delattr__ __init_subclass__ "
    "__reduce__ __reduce_ex__ __getstate__ __setstate__ __dir__"
).split()
REQUIRED = ("__add__", "__mul__", "backward")
# What an operator's own code calls: if that cannot be judged, neither can the operator.
NEEDS: dict[str, tuple[str, ...]] = {
    "__add__": (),
    "__mul__": (),
    "__radd__": ("__add__",),
    "__rmul__": ("__mul__",),
    "__pow__": (),
    "__neg__": ("__mul__",),
    "__sub__": ("__neg__", "__add__"),
    "__rsub__": ("__neg__", "__radd__"),
    "__truediv__": ("__mul__", "__pow__"),
    "__rtruediv__": ("__rmul__", "__pow__"),
}
# Compiled methods without arguments: a method that gives the same at three points is tried.
POINTS = (0.75, 1.5, 2.25)
METHODS: dict[str, Any] = {
    "exp": math.exp,
    "log": math.log,
    "relu": lambda x: x,
    "tanh": math.tanh,
    "tanh_exp": lambda x: (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}
REPLACED = {
    "__dict__": property(attributes.Attributes, attributes.replace),
    "__weakref__": property(lambda node: next(iter(getweakrefs(node)), None)),
}
_HEAP_TYPE = 1 << 9
_OTHER_WALK = "probe graphs: gradients differ: another order of the walk or of sums"


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    """The class stays as it is; the text says why."""


class Adoption:
    """A class of a script and the one that took its place."""

    def __init__(self, original: type, cls: type, family: Any) -> None:
        self.original, self.cls, self.family = original, cls, family
        self.native: list[str] = []
        self.own: list[tuple[str, str]] = []  # operators that stay Python code, and why
        self.builtins: set[str] = set()  # that its code calls
        self.bits = 0
        self.settings: dict[str, bool] = {}

    def retire(self) -> None:
        """Let everything be the script's own code: what it mentions means something else now."""
        for name in self.native:
            if not name.startswith("__"):
                setattr(self.cls, name, self.cls.__dict__[name].__wrapped__)
        _script.configure(self.family, native=0, **self.settings)


def members_of(cls: type) -> dict[str, tuple[type, Any]]:
    """Return what a class and its bases have, by name: the class that has it, and the member."""
    return {
        name: (base, member)
        for base in reversed(cls.__mro__[:-1])
        for name, member in base.__dict__.items()
    }


def is_candidate(cls: object) -> bool:
    """Tell whether a class looks like a node of an autograd graph."""
    if not isinstance(cls, type) or not any(name in cls.__dict__ for name in REQUIRED):
        return False
    members = members_of(cls)
    return all(isinstance(members.get(n, (0, 0))[1], types.FunctionType) for n in REQUIRED)


def adopted(original: type, name: str, scope: dict[str, Any], bound: Any) -> Adoption:
    """Return a compiled class that behaves as a script's class.

    name is what the class will be called in its scope, a module's globals; bound has the names
    that the module's code gives a meaning, with what does so.

    Raises:  Refused with the reason
    """
    if issubclass(original, _script.NodeBase):
        raise Refused("it is a subclass of a class that is replaced")
    if type(original) is not type:
        raise Refused(f"its metaclass is {type(original).__name__}")
    owners, bases = members_of(original), original.__mro__[1:-1]
    members = {name: member for name, (_, member) in owners.items()}
    for base in bases:
        if type(base) is not type or not base.__flags__ & _HEAP_TYPE:
            raise Refused(f"it is a subclass of {base.__name__}")
    for forbidden in FORBIDDEN:
        if forbidden in members:
            raise Refused(f"it has {forbidden}")
    if "__init__" not in members:
        raise Refused("it has no __init__ of its own")
    mentions = Mentions(original.__name__, owners, _stored(original, members), bound)
    try:
        return _judged(original, members, mentions, (name, scope))
    finally:
        for where, early in mentions.early:
            del where[early]


def _judged(
    original: type, members: dict[str, Any], mentions: Mentions, place: tuple[str, dict[str, Any]]
) -> Adoption:
    with _bound(original, original, *place):
        for base in original.__mro__[1:-1]:  # whose functions `super()` may call
            for name, function in base.__dict__.items():
                if isinstance(function, types.FunctionType) and members[name] is not function:
                    _require(mentions, name, function)
        for name in ("__init__", *REQUIRED):
            _require(mentions, name, members[name])
        observed = _Observed(original, members)
        mentions.known.clear()
        mentions.hidden = set(observed.others)
        mentions.switches = observed.switches
        mentions.in_closures = observed.closure is None
        for name in REQUIRED:
            _require(mentions, name, members[name])
    family, cls = _made(original, members, observed)
    family.guards = _guards(mentions, original, cls)
    adoption = Adoption(original, cls, family)
    with _bound(original, cls, *place):
        _Choice(adoption, members, observed, mentions, place).run()
    family.guards = _guards(mentions, original, cls)
    if len(family.guards) > 8:
        raise Refused("it reads more than 8 variables")
    _script.configure(family, native=adoption.bits, **adoption.settings)
    for member in original.__dict__.values():
        for free, cell in _cells(member):
            if free == "__class__":  # of `super()`
                cell.cell_contents = cls
    adoption.builtins = mentions.builtins
    loops.kinds.add(cls)
    return adoption


def _require(mentions: Mentions, name: str, function: Any) -> None:
    reason = mentions.reason(function)
    if reason:
        raise Refused(f"{name} {reason}")


def _cells(member: Any) -> list[tuple[str, types.CellType]]:
    function = getattr(member, "__func__", member)
    if not isinstance(function, types.FunctionType):
        return []
    return list(zip(function.__code__.co_freevars, function.__closure__ or ()))


@contextmanager
def _bound(original: type, cls: type, name: str, scope: dict[str, Any]) -> Iterator[None]:
    """Let a class have its name while it is probed: in its module, and in its methods' closures."""
    missing = object()
    before = scope.get(name, missing)
    cells = {
        id(cell): cell
        for member in original.__dict__.values()
        for free, cell in _cells(member)
        if free in (name, "__class__")
    }
    contents = {}
    for key, cell in cells.items():
        with suppress(ValueError):  # it has none
            contents[key] = cell.cell_contents
    scope[name] = cls
    try:
        for cell in cells.values():
            cell.cell_contents = cls
        yield
    finally:
        if before is missing:
            del scope[name]
        else:
            scope[name] = before
        for key, cell in cells.items():
            if key in contents:
                cell.cell_contents = contents[key]
            else:
                del cell.cell_contents


def _guards(mentions: Mentions, original: type, cls: type) -> list[tuple[Any, str, Any]]:
    unique = {(id(where), name): (where, name, value) for where, name, value in mentions.guards}
    instead = {id(original): cls}
    return [
        (instead.get(id(where), where), name, instead.get(id(value), value))
        for where, name, value in unique.values()
    ]


# ------------------------------------------------------------------ what objects keep


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _attributes(node: Any) -> dict[str, Any]:
    """Return an object's attributes by name, in the order in which they were set or declared."""
    found = dict(getattr(node, "__dict__", {}))
    for name in (name for base in reversed(type(node).__mro__) for name in _slots(base)):
        if hasattr(node, name) and name not in ("__dict__", "__weakref__"):
            found[name] = getattr(node, name)
    if "grad" not in found and hasattr(node, "grad"):  # of the class, until it is set
        found["grad"] = node.grad
    return found


def _stored(cls: type, members: dict[str, Any]) -> set[str]:
    """Return the attributes that a class's constructor gives its objects.

    A name that it reads as well, and that the class itself has, is a counter of the class.
    """
    stored, read = set(), set()
    functions = [base.__dict__.get("__init__") for base in cls.__mro__[1:-1]]
    for function in (members["__init__"], *functions):
        for instruction in dis.get_instructions(function) if function else ():
            if instruction.opname == "STORE_ATTR":
                stored.add(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                read.add(instruction.argval)
    if isinstance(members.get("grad"), (int, float)):
        stored.add("grad")
    return {
        name
        for name in stored
        if not (name in read and name in members)
        or isinstance(members[name], types.MemberDescriptorType)
    }


class _Observed:
    """What objects of a class keep, and what their constructor takes."""

    def __init__(self, cls: type, members: dict[str, Any]) -> None:
        try:
            leaf, other = cls(1.5), cls(-0.5)
            total, product = leaf + other, leaf * other
        except Exception as error:
            text = f"{cls.__name__}(1.5) + {cls.__name__}(-0.5)"
            raise Refused(f"{text} raises {type(error).__name__}") from None
        if type(total) is not cls or type(product) is not cls:
            raise Refused("its sums are of another class")
        kept = _attributes(product)
        self.names = tuple(kept)
        for name in ("data", "grad"):
            if name not in kept:
                raise Refused(f"its objects have no attribute {name}")
        self.children = self._children(kept, leaf, other)
        self.container = type(kept[self.children])
        self.leaf_container = type(getattr(leaf, self.children))
        if self.leaf_container not in (tuple, list, set, frozenset):
            raise Refused(f"its objects without children have no empty {self.children}")
        self.slopes = next(
            (n for n, v in kept.items() if repr(v) in ("(-0.5, 1.5)", "[-0.5, 1.5]")), None
        )
        if self.slopes:
            self.slopes_container = type(kept[self.slopes])
            self.leaf_slopes_container = type(getattr(leaf, self.slopes))
        self.closure = next((n for n, v in kept.items() if isinstance(v, types.FunctionType)), None)
        roles = {"data", "grad", self.children, self.slopes, self.closure}
        self.others = tuple(name for name in kept if name not in roles)
        for name in self.others:
            value = kept[name]
            if type(value) is tuple and {type(part) for part in value} & {int, float}:
                raise Refused(f"probe __mul__: {name} is {value} where (-0.5, 1.5) is expected")
        if tuple(_attributes(leaf)) != self.names or tuple(_attributes(total)) != self.names:
            raise Refused("its objects have not all the same attributes")
        self.defaults = self._defaults(leaf, total, product)
        self.switches = [
            name
            for name, values in self.defaults.items()
            if all(type(value) in SIMPLE for value in values.values())
        ]
        product.backward()
        fresh = cls(3)
        if fresh.grad != 0:
            raise Refused("probe constructor: its gradients do not start at 0")
        self.settings = {
            "to_float": type(fresh.data) is float,
            "grad_int": type(fresh.grad) is int,
            "root_int": type(product.grad) is int,
            "late": self.slopes is None,
            "ones_int": self.slope_is_int(cls, lambda x: x + x),
        }
        self.positional, self.keywords = self._constructor(cls, members["__init__"].__code__)
        self.has_slots = "__slots__" in cls.__dict__ and not hasattr(leaf, "__dict__")
        for name in _slots(cls) if self.has_slots else ():
            if name not in self.names:
                raise Refused(f"its constructor does not set its slot {name}")

    def _children(self, kept: dict[str, Any], a: Any, b: Any) -> str:
        for name, value in kept.items():
            if type(value) in (tuple, list, set, frozenset) and len(value) == 2:
                first, second = value
                if (first is a and second is b) or (
                    isinstance(value, (set, frozenset)) and first is b and second is a
                ):
                    return name
        raise Refused("its objects do not keep their two children")

    def _defaults(self, leaf: Any, total: Any, product: Any) -> dict[str, dict[int, Any]]:
        """Return the other attributes of a result, by name and operation."""
        ops = _script.OPS
        result: dict[str, dict[int, Any]] = {}
        for name in self.others:
            values = {
                ops["leaf"]: getattr(leaf, name),
                ops["add"]: getattr(total, name),
                ops["mul"]: getattr(product, name),
            }
            for value in values.values():
                if type(value) in (list, dict, set) and not value:
                    continue
                if not isinstance(value, (str, int, float, bool, type(None), tuple)):
                    raise Refused(f"its objects keep {name}, a {type(value).__name__}")
            result[name] = values
        return result

    def slope_is_int(self, cls: Any, operation: Any) -> bool:
        """Tell whether an operation on an int passes an int on: as local gradient or in a sum."""
        with suppress(Exception):
            x = cls(2)
            y = operation(x)
            if self.slopes:
                return type(getattr(y, self.slopes)[0]) is int
            y.backward()
            return type(x.grad) is int
        return False

    def relu(self, cls: Any, call: Any) -> dict[str, bool]:
        """Return the settings that follow from what a relu gives."""
        return {
            "relu_keeps": call(cls(math.nan)).data != 0,
            "relu_int": type(call(cls(-1.0)).data) is int,
            "relu_slope_int": self.slope_is_int(cls, call),
        }

    def _constructor(
        self, cls: type, code: types.CodeType
    ) -> tuple[tuple[str, ...] | None, dict[str, str]]:
        """Return the roles of the constructor's parameters, by place and by name."""
        n = code.co_argcount
        names = code.co_varnames[1 : n + code.co_kwonlyargcount]
        if n < 2:
            return None, {}
        roles = {names[0]: "data"}
        for name in names[1:]:
            role = self._role(cls, name)
            if role is None:
                break
            roles[name] = role
        places = tuple(roles[name] for name in names[: n - 1] if name in roles)
        keywords = {
            name: role
            for name, role in roles.items()
            if name not in code.co_varnames[: max(2, code.co_posonlyargcount)]
        }
        return places, keywords

    def _role(self, cls: type, name: str) -> str | None:
        child = cls(0.25)
        for trial in ((child,), (0.5,), "a name"):
            try:
                node = cls(1.5, **{name: trial})
            except Exception:
                continue
            kept = getattr(node, self.children)
            if trial == (child,) and type(kept) is self.container and list(kept) == [child]:
                return "children"
            if trial == (0.5,) and self.slopes and list(getattr(node, self.slopes)) == [0.5]:
                return "slopes"
            if trial == "a name":
                return next((other for other in self.others if getattr(node, other) is trial), None)
        return None


def _is_unary(name: str, member: Any) -> bool:
    """Tell whether a member is a method without arguments that could be exp, log, relu or tanh."""
    return (
        isinstance(member, types.FunctionType)
        and not name.startswith("_")
        and name != "backward"
        and member.__code__.co_argcount == 1
        and not member.__code__.co_kwonlyargcount
        and not member.__code__.co_flags & 0x2C  # *args, **kwargs, generators
    )


# ------------------------------------------------------------------ the compiled class


def _made(original: type, members: dict[str, Any], observed: _Observed) -> tuple[Any, type]:
    """Return the family and the class, whose operators are all still the script's own code."""
    family = _script.new_family()
    family.init = members["__init__"]
    family.children, family.container = observed.children, observed.container
    family.leaf_container = observed.leaf_container
    family.slopes = observed.slopes
    if observed.slopes:
        family.slopes_container = observed.slopes_container
        family.leaf_slopes_container = observed.leaf_slopes_container
    family.backward = observed.closure
    family.defaults, family.order = observed.defaults, observed.names
    family.positional, family.keywords = observed.positional, observed.keywords
    family.has_slots, family.guards, family.switches = observed.has_slots, [], set()
    namespace = {
        name: REPLACED.get(name, member)
        for name, member in vars(original).items()
        if name != "__slots__" and not isinstance(member, types.MemberDescriptorType)
    }
    fields: dict[str, Any] = {}
    for name in observed.names:
        fallback = namespace.pop(name, members.get(name, _script.MISSING))
        fields[name] = vars(_script.NodeBase).get(name) or _script.Field(family, name, fallback)
    if observed.has_slots:
        namespace.update(fields)
        fields = {}
    else:
        fields.update(REPLACED)
    base = type(original.__name__, (_script.Base,), {**fields, "__slots__": ()})
    kind = _metaclass(original, base)
    try:
        cls = kind(original.__name__, (base,), {**namespace, "__slots__": ()})
    except TypeError as error:
        raise Refused(f"its bases: {error}") from None
    if "__slots__" in original.__dict__:
        setattr(cls, "__slots__", original.__dict__["__slots__"])  # noqa: B010
    else:
        delattr(cls, "__slots__")
    delattr(base, "__slots__")
    cls.__qualname__ = original.__qualname__
    _script.adopt(family, cls, **observed.settings)
    return family, cls


def _metaclass(original: type, base: type) -> Any:
    """Return the metaclass of the class that takes another one's place: it has its bases.

    The bases are looked up, but they are no bases in the sense of memory: a Node has no room for
    what their objects keep.
    """
    hidden = {base, _script.Base, _script.NodeBase}

    def of_class(name: str) -> property:
        return property(
            lambda cls: (
                getattr(original, name)
                if base in vars(type)["__bases__"].__get__(cls)
                else vars(type)[name].__get__(cls)
            )
        )

    def mro(cls: Any) -> list[type]:
        usual = type.mro(cls)
        if vars(type)["__mro__"].__get__(cls):  # it is not being made
            return [c for c in usual if c not in hidden]
        is_subclass = any(isinstance(base, kind) for base in vars(type)["__bases__"].__get__(cls))
        return usual if is_subclass else [cls, base, *original.__mro__[1:-1], *usual[2:]]

    def shown(cls: Any) -> tuple[type, ...]:
        return tuple(c for c in vars(type)["__mro__"].__get__(cls) if c not in hidden)

    members = {"mro": mro, "__mro__": property(shown), "__module__": "builtins"}
    members |= {name: of_class(name) for name in ("__bases__", "__base__")}
    kind = type("type", (type,), members)
    return kind


class _Choice:
    """Lets run compiled what no probe can tell from the script's own."""

    def __init__(
        self,
        adoption: Adoption,
        members: dict[str, Any],
        observed: _Observed,
        mentions: Mentions,
        place: tuple[str, dict[str, Any]],
    ) -> None:
        self.adoption, self.members, self.observed = adoption, members, observed
        self.mentions, self.place = mentions, place
        self.original: Any = adoption.original
        self.cls: Any = adoption.cls
        self.settings = adoption.settings = dict(observed.settings)
        self.native: dict[tuple[str, Any], int] = {}  # by operator and probe
        sets = observed.container in (set, frozenset)
        self.here = probes.Probe(self.cls, observed.names, observed.closure, sets)
        self.there = probes.Probe(self.original, observed.names, observed.closure, sets)
        self.known: dict[Any, list[Any]] = {}
        self.taken: set[str] = set()  # one method an operation

    def equal(self, kind: Any, *arguments: Any) -> bool:
        """Tell whether a probe yields the same with both classes."""
        key = kind, repr(arguments)
        if key not in self.known:
            with self.by_itself():
                self.known[key] = list(kind(self.there, *arguments))
        there = self.known[key]
        return all(a == b for a, b in itertools.zip_longest(there, kind(self.here, *arguments)))

    def by_itself(self) -> Any:
        return _bound(self.original, self.original, *self.place)

    def configure(self) -> None:
        self.adoption.bits = sum(self.native.values())
        self.adoption.family.switches = self.mentions.read
        _script.configure(self.adoption.family, native=self.adoption.bits, **self.settings)

    def run(self) -> None:
        adoption, observed = self.adoption, self.observed
        own_backward = self.cls.backward
        self.cls.backward = calling(
            own_backward, _script.backward, result=self.result_of_backward()
        )
        reasons = self.reasons()
        constructor = observed.positional or ("data",), observed.keywords
        if observed.positional is None or not self.equal(probes.constructor, *constructor):
            adoption.family.positional, adoption.family.keywords = None, {}
            self.configure()
            adoption.own.append(("__init__", "its arguments are not only kept"))
        for name, kind in list(self.native):
            if self.equal(kind, name):
                continue
            if kind is probes.nodes and name in REQUIRED:
                self.cls.backward = own_backward
                if self.equal(kind, name):
                    raise Refused("probe backward: its backward is another walk, or does more")
                raise Refused(f"probe {name}: other numbers, children or derivatives")
            del self.native[name, kind]
            if kind is not probes.numbers or name in probes.REFLECTED:
                self.native.pop((name, probes.numbers), None)
                reasons[name] = "other numbers, children or derivatives"
            self.configure()
            if not self.equal(kind, name):
                if not self.equal(probes.graphs, set(), []):
                    raise Refused(_OTHER_WALK)
                raise Refused(f"probe {name}: its objects keep what the compiled class cannot")
        methods = [name for name in self.members if self.method(name)]
        operators = {name for name, _ in self.native}
        if not self.equal(probes.graphs, operators, methods):
            raise Refused(_OTHER_WALK)
        if not self.equal(probes.constructor, *constructor):
            raise Refused("probe constructor: it does more than keep what it is given")
        adoption.own += [(name, reason) for name, reason in reasons.items() if reason]
        adoption.native = [*sorted(operators), *methods, "backward"]

    def result_of_backward(self) -> str:
        with self.by_itself(), suppress(Exception):
            leaf = self.original(1.5)
            if leaf.backward() is leaf:
                return "self"
        return "None"

    def reasons(self) -> dict[str, str | None]:
        """Let all operators be compiled of which probes can speak; return why others are not."""
        members, mentions = self.members, self.mentions
        reasons = {name: mentions.reason(members[name]) for name in NEEDS if name in members}
        for name, needs in NEEDS.items():
            for need in needs:
                if name in reasons and reasons.get(need, "is missing"):
                    reasons[name] = reasons[name] or f"needs {need}"
        with self.by_itself(), suppress(Exception):
            if not reasons["__neg__"]:
                self.settings["minus_int"] = type((-self.original(2)).data) is int
        with self.by_itself(), suppress(Exception):
            if not reasons["__pow__"]:
                _name_powers(self.observed, self.original)
        for name, reason in reasons.items():
            if not reason:
                kind = {"__pow__": probes.power, "__neg__": probes.unary}.get(name, probes.nodes)
                kind = probes.numbers if name in probes.REFLECTED else kind
                self.native[name, kind] = _script.NATIVE[name]
                if name in _script.NUMBER:
                    self.native[name, probes.numbers] = _script.NUMBER[name]
        self.configure()
        return reasons

    def method(self, name: str) -> bool:
        """Let a method be compiled if it is one of METHODS; return whether it is."""
        member = self.members[name]
        if not _is_unary(name, member) or self.mentions.reason(member):
            return False
        choices: list[dict[str, bool]] = [{}]
        with self.by_itself():
            try:
                nodes = [getattr(self.original(x), name)() for x in POINTS]
                sample = [float(node.data).hex() for node in nodes]
                if sample == [x.hex() for x in POINTS]:
                    choices = [self.observed.relu(self.original, getattr(self.original, name))]
            except Exception:
                return False
        for op, rule in METHODS.items():
            if op in self.taken or sample != [rule(x).hex() for x in POINTS]:
                continue
            if op.startswith("tanh") and "tanh_square" not in self.settings:
                choices = [{"tanh_square": False}, {"tanh_square": True}]
            if self.compiled(op, name, nodes[0], choices):
                self.taken.add(op)
                return True
        return False

    def compiled(self, op: str, name: str, sample: Any, choices: list[dict[str, bool]]) -> bool:
        """Let a method be a compiled one, if it does the same with some settings."""
        family, before = self.adoption.family, dict(self.settings)
        for attribute in self.observed.others:
            family.defaults[attribute][_script.OPS[op]] = getattr(sample, attribute)
        setattr(self.cls, name, calling(self.members[name], getattr(_script, op)))
        for choice in choices:
            self.settings.update(choice)
            self.configure()
            if self.equal(probes.unary, name):
                return True
        self.settings.clear()
        self.settings.update(before)
        setattr(self.cls, name, self.members[name])
        self.configure()
        return False


def _name_powers(observed: _Observed, original: Any) -> None:
    """Find how other attributes of a power, such as its name, follow from the exponent."""
    nodes = {k: original(1.5) ** k for k in (2, 0.5, -1)}
    for name in observed.others:
        values = {k: getattr(node, name) for k, node in nodes.items()}
        rule: Any = values[2]
        if isinstance(values[2], str) and "2" in values[2] and values[-1] != values[2]:
            before, after = values[2].split("2", 1)

            def rule(k: Any, before: str = before, after: str = after) -> str:
                return f"{before}{k}{after}"

        observed.defaults[name][_script.OPS["pow"]] = rule
