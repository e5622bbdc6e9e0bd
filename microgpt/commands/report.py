"""`microgpt report`: one page about a run, to be opened from a disk or sent."""

from __future__ import annotations

import argparse
from pathlib import Path

from microgpt import files
from microgpt.sweep import Results
from microgpt.sweep.trial import DEFINITION

SUMMARY = "write one page about a run: curves, samples, attention, hard documents"
EXAMPLES = """\
examples:
  microgpt report names                     writes names/report.html
  microgpt report names --out names.html --text isabella
  microgpt report sweep                     of a sweep: its trials, by Optuna's plots

DIR is what train --out or sweep --out made. The page needs no network: send it, or open
it from a disk.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of report."""
    command.add_argument("directory", metavar="DIR", help="what train --out or sweep --out made")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: DIR/report.html)"
    )
    command.add_argument(
        "--verify", action="store_true", help="train the run again and state whether it is the same"
    )
    text = "the text whose probabilities are shown (default: the first held-out document)"
    command.add_argument("--text", metavar="TEXT", help=text)


def run(options: argparse.Namespace) -> int:
    """Write a report as the command line asks; return the exit status."""
    if (Path(options.directory) / DEFINITION).exists():
        if options.verify or options.text is not None:
            options.parser.error("the page of a sweep has neither --verify nor --text")
        from microgpt.sweep.page import page as sweep_page

        return _write(options, sweep_page(Results(options.directory)))
    from microgpt.report import Report

    verdict = ""
    if options.verify:
        from microgpt import verify

        result = verify.again(options.directory, None, lambda t, loss: None)
        verdict = f"identical: {result.losses:,} losses, {result.weights:,} weights"
        if result.difference is not None:
            place, expected, found = result.difference
            verdict = f"different: {place}: {expected} was saved, {found} comes out now"
    return _write(options, Report(options.directory, options.text, verdict).page())


def _write(options: argparse.Namespace, page: str) -> int:
    out = options.out or Path(options.directory) / "report.html"
    with files.replacing(out) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    print(f"{out}: {len(page.encode('utf-8', 'backslashreplace')):,} bytes")
    return 0
