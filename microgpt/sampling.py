"""New documents from a trained model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from microgpt.model import Model
from microgpt.settings import Settings
from microgpt.tokenizer import CharTokenizer


class Sample(NamedTuple):
    """A text that a model made, and what ended it: "end" (BOS), "stop" or "length"."""

    text: str
    ended_by: str


def samples(
    model: Model, tokenizer: CharTokenizer, rng: random.Random, settings: Settings
) -> Iterator[Sample]:
    """Yield as many samples as settings say, drawn one after the other from rng.

    A model of windows knows no beginning: without a prompt it goes on from a newline,
    which is left out, or from the first of its characters if it knows no newline.

    Raises:  ValueError that says what may help
    """
    windows = settings.split == "windows"
    implied = ""
    if windows and not settings.prompt:
        implied = "\n" if "\n" in tokenizer.chars else tokenizer.chars[0]
    length = settings.length
    if implied:
        length = 1 + (length or model.config.block_size)
    try:
        prompt = tokenizer.encode(implied + settings.prompt)
        stop = tokenizer.encode(settings.stop)
        for _ in range(settings.num_samples):
            tokens = model.generate(
                prompt,
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                length=length,
                stop=stop,
                bos=not windows,
                rng=rng,
            )
            text = tokenizer.decode(tokens)[len(implied) :]
            if stop and tokens[len(prompt) :][-len(stop) :] == stop:
                yield Sample(text, "stop")
            else:
                is_cut = len(tokens) == (length or model.config.block_size)
                yield Sample(text, "length" if is_cut else "end")
    except ArithmeticError as error:
        reason = f"{error.args[-1]}; a higher --temperature may help"
        raise ValueError(f"sampling failed: {reason}") from None
    except ValueError as error:
        raise ValueError(f"sampling failed: {error}") from None
