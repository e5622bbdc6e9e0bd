"""The command line: one module a command, over the library in `microgpt`.

`main` is the entry. It imports the rest inside its `try`, so that Ctrl-C, a refused engine
or a closed stream ends any command with one line.
"""

from __future__ import annotations

import os
import sys

from microgpt.commands.ending import failed

TYPE_CHECKING = False  # without the time to import typing
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["run"]:  # the streams and errors of a script are its own
            if not os.environ.keys().isdisjoint(("MICROGPT_ENGINE", "MICROGPT_SIMD")):
                from microgpt import engine as engine  # refuses a wrong one; else it takes time
            from microgpt import run
        else:
            _prepare_streams()
            from microgpt import engine as engine
            from microgpt.commands import parser

            status = parser.run(given)
            sys.stdout.flush()
            return status
    except BaseException as error:
        status = failed(error)
        if argv is None and isinstance(error, KeyboardInterrupt):
            # Python would end itself by SIGINT if the interrupt came while it evaluated text.
            os._exit(status)
        return status
    return run.main(given[1:])


def _prepare_streams() -> None:
    """Let the standard streams encode any text, and replace those that are closed.

    A closed descriptor would be reused by the next file that is opened, and the stream's
    output would be written into that file.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        descriptor = os.open(os.devnull, os.O_RDWR)
        while descriptor < 2:
            descriptor = os.open(os.devnull, os.O_RDWR)
        sys.stdout = sys.stdout or open(1, "w", closefd=False)
        sys.stderr = sys.stderr or open(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a sample may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
