"""Fixtures for the fused engine on each instruction set, side by side in one process."""

import functools
import importlib.util
import os
from types import SimpleNamespace

import microgpt.engine

SETS = ("avx512", "avx2", "baseline")  # elsewhere than on x86-64 all is baseline


@functools.cache
def runs(simd):
    """Return whether this processor has an instruction set."""
    from microgpt import fused

    return fused._gpt.runs(simd)


@functools.cache
def fused_on(simd):
    """Return the fused engine on one instruction set, as `engine.load` returns engines.

    It has SIMD.

    Raises:  ImportError if this processor or this build lacks it
    """
    spec = importlib.util.find_spec("microgpt.fused")
    module = importlib.util.module_from_spec(spec)
    former = os.environ.get("MICROGPT_SIMD")
    os.environ["MICROGPT_SIMD"] = simd
    try:
        spec.loader.exec_module(module)
    finally:
        del os.environ["MICROGPT_SIMD"]
        if former is not None:
            os.environ["MICROGPT_SIMD"] = former
    if simd != module.SIMD:
        raise ImportError(f"the module for {simd} was not built")
    module.WORK_OF_A_THREAD = 0  # all threads, however small a model is
    engine = SimpleNamespace(**vars(microgpt.engine.load("fused")))
    engine.NAME = f"fused {simd}"
    engine.SIMD = simd
    engine.GPT, engine.Adam = module.GPT, module.Adam
    return engine


def load(name):
    """Return an engine by name; "fused avx2" is the fused one on that instruction set."""
    return fused_on(name.split()[1]) if " " in name else microgpt.engine.load(name)
