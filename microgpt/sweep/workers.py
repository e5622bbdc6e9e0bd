"""Workers that are processes of this machine, one trial at a time each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Protocol

from microgpt.sweep import trial
from microgpt.sweep.trial import Result, StoppedError, Task

MAX_DEATHS = 3  # of the workers of one trial, after which it has failed

# A trial's number and its result; None if it was stopped, or what went wrong.
Outcome = tuple[int, Result | Exception | None]


class Workers(Protocol):
    """The interface of workers: processes of this machine, or a cluster."""

    slots: int  # how many trials they run at a time

    @property
    def ahead(self) -> int:
        """How many trials beyond slots may wait in the queue."""

    def submit(self, task: Task) -> None:
        """Let a trial be run."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the trials that ended, after so many seconds at most."""

    def stop(self) -> None:
        """Stop the running trials after their step, and save them; `wait` returns them."""

    def close(self) -> None:
        """End all workers."""


def died(task: Task, deaths: dict[int, int]) -> Result | None:
    """Count a worker that died in a trial; return a failed result after MAX_DEATHS."""
    deaths[task.number] = deaths.get(task.number, 0) + 1
    if deaths[task.number] < MAX_DEATHS:
        return None
    error = f"{MAX_DEATHS} workers died over it"
    return Result(task.number, task.sweep, task.params, "failed", error=error)


class Processes:
    """A number of processes of this machine. One that dies is replaced, its trial run again."""

    ahead = 0

    def __init__(self, count: int) -> None:
        self.slots = count
        self._spawn = multiprocessing.get_context("spawn")  # no threads or locks are inherited
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []
        self._deaths: dict[int, int] = {}
        self._stopping = False

    def submit(self, task: Task) -> None:
        """Let a process run a trial."""
        process = self._idle.pop() if self._idle else _Process(self._spawn)
        process.task = task
        with contextlib.suppress(OSError):  # it died idle: `wait` will see that
            process.connection.send(task)
        self._busy.append(process)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the trials that ended, after so many seconds at most."""
        ready = wait([process.connection for process in self._busy], seconds)
        outcomes: list[Outcome] = []
        for process in [process for process in self._busy if process.connection in ready]:
            self._busy.remove(process)
            assert process.task is not None
            number = process.task.number
            try:
                outcomes.append((number, process.connection.recv()))
                self._idle.append(process)
            except (EOFError, OSError):
                process.end()
                failed = died(process.task, self._deaths)
                if self._stopping or failed is not None:
                    outcomes.append((number, failed))
                else:
                    self.submit(process.task)
        return outcomes

    def stop(self) -> None:
        """Let the trials that run be saved after their step; `wait` returns them."""
        self._stopping = True
        for process in self._busy:
            process.process.terminate()

    def close(self) -> None:
        """End all processes."""
        for process in (*self._idle, *self._busy):
            process.end()
        self._idle, self._busy = [], []


class _Process:
    """A process, the end of its pipe that is here, and the task that it has."""

    def __init__(self, context: Any) -> None:
        self.task: Task | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _without_interrupts():  # also before the process ignores it itself
            self.process.start()
        theirs.close()

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def _serve(connection: Connection) -> None:
    """Run tasks until the other end is closed. SIGTERM ends the trial that runs, and the rest."""
    asked: list[int] = []

    def ask(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)

    for name in ("SIGINT", "SIGHUP"):  # a terminal's, which the client hears of
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ask)
    parent = os.getppid()
    with contextlib.suppress(EOFError, OSError):  # the client is gone
        while not asked:
            task = connection.recv()
            try:
                # A killed client leaves its workers behind: they end after their step too.
                found: Any = trial.run(task, lambda: bool(asked) or os.getppid() != parent)
            except StoppedError:
                found = None
            except Exception as error:
                found = error
            connection.send(found)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in processes that are started here: a terminal sends it to all."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
