"""The model, written once over any `Value`.

`gpt` is the original's function; `GPT` holds its pieces (configuration,
weights) for those who don't want to. Whatever the engine, this file and
`functions` are what is computed, and in which order.
"""

from __future__ import annotations

import operator
import random
import warnings
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microgpt import functions, oracle
from microgpt.adam import Adam
from microgpt.functions import attend, linear, rmsnorm, softmax  # noqa: F401 (as in the original)
from microgpt.oracle import Value
from microgpt.tokenizer import CharTokenizer

Matrix = Sequence[Sequence[Value]]
Cache = list[list[list[Value]]]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from microgpt.look import Look

    # The surface of every engine's Value is the oracle's; nothing summed here is empty.
    def sum(values: Iterable[Value]) -> Value: ...
else:
    ArrayLike = Look = Any  # so that annotations can be evaluated without numpy


MAX_THREADS = 1024  # of the fused engine


@dataclass(frozen=True)
class Config:
    """The shape of a model; the defaults are the original's.

    Raises:  TypeError if a size is not an integer; ValueError if it is below 1
             or n_embd is not a multiple of n_head
    """

    vocab_size: int
    n_embd: int = 16
    n_head: int = 4
    n_layer: int = 1
    block_size: int = 16

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} must be an integer, not {size!r}")
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
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


def unchanged(name: str, x: list[Value]) -> list[Value]:
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
    hook: Callable[[str, list[Value]], list[Value]] = unchanged,
) -> list[Value]:
    """Return the logits of the token that follows, one position at a time.

    hook(name, x) is called with each activation; what it returns goes on in x's place.
    "attention" is called once a head, with its weights over the positions so far.

    Shapes:  keys and values (n_layer, positions so far, n_embd); state_dict as
             `Config.shapes` says; functions, `microgpt.functions` or an engine's
             own of the same names; returns (vocab_size,)
    Writes:  appends this position's key and value to keys and values, per layer
    Source:  microgpt `gpt`
    """
    token_embedding = state_dict["wte"][token_id]
    position_embedding = state_dict["wpe"][pos_id]
    x = hook("embedding", [t + p for t, p in zip(token_embedding, position_embedding)])
    x = functions.rmsnorm(x)
    for i in range(config.n_layer):
        layer = f"layer{i}."
        residual = hook(layer + "input", x)
        x = hook(layer + "attn_norm", functions.rmsnorm(residual))
        q = hook(layer + "q", functions.linear(x, state_dict[layer + "attn_wq"]))
        k = hook(layer + "k", functions.linear(x, state_dict[layer + "attn_wk"]))
        v = hook(layer + "v", functions.linear(x, state_dict[layer + "attn_wv"]))
        keys[i].append(k)
        values[i].append(v)
        if hook is unchanged:
            attended = functions.attention(q, keys[i], values[i], config.n_head)
        else:
            weigh = _hooked(functions.softmax, layer + "attention", hook)
            attended = attend(q, keys[i], values[i], config.n_head, weigh)
        attended = hook(layer + "attended", attended)
        x = functions.linear(attended, state_dict[layer + "attn_wo"])
        residual = hook(layer + "mlp_input", [a + b for a, b in zip(x, residual)])
        x = hook(layer + "mlp_norm", functions.rmsnorm(residual))
        x = functions.linear(x, state_dict[layer + "mlp_fc1"])
        x = hook(layer + "mlp_hidden", [xi.relu() for xi in x])
        x = functions.linear(x, state_dict[layer + "mlp_fc2"])
        x = [a + b for a, b in zip(x, residual)]
    return hook("logits", functions.linear(hook("output", x), state_dict["lm_head"]))


def _hooked(
    function: Callable[[Sequence[Value]], list[Value]],
    name: str,
    hook: Callable[[str, list[Value]], list[Value]],
) -> Callable[[Sequence[Value]], list[Value]]:
    return lambda x: hook(name, function(x))


class GPT:
    """A model with its weights: what the original keeps in global variables.

    `engine.load(name).GPT` is this class over that engine's `Value`; the fused
    engine has one of the same surface. The last token id is BOS.

    Shapes:  state_dict {matrix name: rows of weights}, as `Config.shapes` says;
             params, all weights in one list, in that order, row by row
    Order:   weights drawn as rng.gauss(0, 0.08), matrix by matrix, row by row
    Raises:  as `Config`
    """

    Value = oracle.Value
    Optimizer = Adam
    functions: Any = functions
    tokenizer: CharTokenizer | None = None  # of a model that was loaded: `look` reads text with it

    def __init__(
        self,
        vocab_size: int,
        n_embd: int = 16,
        n_head: int = 4,
        n_layer: int = 1,
        block_size: int = 16,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self.config = Config(vocab_size, n_embd, n_head, n_layer, block_size)
        rng = rng or random.Random(42)
        self.state_dict = {
            name: [[self.Value(rng.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]
            for name, (n_out, n_in) in self.config.shapes().items()
        }
        self.params = [p for matrix in self.state_dict.values() for row in matrix for p in row]

    def __repr__(self) -> str:
        sizes = vars(self.config)
        shape = ", ".join(f"{name}={sizes[name]}" for name in list(sizes)[1:])
        return f"<GPT({self.config.vocab_size}, {shape}): {self.config.num_params:,} weights>"

    def _repr_html_(self) -> str:
        from microgpt.pages import model_html

        return model_html(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "state_dict" in state:
            return
        self.state_dict = {}  # a pickle of the fused engine: it has the params alone
        params = iter(self.params)
        for name, (n_out, n_in) in self.config.shapes().items():
            self.state_dict[name] = [[next(params) for _ in range(n_in)] for _ in range(n_out)]

    def loss(self, tokens: Sequence[int]) -> oracle.Value:
        """Return the mean cross-entropy of a document's next tokens.

        Shapes:  tokens (n + 1,), BOS on both ends; all after block_size + 1 are ignored
        Units:   nats per token
        Order:   positions left to right from 0, then times 1 / n
        Raises:  ValueError if there are fewer than two tokens or one is not in
                 the vocabulary; TypeError if tokens are not a sequence of integers
        """
        self._check_document(tokens)
        n = min(self.config.block_size, len(tokens) - 1)
        keys, values = self._empty_cache()
        losses = []
        for pos_id in range(n):
            logits = self._logits(tokens[pos_id], pos_id, keys, values)
            losses.append(self.functions.cross_entropy(logits, tokens[pos_id + 1]))
        return (1 / n) * sum(losses)

    def batch_loss(self, documents: Sequence[Sequence[int]]) -> oracle.Value:
        """Return the mean of the documents' losses, as one graph.

        Shapes:  documents (batch_size, any length)
        Units:   nats per token
        Order:   documents left to right from 0, then times 1 / batch_size
        Raises:  ValueError if there is no document, or as `loss`
        """
        if not len(documents):
            raise ValueError("a batch needs at least one document")
        return (1 / len(documents)) * sum([self.loss(tokens) for tokens in documents])

    def fit(
        self,
        documents: Sequence[Sequence[int]],
        num_steps: int = 1000,
        batch_size: int = 1,
        *,
        adam: Adam | None = None,
        on_step: Callable[[int, float], object] | None = None,
        threads: int | None = None,
        bos: bool = True,
    ) -> list[float]:
        """Train for num_steps steps and return their losses.

        Step t of the optimizer takes the documents t * batch_size and on, in
        order, from the start again after the last. An exception ends training between
        two steps: adam.t says how many are done, on_step was told their losses.

        Shapes:  documents (any number, any length) of token ids, each beginning with BOS
                 unless bos is False; returns (num_steps,)
        Units:   losses in nats per token
        Order:   per step: batch_loss, backward, adam.step, then on_step(t, loss); the
                 number of threads, which only the fused engine starts, changes no bit
        Raises:  ValueError if there is no document, batch_size or threads are out of
                 range, or a document does not begin with BOS; TypeError if documents
                 are not a sequence of sequences of integers; OSError if the system
                 refuses a thread
        """
        self._check_training(documents, batch_size, threads)
        adam = adam or self.Optimizer(self.params, num_steps=num_steps)
        losses = []
        for _ in range(num_steps):
            t = adam.t
            batch = [documents[(t * batch_size + b) % len(documents)] for b in range(batch_size)]
            for tokens in batch:
                self._check_document(tokens, bos)
            loss = self.loss(batch[0]) if batch_size == 1 else self.batch_loss(batch)
            loss.backward()
            adam.step()
            losses.append(loss.data)
            if on_step is not None:
                on_step(t, loss.data)
        return losses

    def generate(
        self,
        prompt: Iterable[int] = (),
        *,
        temperature: float = 0.5,
        top_k: int | None = None,
        rng: random.Random | None = None,
    ) -> list[int]:
        """Return the prompt and the tokens drawn after it, up to BOS or block_size tokens.

        Shapes:  prompt (n,) without BOS; returns (at most block_size,) without BOS
        Order:   one draw of rng.choices a token, over the probabilities of
                 logits / temperature; with top_k over the top_k largest logits
                 alone (of equals the lower ids), in order of ids
        Raises:  ValueError if the prompt has a token that is not in the vocabulary or
                 no room is left after it, if temperature is not positive or
                 top_k is below 1; TypeError if the prompt is not of integers
        """
        prompt = self._prompt(prompt)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        block_size, bos = self.config.block_size, self.config.vocab_size - 1
        if len(prompt) >= block_size:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens leaves no room: block_size is {block_size}"
            )
        rng = rng or random.Random(42)
        keys, values = self._empty_cache()
        tokens = [bos, *prompt]
        for pos_id in range(block_size):
            logits = self._logits(tokens[pos_id], pos_id, keys, values)
            if pos_id < len(prompt):
                continue
            ids: Sequence[int] = range(len(logits))
            if top_k is not None:
                ids = sorted(sorted(ids, key=lambda i: -logits[i].data)[:top_k])
            probs = self.functions.softmax([logits[i] / temperature for i in ids])
            token = rng.choices(ids, weights=[p.data for p in probs])[0]
            if token == bos:
                break
            tokens.append(token)
        return tokens[1:]

    def look(
        self,
        text: str | Sequence[int],
        *,
        ablate: Iterable[tuple[int, int]] = (),
        patch: Mapping[str, ArrayLike | Mapping[int, ArrayLike]] | None = None,
    ) -> Look:
        """Return what the model computes for a text or a document's token ids, as numpy arrays.

        ablate sets the output of attention heads, as (layer, head), to zero at all
        positions. patch sets activations, by their names in `Look.activations` or
        "layer0.attention": {name: array for all positions}, or {name: {position: row}}.

        Raises:  as `microgpt.look.Look`
        """
        from microgpt.look import Look

        return Look(self, text, ablate=ablate, patch=patch)

    def weights(self) -> Sequence[float]:
        """Return the data of params, as one buffer in their order."""
        return array("d", [p.data for p in self.params])

    def gradients(self) -> Sequence[float]:
        """Return the grad of params, as one buffer in their order."""
        return array("d", [p.grad for p in self.params])

    def set_weights(self, weights: Sequence[float]) -> None:
        """Set the data of params, in their order.

        Raises:  ValueError if there are not as many weights as params
        """
        if len(weights) != len(self.params):
            raise ValueError(f"the model has {len(self.params)} weights, not {len(weights)}")
        for p, weight in zip(self.params, weights):
            p.data = weight

    def _buffers(self, tokens: Sequence[int]) -> tuple[float, dict[str, Any], list[Any]] | None:
        """Return loss, activations and attention by layer, of an engine that keeps them."""
        return None

    def _logits(self, token_id: int, pos_id: int, keys: Cache, values: Cache) -> list[oracle.Value]:
        return gpt(token_id, pos_id, keys, values, self.state_dict, self.config, self.functions)

    def _empty_cache(self) -> tuple[Cache, Cache]:
        layers = range(self.config.n_layer)
        return [[] for _ in layers], [[] for _ in layers]

    @property
    def threads(self) -> int:
        """The threads of a `fit` that names none: pass threads to `fit` instead of setting it."""
        threads: int = vars(self).get("_threads", 1)
        return threads

    @threads.setter
    def threads(self, threads: int) -> None:
        warnings.warn("GPT.threads: pass threads to fit", DeprecationWarning, stacklevel=2)
        self._threads = threads

    def _check_training(
        self, documents: Sequence[Sequence[int]], batch_size: int, threads: int | None
    ) -> int:
        """Check what `fit` was given; return the number of threads."""
        if not _is_sequence(documents):
            raise TypeError(
                f"documents must be a sequence of documents, not a {type(documents).__name__}: "
                "pass a list of token ids for each, tokenizer.encode_document(text)"
            )
        if not len(documents):
            raise ValueError("training needs at least one document")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if threads is None:
            threads = self.threads
            if not isinstance(type(self).threads, property):
                warnings.warn("GPT.threads: pass threads to fit", DeprecationWarning, stacklevel=3)
        if not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads must be in 1..{MAX_THREADS}, not {threads}")
        return threads

    def _check_document(self, tokens: Sequence[int], bos: bool = False) -> None:
        """Check a document's tokens, and that it begins with BOS if asked."""
        if not _is_sequence(tokens):
            raise TypeError(
                f"a document must be a list of token ids, not a {type(tokens).__name__}: "
                "pass tokenizer.encode_document(text)"
            )
        self._check(tokens)
        if len(tokens) < 2:
            raise ValueError(f"a document needs at least two tokens, not {len(tokens)}")
        if bos and tokens[0] != self.config.vocab_size - 1:
            raise ValueError(
                f"a document must begin with BOS ({self.config.vocab_size - 1}), not with token "
                f"{tokens[0]}: pass tokenizer.encode_document(text), or bos=False for text "
                "without beginnings"
            )

    def _prompt(self, prompt: Iterable[int]) -> list[int]:
        """Return a prompt's tokens, checked."""
        if isinstance(prompt, str):
            raise TypeError("a prompt is token ids, not a str: pass tokenizer.encode(text)")
        tokens = list(prompt)
        self._check(tokens)
        return tokens

    def _check(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            try:
                operator.index(token)
            except TypeError:
                raise TypeError(
                    f"token {token!r} is not an integer: pass tokenizer.encode(text)"
                ) from None
            if not 0 <= token < self.config.vocab_size:
                raise ValueError(
                    f"token {token} is not in the vocabulary 0..{self.config.vocab_size - 1}"
                )


def _is_sequence(thing: object) -> bool:
    """Return whether it has a length and items by number, and is not text."""
    return (
        hasattr(thing, "__len__")
        and hasattr(thing, "__getitem__")
        and not isinstance(thing, (str, Mapping))
    )
