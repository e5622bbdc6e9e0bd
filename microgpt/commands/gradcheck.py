"""`microgpt gradcheck`: are a model's gradients the derivatives of its loss?"""

from __future__ import annotations

import argparse
import random

from microgpt import checkpoint, engine
from microgpt.commands import flags, saved
from microgpt.corpus import Corpus
from microgpt.gradcheck import TOLERANCES, check_model
from microgpt.model import Model
from microgpt.settings import Settings
from microgpt.tokenizer import CharTokenizer

SUMMARY = "compare a model's gradients with derivatives found by moving its weights"
EXAMPLES = """\
examples:
  microgpt gradcheck                               the default model on the first of its names
  microgpt gradcheck --model gru --weights 10      ten weights of each matrix
  microgpt gradcheck names --text isabella         a saved model

Each derivative is found in two ways: by finite differences, from the losses with a weight moved
to both sides, some six digits; and by a complex step, from the model computed once in complex
numbers, all digits. Exit status 1 says that a gradient is wrong.
"""
SIZES = ("model", "n_embd", "n_hidden", "n_head", "n_layer", "block_size", "init_std")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of gradcheck."""
    command.add_argument(
        "directory", nargs="?", type=flags.path, metavar="DIR", help="a run that train --out saved"
    )
    command.add_argument("--text", metavar="TEXT", help="the document (default: the text's first)")
    command.add_argument(
        "--weights", type=_count, default=4, metavar="N", help="of each matrix (default: 4)"
    )
    flags.add_settings(command, ("data", "split", "engine", "seed", *SIZES))


def run(options: argparse.Namespace) -> int:
    """Check as the command line asks and print the result; return the exit status."""
    given = flags.given(options)
    if options.directory is not None:
        extra = sorted(given.keys() - {"engine", "seed"})
        if extra:
            flag = extra[0].replace("_", "-")
            options.parser.error(f"a saved run has its own settings: leave out --{flag}")
        file = saved.file(options.directory, "best")
        content = checkpoint.read(file, given.get("engine"))
        model, tokenizer = checkpoint.model_of(content, given.get("engine")), content.tokenizer
        settings = saved.settings(content)
        text = options.text if options.text is not None else saved.corpus(content, file).training[0]
    else:
        settings = flags.settings(options.parser, given)
        corpus = Corpus.of(settings)
        text = options.text if options.text is not None else corpus.training[0]
        tokenizer = CharTokenizer(corpus.chars)
        model = _made(settings, tokenizer.vocab_size, corpus)
    tokens = saved.encoded(text, tokenizer, settings.split, model.config.block_size)
    rng = random.Random(given.get("seed", settings.seed))
    print(f"text: {text!r}, {len(tokens) - 1} tokens; engine: {given.get('engine', engine.NAME)}")
    print(f"{'matrix':18}  weights  differences  complex step")
    wrong = None
    for name, checks in check_model(model, tokens, options.weights, rng):
        errors = [max(check.error for check in found) for found in checks]
        print(f"{name:18}  {len(checks[0]):7}  {errors[0]:11.1e}  {errors[1]:12.1e}", flush=True)
        for found, tolerance in zip(checks, TOLERANCES):
            wrong = wrong or next((c for c in found if not c.error <= tolerance), None)
    if wrong is not None:
        print(f"wrong: weight {wrong.weight}: gradient {wrong.gradient}, derivative {wrong.found}")
        return 1
    print(f"all within {TOLERANCES[0]:g} of differences and {TOLERANCES[1]:g} of complex steps")
    return 0


def _made(settings: Settings, vocab_size: int, corpus: Corpus) -> Model:
    """Return the untrained model of these settings."""
    rng = random.Random()
    rng.setstate(corpus.rng)
    kind = engine.load(settings.engine or engine.NAME).models[settings.model]
    made: Model = kind(**vars(settings.config(vocab_size)), rng=rng, **settings.made())
    return made


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return count
