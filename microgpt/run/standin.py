"""The compiled class that takes the place of a script's, and the `__dict__` of its objects."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any
from weakref import getweakrefs

from microgpt import _script
from microgpt.run.observed import Observed, Refused

METHODS = (
    "__contains__ __delitem__ __eq__ __getitem__ __ior__ __iter__ __len__ __ne__ __or__ __repr__ "
    "__reversed__ __ror__ __setitem__ clear copy get items keys pop popitem setdefault update "
    "values"
).split()


class Attributes(dict[str, Any]):
    """The `__dict__` of a node: its items are read from the node and set on it."""

    def __init__(self, node: Any) -> None:
        super().__init__(_script.state_of(node))
        self._node = node


def _live(name: str) -> Callable[..., Any]:
    own = getattr(dict, name)

    def method(self: Attributes, *arguments: Any, **keywords: Any) -> Any:
        for known in (self, *arguments):
            if isinstance(known, Attributes):
                dict.clear(known)
                dict.update(known, _script.state_of(known._node))
        before = dict(dict.items(self))
        try:
            return own(self, *arguments, **keywords)
        finally:
            _write(self._node, before, dict(dict.items(self)))

    return method


def _write(node: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Give a node that has the attributes of one dict those of another."""
    for name in before.keys() - after.keys():
        delattr(node, name)
    for name, value in after.items():
        if name not in before or before[name] is not value:
            setattr(node, name, value)


def _replace(node: Any, attributes: dict[str, Any]) -> None:
    """Set a node's `__dict__`."""
    _write(node, _script.state_of(node), attributes)


for _name in METHODS:
    setattr(Attributes, _name, _live(_name))


REPLACED = {
    "__dict__": property(Attributes, _replace),
    "__weakref__": property(lambda node: next(iter(getweakrefs(node)), None)),
}


def made(original: type, members: dict[str, Any], observed: Observed) -> Any:
    """Return the class, whose operators are all still the script's own code."""
    family = observed.family
    number, grad = _script.NodeBase._microgpt_data, _script.NodeBase._microgpt_grad
    fields: dict[str, Any] = {family.stored_data: number, family.stored_grad: grad}
    for name in family.order:
        member = members.get(name, _script.MISSING)
        fallback = _script.MISSING if isinstance(member, types.MemberDescriptorType) else member
        fields.setdefault(name, _script.Field(family, name, fallback))
    of_base = {} if family.has_slots else {**fields, **REPLACED}
    instead = {**REPLACED, "__slots__": (), **(fields if family.has_slots else {})}
    namespace = {  # in the order of the script's class, which `vars` shows
        name: instead.get(name, member)
        for name, member in vars(original).items()
        if name in instead or name not in fields
    }
    namespace.setdefault("__slots__", ())
    base = type(original.__name__, (_script.Base,), {**of_base, "__slots__": ()})
    kind = _metaclass(original, base)
    try:
        cls = kind(original.__name__, (base,), namespace)
    except TypeError as error:
        raise Refused(f"its bases: {error}") from None
    if "__slots__" in vars(original):
        setattr(cls, "__slots__", vars(original)["__slots__"])
    else:
        delattr(cls, "__slots__")
    delattr(base, "__slots__")
    cls.__qualname__ = original.__qualname__
    _script.adopt(family, cls, **observed.settings)
    return cls


def _metaclass(original: type, base: type) -> Any:
    """Return a metaclass whose class shows the bases of the class that it replaces.

    Members are looked up in those bases. They are no real bases, because a node has no memory for
    the fields of their objects.
    """
    own: Any = type(original)
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

    members = {"mro": mro, "__mro__": property(shown), "__module__": own.__module__}
    members |= {name: of_class(name) for name in ("__bases__", "__base__")}
    kind: Any = type(own)(own.__name__, (own,), members)
    return kind
