"""Run the command line as a real process."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
from importlib.util import find_spec

import pexpect

COMMAND = [sys.executable, "-m", "microgpt"]
# Whether sweeps are tested: where the extra's packages have wheels, or are there.
SWEEPS = all(map(find_spec, ["optuna", "distributed", "scipy"])) or (
    sys.version_info < (3, 15) and platform.libc_ver()[0] == "glibc"
)


def environment(**changes):
    """Return this environment with changes, without variables that microgpt or rich read."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "LINES", "PYTHONWARNINGS", "TERM"}
    }
    return {**kept, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", **changes}


def run(*arguments, cwd, input="", **changes):
    """Run a command line to its end; return its status and both outputs as text."""
    if isinstance(input, str):
        input = input.encode()
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        input=input,
        capture_output=True,
        env=environment(**changes),
        timeout=300,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def interruptible(interrupt=signal.SIG_DFL):
    """Reset SIGINT, which a shell's background jobs ignore, and their children too."""
    signal.signal(signal.SIGINT, interrupt)


@contextlib.contextmanager
def running(*arguments, cwd, interrupt=signal.SIG_DFL, **streams):
    """Yield a command line that runs, with SIGINT as interrupt says; it ends with the block."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        text=True,
        preexec_fn=lambda: interruptible(interrupt),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def on_terminal(*arguments, cwd, dimensions=(60, 100), encoding=None, **changes):
    """Yield a command line that runs on a terminal of so many lines and columns."""
    child = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], *map(str, arguments)],
        cwd=str(cwd),
        env=environment(**{"TERM": "xterm", **changes}),
        preexec_fn=interruptible,
        dimensions=dimensions,
        encoding=encoding,
        timeout=300,
    )
    try:
        yield child
    finally:
        child.close(force=True)
