"""The promise, checked on this machine: every engine trained beside the oracle, by bits.

Each engine starts from the same seed and data. First all take their steps side by
side, and losses, gradients and weights are compared after each one, the samples at
the end. Then each trains again by `fit`, the way `train` goes: its losses, weights
and samples are compared, and these are the steps that are timed. Equal means equal
by `float.hex()`; where the oracle raises an exception, so must the others.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from microgpt import checkpoint, data, sampling
from microgpt import engine as engines
from microgpt.gpt import Config
from microgpt.training import OnStep, Run, losses_to, prepare

ORACLE = "python"

Observed = dict[str, "array[float] | str"]


class Difference(NamedTuple):
    """Where an engine first left the oracle, and what each of them has there."""

    place: str
    expected: str
    found: str


def verify(arguments: Namespace, engine: SimpleNamespace | None = None) -> int:
    """Compare all engines, or one, with the oracle and print a table; return the exit status.

    Raises:  OSError and ValueError with a message for the user
    """
    if arguments.out is not None:
        prepare(arguments.out)
    documents = data.documents(arguments.data)
    oracle = Candidate(ORACLE, arguments, documents)
    asked = engines.names() if engine is None else [engine.NAME]
    names = [name for name in asked if name != ORACLE]
    built = {name for name in names if _is_built(name)}
    others = [Candidate(name, arguments, documents) for name in names if name in built]
    missing = [name for name in names if name not in built]
    if not others:
        raise ValueError("no engine is built beside the oracle, so there is nothing to compare")
    with contextlib.ExitStack() as stack:
        write = None
        if arguments.losses is not None:
            write = stack.enter_context(losses_to(arguments.losses))
        _train_side_by_side(oracle, others, arguments, write)
    differ = any(other.difference for other in others)
    if arguments.out is not None and not differ:
        checkpoint.save(arguments.out, oracle.run.model, oracle.run.tokenizer)
    if arguments.quiet and not differ:
        return 0
    # In a pipe nothing is folded, however narrow the terminal behind it.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_table(oracle, others, missing))
    steps = len(oracle.seconds)
    weights = steps * oracle.run.model.config.num_params
    print(
        f"compared to the last bit: {steps:,} losses, {weights:,} gradients, {weights:,} weights, "
        f"{arguments.num_samples:,} samples"
    )
    return int(differ)


class Candidate:
    """An engine in training: seconds, one a step; difference, its first."""

    def __init__(self, name: str, arguments: Namespace, documents: list[str]) -> None:
        self.name = name
        self.begin: Callable[[], Run] = lambda: Run(arguments, documents, engines.load(name))
        self.arguments = arguments
        self.run = self.begin()
        self.seconds: list[float] = []
        self.difference: Difference | None = None

    def step(self, t: int) -> Observed:
        """Take step t of training and return what it computed, by name."""
        run, size = self.run, self.run.batch_size
        batch = [run.tokens[(t * size + b) % len(run.tokens)] for b in range(size)]
        seen: Observed = {}
        try:
            start = time.perf_counter()
            loss = run.model.loss(batch[0]) if size == 1 else run.model.batch_loss(batch)
            loss.backward()
            seconds = time.perf_counter() - start
            seen["loss"] = array("d", [loss.data])
            seen["gradient"] = array("d", run.model.gradients())
            start = time.perf_counter()
            run.adam.step()
            self.seconds.append(time.perf_counter() - start + seconds)
            seen["weight"] = array("d", run.model.weights())
        except Exception as error:  # any is an observation
            seen["exception"] = type(error).__name__
        return seen

    def fit(self) -> Observed:
        """Train anew by fit and return what it computed, by name."""
        self.run = self.begin()
        moments = [time.perf_counter()]
        seen: Observed = {}

        def on_step(t: int, loss: float) -> None:
            moments.append(time.perf_counter())
            seen[f"step {t + 1}, loss"] = array("d", [loss])

        try:
            self.run.fit(on_step)
            seen["last weight"] = array("d", self.run.model.weights())
        except Exception as error:  # any is an observation
            seen["exception"] = type(error).__name__
        self.seconds = [end - begin for begin, end in itertools.pairwise(moments)]
        return seen

    def sample(self) -> Observed:
        """Return the samples drawn now, by number."""
        run, seen = self.run, Observed()
        try:
            texts = sampling.samples(run.model, run.tokenizer, run.rng, self.arguments)
            for i, text in enumerate(texts):
                seen[f"sample {i + 1}"] = text
        except Exception as error:  # any is an observation
            seen["exception"] = type(error).__name__
        return seen

    def compare(self, place: str, expected: Observed, found: Observed) -> None:
        """Keep the difference of found from expected, if it is this engine's first."""
        if self.difference is None:
            differs = difference(expected, found, self.run.model.config)
            if differs is not None:
                self.difference = differs._replace(place=f"{place}{differs.place}")


def difference(expected: Observed, found: Observed, config: Config) -> Difference | None:
    """Return the first difference by bits, in the order of expected, or None."""
    for name in dict.fromkeys(["exception", *expected, *found]):
        ours, theirs = expected.get(name, "none"), found.get(name, "none")
        if isinstance(ours, str) or isinstance(theirs, str):
            if ours != theirs:
                return Difference(name, _brief(ours), _brief(theirs))
            continue
        if len(ours) != len(theirs):
            return Difference(f"number of {name}s", str(len(ours)), str(len(theirs)))
        if ours.tobytes() == theirs.tobytes():
            continue
        for i, (a, b) in enumerate(zip(ours, theirs)):
            if a.hex() != b.hex():
                where = f"{name} of {parameter(i, config)}" if len(ours) > 1 else name
                return Difference(where, a.hex(), b.hex())
    return None


def parameter(i: int, config: Config) -> str:
    """Return the name of weight number i of a model: its matrix, row and column."""
    for name, (rows, columns) in config.shapes().items():
        if i < rows * columns:
            return f"{name}[{i // columns}][{i % columns}]"
        i -= rows * columns
    raise ValueError("the model has no such weight")


def _train_side_by_side(
    oracle: Candidate, others: list[Candidate], arguments: Namespace, write: OnStep | None
) -> None:
    trained: Observed = {}
    with _progress(arguments.quiet) as advance:
        for t in range(arguments.num_steps):
            expected = oracle.step(t)
            for other in others:
                if other.difference is None:
                    other.compare(f"step {t + 1}, ", expected, other.step(t))
            advance(t + 1, arguments.num_steps)
            if "exception" in expected:
                trained["exception"] = expected["exception"]
                break
            trained[f"step {t + 1}, loss"] = expected["loss"]
            if write is not None:
                write(t, float(expected["loss"][0]))
        else:
            trained["last weight"] = expected["weight"]
    drawn = oracle.sample()
    for other in others:
        if other.difference is None:
            other.compare("", drawn, other.sample())
        other.compare("by fit, ", trained, other.fit())
        if other.difference is None:
            other.compare("by fit, ", drawn, other.sample())


def _table(oracle: Candidate, others: list[Candidate], missing: list[str]) -> Table:
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


def _is_built(name: str) -> bool:
    try:
        engines.load(name)
    except ModuleNotFoundError:
        return False
    return True


def _brief(value: array[float] | str) -> str:
    return value if isinstance(value, str) else f"{len(value)} numbers"


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], object]]:
    """Yield a function of (step, num_steps) that draws a bar on a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("step {task.completed} / {task.total}"),
        BarColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("")
        yield lambda t, total: bar.update(task, completed=t, total=total, refresh=True)
