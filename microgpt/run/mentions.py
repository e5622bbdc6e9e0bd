"""Find all that a function's code reads beside its arguments.

A probe tests a method on some arguments. The result holds for all calls only if the code reads
nothing else: no global variable that could change, no large constant to compare with, no module
but `math`. Nor may it print or count.
"""

from __future__ import annotations

import ast
import builtins
import dis
import math
import operator
import os
import sys
import types
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from microgpt.run.loops import Loop

SAFE_BUILTINS = frozenset(
    (
        "isinstance int float bool complex str set frozenset list tuple dict reversed zip max "
        "min abs len range enumerate id type super hasattr getattr pow sum any all map iter "
        "next object property repr NotImplemented TypeError ValueError ZeroDivisionError "
        "NotImplementedError OverflowError AssertionError Exception ArithmeticError "
        "AttributeError RecursionError StopIteration "
    ).split()
)
SAFE_ATTRIBUTES = frozenset(
    "add append appendleft pop popleft reverse extend insert update discard remove union copy "
    "get items keys values index count is_integer mul neg sub truediv Number Real Integral "
    "__class__ __init__ __name__ getrecursionlimit "
    "__add__ __mul__ __radd__ __rmul__ __sub__ __neg__ __pow__ __truediv__ over seen".split()
)
OPERATORS = [getattr(operator, name) for name in "add mul neg pow sub truediv".split()]
SAFE_MODULES = "numbers typing __future__ collections operator sys".split()
SIMPLE = (bool, int, float, str, type(None))
MARKS = (types.CodeType, types.ModuleType, Loop)  # constants that are code, or stand for ours
early: dict[int, types.FunctionType] = {}  # made before their `def` runs, by the id of their code
GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT", "RETURN_CONST")
EXPRESSIONS = (
    ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp,
    ast.expr_context, ast.boolop, ast.cmpop, ast.unaryop,
)  # fmt: skip
REFUSED = {
    "STORE_GLOBAL": "sets the global {}",
    "DELETE_GLOBAL": "deletes the global {}",
    "DELETE_ATTR": "deletes {}",
    "LOAD_BUILD_CLASS": "makes a class",
}


class Mentions:
    """The names that the methods of one class read.

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
        self.tests: Collection[ast.If] = ()  # in its file
        self.outer = ""  # the class in whose body it stands
        self.bound = bound  # global names: all that the code binds to them
        self.builtins: set[str] = set()  # that it calls
        self.hidden: set[str] = set()  # attributes that no probe gives another value
        self.switches: Collection[str] = ()  # of these, those whose change a node notices
        self.usual: dict[str, Any] = dict.fromkeys(attributes, False)  # what nodes have there
        self.has_closures = False  # whether functions inside of methods run later
        self.in_backward = False  # whether that is judged
        self.sets_limit = False  # of recursion, in backward
        self.read: set[str] = set()  # switches that methods read
        self.read_later: set[str] = set()  # and functions inside of them
        self.guards: list[tuple[Any, str, Any]] = []
        self.constants: set[str] = set()  # members of enumerations
        self.known: dict[Any, str | None] = {}
        self.early: list[tuple[dict[str, Any], str]] = []

    def reason(self, function: Any) -> str | None:
        """Return why a function cannot be judged by probes, or None."""
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType):
            return "is not a function"
        if function not in self.known:
            self.known[function] = None  # while it is judged; it may call itself
            skipped = self._skipped(function)
            self.known[function] = next(self._reasons(function, function.__code__, skipped), None)
        return self.known[function]

    def _reasons(
        self, function: types.FunctionType, code: types.CodeType, skipped: set[int]
    ) -> Iterator[str]:
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            is_empty = type(default) in (list, dict, set) and not default
            if not (
                _is_plain_constant(default) or is_empty or type(default).__module__ == "dataclasses"
            ):
                yield f"has the default {default!r}"
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType) and constant.co_firstlineno not in skipped:
                yield from self._reasons(function, constant, skipped)
        instructions = list(dis.get_instructions(code))
        starts, line = dict(dis.findlinestarts(code)), 0
        keeps_names = function.__name__ == "__init__" and code.co_flags & 0x08  # **keywords
        for number, instruction in enumerate(instructions):
            name = instruction.argval
            line = starts.get(instruction.offset, line)
            if line in skipped or (keeps_names and name in ("setattr", "vars", "__dict__")):
                continue
            if instruction.opname in REFUSED:
                yield REFUSED[instruction.opname].format(name)
            elif instruction.opname in GLOBALS:
                n_guards = len(self.guards)
                yield from self._global(function, name)
                is_later = self.has_closures and not self.in_backward
                is_later = is_later and code is not function.__code__
                if is_later and len(self.guards) > n_guards and len(self.bound.get(name, ())) != 1:
                    yield f"reads {name} in a function that runs later"
            elif instruction.opname == "IMPORT_NAME" and name not in ("math", "sys"):
                yield f"imports {name}"
            elif instruction.opname in CONSTANTS:
                following = [other.opname for other in instructions[number + 1 : number + 3]]
                is_kept = following[-1:] == ["STORE_ATTR"] and following[0].startswith("LOAD_FAST")
                before = [other.argval for other in instructions[max(0, number - 8) : number]]
                is_kept = is_kept or "setrecursionlimit" in before
                if not (is_kept or isinstance(name, MARKS) or _is_plain_constant(name)):
                    yield f"mentions {name!r}"
            elif instruction.opname == "STORE_ATTR":
                if type(self.members.get(name, (None, None))[1]) is property:
                    yield from self._attribute(name, False)
                elif name not in self.attributes:
                    yield f"sets {name}"
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                yield from self._attribute(name, code is not function.__code__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            if name in ("__class__", self.name):
                continue
            try:
                value = cell.cell_contents
            except ValueError:
                yield f"mentions {name}, which is not known yet"
            else:
                yield from self._value(name, value)

    def _skipped(self, function: types.FunctionType) -> set[int]:
        """Return the lines that do not run while flags are what they are, which is watched.

        A print behind `if DEBUG:` is an example.
        """
        lines: set[int] = set()
        code = function.__code__
        usual = types.SimpleNamespace(
            **{name: part for name, (_, part) in self.members.items() if type(part) in SIMPLE}
        )
        usual.__dict__.update(self.usual)
        known = {
            self.name: usual,
            **dict.fromkeys(code.co_varnames[: min(1, code.co_argcount)], usual),
        }
        if function is self.members["backward"][1]:  # compiled where it is given no arguments
            given, defaults = code.co_varnames[: code.co_argcount], function.__defaults__ or ()
            stores = [one for one in dis.get_instructions(code) if "STORE" in one.opname]
            is_set = {n for n in given for one in stores if n == one.argval or n in one.argrepr}
            known |= {n: v for n, v in zip(given[::-1], defaults[::-1]) if n not in is_set}
        codes = _codes(code)
        local = {name for part in codes for name in (*part.co_varnames, *part.co_cellvars)}
        run_now = [code] if self.has_closures and not self.in_backward else codes
        lines_now = {line for part in run_now for _, line in dis.findlinestarts(part)}
        is_near = code.co_filename == self.members["__add__"][1].__code__.co_filename
        for test in self.tests if is_near else ():
            parts = list(ast.walk(test.test))
            names = {part.id for part in parts if isinstance(part, ast.Name)} - known.keys()
            if (
                test.lineno in lines_now
                and all(isinstance(part, EXPRESSIONS) for part in parts)
                and not names & local
                and not [reason for name in names for reason in self._global(function, name)]
            ):
                with suppress(Exception):
                    expression = compile(ast.Expression(test.test), "", "eval")
                    is_true = eval(expression, function.__globals__, known)
                    for part in parts:
                        if isinstance(part, ast.Attribute):
                            list(self._attribute(part.attr, False))
                    dead: Any = test.orelse if is_true else (test.test, *test.body)
                    for off in dead:
                        lines.update(range(off.lineno, (off.end_lineno or 0) + 1))
        return lines

    def _attribute(self, name: str, is_inside: bool) -> Iterator[str]:
        if name in self.switches:
            (self.read_later if is_inside and self.has_closures else self.read).add(name)
        elif name in self.hidden:
            yield f"reads {name}"
        found = [(owner, vars(owner)[name]) for owner in self.owners if name in vars(owner)]
        if name == "setrecursionlimit" and self.in_backward:
            self.sets_limit = True
        elif self.outer and name == self.name:
            pass
        elif not (found or name in self.attributes or self._is_safe(name)):
            yield f"mentions {name}"
        for owner, member in found:
            is_property = type(member) is property
            for part in (member.fget, member.fset) if is_property else (member,):
                function = getattr(part, "__func__", part)
                if isinstance(function, types.FunctionType):
                    reason = self.reason(function)
                    if reason:
                        yield f"calls {name}, which {reason}"
                elif type(part) in SIMPLE:
                    if not is_property and name not in self.attributes:
                        self.guards.append((owner, name, part))
                elif name not in self.attributes:
                    yield f"mentions {name}"

    def _is_safe(self, name: str) -> bool:
        return name in SAFE_ATTRIBUTES or hasattr(math, name) or name in self.constants

    def _global(self, function: types.FunctionType, name: str) -> Iterator[str]:
        meanings = len(self.bound.get(name, ()))
        if self.outer and name == self.outer and meanings == 1:
            return
        if name == self.name:
            if meanings > 1:
                self.guards.append((function.__globals__, name, function.__globals__[name]))
            return
        if meanings == 1 and name not in function.__globals__:
            self._make_early(function.__globals__, name, *self.bound[name])
        if name in function.__globals__:
            value = function.__globals__[name]
            if meanings > 1 and type(value) not in SIMPLE:  # which are watched
                self.guards.append((function.__globals__, name, value))
            yield from self._value(name, value, function.__globals__)
        elif meanings:
            yield f"mentions {name}, which the script gives another meaning later"
        elif name not in SAFE_BUILTINS or not hasattr(builtins, name):
            yield f"mentions {name}"
        else:
            self.builtins.add(name)

    def _make_early(self, scope: dict[str, Any], name: str, meaning: object) -> None:
        """Define a function that the script defines below, while the class is judged."""
        if isinstance(meaning, tuple) and isinstance(meaning[0], types.CodeType):
            code, defaults = meaning
            scope[name] = early[id(code)] = types.FunctionType(code, scope, name, defaults)
            self.early.append((scope, name))
            self.guards.append((scope, name, scope[name]))

    def _value(self, name: str, value: Any, scope: dict[str, Any] | None = None) -> Iterator[str]:
        """Judge the value of a name from outside the function."""
        known = (getattr(builtins, name, math), math, *vars(math).values(), *OPERATORS)
        if any(value is one for one in (*known, *self.owners)):
            return
        if isinstance(value, types.ModuleType):
            if value.__name__ not in SAFE_MODULES:
                yield f"mentions {name}"
        elif isinstance(value, types.FunctionType):
            reason = self.reason(value)
            if reason:
                yield f"calls {name}, which {reason}"
        elif type(value) in SIMPLE and scope is not None:
            self.guards.append((scope, name, value))
        elif isinstance(value, tuple) and scope is not None and _is_simple(value):
            self.guards.append((scope, name, value))
            self.constants |= set(getattr(value, "_fields", ()))
        elif type(value) is dict and scope is not None and _is_simple((*value, *value.values())):
            self.guards.append((scope, name, value))
            self.guards += [(value, key, part) for key, part in value.items()]
        elif scope is not None and isinstance(value, type) and issubclass(value, tuple):
            self.guards.append((scope, name, value))
            self.constants |= set(getattr(value, "_fields", ()))
        elif scope is not None and isinstance(value, type) and _constants(value):
            self.guards.append((scope, name, value))
            if isinstance(value, _enum_type()):
                self.constants |= {"name", "value"}
            else:
                self.guards += [(value, n, part) for n, part in _constants(value).items()]
            self.constants |= set(_constants(value))
        elif (
            not (
                isinstance(value, type)
                and value.__module__ in ("builtins", "numbers", "collections")
            )
            and not (isinstance(value, tuple) and all(isinstance(part, type) for part in value))
            and type(value).__module__ not in ("typing", "dataclasses")
        ):
            yield f"mentions {name}"


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """Return a function's code and that of the functions in it."""
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return [code, *(found for part in inner for found in _codes(part))]


def _is_simple(values: tuple[Any, ...]) -> bool:
    return all(type(value) in SIMPLE for value in values)


def _enum_type() -> Any:
    return getattr(sys.modules.get("enum"), "EnumMeta", ())


def is_enum(value: Any) -> bool:
    return isinstance(type(value), _enum_type())


def _constants(cls: type) -> dict[str, Any]:
    """Return the constants of a class that has nothing else, or of an enumeration."""
    if isinstance(cls, _enum_type()):
        return dict(cls.__members__)
    found = {name: value for name, value in vars(cls).items() if not name.startswith("__")}
    is_plain = cls.__bases__ == (object,) and all(type(v) in SIMPLE for v in found.values())
    return found if is_plain else {}


def _is_plain_constant(constant: Any) -> bool:
    """Return whether a constant can choose nothing that the probes do not try."""
    if isinstance(constant, (tuple, frozenset)):
        return all(map(_is_plain_constant, constant))
    if isinstance(constant, slice):  # from CPython 3.14 on
        return all(map(_is_plain_constant, (constant.start, constant.stop, constant.step)))
    if isinstance(constant, (int, float)):
        return abs(constant) <= 2
    return (
        constant is None
        or constant is Ellipsis
        or isinstance(constant, (str, bytes))
        or (is_enum(constant))
    )


def short(path: str) -> str:
    """Return a path as short as it can be written."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return path
    return relative if not relative.startswith("..") else path
