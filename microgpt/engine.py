"""The only place that picks an engine.

`MICROGPT_ENGINE` asks for one by name and never falls back in silence; unset
means the fastest that is built. `NAME` tells which it is.
"""

from __future__ import annotations

import importlib
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

from microgpt import adam, gpt

__all__ = ["GPT", "NAME", "Tape", "Value", "load", "names"]

_MODULES = {
    "cython": "microgpt._engine",
    "fused": "microgpt._engine",  # its Value, for all that is not the model
    "python": "microgpt.oracle",
}


def names() -> list[str]:
    """Return the names of all engines, built or not."""
    return sorted(_MODULES)


def load(name: str) -> SimpleNamespace:
    """Return an engine by name: a namespace of NAME, Value, Tape, GPT, Adam.

    Raises:  ValueError if there is no engine of that name; ImportError if it is
             not built
    """
    if name not in _MODULES:
        raise ValueError(f"no engine {name!r}: choose one of {', '.join(names())}")
    module = importlib.import_module(_MODULES[name])
    if name == "fused":
        fused = importlib.import_module("microgpt.fused")
        return SimpleNamespace(
            NAME=name, Value=module.Value, Tape=module.Tape, GPT=fused.GPT, Adam=fused.Adam
        )
    model = type("GPT", (gpt.GPT,), {"Value": module.Value, "__doc__": gpt.GPT.__doc__})
    return SimpleNamespace(
        NAME=name, Value=module.Value, Tape=module.Tape, GPT=model, Adam=adam.Adam
    )


def _default() -> SimpleNamespace:
    name = os.environ.get("MICROGPT_ENGINE")
    if name is not None:
        return load(name)
    try:
        return load("cython")
    except ModuleNotFoundError:
        return load("python")


_engine = _default()
NAME: str = _engine.NAME
if TYPE_CHECKING:  # to a type checker every engine is the oracle: their surfaces are equal
    from microgpt.gpt import GPT
    from microgpt.oracle import Tape, Value
else:
    Value, Tape, GPT = _engine.Value, _engine.Tape, _engine.GPT
