"""Functions for the tests of sweeps: optional packages, small sweeps, their content."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest
from command import SWEEPS

if not SWEEPS:
    pytest.skip("optuna is not installed, and has no wheels here", allow_module_level=True)

# Imported here: what fails to be imported in them keeps the frames that it was needed in.
import optuna.importance
import optuna.visualization

from microgpt import checkpoint
from microgpt.sweep import Results, trial
from microgpt.sweep.search import Sweep
from microgpt.sweep.space import Range, Space

assert optuna.visualization.is_available()

TEXT = "ada\ngrace\nalan\nedsger\nbarbara\ndonald\ntony\njohn\n"
FIXED = {
    "data": "text",
    "n_head": 2,
    "block_size": 8,
    "num_steps": 20,
    "val": 0.3,
    "save_every": 20,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in FIXED.items()]
VARIES = {"learning_rate": Range(1e-3, 0.3, log=True), "n_embd": (2, 4, 6)}


class Here:
    """Workers in this process; of those that run, the last submitted ends first."""

    ahead = 0

    def __init__(self, slots):
        self.slots, self.tasks, self.asked = slots, [], False

    def submit(self, task):
        self.tasks.append(task)

    def wait(self, seconds):
        task = self.tasks.pop()
        try:
            return [(task.number, trial.run(task, lambda: self.asked))]
        except trial.StoppedError:
            return [(task.number, None)]
        except OSError as error:
            return [(task.number, error)]

    def stop(self):
        self.asked = True


def swept(directory, workers=None, varies=VARIES, fixed=(), **rules):
    """Run a new sweep to its end; return its results.

    Its study is in a journal, which takes less time than SQLite, unless storage is given.
    """
    journal = f"journal:{directory}.journal"
    rules = {"trials": 6, "sampler": "random", "storage": journal, **rules}
    sweep = Sweep.create(directory, Space(dict(varies), {**FIXED, **dict(fixed)}), **rules)
    assert sweep.run(workers or Here(1))
    sweep.close()
    return Results(directory)


def content(directory):
    """Return the results of a sweep without times: points, losses and every run's last weights."""
    results = Results(directory)
    found = {}
    for number, r in results.trials.items():
        weights = checkpoint.read(results.path(number), best=False).weights.tobytes()
        found[number] = (r.params, r.state, r.val_loss, r.train_loss, r.evaluations, weights)
    return found


def stored(directory):
    """Return the trials of a sweep's study as its file has them, in their order."""
    with contextlib.closing(sqlite3.connect(directory / "sweep.db")) as database:
        return database.execute(
            "select number, state, value from trials left join trial_values using (trial_id) "
            "order by number"
        ).fetchall()


def wait_for(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def children(pid):
    """Return the processes that a process started and that train."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid and "spawn_main" in Path(f"/proc/{entry}/cmdline").read_text():
                found.append(int(entry))
    return found
