"""Draw new documents from a trained model, by its settings.

A text begins after BOS; a text of windows, which have no BOS, after a newline.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from microgpt.model import Model
from microgpt.settings import Settings, SettingsError
from microgpt.tokenizer import CharTokenizer


class Sample(NamedTuple):
    """A text that a model made, and what ended it: "end" (BOS), "stop" or "length"."""

    text: str
    ended_by: str


def start(tokenizer: CharTokenizer, split: str) -> str:
    """Return the character before a text of windows, in place of BOS.

    A newline, so that the text begins like a line; where the vocabulary has none, the first
    of its characters.
    """
    if split != "windows":
        return ""
    return "\n" if "\n" in tokenizer.chars else tokenizer.chars[0]


def text_tokens(tokenizer: CharTokenizer, text: str, split: str) -> list[int]:
    """Return the tokens of a text as a model trained on such a split of documents reads it.

    Raises:  ValueError if a character is not in the vocabulary
    """
    if split != "windows":
        return tokenizer.encode_document(text)
    return tokenizer.encode(start(tokenizer, split) + text)


def check(model: Model, tokenizer: CharTokenizer, settings: Settings) -> None:
    """Refuse what `samples` would, before the time that training takes.

    Raises:  SettingsError naming the setting
    """
    for name in ("prompt", "stop"):
        try:
            tokens = tokenizer.encode(getattr(settings, name))
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None
        most = settings.length or model.config.block_size
        if name == "prompt" and len(tokens) >= most:
            raise SettingsError(
                f"a prompt of {len(tokens)} characters leaves no room for more: a sample has at "
                f"most {most}; raise --length"
            )


def samples(
    model: Model, tokenizer: CharTokenizer, rng: random.Random, settings: Settings
) -> Iterator[Sample]:
    """Yield as many samples as settings say, drawn one after the other from rng.

    Without a prompt a model of windows goes on from `start`, which is left out.

    Raises:  ValueError that says what may help
    """
    windows = settings.split == "windows"
    implied = "" if settings.prompt else start(tokenizer, settings.split)
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
