"""The `__dict__` of a node, which keeps its attributes elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from microgpt._script import state_of

METHODS = (
    "__contains__ __delitem__ __eq__ __getitem__ __ior__ __iter__ __len__ __ne__ __or__ __repr__ "
    "__reversed__ __ror__ __setitem__ clear copy get items keys pop popitem setdefault update "
    "values"
).split()


class Attributes(dict[str, Any]):
    """What is set in it is set on the node, what is read in it is read there."""

    def __init__(self, node: Any) -> None:
        super().__init__(state_of(node))
        self._node = node


def _live(name: str) -> Callable[..., Any]:
    own = getattr(dict, name)

    def method(self: Attributes, *arguments: Any, **keywords: Any) -> Any:
        for known in (self, *arguments):
            if isinstance(known, Attributes):
                dict.clear(known)
                dict.update(known, state_of(known._node))
        before = dict(dict.items(self))
        try:
            return own(self, *arguments, **keywords)
        finally:
            write(self._node, before, dict(dict.items(self)))

    return method


def write(node: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Give a node that has the attributes of one dict those of another."""
    for name in before.keys() - after.keys():
        delattr(node, name)
    for name, value in after.items():
        if name not in before or before[name] is not value:
            setattr(node, name, value)


def replace(node: Any, attributes: dict[str, Any]) -> None:
    """Set a node's `__dict__`."""
    write(node, state_of(node), attributes)


for _name in METHODS:
    setattr(Attributes, _name, _live(_name))
