"""BoW: the average of the embeddings so far (a bag of words), through one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from microgpt.model import Matrix, Model, Sizes
from microgpt.oracle import Value


@dataclass(frozen=True)
class Config(Sizes):
    """The sizes of a bag of words.

    Raises:  as `Sizes`
    """

    n_embd: int = 16
    n_hidden: int = 64
    block_size: int = 16

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        return {
            "wte": (self.vocab_size, self.n_embd),
            "wpe": (self.block_size, self.n_embd),
            "fc1": (self.n_hidden, self.n_embd),
            "fc1_bias": (1, self.n_hidden),
            "fc2": (self.n_embd, self.n_hidden),
            "fc2_bias": (1, self.n_embd),
            "lm_head": (self.vocab_size, self.n_embd),
            "lm_head_bias": (1, self.vocab_size),
        }


class BoW(Model):
    """A bag of words: attention whose weights are all equal.

    Shapes:  state_dict and params as of every `Model`
    Order:   embeddings added left to right from 0, then times 1 / n
    Raises:  as `Config`
    Source:  makemore `BoW`, `CausalBoW`
    """

    name = "bow"
    Config = Config

    def _begin(self, weights: Mapping[str, Matrix]) -> list[Any]:
        return [0] * self.config.n_embd  # the sum of the embeddings so far

    def _logits(
        self, token_id: int, pos_id: int, total: list[Any], weights: Mapping[str, Matrix]
    ) -> list[Value]:
        def layer(name: str, x: list[Value]) -> list[Value]:
            out = self.functions.linear(x, weights[name])
            return [a + b for a, b in zip(out, weights[f"{name}_bias"][0])]

        x = [t + p for t, p in zip(weights["wte"][token_id], weights["wpe"][pos_id])]
        total[:] = [a + b for a, b in zip(total, x)]
        mean = [a * (1 / (pos_id + 1)) for a in total]
        x = [a + b for a, b in zip(x, mean)]
        h = [a.tanh() for a in layer("fc1", x)]
        x = [a + b for a, b in zip(x, layer("fc2", h))]
        return layer("lm_head", x)
