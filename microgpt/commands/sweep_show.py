"""`microgpt sweep show`: the results of a sweep."""

from __future__ import annotations

import argparse
import csv
import sys

from microgpt.commands import flags
from microgpt.commands.sweep import summary
from microgpt.sweep.results import Results

SUMMARY = "show the best trials of a sweep, and which settings matter"
EXAMPLES = """\
examples:
  microgpt sweep show sweep                     the best ten trials
  microgpt sweep show sweep --best 30
  microgpt sweep show sweep --csv > sweep.csv   a row a trial

Optuna's plots: microgpt report sweep. From Python, as a pandas frame:
microgpt.sweep.Results("sweep").frame()
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of sweep show."""
    command.add_argument(
        "directory", type=flags.path, metavar="DIR", help="the directory that sweep --out made"
    )
    command.add_argument("--csv", action="store_true", help="print a row a trial, with a header")
    command.add_argument(
        "--best", type=flags.whole, default=10, metavar="N", help="how many (default: 10)"
    )


def run(options: argparse.Namespace) -> int:
    """Show a sweep as the command line asks; return the exit status."""
    results = Results(options.directory)
    if options.csv:
        names = ["trial", "state", *results.space.domains, "val_loss", "train_loss", "seconds"]
        table = csv.DictWriter(sys.stdout, [*names, "directory"], lineterminator="\n")
        table.writeheader()
        table.writerows(results.rows())
        return 0
    for line in summary(results, options.best):
        print(line)
    return 0
