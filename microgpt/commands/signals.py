"""Signals: one ends training after the step that runs, a second one ends the program."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

from microgpt.commands.terminal import note
from microgpt.training import Stop


class SignalError(KeyboardInterrupt):
    """A signal that ends the program at once.

    It is a KeyboardInterrupt, so that no `except Exception` on the way catches it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


class Boundary:
    """Inside it, Ctrl-C, SIGTERM and SIGHUP end training after the step that runs.

    signum is the signal that came. A second one ends the program at once, as SignalError;
    after the block all are ignored if one came, since the program is about to end.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
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
            signal.signal(signum, handler if self.signum is None else signal.SIG_IGN)
        self._hint.cancel()

    def check(self) -> None:
        """End training if a signal came."""
        if self.signum is not None:
            self._hint.cancel()
            raise Stop

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise SignalError(signum)
        self.signum = signum
        with contextlib.suppress(RuntimeError):  # the system refuses a thread
            self._hint.start()  # only a long step needs an explanation


def _hint() -> None:
    note("stopping after this step; once more stops at once, without saving")
