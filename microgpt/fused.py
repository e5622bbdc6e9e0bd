"""The fused engine: the model with its whole training step compiled.

The surface is that of `microgpt.gpt` and `microgpt.adam`. The weights lie in one buffer, and a
step makes no Python object for a number. A `Loss` shows the activations of its documents, a
`Matrix` its weights and gradients, all as buffers that numpy takes without a copy.
It has more than 500 lines because each class repeats a surface that `gpt` and `adam` define.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import operator
import os
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, overload

import microgpt._gpt as _gpt
from microgpt import _value, pickles
from microgpt.adam import Adam as ScalarAdam
from microgpt.gpt import GPT as ScalarGPT  # noqa: N811 - a class, not a constant
from microgpt.gpt import Config
from microgpt.model import Evaluation

__all__ = ["GPT", "Adam", "Loss", "Matrix", "Parameter", "Parameters"]

MAX_EXACT_INT = 2**53  # to which every int is a double
STEPS_AT_ONCE = 1024  # steps whose documents are prepared together
POSITIONS_AT_ONCE = 512  # of an evaluation, about
WORK_OF_A_THREAD = 1_500_000  # multiply-then-adds of a step, below which one more is no gain
SECONDS_AT_ONCE = 0.05  # how long signals wait: Ctrl-C ends training within that and a step

_LAYER = (
    "input", "attn_norm", "q", "k", "v", "attended", "mlp_input", "mlp_norm", "mlp_hidden",
)  # fmt: skip
_ENDS = ("output", "logits", "probs")
_SIMD = {"avx512": "_kernels_avx512", "avx2": "_kernels_avx2", "baseline": "_kernels"}


def _is_built(module: str) -> bool:
    return importlib.util.find_spec(f"microgpt.{module}") is not None


def _choose(name: str | None) -> Any:
    """Return the kernels of the instruction set that MICROGPT_SIMD names, or the widest built.

    Raises:  ValueError if there is no such set; ImportError if this processor or
             this build lacks it
    """
    runs = [simd for simd in _SIMD if _gpt.runs(simd) and _is_built(_SIMD[simd])]
    if name is not None and name not in _SIMD:
        raise ValueError(f"no MICROGPT_SIMD {name!r}: choose one of {', '.join(runs)}")
    if name is not None and name not in runs:
        lacks = "build" if _gpt.runs(name) else "processor"
        raise ImportError(f"this {lacks} has no {name}: choose one of {', '.join(runs)}")
    return importlib.import_module(f"microgpt.{_SIMD[name or runs[0]]}")


_kernels = _choose(os.environ.get("MICROGPT_SIMD"))
SIMD = next(simd for simd, module in _SIMD.items() if _kernels.__name__ == f"microgpt.{module}")


class Parameter:
    """One weight: its data and its grad, as a leaf `Value` has them."""

    __slots__ = ("_i", "_params")

    def __init__(self, params: Parameters, i: int) -> None:
        self._params, self._i = params, i

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def __reduce__(self) -> tuple[Any, ...]:
        return operator.getitem, (self._params, self._i)

    @property
    def data(self) -> float:
        """The weight."""
        data: float = self._params.data[self._i]
        return data

    @data.setter
    def data(self, data: float) -> None:
        self._params.data[self._i] = data

    @property
    def grad(self) -> float:
        """Its gradient."""
        grad: float = self._params.grad[self._i]
        return grad

    @grad.setter
    def grad(self, grad: float) -> None:
        self._params.grad[self._i] = grad


class TrainingLock:
    """A lock for training: the steps of two threads on one model would mix.

    Raises:  RuntimeError in a fork of a process in which another thread held it
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()  # of the thread that took it last

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            for _ in range(100):  # if a thread of this fork holds it, _process changes at once
                if self._process == os.getpid():
                    break
                time.sleep(0.001)
            else:
                raise RuntimeError(
                    "another thread was training this model when the process was forked: its "
                    "weights may be those of half a step, so train a model of your own"
                )
            self._lock.acquire()
        self._process = os.getpid()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Parameters(Sequence[Parameter]):
    """A sequence of weights: data and grad are their buffers, items are made when indexed.

    Shapes:  data (n,), grad (n,), float64, writable
    """

    def __init__(self, network: Any, of: Parameters | None = None, start: int = 0, n: int = 0):
        self._network = network
        self._of = of  # the whole model's, if this is a row of them
        self._start = start
        self.training: Any = TrainingLock() if of is None else of.training
        n = n or network.config.num_params
        self.data: Any = network.view(False, start, n)
        self.grad: Any = network.view(True, start, n)

    def __repr__(self) -> str:
        return f"<{len(self)} parameters>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._of is not None:
            return pickles.part, (self._of, self._start, None, len(self))
        sizes = dataclasses.asdict(self._network.config)
        numbers = self.data.tobytes(), self.grad.tobytes()
        return pickles.params, (pickles.engine_name(), sizes, *numbers)

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, i: int) -> Parameter: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Parameter]: ...
    def __getitem__(self, i: int | slice) -> Parameter | Sequence[Parameter]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return Parameter(self, range(len(self))[i])

    def part(self, start: int, n_out: int | None, n_in: int) -> Parameters | Matrix:
        """Return a row of a model's parameters, or a matrix of n_out rows."""
        if n_out is None:
            return Parameters(self._network, self, start, n_in)
        return Matrix(self, start, n_out, n_in)


class Matrix(Sequence[Parameters]):
    """A weight matrix: a sequence of rows; data and grad are its buffers.

    Shapes:  data (n_out, n_in), grad (n_out, n_in), float64, writable
    """

    def __init__(self, params: Parameters, start: int, n_out: int, n_in: int) -> None:
        self._params = params
        self._start = start
        self.data: Any = params._network.view(False, start, n_out, n_in)
        self.grad: Any = params._network.view(True, start, n_out, n_in)

    def __repr__(self) -> str:
        return f"<matrix of {self.data.shape[0]} x {self.data.shape[1]} parameters>"

    def __reduce__(self) -> tuple[Any, ...]:
        return pickles.part, (self._params, self._start, *self.data.shape)

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, i: int) -> Parameters: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Parameters]: ...
    def __getitem__(self, i: int | slice) -> Parameters | Sequence[Parameters]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        n_out, n_in = self.data.shape
        start = self._start + range(n_out)[i] * n_in
        return Parameters(self._params._network, self._params, start, n_in)


class Loss:
    """The loss of documents, with the activations of its forward pass.

    `data`, `grad` and `backward` are those of the `Value` that other engines return.
    """

    def __init__(
        self,
        model: GPT,
        documents: Sequence[Sequence[int]],
        *,
        mean: bool,
        dropout: float | None = None,
    ) -> None:
        self._model = model
        self._mean = mean
        try:
            dropout = model.dropout if dropout is None else dropout
            self._drawn = model.dropout_rng.getstate() if dropout else None
            self._pass = _gpt.Pass(model._network, documents, dropout, model.dropout_rng)
        except (TypeError, ValueError):
            for tokens in documents:  # say it as the scalar engines do
                model._check_document(tokens)
            raise
        self._documents = [list(tokens) for tokens in documents]
        self._graph: Any = None
        self.data: float = self._pass.loss
        self.grad = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a Loss holds a whole forward pass, which is neither copied nor pickled: keep its "
            "data, or the model and the documents"
        )

    @property
    def starts(self) -> list[int]:
        """Where each document begins among the positions, and where the last one ends."""
        positions: list[int] = self._pass.positions()
        return positions

    @property
    def activations(self) -> dict[str, memoryview]:
        """The activations of the forward pass at each position, by name, as read-only buffers.

        Shapes:  (positions, n_embd); mlp_hidden (positions, 4 * n_embd); logits and
                 probs (positions, vocab_size); documents follow each other
        """
        shown = {"embedding": self._pass.activation("embedding")}
        for i in range(self._model.config.n_layer):
            for name in _LAYER:
                shown[f"layer{i}.{name}"] = self._pass.activation(name, i)
        return {**shown, **{name: self._pass.activation(name) for name in _ENDS}}

    def attention(self, layer: int, document: int = 0) -> memoryview:
        """Return a layer's attention weights for a document, as a read-only buffer.

        Shapes:  (n_head, n, n): head, query position, key position; zero for later keys
        """
        weights: memoryview = self._pass.attention(layer, document)
        return weights

    def backward(self) -> None:
        """Add the derivative of this loss by each weight into that weight's grad."""
        if self.grad:
            self._backward_again()
        else:
            self._pass.backward()
        self.grad = 1.0

    def _backward_again(self) -> None:
        # The graph's inner gradients are not cleared either, so a second time adds
        # more than the first. That is played on a graph of Values.
        params = self._model.params
        if self._graph is None:
            dropout = self._model.dropout if self._drawn else 0.0
            scalar = ScalarGPT(**vars(self._model.config), dropout=dropout)
            if self._drawn:
                scalar.dropout_rng.setstate(self._drawn)
            scalar.set_weights(array("d", self._pass.weights()))
            documents = self._documents
            self._graph = scalar.batch_loss(documents) if self._mean else scalar.loss(documents[0])
            self._graph.backward()
            self._leaves = scalar.params
        for leaf, grad in zip(self._leaves, params.grad):
            leaf.grad = grad
        self._graph.backward()
        params.grad[:] = array("d", [leaf.grad for leaf in self._leaves])


class Adam(ScalarAdam):
    __doc__ = ScalarAdam.__doc__

    params: Any
    m: Any
    v: Any
    _update = staticmethod(_value.update)

    def __init__(
        self,
        params: Any,
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps_adam: float = 1e-8,
        num_steps: int = 1000,
        *,
        schedule: str = "linear",
        warmup: int = 0,
        min_lr: float = 0.0,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        fused = isinstance(params, Parameters)
        super().__init__(
            () if fused else params, learning_rate, beta1, beta2, eps_adam, num_steps,
            schedule=schedule, warmup=warmup, min_lr=min_lr, weight_decay=weight_decay, clip=clip,
        )  # fmt: skip
        self._moments: Any = None  # of any Values: what the scalar engine does
        if not fused:
            return
        self.params = params
        self._place_moments()

    def _place_moments(self) -> None:
        """Give the moments of a fused model's params buffers that its steps update."""
        m, v = self.m, self.v
        moments = _gpt.Moments(self.params._network)
        self.m, self.v = moments.view(False), moments.view(True)
        self._moments = moments
        if len(m):
            self.m, self.v = m, v

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("m", "v") and vars(self).get("_moments") is not None:
            vars(self)[name][:] = array("d", value)  # the buffers that the steps update
        else:
            super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is not Adam:
            return super().__reduce_ex__(protocol)
        return pickles.new, (pickles.engine_name(), "Adam"), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_moments"}
        return {**state, "m": array("d", self.m), "v": array("d", self.v)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _moments=None)
        if isinstance(self.params, Parameters):
            self._place_moments()

    def step(self) -> None:
        if self._moments is None:
            super().step()
            return
        if self.t >= self.num_steps:
            raise ValueError(f"all num_steps={self.num_steps} steps of this Adam are done")
        self._moments.step(self)

    step.__doc__ = ScalarAdam.step.__doc__


class GPT(ScalarGPT):
    __doc__ = ScalarGPT.__doc__

    Value: Any = _value.Value
    functions = _value
    params: Any
    state_dict: Any

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
        self.config = Config(vocab_size, n_embd, n_head, n_layer, block_size)
        self._check_init_std(init_std)
        self._set_dropout(dropout)
        self.params = Parameters(_gpt.Network(self.config, _kernels.table))
        self._place_matrices()
        gauss = (rng or random.Random(42)).gauss
        data = self.params.data
        for i in range(len(data)):
            data[i] = gauss(0, init_std)

    def _place_matrices(self) -> None:
        self._network = self.params._network
        matrices = {}
        start = 0
        for name, (n_out, n_in) in self.config.shapes().items():
            matrices[name] = Matrix(self.params, start, n_out, n_in)
            start += n_out * n_in
        # Weights change in their buffers; another matrix in a name's place would go unseen.
        self.state_dict = MappingProxyType(matrices)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is not GPT:
            return super().__reduce_ex__(protocol)
        return pickles.new, (pickles.engine_name(), "GPT"), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        made = ("_network", "state_dict")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._place_matrices()

    def loss(self, tokens: Sequence[int]) -> Any:
        return Loss(self, [tokens], mean=False)

    loss.__doc__ = ScalarGPT.loss.__doc__

    def batch_loss(self, documents: Sequence[Sequence[int]]) -> Any:
        if not len(documents):
            raise ValueError("a batch needs at least one document")
        return Loss(self, documents, mean=True)

    batch_loss.__doc__ = ScalarGPT.batch_loss.__doc__

    def fit(
        self,
        documents: Sequence[Sequence[int]],
        num_steps: int = 1000,
        batch_size: int = 1,
        *,
        adam: Any = None,
        on_step: Callable[[int, float], object] | None = None,
        threads: int | None = None,
        bos: bool = True,
    ) -> list[float]:
        threads = self._check_training(documents, batch_size, threads)
        if adam is None:
            adam = Adam(self.params, num_steps=num_steps)
        if not (isinstance(adam, Adam) and adam.params is self.params):
            return super().fit(
                documents, num_steps, batch_size, adam=adam, on_step=on_step, threads=threads,
                bos=bos,
            )  # fmt: skip
        with self.params.training:
            useful = self._useful_threads(threads, batch_size)
            trainer = _gpt.Trainer(self._network, adam._moments, useful)
            try:
                return self._fit(trainer, documents, num_steps, batch_size, adam, on_step, bos)
            finally:
                trainer.close()

    fit.__doc__ = ScalarGPT.fit.__doc__

    def _fit(
        self,
        trainer: Any,
        documents: Sequence[Sequence[int]],
        num_steps: int,
        batch_size: int,
        adam: Adam,
        on_step: Callable[[int, float], object] | None,
        bos: bool,
    ) -> list[float]:
        losses: list[float] = []
        steps_at_once = 1 if on_step else STEPS_AT_ONCE
        while len(losses) < num_steps:
            t, done = adam.t, len(losses)
            steps = min(num_steps - done, adam.num_steps - t, steps_at_once)
            if t < 0 or adam.num_steps > MAX_EXACT_INT:  # as no schedule in doubles is
                steps = min(steps, 0)
            batches = [
                documents[i % len(documents)]
                for i in range(t * batch_size, (t + max(steps, 1)) * batch_size)
            ]
            try:
                checked = _gpt.Documents(self._network, batches, bos)
            except (TypeError, ValueError):
                if steps <= 1:
                    for tokens in batches[:batch_size]:  # say it as the scalar engines do
                        self._check_document(tokens, bos)
                    raise
                steps_at_once = 1  # the steps before the faulty document are still to be done
                continue
            if steps > 0:
                trainer.run(
                    checked, batch_size, adam, losses, SECONDS_AT_ONCE, self.dropout,
                    self.dropout_rng,
                )  # fmt: skip
            if len(losses) == done:
                with self._draws_for_a_step():
                    loss = self.batch_loss(batches[:batch_size])
                    loss.backward()
                    adam.step()
                losses.append(loss.data)
            if on_step is not None:
                on_step(t, losses[-1])
        return losses

    def _useful_threads(self, threads: int, batch_size: int) -> int:
        """Return how many of the threads a step has work for, one at least."""
        work = 3 * batch_size * self.config.block_size * self.config.num_params
        return max(1, min(threads, work // WORK_OF_A_THREAD)) if WORK_OF_A_THREAD else threads

    def evaluate(
        self, documents: Sequence[Sequence[int]], *, threads: int | None = None
    ) -> Evaluation:
        threads = self._check_training(documents, 1, threads)
        batch_size = max(1, POSITIONS_AT_ONCE // self.config.block_size)
        trainer = _gpt.Trainer(self._network, None, threads)
        nats, tokens, done = 0.0, 0, 0
        try:
            while done < len(documents):
                some = documents[done : done + batch_size * STEPS_AT_ONCE]
                try:
                    checked = _gpt.Documents(self._network, some)
                except (TypeError, ValueError):
                    for document in some:  # say it as the scalar engines do
                        self._check_document(document)
                    raise
                nats, predicted, evaluated = trainer.evaluate(
                    checked, batch_size, nats, SECONDS_AT_ONCE
                )
                tokens += predicted
                done += evaluated
        finally:
            trainer.close()
        return Evaluation(nats, tokens)

    evaluate.__doc__ = ScalarGPT.evaluate.__doc__

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
        tokens, stop = self._prompt(prompt), self._prompt(stop)
        length = self._check_sampling(tokens, temperature, top_k, top_p, length, bos)
        rng = rng or random.Random(42)
        sampler = _gpt.Sampler(self._network)
        drawn: list[int] = sampler.generate(
            tokens, temperature, top_k, top_p, length, stop, bos, rng
        )
        return drawn

    generate.__doc__ = ScalarGPT.generate.__doc__

    def _buffers(self, tokens: Sequence[int]) -> tuple[float, dict[str, Any], list[Any]]:
        loss = Loss(self, [tokens], mean=False, dropout=0.0)
        layers = range(self.config.n_layer)
        return loss.data, loss.activations, [loss.attention(i) for i in layers]

    def weights(self) -> array[float]:
        return array("d", self.params.data.tobytes())

    weights.__doc__ = ScalarGPT.weights.__doc__

    def gradients(self) -> array[float]:
        return array("d", self.params.grad.tobytes())

    gradients.__doc__ = ScalarGPT.gradients.__doc__

    def set_weights(self, weights: Sequence[float]) -> None:
        if len(weights) != len(self.params):
            raise ValueError(f"the model has {len(self.params)} weights, not {len(weights)}")
        self.params.data[:] = array("d", weights)

    set_weights.__doc__ = ScalarGPT.set_weights.__doc__
