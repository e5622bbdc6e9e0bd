"""Replace files atomically: a reader sees the former file or the new one, never a part."""

from __future__ import annotations

import contextlib
import contextvars
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_unflushed_until: contextvars.ContextVar[float] = contextvars.ContextVar("until", default=0.0)


@contextlib.contextmanager
def unflushed(seconds: float) -> Iterator[None]:
    """For so many seconds, let the operating system choose when to write files to the disk.

    Inside the block files stay whole for other processes, and after a process is
    killed; only a power cut can lose them.
    """
    token = _unflushed_until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _unflushed_until.reset(token)


def to_disk(file: BinaryIO) -> None:
    """Wait until a flushed file is on the disk, unless inside `unflushed`."""
    if _flushes():
        os.fsync(file.fileno())


def remove_leftovers(path: Path) -> None:
    """Remove the hidden files that killed processes left beside a path."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _flushes() -> bool:
    return time.monotonic() >= _unflushed_until.get()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces path when the block ends without an exception.

    Writes:  a hidden file beside path, flushed to the disk before it is renamed;
             removed if the block or a write fails, path is then as it was
    Raises:  OSError naming path
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            to_disk(file)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # The error names path instead of the hidden file.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    _flush_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing; flush their names to the disk.

    Raises:  OSError naming the directory that cannot be made
    """
    if not path.is_dir():
        if not path.parent.exists():
            make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    if not _flushes():
        return
    with contextlib.suppress(OSError):  # no file system needs to offer that
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
