"""From a script's class to the compiled class that takes its place.

The one module that knows both: it looks at what objects of the class keep (`_observed`),
makes a class from `_script.Node` with all members of the script's own, and lets those
operators run compiled that the probes cannot tell from the script's.
"""

from __future__ import annotations

import dis
import inspect
import itertools
import math
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from microgpt import _script
from microgpt.run import loops, probes
from microgpt.run.mentions import Mentions

FORBIDDEN = (
    "__setattr__ __getattribute__ __getattr__ __new__ __del__ __delattr__ __init_subclass__ "
    "__reduce__ __reduce_ex__ __getstate__ __setstate__ __dir__"
).split()
METHODS = {op: f"_native_{op}" for op in "exp log relu tanh tanh_exp sigmoid".split()}
RELU_CHOICES = [
    dict(zip(("relu_keeps", "relu_int", "relu_slope_int"), flags))
    for flags in itertools.product((False, True), repeat=3)
]
# What an operator's own code calls has to be compiled before it is judged.
NEEDS = {
    "__radd__": ("__add__",),
    "__rmul__": ("__mul__",),
    "__sub__": ("__neg__", "__add__"),
    "__rsub__": ("__neg__", "__radd__"),
    "__truediv__": ("__mul__", "__pow__"),
    "__rtruediv__": ("__rmul__", "__pow__"),
}


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    """The class stays as it is; the text says why."""


class Adoption:
    """A class of a script and the one that took its place."""

    def __init__(self, original: type, cls: type, family: Any) -> None:
        self.original, self.cls, self.family = original, cls, family
        self.native: list[str] = []
        self.own: list[tuple[str, str]] = []  # operators that stay Python code, and why
        self.settings: dict[str, bool] = {}

    def retire(self) -> None:
        """Let all operators be the script's own code: its name means another class now."""
        _script.configure(self.family, native=0, **self.settings)


def is_candidate(cls: object) -> bool:
    """Tell whether a class looks like a node of an autograd graph."""
    return isinstance(cls, type) and all(
        isinstance(cls.__dict__.get(name), types.FunctionType)
        for name in ("__add__", "__mul__", "backward")
    )


def adopted(original: type, name: str, scope: dict[str, Any]) -> Adoption:
    """Return a compiled class that behaves as a script's class.

    name is what the class will be called in its scope, a module's globals.

    Raises:  Refused with the reason
    """
    if type(original) is not type:
        raise Refused(f"its metaclass is {type(original).__name__}")
    if original.__bases__ != (object,):
        raise Refused(f"it is a subclass of {original.__bases__[0].__name__}")
    for forbidden in FORBIDDEN:
        if forbidden in original.__dict__:
            raise Refused(f"it has {forbidden}")
    if "__init__" not in original.__dict__:
        raise Refused("it has no __init__ of its own")
    with _bound(original, original, name, scope):
        mentions = Mentions(original, _stored(original))
        for method in ("__init__", "backward", "__add__", "__mul__"):
            reason = mentions.reason(original.__dict__[method])
            if reason:
                raise Refused(f"{method} {reason}")
        observed = _Observed(original)
        mentions.known.clear()
        mentions.hidden = set(observed.others)
        for method in ("backward", "__add__", "__mul__"):
            reason = mentions.reason(original.__dict__[method])
            if reason:
                raise Refused(f"{method} {reason}")
        guards = list(mentions.guards)
        expected = _Expected(observed)
    family, cls = _made(original, observed)
    family.guards = _guards(guards, original, cls)
    adoption = Adoption(original, cls, family)
    with _bound(original, cls, name, scope):
        _choose(adoption, observed, mentions, expected, (original, name, scope))
    family.guards = _guards(mentions.guards, original, cls)
    if len(family.guards) > 8:
        raise Refused("it reads more than 8 variables")
    for function in original.__dict__.values():
        _rebind_class_cell(function, cls)
    return adoption


@contextmanager
def _bound(original: type, cls: type, name: str, scope: dict[str, Any]) -> Iterator[None]:
    """Let a class have its name while it is probed: in its module, and in its methods' closures."""
    missing = object()
    before = scope.get(name, missing)
    cells = {
        id(cell): cell
        for member in original.__dict__.values()
        for function in (getattr(member, "__func__", member),)
        if isinstance(function, types.FunctionType)
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or ())
        if free == name
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


def _rebind_class_cell(member: Any, cls: type) -> None:
    """Let `super()` and `__class__` in a method mean the class that has taken its place."""
    function = getattr(member, "__func__", member)
    if isinstance(function, types.FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if name == "__class__":
                cell.cell_contents = cls


def _guards(
    guards: list[tuple[Any, str, Any]], original: type, cls: type
) -> list[tuple[Any, str, Any]]:
    unique = {(id(where), name): (where, name, value) for where, name, value in guards}
    return [
        (cls if where is original else where, name, value) for where, name, value in unique.values()
    ]


# ------------------------------------------------------------------ what objects keep


def _attributes(node: Any) -> dict[str, Any]:
    """Return an object's attributes by name, in the order in which they were set or declared."""
    found = dict(getattr(node, "__dict__", {}))
    slots = type(node).__dict__.get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else tuple(slots):
        if hasattr(node, name) and name not in ("__dict__", "__weakref__"):
            found[name] = getattr(node, name)
    if "grad" not in found and hasattr(node, "grad"):  # of the class, until it is set
        found["grad"] = node.grad
    return found


def _stored(cls: type) -> set[str]:
    """Return the attributes that a class's constructor gives its objects.

    A name that it reads as well, and that the class itself has, is a counter of the class.
    """
    stored, read = set(), set()
    function = cls.__dict__["__init__"]
    for instruction in dis.get_instructions(function):
        if instruction.opname == "STORE_ATTR":
            stored.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            read.add(instruction.argval)
    if isinstance(cls.__dict__.get("grad"), (int, float)):
        stored.add("grad")
    return {
        name
        for name in stored
        if not (name in read and name in cls.__dict__)
        or isinstance(cls.__dict__[name], types.MemberDescriptorType)
    }


class _Observed:
    """What objects of a class keep, and what their constructor takes."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        try:
            leaf, other = cls(1.5), cls(-0.5)
            total, product = leaf + other, leaf * other
        except Exception as error:
            raise Refused(
                f"Value(1.5) + Value(-0.5) raises {type(error).__name__}".replace(
                    "Value", cls.__name__
                )
            ) from None
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
            (
                name
                for name, value in kept.items()
                if name != self.children and type(value) is tuple and value == (-0.5, 1.5)
            ),
            None,
        )
        self.closure = next(
            (n for n, value in kept.items() if isinstance(value, types.FunctionType)), None
        )
        roles = {"data", "grad", self.children, self.slopes, self.closure}
        self.others = tuple(name for name in kept if name not in roles)
        for name in self.others:
            value = kept[name]
            if type(value) is tuple and {type(part) for part in value} & {int, float}:
                raise Refused(f"probe __mul__: {name} is {value} where (-0.5, 1.5) is expected")
        if tuple(_attributes(leaf)) != self.names or tuple(_attributes(total)) != self.names:
            raise Refused("its objects have not all the same attributes")
        self.defaults = self._defaults(leaf, total, product)
        self.to_float = type(cls(3).data) is float
        self.grad_int = type(leaf.grad) is int
        product.backward()
        self.root_int = type(product.grad) is int
        self.positional, self.keywords = self._constructor(cls)
        self.has_slots = "__slots__" in cls.__dict__ and not hasattr(leaf, "__dict__")
        slots = cls.__dict__.get("__slots__", ()) if self.has_slots else ()
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
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

    def _constructor(self, cls: type) -> tuple[tuple[str, ...] | None, dict[str, str]]:
        """Return the roles of the constructor's parameters, by place and by name."""
        try:
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
        except (TypeError, ValueError):
            return None, {}
        roles: dict[str, str] = {}
        for parameter in parameters[1:]:
            role = self._role(cls, parameter.name)
            if role is None:
                break
            roles[parameter.name] = role
        if not parameters or parameters[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            return None, {}
        roles = {parameters[0].name: "data", **roles}
        places = tuple(
            roles[p.name]
            for p in itertools.takewhile(lambda p: p.name in roles, parameters)
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        )
        keywords = {
            p.name: roles[p.name]
            for p in parameters[1:]
            if p.name in roles and p.kind is not p.POSITIONAL_ONLY
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
            if trial == (0.5,) and self.slopes and getattr(node, self.slopes) == trial:
                return "slopes"
            if trial == "a name":
                return next((other for other in self.others if getattr(node, other) is trial), None)
        return None


# ------------------------------------------------------------------ the compiled class


def _made(original: type, observed: _Observed) -> tuple[Any, type]:
    """Return the family and the class, whose operators are all still the script's own code."""
    family = _script.new_family()
    family.originals = dict(original.__dict__)
    family.init = original.__dict__["__init__"]
    family.children, family.container = observed.children, observed.container
    family.leaf_container = observed.leaf_container
    family.slopes, family.backward = observed.slopes, observed.closure
    family.defaults, family.order = observed.defaults, observed.names
    family.positional, family.keywords = None, {}
    family.has_slots, family.guards = observed.has_slots, []
    members = {
        name: member
        for name, member in original.__dict__.items()
        if name not in ("__dict__", "__weakref__", "__slots__")
        and not isinstance(member, types.MemberDescriptorType)
    }
    for name in observed.names:
        if name in ("data", "grad"):
            members[name] = _script.Node.__dict__[name]
        else:
            members[name] = _script.Field(family, name, members.get(name, _script.MISSING))
    if not observed.has_slots:
        members["__dict__"] = property(_script.Attributes)
    cls = type(original.__name__, (_script.Base,), {**members, "__slots__": ()})
    if "__slots__" in original.__dict__:
        setattr(cls, "__slots__", original.__dict__["__slots__"])  # noqa: B010
    else:
        delattr(cls, "__slots__")
    cls.__qualname__ = original.__qualname__
    _script.adopt(family, cls, **_settings(observed))
    return family, cls


def _settings(observed: _Observed) -> dict[str, bool]:
    return {
        "to_float": observed.to_float,
        "grad_int": observed.grad_int,
        "root_int": observed.root_int,
        "late": observed.slopes is None,
    }


class _Expected:
    """Outcomes of the script's own class; each is computed once."""

    def __init__(self, observed: _Observed) -> None:
        self.observed = observed
        self.probe = probes.Probe(observed.cls, observed.names, observed.children, observed.closure)
        self.probe.is_set = observed.container in (set, frozenset)
        self.known: dict[Any, list[Any]] = {}

    def of(self, kind: Any, *arguments: Any) -> list[Any]:
        key = (kind, repr(arguments))
        if key not in self.known:
            self.known[key] = list(kind(self.probe, *arguments))
        return self.known[key]


def _choose(
    adoption: Adoption,
    observed: _Observed,
    mentions: Mentions,
    expected: _Expected,
    place: tuple[Any, ...],
) -> None:
    """Let run compiled what no probe can tell from the script's own."""
    original, cls, family = adoption.original, adoption.cls, adoption.family
    probe = probes.Probe(cls, observed.names, observed.children, observed.closure)
    probe.is_set = expected.probe.is_set
    settings = _settings(observed)
    native = 0

    def known(kind: Any, *arguments: Any) -> list[Any]:
        with _bound(original, original, place[1], place[2]):
            return expected.of(kind, *arguments)

    def equal(kind: Any, *arguments: Any) -> bool:
        there = known(kind, *arguments)
        return all(a == b for a, b in itertools.zip_longest(there, kind(probe, *arguments)))

    # First the storage alone: all operators are still Python code.
    if not equal(probes.binary, "__add__") or not equal(probes.binary, "__mul__"):
        raise Refused("its objects keep what the compiled class cannot")
    family.positional, family.keywords = observed.positional, observed.keywords
    if observed.positional is None or not equal(
        probes.constructor, observed.positional, observed.keywords
    ):
        family.positional, family.keywords = None, {}
        adoption.own.append(("__init__", "its arguments are not only kept"))
        if not equal(probes.constructor, observed.positional or ("data",), observed.keywords):
            raise Refused("probe constructor: its constructor does more than keep what it is given")

    def attempt(name: str, bit: int, probe_kind: Any, choices: list[dict[str, bool]]) -> bool:
        """Try an operator compiled, with each choice of settings; keep the first that is equal."""
        nonlocal native
        number = _script.NUMBER.get(name, 0)
        for bits in (bit | number, bit) if number else (bit,):
            for choice in choices:
                _script.configure(family, native=native | bits, **{**settings, **choice})
                if equal(probe_kind, name) and equal(probes.late, name):
                    settings.update(choice)
                    native |= bits
                    return True
        _script.configure(family, native=native, **settings)
        return False

    if "__pow__" in original.__dict__:
        _power_names(observed, original, place, family)
    # backward comes first: with it all other probes are those of the compiled one.
    compiled_backward = _script.Node.__dict__["_native_backward"]
    own_backward = cls.backward  # type: ignore[attr-defined]
    cls.backward = compiled_backward  # type: ignore[attr-defined]
    first: list[tuple[str, list[dict[str, bool]]]] = [
        ("__add__", [{"ones_int": True}, {"ones_int": False}]),
        ("__mul__", [{}]),
    ]
    for name, choices in first:
        if not attempt(name, _script.NATIVE[name], probes.binary, choices):
            cls.backward = own_backward  # type: ignore[attr-defined]
            same = attempt(name, _script.NATIVE[name], probes.binary, choices)
            raise Refused(
                f"probe {'backward' if same else name}: "
                + (
                    "its backward is another walk, or does more"
                    if same
                    else "other numbers, children or derivatives"
                )
            )
    for name in (
        "__radd__",
        "__rmul__",
        "__pow__",
        "__neg__",
        "__sub__",
        "__rsub__",
        "__truediv__",
        "__rtruediv__",
    ):
        if name not in original.__dict__:
            continue
        reason = mentions.reason(original.__dict__[name])
        bit = _script.NATIVE[name]
        choices = [{}]
        if name == "__neg__":
            choices = [{"minus_int": True}, {"minus_int": False}]
        missing = [need for need in NEEDS.get(name, ()) if not native & _script.NATIVE[need]]
        if not reason and missing:
            reason = f"needs {missing[0]}"
        if not reason and not attempt(
            name,
            bit,
            probes.power
            if name == "__pow__"
            else probes.binary
            if name != "__neg__"
            else probes.unary,
            choices,
        ):
            reason = "other numbers, children or derivatives"
        if reason:
            adoption.own.append((name, reason))
    methods = []
    for name, member in original.__dict__.items():
        if _is_unary(name, member):
            op, choice = _method(
                name, member, adoption, observed, mentions, settings, native, equal, known
            )
            if op:
                settings.update(choice)
                methods.append(name)
    _script.configure(family, native=native, **settings)
    operators = {name for name in _script.NATIVE if native & _script.NATIVE[name]}
    if not equal(probes.graphs, operators, methods):
        raise Refused("probe graphs: gradients differ: another order of the walk or of sums")
    if not equal(probes.constructor, observed.positional or ("data",), observed.keywords):
        raise Refused("probe backward: it goes through a node's children in another order")
    adoption.settings = settings
    adoption.native = [*sorted(operators), *methods, "backward"]
    loops.kinds.add(cls)


def _is_unary(name: str, member: Any) -> bool:
    """Tell whether a member is a method without arguments that could be exp, log, relu or tanh."""
    return (
        isinstance(member, types.FunctionType)
        and not name.startswith("_")
        and name != "backward"
        and member.__code__.co_argcount == 1
        and not member.__code__.co_flags
        & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR)
        and not member.__code__.co_kwonlyargcount
    )


def _method(
    name: str,
    member: Any,
    adoption: Adoption,
    observed: _Observed,
    mentions: Mentions,
    settings: dict[str, bool],
    native: int,
    equal: Any,
    known: Any,
) -> tuple[str | None, dict[str, bool]]:
    """Return which compiled method a method is, and with which settings; else None."""
    cls, family = adoption.cls, adoption.family
    if mentions.reason(member):
        return None, {}
    sample = known(_samples, name)
    if not sample:
        return None, {}
    for op in METHODS:
        if sample[0] != _SAMPLES[op]:
            continue
        if op != name and "_native" in repr(cls.__dict__.get(op)):
            continue  # one method an operation
        choices = RELU_CHOICES if op == "relu" else [{}]
        if op.startswith("tanh"):
            choices = [{"tanh_square": False}, {"tanh_square": True}]
        for other in observed.others:
            family.defaults[other][_script.OPS[op]] = sample[1][other]
        family.originals[op] = member
        setattr(cls, name, _script.Node.__dict__[METHODS[op]])
        for choice in choices:
            _script.configure(family, native=native, **{**settings, **choice})
            if equal(probes.unary, name) and equal(probes.late, name):
                return op, choice
        setattr(cls, name, member)
        _script.configure(family, native=native, **settings)
    return None, {}


def _samples(probe: probes.Probe, name: str) -> Iterator[Any]:
    """Yield a method's results, and the other attributes of one."""
    try:
        nodes = [getattr(probe.cls(x), name)() for x in _POINTS]
        yield [float(node.data).hex() for node in nodes]
        yield {n: getattr(nodes[0], n) for n in probe.names}
    except Exception:
        return


_POINTS = (0.75, 1.5, 2.25)
_RULES: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "log": math.log,
    "relu": lambda x: x,
    "tanh": math.tanh,
    "tanh_exp": lambda x: (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}
_SAMPLES = {op: [rule(x).hex() for x in _POINTS] for op, rule in _RULES.items()}


def _power_names(observed: _Observed, original: type, place: tuple[Any, ...], family: Any) -> None:
    """Find how other attributes of a power, such as its name, follow from the exponent."""
    with _bound(original, original, place[1], place[2]):
        try:
            nodes = {k: original(1.5) ** k for k in (2, 0.5, -1)}
        except Exception:
            return
    for name in observed.others:
        values = {k: getattr(node, name) for k, node in nodes.items()}
        rule: Any = values[2]
        if len(set(values.values())) > 1 and isinstance(values[2], str) and "2" in values[2]:
            before, after = values[2].split("2", 1)

            def rule(k: Any, before: str = before, after: str = after) -> str:
                return f"{before}{k}{after}"

        family.defaults[name][_script.OPS["pow"]] = rule
