"""Build and load the module of src/testing, which tests and measures the kernels."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {"avx512": "_avx512", "avx2": "_avx2", "baseline": ""}


@functools.cache
def _build(name):
    """Compile a module into build/testing if it is out of date; return that folder.

    MICROGPT_TESTING_AT names another folder, where it has been compiled: see .ci/aarch64.

    Raises:  RuntimeError with what the compiler said
    """
    if at := os.environ.get("MICROGPT_TESTING_AT"):
        return Path(at)
    folder = ROOT / "build" / f"testing-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    command += ["--build-temp", str(folder / "temp")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "MICROGPT_TESTING": name},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            "src/testing was not compiled: it needs a C compiler, setuptools and Cython "
            f"(pip install 'microgpt-cython[test]')\n{done.stdout}{done.stderr}"
        )
    return folder


@functools.cache
def load(simd):
    """Return the compiled module of an instruction set."""
    name = "_testing" + SUFFIXES[simd]
    (path,) = (_build(name) / "microgpt").glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(f"microgpt.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
