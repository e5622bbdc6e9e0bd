"""`microgpt train`: train a run, show its progress, save it, sample from it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microgpt import checkpoint, extras, files, sampling
from microgpt import settings as table
from microgpt.commands import flags
from microgpt.commands.signals import Boundary
from microgpt.commands.terminal import Bar, appending, is_terminal, note, print_samples
from microgpt.log import LOG
from microgpt.sampling import Sample
from microgpt.settings import FIELDS, Settings
from microgpt.training import Callbacks, Training, TrainingError

SUMMARY = "train a model on text and sample from it"
EXAMPLES = """\
examples:
  microgpt train                                the 30,000 names of the package
  microgpt train --data original                the names that the original trains on, fetched once
  microgpt train --data words.txt --out words   your text, one document a line; keep the run
  microgpt train --resume words --num-steps 5000          go on where it ended
  zcat words.gz | microgpt train --data -       from a pipe
  microgpt train --data book.txt --split windows --block-size 64 --val 0.1 --out book
  microgpt train --data https://example.org/words.txt#sha256=... --n-embd 32 --n-layer 2
  microgpt train --print-config > run.toml      all settings as a file, for --config run.toml

An address is fetched once and kept in the cache directory; the checksum is optional.
The same seed, data and flags give the same numbers to the last bit, on every engine.
Ctrl-C ends training after the step that runs, and saves if --out is given.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of train: all settings, a file of them, a run to resume."""
    source = command.add_argument_group("where the settings come from")
    source.add_argument(
        "--config",
        type=flags.path,
        metavar="FILE",
        help="take settings from a TOML file; the command line overrides it",
    )
    source.add_argument(
        "--print-config", action="store_true", help="print all settings as TOML, and end"
    )
    source.add_argument(
        "--resume",
        type=flags.path,
        metavar="DIR",
        help="go on with the run that --out DIR saved, to its end or to --num-steps",
    )
    flags.add_settings(command, FIELDS)


def run(options: argparse.Namespace) -> int:
    """Train, save and sample as the command line asks; return the exit status."""
    given = flags.given(options)
    if options.config is not None:
        given = {**table.from_toml(options.config), **given}
    if options.resume is not None:
        training = _resumed(options.parser, options.resume, given)
        if options.print_config:
            print(training.settings.to_toml(), end="")
            return 0
    else:
        settings = flags.settings(options.parser, given)
        if options.print_config:
            print(settings.to_toml(), end="")
            return 0
        check_files(options.parser, settings, options.config)
        check_out(options.parser, settings)
        training = Training(settings)
    sampling.check(training.model, training.tokenizer, training.settings)
    return _train(training)


def check_files(command: flags.Parser, settings: Settings, config: str | None = None) -> None:
    """Refuse to overwrite an input file; say if the text is read from the terminal."""
    sources = {"data": settings.data, "val": settings.val, "config": config}
    for name, source in sources.items():
        if isinstance(source, str) and settings.losses and _same_file(settings.losses, source):
            command.error(f"--losses would overwrite --{name}: name another file")
    if settings.data == "-" and sys.stdin is not None and sys.stdin.isatty():
        note("reading the text from this terminal, a document a line; Ctrl-D ends it")


def check_out(command: flags.Parser, settings: Settings) -> None:
    """Fail before training if --out cannot be written or would overwrite a run."""
    if settings.out is None:
        return
    directory = Path(settings.out)
    target = directory / checkpoint.FILENAME
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a directory: give --out another")
    names = (checkpoint.FILENAME, checkpoint.BEST, LOG)
    there = [name for name in names if (directory / name).exists()]
    if there and not settings.overwrite:
        command.error(
            f"{directory / there[0]} is there already: name another --out, go on with "
            f"--resume {settings.out}, or give --overwrite"
        )
    files.make_directory(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"{settings.out}: no permission to write there")


def check_threads(settings: Settings, engine_name: str) -> None:
    """Warn if --threads has no effect or makes training slower."""
    if settings.threads == 1 or settings.quiet:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if engine_name != "fused":
        note(f"the {engine_name} engine has one thread: --threads {settings.threads} is ignored")
    elif cores is not None and settings.threads > cores:
        note(
            f"--threads {settings.threads} is more than the {cores} processors of this machine, "
            "which makes training slower"
        )


def _resumed(command: flags.Parser, directory: str, given: dict[str, Any]) -> Training:
    if "out" in given and Path(given["out"]) != Path(directory):
        command.error("--resume goes on in the directory of the run: leave out --out")
    given.pop("out", None)
    training = Training.load(directory, given)
    check_files(command, training.settings)
    if not training.same_libm and not training.settings.quiet:
        note(
            "this machine's mathematics library is another than that of the run so far: the "
            "numbers will differ from those of a run that was not interrupted"
        )
    return training


def _train(training: Training) -> int:
    settings = training.settings
    if not settings.quiet:
        _introduce(training)
    check_threads(settings, training.engine.NAME)
    with Boundary() as boundary:
        report = TrainingOutput(training, boundary)
        begun, start = training.step, time.monotonic()
        try:
            with report:
                training.fit(report)
        except TrainingError as error:
            kept = f"{_kept(training)}, the weights after {training.step} steps"
            raise ValueError(
                f"{error}; {'not saved' if settings.out is None else kept}; {ADVICE}"
            ) from None
        if boundary.signum is not None:
            steps = f"{training.step} of {settings.num_steps} steps"
            note(f"stopped after {steps}; {_kept(training)}")
            return 128 + boundary.signum
    if not settings.quiet:
        _conclude(training, training.step - begun, time.monotonic() - start)
        if settings.num_samples:
            kind = "new, hallucinated names" if settings.data in (None, "original") else "new text"
            print(f"\n--- inference ({kind}) ---")
    drawn = sampling.samples(training.best_model(), training.tokenizer, training.rng, settings)
    print_samples(drawn, settings)
    return 0


ADVICE = "a lower --learning-rate or a larger --eps-adam may help"


def _introduce(training: Training) -> None:
    corpus, settings = training.corpus, training.settings
    held_out = f", held out: {len(corpus.held_out)}" if corpus.held_out else ""
    print(f"num docs: {len(corpus.training)}{held_out}")
    print(f"vocab size: {training.tokenizer.vocab_size}")
    print(f"num params: {training.model.config.num_params}")
    print(f"engine: {training.engine.NAME}")
    size = settings.block_size
    longer = [len(text) for text in corpus.training if len(text) > size]
    if longer and settings.split != "windows":
        total = sum(map(len, corpus.training))
        used = 1 - (sum(longer) - size * len(longer)) / total
        note(
            f"{len(longer):,} of {len(corpus.training):,} documents are longer than --block-size "
            f"{size}, so {used:.0%} of the text is used: raise it, or give --split windows"
        )
    if training.step:
        print(f"resumed after {training.step} steps")
    if training.ran_out_of_patience:
        note(f"the run has run out of its patience {settings.patience}: raise --patience")
    elif training.is_finished:
        note(f"all {training.step} steps are done: give --num-steps for more")


def _conclude(training: Training, steps: int, seconds: float) -> None:
    """Print the result of the run, and commands that use it."""
    parts = []
    if training.recent:
        count = len(training.recent)
        parts.append(f"mean loss of the last {count}: {sum(training.recent) / count:.4f}")
    if training.best is not None:
        parts.append(f"lowest held-out loss: {training.best[1]:.4f} (step {training.best[0]})")
    if training.ran_out_of_patience:
        parts.append(f"ended after {training.stale} evaluations without a lower one")
    noun = "step" if steps == 1 else "steps"
    print("\n" + "; ".join([f"{steps} {noun} in {seconds:.1f} s", *parts]))
    out = training.settings.out
    if out is None:
        print("not saved (--out DIR saves it)")
    else:
        print(f"saved {Path(out) / checkpoint.FILENAME}")
        print(f"  microgpt sample {out}")
        print(f"  microgpt train --resume {out} --num-steps {2 * training.settings.num_steps}")


def _kept(training: Training) -> str:
    if training.settings.out is None:
        return "not saved"
    return f"saved {Path(training.settings.out) / checkpoint.FILENAME}"


class TrainingOutput(Callbacks):
    """The output of a training: a bar on a terminal, else lines; and the file of losses."""

    together = True

    def __init__(self, training: Training, boundary: Boundary) -> None:
        self._training = training
        self._settings = training.settings
        self._boundary = boundary
        self._bar: Bar | None = None
        self._losses: Any = None
        self._events: Any = None
        self._files = contextlib.ExitStack()
        loud = not self._settings.quiet
        self._has_bar = loud and self._settings.log_every is None and is_terminal(sys.stdout)
        self._has_lines = loud and not self._has_bar

    def __enter__(self) -> TrainingOutput:
        if self._settings.losses is not None:
            self._losses = self._files.enter_context(appending(self._settings.losses))
        if self._settings.tensorboard:
            self._events = _event_file(f"{self._settings.out}")
            self._files.callback(self._events.close)
        if self._has_bar:
            bar = Bar(self._settings.num_steps, self._training.step, sys.stdout)
            self._bar = self._files.enter_context(bar)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._files.__exit__(*error)

    def step(self, t: int, loss: float) -> None:
        """Show a step, and end training if a signal came while it ran."""
        if self._losses is not None:
            self._losses.write(f"{loss.hex()}\n")
        if self._events is not None and self._is_shown(t + 1):
            self._events.add_scalar("loss", loss, t + 1)
            self._events.add_scalar("rate", self._training.adam.rate(t), t + 1)
        if self._bar is not None:
            self._bar.advance(t, loss)
        elif self._has_lines and self._is_shown(t + 1):
            recent = self._training.recent
            mean = sum(recent) / len(recent)
            print(
                f"step {t + 1:4d} / {self._settings.num_steps:4d} | loss {loss:.4f} "
                f"| mean {mean:.4f} | {self._training.seconds:.1f} s"
            )
        self._boundary.check()

    def _is_shown(self, step: int) -> bool:
        every = self._settings.log_every or 10 ** (len(str(step)) - 1)
        return step % every == 0 or step == self._settings.num_steps

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """Show a held-out loss."""
        if self._events is not None:
            self._events.add_scalar("held-out loss", loss, step)
        word = ", the lowest" if best else ""
        self._print(f"step {step:4d} | held-out loss {loss:.4f}{word}")

    def sampled(self, step: int, samples: Sequence[Sample]) -> None:
        """Show samples."""
        self._print(f"--- samples after step {step} ---")
        if not self._settings.quiet:
            print_samples(samples, self._settings)

    def _print(self, text: str) -> None:
        if not self._settings.quiet:
            print(text)  # above the bar: rich moves it


def _event_file(directory: str) -> Any:
    """Return a writer of TensorBoard's event files.

    Raises:  ImportError that says what to install
    """
    writer: Any = extras.need("tensorboardX", "--tensorboard", "tensorboard").SummaryWriter
    return writer(directory)


def _same_file(a: str, b: str) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:  # one of them is not there
        return False
