"""`microgpt verify`: compare all engines on this machine, or a saved run with a new training."""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from microgpt import checkpoint, verify
from microgpt.commands import flags, train
from microgpt.commands.terminal import appending, console
from microgpt.settings import FIELDS
from microgpt.training import OnStep
from microgpt.verify import ORACLE, Candidate

if TYPE_CHECKING:
    from rich.table import Table

SUMMARY = "check on this machine that all engines agree, or that a saved run is reproduced"
EXAMPLES = """\
examples:
  microgpt verify                                  the default model on the package's names
  microgpt verify --data words.txt --n-layer 2 --num-steps 3 --batch-size 4
  microgpt verify --engine cython                  only this engine beside the oracle
  microgpt verify words                            the run that train --out words saved

The oracle is the pure-Python program that defines the right numbers; it is slow, so the default
is few steps. A saved run is trained again from nothing, by --engine: every loss of its log and
its last weights are compared. Exit status 0 says that all was equal to the last bit, 1 that
something differed.
"""
NUM_STEPS = 10
PROCESS = {
    "overwrite",
    "prompt",
    "stop",
    "tensorboard",
    "log_every",
    "save_every",
    "sample_every",
    "eval_every",
    "patience",
    "keep",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of verify."""
    command.add_argument(
        "directory", nargs="?", type=flags.path, metavar="DIR", help="a run that train --out saved"
    )
    names = [name for name in FIELDS if name not in PROCESS]
    flags.add_settings(command, names, num_steps=NUM_STEPS)


def run(options: argparse.Namespace) -> int:
    """Compare as the command line asks and print the result; return the exit status."""
    given = flags.given(options)
    if options.directory is not None:
        extra = sorted(given.keys() - {"engine", "quiet"})
        if extra:
            flag = extra[0].replace("_", "-")
            options.parser.error(f"a saved run has its own settings: leave out --{flag}")
        return _verify_run(options.directory, given.get("engine"), given.get("quiet", False))
    settings = flags.settings(options.parser, {"num_steps": NUM_STEPS, **given})
    train.check_files(options.parser, settings)
    train.check_out(options.parser, settings)
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(_progress(settings.num_steps, settings.quiet))
        losses = None
        if settings.losses is not None:
            losses = stack.enter_context(appending(settings.losses))

        def on_step(t: int, loss: float) -> None:
            advance(t, loss)
            if losses is not None:
                losses.write(f"{loss.hex()}\n")

        oracle, others, missing = verify.compare(settings, on_step)
    differ = any(other.difference for other in others)
    if settings.out is not None and not differ:
        checkpoint.save(settings.out, oracle.run.model, oracle.run.tokenizer)
    if settings.quiet and not differ:
        return 0
    # In a pipe nothing is folded, however narrow the terminal behind it.
    shown = console(width=None if sys.stdout.isatty() else 120, highlight=False)
    shown.print(_table(oracle, others, missing))
    steps = len(oracle.seconds)
    weights = steps * oracle.run.model.config.num_params
    print(
        f"compared to the last bit: {steps:,} losses, {weights:,} gradients, {weights:,} weights, "
        f"{settings.num_samples:,} samples"
    )
    return int(differ)


def _verify_run(directory: str, engine_name: str | None, quiet: bool) -> int:
    with _progress(None, quiet) as advance:
        result = verify.again(directory, engine_name, advance)
    if result.difference is not None:
        place, expected, found = result.difference
        print(f"different: {place}: {expected} was saved, {found} comes out now")
        return 1
    if not quiet:
        some = "" if result.losses == result.steps else f" of {result.steps:,}"
        print(f"identical: {result.losses:,}{some} losses, {result.weights:,} weights")
    return 0


def _table(oracle: Candidate, others: list[Candidate], missing: list[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED)
    table.add_column("engine", style="bold")
    table.add_column("time a step", justify="right")
    table.add_column("times the oracle", justify="right")
    table.add_column("bits")
    seconds = statistics.median(oracle.seconds or [math.nan])
    table.add_row(oracle.name, _time(seconds), "1", Text("the oracle", "dim"))
    for other in others:
        own = statistics.median(other.seconds or [math.nan])
        if other.difference is None:
            verdict = Text("identical", "bold green")
        else:
            place, expected, found = other.difference
            width = max(len(ORACLE), len(other.name))
            verdict = Text(f"differ: {place}\n", "bold red")
            verdict.append(f"{ORACLE:{width}} {expected}\n{other.name:{width}} {found}", "default")
        table.add_row(other.name, _time(own), _ratio(seconds / own), verdict)
    for name in missing:
        table.add_row(name, "-", "-", Text("not built", "yellow"))
    return table


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.2f} s"
    return f"{1e3 * seconds:.1f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.1f} us"


@contextlib.contextmanager
def _progress(num_steps: int | None, quiet: bool) -> Iterator[OnStep]:
    """Yield a function of (step, loss) that draws a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn(
            "step {task.completed} / {task.total}" if num_steps else "step {task.completed}"
        ),
        BarColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("", total=num_steps)
        yield lambda t, loss: bar.update(task, completed=t + 1, refresh=True)
