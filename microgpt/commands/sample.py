"""`microgpt sample`: new documents from a saved model."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable

from microgpt import checkpoint, sampling
from microgpt.commands import flags, saved
from microgpt.commands.terminal import print_samples

SUMMARY = "sample from a model that train --out saved"
EXAMPLES = """\
examples:
  microgpt train --out names          makes the directory names with a run in it
  microgpt sample names               20 new names
  microgpt sample names --prompt mar --temperature 0.8 --top-k 5
  microgpt sample names --mark        new, or in the text that it was trained on
  microgpt sample book --length 500 --prompt-file start.txt --num-samples 1
  microgpt sample names --quiet --num-samples 1000 | sort -u

"..." after a sample says that it was cut, by --length or the model's block size.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of sample."""
    saved.add_directory(command)
    names = ("engine", "seed", "num_samples", "temperature", "top_k", "top_p", "length", "stop")
    flags.add_settings(command, (*names, "prompt", "keep", "quiet"))
    more = command.add_argument_group("other")
    more.add_argument(
        "--prompt-file", type=flags.path, metavar="FILE", help="take the prompt from a file"
    )
    more.add_argument(
        "--mark",
        action="store_true",
        help="say of each sample whether it is new, or in the training or the held-out text",
    )


def run(options: argparse.Namespace) -> int:
    """Print samples of a saved model as the command line asks; return the exit status."""
    given = flags.given(options)
    if options.prompt_file is not None:
        if "prompt" in given:
            options.parser.error("--prompt and --prompt-file exclude each other")
        given["prompt"] = saved.text_of(options.prompt_file)
    file = saved.file(options.directory, given.pop("keep", "best"))
    content = checkpoint.read(file, given.get("engine"))
    given["split"] = saved.settings(content).split
    settings = flags.settings(options.parser, given)
    mark = _marker(content, file) if options.mark else None
    model = checkpoint.model_of(content, settings.engine)
    drawn = sampling.samples(model, content.tokenizer, random.Random(settings.seed), settings)
    print_samples(drawn, settings, mark)
    return 0


def _marker(content: checkpoint.Content, file: object) -> Callable[[str], str]:
    corpus = saved.corpus(content, file)
    if saved.settings(content).split == "windows":
        training, held_out = "\0".join(corpus.training), "\0".join(corpus.held_out)
        return lambda text: _where(text in training, text in held_out)
    known, held = set(corpus.training), set(corpus.held_out)
    return lambda text: _where(text in known, text in held)


def _where(in_training: bool, in_held_out: bool) -> str:
    return "in the training text" if in_training else "held out" if in_held_out else "new"
