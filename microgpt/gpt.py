"""The model, written once over any `Value`.

`gpt` is the original's function; `GPT` is a model as an object, with its configuration and
its weights. This file and `functions` define what every engine computes, and in which order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microgpt import functions
from microgpt.functions import attend, linear, rmsnorm, softmax  # noqa: F401 (as in the original)
from microgpt.model import MAX_THREADS as MAX_THREADS
from microgpt.model import Matrix, Model, Sizes
from microgpt.oracle import Value

Cache = list[list[list[Value]]]
Context = tuple[Cache, Cache, Callable[[list[Value]], list[Value]]]
Hook = Callable[..., list[Value]]  # hook(name, x) or hook(name, x, layer)


@dataclass(frozen=True)
class Config(Sizes):
    """The shape of a model; the defaults are the original's.

    Raises:  TypeError if a size is not an integer; ValueError if it is below 1
             or n_embd is not a multiple of n_head
    """

    n_embd: int = 16
    n_head: int = 4
    n_layer: int = 1
    block_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")

    @property
    def head_dim(self) -> int:
        """Return the width of one attention head, n_embd / n_head."""
        return self.n_embd // self.n_head

    @property
    def num_params(self) -> int:
        """Return the number of weights of all matrices."""
        tables = (2 * self.vocab_size + self.block_size) * self.n_embd
        return tables + 12 * self.n_layer * self.n_embd**2

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        shapes = {
            "wte": (self.vocab_size, self.n_embd),
            "wpe": (self.block_size, self.n_embd),
            "lm_head": (self.vocab_size, self.n_embd),
        }
        for i in range(self.n_layer):
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                shapes[f"layer{i}.{name}"] = (self.n_embd, self.n_embd)
            shapes[f"layer{i}.mlp_fc1"] = (4 * self.n_embd, self.n_embd)
            shapes[f"layer{i}.mlp_fc2"] = (self.n_embd, 4 * self.n_embd)
        return shapes


def no_dropout(x: list[Value]) -> list[Value]:
    """Return x: the dropout of a model that has none."""
    return x


def no_hook(name: str, x: list[Value], layer: int = 0) -> list[Value]:
    """Return x: the hook of a model that runs as it is."""
    return x


def gpt(
    token_id: int,
    pos_id: int,
    keys: Cache,
    values: Cache,
    state_dict: Mapping[str, Matrix],
    config: Config,
    functions: Any = functions,
    hook: Hook = no_hook,
    drop: Callable[[list[Value]], list[Value]] = no_dropout,
) -> list[Value]:
    """Return the logits of the token that follows, one position at a time.

    drop(x) is called where nanoGPT has dropout, in this order: with the embedding, each
    head's attention weights, and both projections into the residual.
    hook(name, x) is called with each activation, hook(name, x, layer) with one inside a
    layer; what it returns goes on in x's place. "attention" is called once a head, with
    its weights over the positions so far.

    Shapes:  keys and values (n_layer, positions so far, n_embd); state_dict as
             `Config.shapes` says; functions, `microgpt.functions` or an engine's
             own of the same names; returns (vocab_size,)
    Writes:  appends this position's key and value to keys and values, per layer
    Source:  microgpt `gpt`
    """
    token_embedding = state_dict["wte"][token_id]
    position_embedding = state_dict["wpe"][pos_id]
    x = hook("embedding", drop([t + p for t, p in zip(token_embedding, position_embedding)]))
    x = functions.rmsnorm(x)
    for i in range(config.n_layer):
        layer = f"layer{i}."
        residual = hook("input", x, i)
        x = hook("attn_norm", functions.rmsnorm(residual), i)
        q = hook("q", functions.linear(x, state_dict[layer + "attn_wq"]), i)
        k = hook("k", functions.linear(x, state_dict[layer + "attn_wk"]), i)
        v = hook("v", functions.linear(x, state_dict[layer + "attn_wv"]), i)
        keys[i].append(k)
        values[i].append(v)
        if hook is no_hook and drop is no_dropout:
            attended = functions.attention(q, keys[i], values[i], config.n_head)
        else:
            weigh = _hooked(functions.softmax, hook, drop, i)
            attended = attend(q, keys[i], values[i], config.n_head, weigh)
        attended = hook("attended", attended, i)
        x = drop(functions.linear(attended, state_dict[layer + "attn_wo"]))
        residual = hook("mlp_input", [a + b for a, b in zip(x, residual)], i)
        x = hook("mlp_norm", functions.rmsnorm(residual), i)
        x = functions.linear(x, state_dict[layer + "mlp_fc1"])
        x = hook("mlp_hidden", [xi.relu() for xi in x], i)
        x = drop(functions.linear(x, state_dict[layer + "mlp_fc2"]))
        x = [a + b for a, b in zip(x, residual)]
    return hook("logits", functions.linear(hook("output", x), state_dict["lm_head"]))


def _hooked(
    function: Callable[[Sequence[Value]], list[Value]],
    hook: Hook,
    drop: Callable[[list[Value]], list[Value]],
    layer: int,
) -> Callable[[Sequence[Value]], list[Value]]:
    return lambda x: drop(hook("attention", function(x), layer))


class GPT(Model):
    """A model with its weights: what the original keeps in global variables.

    `engine.load(name).GPT` is this class over that engine's `Value`; the fused
    engine has one of the same surface. The last token id is BOS.

    Shapes:  state_dict {matrix name: rows of weights}, as `Config.shapes` says;
             params, all weights in one list, in that order, row by row
    Order:   weights drawn as rng.gauss(0, init_std), matrix by matrix, row by row.
             With dropout, `loss` and so `fit` draw one number of dropout_rng.random() for
             each number that may be dropped, in the order of computation: below dropout it
             is multiplied by 0.0, else by 1 / (1 - dropout)
    Raises:  as `Config`; ValueError if dropout is not in [0, 1), or init_std is negative
    """

    name = "gpt"
    Config = Config

    def __init__(
        self,
        vocab_size: int,
        n_embd: int = 16,
        n_head: int = 4,
        n_layer: int = 1,
        block_size: int = 16,
        *,
        rng: random.Random | None = None,
        dropout: float = 0.0,
        init_std: float = 0.08,
    ) -> None:
        sizes = vocab_size, n_embd, n_head, n_layer, block_size
        super().__init__(*sizes, rng=rng, init_std=init_std)
        self._set_dropout(dropout)

    def _set_dropout(self, dropout: float) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
        self.dropout = float(dropout)
        self.dropout_rng = random.Random(42)

    def _drop(self, x: list[Value]) -> list[Value]:
        scale, draw = 1 / (1 - self.dropout), self.dropout_rng.random
        return [xi * (0.0 if draw() < self.dropout else scale) for xi in x]

    def _begin(self, weights: Mapping[str, Matrix]) -> Context:
        layers = range(self.config.n_layer)
        return [[] for _ in layers], [[] for _ in layers], no_dropout

    def _begin_training(self, weights: Mapping[str, Matrix]) -> Context:
        return (*self._begin(weights)[:2], self._drop if self.dropout else no_dropout)

    def _logits(
        self, token_id: int, pos_id: int, context: Context, weights: Mapping[str, Matrix]
    ) -> list[Value]:
        keys, values, drop = context
        where = token_id, pos_id, keys, values
        return gpt(*where, weights, self.config, self.functions, drop=drop)
