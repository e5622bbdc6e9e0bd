"""`microgpt score`: the loss of given texts under a saved model."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

from microgpt import checkpoint, sampling
from microgpt.commands import flags, saved
from microgpt.commands.terminal import is_terminal, note
from microgpt.message import one_line
from microgpt.model import Model

SUMMARY = "score texts by a saved model: nats, bits and perplexity"
EXAMPLES = """\
examples:
  microgpt score names emma xqzt                a line a text
  microgpt score names emma --characters        a line a character
  microgpt score names < words.txt              a text a line from standard input

The columns are nats and bits of the whole text, perplexity a token, tokens, and the text; the
end of a text is a token too. A model of windows has no end of a text, and reads it as the
beginning of a line. Beyond the model's block size each character is predicted from the
last ones, as sampling does.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of score."""
    saved.add_directory(command)
    command.add_argument("texts", nargs="*", metavar="TEXT", help="the text (default: stdin)")
    flags.add_settings(command, ("engine", "keep"))
    command.add_argument(
        "--characters", action="store_true", help="a line for each character, with its probability"
    )


def run(options: argparse.Namespace) -> int:
    """Print the scores that the command line asks for; return the exit status."""
    given = flags.given(options)
    content = checkpoint.read(
        saved.file(options.directory, given.get("keep", "best")), given.get("engine")
    )
    split = saved.settings(content).split
    model = checkpoint.model_of(content, given.get("engine"))
    tokenizer = content.tokenizer
    for text in options.texts or _lines():
        tokens = sampling.text_tokens(tokenizer, text, split)
        if len(tokens) < 2:
            raise ValueError("an empty text has no tokens to score")
        losses = list(token_losses(model, tokens))
        if options.characters:
            for token, nats in zip(tokens[1:], losses):
                character = repr(tokenizer.chars[token]) if token < tokenizer.BOS else "the end"
                print(f"{character}\t{math.exp(-nats):.6f}\t{nats / math.log(2):.4f} bits")
        nats = math.fsum(losses)
        perplexity = math.exp(nats / len(losses))
        print(
            f"{nats:.4f} nats\t{nats / math.log(2):.4f} bits\t"
            f"perplexity {perplexity:.4f}\t{len(losses)} tokens\t{one_line(text)}"
        )
    return 0


def token_losses(model: Model, tokens: Sequence[int]) -> Iterator[float]:
    """Yield the loss of each token after the first, in nats.

    Beyond block_size tokens each is predicted from the last block_size.
    """
    size = model.config.block_size
    done = 0.0
    for end in range(1, len(tokens)):
        if end <= size:
            total = model.evaluate([tokens[: end + 1]]).nats
            yield total - done
            done = total
        else:
            window = tokens[end - size : end + 1]
            before = model.evaluate([window[:-1]]).nats if size > 1 else 0.0
            yield model.evaluate([window]).nats - before


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise ValueError("standard input is closed: give a text")
    if is_terminal(sys.stdin):
        note("reading texts from this terminal, one a line; Ctrl-D ends it")
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")
