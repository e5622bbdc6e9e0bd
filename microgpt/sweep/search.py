"""Run a sweep: ask for points, let workers train them, keep the results.

A sweep's directory has `sweep.json`, its settings; `trials/0007`, a run's directory each, with
its result in `trial.json`; and `sweep.db`, Optuna's study of them. A resumed sweep
reads the trials that have ended from these directories alone.

The trials that a trial depends on are fixed before any runs, so that no number depends on
which one ends first: see `Sweep.follows`.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from microgpt import __version__, data, files
from microgpt.corpus import Corpus
from microgpt.settings import Settings
from microgpt.sweep.results import Results
from microgpt.sweep.space import Space
from microgpt.sweep.study import Asking, Storage
from microgpt.sweep.trial import DEFINITION, RESULT, TRIALS, Result, Task, attempts, read_result
from microgpt.sweep.workers import Workers

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows
    import fcntl

PRUNERS = ("none", "median")
STARTUP_TRIALS = 5  # complete ones, before the first is pruned
AHEAD = 16  # with a pruner, random and grid: how many numbers a trial is behind the ones it sees
TEXT = "text.txt"
WAIT = 0.5  # seconds until a signal is seen
STORE = 1.0  # seconds between writes to the storage
LOCK = ".lock"


class Sweep:
    """A sweep in a directory, which one process at a time can open.

    Raises:  OSError or ValueError, of one line, if it cannot be opened
    """

    def __init__(self, directory: str | os.PathLike[str], *, lock: BinaryIO | None = None) -> None:
        """Open the sweep of a directory; lock is the lock of a new one."""
        self.directory = Path(directory)
        if lock is None and not (self.directory / DEFINITION).exists():
            Results(directory)  # raises the reason
        self._lock = lock or _locked(self.directory)
        try:
            _publish_attempts(self.directory, Results(directory).sweep)
            self.results = Results(directory)
            self._open(self.results.definition, new=lock is not None)
        except BaseException:
            self._lock.close()
            raise
        self.running: dict[int, Task] = {}
        self._told = self._next = self._complete = 0
        self._losses: dict[int, list[float]] = {}  # of complete trials by step, sorted
        self._stored = time.monotonic()

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        space: Space,
        *,
        trials: int = 100,
        sampler: str = "tpe",
        pruner: str = "none",
        round: int = 1,
        storage: str | None = None,
    ) -> Sweep:
        """Return a new sweep; its directory must not hold one.

        round, for tpe, is how many trials are asked for before the results of any of them are used.

        Raises:  as `Sweep`; FileExistsError if there is one; ValueError if the space has no
                 trial, or as `Corpus.of` of the first one's text
        """
        folder = Path(directory)
        asking = Asking(space, sampler, space.fixed.get("seed", Settings.seed))
        first = space.settings(asking.ask())
        if first.data != "-":
            Corpus.of(first)
        (folder / TRIALS).mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
        if (folder / DEFINITION).exists():
            lock.close()
            raise FileExistsError(
                None, f"there is a sweep already: go on with --resume {directory}", str(directory)
            )
        try:
            definition = {
                "id": secrets.token_hex(8),
                "version": __version__,
                "trials": trials,
                "sampler": sampler,
                "pruner": pruner,
                "round": round,
                "storage": storage,
                "settings": _placed(space, folder).as_json(),
            }
            _write(folder, definition)
            return cls(folder, lock=lock)
        except BaseException:
            (folder / DEFINITION).unlink(missing_ok=True)
            lock.close()
            raise

    def extend(self, trials: int) -> None:
        """Set the number of trials anew.

        Raises:  ValueError if more have been run
        """
        most = max(self.results.trials, default=-1) + 1
        if trials < most:
            raise ValueError(f"{most} trials have been run: --trials must be at least that")
        self.count = self._most(trials)
        self.results.definition["trials"] = trials
        _write(self.directory, self.results.definition)

    def follows(self, number: int) -> int:
        """Return how many trials, the first ones, must have ended before this one is asked.

        Its point, and the medians that prune it, depend on the results of these alone.
        """
        if self.sampler == "tpe":
            return number // self.round * self.round
        return max(0, number - AHEAD + 1) if self.pruner != "none" else 0

    def run(
        self,
        workers: Workers,
        ended: Callable[[Result], object] = lambda result: None,
        stopped: Callable[[], bool] = lambda: False,
        beat: Callable[[], object] = lambda: None,
    ) -> bool:
        """Run all trials that have not ended; return whether all have, or it was stopped.

        Raises:  the exception of a trial that could not read or write a file
        """
        stopping, failure = False, None
        while self.running or not (stopping or self._next == self.count):
            if not stopping and stopped():
                stopping = True
                workers.stop()
            most = workers.slots + workers.ahead
            while not stopping and len(self.running) < most and self._can_ask():
                self._submit(workers)
            self._store()
            for number, outcome in workers.wait(WAIT) if self.running else []:
                del self.running[number]
                if isinstance(outcome, Result):
                    ended(self._keep(outcome))
                elif outcome is not None and failure is None:
                    failure, stopping = outcome, True
                    workers.stop()
            beat()
        self._store(last=True)
        if failure is not None:
            raise failure
        return all(number in self.results.trials for number in range(self.count))

    def close(self) -> None:
        """Unlock the sweep for other processes."""
        self.storage.close()
        self._lock.close()

    def _open(self, definition: dict[str, Any], new: bool) -> None:
        self.space = self.results.space
        self.sampler: str = definition["sampler"]
        self.pruner: str = definition["pruner"]
        self.round: int = definition["round"]
        seed = definition["settings"].get("seed", Settings.seed)
        self._asking = Asking(self.space, self.sampler, seed)
        self.count = self._most(definition["trials"])
        new = new or not self.results.trials  # it may have ended before its study was made
        self.storage = Storage(self.directory, definition["storage"], self.results.sweep, new=new)
        if new:
            self.storage.describe(definition)

    def _most(self, trials: int) -> int:
        points = self._asking.points
        return trials if points is None else min(trials, len(points))

    def _can_ask(self) -> bool:
        number = self._next
        first = range(self._told, self.follows(number)) if number < self.count else None
        return first is not None and all(i in self.results.trials for i in first)

    def _submit(self, workers: Workers) -> None:
        """Ask for the next trial, and let it be run if it has not ended."""
        number, seen = self._next, self.follows(self._next)
        for i in range(self._told, seen):
            self._tell(self.results.trials[i])
        self._told = max(self._told, seen)
        self._next += 1
        known = self.results.trials.get(number)
        params = self._asking.ask(known.params if known is not None else None)
        if known is not None:
            return
        task = Task(
            number,
            self.results.sweep,
            str(self.directory.absolute()),
            params,
            {**self.space.fixed, **params},
            self._medians() if self.pruner != "none" else {},
        )
        self.running[number] = task
        workers.submit(task)

    def _tell(self, result: Result) -> None:
        self._asking.tell(result)
        if result.state == "complete":
            self._complete += 1
            for step, loss in result.evaluations:
                if not math.isnan(loss):
                    bisect.insort(self._losses.setdefault(step, []), loss)

    def _medians(self) -> dict[int, float]:
        """Return the medians of held-out losses by step, as Optuna's MedianPruner has them."""
        if self._complete < STARTUP_TRIALS:
            return {}
        middles = {
            n: (found[(len(found) - 1) // 2], found[len(found) // 2])
            for n, found in self._losses.items()
        }
        return {step: (low + high) / 2 for step, (low, high) in middles.items()}

    def _keep(self, result: Result) -> Result:
        """Give a trial's directory its name."""
        folder = attempts(self.directory, result.number)
        attempt = folder / (result.attempt or "none")
        if result.files is not None or not result.attempt:
            attempt.mkdir(parents=True, exist_ok=True)
            for name, content in (result.files or {RESULT: result.as_json()}).items():
                with files.replacing(attempt / name) as file:
                    file.write(content)
            result.files = None
        path = self.results.path(result.number)
        if path.exists():  # without a result of this sweep
            os.rename(path, path.with_name(f"{path.name}.{secrets.token_hex(4)}"))
        os.rename(attempt, path)
        try:
            folder.rmdir()
        except OSError:  # it has other attempts
            shutil.rmtree(folder, ignore_errors=True)
        self.results.trials[result.number] = result
        return result

    def _store(self, last: bool = False) -> None:
        """Add ended trials to the storage, in the order of numbers, once a second."""
        now = time.monotonic()
        if last or now - self._stored > STORE:
            self._stored, trials = now, self.results.trials
            ended = itertools.takewhile(trials.__contains__, itertools.count(self.storage.count))
            self.storage.add([trials[number] for number in ended], self.space)


def _placed(space: Space, directory: Path) -> Space:
    """Return a space whose texts are found from anywhere; standard input is kept as a file."""

    def place(value: Any) -> Any:
        if value == "-":
            content, _ = data.read("-")
            with files.replacing(directory / TEXT) as file:
                file.write(content)
            value = str(directory / TEXT)
        return os.path.abspath(value) if isinstance(value, str) and os.path.exists(value) else value

    fixed, domains = dict(space.fixed), dict(space.domains)
    for name in ("data", "val"):
        if name in fixed:
            fixed[name] = place(fixed[name])
        elif name in domains:
            domains[name] = tuple(map(place, domains[name]))  # type: ignore[arg-type] # a tuple here, no Range
    return Space(domains, fixed)


def _publish_attempts(directory: Path, sweep: str) -> None:
    """Give their names to trials that ended while no client was there to do it."""
    for folder in sorted((directory / TRIALS).glob(".[0-9]*")):
        path = folder.with_name(folder.name[1:])
        for attempt in sorted(folder.glob("*")):
            if read_result(attempt, sweep) is not None and not path.exists():
                os.rename(attempt, path)
        if read_result(path, sweep) is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _write(directory: Path, definition: dict[str, Any]) -> None:
    with files.replacing(directory / DEFINITION) as file:
        file.write(json.dumps(definition, indent=1).encode() + b"\n")


def _locked(directory: Path) -> BinaryIO:
    """Return a file that is locked until it is closed, or the process ends."""
    file = open(directory / LOCK, "ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(f"{directory}: another process runs this sweep") from None
    return file
