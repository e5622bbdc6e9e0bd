"""A training run: started from its settings or loaded from its directory, trained, saved.

All that a run computes follows from its settings and its text. What goes on from step to
step (weights, Adam's moments and step, the random streams, the history of resumptions) is
in its checkpoint, so a run that is interrupted and resumed gives the bits of one that is
not, on any engine and with any number of threads.

A run's directory has `model.safetensors`, the checkpoint; `log.jsonl`, a line a step; and
with a held-out set `best.safetensors`, the checkpoint of the lowest held-out loss.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from microgpt import __version__, checkpoint, data, memory, sampling
from microgpt import engine as engines
from microgpt import settings as table
from microgpt.adam import sum_of_squares
from microgpt.message import quoted
from microgpt.model import Model
from microgpt.sampling import Sample
from microgpt.settings import FIELDS, Settings
from microgpt.tokenizer import CharTokenizer

LOG = "log.jsonl"
RECENT = 100  # losses of the running mean
# Settings that belong to a process, not to its run: they are not saved.
UNSAVED = {"engine", "threads", "out", "overwrite", "losses", "quiet", "tensorboard"}

OnStep = Callable[[int, float], object]


class Stop(Exception):  # noqa: N818 - no error
    """Raised by a watch's `step` to end training after that step; `Training.fit` returns."""


class TrainingError(ValueError):
    """Training failed in a step."""


class Watch:
    """What `Training.fit` tells while it trains; does nothing by itself."""

    def step(self, t: int, loss: float) -> object:
        """Hear of step t, counted from 0. Raises: Stop to end training."""

    def evaluated(self, step: int, loss: float, best: bool) -> object:
        """Hear of the held-out loss after so many steps, and whether it is the lowest."""

    def sampled(self, step: int, samples: Sequence[Sample]) -> object:
        """Hear of samples after so many steps."""


class Corpus(NamedTuple):
    """The documents of a run in the order in which it trains on them.

    chars are those of all documents; sha256 is `data.checksum` of all in this order; rng
    is the state of the run's random stream after the shuffle.
    """

    training: list[str]
    held_out: list[str]
    chars: list[str]
    sha256: str
    rng: Any

    @classmethod
    def of(cls, settings: Settings) -> Corpus:
        """Return the corpus that settings name.

        Order:   the documents are shuffled by random.Random(seed), then the last ones are
                 held out
        Raises:  as `data.documents`; ValueError if nothing is left to train on
        """
        documents = data.documents(settings.data, settings.split, settings.block_size)
        rng = random.Random(settings.seed)
        rng.shuffle(documents)
        held_out: list[str] = []
        if isinstance(settings.val, str):
            held_out = data.documents(settings.val, settings.split, settings.block_size)
        elif settings.val is not None:
            count = max(1, int(len(documents) * settings.val))
            if count >= len(documents):
                raise ValueError(
                    f"val {settings.val} of {len(documents)} documents leaves none to train on"
                )
            documents, held_out = documents[:-count], documents[-count:]
        chars = sorted(set().union(*documents, *held_out))
        digest = data.checksum([*documents, "", *held_out])
        return cls(documents, held_out, chars, digest, rng.getstate())


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
        memory.check(config, self.engine.NAME, _positions(corpus.training, settings))
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
        self.norm: float | None = None  # of the last step's gradient, where it was computed
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
                 checkpoint, or what differs from the saved run; as `Training`
        """
        path = checkpoint.file_in(directory, best=False)
        content = checkpoint.read(path)
        if content.run is None or content.moments is None:
            raise ValueError(f"{path}: holds a model without a run, which cannot be resumed")
        changes = dict(changes or {})
        try:
            settings, state = _state(content.run)
            num_steps = changes.pop("num_steps", settings.num_steps)
            _check_changes(settings, changes)
            settings = settings.replaced(**changes, out=os.fspath(directory))
            if settings.config(content.tokenizer.vocab_size) != content.config:
                raise ValueError("its model is not the one that its settings describe")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {_reason(error)}") from None
        corpus = corpus or Corpus.of(settings)
        if corpus.sha256 != state["sha256"]:
            raise ValueError(
                f"{path}: the run has another text than {settings.data or 'the package'}: the "
                f"sha256 of its documents is {quoted(state['sha256'])}, not {corpus.sha256}"
            )
        run = cls(settings.replaced(num_steps=state["history"][0][1]), corpus)
        if run.tokenizer.chars != content.tokenizer.chars:
            raise ValueError(f"{path}: its vocabulary is not the one of its text")
        run.settings = settings
        run.model.set_weights(content.weights)
        run.adam.m[:], run.adam.v[:] = content.moments
        run.adam.t, run.history = state["step"], state["history"]
        run.adam.num_steps = settings.num_steps
        run.rng.setstate(state["rng"])
        run.model.dropout_rng.setstate(state["dropout_rng"])
        run.best, run.stale = state["best"], state["stale"]
        run._saved = state["step"]
        if run.best is not None and (Path(directory) / checkpoint.BEST).exists():
            run.best_weights = checkpoint.read(directory).weights
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

        Raises:  ValueError if more are already done
        """
        if num_steps < self.step:
            raise ValueError(
                f"{self.step:,} steps are done: num_steps must be at least that, not {num_steps:,}"
            )
        if num_steps != self.history[-1][1]:
            self.history.append([self.step, num_steps])
        self.settings = self.settings.replaced(num_steps=num_steps)
        self.adam.num_steps = num_steps
        self.stale = 0
        self._prepare()

    def fit(self, watch: Watch | None = None) -> list[float]:
        """Train to the end, or until the watch raises Stop; return the losses.

        Writes:  with settings.out the run's directory: the checkpoint before the first step,
                 every save_every steps and at the end; the log; the best checkpoint
        Raises:  TrainingError if a step fails, with the weights before it kept and saved; OSError
                 if a file cannot be written. The run is then one of whole steps.
        """
        watch = watch or Watch()
        losses: list[float] = []
        log = self._open_log()
        begin = time.monotonic() - self.seconds
        failure: BaseException | None = None

        def on_step(t: int, loss: float) -> None:
            if not math.isfinite(loss):
                raise _LossError
            losses.append(loss)
            self.recent.append(loss)
            self.seconds = time.monotonic() - begin
            if log is not None:
                log.step(t, loss, self._rate(t), self._tokens_of_step(t), self.seconds, self.norm)
            watch.step(t, loss)

        try:
            stopped = False
            while not (stopped or self.is_finished):
                stop = self._next_stop()
                try:
                    self._fit_to(stop - (log is not None), on_step)
                    if log is not None:
                        self._step_with_norm(on_step)
                except Stop:
                    stopped = True
                self._pause(watch, log)  # what is due after the last step, stopped or not
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
            path.parent.mkdir(parents=True, exist_ok=True)
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
        """Train this new run as a history tells, up to so many steps; write nothing."""
        for begin, num_steps in history[1:]:
            if begin < until:
                self._fit_to(begin, on_step)
                self.extend(num_steps)
        self._fit_to(until, on_step)

    def _fit_to(self, step: int, on_step: OnStep | None) -> None:
        if step > self.step:
            self.model.fit(
                self.tokens,
                step - self.step,
                self.settings.batch_size,
                adam=self.adam,
                on_step=on_step,
                threads=self.settings.threads,
                bos=self.settings.split != "windows",
            )

    def _step_with_norm(self, on_step: OnStep) -> None:
        """Take one step as `fit` does, and compute the norm of its gradient on the way."""
        t, size, model = self.step, self.settings.batch_size, self.model
        batch = [self.tokens[(t * size + b) % len(self.tokens)] for b in range(size)]
        with model._draws_for_a_step():
            loss = model.loss(batch[0]) if size == 1 else model.batch_loss(batch)
            loss.backward()
            norm = math.sqrt(sum_of_squares(model.gradients()))
            self.adam.step()
        self.norm = norm if math.isfinite(norm) else None
        try:
            on_step(t, loss.data)
        finally:
            self.norm = None

    def _next_stop(self) -> int:
        """Return the step after which something else than training is to be done."""
        every = [self._save_every(), self._eval_every(), self.settings.sample_every]
        stops = [(self.step // n + 1) * n for n in every if n is not None]
        return min([*stops, self.settings.num_steps])

    def _save_every(self) -> int | None:
        return None if self.settings.out is None else self.settings.every("save_every")

    def _eval_every(self) -> int | None:
        return None if self.settings.val is None else self.settings.every("eval_every")

    def _pause(self, watch: Watch, log: Log | None) -> None:
        """Evaluate, log, save and sample after the steps where that is due."""
        step, last = self.step, self.step == self.settings.num_steps
        every = self._eval_every()
        if every is not None and (step % every == 0 or last):
            loss = self.evaluate()
            better = self.best is None or loss < self.best[1]
            if log is not None:
                log.held_out(loss)
            if better:
                self.best, self.stale = (step, loss), 0
                if self.settings.keeps_best:
                    self.best_weights = array("d", self.model.weights())
                    if self.settings.out is not None:
                        self.save(Path(self.settings.out) / checkpoint.BEST)
            else:
                self.stale += 1
            watch.evaluated(step, loss, better)
        if log is not None:
            log.flush()
        every = self._save_every()
        if every is not None and (step % every == 0 or self.is_finished):
            self.save()
        every = self.settings.sample_every
        if every is not None and step % every == 0 and not last:
            rng = random.Random(self.settings.seed)  # the run's own stream is not touched
            drawn = list(sampling.samples(self.model, self.tokenizer, rng, self.settings))
            watch.sampled(step, drawn)

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
        size = self.settings.block_size  # what is beyond it is never looked at
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
            directory.mkdir(parents=True, exist_ok=True)
            (directory / checkpoint.BEST).unlink(missing_ok=True)
            self.save()
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


class Log:
    """The log of a run: a JSON object a step, in lines that all have the same keys.

    step counts from 1; loss, and val_loss where it was evaluated, in nats per token; rate,
    the learning rate; norm, of the gradient before clipping, at the steps after which the
    run is saved or evaluated; tokens, those that the step predicted; seconds of training.
    """

    def __init__(self, path: Path, lines: int, seconds: float) -> None:
        self._path = path
        self._file: BinaryIO = open(path, "r+b" if lines else "wb")  # noqa: SIM115
        if lines:
            for _ in range(lines):
                self._file.readline()
            self._file.seek(self._file.tell())
            self._file.truncate()
        self._line = ""  # of the last step, which `held_out` may add to
        self._flushed = self._seconds = seconds

    def step(
        self,
        t: int,
        loss: float,
        rate: float,
        tokens: int,
        seconds: float,
        norm: float | None = None,
    ) -> None:
        """Add the line of step t, counted from 0."""
        self._write()
        took, self._seconds = seconds - self._seconds, seconds
        speed = round(tokens / took) if took > 0 else "null"
        self._line = (
            f'{{"step": {t + 1}, "loss": {loss!r}, "val_loss": null, "rate": {rate!r}, '
            f'"norm": {"null" if norm is None else repr(norm)}, '
            f'"tokens": {tokens}, "tokens_per_second": {speed}, "seconds": {seconds:.6f}}}\n'
        )
        if seconds - self._flushed > 1:
            self._flushed = seconds
            with self._named():
                self._file.flush()

    def held_out(self, loss: float) -> None:
        """Add the held-out loss to the line of the last step."""
        self._line = self._line.replace('"val_loss": null', f'"val_loss": {loss!r}')

    def flush(self) -> None:
        """Write all lines to the disk, so that a checkpoint is never ahead of them."""
        self._write()
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write all lines and close the file."""
        try:
            self.flush()
        finally:
            with self._named():
                self._file.close()

    def _write(self) -> None:
        line, self._line = self._line, ""
        with self._named():
            self._file.write(line.encode())

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)
            raise


def read_log(path: str | os.PathLike[str], steps: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of a log up to a step, without what a crash left half written.

    Raises:  OSError if it cannot be read; ValueError naming a line that is none
    """
    lines: list[dict[str, Any]] = []
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115
    except FileNotFoundError:
        return []
    with file:
        for text in file:
            try:
                line = json.loads(text)
                number = line["step"]
                known = type(number) is int and isinstance(line["loss"], float)
            except (KeyError, TypeError, ValueError):
                known = False
            if not known and not text.endswith("\n"):
                break
            if not known or number != len(lines) + 1:
                raise ValueError(f"{path}: line {len(lines) + 1} is not of step {len(lines) + 1}")
            if steps is not None and number > steps:
                break
            lines.append(line)
    return lines


class _LossError(ArithmeticError):
    pass


def _cause(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "the update divides by zero"
    return "the loss is no longer a number"


def _reason(error: Exception) -> str:
    return f"its run has no {error}" if isinstance(error, KeyError) else str(error)


def _positions(documents: Sequence[str], settings: Settings) -> int:
    """Return how many tokens the first step predicts."""
    end = 0 if settings.split == "windows" else 1
    most, size = settings.block_size, settings.batch_size
    rounds, rest = divmod(size, len(documents))
    lengths = [min(most, len(d) - 1 + 2 * end) for d in (documents if rounds else documents[:rest])]
    return rounds * sum(lengths) + sum(lengths[:rest])


def _check_changes(settings: Settings, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        saved = getattr(settings, name)
        decides = table.scope(FIELDS[name]) == "bits" and name not in ("data", "val")
        if decides and value != saved:
            raise ValueError(
                f"the run has {name} {quoted(saved)}, not {quoted(value)}: of the settings that "
                "decide its numbers only num_steps can change"
            )


def settings_of(run: dict[str, Any]) -> Settings:
    """Return the settings of a checkpoint's run.

    Raises:  ValueError if one is unknown or wrong
    """
    return Settings(**table.from_mapping(run.get("settings"), "its settings"))


def _state(run: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Return the settings and the state of a checkpoint's run, with every value checked."""
    state = dict(run)
    settings = settings_of(run)
    for name in ("step", "stale", "documents", "held_out"):
        if type(state[name]) is not int or state[name] < 0:
            raise ValueError(f"its {name} is {quoted(state[name])}")
    for name in ("sha256", "libm"):
        if not isinstance(state[name], str):
            raise ValueError(f"its {name} is not text")
    history = state["history"]
    steps = [n for pair in history for n in pair]
    if not steps or len(steps) != 2 * len(history) or any(type(n) is not int for n in steps):
        raise ValueError("its history is not of pairs of steps")
    begins = [begin for begin, _ in history]
    if begins[0] != 0 or begins != sorted(begins) or history[-1][1] != settings.num_steps:
        raise ValueError("its history does not lead to its settings")
    if not begins[-1] <= state["step"] <= settings.num_steps:
        raise ValueError(f"its step is {state['step']}, its history {quoted(history)}")
    for name in ("rng", "dropout_rng"):
        version, numbers, gauss = state[name]
        state[name] = (version, tuple(numbers), gauss)
        try:
            random.Random().setstate(state[name])
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"its {name} is no state of random.Random: {error}") from None
    if state["best"] is not None:
        step, loss = state["best"]
        if type(step) is not int or type(loss) is not float:
            raise ValueError("its best is not a step and a loss")
        state["best"] = (step, loss)
    return settings, state
