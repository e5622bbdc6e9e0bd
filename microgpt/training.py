"""A training run: started from its settings or loaded from its directory, trained, saved.

Settings and text determine all numbers of a run. Its checkpoint has the state that changes
from step to step (weights, Adam's moments and step, the random streams, the history of
resumptions), so a run that is interrupted and resumed gives the bits of one that is
not, on any engine and with any number of threads.

A run's directory has `model.safetensors`, the checkpoint; `log.jsonl`, a line a step; and
with a held-out set `best.safetensors`, the checkpoint of the lowest held-out loss.

The file is longer than 500 lines because all methods of `Training` share that state.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from microgpt import __version__, checkpoint, files, memory, sampling
from microgpt import engine as engines
from microgpt import settings as table
from microgpt import state as states
from microgpt.corpus import Corpus
from microgpt.log import LOG, Log, read_log
from microgpt.message import quoted
from microgpt.model import Model
from microgpt.sampling import Sample
from microgpt.settings import FIELDS, Settings, SettingsError
from microgpt.tokenizer import CharTokenizer

RECENT = 100  # losses of the running mean
SHORT = 0.001  # seconds of a step, up to which steps are taken together
TOGETHER = 0.05  # seconds of the steps that are taken together, about
# Settings that belong to a process, not to its run: they are not saved.
UNSAVED = {"engine", "threads", "out", "overwrite", "losses", "quiet", "tensorboard"}

OnStep = Callable[[int, float], object]


class Stop(Exception):  # noqa: N818 - no error
    """Raised by `Callbacks.step` to end training after that step; `Training.fit` returns."""


class TrainingError(ValueError):
    """Training failed in a step."""


class Callbacks:
    """The callbacks of `Training.fit`, which do nothing until a subclass overrides them."""

    together = False  # whether `step` may be called for several steps at once: faster

    def step(self, t: int, loss: float) -> object:
        """Called after step t, counted from 0. Raises: Stop to end training."""

    def evaluated(self, step: int, loss: float, best: bool) -> object:
        """Called with the held-out loss after so many steps, and whether it is the lowest."""

    def sampled(self, step: int, samples: Sequence[Sample]) -> object:
        """Called with samples after so many steps."""


class Training:
    """A run. `fit` trains it to its end, `save` writes its checkpoint, `load` reads one.

    Shapes:  tokens and held_out, lists of token ids, a list for each document
    Order:   one random stream: the documents shuffled, then the weights drawn; rng goes on
             from there into sampling
    Raises:  as `Corpus.of`; MemoryError if a step cannot fit into the machine's memory
    """

    def __init__(self, settings: Settings, corpus: Corpus | None = None) -> None:
        corpus = corpus or Corpus.of(settings)
        self.settings = settings
        self.corpus = corpus
        self.engine = engines.load(settings.engine or engines.NAME)
        self.rng = random.Random()
        self.rng.setstate(corpus.rng)
        self.tokenizer = CharTokenizer(corpus.chars)
        config = settings.config(self.tokenizer.vocab_size)
        positions = _positions(corpus.training, settings)
        memory.check(config, self.engine.NAME, positions, settings.dropout)
        model = self.engine.models[settings.model]
        self.model: Model = model(**vars(config), rng=self.rng, **settings.made())
        self.model.dropout_rng = random.Random(f"dropout {settings.seed}")
        self.model.tokenizer = self.tokenizer
        self.adam = self.engine.Adam(self.model.params, **settings.adam())
        self.history = [[0, settings.num_steps]]
        self.best: tuple[int, float] | None = None
        self.best_weights: array[float] | None = None
        self.stale = 0  # evaluations since the best
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.seconds = 0.0
        self._saved: int | None = None
        self.held_out = self._encoded(corpus.held_out)
        self._prepare()

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        changes: dict[str, Any] | None = None,
        corpus: Corpus | None = None,
    ) -> Training:
        """Return the run that a directory holds, after the steps of its last save.

        changes are settings in place of the saved ones: any of the process and of samples,
        where the text is now, and num_steps.

        Raises:  OSError if a file cannot be read; ValueError naming what is wrong in the
                 checkpoint; SettingsError naming what differs from the saved run; as `Training`
        """
        path = checkpoint.file_in(directory, best=False)
        content, settings, state = _read(path)
        saved, best_weights = state["step"], None
        best = path.with_name(checkpoint.BEST)
        if best.exists():
            other = _read(best)
            if other[2]["step"] > state["step"]:  # the process ended between the two files
                content, settings, state = other
            if state["best"] is not None and state["best"][0] == other[2]["step"]:
                best_weights = other[0].weights
        changes = dict(changes or {})
        num_steps = changes.pop("num_steps", settings.num_steps)
        _check_changes(path, settings, changes)
        settings = settings.replaced(**changes, out=os.fspath(path.parent))
        corpus = corpus or Corpus.of(settings)
        if corpus.sha256 != state["sha256"]:
            raise SettingsError(
                f"{path}: the run was trained on another text than "
                f"{settings.data or 'that of the package'} with {_how(settings)}"
            )
        run = cls(settings.replaced(num_steps=state["history"][0][1]), corpus)
        if run.tokenizer.chars != content.tokenizer.chars:
            raise ValueError(f"{path}: its vocabulary is not the one of its text")
        run.settings = settings
        run.model.set_weights(content.weights)
        assert content.moments is not None
        run.adam.m[:], run.adam.v[:] = content.moments
        run.adam.t, run.history = state["step"], state["history"]
        run.adam.num_steps = settings.num_steps
        run.rng.setstate(state["rng"])
        run.model.dropout_rng.setstate(state["dropout_rng"])
        run.best, run.stale = state["best"], state["stale"]
        run._saved = saved
        run.best_weights = best_weights
        run.same_libm = state["libm"] == checkpoint.libm()
        run._prepare()
        if num_steps != settings.num_steps:
            run.extend(num_steps)
        return run

    same_libm = True  # whether the steps so far were computed with this machine's libm

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        t: int = self.adam.t
        return t

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or the held-out loss has not fallen for too long."""
        return self.step >= self.settings.num_steps or self.ran_out_of_patience

    @property
    def ran_out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations found no lower held-out loss."""
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def extend(self, num_steps: int) -> None:
        """Set the number of steps anew; the schedule of the learning rate follows it.

        Raises:  SettingsError if more are already done
        """
        if num_steps < self.step:
            raise SettingsError(
                f"{self.step:,} steps are done: num_steps must be at least that, not {num_steps:,}"
            )
        if num_steps != self.history[-1][1]:
            self.history.append([self.step, num_steps])
        self.settings = self.settings.replaced(num_steps=num_steps)
        self.adam.num_steps = num_steps
        self.stale = 0
        self._prepare()

    def fit(self, callbacks: Callbacks | None = None) -> list[float]:
        """Train to the end, or until `callbacks.step` raises Stop; return the losses.

        Writes:  with settings.out the run's directory: the checkpoint before the first step,
                 every save_every steps and at the end; the log; the best checkpoint
        Raises:  TrainingError if a step fails, with the weights before it kept and saved; OSError
                 if a file cannot be written. The run is then one of whole steps.
        """
        together = callbacks is None or callbacks.together
        callbacks = callbacks or Callbacks()
        losses: list[float] = []
        log = self._open_log()
        norms: dict[int, float] = {}
        self.adam.norms = None if log is None else norms
        begin = time.monotonic() - self.seconds
        failure: BaseException | None = None

        def on_step(t: int, loss: float, now: float | None = None) -> None:
            if not math.isfinite(loss):
                raise _LossError
            losses.append(loss)
            self.recent.append(loss)
            self.seconds = (now or time.monotonic()) - begin
            if log is not None:
                norm = norms.pop(t, None)
                log.step(t, loss, self._rate(t), self._tokens_of_step(t), self.seconds, norm)
            callbacks.step(t, loss)

        try:
            stopped = False
            while not (stopped or self.is_finished):
                stop = self._next_stop()
                try:
                    if together:
                        self._fit_together(stop, on_step)
                    self._fit_to(stop, on_step)
                except Stop:
                    stopped = True
                self._pause(callbacks, log)  # as after any step
        except Stop:
            pass
        except OSError as error:
            failure = error
        except (ArithmeticError, ValueError) as error:
            t = self.step - isinstance(error, _LossError)
            if self.settings.out is not None:
                self._retreat(t)
            failure = TrainingError(f"training failed in step {t + 1}: {_cause(error)}")
        finally:
            self.seconds = time.monotonic() - begin
            if log is not None:
                with contextlib.suppress(OSError) if failure else contextlib.nullcontext():
                    log.close()
        if self.settings.out is not None and (failure or self._saved != self.step):
            self.save()
        if failure is not None:
            raise failure
        return losses

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the run's checkpoint to path, or into its directory; return the file.

        Raises:  ValueError if there is no directory; as `checkpoint.save`
        """
        own = path is None
        if path is None:
            if self.settings.out is None:
                raise ValueError("the run has no directory: give a path, or the setting out")
            path = Path(self.settings.out) / checkpoint.FILENAME
            files.make_directory(path.parent)
        moments = (self.adam.m, self.adam.v)
        saved = checkpoint.save(path, self.model, self.tokenizer, moments, self._as_json())
        if own:
            self._saved = self.step
        return saved

    def __repr__(self) -> str:
        return f"<run of {self.model!r}: {self.step:,} of {self.settings.num_steps:,} steps>"

    def _repr_html_(self) -> str:
        from microgpt.pages import run_html

        return run_html(self)

    def evaluate(self) -> float:
        """Return the held-out loss, in nats per token.

        Raises:  ValueError if nothing is held out
        """
        if not self.held_out:
            raise ValueError("nothing is held out: give the setting val")
        return self.model.evaluate(self.held_out, threads=self.settings.threads).loss

    def best_model(self) -> Model:
        """Return the model of the lowest held-out loss, or the present one."""
        if self.best_weights is None or (self.best and self.best[0] == self.step):
            return self.model
        model = type(self.model)(**vars(self.model.config), rng=checkpoint.NoRandom())
        model.tokenizer = self.tokenizer
        model.set_weights(self.best_weights)
        return model

    def replay(self, history: list[list[int]], until: int, on_step: OnStep | None = None) -> None:
        """Train this new run along a history of resumptions, up to so many steps; write nothing."""
        for begin, num_steps in history[1:]:
            if begin < until:
                self._fit_to(begin, on_step)
                self.extend(num_steps)
        self._fit_to(until, on_step)

    def _fit_to(self, step: int, on_step: OnStep | None) -> list[float]:
        losses: list[float] = []
        if step > self.step:
            losses = self.model.fit(
                self.tokens,
                step - self.step,
                self.settings.batch_size,
                adam=self.adam,
                on_step=on_step,
                threads=self.settings.threads,
                bos=self.settings.split != "windows",
            )
        return losses

    def _fit_together(self, step: int, on_step: Callable[..., object]) -> None:
        """Train towards a step, many short steps at a time, with on_step called after the last.

        If on_step raises for one of them, the steps after it are undone.
        """
        seconds = 0.0  # of a step
        while self.step < step and seconds < SHORT:
            t, start = self.step, time.monotonic()
            count = min(step - t, max(1, int(TOGETHER / seconds))) if seconds else 1
            before = self._numbers()
            losses = None
            told = 0
            try:
                losses = self._fit_to(t + count, None)
                seconds = (time.monotonic() - start) / count
                for told, loss in enumerate(losses, 1):
                    on_step(t + told - 1, loss, start + seconds * told)
            except BaseException as error:
                self._return_to(before)
                if losses is None and isinstance(error, (ArithmeticError, ValueError)):
                    self._fit_to(t + count, on_step)  # which raises, at its step
                self._fit_to(t + told, None)
                raise

    def _numbers(self) -> tuple[Any, ...]:
        """Return a copy of the numbers that a step changes."""
        m, v = self.adam.m, self.adam.v
        if isinstance(m, memoryview):
            m, v = array("d", m), array("d", v)
        dropout = self.model.dropout_rng.getstate()
        return array("d", self.model.weights()), m[:], v[:], self.adam.t, dropout

    def _return_to(self, numbers: tuple[Any, ...]) -> None:
        weights, self.adam.m[:], self.adam.v[:], self.adam.t, dropout = numbers
        self.model.set_weights(weights)
        self.model.dropout_rng.setstate(dropout)

    def _next_stop(self) -> int:
        """Return the next step after which the run evaluates, logs, saves or samples."""
        every = [self._save_every(), self._eval_every(), self.settings.sample_every]
        stops = [(self.step // n + 1) * n for n in every if n is not None]
        return min([*stops, self.settings.num_steps])

    def _save_every(self) -> int | None:
        return None if self.settings.out is None else self.settings.every("save_every")

    def _eval_every(self) -> int | None:
        return None if self.settings.val is None else self.settings.every("eval_every")

    def _pause(self, callbacks: Callbacks, log: Log | None) -> None:
        """Evaluate, log, save and sample after the steps where that is due."""
        step, last = self.step, self.step == self.settings.num_steps
        every = self._eval_every()
        best = False
        if every is not None and (step % every == 0 or last):
            loss = self.evaluate()
            best = self.best is None or loss < self.best[1]
            if log is not None:
                log.held_out(loss)
            if best:
                self.best, self.stale = (step, loss), 0
                if self.settings.keeps_best:
                    self.best_weights = array("d", self.model.weights())
            else:
                self.stale += 1
            callbacks.evaluated(step, loss, best)
        if log is not None:
            log.flush()
            if best and self.settings.keeps_best:
                self.save(log.path.with_name(checkpoint.BEST))
        every = self._save_every()
        if every is not None and (step % every == 0 or self.is_finished):
            self.save()
        every = self.settings.sample_every
        if every is not None and step % every == 0 and not last:
            rng = random.Random(self.settings.seed)  # the run's own stream is not touched
            drawn = list(sampling.samples(self.model, self.tokenizer, rng, self.settings))
            callbacks.sampled(step, drawn)

    def _retreat(self, step: int) -> None:
        """Go back to the last whole step, at most `step`, whose weights are finite."""
        while step > 0 and not (self.step == step and self._is_finite()):
            step -= self.step == step
            if self._saved is not None and self._saved <= step and self.settings.out:
                run = Training.load(self.settings.out, {"engine": self.engine.NAME}, self.corpus)
            else:
                first = self.settings.replaced(num_steps=self.history[0][1])
                run = Training(first, self.corpus)
            run.replay([[0, 0], *self.history[len(run.history) :]], step)
            self.model, self.adam, self.rng = run.model, run.adam, run.rng
            self.history = run.history
            self.extend(self.settings.num_steps)

    def _is_finite(self) -> bool:
        numbers = (self.model.weights(), self.adam.m, self.adam.v)
        return all(all(map(math.isfinite, some)) for some in numbers)

    def _prepare(self) -> None:
        """Encode the documents that training reaches: not all of a large file."""
        reached = self.settings.num_steps * self.settings.batch_size
        self.tokens = self._encoded(self.corpus.training[:reached])

    def _encoded(self, documents: Sequence[str]) -> list[list[int]]:
        if self.settings.split == "windows":
            return [self.tokenizer.encode(text) for text in documents]
        size = self.settings.block_size  # the rest is not used
        return [self.tokenizer.encode_document(text[:size]) for text in documents]

    def _rate(self, t: int) -> float:
        return float(self.adam.rate(t))

    def _tokens_of_step(self, t: int) -> int:
        size, count = self.settings.batch_size, len(self.tokens)
        most = self.settings.block_size
        return sum(
            min(most, len(self.tokens[i % count]) - 1) for i in range(t * size, (t + 1) * size)
        )

    def _open_log(self) -> Log | None:
        """Prepare the run's directory; return its log, cut to the steps that are done."""
        if self.settings.out is None:
            return None
        directory = Path(self.settings.out)
        if self._saved is None:
            files.make_directory(directory)
            (directory / checkpoint.BEST).unlink(missing_ok=True)
            self.save()
        for name in (checkpoint.FILENAME, checkpoint.BEST):
            files.remove_leftovers(directory / name)
        path = directory / LOG
        kept = read_log(path, self.step) if self.step else []
        self.recent.extend(line["loss"] for line in kept[-RECENT:])
        if kept and self.seconds == 0.0:
            self.seconds = float(kept[-1]["seconds"])
        return Log(path, len(kept), self.seconds)

    def _as_json(self) -> dict[str, Any]:
        saved = {name: getattr(self.settings, name) for name in FIELDS if name not in UNSAVED}
        for name in ("data", "val"):
            if isinstance(saved[name], str) and os.path.exists(saved[name]):
                saved[name] = os.path.abspath(saved[name])
        return {
            "version": __version__,
            "settings": {name: value for name, value in saved.items() if value is not None},
            "step": self.step,
            "history": self.history,
            "rng": self.rng.getstate(),
            "dropout_rng": self.model.dropout_rng.getstate(),
            "best": self.best,
            "stale": self.stale,
            "documents": len(self.corpus.training),
            "held_out": len(self.corpus.held_out),
            "sha256": self.corpus.sha256,
            "libm": checkpoint.libm(),
        }


class _LossError(ArithmeticError):
    pass


def _cause(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "the update divides by zero"
    return "the loss is no longer a number"


def _read(path: Path) -> tuple[checkpoint.Content, Settings, dict[str, Any]]:
    """Return the content of a run's checkpoint, its settings and its state.

    Raises:  as `Training.load`
    """
    content = checkpoint.read(path)
    if content.run is None or content.moments is None:
        raise ValueError(f"{path}: holds a model without a run, which cannot be resumed")
    try:
        settings, state = states.checked(content.run)
        if settings.config(content.tokenizer.vocab_size) != content.config:
            raise ValueError("its model is not the one that its settings describe")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"its run has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: {reason}") from None
    return content, settings, state


def _how(settings: Settings) -> str:
    """Return the settings that cut a text, beside the text itself."""
    val = "" if settings.val is None else f" and val {settings.val}"
    return f"split {settings.split}{val}"


def _positions(documents: Sequence[str], settings: Settings) -> int:
    """Return how many tokens the first step predicts."""
    end = 0 if settings.split == "windows" else 1
    most, size = settings.block_size, settings.batch_size
    rounds, rest = divmod(size, len(documents))
    lengths = [min(most, len(d) - 1 + 2 * end) for d in (documents if rounds else documents[:rest])]
    return rounds * sum(lengths) + sum(lengths[:rest])


def _check_changes(path: Path, settings: Settings, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        saved = getattr(settings, name)
        decides = table.scope(FIELDS[name]) == "bits" and name not in ("data", "val")
        if decides and value != saved:
            raise SettingsError(
                f"{path}: the run has {name} {quoted(saved)}, not {quoted(value)}: of the settings "
                "that decide its numbers only num_steps can change"
            )
