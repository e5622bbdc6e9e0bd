"""The fused engine: the model with its whole training step compiled.

The surface is that of `microgpt.gpt` and `microgpt.adam`; the weights lie in one
buffer, and a step over them makes no Python object. What the scalar graph would
hold can still be seen: a `Loss` shows the activations of its documents, a
`Matrix` its weights and gradients, all as buffers that numpy takes without a copy.
"""

from __future__ import annotations

import importlib.util
import os
import random
from array import array
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, overload

import microgpt._kernels as _baseline
from microgpt import _engine
from microgpt.adam import Adam as ScalarAdam
from microgpt.gpt import GPT as ScalarGPT  # noqa: N811
from microgpt.gpt import MAX_THREADS, Config

__all__ = ["GPT", "Adam", "Loss", "Matrix", "Parameter", "Parameters"]

MAX_EXACT_INT = 2**53  # to which every int is a double
STEPS_AT_ONCE = 1024  # steps whose documents are prepared together
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
    runs = [simd for simd in _SIMD if _baseline.runs(simd) and _is_built(_SIMD[simd])]
    if name is not None and name not in _SIMD:
        raise ValueError(f"no MICROGPT_SIMD {name!r}: choose one of {', '.join(runs)}")
    if name is not None and name not in runs:
        lacks = "build" if _baseline.runs(name) else "processor"
        raise ImportError(f"this {lacks} has no {name}: choose one of {', '.join(runs)}")
    return importlib.import_module(f"microgpt.{_SIMD[name or runs[0]]}")


_kernels = _choose(os.environ.get("MICROGPT_SIMD"))
SIMD = next(simd for simd, module in _SIMD.items() if _kernels.__name__ == f"microgpt.{module}")


class Parameter:
    """One weight: its data and its grad, as a leaf `Value` has them."""

    __slots__ = ("_data", "_grad", "_i")

    def __init__(self, data: Any, grad: Any, i: int) -> None:
        self._data, self._grad, self._i = data, grad, i

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    @property
    def data(self) -> float:
        """The weight."""
        data: float = self._data[self._i]
        return data

    @data.setter
    def data(self, data: float) -> None:
        self._data[self._i] = data

    @property
    def grad(self) -> float:
        """Its gradient."""
        grad: float = self._grad[self._i]
        return grad

    @grad.setter
    def grad(self, grad: float) -> None:
        self._grad[self._i] = grad


class Parameters(Sequence[Parameter]):
    """Weights in a row: data and grad are their buffers, items are made when asked for.

    Shapes:  data (n,), grad (n,), float64, writable
    """

    def __init__(self, network: Any, data: Any, grad: Any) -> None:
        self._network = network
        self.data = data
        self.grad = grad

    def __repr__(self) -> str:
        return f"<{len(self)} parameters>"

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, i: int) -> Parameter: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Parameter]: ...
    def __getitem__(self, i: int | slice) -> Parameter | Sequence[Parameter]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return Parameter(self.data, self.grad, range(len(self))[i])


class Matrix(Sequence[Parameters]):
    """A weight matrix: a sequence of rows; data and grad are its buffers.

    Shapes:  data (n_out, n_in), grad (n_out, n_in), float64, writable
    """

    def __init__(self, network: Any, start: int, n_out: int, n_in: int) -> None:
        self._network = network
        self._start = start
        self.data: Any = network.view(False, start, n_out, n_in)
        self.grad: Any = network.view(True, start, n_out, n_in)

    def __repr__(self) -> str:
        return f"<matrix of {self.data.shape[0]} x {self.data.shape[1]} parameters>"

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
        return Parameters(
            self._network,
            self._network.view(False, start, n_in),
            self._network.view(True, start, n_in),
        )


class Loss:
    """The loss of documents, with all that was computed on the way to it.

    `data`, `grad` and `backward` are those of the `Value` that other engines return.
    """

    def __init__(self, model: GPT, documents: Sequence[Sequence[int]], *, mean: bool) -> None:
        self._model = model
        self._documents = [list(tokens) for tokens in documents]
        self._mean = mean
        self._pass = _kernels.Pass(model._network, documents)
        self._graph: Any = None
        self.data: float = self._pass.loss
        self.grad = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data}, grad={self.grad})"

    @property
    def starts(self) -> list[int]:
        """Where each document begins among the positions, and where the last one ends."""
        positions: list[int] = self._pass.positions()
        return positions

    @property
    def activations(self) -> dict[str, memoryview]:
        """What the forward pass computed at each position, by name, as read-only buffers.

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

        Shapes:  (n_head, n, n): head, the position that looks, the one looked at;
                 zero where that would be ahead
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
            scalar = ScalarGPT(**vars(self._model.config))
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
    _update = staticmethod(_engine.update)

    def __init__(
        self,
        params: Any,
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps_adam: float = 1e-8,
        num_steps: int = 1000,
    ) -> None:
        fused = isinstance(params, Parameters)
        super().__init__(() if fused else params, learning_rate, beta1, beta2, eps_adam, num_steps)
        self._moments: Any = None  # of any Values: what the scalar engine does
        if not fused:
            return
        self.params = params
        self._moments = _kernels.Moments(params._network)
        self.m = self._moments.view(False)
        self.v = self._moments.view(True)

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

    Value: Any = _engine.Value
    functions = _engine
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
    ) -> None:
        self.config = Config(vocab_size, n_embd, n_head, n_layer, block_size)
        self._network = _kernels.Network(self.config)
        n = self.config.num_params
        self.params = Parameters(
            self._network, self._network.view(False, 0, n), self._network.view(True, 0, n)
        )
        matrices = {}
        start = 0
        for name, (n_out, n_in) in self.config.shapes().items():
            matrices[name] = Matrix(self._network, start, n_out, n_in)
            start += n_out * n_in
        # Weights change in their buffers; another matrix in a name's place would go unseen.
        self.state_dict = MappingProxyType(matrices)
        gauss = (rng or random.Random(42)).gauss
        data = self.params.data
        for i in range(n):
            data[i] = gauss(0, 0.08)

    def loss(self, tokens: Sequence[int]) -> Any:
        return Loss(self, [tokens], mean=False)

    loss.__doc__ = ScalarGPT.loss.__doc__

    def batch_loss(self, documents: Sequence[Sequence[int]]) -> Any:
        if not documents:
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
    ) -> list[float]:
        if not documents:
            raise ValueError("training needs at least one document")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if adam is None:
            adam = Adam(self.params, num_steps=num_steps)
        if not (isinstance(adam, Adam) and adam.params is self.params):
            return super().fit(documents, num_steps, batch_size, adam=adam, on_step=on_step)
        if not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads must be in 1..{MAX_THREADS}, not {self.threads}")
        losses: list[float] = []
        trainer = _kernels.Trainer(adam._moments, self.threads)
        try:
            self._fit(trainer, documents, num_steps, batch_size, adam, on_step, losses)
        except BaseException as error:
            error.losses = losses  # type: ignore[attr-defined]
            raise
        finally:
            trainer.close()
        return losses

    fit.__doc__ = ScalarGPT.fit.__doc__

    def _fit(
        self,
        trainer: Any,
        documents: Sequence[Sequence[int]],
        num_steps: int,
        batch_size: int,
        adam: Adam,
        on_step: Callable[[int, float], object] | None,
        losses: list[float],
    ) -> None:
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
                checked = _kernels.Documents(self._network, batches)
            except (TypeError, ValueError):
                if steps <= 1:
                    raise
                steps_at_once = 1  # the steps before the faulty document are still to be done
                continue
            if steps > 0:
                trainer.run(checked, batch_size, adam, losses, SECONDS_AT_ONCE)
            if len(losses) == done:
                loss = self.batch_loss(batches[:batch_size])
                loss.backward()
                adam.step()
                losses.append(loss.data)
            if on_step is not None:
                on_step(t, losses[-1])

    def generate(
        self,
        prompt: Sequence[int] = (),
        *,
        temperature: float = 0.5,
        top_k: int | None = None,
        rng: random.Random | None = None,
    ) -> list[int]:
        self._check(prompt)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}")
        block_size = self.config.block_size
        if len(prompt) >= block_size:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens leaves no room: block_size is {block_size}"
            )
        rng = rng or random.Random(42)
        sampler = _kernels.Sampler(self._network)
        tokens: list[int] = sampler.generate(prompt, temperature, top_k, rng)
        return tokens

    generate.__doc__ = ScalarGPT.generate.__doc__

    def _buffers(self, tokens: Sequence[int]) -> tuple[float, dict[str, Any], list[Any]]:
        loss = self.loss(tokens)
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
