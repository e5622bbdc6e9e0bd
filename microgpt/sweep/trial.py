"""One trial of a sweep: a training in a directory of its own, on this machine or another.

A worker trains in an attempt, a directory of any name in `.0007`, and writes `trial.json`
there last. The client renames it to `0007`. So a worker that continues an attempt
copies it, and a lost worker that still runs disturbs no other.
A worker that does not see the sweep's directory trains in one of its own and sends the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from microgpt import checkpoint, files
from microgpt.corpus import Corpus
from microgpt.log import LOG, read_log
from microgpt.settings import Settings
from microgpt.training import Callbacks, Stop, Training, TrainingError

DEFINITION = "sweep.json"
RESULT = "trial.json"
TRIALS = "trials"
UNSAVED = ("attempt", "files")  # of a result


@dataclass(frozen=True)
class Task:
    """A trial to run: its number, settings, and the sweep's identity and directory.

    It is pruned once its lowest held-out loss so far is above that of medians, which are by step.
    """

    number: int
    sweep: str
    directory: str
    params: dict[str, Any]
    settings: dict[str, Any]
    medians: dict[int, float] = field(default_factory=dict)


@dataclass
class Result:
    """The result of a trial; state is complete, pruned or failed.

    val_loss is that of the weights that are kept: the lowest, or with keep last the last;
    train_loss the mean of the last 100; both in nats per token. evaluations are
    (step, held-out loss). error says why a trial failed.
    """

    number: int
    sweep: str
    params: dict[str, Any]
    state: str = "complete"
    val_loss: float | None = None
    train_loss: float | None = None
    seconds: float = 0.0
    steps: int = 0
    weights: int = 0  # of the model
    tokens: int = 0  # that training predicted
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    error: str | None = None
    attempt: str = ""  # the directory's name
    files: dict[str, bytes] | None = None  # of a worker that does not see the sweep's

    def as_json(self) -> bytes:
        """Return the result as the trial's directory keeps it."""
        own = {name: value for name, value in asdict(self).items() if name not in UNSAVED}
        return json.dumps(own).encode()


class StoppedError(Exception):
    """The trial was stopped before its end, and saved."""


def run(task: Task, stop: Callable[[], bool] | None = None) -> Result:
    """Train a trial to its end, on from where an earlier attempt of it was saved.

    Raises:  StoppedError once stop returns True; OSError if a file cannot be read or written
    """
    name = secrets.token_hex(4)
    result = Result(task.number, task.sweep, task.params, attempt=name)
    if _is_of(task):
        folder = attempts(Path(task.directory), task.number)
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            ended = read_result(path, task.sweep)  # on a worker that then died, or was lost
            if ended is not None and ended.params == task.params:
                return dataclasses.replace(ended, attempt=path.name)
        _train(task, folder / name, result, stop)
        return result
    with tempfile.TemporaryDirectory(prefix="microgpt-") as place:
        _train(task, Path(place) / name, result, stop)
        result.files = {p.name: p.read_bytes() for p in (Path(place) / name).iterdir()}
    return result


def attempts(directory: Path, number: int) -> Path:
    """Return the directory of a trial's attempts."""
    return directory / TRIALS / f".{number:04d}"


def read_result(directory: Path, sweep: str) -> Result | None:
    """Return the result in a trial's directory, or None if there is none of this sweep."""
    try:
        values = json.loads((directory / RESULT).read_bytes())
        values["evaluations"] = [(int(step), float(loss)) for step, loss in values["evaluations"]]
        result = Result(**values)
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return result if result.sweep == sweep else None


def _is_of(task: Task) -> bool:
    """Return whether this process sees the directory of the task's sweep."""
    try:
        definition = json.loads((Path(task.directory) / DEFINITION).read_bytes())
        return bool(definition["id"] == task.sweep)
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _train(task: Task, directory: Path, result: Result, stop: Callable[[], bool] | None) -> None:
    directory.mkdir()
    begin = time.monotonic()
    with files.unflushed(1.0):  # a shorter training is made again sooner than it is flushed
        try:
            training = _begun(task, Settings(**task.settings, out=str(directory)), directory)
            callbacks = _TrialCallbacks(task, training, stop)
            training.fit(callbacks)
            if callbacks.stopped:
                raise StoppedError
        except (MemoryError, TrainingError, ValueError) as error:
            result.state, result.error = "failed", str(error) or type(error).__name__
            result.seconds = time.monotonic() - begin
        else:
            _conclude(result, training, callbacks)
        with files.replacing(directory / RESULT) as file:
            file.write(result.as_json())


def _conclude(result: Result, training: Training, callbacks: _TrialCallbacks) -> None:
    result.seconds, result.steps = training.seconds, training.step
    result.weights, result.tokens = training.model.config.num_params, _tokens(training)
    result.evaluations = callbacks.evaluations
    result.train_loss = math.fsum(training.recent) / max(len(training.recent), 1)
    best = training.settings.keeps_best and training.best is not None
    result.val_loss = training.best[1] if best and training.best else callbacks.evaluations[-1][1]
    if not math.isfinite(result.val_loss):
        result.state, result.error = "failed", "the held-out loss is not a number"
        result.val_loss = None
    elif callbacks.pruned:
        result.state = "pruned"


def _tokens(training: Training) -> int:
    """Return how many tokens a training has predicted: each counts as often as it was."""
    most = training.settings.block_size
    counts = [min(most, len(tokens) - 1) for tokens in training.tokens]
    rounds, rest = divmod(training.step * training.settings.batch_size, len(counts))
    return rounds * sum(counts) + sum(counts[:rest])


def _begun(task: Task, settings: Settings, directory: Path) -> Training:
    """Return the training from the attempt with the most steps, or a new one."""
    names = ("data", "split", "val", "seed", "block_size")
    corpus = _corpus(Settings(**{name: getattr(settings, name) for name in names}))
    found = [
        (step, path)
        for path in attempts(Path(task.directory), task.number).glob("*")
        if path != directory and (step := _step(path, settings)) is not None
    ]
    for _, path in sorted(found, reverse=True):
        # The checkpoint first: the log has all its steps, and is cut to them.
        for name in (checkpoint.FILENAME, checkpoint.BEST, LOG):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path / name, directory / name)
        with contextlib.suppress(OSError, ValueError):
            process = settings.of_scope("process")
            del process["out"]
            return Training.load(directory, process, corpus)
    return Training(settings, corpus)


def _step(attempt: Path, settings: Settings) -> int | None:
    """Return the step after which an attempt was saved, or None if it is of another trial."""
    try:
        run = checkpoint.read(attempt, best=False).run or {}
        saved = Settings(**run["settings"])
        step: int = run["step"]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    same = saved.of_scope("bits", "samples") == settings.of_scope("bits", "samples")
    return step if same else None


class _TrialCallbacks(Callbacks):
    """Ends a training that is stopped or pruned, and keeps its held-out losses."""

    together = True

    def __init__(self, task: Task, training: Training, stop: Callable[[], bool] | None) -> None:
        self.stopped = self.pruned = False
        self.evaluations = _logged(training) if training.step else []
        self._stop, self._medians = stop, task.medians

    def step(self, t: int, loss: float) -> None:
        if self._stop is not None and self._stop():
            self.stopped = True
            raise Stop

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        self.evaluations.append((step, loss))
        lowest = min((x for _, x in self.evaluations if not math.isnan(x)), default=math.nan)
        if step in self._medians and not lowest <= self._medians[step]:
            self.pruned = True
            raise Stop


def _logged(training: Training) -> list[tuple[int, float]]:
    """Return the held-out losses that a training's log has so far."""
    lines = read_log(Path(f"{training.settings.out}") / LOG, training.step)
    return [(line["step"], line["val_loss"]) for line in lines if line["val_loss"] is not None]


@functools.lru_cache(maxsize=4)
def _corpus(settings: Settings) -> Corpus:
    return Corpus.of(settings)
