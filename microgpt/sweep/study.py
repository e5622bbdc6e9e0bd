"""Optuna: which point comes next, and the study in which others can read what came out.

Points are asked of a study in memory, whose sampler starts anew for each trial from the
sweep's seed and the trial's number, so that a sweep that goes on asks what it would have
asked. The storage gets each trial when it and all before it have ended, once and in their
order: it is never ahead of the trials' directories, and can be made from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from microgpt import extras
from microgpt.message import one_line
from microgpt.sweep.space import Range, Space
from microgpt.sweep.trial import Result

extras.need("optuna", "a sweep", "sweep")

import optuna  # noqa: E402
from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError  # noqa: E402
from optuna.samplers import BaseSampler, RandomSampler, TPESampler  # noqa: E402
from optuna.trial import FrozenTrial, TrialState  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS = ("tpe", "random", "grid")
DATABASE = "sweep.db"
TRIES = 300  # draws of one point, until the settings go together
_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's form of what varies."""
    return {name: _distribution(domain) for name, domain in space.domains.items()}


class Asking:
    """The study in memory, of which points are asked, in the order of their numbers.

    Raises:  ValueError if the space has no trial
    """

    def __init__(self, space: Space, sampler: str, seed: object) -> None:
        self.space = space
        self.distributions = distributions(space)
        self.points = _shuffled(space.grid(), seed) if sampler == "grid" else None
        self._study = optuna.create_study(sampler=_Sampler(self, sampler, seed))
        self._running: dict[int, optuna.Trial] = {}
        if self.points is None:
            point = self._study.ask(self.distributions).params  # a first draw, for its problem
            problem = space.problem(point)
            if problem is not None:
                raise ValueError(f"a space without a trial in {TRIES:,} draws: {problem}")
            self._study = optuna.create_study(sampler=self._study.sampler)

    def ask(self, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the next trial's point; known is it where the trial was already asked."""
        if known is not None:
            self._study.enqueue_trial(dict(known))
        trial = self._study.ask(self.distributions)
        self._running[trial.number] = trial
        return {name: self._exact(name, value) for name, value in trial.params.items()}

    def tell(self, result: Result) -> None:
        """Let points that are asked from now on follow from a trial's result."""
        trial = self._running.pop(result.number)
        if result.state == "complete":
            self._study.tell(trial, result.val_loss)
            return
        # A failed one has no loss, and so counts as the worst.
        for step, loss in result.evaluations:
            trial.report(loss, step)
        self._study.tell(trial, state=TrialState.PRUNED)

    def _exact(self, name: str, value: Any) -> Any:
        """Return the value of a range's list that a sampled one rounds to."""
        domain = self.space.domains[name]
        if isinstance(domain, Range) and domain.step is not None:
            return min(domain.values() or [], key=lambda one: abs(one - value))
        return value


class _Sampler(BaseSampler):
    """A sampler whose points follow from the seed, the number and what was told alone.

    A point whose settings do not go together is drawn again.
    """

    def __init__(self, asking: Asking, name: str, seed: object) -> None:
        self._asking, self._name, self._seed = asking, name, seed

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._asking.distributions

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        points = self._asking.points
        if points is not None:
            return dict(points[trial.number % len(points)])
        point: dict[str, Any] = {}
        for i in range(TRIES):
            digest = hashlib.sha256(f"{self._seed} {trial.number} {i}".encode()).digest()
            point = self._draw(int.from_bytes(digest[:4], "big"), study, trial)
            if self._asking.space.problem(point) is None:
                break
        return point

    def _draw(self, seed: int, study: Any, trial: Any) -> dict[str, Any]:
        space = self._asking.distributions
        if self._name == "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna 4 calls both experimental
                tpe = TPESampler(seed=seed, multivariate=True, constant_liar=True)
            if point := tpe.sample_relative(study, trial, space):
                return dict(point)
        sampler = RandomSampler(seed)
        return {
            name: sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in space.items()
        }

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
            self.count = len(self.study.get_trials(deepcopy=False))

    def describe(self, definition: dict[str, Any]) -> None:
        """Write what the sweep is beside its trials."""
        with self._explained():
            self.study.set_user_attr("microgpt", json.dumps(definition))

    def add(self, result: Result, space: Space) -> None:
        """Add the next trial in the order of numbers."""
        with self._explained():
            self.study.add_trial(frozen(result, space))
            self.count += 1

    def close(self) -> None:
        """Close the connections to a database."""
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


def frozen(result: Result, space: Space) -> FrozenTrial:
    """Return a trial that has ended in Optuna's form."""
    attrs = {"train_loss": result.train_loss, "seconds": result.seconds, "error": result.error}
    pruned = result.state == "pruned"
    return optuna.trial.create_trial(
        state=_STATES[result.state],
        value=result.val_loss if result.state == "complete" else None,
        params=result.params,
        distributions=distributions(space),
        # Each costs a millisecond to write; the logs have them for all trials.
        intermediate_values=dict(result.evaluations) if pruned else {},
        user_attrs={name: value for name, value in attrs.items() if value is not None},
    )


def in_memory(results: list[Result], space: Space) -> optuna.Study:
    """Return a study of results, for Optuna's plots and importances."""
    study = optuna.create_study()
    study.add_trials([frozen(result, space) for result in results])
    return study


def _opened(directory: Path, address: str | None) -> Any:
    if address is not None:
        kind, _, path = address.partition(":")
        if kind == "journal":
            from optuna.storages.journal import JournalFileBackend

            backend = JournalFileBackend(path)
            return optuna.storages.JournalStorage(backend)
        return optuna.storages.RDBStorage(address)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(directory / DATABASE, timeout=100, check_same_thread=False)
        # What a power cut may take is made again from the trials' directories.
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    return optuna.storages.RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})


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
