"""microgpt, compiled: the same program, the same bits, without the waiting.

Names that an engine gives are looked up when they are first used, so `import microgpt`
takes a few milliseconds and the command line can report a refused engine in one line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from microgpt.gpt import Config, gpt
from microgpt.tokenizer import CharTokenizer

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "Adam",
    "CharTokenizer",
    "Config",
    "Operation",
    "Tape",
    "Value",
    "attention",
    "cross_entropy",
    "dot",
    "gpt",
    "linear",
    "maximum",
    "rmsnorm",
    "softmax",
    "value_and_grad",
    "where",
]

if TYPE_CHECKING:
    from microgpt import engine as engine
    from microgpt.engine import GPT, Adam, Tape, Value
    from microgpt.functions import (
        Operation,
        attention,
        cross_entropy,
        dot,
        linear,
        maximum,
        rmsnorm,
        softmax,
        where,
    )
    from microgpt.gradient import value_and_grad


def __getattr__(name: str) -> Any:
    """Return a name of the chosen engine, as `engine.load` does.

    Raises:  AttributeError if there is no such name; as `engine.load`
    """
    if name != "engine" and name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By their names: the attributes are set after the modules, which may import each other.
    engine: Any = importlib.import_module("microgpt.engine")
    if name == "engine":
        return engine
    if name == "value_and_grad":
        found = importlib.import_module("microgpt.gradient").value_and_grad
    elif name in ("GPT", "Adam", "Tape", "Value"):
        found = getattr(engine, name)
    else:
        found = getattr(engine.functions, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "engine"})
