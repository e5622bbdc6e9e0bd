"""The attributes of a script class's objects, and the parameters of its constructor."""

from __future__ import annotations

import dis
import math
import types
from contextlib import suppress
from typing import Any

from microgpt import _script
from microgpt.run.mentions import SIMPLE, is_enum


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    """The class stays as it is; the text says why."""


DATA, GRAD = ("data", "value", "val"), ("grad", "gradient")  # what scripts call them


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return tuple(
        f"_{cls.__name__.lstrip('_')}{name}"
        if name.startswith("__") and not name.endswith("__")
        else name
        for name in ((slots,) if isinstance(slots, str) else slots)
        if name not in ("__dict__", "__weakref__")
    )


def _attributes(node: Any) -> dict[str, Any]:
    """Return an object's attributes by name, in the order in which they were set or declared."""
    found = dict(getattr(node, "__dict__", {}))
    for name in (name for base in reversed(type(node).__mro__) for name in _slots(base)):
        if hasattr(node, name):
            found[name] = getattr(node, name)
    for name in GRAD:
        if name not in found and type(getattr(type(node), name, None)) in (int, float):
            found[name] = getattr(node, name)  # of the class, until it is set
    return found


def stored_by(cls: type, members: dict[str, Any]) -> set[str]:
    """Return the attributes that a class's constructor gives its objects.

    A name that it reads as well, and that the class itself has, is a counter of the class.
    """
    stored, read = set(), set()
    functions = [base.__dict__.get("__init__") for base in cls.__mro__[1:-1]]
    setters = [member.fset for member in members.values() if type(member) is property]
    for function in (members["__init__"], *functions, *setters):
        for instruction in dis.get_instructions(function) if function else ():
            if instruction.opname == "STORE_ATTR":
                stored.add(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                read.add(instruction.argval)
    stored |= {name for name in GRAD if isinstance(members.get(name), (int, float))}
    return {
        name
        for name in stored
        if type(members.get(name)) is not property
        and (
            not (name in read and name in members)
            or isinstance(members[name], types.MemberDescriptorType)
        )
    }


def _named(cls: type, names: list[str], missing: str) -> tuple[str, str]:
    """Return what a script calls a number of its nodes, and the attribute that holds it."""
    for name in names:
        with suppress(Exception):
            node: Any = cls(1.5)
            setattr(node, name, 0.125)
            found = [n for n, v in _attributes(node).items() if type(v) is float and v == 0.125]
            if found:
                return name, found[0]
    raise Refused(f"its objects have no attribute {missing}")


def _of_first_number(family: Any, name: str) -> Any:
    """Return a function that gives an attribute that the constructor makes of a node's number."""

    def value(node: Any) -> Any:
        fresh = family.cls.__new__(family.cls)
        family.init(fresh, node._microgpt_data)
        return _script.peek(fresh, name)

    return value


class Observed:
    """The attributes of a class's objects, and the parameters of its constructor."""

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
        if tuple(_attributes(leaf)) != tuple(kept) or tuple(_attributes(total)) != tuple(kept):
            raise Refused("its objects have not all the same attributes")
        self.family = family = _script.new_family()
        names = [name for name in (*DATA, *GRAD, *kept) if hasattr(leaf, name)]
        before = {name: getattr(leaf, name) for name in names}
        product.backward()
        data = [name for name in names if before[name] == 1.5]
        grad = [n for n in names if n in GRAD or (before[n], getattr(leaf, n)) == (0, -0.5)]
        family.data, family.stored_data = _named(cls, data, "data")
        family.grad, family.stored_grad = _named(cls, grad, "grad")
        root_int = type(self.grad(product)) is int
        family.init, family.order, family.guards = members["__init__"], tuple(kept), []
        family.children = self._children(kept, leaf, other)
        family.container = type(kept[family.children])
        family.leaf_container = type(getattr(leaf, family.children))
        if family.leaf_container not in (tuple, list, set, frozenset):
            raise Refused(f"its objects without children have no empty {family.children}")
        slopes = [n for n, v in kept.items() if repr(v) in ("(-0.5, 1.5)", "[-0.5, 1.5]")]
        slopes += [family.children] if family.pair else []
        family.slopes = slopes[0] if slopes else None
        family.slopes_container = type(kept.get(family.slopes))
        family.leaf_slopes_container = type(getattr(leaf, family.slopes or family.grad))
        functions = [n for n, v in kept.items() if isinstance(v, types.FunctionType)]
        family.backward = functions[0] if functions else None
        made = {"leaf": leaf, "add": total, "mul": product}
        family.closures = {
            _script.OPS[op]: getattr(node, functions[0]) for op, node in made.items() if functions
        }
        roles = {family.stored_data, family.stored_grad, family.children, family.slopes}
        roles.add(family.backward)
        self.others = [name for name in kept if name not in roles]
        for name in self.others:
            value = kept[name]
            if type(value) is tuple and {type(part) for part in value} & {int, float}:
                raise Refused(f"probe __mul__: {name} is {value} where (-0.5, 1.5) is expected")
        family.defaults = {name: self._defaults(cls, name, made) for name in self.others}
        self.switches = [
            name
            for name, values in family.defaults.items()
            if all(type(value) in SIMPLE for value in values.values())
        ]
        family.switches, family.own = set(), {}
        fresh = cls(3)
        if self.grad(fresh) != 0:
            raise Refused("probe constructor: its gradients do not start at 0")
        self.settings = {
            "to_float": type(self.data(fresh)) is float,
            "grad_int": type(self.grad(fresh)) is int,
            "root_int": root_int,
            "late": family.slopes is None,
            "ones_int": self.slope_is_int(cls, lambda x: x + x),
        }
        family.positional, family.keywords = self._constructor(cls, members["__init__"].__code__)
        family.has_slots = "__slots__" in cls.__dict__ and not hasattr(leaf, "__dict__")
        family.is_weak = hasattr(leaf, "__weakref__")
        if family.has_slots:
            family.order += tuple(name for name in _slots(cls) if name not in kept)

    def data(self, node: Any) -> Any:
        return getattr(node, self.family.data)

    def grad(self, node: Any) -> Any:
        return getattr(node, self.family.grad)

    def _children(self, kept: dict[str, Any], a: Any, b: Any) -> str:
        for name, value in kept.items():
            if type(value) in (tuple, list, set, frozenset) and len(value) == 2:
                first, second = value
                if type(first) is type(second) and isinstance(first, (tuple, list)):
                    if len(first) != 2 or len(second) != 2:
                        continue
                    self.family.pair = type(first)
                    self.family.child_at = at = int(isinstance(first[1], type(a)))
                    first, second = first[at], second[at]
                if (first is a and second is b) or (
                    isinstance(value, (set, frozenset)) and first is b and second is a
                ):
                    return name
        raise Refused("its objects do not keep their two children")

    def _defaults(self, cls: Any, name: str, nodes: dict[str, Any]) -> dict[int, Any]:
        """Return another attribute of a leaf, a sum and a product, by operation."""
        values = {op: getattr(node, name) for op, node in nodes.items()}
        for value in values.values():
            if type(value) in (list, dict, set) and not value:
                if any(value is default for default in cls.__init__.__defaults__ or ()):
                    raise Refused(f"its objects share {name}")
                continue
            if not isinstance(value, (*SIMPLE, tuple, type)) and not is_enum(value):
                raise Refused(f"its objects keep {name}, a {type(value).__name__}")
        rule = None
        if all(values[op] == id(node) for op, node in nodes.items()):
            rule = id
        elif any(getattr(cls(x), name) != values["leaf"] for x in (2.25, -2.25, 3)) and all(
            getattr(cls(self.data(node)), name) == values[op] for op, node in nodes.items()
        ):
            rule = _of_first_number(self.family, name)
            self.family.initial.append(name)
        return {
            number: rule or values.get(op)
            for op, number in _script.OPS.items()
            if rule or op in values
        }

    def slope_is_int(self, cls: Any, operation: Any) -> bool:
        """Return whether an operation on an int passes an int on: as local gradient or in a sum."""
        with suppress(Exception):
            x = cls(2)
            y = operation(x)
            if self.family.slopes:
                slope = getattr(y, self.family.slopes)[0]
                return type(slope[1 - self.family.child_at] if self.family.pair else slope) is int
            y.backward()
            return type(self.grad(x)) is int
        return False

    def relu(self, cls: Any, call: Any) -> dict[str, bool]:
        """Return the settings that follow from what a relu gives."""
        return {
            "relu_keeps": self.data(call(cls(math.nan))) != 0,
            "relu_int": type(self.data(call(cls(-1.0)))) is int,
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
        child, family = cls(0.25), self.family
        trials = {"children": (child,), "slopes": (0.5,), "": "a name"}
        if family.pair:
            pair = (child, 0.5)[:: 1 - 2 * family.child_at]
            make = getattr(family.pair, "_make", family.pair)
            trials = {"pairs": (make(pair),), "": "a name"}
        for role, trial in trials.items():
            try:
                node = cls(1.5, **{name: trial})
                kept = getattr(node, family.children)
            except Exception:
                continue
            slopes = getattr(node, family.slopes) if family.slopes else ()
            if role == "pairs" and repr(kept) == repr(family.container(trial)):
                return role
            if (
                role == "children"
                and type(kept) is family.container
                and ([id(one) for one in kept] == [id(child)])
            ):
                return role
            if role == "slopes" and repr(slopes) in ("(0.5,)", "[0.5]"):
                return role
            if not role:
                return next((other for other in self.others if getattr(node, other) is trial), None)
        return None

    def name_powers(self, cls: Any) -> None:
        """Find how other attributes of a power, such as its name, follow from the exponent."""
        nodes = {k: cls(1.5) ** k for k in (2, 0.5, -1)}
        if self.family.backward:
            self.family.closures[_script.OPS["pow"]] = getattr(nodes[2], self.family.backward)
        for name in self.others:
            if callable(self.family.defaults[name][_script.OPS["leaf"]]):
                continue  # as of all nodes
            values = {k: getattr(node, name) for k, node in nodes.items()}
            rule: Any = values[2]
            if isinstance(values[2], str) and "2" in values[2] and values[-1] != values[2]:
                before, after = values[2].split("2", 1)

                def rule(node: Any, before: str = before, after: str = after) -> str:
                    return f"{before}{_script.exponent(node)}{after}"

            self.family.defaults[name][_script.OPS["pow"]] = rule
