"""Bigram: one row of logits for each token, read from a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from microgpt.model import Matrix, Model, Sizes
from microgpt.oracle import Value


@dataclass(frozen=True)
class Config(Sizes):
    """The sizes of a bigram model.

    Raises:  as `Sizes`
    """

    block_size: int = 16

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        return {"logits": (self.vocab_size, self.vocab_size)}


class Bigram(Model):
    """A table of logits: the next token from the last one alone.

    Shapes:  state_dict and params as of every `Model`
    Raises:  as `Config`
    Source:  makemore `Bigram`
    """

    name = "bigram"
    Config = Config

    def _begin(self, weights: Mapping[str, Matrix]) -> Any:
        return None

    def _logits(
        self, token_id: int, pos_id: int, context: Any, weights: Mapping[str, Matrix]
    ) -> list[Value]:
        return list(weights["logits"][token_id])
