"""Optuna: choose the next point, and write a study of the trials for other programs.

A sampler starts anew for each trial from the sweep's seed and the trial's number, so that a
resumed sweep asks for the same points; TPE also reads a study in memory of the
trials before. The storage gets trials when they and all before them have ended, in their
order: it is never ahead of the trials' directories, and can be made from them. That is why
trials may wait for it: one by one they would cost the client 6 ms each in SQLite.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from microgpt import extras
from microgpt.message import one_line
from microgpt.sweep.space import Range, Space
from microgpt.sweep.trial import Result

extras.need("optuna", "a sweep", "sweep")

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.exceptions import OptunaError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS = ("tpe", "random", "grid")
DATABASE = "sweep.db"
SCHEMA = 12  # of Optuna's tables, since its version 3, whose columns follow
COLUMNS = {
    "trials": "trial_id, number, study_id, state, datetime_start, datetime_complete",
    "trial_values": "trial_id, objective, value, value_type",
    "trial_params": "trial_id, param_name, param_value, distribution_json",
    "trial_user_attributes": "trial_id, key, value_json",
    "trial_intermediate_values": "trial_id, step, intermediate_value, intermediate_value_type",
}
TRIES = 300  # draws of one point, until the settings go together
TPE_TRIES = 30  # each takes some milliseconds
STARTUP_TRIALS = 10  # before TPE draws
MOST_UNFIT = 3  # points a trial of which TPE is told that no trial can have them
_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the settings that vary."""
    return {name: _distribution(domain) for name, domain in space.domains.items()}


class Asking:
    """Points, asked in the order of their numbers.

    Raises:  ValueError if the space has no trial
    """

    def __init__(self, space: Space, sampler: str, seed: object) -> None:
        self.space = space
        self.points = _shuffled(space.grid(), seed) if sampler == "grid" else None
        self._distributions, self._seed = distributions(space), seed
        self._asked = self._unfit = 0
        self._study: optuna.Study | None = None
        self._running: dict[int, optuna.Trial] = {}
        if self.points is None:
            problem = space.problem(self._draws(self._random)[-1])
            if problem is not None:
                raise ValueError(f"a space without a trial in {TRIES:,} draws: {problem}")
        if sampler == "tpe":
            self._study = optuna.create_study(sampler=_Sampler(self._distributions, self._tpe))

    def ask(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the next trial's point; known is it where the trial was already asked."""
        if self._study is not None:
            self._tell_unfit(self._study)
            if known is not None:
                self._study.enqueue_trial(dict(known))
            trial = self._running[self._asked] = self._study.ask(self._distributions)
            known = trial.params
        elif known is None:
            known = self.points[self._asked] if self.points else self._draws(self._random)[-1]
        self._asked += 1
        return {name: self._exact(name, value) for name, value in known.items()}

    def tell(self, result: Result) -> None:
        """Use a trial's result for the points that are asked from now on."""
        if self._study is None:
            return
        trial = self._running.pop(result.number)
        if result.state == "complete":
            self._study.tell(trial, result.val_loss)
            return
        # A failed one has no loss, and so counts as the worst.
        for step, loss in result.evaluations:
            trial.report(loss, step)
        self._study.tell(trial, state=TrialState.PRUNED)

    def _draws(self, draw: Callable[[int], dict[str, Any]], tries: int = TRIES) -> list[Any]:
        """Return points drawn for the next trial, up to the first that a trial can have."""
        points = []
        for i in range(tries):
            digest = hashlib.sha256(f"{self._seed} {self._asked} {i}".encode()).digest()
            points.append(draw(int.from_bytes(digest[:4], "big")))
            if self.space.problem(points[-1]) is None:
                break
        return points

    def _random(self, seed: int) -> dict[str, Any]:
        draw: Any = RandomSampler(seed).sample_independent  # reads neither study nor trial
        return {name: draw(None, None, name, d) for name, d in self._distributions.items()}

    def _tpe(self, study: Any, trial: Any) -> dict[str, Any]:
        def draw(seed: int) -> dict[str, Any]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna 4 calls two of these experimental
                sampler = TPESampler(
                    seed=seed,
                    n_startup_trials=STARTUP_TRIALS + self._unfit,
                    multivariate=True,
                    constant_liar=True,
                )
            return dict(
                sampler.sample_relative(study, trial, self._distributions) or self._random(seed)
            )

        point: dict[str, Any] = self._draws(draw, TPE_TRIES)[-1]
        return point if self.space.problem(point) is None else self._draws(self._random)[-1]

    def _tell_unfit(self, study: optuna.Study) -> None:
        """Tell TPE, as the worst, some points that no trial can have.

        Otherwise it would prefer them, because it knows no loss there. They are drawn at random for
        each trial, and are the same when a sweep is resumed.
        """
        for point in self._draws(self._random)[:-1][:MOST_UNFIT]:
            self._unfit += 1
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.PRUNED, params=point, distributions=self._distributions
                )
            )

    def _exact(self, name: str, value: Any) -> Any:
        """Return the value of a range's list that a sampled one rounds to."""
        domain = self.space.domains[name]
        if isinstance(domain, Range) and domain.step is not None:
            return min(domain.values() or [], key=lambda one: abs(one - value))
        return value


class _Sampler(BaseSampler):
    """The sampler of a study whose points a function draws."""

    def __init__(self, space: dict[str, BaseDistribution], draw: Callable[..., Any]) -> None:
        self._space, self._draw = space, draw

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        point: dict[str, Any] = self._draw(study, trial)
        return point

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        raise AssertionError(f"{name} is of the space")


class Storage:
    """The study that is kept, in a file of SQLite or wherever an address says.

    Raises:  ValueError, of one line, if it cannot be used, or holds another sweep's study
    """

    def __init__(self, directory: Path, address: str | None, sweep: str, *, new: bool) -> None:
        self.name = f"microgpt {sweep}"
        self.place = re.sub("(//[^/@:]*):[^/@]*@", r"\1:...@", address or str(directory / DATABASE))
        with self._explained():
            self._kept = _opened(directory, address)
            self._file = None if address else _connected(directory)
        try:
            self._take(address, new)
        except BaseException:
            self.close()
            raise

    def _take(self, address: str | None, new: bool) -> None:
        kept = self._kept
        with self._explained():
            names = {study.study_name for study in optuna.get_all_study_summaries(kept)}
            if address is None and names - {self.name}:
                raise ValueError("it holds another sweep; move it away, and it is made again")
            if address is not None and not new and self.name not in names:
                raise ValueError("it does not hold this sweep")
            self.study = optuna.create_study(
                storage=kept, study_name=self.name, load_if_exists=True
            )
            self._id = kept.get_study_id_from_name(self.name)
            self.count = len(self.study.get_trials(deepcopy=False))

    def describe(self, definition: dict[str, Any]) -> None:
        """Write what the sweep is beside its trials."""
        with self._explained():
            self.study.set_user_attr("microgpt", json.dumps(definition))

    def add(self, results: Sequence[Result], space: Space) -> None:
        """Add the next trials in the order of numbers."""
        trials = frozen(results, space)
        with self._explained():
            if not self._insert(trials):
                self.study.add_trials(trials)
            self.count += len(trials)

    def _insert(self, trials: Sequence[FrozenTrial]) -> bool:
        """Write the rows of trials in one transaction, where they are known.

        `study.add_trials` leads to the same rows, by 18 statements a trial.
        """
        if self._file is None or not trials:
            return False
        db, study = self._file, self._id
        if db.execute("SELECT schema_version FROM version_info").fetchone() != (SCHEMA,):
            return False
        rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in COLUMNS}
        (last,) = db.execute("SELECT coalesce(max(trial_id), 0) FROM trials").fetchone()
        texts = {n: distribution_to_json(d) for n, d in trials[0].distributions.items()}
        for i, t in enumerate(trials):
            key = last + 1 + i
            times = [
                time and time.isoformat(" ") for time in (t.datetime_start, t.datetime_complete)
            ]
            rows["trials"].append((key, self.count + i, study, t.state.name, *times))
            if t.value is not None:
                rows["trial_values"].append((key, 0, t.value, "FINITE"))
            for name, distribution in t.distributions.items():
                value = distribution.to_internal_repr(t.params[name])
                rows["trial_params"].append((key, name, value, texts[name]))
            for name, value in t.user_attrs.items():
                rows["trial_user_attributes"].append((key, name, json.dumps(value)))
            for step, value in t.intermediate_values.items():
                kind = "NAN" if math.isnan(value) else "INF_POS" if value == math.inf else "FINITE"
                number = value if kind == "FINITE" else None
                rows["trial_intermediate_values"].append((key, step, number, kind))
        with db:
            for table, columns in COLUMNS.items():
                marks = ", ".join("?" * (columns.count(",") + 1))
                db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows[table])
        return True

    def close(self) -> None:
        """Close the connections to a database."""
        if self._file is not None:
            self._file.close()
        if isinstance(self._kept, optuna.storages.RDBStorage):
            self._kept.remove_session()
            self._kept.engine.dispose()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OptunaError, ImportError) as error:
            cause = error.__cause__ if isinstance(error, OptunaError) else error
            reason = one_line(getattr(cause, "orig", None) or cause or error, 200)
            raise ValueError(f"{self.place}: {reason}") from None
        except ValueError as error:
            raise ValueError(f"{self.place}: {one_line(error, 200)}") from None


def frozen(results: Sequence[Result], space: Space) -> list[FrozenTrial]:
    """Return trials that have ended in Optuna's form."""
    kinds = distributions(space)
    trials = []
    for result in results:
        attrs = {"train_loss": result.train_loss, "seconds": result.seconds, "error": result.error}
        trials.append(
            optuna.trial.create_trial(
                state=_STATES[result.state],
                value=result.val_loss if result.state == "complete" else None,
                params=result.params,
                distributions=kinds,
                # A row each; the logs have those of all trials.
                intermediate_values=dict(result.evaluations) if result.state == "pruned" else {},
                user_attrs={name: value for name, value in attrs.items() if value is not None},
            )
        )
    return trials


def in_memory(results: Sequence[Result], space: Space) -> optuna.Study:
    """Return a study of results, for Optuna's plots and importances."""
    study = optuna.create_study()
    study.add_trials(frozen(results, space))
    return study


def _connected(directory: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(directory / DATABASE, timeout=100, check_same_thread=False)
    # What a power cut may take is made again from the trials' directories.
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _opened(directory: Path, address: str | None) -> Any:
    if address is not None:
        kind, _, path = address.partition(":")
        if kind == "journal":
            if not path:
                raise ValueError("it names no file")
            from optuna.storages.journal import JournalFileBackend

            backend = JournalFileBackend(path)
            return optuna.storages.JournalStorage(backend)
        return optuna.storages.RDBStorage(address)

    creator = {"creator": lambda: _connected(directory)}
    return optuna.storages.RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs=creator)


def _distribution(domain: Range | tuple[Any, ...]) -> BaseDistribution:
    if isinstance(domain, tuple):
        return CategoricalDistribution(domain)
    if isinstance(domain.low, int):
        last = domain.high if domain.step is None else (domain.values() or [])[-1]
        return IntDistribution(domain.low, last, log=domain.log, step=domain.step or 1)
    last = domain.high if domain.step is None else (domain.values() or [])[-1]
    return FloatDistribution(domain.low, last, log=domain.log, step=domain.step)


def _shuffled(points: list[dict[str, Any]], seed: object) -> list[dict[str, Any]]:
    """Return the points of a grid in an order in which any first ones are a sample of it."""
    random.Random(f"grid {seed}").shuffle(points)
    return points
