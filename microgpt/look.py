"""A model's computation on one text: probabilities, attention, activations and gradients.

`model.look(text)` returns a `Look`, on every engine with the same bits. A GPT's forward
pass is `gpt.gpt` over the engine's own `Value`, with a hook that records each
activation and replaces those that an intervention sets; the fused engine reads
its own buffers if nothing is replaced. Of makemore's models only the logits are kept.
A look has a copy of the weights: it does not change the model, and later training does
not change it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from microgpt import extras
from microgpt.gpt import GPT, gpt

if TYPE_CHECKING:
    import numpy
    from numpy.typing import ArrayLike, NDArray

    from microgpt.gpt import Config
    from microgpt.model import Model
    from microgpt.oracle import Value
    from microgpt.tokenizer import CharTokenizer

    Array = NDArray[numpy.float64]


class Look:
    """A model's computation on a text, position by position, as numpy arrays.

    A text has BOS on both ends, as a document in training; token ids are taken as
    they are. Position t reads tokens[t] and predicts tokens[t + 1].

    Shapes:  with n positions, at most block_size: tokens (n + 1,), probabilities
             (n, vocab_size), attention (n_layer, n_head, n, n): layer, head,
             query position, key position; activations {name: (n, width)},
             of a model without attention "logits" and "probs"
    Units:   loss in nats per token, surprise in bits; infinite where the next
             token has the probability 0
    Raises:  ValueError if a character or token is not in the vocabulary, there are
             fewer than two tokens, or an intervention does not fit the model;
             ImportError without numpy
    """

    tokens: list[int]
    loss: float
    activations: dict[str, Array]
    attention: Array

    def __init__(
        self,
        model: Model,
        text: str | Sequence[int],
        *,
        ablate: Iterable[tuple[int, int]] = (),
        patch: Mapping[str, ArrayLike | Mapping[int, ArrayLike]] | None = None,
    ) -> None:
        extras.need("numpy", "look")
        self.config: Any = model.config
        self._model = model
        self.tokenizer: CharTokenizer | None = model.tokenizer
        tokens = _tokens(text, model.tokenizer)
        model._check(tokens)
        if len(tokens) < 2:
            raise ValueError(f"a look needs at least two tokens, not {len(tokens)}")
        self.tokens = tokens[: self.config.block_size + 1]
        self.unseen = len(tokens) - len(self.tokens)
        ablate, patch = [*ablate], patch or {}
        if (ablate or patch) and not isinstance(model, GPT):
            raise ValueError(f"a model of the kind {model.name} has no heads or activations to set")
        n = len(self.tokens) - 1
        self._patch = _checked(self.config, n, ablate, patch) if ablate or patch else {}
        self._weights = model.weights()
        self._value, self._functions = model.Value, model.functions
        buffers = None
        if not self._patch:
            with contextlib.suppress(ValueError):  # a probability of zero, which has no logarithm
                buffers = model._buffers(self.tokens)
        if buffers is None:
            self._run(gradients=False)
        else:
            self.loss, self.activations, attention = buffers
            self.attention = _array(attention)
            self.activations = {name: _array(x) for name, x in self.activations.items()}

    def __len__(self) -> int:
        return len(self.tokens) - 1

    def __repr__(self) -> str:
        shown = "".join(self.characters[1:])
        left = f", {self.unseen} tokens after block_size not seen" if self.unseen else ""
        return f"<look at {shown!r}: {len(self)} positions, {self.loss:.4f} nats per token{left}>"

    def _repr_html_(self) -> str:
        from microgpt.pages import look_html

        return look_html(self)

    @cached_property
    def characters(self) -> list[str]:
        """The tokens as text: BOS as "", without a tokenizer the id in angle brackets."""
        return [self.character(token) for token in self.tokens]

    def character(self, token: int) -> str:
        """Return a token as text, as `characters` has it."""
        if token == self.config.vocab_size - 1:
            return ""
        return self.tokenizer.chars[token] if self.tokenizer else f"<{token}>"

    @property
    def probabilities(self) -> Array:
        """The probability of each token at each position."""
        return self.activations["probs"]

    @cached_property
    def surprise(self) -> Array:
        """The surprise of each next token, in bits: minus the binary log of its probability."""
        probs = self.probabilities
        return _array([bits(probs[t][token]) for t, token in enumerate(self.tokens[1:])])

    @cached_property
    def gradients(self) -> dict[str, Array]:
        """The derivative of the loss by each activation and each weight, by name.

        Shapes:  as activations, "layer0.attention" as (n_head, n, n), and the
                 weights as `Config.shapes` says; zero where nothing depends on it
        """
        return self._run(gradients=True)

    @cached_property
    def logit_lens(self) -> Array:
        """The probabilities if the model ended before each layer; last, as it is.

        Shapes:  (n_layer + 1, n, vocab_size)
        Source:  nostalgebraist, "interpreting GPT: the logit lens"
        """
        leaf, linear, softmax = self._value, self._functions.linear, self._functions.softmax
        if not isinstance(self._model, GPT):
            raise ValueError(f"a model of the kind {self._model.name} has no layers")
        head = self._state_dict()["lm_head"]
        layers = [self.activations[f"layer{i}.input"] for i in range(self.config.n_layer)]
        lens = [
            [[p.data for p in softmax(linear([leaf(x) for x in row], head))] for row in layer]
            for layer in layers
        ]
        return _array([*lens, self.probabilities])

    def top(self, position: int, k: int = 5) -> list[tuple[int, float]]:
        """Return the k likeliest tokens at a position with their probabilities."""
        probs = self.probabilities[position].tolist()
        return sorted(enumerate(probs), key=lambda pair: -pair[1])[:k]

    def _state_dict(self) -> dict[str, list[list[Value]]]:
        weights = iter(map(self._value, self._weights))
        shapes = self.config.shapes().items()
        return {
            name: [[next(weights) for _ in range(n_in)] for _ in range(n_out)]
            for name, (n_out, n_in) in shapes
        }

    def _run(self, *, gradients: bool) -> dict[str, Array]:
        """Compute the activations, or keep the graph and return the gradients."""
        config, functions, n = self.config, self._functions, len(self)
        state_dict = self._state_dict()
        recorder = ActivationHook(self._patch, self._value, detached=not gradients)
        context = self._model._begin(state_dict)
        targets: list[Any] = []
        for t in range(n):
            where = self.tokens[t], t
            if isinstance(self._model, GPT):
                keys, values, _ = context
                logits = gpt(*where, keys, values, state_dict, config, functions, recorder)
            else:
                logits = recorder("logits", self._model._logits(*where, context, state_dict))
            probs = recorder("probs", functions.softmax(logits))
            targets.append(probs[self.tokens[t + 1]])
        impossible = not gradients and any(p.data == 0 for p in targets)
        loss = self._value(math.inf) if impossible else (1 / n) * sum([-p.log() for p in targets])
        if not gradients:
            self.loss = loss.data
            activations = {name: _data(rows) for name, rows in recorder.rows.items()}
            heads = [_heads(activations.pop(at), n, config) for at in _attentions(config)]
            self.attention = _array(heads).reshape(len(heads), -1 if heads else 0, n, n)
            self.activations = {name: _array(rows) for name, rows in activations.items()}
            return {}
        loss.backward()
        found: dict[str, Any] = {name: _grads(rows) for name, rows in recorder.rows.items()}
        for at in _attentions(config):
            found[at] = _heads(found[at], n, config)
        found |= {name: _grads(rows) for name, rows in state_dict.items()}
        return {name: _array(rows) for name, rows in found.items()}


def predictions(model: Model, text: str | Sequence[int]) -> Iterator[tuple[int, list[float]]]:
    """Yield each token of a text after the first, with the probabilities of all tokens there.

    Beyond block_size tokens each is predicted from the last block_size, positions from
    0, as generation does.

    Order:   one forward pass for the first block_size tokens, one for each after them
    Raises:  as `Look`
    """
    tokens, block_size = _tokens(text, model.tokenizer), model.config.block_size
    model._check(tokens)
    first = Look(model, tokens)
    yield from zip(first.tokens[1:], first.probabilities.tolist())
    for end in range(len(first.tokens), len(tokens)):
        window = Look(model, tokens[end - block_size : end + 1])
        yield tokens[end], window.probabilities[-1].tolist()


def bits(p: float) -> float:
    """Return the surprise of a probability: minus its binary logarithm, for 0 infinity."""
    return -math.log2(p) if p > 0 else math.inf if p == 0 else math.nan


class ActivationHook:
    """A hook of `gpt.gpt` that keeps every activation and replaces those that are patched.

    Detached, each activation goes on as leaves of the same numbers, so that no graph
    is kept.
    """

    def __init__(self, patch: dict[str, Any], value: Any, *, detached: bool) -> None:
        self.rows: dict[str, list[list[Value]]] = {}
        self._patch, self._value, self._detached = patch, value, detached

    def __call__(self, name: str, x: list[Value], layer: int | None = None) -> list[Value]:
        if layer is not None:
            name = f"layer{layer}.{name}"
        rows = self.rows.setdefault(name, [])
        patch = self._patch.get(name, {}).get(len(rows), {})
        if patch or self._detached:
            leaf = self._value
            x = [
                leaf(patch[j]) if j in patch else leaf(xj.data) if self._detached else xj
                for j, xj in enumerate(x)
            ]
        rows.append(x)
        return x


def _tokens(text: str | Sequence[int], tokenizer: CharTokenizer | None) -> list[int]:
    if not isinstance(text, str):
        return list(text)
    if tokenizer is None:
        raise ValueError(
            "this model has no tokenizer to read text with: set model.tokenizer, or give token ids"
        )
    return tokenizer.encode_document(text)


def _checked(
    config: Config,
    n: int,
    ablate: Iterable[tuple[int, int]],
    patch: Mapping[str, ArrayLike | Mapping[int, ArrayLike]],
) -> dict[str, dict[int, dict[int, float]]]:
    """Return interventions as {name: {call of the hook: {index: number}}}."""
    changes: dict[str, dict[int, dict[int, float]]] = {}
    widths = _widths(config)
    for name, given in patch.items():
        if name in _attentions(config):
            rows = _attention_rows(config, n, name, given)
        elif name in widths:
            rows = _rows(n, widths[name], name, given)
        else:
            raise ValueError(f"no activation {name!r}: choose one of {', '.join(widths)}")
        changes[name] = {at: dict(enumerate(row)) for at, row in rows.items()}
    for layer, head in ablate:
        if not 0 <= layer < config.n_layer or not 0 <= head < config.n_head:
            raise ValueError(
                f"no head ({layer}, {head}): layers are 0..{config.n_layer - 1}, "
                f"heads 0..{config.n_head - 1}"
            )
        zeros = dict.fromkeys(range(head * config.head_dim, (head + 1) * config.head_dim), 0.0)
        for t in range(n):
            changes.setdefault(f"layer{layer}.attended", {}).setdefault(t, {}).update(zeros)
    return changes


def _rows(n: int, width: int, name: str, given: Any) -> dict[int, list[float]]:
    if not isinstance(given, Mapping):
        array = _array(given)
        if array.shape != (n, width):
            raise ValueError(
                f"patch {name}: an array of shape {array.shape}, not {(n, width)}; "
                "for some positions alone give {position: row}"
            )
        given = dict(enumerate(array))
    rows = {}
    for t, row in given.items():
        row = _array(row)
        if t not in range(n) or row.shape != (width,):
            raise ValueError(
                f"patch {name}: position {t} of shape {row.shape}: positions are 0..{n - 1}, "
                f"each of shape {(width,)}"
            )
        rows[int(t)] = row.tolist()
    return rows


def _attention_rows(config: Config, n: int, name: str, given: Any) -> dict[int, list[float]]:
    array, shape = _array(given), (config.n_head, n, n)
    if array.shape != shape:
        raise ValueError(f"patch {name}: an array of shape {array.shape}, not {shape}")
    heads = range(config.n_head)
    return {t * config.n_head + h: array[h, t, : t + 1].tolist() for t in range(n) for h in heads}


def _widths(config: Config) -> dict[str, int]:
    widths = {"embedding": config.n_embd}
    for i in range(config.n_layer):
        for name in ("input", "attn_norm", "q", "k", "v"):
            widths[f"layer{i}.{name}"] = config.n_embd
        widths[f"layer{i}.attention"] = 0  # of a shape of its own
        for name in ("attended", "mlp_input", "mlp_norm"):
            widths[f"layer{i}.{name}"] = config.n_embd
        widths[f"layer{i}.mlp_hidden"] = 4 * config.n_embd
    ends = {"output": config.n_embd, "logits": config.vocab_size, "probs": config.vocab_size}
    return {**widths, **ends}


def _attentions(config: Any) -> list[str]:
    return [f"layer{i}.attention" for i in range(getattr(config, "n_layer", 0))]


def _heads(rows: list[list[float]], n: int, config: Config) -> list[list[list[float]]]:
    """Return rows that came position by position, head by head, as (n_head, n, n)."""
    full = [row + [0.0] * (n - len(row)) for row in rows]
    return [full[h :: config.n_head] for h in range(config.n_head)]


def _data(rows: Any) -> list[list[float]]:
    return [[x.data for x in row] for row in rows]


def _grads(rows: Any) -> list[list[float]]:
    return [[x.grad for x in row] for row in rows]


def _array(numbers: Any) -> Array:
    array: Array = extras.need("numpy", "look").array(numbers, dtype="float64")
    return array
