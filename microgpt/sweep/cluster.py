"""Workers of a Dask cluster: one trial a thread, on whatever machines it has.

Dask runs a task again when its worker dies. If the scheduler dies, the client waits for a new
one at the same address, and submits the trials that had not ended.

A task costs client, scheduler and worker 20 ms of processor time together, as much as 500
steps: so a task gets several short trials, and ends after about a second.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from microgpt import extras
from microgpt.sweep import trial
from microgpt.sweep.trial import Result, Task
from microgpt.sweep.workers import Outcome, died

TURN = 1.0  # seconds after which a task begins no other trial
LEAST = 0.01  # seconds of a trial that are counted on
CONNECT = 5.0  # seconds until a scheduler has answered
AGAIN = 1.0  # seconds between tries to reach one that is gone


def run(tasks: list[Task]) -> list[Outcome]:
    """Run trials in their order until a turn is over, or one fails; return what ended."""
    end = time.monotonic() + TURN
    outcomes: list[Outcome] = []
    for task in tasks:
        try:
            outcomes.append((task.number, trial.run(task)))
        except Exception as error:
            return [*outcomes, (task.number, error)]
        if time.monotonic() >= end:
            break
    return outcomes


class Cluster:
    """The workers of the scheduler at an address.

    slots is how many trials it gets at a time: as many as its workers had threads at the
    beginning, unless that is given.

    Raises:  ValueError, of one line, if there is no scheduler, or it has no worker
    """

    def __init__(
        self, address: str, slots: int | None = None, say: Callable[[str], object] = print
    ) -> None:
        self._dask: Any = extras.need("distributed", "--scheduler", "sweep")
        for name in ("distributed", "distributed.client", "distributed.core", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told here
        self._address = address
        self._waiting: deque[Task] = deque()
        self._futures: dict[int, tuple[Any, list[Task]]] = {}  # by their first trial's number
        self._seconds = TURN  # of a trial
        self._deaths: dict[int, int] = {}
        self._stopping = self._lost = False
        self._say = say
        try:
            self._client = self._connected()
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"--scheduler {address}: cannot be reached: {reason}") from None
        threads = sum(self._client.nthreads().values())
        if not threads and slots is None:
            self.close()
            raise ValueError(
                f"--scheduler {address}: it has no worker yet: start some, or give --jobs"
            )
        self.slots = slots or threads

    @property
    def ahead(self) -> int:
        """How many trials beyond slots may wait in the queue."""
        return self.slots * (2 * self._turn - 1) if self._turn > 1 else 0

    def submit(self, task: Task) -> None:
        """Let the cluster run a trial."""
        self._waiting.append(task)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the trials that ended, after so many seconds at most."""
        if self._stopping:  # Dask cannot end what a thread runs: it is taken up by a resumption
            tasks = [*self._waiting, *(task for _, own in self._futures.values() for task in own)]
            self._waiting, self._futures = deque(), {}
            return [(task.number, None) for task in tasks]
        if self._client.status != "running":
            self._reconnect()
        while self._waiting and len(self._futures) < self.slots:
            count = min(self._turn, -(-len(self._waiting) // self.slots))
            self._send([self._waiting.popleft() for _ in range(count)])
        futures = [future for future, _ in self._futures.values()]
        nothing = (TimeoutError, self._dask.TimeoutError, self._dask.CancelledError)
        with contextlib.suppress(*nothing):
            self._dask.wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
        outcomes: list[Outcome] = []
        for number, (future, tasks) in list(self._futures.items()):
            if future.status in ("cancelled", "lost"):
                self._send(tasks)
            elif future.done():
                del self._futures[number]
                outcomes += self._outcomes(future, tasks)
        return outcomes

    def stop(self) -> None:
        """Give up the trials that run; `wait` returns them."""
        self._stopping = True

    def close(self) -> None:
        """Disconnect from the cluster, which keeps running."""
        self._futures = {}
        self._client.close(timeout=2)

    @property
    def _turn(self) -> int:
        """How many trials a task is given."""
        return max(1, int(TURN / max(self._seconds, LEAST)))

    def _send(self, tasks: list[Task]) -> None:
        key = f"microgpt-{tasks[0].sweep}-{tasks[0].number}-{secrets.token_hex(4)}"
        future = self._client.submit(run, tasks, key=key, pure=False)
        self._futures[tasks[0].number] = (future, tasks)

    def _outcomes(self, future: Any, tasks: list[Task]) -> list[Outcome]:
        """Return the trials that a task ran; submit those that it did not start."""
        if future.status == "finished":
            outcomes: list[Outcome] = future.result()
            self._waiting.extendleft(reversed(tasks[len(outcomes) :]))
            times = [result.seconds for _, result in outcomes if isinstance(result, Result)]
            self._seconds = max(times, default=self._seconds)
            return outcomes
        error, first = future.exception(), tasks[0]
        if not isinstance(error, (self._dask.KilledWorker, self._dask.CancelledError)):
            return [(task.number, error if task is first else None) for task in tasks]
        if len(tasks) > 1:  # which of them a worker cannot survive is seen one by one
            for task in tasks:
                self._send([task])
        elif (failed := died(first, self._deaths)) is not None:
            return [(first.number, failed)]
        else:
            self._send(tasks)
        return []

    def _connected(self) -> Any:
        return self._dask.Client(self._address, timeout=CONNECT)

    def _reconnect(self) -> None:
        """Connect to a new scheduler at the address, if there is one."""
        if not self._lost:
            self._lost = True
            self._say(f"{self._address} is gone; waiting for a scheduler there")
        self._client.close(timeout=1)
        try:
            self._client = self._connected()
        except (OSError, ValueError):
            time.sleep(AGAIN)
            return
        self._lost = False
        self._say(f"{self._address} is there again")
        for _, tasks in list(self._futures.values()):
            self._send(tasks)
