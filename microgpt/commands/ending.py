"""End a command: one line on stderr, and an exit status.

0 done, 1 failed, 2 a wrong command line, 128 + n ended by signal n, 141 the reader of the
output closed it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # without the time to import typing
if TYPE_CHECKING:
    from typing import TextIO


def failed(error: BaseException) -> int:
    """Print one line about an exception that ended a command; return the exit status."""
    if isinstance(error, SystemExit):  # argparse's way out, after help or a wrong flag
        return _flushed(error.code if isinstance(error.code, int) else 1)
    if isinstance(error, KeyboardInterrupt):
        import signal

        signum = getattr(error, "signum", signal.SIGINT)
        complain("interrupted" if signum == signal.SIGINT else f"ended by signal {signum:d}")
        return 128 + signum
    if isinstance(error, BrokenPipeError):  # the reader has left, as `head` does
        _abandon(sys.stdout)
        return 141
    if isinstance(error, MemoryError):
        complain(str(error) or "out of memory: lower --n-embd, --n-layer or --batch-size")
    elif isinstance(error, OSError):
        _abandon(sys.stdout)
        complain(_describe(error))
    elif isinstance(error, RuntimeError) and "thread" in str(error):
        complain(f"the system refuses another thread ({error}): lower --threads")
    elif _is_refused_engine(error):
        complain(f"{error} (see MICROGPT_ENGINE, MICROGPT_SIMD)")
        return 2 if isinstance(error, ValueError) else 1
    elif isinstance(error, (ArithmeticError, ImportError, ValueError)):
        from microgpt.settings import SettingsError

        complain(str(error))
        return 2 if isinstance(error, SettingsError) else 1
    else:
        raise error
    return 1


def _is_refused_engine(error: BaseException) -> bool:
    """Return whether an import failed for the engine that the environment asks for."""
    return isinstance(error, (ImportError, ValueError)) and "microgpt.engine" not in sys.modules


def _flushed(status: int) -> int:
    """Return the status, or that of what was printed and could not be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return failed(error)
    return status


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def complain(message: str, command: str = "microgpt") -> None:
    """Write a message to stderr as one line; do nothing if that fails."""
    from microgpt.message import one_line

    try:
        print(f"{command}: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO | None) -> None:
    """Drop what is in the stream's buffer, so that the interpreter's exit is silent."""
    try:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass
