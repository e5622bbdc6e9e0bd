"""A language model over lists of any `Value`: the base class of `GPT` and makemore's models.

A model is a `Sizes` that names its matrices, and two functions. `_begin` returns the context before
the first position: a hidden state, or lists of keys and values. `_logits` takes one token, updates
the context and returns the logits of the token that follows.

The file is longer than 500 lines because it holds the whole interface of a model, with docstrings.
"""

from __future__ import annotations

import operator
import os
import random
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from microgpt import functions, oracle
from microgpt.adam import Adam
from microgpt.oracle import Value
from microgpt.tokenizer import CharTokenizer

Matrix = Sequence[Sequence[Value]]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Self

    from microgpt.look import Look

    # The surface of every engine's Value is the oracle's; nothing summed here is empty.
    def sum(values: Iterable[Value]) -> Value: ...
else:
    ArrayLike = Look = Self = Any  # so that annotations can be evaluated without numpy


MAX_THREADS = 1024  # of the fused engine


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model; a subclass adds its own and says which matrices they make.

    Raises:  TypeError if a size is not an integer; ValueError if it is below 1
    """

    vocab_size: int

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} must be an integer, not {size!r}")
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")

    @property
    def num_params(self) -> int:
        """Return the number of weights of all matrices."""
        total = 0
        for rows, columns in self.shapes().values():
            total += rows * columns
        return total

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return {matrix name: (rows, columns)} in the order in which weights are drawn."""
        raise NotImplementedError


class Evaluation(NamedTuple):
    """The total of -log(probability) of a model's predictions, and how many there were."""

    nats: float
    tokens: int

    @property
    def loss(self) -> float:
        """The mean, in nats per token."""
        return self.nats / self.tokens


class Model:
    """A model with its weights. The last token id is BOS.

    Shapes:  state_dict {matrix name: rows of weights}, as `config.shapes` says;
             params, all weights in one list, in that order, row by row
    Order:   weights drawn as rng.gauss(0, init_std), matrix by matrix, row by row
    Raises:  as `Config`; ValueError if init_std is negative
    """

    name = "model"
    Config: Any = Sizes
    Value = oracle.Value
    Optimizer = Adam
    functions: Any = functions
    tokenizer: CharTokenizer | None = None  # of a model that was loaded: `look` reads text with it

    dropout = 0.0
    dropout_rng: random.Random

    def __init__(
        self,
        *sizes: int,
        rng: random.Random | None = None,
        init_std: float = 0.08,
        **named: int,
    ) -> None:
        self.config = self.Config(*sizes, **named)
        self._check_init_std(init_std)
        rng = rng or random.Random(42)
        self.state_dict = {
            name: [[self.Value(rng.gauss(0, init_std)) for _ in range(n_in)] for _ in range(n_out)]
            for name, (n_out, n_in) in self.config.shapes().items()
        }
        self.params = [p for matrix in self.state_dict.values() for row in matrix for p in row]

    def __repr__(self) -> str:
        sizes = vars(self.config)
        shape = "".join(f", {name}={sizes[name]}" for name in list(sizes)[1:])
        model = f"{type(self).__name__}({self.config.vocab_size}{shape})"
        return f"<{model}: {self.config.num_params:,} weights>"

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
        with self._draws_for_a_step():
            return self._document_loss(self.state_dict, tokens)

    def batch_loss(self, documents: Sequence[Sequence[int]]) -> oracle.Value:
        """Return the mean of the documents' losses, as one graph.

        Shapes:  documents (batch_size, any length)
        Units:   nats per token
        Order:   documents left to right from 0, then times 1 / batch_size
        Raises:  ValueError if there is no document, or as `loss`
        """
        if not len(documents):
            raise ValueError("a batch needs at least one document")
        with self._draws_for_a_step():
            losses = [self.loss(tokens) for tokens in documents]
        return (1 / len(documents)) * sum(losses)

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
            with self._draws_for_a_step():
                loss = self.loss(batch[0]) if batch_size == 1 else self.batch_loss(batch)
                loss.backward()
                adam.step()
            losses.append(loss.data)
            if on_step is not None:
                on_step(t, loss.data)
        return losses

    def evaluate(
        self, documents: Sequence[Sequence[int]], *, threads: int | None = None
    ) -> Evaluation:
        """Return the total loss of documents, without dropout and without gradients.

        Shapes:  documents (any number, any length) of token ids; of each, all after
                 block_size + 1 are ignored
        Units:   nats
        Order:   a document's positions left to right from 0, then documents likewise
        Raises:  as `fit`, but documents need not begin with BOS
        """
        self._check_training(documents, 1, threads)
        nats, tokens = 0.0, 0
        for document in documents:
            self._check_document(document)
            total = 0.0
            losses = self._losses(self.state_dict, document, self._begin(self.state_dict))
            for loss in losses:
                total += loss.data
            nats += total
            tokens += len(losses)
        return Evaluation(nats, tokens)

    def generate(
        self,
        prompt: Iterable[int] = (),
        *,
        temperature: float = 0.5,
        top_k: int | None = None,
        top_p: float | None = None,
        length: int | None = None,
        stop: Sequence[int] = (),
        bos: bool = True,
        rng: random.Random | None = None,
    ) -> list[int]:
        """Return the prompt and the tokens drawn after it, up to BOS or length tokens.

        Without a length that is block_size. A token is drawn after the last block_size
        tokens, BOS before the prompt included, whose positions begin at 0. stop ends
        generation once the tokens drawn end with it. Without bos nothing stands before
        the prompt, which must have a token then, and BOS is no token to draw: the length
        or stop ends generation.

        Shapes:  prompt (n,) without BOS; returns (at most length,) without BOS
        Order:   one draw of rng.choices a token, over the probabilities of
                 logits / temperature; with top_k over the top_k largest logits
                 alone (of equals the lower ids), in order of ids; with top_p over the
                 fewest largest probabilities (of equals the lower ids) whose sum, largest
                 first from 0, is at least top_p, in order of ids. With a temperature of 0
                 the largest logit (of equals the lowest id), without a draw
        Raises:  ValueError if the prompt has a token that is not in the vocabulary or
                 no room is left after it, if temperature is negative, top_k is
                 below 1 or top_p not in (0, 1]; TypeError if the prompt is not of integers
        """
        tokens = self._prompt(prompt)
        stop = self._prompt(stop)
        length = self._check_sampling(tokens, temperature, top_k, top_p, length, bos)
        end = self.config.vocab_size - 1
        rng = rng or random.Random(42)
        start = len(tokens)
        memory = self._begin(self.state_dict)
        read = 0  # of the context, by the cache
        while len(tokens) < length:
            context = ([end] if bos else []) + tokens
            if len(context) > self.config.block_size:
                context = context[-self.config.block_size :]
                memory = self._begin(self.state_dict)
                read = 0
            for pos_id in range(read, len(context)):
                logits = self._logits(context[pos_id], pos_id, memory, self.state_dict)
            read = len(context)
            token = self._draw(logits[: end + bos], temperature, top_k, top_p, rng)
            if token == end:
                break
            tokens.append(token)
            if stop and tokens[start:][-len(stop) :] == stop:
                break
        return tokens

    def _draw(
        self,
        logits: list[oracle.Value],
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        rng: random.Random,
    ) -> int:
        ids: Sequence[int] = range(len(logits))
        if temperature == 0:
            return max(ids, key=lambda i: logits[i].data)
        if top_k is not None:
            ids = sorted(sorted(ids, key=lambda i: -logits[i].data)[:top_k])
        probs = self.functions.softmax([logits[i] / temperature for i in ids])
        weights = [p.data for p in probs]
        if top_p is not None:
            ids, weights = nucleus(ids, weights, top_p)
        return rng.choices(ids, weights=weights)[0]

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

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the model and its tokenizer as one safetensors file; return the file.

        Raises:  ValueError if the model has no tokenizer; as `checkpoint.save`
        """
        from microgpt import checkpoint

        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer to save with it: set model.tokenizer")
        return checkpoint.save(path, self, self.tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return a model and its tokenizer from a file, or from the directory of a run.

        Raises:  as `checkpoint.load`
        """
        from microgpt import checkpoint

        content = checkpoint.read(path)
        if content.model != cls.name:
            raise ValueError(f"{path}: holds a model of the kind {content.model}")
        model = cls(**vars(content.config), rng=checkpoint.NoRandom())
        model.set_weights(content.weights)
        model.tokenizer = content.tokenizer
        return model

    def _repr_html_(self) -> str:
        from microgpt.pages import model_html

        return model_html(self)

    def look(
        self,
        text: str | Sequence[int],
        *,
        ablate: Iterable[tuple[int, int]] = (),
        patch: Mapping[str, ArrayLike | Mapping[int, ArrayLike]] | None = None,
    ) -> Look:
        """Return the model's computation on a text or a document's token ids, as numpy arrays.

        Of a GPT alone: ablate sets the output of attention heads, as (layer, head), to zero
        at all positions; patch sets activations, by their names in `Look.activations` or
        "layer0.attention": {name: array for all positions}, or {name: {position: row}}.

        Raises:  as `microgpt.look.Look`
        """
        from microgpt.look import Look

        return Look(self, text, ablate=ablate, patch=patch)

    def _buffers(self, tokens: Sequence[int]) -> tuple[float, dict[str, Any], list[Any]] | None:
        """Return loss, activations and attention by layer, of an engine that keeps them."""
        return None

    def _document_loss(self, weights: Mapping[str, Matrix], tokens: Sequence[int]) -> oracle.Value:
        losses = self._losses(weights, tokens, self._begin_training(weights))
        loss: oracle.Value = (1 / len(losses)) * sum(losses)
        return loss

    def _losses(
        self, weights: Mapping[str, Matrix], tokens: Sequence[int], context: Any
    ) -> list[oracle.Value]:
        """Return the loss of each position of a document."""
        losses: list[oracle.Value] = []
        for pos_id in range(min(self.config.block_size, len(tokens) - 1)):
            logits = self._logits(tokens[pos_id], pos_id, context, weights)
            losses.append(self.functions.cross_entropy(logits, tokens[pos_id + 1]))
        return losses

    def _begin_training(self, weights: Mapping[str, Matrix]) -> Any:
        """Return the context before the first position of a training step."""
        return self._begin(weights)

    def _begin(self, weights: Mapping[str, Matrix]) -> Any:
        """Return the context before the first position."""
        raise NotImplementedError

    def _logits(
        self, token_id: int, pos_id: int, context: Any, weights: Mapping[str, Matrix]
    ) -> list[oracle.Value]:
        """Return the logits of the token that follows.

        Writes:  context
        """
        raise NotImplementedError

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
        """Check the arguments of `fit`; return the number of threads."""
        if not _is_sequence(documents):
            raise TypeError(
                f"documents must be a sequence of documents, not a {type(documents).__name__}: "
                "pass a list of token ids for each, tokenizer.encode_document(text)"
            )
        if not len(documents):
            raise ValueError("training needs at least one document")
        if threads is None:
            threads = self.threads
            if not isinstance(type(self).threads, property):
                warnings.warn("GPT.threads: pass threads to fit", DeprecationWarning, stacklevel=3)
        for name, count in (("batch_size", batch_size), ("threads", threads)):
            if not hasattr(count, "__index__"):
                raise TypeError(f"{name} must be an int, not {type(count).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
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

    def _check_sampling(
        self,
        prompt: list[int],
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        length: int | None,
        bos: bool,
    ) -> int:
        """Check the arguments of `generate`; return the length."""
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0, not {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {top_p}")
        name = "block_size" if length is None else "length"
        length = self.config.block_size if length is None else operator.index(length)
        if len(prompt) >= length:
            raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room: {name} is {length}")
        if not (bos or prompt):
            raise ValueError("without bos, generation needs a prompt of at least one token")
        if not bos and self.config.vocab_size == 1:
            raise ValueError("without bos, there is no token to draw: the vocabulary has no other")
        return length

    @contextmanager
    def _draws_for_a_step(self) -> Iterator[None]:
        """Restore dropout's generator if a step fails: a step happens whole or not at all."""
        state = self.dropout_rng.getstate() if self.dropout else None
        try:
            yield
        except BaseException:
            if state is not None:
                self.dropout_rng.setstate(state)
            raise

    @staticmethod
    def _check_init_std(init_std: float) -> None:
        if not 0 <= init_std < float("inf"):
            raise ValueError(f"init_std must be a finite number of at least 0, not {init_std}")

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


def nucleus(
    ids: Sequence[int], weights: Sequence[float], top_p: float
) -> tuple[list[int], list[float]]:
    """Return the fewest ids of the largest weights that add up to top_p, in order, and weights.

    Order:   weights summed largest first, of equals the first, from 0
    """
    total, count = 0.0, 0
    places = sorted(range(len(ids)), key=lambda i: -weights[i])
    for i in places:
        total += weights[i]
        count += 1
        if total >= top_p:
            break
    places = sorted(places[:count])
    return [ids[i] for i in places], [weights[i] for i in places]


def _is_sequence(thing: object) -> bool:
    """Return whether an object is a sequence, but no text."""
    return (
        hasattr(thing, "__len__")
        and hasattr(thing, "__getitem__")
        and not isinstance(thing, (str, Mapping))
    )
