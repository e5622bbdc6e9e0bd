"""makemore's models on the fused engine: each loss recorded once for each length of document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from microgpt import _gpt, fused
from microgpt.adam import Adam
from microgpt.model import Evaluation, Matrix, Model
from microgpt.oracle import Value
from microgpt.recording import Compiled, compile


class RecordedModel(Model):
    """A model whose `fit` runs a compiled recording of the loss in place of Python code.

    Its weights are Values; `fit` holds their numbers in arrays and writes them back before
    on_step and when it ends.
    """

    _compiled: Compiled | None = None
    _total: Compiled | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in vars(self).items() if name not in ("_compiled", "_total")}

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
        self._check_training(documents, batch_size, threads)
        adam = adam or self.Optimizer(self.params, num_steps=num_steps)
        own = len(adam.params) == len(self.params) and all(
            ours is theirs for ours, theirs in zip(self.params, adam.params)
        )
        if not own or type(adam).step not in (Adam.step, fused.Adam.step):
            return super().fit(
                documents, num_steps, batch_size, adam=adam, on_step=on_step, bos=bos
            )
        if self._compiled is None:
            self._compiled = compile(self._document_loss, self.state_dict)
        losses: list[float] = []
        self._compiled.load()
        try:
            for _ in range(num_steps):
                t = adam.t
                batch = [
                    documents[(t * batch_size + b) % len(documents)] for b in range(batch_size)
                ]
                for tokens in batch:
                    self._check_document(tokens, bos)
                losses.append(self._step(self._compiled, batch, adam))
                if on_step is not None:
                    self._compiled.store(data=True)
                    on_step(t, losses[-1])
                    self._compiled.load()
        finally:
            self._compiled.store(data=True)
        return losses

    fit.__doc__ = Model.fit.__doc__

    def evaluate(
        self, documents: Sequence[Sequence[int]], *, threads: int | None = None
    ) -> Evaluation:
        self._check_training(documents, 1, threads)
        if self._total is None:
            self._total = compile(self._total_loss, self.state_dict)
        nats, n_tokens = 0.0, 0
        for tokens in documents:
            self._check_document(tokens)
            n = min(self.config.block_size, len(tokens) - 1)
            nats += self._total.forward(list(map(int, tokens[: n + 1])))
            n_tokens += n
        return Evaluation(nats, n_tokens)

    evaluate.__doc__ = Model.evaluate.__doc__

    def _total_loss(self, weights: Mapping[str, Matrix], tokens: Sequence[int]) -> Value:
        return cast(Value, sum(self._losses(weights, tokens, self._begin(weights))))

    def _step(self, compiled: Compiled, batch: Sequence[Sequence[int]], adam: Adam) -> float:
        loss = None
        if adam.t < adam.num_steps:  # else Adam will refuse, once the gradients are added
            rows = [(list(map(int, tokens)),) for tokens in batch]
            loss = compiled.add_gradients(rows, single=len(rows) == 1)
        if loss is not None:
            numbers = compiled.numbers
            _gpt.step_arrays(fused._kernels.table, adam, numbers.data, numbers.grads)
            numbers.clear_types()
            return loss
        compiled.store(data=True)
        try:
            graph = self.loss(batch[0]) if len(batch) == 1 else self.batch_loss(batch)
            graph.backward()
            adam.step()
        finally:
            compiled.load()
        return graph.data
