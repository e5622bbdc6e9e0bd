"""New documents from a trained model."""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Iterator
from types import SimpleNamespace

from microgpt import checkpoint
from microgpt.gpt import GPT
from microgpt.tokenizer import CharTokenizer

_CONTROLS = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160)) if i != ord("\t")}


def sample(arguments: Namespace, engine: SimpleNamespace) -> int:
    """Print samples of a saved model as the command line asks; return the exit status.

    Raises:  OSError and ValueError with a message for the user
    """
    model, tokenizer = checkpoint.load(arguments.model, engine.NAME)
    print_samples(model, tokenizer, random.Random(arguments.seed), arguments)
    return 0


def print_samples(
    model: GPT, tokenizer: CharTokenizer, rng: random.Random, arguments: Namespace
) -> None:
    """Print the samples numbered as the original does, or bare if quiet.

    Raises:  ValueError with a message for the user
    """
    # A model of unknown origin does not get to steer the terminal.
    escapes = _CONTROLS if sys.stdout is not None and sys.stdout.isatty() else {}
    try:
        for i, text in enumerate(samples(model, tokenizer, rng, arguments)):
            text = text.translate(escapes)
            print(text if arguments.quiet else f"sample {i + 1:2d}: {text}")
    except ArithmeticError as error:
        reason = f"{error.args[-1]}; a higher --temperature may help"
        raise ValueError(f"sampling failed: {reason}") from None
    except ValueError as error:
        raise ValueError(f"sampling failed: {error}") from None


def samples(
    model: GPT, tokenizer: CharTokenizer, rng: random.Random, arguments: Namespace
) -> Iterator[str]:
    """Yield the samples that the command line asks for, drawn one after the other."""
    prompt = tokenizer.encode(arguments.prompt)
    for _ in range(arguments.num_samples):
        tokens = model.generate(
            prompt, temperature=arguments.temperature, top_k=arguments.top_k, rng=rng
        )
        yield tokenizer.decode(tokens)
