"""RNN: a hidden state, carried from position to position by one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microgpt.model import Matrix, Model, Sizes
from microgpt.oracle import Value


@dataclass(frozen=True)
class Config(Sizes):
    """The sizes of a recurrent network.

    Raises:  as `Sizes`
    """

    n_embd: int = 16
    n_hidden: int = 64
    block_size: int = 16

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        return {
            "start": (1, self.n_hidden),
            "wte": (self.vocab_size, self.n_embd),
            "xh_to_h": (self.n_hidden, self.n_embd + self.n_hidden),
            "xh_to_h_bias": (1, self.n_hidden),
            "lm_head": (self.vocab_size, self.n_hidden),
            "lm_head_bias": (1, self.vocab_size),
        }


class RNN(Model):
    """A recurrent network with one tanh cell.

    Shapes:  state_dict and params as of every `Model`
    Raises:  as `Config`
    Source:  Mikolov et al. 2010; makemore `RNN`, `RNNCell`
    """

    name = "rnn"
    Config = Config

    def _begin(self, weights: Mapping[str, Matrix]) -> list[Value]:
        return list(weights["start"][0])

    def _logits(
        self, token_id: int, pos_id: int, hidden: list[Value], weights: Mapping[str, Matrix]
    ) -> list[Value]:
        linear = self.functions.linear
        xh = [*weights["wte"][token_id], *hidden]
        h = [a + b for a, b in zip(linear(xh, weights["xh_to_h"]), weights["xh_to_h_bias"][0])]
        hidden[:] = [a.tanh() for a in h]
        out = linear(hidden, weights["lm_head"])
        return [a + b for a, b in zip(out, weights["lm_head_bias"][0])]
