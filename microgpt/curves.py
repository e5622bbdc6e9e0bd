"""The curves of runs: columns of their logs, thinned and smoothed for a plot."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from microgpt import checkpoint, log
from microgpt.settings import FIELDS, scope

AXES = ("steps", "seconds", "tokens")
MAX_POINTS = 2_000  # of one curve in a picture
WINDOW = 100  # losses of the running mean


class Curve(NamedTuple):
    """The x and y numbers of a curve, equally many."""

    x: list[float]
    y: list[float]


class LoggedRun:
    """One run's log and settings; label names it in a plot.

    Raises:  OSError or ValueError as `checkpoint.read`; ValueError if nothing is logged
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.content = checkpoint.read(directory, best=False)
        if self.content.run is None:
            raise ValueError(f"{directory}: a model without a run has no log")
        self.settings: dict[str, Any] = self.content.run["settings"]
        self.lines = log.read_log(self.directory / log.LOG)
        if not self.lines:
            raise ValueError(f"{directory}: its {log.LOG} has no step")
        self.label = os.path.basename(os.path.normpath(directory))

    def curve(self, name: str, axis: str = "steps") -> Curve:
        """Return a column of the log over steps, seconds or tokens, where it has numbers."""
        x = self._axis(axis)
        kept = [(x[i], line[name]) for i, line in enumerate(self.lines) if _is_number(line, name)]
        return Curve([a for a, _ in kept], [b for _, b in kept])

    def _axis(self, axis: str) -> list[float]:
        if axis == "steps":
            return [line["step"] for line in self.lines]
        if axis == "seconds":
            return [line["seconds"] for line in self.lines]
        total, found = 0.0, []
        for line in self.lines:
            total += line["tokens"]
            found.append(total)
        return found


def runs(directories: Iterable[str | os.PathLike[str]]) -> list[LoggedRun]:
    """Return runs, labelled by the settings in which they differ.

    Raises:  as `LoggedRun`
    """
    found = [LoggedRun(directory) for directory in directories]
    names = dict.fromkeys(name for run in found for name in run.settings)
    differing = [
        name
        for name in names
        if scope(FIELDS[name]) == "bits"
        and len({repr(run.settings.get(name)) for run in found}) > 1
    ]
    labels = [
        ", ".join(f"{name}={_short(run.settings.get(name))}" for name in differing) for run in found
    ]
    for run, label in zip(found, labels):
        if len(found) == 1:
            continue
        run.label = label if label and labels.count(label) == 1 else f"{run.label} {label}".strip()
    return found


def thinned(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """Return every n-th point of a curve, its last one always, so that at most `most` are left."""
    n = len(curve.x)
    every = -(-n // most)
    kept = [*range((n - 1) % every, n, every)] if n else []
    return Curve([curve.x[i] for i in kept], [curve.y[i] for i in kept])


def running_mean(curve: Curve, window: int = WINDOW) -> Curve:
    """Return the mean of each `window` points in a row, at the last of them.

    Order:   a running total, each point added and later subtracted: for pictures
    """
    if len(curve.y) <= window:
        window = max(1, len(curve.y) // 5)
    total, y = 0.0, []
    for i, value in enumerate(curve.y):
        total += value
        if i >= window:
            total -= curve.y[i - window]
        y.append(total / min(i + 1, window))
    return Curve(curve.x[window - 1 :], y[window - 1 :])


def panels(found: Sequence[LoggedRun]) -> list[tuple[str, str]]:
    """Return the columns beside the losses that some run has, with their axis labels."""
    names = {
        "rate": "learning rate",
        "norm": "gradient norm",
        "tokens_per_second": "tokens a second",
    }
    return [
        (name, text)
        for name, text in names.items()
        if any(_is_number(line, name) for run in found for line in run.lines)
    ]


def _is_number(line: dict[str, Any], name: str) -> bool:
    return isinstance(line.get(name), (int, float))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"...{text[-21:]}"
