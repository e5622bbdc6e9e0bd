"""Import optional packages, with an error that says how to install a missing one."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, use: str, extra: str = "view") -> Any:
    """Return an imported module of an optional package.

    Raises:  ImportError that names the use, the package and the pip command
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(
            f"{use} needs {package}: pip install 'microgpt-cython[{extra}]'"
        ) from None
