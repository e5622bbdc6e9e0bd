"""The compiled nodes of `microgpt run`; its Python side keeps to what it takes as it comes."""

from typing import Any

def __getattr__(name: str) -> Any: ...
