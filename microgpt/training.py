"""The main job: train a model on documents, watch it, keep what it learned.

Whatever ends training early ends it between two steps: the weights are always
those of a whole number of steps, and they are saved.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from microgpt import checkpoint, data, memory, sampling
from microgpt.gpt import GPT, Config
from microgpt.tokenizer import CharTokenizer

OnStep = Callable[[int, float], object]


class Run:
    """All that a seed determines before the first step, as the original makes it.

    Order:   one random stream: the documents shuffled, then the weights drawn; rng
             goes on from there into sampling
    Raises:  MemoryError if a step cannot fit into the machine's memory
    """

    def __init__(self, arguments: Namespace, documents: list[str], engine: SimpleNamespace) -> None:
        self.rng = random.Random(arguments.seed)
        documents = documents[:]
        self.rng.shuffle(documents)
        self.tokenizer = CharTokenizer.from_documents(documents)
        config = shape(arguments, self.tokenizer.vocab_size)
        memory.check(config, engine.NAME, _positions(documents, config, arguments.batch_size))
        self.model: GPT = engine.GPT(**vars(config), rng=self.rng)
        self.threads: int = arguments.threads
        self.adam = engine.Adam(self.model.params, **settings(arguments))
        self.num_steps: int = arguments.num_steps
        self.batch_size: int = arguments.batch_size
        # Only what training reaches: not all of a large file, not all of a long line.
        reached = documents[: self.num_steps * self.batch_size]
        self.tokens = [self.tokenizer.encode_document(d[: config.block_size]) for d in reached]

    def fit(self, on_step: OnStep) -> list[float]:
        """Train to the end and return the losses."""
        return self.model.fit(
            self.tokens, self.num_steps, self.batch_size, adam=self.adam, on_step=on_step,
            threads=self.threads,
        )  # fmt: skip


def shape(arguments: Namespace, vocab_size: int) -> Config:
    """Return the model's configuration that the command line asks for."""
    return Config(
        vocab_size,
        arguments.n_embd,
        arguments.n_head,
        arguments.n_layer,
        arguments.block_size,
    )


def settings(arguments: Namespace) -> dict[str, Any]:
    """Return the optimizer's settings that the command line asks for."""
    names = ("learning_rate", "beta1", "beta2", "eps_adam", "num_steps")
    return {name: getattr(arguments, name) for name in names}


def train(arguments: Namespace, engine: SimpleNamespace) -> int:
    """Train, save and sample as the command line asks; return the exit status.

    Writes:  standard output as the original does; --losses as it goes, --out at the end
    Raises:  OSError and ValueError with a message for the user
    """
    documents = data.documents(arguments.data)
    if arguments.out is not None:
        prepare(arguments.out)
    run = Run(arguments, documents, engine)
    if not arguments.quiet:
        print(f"num docs: {len(documents)}")
        print(f"vocab size: {run.tokenizer.vocab_size}")
        print(f"num params: {run.model.config.num_params}")
    saved = ""
    with Boundary() as boundary:
        failure = _fit(run, arguments, boundary)
        if arguments.out is not None:
            saved = f"saved {checkpoint.save(arguments.out, run.model, run.tokenizer)}"
    if failure is not None:
        raise failure
    if boundary.signum is not None:
        _note(f"stopped after {boundary.done} of {run.num_steps} steps; {saved or 'not saved'}")
        return 128 + boundary.signum
    if saved and not arguments.quiet:
        _note(saved)
    if arguments.num_samples and not arguments.quiet:
        print("\n--- inference (new, hallucinated names) ---")
    sampling.print_samples(run.model, run.tokenizer, run.rng, arguments)
    return 0


class Boundary:
    """Inside it, Ctrl-C, SIGTERM and SIGHUP end training after the step that runs.

    A second one ends the program at once, as KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.done = 0
        self._previous: dict[int, Any] = {}
        self._hint = threading.Timer(0.5, _hint)
        self._hint.daemon = True

    def __enter__(self) -> Boundary:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signum = getattr(signal, name, None)  # Windows has no SIGHUP
            if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._hint.cancel()

    def check(self, t: int, loss: float) -> None:
        """Count a step; end training if a signal came while it ran."""
        self.done = t + 1
        if self.signum is not None:
            self._hint.cancel()
            raise _Stopped

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        self._hint.start()  # only a long step needs an explanation


class _Stopped(Exception):  # noqa: N818 - no error: it ends training as asked
    pass


def _fit(run: Run, arguments: Namespace, boundary: Boundary) -> OSError | None:
    """Train and return what ended it early between two steps, if an error did."""
    try:
        with contextlib.ExitStack() as stack:
            reports: list[OnStep] = []
            if arguments.losses is not None:
                reports.append(stack.enter_context(losses_to(arguments.losses)))
            if not arguments.quiet:
                progress = _bar if _is_terminal() else _lines
                reports.append(stack.enter_context(progress(run.num_steps)))
            reports.append(boundary.check)

            def on_step(t: int, loss: float) -> None:
                for report in reports:
                    report(t, loss)

            run.fit(on_step)
    except _Stopped:
        pass
    except OSError as error:  # told by a report: the disk is full, the reader left
        return error
    except (ArithmeticError, ValueError) as error:
        raise ValueError(
            f"training failed in step {boundary.done + 1}: {error.args[-1]}; nothing saved; "
            "a lower --learning-rate or a larger --eps-adam may help"
        ) from None
    return None


@contextlib.contextmanager
def losses_to(path: str) -> Iterator[OnStep]:
    """Yield a report that writes each loss as it comes, so that none is lost."""
    try:
        with open(path, "w", encoding="ascii", buffering=1) as file:
            yield lambda t, loss: file.write(f"{loss.hex()}\n")
    except OSError as error:
        if error.filename is None and not isinstance(error, BrokenPipeError):
            error.filename = path
        raise


@contextlib.contextmanager
def _lines(num_steps: int) -> Iterator[OnStep]:
    yield lambda t, loss: print(f"step {t + 1:4d} / {num_steps:4d} | loss {loss:.4f}")


@contextlib.contextmanager
def _bar(num_steps: int) -> Iterator[OnStep]:
    """Yield a report that draws a progress bar, at most twenty times a second."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(f"step {{task.completed:{len(str(num_steps))}d}} / {num_steps}"),
        BarColumn(bar_width=None),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} steps/s"),
        TimeRemainingColumn(),
        auto_refresh=False,  # no thread beside the training
        expand=True,
    )
    with bar:
        task = bar.add_task("", total=num_steps, loss="-", rate="-")
        start = drawn = time.monotonic()
        last = (-1, math.nan)

        def draw() -> None:
            t, loss = last
            speed = (t + 1) / (time.monotonic() - start)
            rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
            bar.update(task, completed=t + 1, loss=f"{loss:.4f}", rate=rate, refresh=True)

        def report(t: int, loss: float) -> None:
            nonlocal drawn, last
            last = (t, loss)
            if time.monotonic() - drawn >= 0.05:
                draw()
                drawn = time.monotonic()

        bar.refresh()
        try:
            yield report
        finally:
            draw()


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def prepare(directory: str) -> None:
    """Fail now, not after the training, where --out cannot be written."""
    target = Path(directory) / checkpoint.FILENAME
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a directory: give --out another")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{directory}: no permission to write there")


def _positions(documents: list[str], config: Config, batch_size: int) -> int:
    """Return how many characters the first step predicts."""
    lengths = [min(config.block_size, len(document) + 1) for document in documents]
    rounds, rest = divmod(batch_size, len(documents))
    return rounds * sum(lengths) + sum(lengths[:rest])


def _hint() -> None:
    _note("stopping after this step; once more stops at once, without saving")


def _note(text: str) -> None:
    print(f"microgpt: {text}", file=sys.stderr)
