"""Watches a program being run: classes as they are made, modules as they are imported.

A class that looks like a node of an autograd graph is judged when its statement ends, and
replaced if it passes (`adopt`). Functions are judged when they are defined (`functions`), loops
when they run (`loops`); both are found in the source of the script and of the modules that it
imports, if that mentions gradients at all.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any

from microgpt.run import adopt, functions, loops
from microgpt.run.mentions import short


class Watch:
    """What was replaced in this process, and what was not."""

    def __init__(self, *, plain: bool = False, stop_after: int = 0) -> None:
        self.plain, self.stop_after = plain, stop_after
        self.adoptions: list[tuple[str, str, adopt.Adoption]] = []  # place, name
        self.refusals: list[tuple[str, str, str]] = []  # place, name, reason
        self.loops: list[loops.Loop] = []
        self.calls = 0
        self.at_stop: Callable[[], None] = lambda: None
        self.at_refusal: Callable[[str], None] = lambda line: None
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
            setattr(SourceFileLoader, "get_code", get_code)  # noqa: B010

    def uninstall(self) -> None:
        builtins.__build_class__ = self._build_class
        setattr(SourceFileLoader, "get_code", self._get_code)  # noqa: B010

    def _built(self, body: Any, name: str, /, *bases: Any, **keywords: Any) -> Any:
        cls = self._build_class(body, name, *bases, **keywords)
        if not adopt.is_candidate(cls):
            return cls
        place = f"{short(body.__code__.co_filename)}:{body.__code__.co_firstlineno}"
        if (
            "__init__" not in cls.__dict__
            and "dataclasses" in sys.modules
            and cls.__bases__ == (object,)
        ):
            self._await_dataclass(cls, place, body.__globals__)
            return cls
        return self.judged(cls, place, body.__globals__)

    def _await_dataclass(self, cls: type, place: str, scope: dict[str, Any]) -> None:
        """Judge a class when `dataclass` has given it its constructor."""
        import dataclasses

        process: Callable[..., Any] = dataclasses._process_class  # type: ignore[attr-defined]

        def processed(given: type, *arguments: Any, **keywords: Any) -> Any:
            made = process(given, *arguments, **keywords)
            if given is not cls:
                return made
            dataclasses._process_class = process  # type: ignore[attr-defined]
            return self.judged(made, place, scope)

        dataclasses._process_class = processed  # type: ignore[attr-defined]

    def judged(self, cls: type, place: str, scope: dict[str, Any]) -> type:
        """Return what takes the place of a class: a compiled one, or itself."""
        made = cls if self.plain else self._judged(cls, place, scope)
        if self.stop_after:
            self._count(made)
        return made

    def _judged(self, cls: type, place: str, scope: dict[str, Any]) -> type:
        name = cls.__name__
        for _, other, adoption in self.adoptions:  # defined again, in a notebook
            if other == name and scope.get(name) is adoption.cls:
                adoption.retire()
        try:
            adoption = adopt.adopted(cls, name, scope)
        except adopt.Refused as refused:
            return self._refused(cls, place, str(refused))
        except Exception as error:
            return self._refused(
                cls, place, f"it cannot be judged: {type(error).__name__}: {error}"
            )
        self.adoptions.append((place, name, adoption))
        functions.class_known(adoption)
        return adoption.cls

    def _refused(self, cls: type, place: str, reason: str) -> type:
        self.refusals.append((place, cls.__name__, reason))
        self.at_refusal(f"microgpt run: {place}: {cls.__name__} is left as it is: {reason}")
        return cls

    def _count(self, cls: type) -> None:
        """End the process before the backward that follows the last one to be run."""
        own = cls.backward  # type: ignore[attr-defined]

        def backward(node: Any, *arguments: Any, **keywords: Any) -> Any:
            if self.calls == self.stop_after:
                self.stop()
            self.calls += 1
            return own(node, *arguments, **keywords)

        self.counted = cls, own, backward
        cls.backward = backward  # type: ignore[attr-defined]

    def stop(self) -> None:
        self.at_stop()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)

    # code

    def code(self, source: bytes | str, filename: str) -> types.CodeType:
        """Return a module's code, its loops over parameters and its functions marked."""
        if self.plain or not _is_about_gradients(source):
            return compile(source, filename, "exec", dont_inherit=True)
        try:
            return self.compiled(ast.parse(source, filename), filename)
        except RecursionError:  # it is nested too deep for a walk of its tree
            return compile(source, filename, "exec", dont_inherit=True)

    def compiled(self, tree: ast.Module, filename: str) -> types.CodeType:
        rewriter = loops.Rewriter(filename)
        tree = ast.fix_missing_locations(rewriter.visit(tree))
        self.loops += rewriter.loops.values()
        code = compile(tree, filename, "exec", dont_inherit=True)
        return loops.with_objects(code, {**rewriter.loops, loops.FUNCTION: functions})

    def _imported(self, loader: SourceFileLoader, fullname: str) -> types.CodeType | None:
        """Return the code of a module of the user's, if it has something to replace."""
        path = loader.get_filename(fullname)
        if (path.startswith(_LIBRARY) and "site-packages" not in path) or path.startswith(_OURS):
            return None
        try:
            source = loader.get_data(path)
            return self.code(source, path) if _is_about_gradients(source) else None
        except (OSError, SyntaxError, ValueError, RecursionError):
            return None

    # report

    def lines(self) -> list[str]:
        """Return what was replaced and what was not, a line each."""
        result = []
        for place, name, adoption in self.adoptions:
            order = (
                ", children in a set taken from left to right"
                if adoption.family.container in (set, frozenset)
                else ""
            )
            members = ", ".join(adoption.native)
            result.append(f"{place}: {name} is replaced by a compiled class: {members}{order}")
            result += [
                f"{place}: {name}.{member} stays the script's own: {reason}"
                for member, reason in adoption.own
            ]
        result += [
            f"{place}: {name} is replaced by {what}" for place, name, what in functions.replaced
        ]
        for loop in sorted(loops.compiled, key=lambda loop: (loop.filename, loop.line)):
            place = f"{short(loop.filename)}:{loop.line}"
            result.append(f"{place}: the loop is replaced by vector operations")
        result += [
            f"{place}: {name} is left as it is: {reason}" for place, name, reason in self.refusals
        ]
        return result

    def summary(self) -> str | None:
        """Return in one line what was compiled, or None."""
        names = [name for _, name, _ in self.adoptions] + [
            name for _, name, _ in functions.replaced
        ]
        n = len(loops.compiled)
        if n:
            names.append(f"{n} loop{'s' if n > 1 else ''}")
        if not names:
            return None
        text = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
        return f"microgpt run: {text} compiled"


_LIBRARY = os.path.dirname(os.__file__)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _is_about_gradients(source: bytes | str) -> bool:
    return (b".grad" in source) if isinstance(source, bytes) else ".grad" in source
