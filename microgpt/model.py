"""A language model over lists of any `Value`: what `GPT` and makemore's models share.

A model is a `Sizes` that names its matrices, and two functions: `_begin` returns what the
model remembers before the first position, and `_logits` takes one token, changes that
memory and returns the logits of the token that follows.
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
from microgpt.oracle import Value
from microgpt.tokenizer import CharTokenizer

Matrix = Sequence[Sequence[Value]]

if TYPE_CHECKING:
    # The surface of every engine's Value is the oracle's; nothing summed here is empty.
    def sum(values: Iterable[Value]) -> Value: ...


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


class Model:
    """A model with its weights. The last token id is BOS.

    Shapes:  state_dict {matrix name: rows of weights}, as `config.shapes` says;
             params, all weights in one list, in that order, row by row
    Order:   weights drawn as rng.gauss(0, 0.08), matrix by matrix, row by row
    Raises:  as `Config`
    """

    name = "model"
    Config: Any = Sizes
    Value = oracle.Value
    Optimizer = Adam
    functions: Any = functions
    tokenizer: CharTokenizer | None = None  # of a model that was loaded: `look` reads text with it

    def __init__(self, *sizes: int, rng: random.Random | None = None, **named: int) -> None:
        self.config = self.Config(*sizes, **named)
        rng = rng or random.Random(42)
        self.state_dict = {
            name: [[self.Value(rng.gauss(0, 0.08)) for _ in range(n_in)] for _ in range(n_out)]
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
        context = self._begin(self.state_dict)
        tokens = [bos, *prompt]
        for pos_id in range(block_size):
            logits = self._logits(tokens[pos_id], pos_id, context, self.state_dict)
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

    def _document_loss(self, weights: Mapping[str, Matrix], tokens: Sequence[int]) -> oracle.Value:
        n = min(self.config.block_size, len(tokens) - 1)
        context = self._begin(weights)
        losses: list[oracle.Value] = []
        for pos_id in range(n):
            logits = self._logits(tokens[pos_id], pos_id, context, weights)
            losses.append(self.functions.cross_entropy(logits, tokens[pos_id + 1]))
        loss: oracle.Value = (1 / n) * sum(losses)
        return loss

    def _begin(self, weights: Mapping[str, Matrix]) -> Any:
        """Return what the model remembers before the first position."""
        raise NotImplementedError

    def _logits(
        self, token_id: int, pos_id: int, context: Any, weights: Mapping[str, Matrix]
    ) -> list[oracle.Value]:
        """Return the logits of the token that follows.

        Writes:  context, what the model remembers
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
