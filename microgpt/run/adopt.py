"""From a script's class to the compiled class that takes its place.

`Observed` finds the attributes of the class's objects. `made` makes a class over `_script.NodeBase`
with all members of the script's class. `Adoption` compiles the operators that no probe can
distinguish from the script's.
"""

from __future__ import annotations

import itertools
import math
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from microgpt import _script
from microgpt.run import loops, probes
from microgpt.run.functions import calling
from microgpt.run.mentions import Mentions
from microgpt.run.observed import Observed, Refused, stored_by
from microgpt.run.standin import made

FORBIDDEN = (
    "__setattr__ __getattribute__ __getattr__ __new__ __del__ __delattr__ __init_subclass__ "
    "__reduce__ __reduce_ex__ __getstate__ __setstate__ __dir__"
).split()
LIBRARY = ("abc", "typing")  # of bases such as ABC, Generic and Protocol
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
_HEAP_TYPE = 1 << 9
_OTHER_WALK = "probe graphs: gradients differ: another order of the walk or of sums"


def members_of(cls: type) -> dict[str, tuple[type, Any]]:
    """Return the members of a class and its bases by name, each with the class that defines it."""
    return {
        name: (base, member)
        for base in reversed(cls.__mro__[:-1])
        if base.__module__ not in LIBRARY
        for name, member in base.__dict__.items()
    }


def _continues(cls: type) -> bool:
    """Return whether a class adds to a replaced one under the same name: `class Value(Value)`."""
    return any(
        base.__name__ == cls.__name__ and issubclass(base, _script.NodeBase)
        for base in cls.__bases__
    )


def over_own_bases(cls: Any, replaced: type, original: Any) -> Any:
    """Return a class again, over the script's own class in the place of the one replaced."""
    namespace = dict(vars(cls))
    bases = tuple(original if base is replaced else base for base in cls.__bases__)
    calls_super = any(name == "__class__" for m in namespace.values() for name, _ in _cells(m))
    if "__slots__" in vars(original) and not calls_super:  # no room for more: one class of both
        slots = (*vars(original)["__slots__"], *namespace.get("__slots__", ("__dict__",)))
        namespace = {**vars(original), **namespace, "__slots__": slots}
        bases = original.__bases__
    kept = {
        name: member
        for name, member in namespace.items()
        if name not in ("__dict__", "__weakref__")
        and not isinstance(member, types.MemberDescriptorType)
    }
    return type(original)(cls.__name__, bases, kept)


def is_candidate(cls: object) -> bool:
    """Return whether a class looks like a node of an autograd graph."""
    if not isinstance(cls, type) or not (
        any(name in cls.__dict__ for name in REQUIRED) or _continues(cls)
    ):
        return False
    members = members_of(cls)
    return all(isinstance(members.get(n, (0, 0))[1], types.FunctionType) for n in REQUIRED)


class Adoption:
    """A class of a script, and the compiled class that replaces it."""

    def __init__(
        self, original: type, name: str, scope: dict[str, Any], bound: Any, tests: Any = ()
    ) -> None:
        """Make a compiled class that behaves as a script's class.

        name is the name of the class in its scope, a module's globals. bound has the module's
        global names, each with all that its code binds to it; tests are its `if`s.

        Raises:  Refused with the reason
        """
        if issubclass(original, _script.NodeBase):
            raise Refused("it is a subclass of a class that is replaced")
        if type(original) is not type and type(original).__module__ not in LIBRARY:
            raise Refused(f"its metaclass is {type(original).__name__}")
        owners = members_of(original)
        for base in original.__mro__[1:-1]:
            if not base.__flags__ & _HEAP_TYPE:
                raise Refused(f"it is a subclass of {base.__name__}")
        for forbidden in FORBIDDEN:
            if forbidden in owners:
                raise Refused(f"it has {forbidden}")
        if "__init__" not in owners:
            raise Refused("it has no __init__ of its own")
        self.original: Any = original
        outer, *inner = original.__qualname__.split(".")
        self.place = name, scope, outer if inner == [name] else ""
        self.members = {name: member for name, (_, member) in owners.items()}
        self.mentions = Mentions(name, owners, stored_by(original, self.members), bound)
        self.mentions.outer, self.mentions.tests = self.place[2], tests
        self.native: list[str] = []
        self.own: list[tuple[str, str]] = []  # operators that stay Python code, and why
        self.bits: dict[tuple[str, Any], int] = {}  # by operator and probe
        self.taken: set[str] = set()  # one method an operation
        self.known: dict[Any, list[Any]] = {}
        limit = sys.getrecursionlimit()
        try:
            self.judge()
        finally:
            sys.setrecursionlimit(limit)
            for where, early in self.mentions.early:
                del where[early]

    def judge(self) -> None:
        original, mentions = self.original, self.mentions
        with self.by_itself():
            for name in ("__init__", *REQUIRED):
                self.require(name, self.members[name])
            self.observed = observed = Observed(original, self.members)
            self.family = observed.family
            mentions.known.clear()
            mentions.hidden = set(observed.others)
            mentions.switches = observed.switches
            mentions.usual = {
                name: values[_script.OPS["leaf"]]
                for name, values in self.family.defaults.items()
                if name in observed.switches and len(set(values.values())) == 1
            }
            mentions.has_closures = self.family.backward is not None
            for name in REQUIRED:
                self.require(name, self.members[name])
        self.settings = dict(observed.settings)
        self.cls = cls = made(original, self.members, observed)
        sets = self.family.container in (set, frozenset)
        self.here, self.there = (probes.Probe(c, self.family, sets) for c in (cls, original))
        with _bound(original, cls, *self.place):
            self.choose()
        self.configure()
        for member in vars(original).values():
            for free, cell in _cells(member):
                if free == "__class__":  # of `super()`
                    cell.cell_contents = cls
        names = {self.family.data: loops.DATA, self.family.grad: loops.GRAD}
        if all(name in self.family.order or self.is_kept(name) for name in names):
            loops.kinds[cls] = names

    def is_kept(self, name: str) -> bool:
        """Return whether a property of data or grad does no more than keep a float."""
        member = self.members[name]
        if type(member) is not property or any(
            self.mentions.reason(function) for function in (member.fget, member.fset)
        ):
            return False
        with self.by_itself(), suppress(Exception):
            node = self.original(1.5)
            before = dict(vars(node)) if hasattr(node, "__dict__") else {}
            is_grad = name == self.family.grad
            stored = self.family.stored_grad if is_grad else self.family.stored_data
            for number in (x for x in probes.NUMBERS if is_grad or type(x) is float):
                setattr(node, name, number)
                for kept in (getattr(node, name), getattr(node, stored)):
                    if probes.number(kept) != probes.number(number):
                        return False
                before[stored] = getattr(node, stored)
                if hasattr(node, "__dict__") and vars(node) != before:
                    return False
            return True
        return False

    def require(self, name: str, function: Any) -> None:
        self.mentions.in_backward = name == "backward"
        reason = self.mentions.reason(function)
        self.mentions.in_backward = False
        if reason:
            raise Refused(f"{name} {reason}")

    def retire(self) -> None:
        """Use only the script's code: the class, or a name that it reads, is defined again."""
        for name in self.native:
            if not name.startswith("__"):
                setattr(self.cls, name, self.cls.__dict__[name].__wrapped__)
        self.bits.clear()
        self.configure()

    def by_itself(self) -> Any:
        return _bound(self.original, self.original, *self.place)

    def configure(self) -> None:
        """Set which operators are compiled, how, and what has to hold for it."""
        guards = {(id(where), name): (where, name, v) for where, name, v in self.mentions.guards}
        if len(guards) > 8:
            raise Refused("it reads more than 8 variables")
        instead = {id(self.original): self.cls}
        self.family.guards = [
            (instead.get(id(where), where), name, instead.get(id(value), value))
            for where, name, value in guards.values()
        ]
        self.family.switches = self.mentions.read | self.mentions.read_later
        if self.mentions.read_later:
            self.family.own |= {
                _script.OPS[name.strip("_")]: self.members[name]
                for name in ("__add__", "__mul__", "__pow__")
                if name in self.members
            }
        _script.configure(self.family, native=sum(self.bits.values()), **self.settings)

    def equal(self, kind: Any, *arguments: Any) -> bool:
        """Return whether a probe yields the same with both classes."""
        key = kind, repr(arguments)
        if key not in self.known:
            with self.by_itself():
                self.known[key] = list(kind(self.there, *arguments))
        there = self.known[key]
        return all(a == b for a, b in itertools.zip_longest(there, kind(self.here, *arguments)))

    def choose(self) -> None:
        family, cls = self.family, self.cls
        own_backward = cls.backward
        cls.backward = calling(own_backward, *self.backward())
        reasons = self.reasons()
        constructor = family.positional or ("data",), family.keywords
        if family.positional is None or not self.equal(probes.constructor, *constructor):
            family.positional, family.keywords = None, {}
            self.configure()
            self.own.append(("__init__", "its arguments are not only kept"))
        for name, kind in list(self.bits):
            if self.equal(kind, name):
                continue
            if kind is probes.nodes and name in REQUIRED:
                cls.backward = own_backward
                if self.equal(kind, name):
                    raise Refused("probe backward: its backward is another walk, or does more")
                raise Refused(f"probe {name}: other numbers, children or derivatives")
            del self.bits[name, kind]
            if kind is not probes.numbers or name in probes.REFLECTED:
                self.bits.pop((name, probes.numbers), None)
                reasons[name] = "other numbers, children or derivatives"
            self.configure()
            if not self.equal(kind, name):
                if not self.equal(probes.graphs, set(), []):
                    raise Refused(_OTHER_WALK)
                raise Refused(f"probe {name}: its objects keep what the compiled class cannot")
        methods = [name for name in self.members if self.method(name)]
        operators = {name for name, _ in self.bits}
        if not self.equal(probes.graphs, operators, methods):
            raise Refused(_OTHER_WALK)
        if not self.equal(probes.constructor, *constructor):
            raise Refused("probe constructor: it does more than keep what it is given")
        self.own += [(name, reason) for name, reason in reasons.items() if reason]
        self.native = [*sorted(operators), *methods, "backward"]

    def backward(self) -> tuple[Any, tuple[str, ...], str]:
        """Return the compiled backward, no names, and what the script's own returns."""
        compiled: Any = _script.backward
        result, leaf = "None", self.cls(1.5)
        own = self.members["backward"]
        with suppress(Exception):
            if own(leaf) is leaf:
                result = "self"
        if self.mentions.sets_limit:  # of recursion, which is seen later
            limits = []
            for nodes in ([leaf], [self.cls(0.5) for _ in range(2**12)]):
                while len(nodes) > 1:
                    nodes = [a + b for a, b in zip(nodes[::2], nodes[1::2])]
                sys.setrecursionlimit(1000)
                own(nodes[0])
                limits.append(sys.getrecursionlimit())
            if limits[0] != limits[1]:
                raise Refused("backward sets a recursion limit that depends on the graph")
            # The class's own backward, of a leaf, sets the limit.
            compiled = lambda node: (own(leaf), _script.backward(node))[1]  # noqa: E731
        return compiled, (), result

    def reasons(self) -> dict[str, str | None]:
        """Compile the operators that probes can judge; return why others are not compiled."""
        members, mentions = self.members, self.mentions
        reasons = {name: mentions.reason(members[name]) for name in NEEDS if name in members}
        for name, needs in NEEDS.items():
            for need in needs:
                if name in reasons and reasons.get(need, "is missing"):
                    reasons[name] = reasons[name] or f"needs {need}"
        with self.by_itself(), suppress(Exception):
            if not reasons["__neg__"]:
                self.settings["minus_int"] = type(self.observed.data(-self.original(2))) is int
        with self.by_itself(), suppress(Exception):
            if not reasons["__pow__"]:
                self.observed.name_powers(self.original)
        for name, reason in reasons.items():
            if not reason:
                kind = {"__pow__": probes.power, "__neg__": probes.unary}.get(name, probes.nodes)
                kind = probes.numbers if name in probes.REFLECTED else kind
                self.bits[name, kind] = _script.NATIVE[name]
                if name in _script.NUMBER:
                    self.bits[name, probes.numbers] = _script.NUMBER[name]
        self.configure()
        return reasons

    def method(self, name: str) -> bool:
        """Compile a method if it is one of METHODS; return whether it is."""
        member = self.members[name]
        if not _is_unary(name, member) or self.mentions.reason(member):
            return False
        choices: list[dict[str, bool]] = [{}]
        with self.by_itself():
            try:
                nodes = [getattr(self.original(x), name)() for x in POINTS]
                sample = [float(self.observed.data(node)).hex() for node in nodes]
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
        """Use a compiled method if it does the same with some settings."""
        family, before = self.family, dict(self.settings)
        if family.backward:
            family.closures[_script.OPS[op]] = getattr(sample, family.backward)
        for attribute, values in family.defaults.items():
            if not callable(values[_script.OPS["leaf"]]):
                values[_script.OPS[op]] = getattr(sample, attribute)
        setattr(self.cls, name, calling(self.members[name], getattr(_script, op)))
        if self.mentions.read_later:
            family.own[_script.OPS[op]] = self.members[name]
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


def _cells(member: Any) -> list[tuple[str, types.CellType]]:
    function = getattr(member, "__func__", member)
    if not isinstance(function, types.FunctionType):
        return []
    return list(zip(function.__code__.co_freevars, function.__closure__ or ()))


@contextmanager
def _bound(
    original: type, cls: type, name: str, scope: dict[str, Any], outer: str
) -> Iterator[None]:
    """Bind a class to its name while it is probed: in its module, and in its methods' closures."""
    missing, value = object(), cast("Any", cls)
    if outer:  # the class in whose body it stands, which is not made yet
        name, value = outer, types.SimpleNamespace(**{name: cls})
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
    scope[name] = value
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


def _is_unary(name: str, member: Any) -> bool:
    """Return whether a member is a method without arguments: exp, log, relu or tanh, perhaps."""
    return (
        isinstance(member, types.FunctionType)
        and not name.startswith("_")
        and name != "backward"
        and member.__code__.co_argcount == 1
        and not member.__code__.co_kwonlyargcount
        and not member.__code__.co_flags & 0x2C  # *args, **kwargs, generators
    )
