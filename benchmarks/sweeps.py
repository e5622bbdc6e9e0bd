"""The cost of a sweep: trainings a second, the gain of two processes, the overhead.

    python benchmarks/sweeps.py trainings            whole trainings of 1,000 steps on one core
    python benchmarks/sweeps.py jobs                 trials a second by one and two processes
    python benchmarks/sweeps.py overhead             of Optuna, and of Dask, by length of training
    python benchmarks/sweeps.py overhead 100000      of that length alone
    python benchmarks/sweeps.py workers              what a client and a scheduler can serve

A trial trains the default model on the package's names and is evaluated once, on 1,000
names held out, by one thread. Times of processes are compared with times of the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from microgpt.corpus import Corpus
from microgpt.settings import Settings
from microgpt.sweep import trial
from microgpt.sweep.search import Sweep
from microgpt.sweep.space import Range, Space
from microgpt.sweep.trial import RESULT, TRIALS, Result, Task
from microgpt.sweep.workers import Processes, Workers
from microgpt.training import Training

HELD_OUT = 1_000
VARIES = {
    "learning_rate": Range(1e-3, 3e-2, log=True),
    "beta1": Range(0.8, 0.95),
    "beta2": Range(0.95, 0.999),
}
LENGTHS = {1_000: 60, 10_000: 16, 100_000: 3}  # steps: trials


def settings(steps: int) -> dict[str, Any]:
    """Return what all trials have: evaluated and saved once, at the end."""
    documents = 30_000  # of the package
    fixed = {"num_steps": steps, "eval_every": steps, "save_every": steps}
    return {**fixed, "val": HELD_OUT / documents}


@contextlib.contextmanager
def sweep(steps: int, trials: int, **rules: Any) -> Iterator[Sweep]:
    """Yield a new sweep in a directory of its own."""
    folder = tempfile.mkdtemp(prefix="microgpt-")
    space = Space(dict(VARIES), settings(steps))
    begun = Sweep.create(Path(folder) / "sweep", space, trials=trials, **rules)
    try:
        yield begun
    finally:
        begun.close()
        shutil.rmtree(folder)


def rate(begun: Sweep, workers: Workers) -> float:
    """Return the trials a second, without the first ones, in which the processes start."""
    times: list[float] = []
    begun.run(workers, lambda result: times.append(time.perf_counter()))
    return (len(times) - workers.slots) / (times[-1] - times[workers.slots - 1])


@contextlib.contextmanager
def trials_folder() -> Iterator[str]:
    """Yield a directory in which trials can run without a sweep."""
    with tempfile.TemporaryDirectory(prefix="microgpt-") as folder:
        (Path(folder) / TRIALS).mkdir()
        (Path(folder) / trial.DEFINITION).write_text('{"id": "benchmark"}')
        yield folder


def trainings(rounds: int = 30) -> None:
    """Print how many whole trainings one core does in a second."""
    own = Settings(**settings(1_000))
    corpus = Corpus.of(own)

    def in_memory() -> None:
        Training(own, corpus).fit()

    with trials_folder() as folder:

        def as_trial() -> None:
            trial.run(Task(0, "benchmark", folder, {}, settings(1_000)))
            shutil.rmtree(trial.attempts(Path(folder), 0))

        for name, train in (("in memory", in_memory), ("as a trial, with its files", as_trial)):
            train()
            wall, busy = [], []
            for _ in range(rounds):
                begin, processor = time.perf_counter(), time.process_time()
                train()
                wall.append(time.perf_counter() - begin)
                busy.append(time.process_time() - processor)
            a, b = statistics.median(wall), statistics.median(busy)
            print(
                f"{name}: {1 / a:.1f} trainings of 1,000 steps a second, {1 / b:.1f} a second of "
                f"the core (medians of {rounds}; each with an evaluation on {HELD_OUT:,} names)"
            )


def jobs(*lengths: int) -> None:
    """Print the trials a second of one and of two processes, in pairs.

    And the client's processor time: what it takes of two cores, two workers do not have.
    """
    for steps in lengths or (1_000, 10_000):
        trials = LENGTHS[steps]
        ratios = []
        for _ in range(3):
            rates = []
            for count in (1, 2):
                workers = Processes(count)
                with sweep(steps, trials, sampler="random") as begun:
                    busy = time.process_time()
                    rates.append(rate(begun, workers))
                    busy = (time.process_time() - busy) / trials
                workers.close()
            ratios.append(rates[1] / rates[0])
            print(
                f"{steps:,} steps: {rates[0]:.2f} trials a second by one process, {rates[1]:.2f} "
                f"by two, {ratios[-1]:.2f} times; {1e3 * busy:.1f} ms of the client a trial"
            )
        print(f"{steps:,} steps: median {statistics.median(ratios):.2f} times")


@contextlib.contextmanager
def dask(workers: int = 1) -> Iterator[str]:
    """Yield the address of a scheduler that is a process, with so many worker processes."""
    import dask.config as dask_config
    import distributed

    quiet = {
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
    }  # as docs/sweeps.md advises
    with (
        dask_config.set(quiet),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
    ):
        yield cluster.scheduler_address


def processor() -> float:
    """Return the processor seconds of this process and of all that it has started."""
    this = psutil.Process()
    times = [one.cpu_times() for one in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def cost(steps: int, trials: int, name: str) -> float:
    """Return the processor seconds of all processes a trial, after a worker's first."""
    with contextlib.ExitStack() as stack:
        if name == "Dask":
            from microgpt.sweep.cluster import Cluster

            workers: Workers = Cluster(stack.enter_context(dask()), 1)
        else:
            workers = Processes(1)
        stack.callback(workers.close)
        begun = stack.enter_context(sweep(steps, trials + 1, sampler="random"))
        first: list[float] = []
        begun.run(workers, lambda result: first or first.append(processor()))
        return (processor() - first[0]) / trials


def alone(steps: int, count: int) -> list[float]:
    """Return the processor seconds of trials that this process trains, without a sweep."""
    times = []
    with trials_folder() as folder:
        for i in range(1 + count):
            begin = time.process_time()
            trial.run(Task(i, "benchmark", folder, {}, settings(steps)))
            times.append(time.process_time() - begin)
    return times[1:]  # the first one may read the text


def overhead(*lengths: int) -> None:
    """Print what a trial costs all processes beside its training and its files.

    In processor time, which a busy machine changes least; trainings alone are measured before,
    between and after.
    """
    print("steps      workers    training    a trial   beside the training")
    for steps in lengths or LENGTHS:
        trials = LENGTHS[steps]
        some = max(1, trials // 4)
        times, found = alone(steps, some), {}
        for name in ("processes", "Dask"):
            found[name] = cost(steps, trials, name)
            times += alone(steps, some)
        training = statistics.mean(times)
        for name, each in found.items():
            print(
                f"{steps:<9,}  {name:9}  {1e3 * training:6.1f} ms  {1e3 * each:6.1f} ms  "
                f"{1e3 * (each - training):6.1f} ms, {each / training - 1:.1%}",
                flush=True,
            )


class Simulated:
    """Workers that have trained at once: what is left is the client's own time."""

    ahead = 0

    def __init__(self, slots: int) -> None:
        self.slots, self.tasks = slots, []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def wait(self, seconds: float) -> list[Any]:
        tasks, self.tasks = self.tasks, []
        found = []
        for task in tasks:
            loss = 2.0 + task.params["learning_rate"]
            result = Result(task.number, task.sweep, task.params, val_loss=loss, attempt="one")
            attempt = trial.attempts(Path(task.directory), task.number) / result.attempt
            attempt.mkdir(parents=True)
            (attempt / RESULT).write_bytes(result.as_json())
            found.append((task.number, result))
        return found

    def stop(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""


def workers(trials: int = 300) -> None:
    """Print how many trials a second a client, and a Dask scheduler, can serve.

    The client's are of its processor time: it waits for its workers, not they for it.
    """
    import distributed

    for sampler, count, storage in (
        ("random", 10, None),
        ("random", 100, None),
        ("random", 1_000, None),
        ("tpe", 10, None),
        ("tpe", 100, None),
        ("tpe", 100, "journal:"),
    ):
        with tempfile.TemporaryDirectory(prefix="microgpt-") as folder:
            place = None if storage is None else f"{storage}{folder}/journal"
            with sweep(1_000, trials, sampler=sampler, round=count, storage=place) as begun:
                begin = time.process_time()
                begun.run(Simulated(count))
                served = trials / (time.process_time() - begin)
        print(
            f"client, {sampler}, {'a journal' if storage else 'SQLite'}, {count:,} simulated "
            f"workers: {served:.0f} trials a second; all are busy from {count / served:.2g} s a "
            "training on",
            flush=True,
        )
    with dask() as address, distributed.Client(address) as client:
        client.submit(abs, 0).result()
        begin = time.process_time()
        for i in range(trials):
            client.submit(abs, i, pure=False).result()
        served = trials / (time.process_time() - begin)
    print(f"Dask's client and scheduler, in one process: {served:.0f} empty tasks a second")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"trainings": trainings, "jobs": jobs, "overhead": overhead, "workers": workers}
    parser.add_argument("part", choices=parts)
    parser.add_argument("number", nargs="*", type=int, help="lengths of jobs or overhead, in steps")
    options = parser.parse_args()
    parts[options.part](*options.number)


if __name__ == "__main__":  # worker processes import this file
    print(f"CPython {sys.version.split()[0]}; load {Path('/proc/loadavg').read_text().split()[0]}")
    main()
