"""Somebody's microgpt script, unchanged, on the compiled engine."""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import os
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

import microgpt
from microgpt import engine
from microgpt.run.recognise import Plan, plan

HELP = """\
Run a microgpt script as it is, with its class Value and its functions linear, softmax and
rmsnorm on the compiled engine where they provably give the same bits. What is left as it
is gets one line on stderr; everything else is the script's own.

examples:
  microgpt run train.py                    instead of: python train.py
  microgpt run --explain train.py          what would be replaced, what not, and why
  microgpt run --check 5 train.py          run 5 steps in both ways and compare what they print
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `microgpt run`'s command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="microgpt run",
        description=HELP,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="tell what is replaced, what is not and why, and stop",
    )
    parser.add_argument(
        "--check",
        type=_steps,
        metavar="N",
        help="run the first N steps (calls of backward) in both ways, compare what they print, "
        "and stop; the script runs twice, with all its effects",
    )
    parser.add_argument("script", metavar="SCRIPT.py", help="the script")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its own arguments")
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    path = options.script
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"microgpt run: cannot read {path}: {error.strerror}", file=sys.stderr)
        return 2
    plain = os.environ.pop(_PLAIN, None)
    stop_after = int(os.environ.pop(_STOP, "0"))
    try:
        tree = ast.parse(source, os.path.abspath(path))
        found = Plan(tree) if plain else plan(tree)
    except (SyntaxError, ValueError) as error:
        if options.explain or options.check:
            print(f"microgpt run: {path} is not Python: {error}", file=sys.stderr)
            return 1
        sys.excepthook(type(error), error.with_traceback(None), None)
        return 1
    except RecursionError:
        found = Plan(tree)
        found.kept.append((0, "the script", "its expressions are nested too deep to read"))
    if options.explain:
        return _explain(path, found)
    if options.check is not None:
        return _check(path, options.args, options.check, found)
    if not plain and not stop_after:
        _complain(path, found)
    return _execute(path, found, options.args, stop_after)


# As `-m microgpt.run`, which would take a microgpt.py of the current directory for the package.
_DOOR = """import sys
sys.path[0] = sys.argv.pop(1)
from microgpt.run import main
sys.exit(main(sys.argv[1:]))
"""
_PLAIN, _STOP = "_MICROGPT_RUN_PLAIN", "_MICROGPT_RUN_STOP"


def _steps(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps: give 1 or more")
    return number


def _line(path: str, line: int) -> str:
    return f"{path}:{line}" if line else path


def _explain(path: str, found: Plan) -> int:
    """Print what a plan replaces and what it does not."""
    for line, name, what in sorted(found.replaced):
        print(f"{_line(path, line)}: {name} is replaced by {what}")
    for line, name, reason in sorted(found.kept):
        print(f"{_line(path, line)}: {name} is left as it is: {reason}")
    return 0


def _complain(path: str, found: Plan) -> None:
    """Say in one line what is not replaced."""
    if not found.kept:
        return
    line, name, reason = sorted(found.kept, key=lambda item: item[0] == 0)[0]
    more = f" (and {len(found.kept) - 1} more: --explain)" if len(found.kept) > 1 else ""
    print(
        f"microgpt run: {_line(path, line)}: {name} is left as it is: {reason}{more}",
        file=sys.stderr,
    )


# ----------------------------------------------------------------- execution


def _replacements() -> types.ModuleType:
    """Return the module from which the changed tree takes the compiled names."""
    module: Any = types.ModuleType("_microgpt_run")
    module.Value = microgpt.Value
    module.linear, module.softmax, module.rmsnorm = (
        microgpt.linear,
        microgpt.softmax,
        microgpt.rmsnorm,
    )
    module.extended = _extended
    found: types.ModuleType = module
    return found


def _extended(cls: type) -> type:
    """Return `Value` with the members that a script's class adds to it."""
    for name, member in vars(cls).items():
        if hasattr(member, "__get__") and name not in ("__dict__", "__weakref__"):
            _give(name, member)
    value: type = microgpt.Value
    return value


def _give(name: str, member: object) -> None:
    if engine.NAME == "python":
        setattr(microgpt.Value, name, member)
    else:
        from microgpt import _engine

        _engine.give(name, member)


def _execute(path: str, found: Plan, args: list[str], stop_after: int) -> int:
    """Run a plan as Python runs a script: as __main__, with its own argv, path and tracebacks."""
    full = os.path.abspath(path)
    if found.replaced:
        sys.modules["_microgpt_run"] = _replacements()
    if stop_after:
        sys.modules["_microgpt_run_steps"] = _counter(stop_after)
        found.tree = _Counted().visit(found.tree)
        ast.fix_missing_locations(found.tree)
    program: Any = types.ModuleType("__main__")
    program.__file__ = full
    program.__cached__ = None
    program.__builtins__ = sys.modules["builtins"]
    program.__annotations__ = {}
    program.__loader__ = importlib.machinery.SourceFileLoader("__main__", full)
    sys.argv = [path, *args]
    sys.path[0] = os.path.dirname(os.path.realpath(full))
    if any(os.path.exists(os.path.join(sys.path[0], name)) for name in ("microgpt.py", "microgpt")):
        for name in [name for name in sys.modules if name.split(".")[0] == "microgpt"]:
            del sys.modules[name]  # the script's own is meant
    try:
        code = compile(found.tree, full, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        sys.excepthook(type(error), error.with_traceback(None), None)
        return 1
    sys.modules["__main__"] = program
    try:
        exec(code, program.__dict__)
    except SystemExit as error:
        return _exit_status(error)
    except BaseException as error:
        # The frame of this function is not the script's.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        error.__traceback__ = trace
        sys.excepthook(type(error), error, trace)
        if isinstance(error, KeyboardInterrupt):
            _die_of_interrupt()
        return 1
    return 0


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
    import signal

    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if os.name == "posix" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


# --------------------------------------------------------------------- check


class _Counted(ast.NodeTransformer):
    """Count every call of a method named backward, before it is made."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "backward":
            counted = ast.parse("__import__('_microgpt_run_steps').step()", mode="eval").body
            assert isinstance(counted, ast.Call)
            counted.args = [node.func]
            node.func = counted
            for inner in ast.walk(counted):
                if not hasattr(inner, "lineno"):
                    ast.copy_location(inner, node)
        return node


def _counter(stop_after: int) -> types.ModuleType:
    module: Any = types.ModuleType("_microgpt_run_steps")
    done = 0

    def step(method: Any) -> Any:
        nonlocal done
        if done == stop_after:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(0)
        done += 1
        return method

    module.step = step
    counter: types.ModuleType = module
    return counter


def _check(path: str, args: list[str], steps: int, found: Plan) -> int:
    """Run the first steps of a script in both ways and compare what they print."""
    if not found.replaced:
        _complain(path, found)
        print(f"{path}: nothing is replaced, so there is nothing to compare")
        return 0
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    outputs = []
    for plain in ("1", ""):
        environment = {**os.environ, _STOP: str(steps), **({_PLAIN: plain} if plain else {})}
        command = [sys.executable, "-c", _DOOR, os.path.dirname(microgpt.__path__[0]), path, *args]
        done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, env=environment)
        outputs.append((done.returncode, done.stdout))
    (status, expected), (other_status, got) = outputs
    words = f"{steps} step{'s' if steps > 1 else ''}"
    if outputs[0] == outputs[1]:
        count = len(_lines(expected))
        print(f"{path}: identical: {words}, {count} lines printed, exit status {status}")
        return 0
    for number, (left, right) in enumerate(zip([*_lines(expected), b""], [*_lines(got), b""]), 1):
        if left != right:
            print(f"{path}: different at line {number} of what is printed in {words}")
            print(f"  by itself:    {left.decode(errors='replace')}")
            print(f"  microgpt run: {right.decode(errors='replace')}")
            return 1
    print(f"{path}: different: exit status {status} by itself, {other_status} under microgpt run")
    return 1


def _lines(output: bytes) -> list[bytes]:
    return output.replace(b"\r", b"\n").splitlines()
