"""Make the empty nodes from which copies and pickles of a `Value` are rebuilt.

A pickle of the `microgpt.Value` of one process loads as the `microgpt.Value` of
another, whatever engines the two run on. A `Value` of an engine that was loaded by
name belongs to that engine.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from microgpt import engine


def recipe(cls: type) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function and its arguments that make an empty node of a class."""
    if cls is engine.Value:
        return new_node, ("",)
    if cls.__qualname__ == "Value" and cls.__module__ in ("microgpt.oracle", "microgpt._value"):
        return new_node, ("python" if cls.__module__ == "microgpt.oracle" else "cython",)
    return copyreg.__newobj__, (cls,)  # type: ignore[attr-defined] # of CPython, without a stub


def new_node(name: str) -> Any:
    """Return an empty node of an engine's `Value`; of no name, of the engine in use.

    Raises:  ImportError if the engine is not built
    """
    cls: Any = engine.load(name).Value if name else engine.Value
    return cls.__new__(cls)
