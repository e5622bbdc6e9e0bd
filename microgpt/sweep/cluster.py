"""Workers of a Dask cluster: one trial a thread, on whatever machines it has.

Dask runs a task again when its worker dies. What it cannot do is done here: a client that
lost its scheduler waits for one at the same address, and submits what had not ended.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from microgpt import extras
from microgpt.sweep import trial
from microgpt.sweep.trial import Task
from microgpt.sweep.workers import Outcome, died

CONNECT = 5.0  # seconds until a scheduler has answered
AGAIN = 1.0  # seconds between tries to reach one that is gone


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
        self._futures: dict[int, tuple[Any, Task]] = {}
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

    def submit(self, task: Task) -> None:
        """Let the cluster run a trial."""
        key = f"microgpt-{task.sweep}-{task.number}-{secrets.token_hex(4)}"
        future = self._client.submit(trial.run, task, key=key, pure=False)
        self._futures[task.number] = (future, task)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the trials that ended, after so many seconds at most."""
        if self._stopping:  # Dask cannot end what a thread runs: it is taken up by a resumption
            outcomes: list[Outcome] = [(number, None) for number in self._futures]
            self._futures = {}
            return outcomes
        if self._client.status != "running":
            self._reconnect()
        futures = [future for future, _ in self._futures.values()]
        nothing = (TimeoutError, self._dask.TimeoutError, self._dask.CancelledError)
        with contextlib.suppress(*nothing):
            self._dask.wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
        outcomes = []
        for number, (future, task) in list(self._futures.items()):
            if future.status in ("cancelled", "lost"):
                self.submit(task)
            elif future.done():
                del self._futures[number]
                outcomes += self._outcome(future, task)
        return outcomes

    def stop(self) -> None:
        """Give up the trials that run; `wait` returns them."""
        self._stopping = True

    def close(self) -> None:
        """Leave the cluster, which goes on."""
        self._futures = {}
        self._client.close(timeout=2)

    def _outcome(self, future: Any, task: Task) -> list[Outcome]:
        error = future.exception()
        if error is None:
            return [(task.number, future.result())]
        if isinstance(error, (self._dask.KilledWorker, self._dask.CancelledError)):
            failed = died(task, self._deaths)
            if failed is None:
                self.submit(task)
                return []
            return [(task.number, failed)]
        return [(task.number, error)]

    def _connected(self) -> Any:
        return self._dask.Client(self._address, timeout=CONNECT)

    def _reconnect(self) -> None:
        """Take up the scheduler that is there now, if there is one."""
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
        for _, task in list(self._futures.values()):
            self.submit(task)
