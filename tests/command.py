"""The command line as a real process."""

import os
import subprocess
import sys

COMMAND = [sys.executable, "-m", "microgpt"]


def environment(**changes):
    """Return this environment without what steers microgpt or rich, with changes."""
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
