"""Choose the engine; no other module does.

`MICROGPT_ENGINE` names one, and a named engine that is not built is an error. Unset,
the fastest engine that is built runs; where a compiled module is missing, one line on
stderr says so, unless the package was installed with MICROGPT_NO_EXTENSIONS=1.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from microgpt import adam
from microgpt import functions as plain_functions
from microgpt.models import MODELS

__all__ = [
    "ATTRIBUTES",
    "GPT",
    "NAME",
    "Adam",
    "Tape",
    "Value",
    "functions",
    "load",
    "names",
]

_MODULES = {
    "cython": "microgpt._value",
    "fused": "microgpt._value",  # its Value, for all that is not the model
    "python": "microgpt.oracle",
}


def names() -> list[str]:
    """Return the names of all engines, built or not."""
    return sorted(_MODULES)


@functools.cache
def load(name: str) -> SimpleNamespace:
    """Return an engine by name, as a namespace, the same one each time.

    It has NAME, Value, Tape, ATTRIBUTES, functions, Adam, and models: its classes
    of `microgpt.models` by name. The classes are its attributes too, GPT among them.

    Raises:  ValueError if there is no engine of that name; ImportError if it is
             not built
    """
    if name not in _MODULES:
        raise ValueError(f"no engine {name!r}: choose one of {', '.join(names())}")
    module = importlib.import_module(_MODULES[name])
    # What an engine compiles takes the place of the plain functions.
    functions = module if hasattr(module, "linear") else plain_functions
    members = {"_update": staticmethod(getattr(module, "update", adam.update))}
    optimizer = _named(name, adam.Adam, members)
    parts = {"Value": module.Value, "Optimizer": optimizer, "functions": functions}
    models = {kind: _named(name, model, parts) for kind, model in MODELS.items()}
    if name == "fused":
        fused = importlib.import_module("microgpt.fused")
        recorded = importlib.import_module("microgpt.models.recorded").RecordedModel
        parts["Optimizer"] = optimizer = fused.Adam
        models = {kind: _named(name, model, parts, recorded) for kind, model in MODELS.items()}
        models["gpt"] = fused.GPT
    return SimpleNamespace(
        NAME=name,
        Value=module.Value,
        Tape=module.Tape,
        ATTRIBUTES=module.ATTRIBUTES,
        functions=functions,
        Adam=optimizer,
        models=models,
        **{model.__name__: model for model in models.values()},
    )


def _named(name: str, base: type, members: dict[str, Any], *before: type) -> type:
    """Return a subclass that pickles find as microgpt.engine.NAME.CLASS: see `__getattr__`."""
    place = {"__module__": __name__, "__qualname__": f"{name}.{base.__name__}"}
    return type(base.__name__, (*before, base), {"__doc__": base.__doc__, **place, **members})


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return load(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"the {name} engine is not built here: {error}") from error


def _default() -> SimpleNamespace:
    """Return the engine that MICROGPT_ENGINE names, or else the fastest that is built."""
    name = os.environ.get("MICROGPT_ENGINE")
    if name is not None:
        return load(name)
    try:
        return load("fused")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("microgpt."):
            raise
        missing = error.name
    engine = load("python" if missing == _MODULES["cython"] else "cython")
    if not _is_pure_build():
        print(
            f"microgpt: {os.path.dirname(__file__)} has no compiled module {missing}: the "
            f"{engine.NAME} engine runs, which is far slower; import the installed package "
            "from another directory, or install again with a C compiler "
            "(MICROGPT_ENGINE=python silences this)",
            file=sys.stderr,
        )
    return engine


def _is_pure_build() -> bool:
    """Return whether the package was built, or is to run, without compiled modules."""
    from importlib import metadata  # only here: it takes longer to import than this module

    if os.environ.get("MICROGPT_NO_EXTENSIONS") == "1":
        return True
    builds = [d.read_text("WHEEL") for d in metadata.distributions(name="microgpt-cython")]
    return any("Root-Is-Purelib: true" in build for build in builds if build)


_engine = _default()
NAME: str = _engine.NAME
if TYPE_CHECKING:  # to a type checker every engine is the oracle: their surfaces are equal
    from microgpt import functions
    from microgpt.adam import Adam
    from microgpt.gpt import GPT
    from microgpt.oracle import ATTRIBUTES, Tape, Value
else:
    Value, Tape, functions = _engine.Value, _engine.Tape, _engine.functions
    ATTRIBUTES = _engine.ATTRIBUTES
    GPT, Adam = _engine.GPT, _engine.Adam
