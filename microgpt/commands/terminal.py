"""The output of commands beside their results: notes, progress, samples."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from microgpt.message import one_line
from microgpt.sampling import Sample
from microgpt.settings import Settings

# All controls but tab and newline: the output of an unknown model must not control a terminal.
_CONTROLS = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160)) if chr(i) not in "\t\n"}
MIN_BAR, MAX_BAR = 10, 40  # columns


def note(text: str) -> None:
    """Write a line to stderr."""
    print(f"microgpt: {one_line(text)}", file=sys.stderr, flush=True)


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def console(**rules: Any) -> Any:
    """Return a console of rich's that raises BrokenPipeError for a closed pipe, as print does."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(**rules)


def print_samples(
    samples: Iterable[Sample], settings: Settings, mark: Callable[[str], str] | None = None
) -> None:
    """Print samples numbered as the original does, or bare if quiet.

    "..." follows those that a length other than the original's ended.
    mark(text) says whether a text is new, or where it occurs.
    """
    quiet = settings.quiet
    shows_cut = settings.length is not None or settings.split != "lines"
    escapes = _CONTROLS if sys.stdout.isatty() else {}
    for i, (text, ended_by) in enumerate(samples):
        shown = text.translate(escapes)
        if not quiet:
            cut = " ..." if shows_cut and ended_by == "length" else ""
            shown = f"sample {i + 1:2d}: {shown}{cut}"
        if mark is not None:
            shown += f"\t{mark(text)}" if quiet else f" ({mark(text)})"
        print(shown)


class Bar:
    """A line on a terminal that says how far training is; redrawn while a step takes long.

    It fits into the width of the terminal and leaves room for the ^C that a terminal shows.
    """

    def __init__(self, num_steps: int, step: int, stream: Any) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = Console(file=stream, highlight=False)
        digits = len(str(num_steps))
        # What fits beside ^C, the most telling first, each with the space before it.
        rest = self.console.width - 3 - (2 * digits + 8)
        fits = {}
        for name, width in (
            ("loss", 12),
            ("time", 8),
            ("bar", MIN_BAR + 1),
            ("rate", 16),
            ("left", 13),
        ):
            fits[name] = rest >= width
            rest -= width
        bar_width = MIN_BAR + max(0, min(rest, MAX_BAR - MIN_BAR))
        step_text = f"step {{task.completed:{digits}d}}"
        columns: list[Any] = [
            TextColumn(f"{step_text} / {num_steps}" if fits["loss"] else step_text),
            *([BarColumn(bar_width=bar_width)] if fits["bar"] else []),
            *([TextColumn("loss {task.fields[loss]}")] if fits["loss"] else []),
            *([TextColumn("{task.fields[rate]} steps/s")] if fits["rate"] else []),
            *([TimeElapsedColumn()] if fits["time"] else []),
            *([TextColumn("left"), TimeRemainingColumn()] if fits["left"] else []),
        ]
        self._progress = Progress(*columns, console=self.console, refresh_per_second=4)
        self._task = self._progress.add_task(
            "", total=num_steps, completed=step, loss="-", rate="-"
        )
        self._step = self._first = step
        self._loss = "-"
        self._start = self._drawn = time.monotonic()

    def __enter__(self) -> Bar:
        try:
            self._progress.start()
        except RuntimeError:  # the system refuses a thread: it is drawn after steps alone
            self._progress.live.auto_refresh = False
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._update()
        self._progress.stop()

    def advance(self, t: int, loss: float) -> None:
        """Show step t, counted from 0, at most twenty times a second."""
        self._step, self._loss = t + 1, f"{loss:.4f}"
        if time.monotonic() - self._drawn >= 0.05:
            self._drawn = time.monotonic()
            self._update()
            self._progress.refresh()

    def _update(self) -> None:
        speed = (self._step - self._first) / max(time.monotonic() - self._start, 1e-9)
        rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        self._progress.update(self._task, completed=self._step, loss=self._loss, rate=rate)


@contextlib.contextmanager
def appending(path: str) -> Iterator[Any]:
    """Yield a new text file, line by line on the disk; its errors name it."""
    try:
        with open(path, "w", encoding="ascii", buffering=1) as file:
            yield file
    except OSError as error:
        if error.filename is None and not isinstance(error, BrokenPipeError):
            error.filename = path
        raise
