"""microgpt, compiled: the same program and the same bits, thousands of times faster.

Names are looked up when they are first used, so `import microgpt` takes no time, and the
command line can report Ctrl-C and a refused engine in one line.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without the time to import typing
if TYPE_CHECKING:
    from typing import Any

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
    "compile",
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
    from microgpt.gpt import Config, gpt
    from microgpt.gradient import value_and_grad
    from microgpt.recording import compile
    from microgpt.tokenizer import CharTokenizer

# The module of each name, where it is not the engine's own.
_MODULES = {
    "CharTokenizer": "microgpt.tokenizer",
    "Config": "microgpt.gpt",
    "compile": "microgpt.recording",
    "gpt": "microgpt.gpt",
    "value_and_grad": "microgpt.gradient",
}


def __getattr__(name: str) -> Any:
    """Return a name of the chosen engine, as `engine.load` does.

    Raises:  AttributeError if there is no such name; as `engine.load`
    """
    if name != "engine" and name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    # By its name: the attribute is set after the module, which may be in the making.
    engine: Any = importlib.import_module("microgpt.engine")
    if name == "engine":
        return engine
    if name in ("GPT", "Adam", "Tape", "Value"):
        found = getattr(engine, name)
    else:
        found = getattr(engine.functions, name)
    globals()[name] = found
    return found


class _Package(type(sys)):  # type: ignore[misc] # a module's class
    """This module, in which `gpt` is the function, as in the original, not the module."""

    @property
    def gpt(self) -> Any:
        """The function `microgpt.gpt.gpt`."""
        return __getattr__("gpt")

    @gpt.setter
    def gpt(self, module: Any) -> None:
        """Ignore the attribute that importing `microgpt.gpt` sets."""


if not TYPE_CHECKING:
    sys.modules[__name__].__class__ = _Package


def load_ipython_extension(shell: Any) -> None:
    """Let the classes of later cells be compiled where they behave the same: %load_ext microgpt."""
    from microgpt.run.notebook import load

    load(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "engine"})
