"""Watches a program being run: classes as they are made, modules as they are imported.

A class that looks like a node of an autograd graph is judged when its statement ends, and
replaced if it passes (`adopt`). Functions are judged when they are defined (`functions`), loops
when they run (`loops`); both are found in the source of the script and of the modules that it
imports, if that mentions gradients at all.
"""

from __future__ import annotations

import ast
import builtins
import dis
import os
import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any

from microgpt.run import adopt, functions, loops, rewrite
from microgpt.run.mentions import short
from microgpt.run.observed import Refused

_LIBRARY = os.path.dirname(os.__file__)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Watch:
    """The classes that were replaced in this process, those that were not, and the hooks."""

    def __init__(self, *, plain: bool = False, stop_after: int = 0) -> None:
        self.plain, self.stop_after = plain, stop_after
        self.adoptions: list[tuple[str, str, adopt.Adoption]] = []  # place, name
        self.refusals: list[tuple[str, str, str]] = []  # place, name, reason
        self.files: dict[str, rewrite.Rewriter] = {}  # by file name
        self.cell = rewrite.Rewriter("")  # of a notebook, the last one
        self.calls = 0
        self.at_stop: Callable[[], None] = lambda: None
        self.at_refusal: Callable[[str], None] = lambda line: None
        self.short: Callable[[str], str] = short
        self._build_class = builtins.__build_class__
        self._get_code: Any = SourceFileLoader.get_code

    # hooks

    def install(self) -> None:
        builtins.__build_class__ = self._built
        watch = self

        def get_code(loader: SourceFileLoader, fullname: str) -> types.CodeType | None:
            code = watch._imported(loader, fullname)
            return code or watch._get_code(loader, fullname)

        if not self.plain:
            setattr(SourceFileLoader, "get_code", get_code)

    def uninstall(self) -> None:
        builtins.__build_class__ = self._build_class
        setattr(SourceFileLoader, "get_code", self._get_code)

    def _built(self, body: Any, name: str, /, *bases: Any, **keywords: Any) -> Any:
        try:
            cls = self._build_class(body, name, *bases, **keywords)
        except TypeError as error:
            if "metaclass conflict" not in str(error):
                raise
            # The metaclasses of a replaced class, whose own is hidden, and of another base.
            kinds = [keywords.pop("metaclass", type), *map(type, bases)]
            last = [k for k in kinds if not any(k is not o and issubclass(o, k) for o in kinds)]
            kind = type("metaclass", tuple(dict.fromkeys(last)), {})
            cls = self._build_class(body, name, *bases, metaclass=kind, **keywords)
        if not adopt.is_candidate(cls):
            return cls
        members = adopt.members_of(cls)
        place = f"{self.short(body.__code__.co_filename)}:{body.__code__.co_firstlineno}"
        is_dataclass = (
            "__dataclass_fields__" in members
            if "__init__" in members
            else ("dataclasses" in sys.modules)
        )
        if "__init__" not in vars(cls) and is_dataclass and _is_decorated(sys._getframe(1)):
            _await_dataclass(cls, lambda made: self.judged(made, place, body))
            return cls
        return self.judged(cls, place, body)

    def judged(self, cls: type, place: str, body: types.FunctionType) -> type:
        """Return the compiled class that replaces a class, or the class itself."""
        name, scope = cls.__name__, body.__globals__
        if not self.plain:
            own = cls
            for _, _, adoption in self.adoptions:  # defined again, in a notebook
                names = [n for n, value in scope.items() if value is adoption.cls]
                if name in names and adoption.place[1] is scope:
                    adoption.retire()
                    if adoption.cls in cls.__bases__ and names == [name]:
                        own = adopt.over_own_bases(cls, adoption.cls, adoption.original)
            try:
                file = self.files.get(body.__code__.co_filename, self.cell)
                adoption = adopt.Adoption(own, name, scope, file.bound, file.tests)
                self.adoptions.append((place, name, adoption))
                functions.class_known(adoption)
                cls = adoption.cls
            except Exception as error:
                reason = str(error)
                if not isinstance(error, Refused):
                    reason = f"it cannot be judged: {type(error).__name__}: {error}"
                self.refusals.append((place, name, reason))
                self.at_refusal(f"microgpt run: {place}: {name} is left as it is: {reason}")
        if self.stop_after:
            self._count(cls)
        return cls

    def _count(self, cls: Any) -> None:
        """End the process before the backward that follows the last one to be run."""
        own = cls.backward

        def backward(node: Any, *arguments: Any, **keywords: Any) -> Any:
            if self.calls == self.stop_after:
                self.at_stop()
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                os._exit(0)
            self.calls += 1
            return own(node, *arguments, **keywords)

        cls.backward = backward

    # code

    def code(self, source: bytes | str, filename: str) -> types.CodeType:
        """Return a module's code, its loops over parameters and its functions marked."""
        if not self.plain and _is_about_gradients(source):
            try:
                rewriter = rewrite.Rewriter(filename)
                tree = rewriter.visit(ast.parse(source, filename))
                self.files[filename] = rewriter
                code = compile(tree, filename, "exec", dont_inherit=True)
                code = rewrite.with_objects(code, {**rewriter.loops, rewrite.FUNCTION: functions})
                rewriter.bind_functions_below(code)
                return code
            except RecursionError:  # it is nested too deep for a walk of its tree
                pass
        return compile(source, filename, "exec", dont_inherit=True)

    def _imported(self, loader: SourceFileLoader, fullname: str) -> types.CodeType | None:
        """Return the code of a module of the user's, if it has something to replace."""
        path = loader.get_filename(fullname)
        is_installed = "site-packages" in path
        if (path.startswith(_LIBRARY) and not is_installed) or path.startswith(_OURS):
            return None
        try:
            source = loader.get_data(path)
            if is_installed and not (b"def backward" in source and b"__mul__" in source):
                return None  # such as those of PyTorch, which are many
            return self.code(source, path) if _is_about_gradients(source) else None
        except (OSError, SyntaxError, ValueError, RecursionError):
            return None

    # report

    def lines(self) -> list[str]:
        """Return what was replaced and what was not, a line each."""
        result = []
        for place, name, adoption in self.adoptions:
            is_set = adoption.family.container in (set, frozenset)
            order = ", children in a set taken from left to right" if is_set else ""
            members = ", ".join(adoption.native)
            result.append(f"{place}: {name} is replaced by a compiled class: {members}{order}")
            for member, reason in adoption.own:
                result.append(f"{place}: {name}.{member} stays the script's own: {reason}")
        for place, name, what in functions.replaced:
            result.append(f"{place}: {name} is replaced by {what}")
        for loop in sorted(loops.compiled, key=lambda loop: (loop.filename, loop.line)):
            place = f"{short(loop.filename)}:{loop.line}"
            result.append(f"{place}: the loop is replaced by vector operations")
        for place, name, reason in self.refusals:
            result.append(f"{place}: {name} is left as it is: {reason}")
        return result

    def tell(self) -> None:
        """Report the first name that is not compiled; on a terminal also list the compiled ones."""
        if self.refusals:
            place, name, reason = self.refusals[0]
            n = len(self.refusals) - 1
            more = f" (and {n} more: --explain)" if n else ""
            print(
                f"microgpt run: {place}: {name} is left as it is: {reason}{more}", file=sys.stderr
            )
        names = [name for _, name, _ in (*self.adoptions, *functions.replaced)]
        if loops.compiled:
            n = len(loops.compiled)
            names.append(f"{n} loop{'s' if n > 1 else ''}")
        if names and sys.stderr.isatty():
            text = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
            print(f"microgpt run: {text} compiled", file=sys.stderr)


def _is_decorated(frame: types.FrameType) -> bool:
    """Return whether a class statement, which is being run, is going to call a decorator.

    Without one, the next instruction but those that do nothing by themselves stores the class.
    """
    code = frame.f_code.co_code[frame.f_lasti :: 2]
    following = (dis.opname[op] for op in code[1:])
    skipped = ("CACHE", "EXTENDED_ARG", "PRECALL")
    return not next((name for name in following if name not in skipped), "").startswith("STORE")


def _await_dataclass(cls: type, judge: Callable[[type], type]) -> None:
    """Judge a class when `dataclass` has given it its constructor."""
    import dataclasses

    process: Callable[..., Any] = dataclasses._process_class  # type: ignore[attr-defined] # not in stubs

    def processed(given: type, *arguments: Any, **keywords: Any) -> Any:
        made = process(given, *arguments, **keywords)
        if given is not cls:
            return made
        dataclasses._process_class = process  # type: ignore[attr-defined] # not in stubs
        return judge(made)

    dataclasses._process_class = processed  # type: ignore[attr-defined] # not in stubs


def _is_about_gradients(source: bytes | str) -> bool:
    text = source if isinstance(source, bytes) else source.encode()
    return b".grad" in text or b"def backward" in text
