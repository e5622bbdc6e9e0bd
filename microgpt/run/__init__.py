"""Somebody's microgpt script, unchanged, on the compiled engine.

`program` reads the script and the modules beside it, `recognise` decides what is
replaced, `execution` runs the result. The class is judged by `contract`, after
`fields` has written out a dataclass and `closures` a class of micrograd's kind;
functions and methods are compared by `spelling`, names by `names`. What a script
could notice is followed by `flow`, `statements`, `expressions` and `calls`, in the
terms of `kinds` and `aliases`; what data could change too early, by `freshness`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

import microgpt
from microgpt.run.execution import execute
from microgpt.run.program import Program

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
    from microgpt.commands.parser import Parser

    parser = Parser(prog="microgpt run", description=HELP)
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
    arguments = parser.add_argument("args", nargs=argparse.REMAINDER, help="its own arguments")
    arguments.required = False  # or they would be said to be missing
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
        program = Program(path, source, plain=bool(plain))
    except (OSError, SyntaxError, ValueError) as error:
        if options.explain or options.check or not isinstance(error, SyntaxError):
            print(f"microgpt run: {path} cannot be read as Python: {error}", file=sys.stderr)
            return 1
        # Only Python itself, reading the file, says what is wrong in quite these words.
        return subprocess.run([sys.executable, path, *options.args]).returncode
    if options.explain:
        return _explain(program)
    if options.check is not None:
        return _check(program, options.args, options.check)
    if not plain and not stop_after:
        _complain(program)
    return execute(program, options.args, stop_after)


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


def _explain(program: Program) -> int:
    """Print what a plan replaces and what it does not."""
    for line, name, what in sorted(program.found.replaced):
        print(f"{program.place(line)}: {name} is replaced by {what}")
    for line, name, reason in sorted(program.found.kept):
        print(f"{program.place(line)}: {name} is left as it is: {reason}")
    return 0


def _complain(program: Program) -> None:
    """Say in one line what is not replaced."""
    kept = sorted(program.found.kept, key=lambda item: item[0] == 0)
    if kept:
        line, name, reason = kept[0]
        more = f" (and {len(kept) - 1} more: --explain)" if len(kept) > 1 else ""
        words = f"{program.place(line)}: {name} is left as it is: {reason}{more}"
        print(f"microgpt run: {words}", file=sys.stderr)


def _check(program: Program, args: list[str], steps: int) -> int:
    """Run the first steps of a script in both ways and compare what they print."""
    path = program.path
    if not program.found.replaced:
        _complain(program)
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
        lines = f"{count} line{'' if count == 1 else 's'} printed"
        print(f"{path}: identical: {words}, {lines}, exit status {status}")
        return 0
    for number, (left, right) in enumerate(zip([*_lines(expected), b""], [*_lines(got), b""]), 1):
        if left != right:
            print(f"{path}: different at line {number} of what is printed in {words}")
            print(f"  by itself:    {left.decode(errors='replace')}")
            print(f"  microgpt run: {right.decode(errors='replace')}")
            if program.found.unordered:
                print("  (its nodes keep children in a set: by itself it differs from run to run)")
            return 1
    print(f"{path}: different: exit status {status} by itself, {other_status} under microgpt run")
    return 1


def _lines(output: bytes) -> list[bytes]:
    return output.replace(b"\r", b"\n").splitlines()
