"""Run a user's microgpt or micrograd script, unchanged, on compiled nodes.

`watch` sees classes as they are made. `adopt` decides whether one behaves like a node of an
autograd graph, by its objects (`observed`), by programs (`probes`) and by its code (`mentions`),
and replaces it by a compiled class (`standin`). `functions` recognises linear, softmax and rmsnorm
by the graphs that they build. `rewrite` finds loops over parameters, and `loops` runs them as
vectors. `execution` runs the script as Python would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

HELP = """\
Run a script unchanged. Its class Value, its functions of lists and its loops over parameters are
compiled if they behave the same, to the last bit. What is not compiled is reported on stderr, one
line each; all other output is the script's.

examples:
  microgpt run train.py                    instead of: python train.py
  microgpt run notebook.ipynb              every cell; saves nothing (needs nbclient)
  microgpt run --explain train.py          what is replaced, what not, and why (runs two steps)
  microgpt run --check 5 train.py          run 5 steps in both ways and compare what they print
"""
# As `-m microgpt.run`, which would take a microgpt.py of the current directory for the package.
_LAUNCHER = """import sys
sys.path[0] = sys.argv.pop(1)
from microgpt.run import main
sys.exit(main(sys.argv[1:]))
"""
_NOTHING = "nothing is replaced: no class in it has __add__, __mul__ and backward"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `microgpt run`'s command line; return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    options: dict[str, Any] = {}
    if given and not given[0].startswith("-"):  # without the time to import argparse
        path, *args = given
    else:
        try:
            options = _options(given)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        path, args = options.pop("script"), options.pop("args")
    steps, explain = options.pop("check", 0), options.pop("explain", False)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"microgpt run: cannot read {path}: {error.strerror}", file=sys.stderr)
        return 2
    if path.endswith(".ipynb"):
        from microgpt.run.notebook import run_notebook

        return run_notebook(path, source, explain or steps > 0)
    if steps:
        return _check(path, args, steps)
    if explain:
        print("\n".join(_ran(path, args, 2)[2]) or f"{path}: {_NOTHING}")
        return 0
    return run_program(path, source, args, **options)


def _options(argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags that are given, the script and its own arguments."""
    import argparse

    from microgpt.commands.flags import Parser

    def steps(text: str) -> int:
        if not text.isdecimal() or not int(text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps: give 1 or more")
        return int(text)

    unset = argparse.SUPPRESS
    parser = Parser(prog="microgpt run", description=HELP)
    parser.add_argument(
        "--explain",
        action="store_true",
        default=unset,
        help="run the script's first two steps, without its output, and tell what is replaced, "
        "what is not and why",
    )
    parser.add_argument(
        "--check",
        type=steps,
        default=unset,
        metavar="N",
        help="run the first N steps (calls of backward) in both ways, compare what they print, "
        "and stop; the script runs twice, with all its effects",
    )
    # Of the runs that --explain and --check start.
    parser.add_argument("--plain", action="store_true", default=unset, help=unset)
    parser.add_argument("--stop-after", type=int, default=unset, help=unset)
    parser.add_argument("--report", default=unset, help=unset)
    parser.add_argument("script", metavar="SCRIPT.py", help="the script, or a notebook")
    arguments = parser.add_argument("args", nargs=argparse.REMAINDER, help="its own arguments")
    arguments.required = False  # or they would be said to be missing
    return vars(parser.parse_args(argv))


def run_program(
    path: str,
    source: bytes,
    args: list[str],
    plain: bool = False,
    stop_after: int = 0,
    report: str | None = None,
) -> int:
    """Run a script; say on stderr what stays as it is, and on a terminal what was compiled."""
    # With -m it is the current directory, whose modules may have names of the library.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from microgpt.run.execution import execute
    from microgpt.run.watch import Watch

    watch = Watch(plain=plain, stop_after=stop_after)

    def tell() -> None:
        if report:
            with open(report, "w", encoding="utf-8") as file:
                file.write("\n".join(watch.lines()))
        elif not plain:
            watch.tell()

    watch.at_stop = tell
    status = execute(path, source, args, watch)
    tell()
    return status


def _ran(
    path: str, args: list[str], steps: int, *flags: str, stdin: bytes = b""
) -> tuple[int, bytes, list[str]]:
    """Run the first steps of a script; return its status, its output and what was replaced."""
    import subprocess
    import tempfile

    import microgpt

    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report")
        flags = (f"--stop-after={steps}", f"--report={report}", *flags)
        package = os.path.dirname(microgpt.__path__[0])
        command = [sys.executable, "-c", _LAUNCHER, package, *flags, "--", path, *args]
        done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE)
        lines = []
        if os.path.exists(report):
            with open(report, encoding="utf-8") as file:
                lines = file.read().splitlines()
        return done.returncode, done.stdout, lines


def _check(path: str, args: list[str], steps: int) -> int:
    """Run the first steps of a script in both ways and compare what they print."""
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    other_status, got, lines = _ran(path, args, steps, stdin=stdin)
    replaced = [line for line in lines if "is replaced by" in line]
    if not replaced:
        print("\n".join(lines), file=sys.stderr)
        print(f"{path}: nothing is replaced, so there is nothing to compare")
        return 0
    status, expected, _ = _ran(path, args, steps, "--plain", stdin=stdin)
    words = f"{steps} step{'s' if steps > 1 else ''}"
    outputs = [output.replace(b"\r", b"\n").splitlines() for output in (expected, got)]
    if (status, expected) == (other_status, got):
        n = len(outputs[0])
        count = f"{n} line{'' if n == 1 else 's'} printed"
        print(f"{path}: identical: {words}, {count}, exit status {status}", *replaced, sep="\n")
        return 0
    for number, (left, right) in enumerate(zip(*([*part, b""] for part in outputs)), 1):
        if left != right:
            print(f"{path}: different at line {number} of what is printed in {words}")
            print(f"  by itself:    {left.decode(errors='replace')}")
            print(f"  microgpt run: {right.decode(errors='replace')}")
            if any("children in a set" in line for line in replaced):
                print("  (its nodes keep children in a set: by itself it differs from run to run)")
            return 1
    print(f"{path}: different: exit status {status} by itself, {other_status} under microgpt run")
    return 1
