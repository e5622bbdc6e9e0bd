"""`microgpt sample`: new documents from a saved model."""

from __future__ import annotations

import argparse
import random

from microgpt import checkpoint, sampling
from microgpt import engine as engines
from microgpt.commands import parser
from microgpt.commands.terminal import print_samples

SUMMARY = "sample from a model that train --out saved"
EXAMPLES = """\
examples:
  microgpt train --out names          makes the directory names with a run in it
  microgpt sample names               20 new names
  microgpt sample names --prompt mar --temperature 0.8 --top-k 5
  microgpt sample names --quiet --num-samples 1000 | sort -u
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of sample."""
    command.add_argument(
        "directory", type=parser.path, metavar="DIR", help="the directory that train --out made"
    )
    names = ("engine", "seed", "num_samples", "temperature", "top_k", "prompt", "keep", "quiet")
    parser.add_settings(command, names)


def run(options: argparse.Namespace) -> int:
    """Print samples of a saved model as the command line asks; return the exit status."""
    given = parser.given(options)
    keep = given.pop("keep", "best")
    settings = parser.settings(options.parser, given)
    file = checkpoint.file_in(options.directory, best=keep == "best")
    model, tokenizer = checkpoint.load(file, settings.engine or engines.NAME)
    texts = sampling.samples(model, tokenizer, random.Random(settings.seed), settings)
    print_samples(texts, quiet=settings.quiet)
    return 0
