"""`microgpt sweep`: train a space of settings, show the progress, and the best trials."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from microgpt import extras
from microgpt.commands import flags
from microgpt.commands.signals import Boundary
from microgpt.commands.terminal import is_terminal, note
from microgpt.message import quoted, suggestion
from microgpt.settings import FIELDS, read_toml
from microgpt.sweep import space
from microgpt.sweep.results import Results, short
from microgpt.sweep.space import SETTINGS, Space
from microgpt.sweep.trial import Result

if TYPE_CHECKING:
    from microgpt.sweep.search import Sweep
    from microgpt.sweep.workers import Workers

SUMMARY = "train many settings, on all cores or a cluster, and show which are best"
EXAMPLES = """\
examples:
  microgpt sweep --learning-rate log:1e-3:3e-2 --n-embd 16,32,64 --dropout 0:0.3 --out sweep
  microgpt sweep --config space.toml --trials 200 --jobs 2 --out sweep
  microgpt sweep --n-embd 16,32 --n-layer 1:3 --sampler grid --out grid
  microgpt sweep --resume sweep --trials 400        go on, or on to more trials
  microgpt sweep show sweep                         the best trials, and what matters
  microgpt sweep show sweep --csv > sweep.csv       a row a trial
  microgpt report sweep                             Optuna's plots as a page
  microgpt sample sweep/trials/0007                 every trial is a run

A setting of train is a value, or a space: 16,32,64 (these), 0:0.3 (between), 0:0.3:0.1 (in
steps), log:1e-3:3e-2 (between, in the logarithm). A TOML file has the same texts, or arrays:
learning-rate = "log:1e-3:3e-2", n-embd = [16, 32, 64], and trials, jobs, sampler and so on.
Trials are compared by the held-out loss of the weights that they keep; --val is 0.1 unless
given.

The same --seed, space and number of trials give the same trials and the same numbers: with
random and grid whatever --jobs is. With tpe trials are chosen in rounds of --jobs, each from
the results of all rounds before it, so they are the same for the same --jobs.
With --pruner median a trial ends once its held-out loss is above the median that others had
after the same steps. Random and grid trials compare with those at least 16 numbers before
them, so that at most 16 run at a time.

Ctrl-C saves the trials that run, and --resume continues them. Without --scheduler trials run
in processes of this machine; docs/sweeps.md says how to use many.
"""
OWN = ("trials", "jobs", "sampler", "pruner", "storage", "scheduler", "out")
SAMPLERS = ("tpe", "random", "grid")  # as microgpt.sweep.study, which needs Optuna
PRUNERS = ("none", "median")
TRIALS = 100


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of sweep."""
    source = command.add_argument_group("the sweep")
    add_running(source)
    source.add_argument(
        "--sampler", choices=SAMPLERS, help="how points are chosen (default: tpe)", metavar="NAME"
    )
    source.add_argument(
        "--pruner",
        choices=PRUNERS,
        metavar="NAME",
        help="end trials early: none, or median (default: none)",
    )
    source.add_argument(
        "--trials",
        type=flags.whole,
        metavar="N",
        help=f"how many (default: {TRIALS}, of a grid all)",
    )
    flags.add_settings(command, SETTINGS, convert=converter)
    command.set_defaults(verbs=("show",))


def add_running(group: Any) -> None:
    """Add the flags for the space's file, the sweep's directory, and the workers."""
    group.add_argument(
        "--config", type=flags.path, metavar="FILE", help="take the space from a TOML file"
    )
    group.add_argument("--resume", type=flags.path, metavar="DIR", help="the sweep to go on with")
    group.add_argument("--out", type=flags.path, metavar="DIR", help="the sweep's directory")
    group.add_argument(
        "--jobs",
        type=flags.whole,
        metavar="N",
        help="trials at a time (default: as many as there are processors)",
    )
    group.add_argument(
        "--scheduler",
        type=flags.path,
        metavar="ADDRESS",
        help="run trials on the workers of a Dask scheduler, as tcp://host:8786",
    )
    group.add_argument(
        "--storage",
        type=flags.path,
        metavar="ADDRESS",
        help="keep Optuna's study there: an address of SQLAlchemy, or journal:FILE "
        "(default: DIR/sweep.db)",
    )


def run(options: argparse.Namespace) -> int:
    """Run a sweep as the command line asks; return the exit status."""
    values, own = given(options)
    return carried_out(options, values, own, _conclude)


def carried_out(
    options: argparse.Namespace,
    values: dict[str, Any],
    own: dict[str, Any],
    conclude: Callable[[Results], object],
) -> int:
    """Begin a sweep or go on with one, run it to its end and conclude; return the exit status.

    values are the settings' domains, own the sweep's options.
    """
    extras.need("optuna", "a sweep", "sweep")
    from microgpt.sweep.search import Sweep

    command = options.parser
    if options.resume is not None:
        if extra := sorted({*values, *own} - {"trials", "jobs", "scheduler"}):
            name = extra[0].replace("_", "-")
            command.error(f"a sweep that goes on has its own space: leave out --{name}")
        with contextlib.closing(Sweep(options.resume)) as sweep:
            if "trials" in own:
                try:
                    sweep.extend(own["trials"])
                except ValueError as error:
                    command.error(str(error))
            with workers(command, own) as found:
                return watched(sweep, found, conclude)
    if "out" not in own:
        command.error("give --out a directory for the sweep, or --resume one")
    try:
        wanted = Space.of(values)
        if own.get("sampler") == "grid":
            own.setdefault("trials", len(wanted.grid()))
    except (TypeError, ValueError) as error:
        command.error(str(error))
    names = ("sampler", "pruner", "storage")
    rules: dict[str, Any] = {name: own[name] for name in names if name in own}
    rules["trials"] = own.get("trials", TRIALS)
    with workers(command, own) as found:
        try:
            begun = Sweep.create(own["out"], wanted, round=found.slots, **rules)
        except FileExistsError as error:
            command.error(f"{error.filename}: {error.strerror}")
        except ValueError as error:
            command.error(str(error))
        with contextlib.closing(begun) as sweep:
            return watched(sweep, found, conclude)


@contextlib.contextmanager
def workers(command: Any, own: dict[str, Any]) -> Iterator[Workers]:
    """Yield the workers that flags ask for, and end them."""
    if "scheduler" in own:
        from microgpt.sweep.cluster import Cluster

        try:
            found: Workers = Cluster(own["scheduler"], own.get("jobs"), note)
        except ValueError as error:
            command.error(str(error))
    else:
        from microgpt.sweep.workers import Processes

        found = Processes(own.get("jobs", processors()))
    try:
        yield found
    finally:
        found.close()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def watched(sweep: Sweep, found: Workers, conclude: Callable[[Results], object]) -> int:
    """Run a sweep and show how far it is; return the exit status."""
    progress = Progress(sweep)
    with Boundary() as boundary:
        with progress:
            done = sweep.run(
                found, progress.ended, lambda: boundary.signum is not None, progress.beat
            )
        if not done:
            note(
                f"stopped after {len(sweep.results.trials)} of {sweep.count} trials; go on with "
                f"microgpt sweep --resume {sweep.directory}"
            )
            return 128 + (boundary.signum or 0)
    conclude(sweep.results)
    return 0


def summary(results: Results, most: int) -> list[str]:
    """Return the summary of a sweep as lines."""
    states = [result.state for result in results.trials.values()]
    counts = [f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states]
    lines = [f"trials: {', '.join(counts) or 'none'}"]
    best = results.best()[:most]
    if best:
        names = list(results.space.domains)
        rows = [["trial", "val_loss", "train_loss", "seconds", *names]]
        rows += [
            [
                f"{r.number:04d}",
                f"{r.val_loss:.4f}",
                f"{r.train_loss:.4f}",
                f"{r.seconds:.2f}",
                *(short(r.params[name]) for name in names),
            ]
            for r in best
        ]
        lines += ["", *aligned(rows)]
        shares = _importance(results)
        if shares:
            lines += ["", "share of each setting in what the loss varies by (PED-ANOVA):"]
            lines += [f"  {name} {share:.0%}" for name, share in shares.items()]
        lines += ["", f"  microgpt sample {results.path(best[0].number)}"]
    for result in sorted(results.trials.values(), key=lambda r: r.number):
        if result.state == "failed":
            lines.append(f"trial {result.number:04d} failed: {result.error}")
            break
    return lines


def aligned(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines, each column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in rows]


class Progress:
    """How far a sweep is: a table that is redrawn on a terminal, else a line a trial."""

    SHOWN = 5  # of the best

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._begin = time.monotonic()
        self._before = len(sweep.results.trials)
        self._live: Any = None
        self._drawn = 0.0
        self._best: Sequence[Result] = sweep.results.best()[:1]

    def __enter__(self) -> Progress:
        if is_terminal(sys.stdout):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=sys.stdout), auto_refresh=False)
            self._live.start()
        elif self._before:
            print(f"{self._before} of {self._sweep.count} trials have ended")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self.beat(force=True)
            self._live.stop()

    def ended(self, result: Result) -> None:
        """Show that a trial has ended."""
        if self._live is not None:
            return
        if result.state == "complete":
            ended = [*self._best, result]
            self._best = sorted(ended, key=lambda r: (r.val_loss, r.number))[:1]
        shown = "-" if result.val_loss is None else f"{result.val_loss:.4f}"
        parts = [
            f"trial {result.number:4d}",
            f"{len(self._sweep.results.trials)} / {self._sweep.count}",
            f"val_loss {shown}" + ("" if result.state == "complete" else f" {result.state}"),
            *(f"best {r.val_loss:.4f} (trial {r.number})" for r in self._best),
            " ".join(f"{name} {short(value)}" for name, value in result.params.items()),
            f"{result.seconds:.1f} s",
        ]
        print(" | ".join(parts + ([result.error] if result.error else [])))

    def beat(self, force: bool = False) -> None:
        """Draw the table anew, four times a second."""
        if self._live is not None and (force or time.monotonic() - self._drawn > 0.25):
            self._drawn = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich.table import Table

        results, count = self._sweep.results, self._sweep.count
        done, seconds = len(results.trials), time.monotonic() - self._begin
        rate = (done - self._before) / seconds if seconds > 0 else 0.0
        left = f"{_duration((count - done) / rate)} left" if rate else "-"
        title = f"{done} of {count} trials, {len(self._sweep.running)} running, {left}"
        names = list(results.space.domains)
        table = Table(title=title, title_justify="left", box=None)
        for name in ("trial", "val_loss", *names, "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        for r in results.best()[: self.SHOWN]:
            values = [short(r.params[name]) for name in names]
            table.add_row(f"{r.number:04d}", f"{r.val_loss:.4f}", *values, f"{r.seconds:.1f}")
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _conclude(results: Results) -> None:
    print()
    for line in summary(results, 5):
        print(line)
    print(f"  microgpt sweep show {results.directory}")
    print(f"  microgpt report {results.directory}")


def _importance(results: Results) -> dict[str, float]:
    try:
        return results.importance()
    except ImportError:  # only this column needs Optuna
        return {}


def given(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the sweep's options of the file and the command line."""
    command = options.parser
    values = {n: v for n, v in flags.given(options).items() if n in SETTINGS}
    own = {n: v for n in OWN if (v := getattr(options, n, None)) is not None}
    if options.config is None:
        return values, own
    table = {str(k).replace("-", "_"): v for k, v in read_toml(options.config).items()}
    of_file = {name: table.pop(name) for name in OWN if name in table}
    try:
        for name, value in of_file.items():
            _check_own(f"{options.config}: ", name, value)
        values = {**space.from_mapping(table, options.config), **values}
    except ValueError as error:
        hint = ""
        for name in table:
            if name not in FIELDS:
                hint = suggestion(name, OWN)
        command.error(f"{error}{hint if 'did you mean' not in str(error) else ''}")
    return values, {**of_file, **own}


def _check_own(file: str, name: str, value: Any) -> None:
    wanted: type = int if name in ("trials", "jobs") else str
    choices = {"sampler": SAMPLERS, "pruner": PRUNERS}.get(name)
    least = value < 1 if isinstance(value, int) else value == ""
    if type(value) is not wanted or least:
        noun = "a whole number of at least 1" if wanted is int else "text"
        raise ValueError(f"{file}{name} must be {noun}, not {quoted(value)}")
    if choices and value not in choices:
        close = suggestion(str(value), choices)
        text = f"must be one of {', '.join(choices)}, not {quoted(value)}{close}"
        raise ValueError(f"{file}{name} {text}")


def converter(field: Any) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return space.parsed(field, text)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
