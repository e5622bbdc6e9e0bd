"""Train every engine beside the oracle on this machine, and compare them by bits.

Each engine starts from the same settings and text. First all take their steps side by
side, and losses, gradients and weights are compared after each one, the samples at
the end. Then each trains again by `fit`, as `train` does: its losses, weights
and samples are compared, and these are the steps that are timed. Equal means equal
by `float.hex()`; where the oracle raises an exception, so must the others.

`again` does the same for a saved run: trained from nothing, it must give every loss of its
log and the weights of its checkpoint.
"""

from __future__ import annotations

import itertools
import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from microgpt import engine as engines
from microgpt import sampling
from microgpt.corpus import Corpus
from microgpt.log import LOG, read_log
from microgpt.model import Sizes
from microgpt.settings import Settings
from microgpt.training import OnStep, Training

ORACLE = "python"

Observed = dict[str, "array[float] | str"]


class Difference(NamedTuple):
    """The first difference of an engine from the oracle, and both values."""

    place: str
    expected: str
    found: str


def compare(
    settings: Settings, on_step: OnStep = lambda t, loss: None
) -> tuple[Candidate, list[Candidate], list[str]]:
    """Compare all engines, or settings.engine, with the oracle.

    Returns the oracle and the others after training, and the names of what is not built;
    on_step is called with the oracle's losses.

    Raises:  ValueError if there is nothing to compare; as `Training`
    """
    asked = engines.names() if settings.engine is None else [settings.engine]
    names = [name for name in asked if name != ORACLE]
    built = [name for name in names if _is_built(name)]
    if not built:
        raise ValueError("no engine is built beside the oracle, so there is nothing to compare")
    corpus = Corpus.of(settings)
    oracle = Candidate(ORACLE, settings, corpus)
    others = [Candidate(name, settings, corpus) for name in built]
    _train_side_by_side(oracle, others, on_step)
    return oracle, others, [name for name in names if name not in built]


class Again(NamedTuple):
    """The result of training a saved run again; difference is None if all was equal.

    losses, of the log, were compared; the run has as many steps.
    """

    losses: int
    steps: int
    weights: int
    difference: Difference | None


def again(
    directory: str | os.PathLike[str],
    engine_name: str | None = None,
    on_step: OnStep = lambda t, loss: None,
) -> Again:
    """Train a saved run again from nothing and compare losses and last weights by bits.

    Raises:  as `Training.load`, `read_log`
    """
    saved = Training.load(directory, {"engine": engine_name})
    logged = {line["step"]: line["loss"] for line in read_log(Path(directory) / LOG, saved.step)}
    run = Training(saved.settings.replaced(num_steps=saved.history[0][1], out=None), saved.corpus)

    def compare(t: int, loss: float) -> None:
        expected = logged.get(t + 1, loss)
        if expected.hex() != loss.hex():
            raise _FoundError(Difference(f"step {t + 1}, loss", expected.hex(), loss.hex()))
        on_step(t, loss)

    try:
        run.replay(saved.history, saved.step, compare)
    except _FoundError as error:
        return Again(0, run.step, 0, error.difference)
    weights = array("d", saved.model.weights())
    expected: Observed = {"weight": weights}
    found: Observed = {"weight": array("d", run.model.weights())}
    differs = difference(expected, found, saved.model.config)
    return Again(len(logged), saved.step, len(weights), differs)


class _FoundError(Exception):
    def __init__(self, difference: Difference) -> None:
        super().__init__(difference)
        self.difference = difference


class Candidate:
    """An engine in training: seconds, one a step; difference, its first."""

    def __init__(self, name: str, settings: Settings, corpus: Corpus) -> None:
        self.name = name
        self.settings = settings.replaced(engine=name, out=None)
        self.begin: Callable[[], Training] = lambda: Training(self.settings, corpus)
        self.run = self.begin()
        self.seconds: list[float] = []
        self.difference: Difference | None = None

    def step(self, t: int) -> Observed:
        """Take step t of training and return what it computed, by name."""
        run, size = self.run, self.settings.batch_size
        batch = [run.tokens[(t * size + b) % len(run.tokens)] for b in range(size)]
        seen: Observed = {}
        try:
            start = time.perf_counter()
            loss = run.model.loss(batch[0]) if size == 1 else run.model.batch_loss(batch)
            loss.backward()
            seconds = time.perf_counter() - start
            seen["loss"] = array("d", [loss.data])
            seen["gradient"] = array("d", run.model.gradients())
            start = time.perf_counter()
            run.adam.step()
            self.seconds.append(time.perf_counter() - start + seconds)
            seen["weight"] = array("d", run.model.weights())
        except Exception as error:  # any is an observation
            seen["exception"] = type(error).__name__
        return seen

    def fit(self) -> Observed:
        """Train anew by fit and return what it computed, by name."""
        self.run = self.begin()
        moments = [time.perf_counter()]
        seen: Observed = {}

        def on_step(t: int, loss: float) -> None:
            moments.append(time.perf_counter())
            seen[f"step {t + 1}, loss"] = array("d", [loss])

        try:
            self.run.replay([], self.settings.num_steps, on_step)
            seen["last weight"] = array("d", self.run.model.weights())
        except Exception as error:  # any is an observation
            seen["exception"] = type(error).__name__
        self.seconds = [end - begin for begin, end in itertools.pairwise(moments)]
        return seen

    def sample(self) -> Observed:
        """Return the samples drawn now, by number."""
        run, seen = self.run, Observed()
        try:
            drawn = sampling.samples(run.model, run.tokenizer, run.rng, self.settings)
            for i, sample in enumerate(drawn):
                seen[f"sample {i + 1}"] = sample.text
        except Exception as error:  # any is an observation
            seen["exception"] = type(error).__name__
        return seen

    def compare(self, place: str, expected: Observed, found: Observed) -> None:
        """Keep the difference of found from expected, if it is this engine's first."""
        if self.difference is None:
            differs = difference(expected, found, self.run.model.config)
            if differs is not None:
                self.difference = differs._replace(place=f"{place}{differs.place}")


def difference(expected: Observed, found: Observed, config: Sizes) -> Difference | None:
    """Return the first difference by bits, in the order of expected, or None."""
    for name in dict.fromkeys(["exception", *expected, *found]):
        ours, theirs = expected.get(name, "none"), found.get(name, "none")
        if isinstance(ours, str) or isinstance(theirs, str):
            if ours != theirs:
                return Difference(name, _brief(ours), _brief(theirs))
            continue
        if len(ours) != len(theirs):
            return Difference(f"number of {name}s", str(len(ours)), str(len(theirs)))
        if ours.tobytes() == theirs.tobytes():
            continue
        for i, (a, b) in enumerate(zip(ours, theirs)):
            if a.hex() != b.hex():
                where = f"{name} of {parameter(i, config)}" if len(ours) > 1 else name
                return Difference(where, a.hex(), b.hex())
    return None


def parameter(i: int, config: Sizes) -> str:
    """Return the name of weight number i of a model: its matrix, row and column."""
    for name, (rows, columns) in config.shapes().items():
        if i < rows * columns:
            return f"{name}[{i // columns}][{i % columns}]"
        i -= rows * columns
    raise ValueError("the model has no such weight")


def _train_side_by_side(oracle: Candidate, others: list[Candidate], on_step: OnStep) -> None:
    trained: Observed = {}
    for t in range(oracle.settings.num_steps):
        expected = oracle.step(t)
        for other in others:
            if other.difference is None:
                other.compare(f"step {t + 1}, ", expected, other.step(t))
        if "exception" in expected:
            trained["exception"] = expected["exception"]
            break
        trained[f"step {t + 1}, loss"] = expected["loss"]
        on_step(t, float(expected["loss"][0]))
    else:
        trained["last weight"] = expected["weight"]
    drawn = oracle.sample()
    for other in others:
        if other.difference is None:
            other.compare("", drawn, other.sample())
        other.compare("by fit, ", trained, other.fit())
        if other.difference is None:
            other.compare("by fit, ", drawn, other.sample())


def _is_built(name: str) -> bool:
    try:
        engines.load(name)
    except ModuleNotFoundError:
        return False
    return True


def _brief(value: array[float] | str) -> str:
    return value if isinstance(value, str) else f"{len(value)} numbers"
