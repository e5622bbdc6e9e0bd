"""`microgpt log`: the log of a run."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from microgpt.commands import saved
from microgpt.log import LOG, read_log

SUMMARY = "print the log of a run"
EXAMPLES = """\
examples:
  microgpt log names                  the last steps
  microgpt log names --csv > log.csv  all steps as a table
  microgpt log names --lines 0        all steps
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of log."""
    saved.add_directory(command)
    command.add_argument("--csv", action="store_true", help="all steps as CSV, with a header")
    command.add_argument(
        "--lines", type=int, default=10, metavar="N", help="the last N steps, 0 all (default: 10)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the log as the command line asks; return the exit status."""
    path = Path(options.directory) / LOG
    if options.lines < 0:
        options.parser.error("--lines must be at least 0")
    if not path.exists():
        raise ValueError(f"{options.directory}: there is no {LOG} in it; train --out makes one")
    lines = read_log(path)
    if options.csv:
        if lines:
            table = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(lines)
        return 0
    for line in lines[-options.lines :]:
        print(json.dumps(line))
    return 0
