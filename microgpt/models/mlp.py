"""MLP: the embeddings of the last block_size tokens side by side, through one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microgpt.model import Matrix, Model, Sizes
from microgpt.oracle import Value


@dataclass(frozen=True)
class Config(Sizes):
    """The sizes of an MLP; it sees block_size tokens.

    Raises:  as `Sizes`
    """

    n_embd: int = 16
    n_hidden: int = 64
    block_size: int = 16

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        return {
            "wte": (self.vocab_size + 1, self.n_embd),  # the last row: before the first token
            "fc1": (self.n_hidden, self.block_size * self.n_embd),
            "fc1_bias": (1, self.n_hidden),
            "lm_head": (self.vocab_size, self.n_hidden),
            "lm_head_bias": (1, self.vocab_size),
        }


class MLP(Model):
    """An MLP over a fixed context.

    Shapes:  state_dict and params as of every `Model`
    Raises:  as `Config`
    Source:  Bengio et al. 2003; makemore `MLP`
    """

    name = "mlp"
    Config = Config

    def _begin(self, weights: Mapping[str, Matrix]) -> list[Value]:
        # The embeddings of the last block_size tokens, the latest first.
        block_size: int = self.config.block_size
        return list(weights["wte"][self.config.vocab_size]) * block_size

    def _logits(
        self, token_id: int, pos_id: int, context: list[Value], weights: Mapping[str, Matrix]
    ) -> list[Value]:
        linear, width = self.functions.linear, self.config.n_embd
        context[:] = [*weights["wte"][token_id], *context[:-width]]
        h = [a + b for a, b in zip(linear(context, weights["fc1"]), weights["fc1_bias"][0])]
        h = [a.tanh() for a in h]
        return [a + b for a, b in zip(linear(h, weights["lm_head"]), weights["lm_head_bias"][0])]
