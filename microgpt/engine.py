"""The only place that picks an engine.

`MICROGPT_ENGINE` asks for one by name and never falls back in silence; unset
means the fastest that is built. `NAME` tells which it is.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from microgpt import adam, gpt
from microgpt import functions as plain_functions

__all__ = [
    "GPT",
    "NAME",
    "Adam",
    "Closed",
    "Tape",
    "Value",
    "functions",
    "load",
    "names",
    "uncollected",
]

_MODULES = {
    "cython": "microgpt._engine",
    "fused": "microgpt._engine",  # its Value, for all that is not the model
    "python": "microgpt.oracle",
}


def names() -> list[str]:
    """Return the names of all engines, built or not."""
    return sorted(_MODULES)


def load(name: str) -> SimpleNamespace:
    """Return an engine by name, as a namespace.

    It has NAME, Value, Tape, Closed, uncollected, functions, GPT, Adam.

    Raises:  ValueError if there is no engine of that name; ImportError if it is
             not built
    """
    if name not in _MODULES:
        raise ValueError(f"no engine {name!r}: choose one of {', '.join(names())}")
    module = importlib.import_module(_MODULES[name])
    # What an engine compiles takes the place of the plain functions.
    functions = module if hasattr(module, "linear") else plain_functions
    if name == "fused":
        model: Any = importlib.import_module("microgpt.fused")
    else:
        model = _over(module.Value, functions, getattr(module, "update", adam.update))
    return SimpleNamespace(
        NAME=name,
        Value=module.Value,
        Tape=module.Tape,
        Closed=module.Closed,
        uncollected=module.uncollected,
        functions=functions,
        GPT=model.GPT,
        Adam=model.Adam,
    )


def _over(value: type, functions: Any, update: Callable[..., None]) -> SimpleNamespace:
    """Return the model and the optimizer over an engine's own Value and functions."""
    optimizer = type(
        "Adam", (adam.Adam,), {"__doc__": adam.Adam.__doc__, "_update": staticmethod(update)}
    )
    parts: dict[str, Any] = {"Value": value, "Optimizer": optimizer, "functions": functions}
    model = type("GPT", (gpt.GPT,), {"__doc__": gpt.GPT.__doc__, **parts})
    return SimpleNamespace(GPT=model, Adam=optimizer)


def _default() -> SimpleNamespace:
    name = os.environ.get("MICROGPT_ENGINE")
    if name is not None:
        return load(name)
    try:
        return load("fused")
    except ModuleNotFoundError:
        return load("python")


def _explain(refused: BaseException) -> None:
    """Let the command line end on an engine that is refused in one line, as on a wrong flag."""

    def explain(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if error is not refused:  # whoever runs has caught that one
            return sys.__excepthook__(kind, error, trace)
        print(f"microgpt: {error} (see MICROGPT_ENGINE, MICROGPT_SIMD)", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ValueError) else 1)

    sys.excepthook = explain


try:
    _engine = _default()
except (ImportError, ValueError) as error:
    # Only here: the command line is inside the package, and is not read before this is.
    if os.path.basename(sys.argv[0]) in ("-m", "microgpt", "microgpt.exe"):
        _explain(error)
    raise
NAME: str = _engine.NAME
if TYPE_CHECKING:  # to a type checker every engine is the oracle: their surfaces are equal
    from microgpt import functions
    from microgpt.adam import Adam
    from microgpt.gpt import GPT
    from microgpt.oracle import Closed, Tape, Value, uncollected
else:
    Value, Tape, functions = _engine.Value, _engine.Tape, _engine.functions
    Closed, uncollected = _engine.Closed, _engine.uncollected
    GPT, Adam = _engine.GPT, _engine.Adam
