"""Somebody's microgpt or micrograd script, unchanged, on compiled nodes.

`watch` sees classes as they are made; `adopt` replaces one that behaves like a node of an autograd
graph, judged by `probes` and by what its code `mentions`; `functions` recognises linear,
softmax and rmsnorm by the graphs that they build; `loops` runs Adam and its kin as vectors;
`execution` runs the script as Python would.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence

HELP = """\
Run a script as it is, with its class Value, its functions of lists and its loops over parameters
compiled where they behave the same, to the last bit. What is left as it is gets one line on
stderr; everything else is the script's own.

examples:
  microgpt run train.py                    instead of: python train.py
  microgpt run notebook.ipynb              every cell; saves nothing (needs nbclient)
  microgpt run --explain train.py          what is replaced, what not, and why (runs two steps)
  microgpt run --check 5 train.py          run 5 steps in both ways and compare what they print
"""
# As `-m microgpt.run`, which would take a microgpt.py of the current directory for the package.
_DOOR = """import sys
sys.path[0] = sys.argv.pop(1)
from microgpt.run import main
sys.exit(main(sys.argv[1:]))
"""
_PLAIN, _STOP, _EXPLAIN = "_MICROGPT_RUN_PLAIN", "_MICROGPT_RUN_STOP", "_MICROGPT_RUN_EXPLAIN"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `microgpt run`'s command line; return its exit status."""
    from microgpt.commands.flags import Parser

    parser = Parser(prog="microgpt run", description=HELP)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="run the script's first two steps, without its output, and tell what is replaced, "
        "what is not and why",
    )
    parser.add_argument(
        "--check",
        type=_steps,
        metavar="N",
        help="run the first N steps (calls of backward) in both ways, compare what they print, "
        "and stop; the script runs twice, with all its effects",
    )
    parser.add_argument("script", metavar="SCRIPT.py", help="the script, or a notebook")
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
    report = os.environ.pop(_EXPLAIN, None)
    if path.endswith(".ipynb") and not (options.explain or options.check):
        from microgpt.run.notebook import run_notebook

        return run_notebook(path, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when it runs
            compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        if options.explain or options.check or not isinstance(error, SyntaxError):
            print(f"microgpt run: {path} cannot be read as Python: {error}", file=sys.stderr)
            return 1
        # Only Python itself, reading the file, says what is wrong in quite these words.
        return subprocess.run([sys.executable, path, *options.args]).returncode
    if options.explain:
        return _explain(path, options.args)
    if options.check is not None:
        return _check(path, options.args, options.check)
    return run_program(path, source, options.args, bool(plain), stop_after, report)


def run_program(
    path: str,
    source: bytes,
    args: list[str],
    plain: bool = False,
    stop_after: int = 0,
    report: str | None = None,
) -> int:
    """Run a script; say on stderr what stays as it is, and on a terminal what was compiled."""
    from microgpt.run.execution import execute
    from microgpt.run.watch import Watch

    watch = Watch(plain=plain, stop_after=stop_after)

    def tell() -> None:
        if report:
            with open(report, "w", encoding="utf-8") as file:
                file.write("\n".join(watch.lines()))
            return
        if plain or stop_after:
            return
        if watch.refusals:
            place, name, reason = watch.refusals[0]
            more = (
                f" (and {len(watch.refusals) - 1} more: --explain)"
                if len(watch.refusals) > 1
                else ""
            )
            print(
                f"microgpt run: {place}: {name} is left as it is: {reason}{more}", file=sys.stderr
            )
        summary = watch.summary()
        if summary and sys.stderr.isatty():
            print(summary, file=sys.stderr)

    watch.at_stop = tell
    status = execute(path, source, args, watch)
    tell()
    return status


def _steps(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps: give 1 or more")
    return number


def _command(path: str, args: list[str]) -> list[str]:
    import microgpt

    return [sys.executable, "-c", _DOOR, os.path.dirname(microgpt.__path__[0]), path, *args]


def _explained(path: str, args: list[str], steps: int = 2) -> str:
    """Run the first steps of a script without its output; return what was replaced and what not."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report")
        environment = {**os.environ, _STOP: str(steps), _EXPLAIN: report}
        done = subprocess.run(
            _command(path, args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        try:
            with open(report, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            text = ""
        if done.returncode and not text:
            sys.stderr.buffer.write(done.stderr)
        return text


def _explain(path: str, args: list[str]) -> int:
    text = _explained(path, args)
    print(text or f"{path}: nothing is replaced: no class in it has __add__, __mul__ and backward")
    return 0


def _check(path: str, args: list[str], steps: int) -> int:
    """Run the first steps of a script in both ways and compare what they print."""
    text = _explained(path, args, min(steps, 2))
    if "is replaced by" not in text:
        print(text, file=sys.stderr)
        print(f"{path}: nothing is replaced, so there is nothing to compare")
        return 0
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    outputs = []
    for plain in ("1", ""):
        environment = {**os.environ, _STOP: str(steps), **({_PLAIN: plain} if plain else {})}
        done = subprocess.run(
            _command(path, args), input=stdin, stdout=subprocess.PIPE, env=environment
        )
        outputs.append((done.returncode, done.stdout))
    (status, expected), (other_status, got) = outputs
    words = f"{steps} step{'s' if steps > 1 else ''}"
    if outputs[0] == outputs[1]:
        count = len(_lines(expected))
        lines = f"{count} line{'' if count == 1 else 's'} printed"
        print(f"{path}: identical: {words}, {lines}, exit status {status}")
        for line in text.splitlines():
            if "is replaced by" in line:
                print(line)
        return 0
    for number, (left, right) in enumerate(zip([*_lines(expected), b""], [*_lines(got), b""]), 1):
        if left != right:
            print(f"{path}: different at line {number} of what is printed in {words}")
            print(f"  by itself:    {left.decode(errors='replace')}")
            print(f"  microgpt run: {right.decode(errors='replace')}")
            if "children in a set" in text:
                print("  (its nodes keep children in a set: by itself it differs from run to run)")
            return 1
    print(f"{path}: different: exit status {status} by itself, {other_status} under microgpt run")
    return 1


def _lines(output: bytes) -> list[bytes]:
    return output.replace(b"\r", b"\n").splitlines()
