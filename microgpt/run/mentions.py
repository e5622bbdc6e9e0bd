"""What a function's code mentions, and so whether calls with other arguments can tell all of it.

A probe sees how a method behaves on the arguments that it is given. For that to be how it
behaves always, its code may read nothing else: no global variable that could change, no
large constant to compare with, no module but `math`, nothing that prints or counts.
"""

from __future__ import annotations

import builtins
import dis
import math
import os
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from microgpt.run.loops import Loop

SAFE_BUILTINS = frozenset(
    (
        "isinstance int float bool complex str set frozenset list tuple dict reversed zip max "
        "min abs len range enumerate id type super hasattr getattr pow sum any all map iter "
        "next object property NotImplemented TypeError ValueError ZeroDivisionError "
        "NotImplementedError OverflowError AssertionError Exception ArithmeticError "
        "AttributeError RecursionError StopIteration "
    ).split()
)
SAFE_ATTRIBUTES = frozenset(
    "add append appendleft pop popleft reverse extend insert update discard remove union copy "
    "get items keys values index count is_integer __class__ __init__ __name__ "
    "__add__ __mul__ __radd__ __rmul__ __sub__ __neg__ __pow__ __truediv__ over seen".split()
)
SIMPLE = (bool, int, float, str, type(None))
MARKS = (types.CodeType, types.ModuleType, Loop)  # constants that are code, or stand for ours
early: dict[int, types.FunctionType] = {}  # made before their `def` runs, by the id of their code
GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT", "RETURN_CONST")
REFUSED = {
    "STORE_GLOBAL": "sets the global {}",
    "DELETE_GLOBAL": "deletes the global {}",
    "DELETE_ATTR": "deletes {}",
    "LOAD_BUILD_CLASS": "makes a class",
}


class Mentions:
    """What the methods of one class mention.

    `guards` are variables that they read: (dict or class, name, value).
    """

    def __init__(
        self,
        name: str,
        members: dict[str, tuple[type, Any]],
        attributes: set[str],
        bound: Mapping[str, Collection[object]],
    ) -> None:
        self.name, self.members, self.attributes = name, members, attributes
        self.owners = {owner for owner, _ in members.values()}
        self.bound = bound  # global names: what gives them a meaning
        self.builtins: set[str] = set()  # that it calls
        self.hidden: set[str] = set()  # attributes that no probe gives another value
        self.switches: Collection[str] = ()  # of these, those whose change a node notices
        self.in_closures = True  # whether it is noticed by functions inside of methods
        self.read: set[str] = set()  # switches that are read
        self.guards: list[tuple[Any, str, Any]] = []
        self.known: dict[Any, str | None] = {}
        self.early: list[tuple[dict[str, Any], str]] = []

    def reason(self, function: Any) -> str | None:
        """Return why a function cannot be judged by probes, or None."""
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType):
            return "is not a function"
        if function not in self.known:
            self.known[function] = None  # while it is judged; it may call itself
            self.known[function] = next(self._reasons(function, function.__code__), None)
        return self.known[function]

    def _reasons(self, function: types.FunctionType, code: types.CodeType) -> Iterator[str]:
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if not _is_plain_constant(default) and type(default).__module__ != "dataclasses":
                yield f"has the default {default!r}"
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from self._reasons(function, constant)
        instructions = list(dis.get_instructions(code))
        for number, instruction in enumerate(instructions):
            name = instruction.argval
            if instruction.opname in REFUSED:
                yield REFUSED[instruction.opname].format(name)
            elif instruction.opname in GLOBALS:
                yield from self._global(function, name)
            elif instruction.opname == "IMPORT_NAME" and name != "math":
                yield f"imports {name}"
            elif instruction.opname in CONSTANTS:
                following = [other.opname for other in instructions[number + 1 : number + 3]]
                is_kept = following[-1:] == ["STORE_ATTR"] and following[0].startswith("LOAD_FAST")
                if not (is_kept or isinstance(name, MARKS) or _is_plain_constant(name)):
                    yield f"mentions {name!r}"
            elif instruction.opname == "STORE_ATTR":
                if name not in self.attributes:
                    yield f"sets {name}"
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                is_inside = code is not function.__code__
                yield from self._attribute(name, self.in_closures or not is_inside)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if name in ("__class__", self.name):
                continue
            try:
                value = cell.cell_contents
            except ValueError:
                yield f"mentions {name}, which is not known yet"
            else:
                yield from self._value(name, value)

    def _attribute(self, name: str, is_noticed: bool) -> Iterator[str]:
        if name in self.switches and is_noticed:
            self.read.add(name)
        elif name in self.hidden:
            yield f"reads {name}"
        owner, member = self.members.get(name, (None, None))
        safe = name in SAFE_ATTRIBUTES or hasattr(math, name)
        if name in self.attributes or (safe and owner is None):
            return
        function = getattr(member, "__func__", member)
        if isinstance(function, types.FunctionType):
            reason = self.reason(function)
            if reason:
                yield f"calls {name}, which {reason}"
        elif owner and type(member) in SIMPLE:
            self.guards.append((owner, name, member))
        else:
            yield f"mentions {name}"

    def _global(self, function: types.FunctionType, name: str) -> Iterator[str]:
        meanings = len(self.bound.get(name, ()))
        if name == self.name:
            if meanings > 1:
                self.guards.append((function.__globals__, name, function.__globals__[name]))
            return
        if meanings == 1 and name not in function.__globals__:
            self._make_early(function.__globals__, name, *self.bound[name])
        if name in function.__globals__:
            value = function.__globals__[name]
            if meanings > 1 and type(value) not in SIMPLE:  # which are watched
                yield f"mentions {name}, which the script gives several meanings"
            yield from self._value(name, value, function.__globals__)
        elif meanings:
            yield f"mentions {name}, which the script gives another meaning later"
        elif name not in SAFE_BUILTINS or not hasattr(builtins, name):
            yield f"mentions {name}"
        else:
            self.builtins.add(name)

    def _make_early(self, scope: dict[str, Any], name: str, meaning: object) -> None:
        """Let a function that the script defines below exist while the class is judged."""
        if isinstance(meaning, tuple) and isinstance(meaning[0], types.CodeType):
            code, defaults = meaning
            scope[name] = early[id(code)] = types.FunctionType(code, scope, name, defaults)
            self.early.append((scope, name))
            self.guards.append((scope, name, scope[name]))

    def _value(self, name: str, value: Any, scope: dict[str, Any] | None = None) -> Iterator[str]:
        """Judge what a name outside the function stands for."""
        known = (math, getattr(builtins, name, math), *vars(math).values(), *self.owners)
        if any(value is one for one in known):
            return
        if isinstance(value, types.ModuleType):
            if value.__name__ not in ("numbers", "typing", "__future__", "collections"):
                yield f"mentions {name}"
        elif isinstance(value, types.FunctionType):
            reason = self.reason(value)
            if reason:
                yield f"calls {name}, which {reason}"
        elif type(value) in SIMPLE and scope is not None:
            self.guards.append((scope, name, value))
        elif (
            not (
                isinstance(value, type)
                and value.__module__ in ("builtins", "numbers", "collections")
            )
            and not (isinstance(value, tuple) and all(isinstance(part, type) for part in value))
            and type(value).__module__ not in ("typing", "dataclasses")
        ):
            yield f"mentions {name}"


def _is_plain_constant(constant: Any) -> bool:
    """Tell whether a constant can choose nothing that the probes do not try."""
    if isinstance(constant, (tuple, frozenset)):
        return all(map(_is_plain_constant, constant))
    if isinstance(constant, slice):  # from CPython 3.14 on
        return all(map(_is_plain_constant, (constant.start, constant.stop, constant.step)))
    if isinstance(constant, (int, float)):
        return abs(constant) <= 2
    return constant is None or constant is Ellipsis or isinstance(constant, (str, bytes))


def short(path: str) -> str:
    """Return a path as short as it can be written."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return path
    return relative if not relative.startswith("..") else path
