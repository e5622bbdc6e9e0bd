"""The functions that pickles of the fused engine's models call, so that any engine can load them.

A model of the process's own engine becomes one of the loading process's engine. One of an
engine loaded by name keeps it, or becomes the process's own where that engine is not built.
A scalar engine's model needs none of this: it is pickled as it is, with its Values.
"""

from __future__ import annotations

from array import array
from typing import Any


def engine_name() -> str | None:
    """Return the name of the fused engine in a pickle: None if it is the process's own engine."""
    from microgpt import engine  # not above: it imports the fused engine, which imports this

    return None if engine.NAME == "fused" else "fused"


def new(name: str | None, kind: str) -> Any:
    """Return a GPT or an Adam without its state."""
    cls = getattr(_load(name), kind)
    return cls.__new__(cls)


def params(name: str | None, sizes: dict[str, int], weights: bytes, grads: bytes) -> Any:
    """Return the params of a model of these weights and gradients."""
    from microgpt.checkpoint import NoRandom

    model = _load(name).GPT(**sizes, rng=NoRandom())
    model.set_weights(array("d", weights))
    for p, grad in zip(model.params, array("d", grads)):
        p.grad = grad
    return model.params


def part(params: Any, start: int, n_out: int | None, n_in: int) -> Any:
    """Return a row of a model's params, or the n_out rows of a matrix."""
    if hasattr(params, "part"):
        return params.part(start, n_out, n_in)
    if n_out is None:
        return params[start : start + n_in]
    return [params[start + i * n_in : start + (i + 1) * n_in] for i in range(n_out)]


def _load(name: str | None) -> Any:
    from microgpt import engine

    try:
        return engine.load(name or engine.NAME)
    except ImportError:
        return engine.load(engine.NAME)
