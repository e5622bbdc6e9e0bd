"""The log of a run, log.jsonl: a JSON object a step, with losses, rate, norm and speed.

`Training` writes it, and flushes it to the disk before each checkpoint; `log`, `plot`, `report`
and `verify` read it, and ignore a last line that a crash cut.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from microgpt import files

LOG = "log.jsonl"


class Log:
    """The log of a run: a JSON object a step, in lines that all have the same keys.

    step counts from 1; loss, and val_loss where it was evaluated, in nats per token; rate,
    the learning rate; norm, of the gradient before clipping, null beyond the largest float;
    tokens, those that the step predicted; seconds of training.
    """

    def __init__(self, path: Path, lines: int, seconds: float) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "r+b" if lines else "wb")
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
            f'"norm": {"null" if norm is None or not math.isfinite(norm) else repr(norm)}, '
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
            files.to_disk(self._file)

    def close(self) -> None:
        """Write all lines and close the file."""
        try:
            self.flush()
        finally:
            with self._named():
                self._file.close()

    def _write(self) -> None:
        line, self._line = self._line, ""
        try:  # not `_named`, which costs more than a line
            self._file.write(line.encode())
        except OSError as error:
            error.filename = str(self.path)
            raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self.path)
            raise


def read_log(path: str | os.PathLike[str], steps: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of a log up to a step, without a last line that a crash cut.

    A log that was deleted during a run begins at a later step.

    Raises:  OSError if it cannot be read; ValueError naming a line that is none, or whose
             step does not come after that of the line before
    """
    lines: list[dict[str, Any]] = []
    try:
        file = open(path, encoding="utf-8")
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
            if not known or number <= (lines[-1]["step"] if lines else 0):
                raise ValueError(f"{path}: line {len(lines) + 1} is not of a step after the last")
            if steps is not None and number > steps:
                break
            lines.append(line)
    return lines
