"""New documents from a trained model."""

from __future__ import annotations

import random
from collections.abc import Iterator

from microgpt.model import Model
from microgpt.settings import Settings
from microgpt.tokenizer import CharTokenizer


def samples(
    model: Model, tokenizer: CharTokenizer, rng: random.Random, settings: Settings
) -> Iterator[str]:
    """Yield as many samples as settings say, drawn one after the other from rng.

    Raises:  ValueError that says what may help
    """
    try:
        prompt = tokenizer.encode(settings.prompt)
        for _ in range(settings.num_samples):
            tokens = model.generate(
                prompt, temperature=settings.temperature, top_k=settings.top_k, rng=rng
            )
            yield tokenizer.decode(tokens)
    except ArithmeticError as error:
        reason = f"{error.args[-1]}; a higher --temperature may help"
        raise ValueError(f"sampling failed: {reason}") from None
    except ValueError as error:
        raise ValueError(f"sampling failed: {error}") from None
