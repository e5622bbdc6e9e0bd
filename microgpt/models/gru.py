"""GRU: a recurrent network whose gates say how much of its state to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microgpt.model import Matrix, Model, Sizes
from microgpt.oracle import Value


@dataclass(frozen=True)
class Config(Sizes):
    """The sizes of a gated recurrent network.

    Raises:  as `Sizes`
    """

    n_embd: int = 16
    n_hidden: int = 64
    block_size: int = 16

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        shapes = {"start": (1, self.n_hidden), "wte": (self.vocab_size, self.n_embd)}
        for gate in ("xh_to_z", "xh_to_r", "xh_to_hbar"):
            shapes[gate] = (self.n_hidden, self.n_embd + self.n_hidden)
            shapes[f"{gate}_bias"] = (1, self.n_hidden)
        shapes["lm_head"] = (self.vocab_size, self.n_hidden)
        shapes["lm_head_bias"] = (1, self.vocab_size)
        return shapes


class GRU(Model):
    """A recurrent network with one gated cell: z updates, r resets.

    Shapes:  state_dict and params as of every `Model`
    Raises:  as `Config`
    Source:  Cho et al. 2014; makemore `RNN`, `GRUCell`
    """

    name = "gru"
    Config = Config

    def _begin(self, weights: Mapping[str, Matrix]) -> list[Value]:
        return list(weights["start"][0])

    def _logits(
        self, token_id: int, pos_id: int, hidden: list[Value], weights: Mapping[str, Matrix]
    ) -> list[Value]:
        def layer(name: str, x: list[Value]) -> list[Value]:
            out = self.functions.linear(x, weights[name])
            return [a + b for a, b in zip(out, weights[f"{name}_bias"][0])]

        x = weights["wte"][token_id]
        r = [a.sigmoid() for a in layer("xh_to_r", [*x, *hidden])]
        reset = [a * b for a, b in zip(r, hidden)]
        hbar = [a.tanh() for a in layer("xh_to_hbar", [*x, *reset])]
        z = [a.sigmoid() for a in layer("xh_to_z", [*x, *hidden])]
        kept = [(1 - zi) * old for zi, old in zip(z, hidden)]
        taken = [zi * new for zi, new in zip(z, hbar)]
        hidden[:] = [a + b for a, b in zip(kept, taken)]  # a list an operation: see models.md
        return layer("lm_head", hidden)
