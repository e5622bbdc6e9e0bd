"""Running a script as Python runs it, with some of its definitions replaced."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

import microgpt
from microgpt.run.program import Program


def execute(program: Program, args: list[str], stop_after: int) -> int:
    """Run a program as __main__, with its own argv, path and tracebacks; return its exit status.

    With stop_after the process ends before the backward that follows so many.
    """
    full = os.path.abspath(program.path)
    trees = program.trees(every=bool(stop_after))
    if program.found.replaced:
        sys.modules["_microgpt_run"] = _replacements()
    if stop_after:
        sys.modules["_microgpt_run_steps"] = _counter(stop_after)
        trees = {
            name: ast.fix_missing_locations(_Counted().visit(tree)) for name, tree in trees.items()
        }
    # A script in which nothing is replaced is compiled from its text, as Python does it.
    sources: dict[str, Any] = trees if program.found.replaced or stop_after else {}
    sources = sources or {"__main__": program.source}
    try:
        code = {
            name: compile(source, program.file_of(name), "exec", dont_inherit=True)
            for name, source in sources.items()
        }
    except (SyntaxError, ValueError, RecursionError) as error:
        sys.excepthook(type(error), error.with_traceback(None), None)
        return 1
    main: Any = types.ModuleType("__main__")
    main.__file__ = full
    main.__cached__ = None
    main.__builtins__ = sys.modules["builtins"]
    main.__annotations__ = {}
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", full)
    sys.argv = [program.path, *args]
    sys.path[0] = program.directory
    _make_way(program.directory)
    sys.meta_path.insert(0, _Replaced(program, code))
    sys.modules["__main__"] = main
    try:
        exec(code["__main__"], main.__dict__)
    except SystemExit as error:
        return _exit_status(error)
    except BaseException as error:
        # The frame of this function is not the script's.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            _die_of_interrupt()
        return 1
    return 0


def _replacements() -> types.ModuleType:
    """Return the module from which the changed trees take the compiled names."""
    module = types.ModuleType("_microgpt_run")
    names = {name: getattr(microgpt, name) for name in ("Value", "linear", "softmax", "rmsnorm")}
    vars(module).update(names, extended=_extended, labelled=_labelled)
    return module


def _extended(cls: type) -> type:
    """Return `Value` with the members that a script's class adds to it."""
    for name, member in vars(cls).items():
        if hasattr(member, "__get__") and name not in ("__dict__", "__weakref__"):
            _give(name, member)
    value: type = microgpt.Value
    return value


def _labelled(cls: type) -> type:
    """Return a class of nodes with names, and the members that a script's class adds to them."""
    from microgpt import micrograd

    members = {name: member for name, member in vars(cls).items() if hasattr(member, "__get__")}
    for name in ("__dict__", "__weakref__"):
        members.pop(name, None)
    members.update(__slots__=(), __module__=cls.__module__, __doc__=cls.__doc__)
    value: type = microgpt.engine.uncollected(type(cls.__name__, (micrograd.Value,), members))
    return value


def _give(name: str, member: object) -> None:
    if microgpt.Value.__module__ == "microgpt.oracle":
        setattr(microgpt.Value, name, member)
    else:
        from microgpt import _engine

        _engine.give(name, member)


def _make_way(directory: str) -> None:
    """Let a script's own module of our name be found, by whoever imports it from now on."""
    if any(os.path.exists(os.path.join(directory, name)) for name in ("microgpt.py", "microgpt")):
        for name in [name for name in sys.modules if name.split(".")[0] == "microgpt"]:
            del sys.modules[name]


class _Replaced(importlib.abc.MetaPathFinder):
    """Import the modules in which something is replaced; all others are Python's affair."""

    def __init__(self, program: Program, code: dict[str, types.CodeType]) -> None:
        self.program, self.code = program, code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.code:
            return None
        file = self.program.file_of(fullname)
        loader = _Loader(fullname, file)
        loader.code = self.code[fullname]
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    code: types.CodeType

    def get_code(self, fullname: str) -> types.CodeType:
        return self.code


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF if os.name == "posix" else error.code
    sys.stdout.flush()
    print(error.code, file=sys.stderr)
    return 1


def _die_of_interrupt() -> None:
    """End as Python does after an unhandled Ctrl-C: by the signal itself."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.name == "posix" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


class _Counted(ast.NodeTransformer):
    """Count every call of a method named backward, before it is made."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "backward":
            counted = ast.parse("__import__('_microgpt_run_steps').step()", mode="eval").body
            assert isinstance(counted, ast.Call)
            for inner in ast.walk(counted):
                ast.copy_location(inner, node)
            counted.args = [node.func]
            node.func = counted
        return node


def _counter(stop_after: int) -> types.ModuleType:
    module = types.ModuleType("_microgpt_run_steps")
    done = 0

    def step(method: object) -> object:
        nonlocal done
        if done == stop_after:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(0)
        done += 1
        return method

    vars(module)["step"] = step
    return module
