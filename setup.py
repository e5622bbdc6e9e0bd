"""The compiled modules: which, from what, with which flags."""

import os
import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("MICROGPT_DEBUG") == "1"

# Rules of exactness 3 and 4 (docs/exactness.md): no fused multiply-add behind
# our back, and `**` goes to libm's pow as it does in CPython.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-builtin-pow", "-fno-math-errno", "-Wall"]

# Node after node there is nothing to vectorise, and nobody asks for the flags that a
# comparison with NaN leaves (clang never keeps them): replays take 12 % less time.
SCALAR = ["-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-fno-trapping-math"]

# Named, pow, exp and log are the versions that CPython itself was linked with.
LIBRARIES = ["m"] if os.name == "posix" else []

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "wraparound": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    "binding": False,
    "c_api_binop_methods": True,
}


class BuildOrExplain(build_ext):
    """A failed compile fails the install, and says what to do."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            raise SystemExit(
                f"microgpt: compiling {ext.name} failed: {error}\n"
                "Install a C compiler (Debian: apt install build-essential; macOS: "
                "xcode-select --install) and try again,\nor set MICROGPT_NO_EXTENSIONS=1 "
                "for the pure-Python package, which is exact but slow."
            ) from error


# Rule 7: one source, compiled once for each instruction set; microgpt.fused picks.
SIMD = {
    "_kernels": [],
    "_kernels_avx2": ["-mavx2", "-mfma"],
    "_kernels_avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512cd",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
}


def kernels():
    """The fused engine's modules, those for other processors left out."""
    names = SIMD if platform.machine().lower() in ("x86_64", "amd64") else ["_kernels"]
    return [
        Extension(
            f"microgpt.{name}",
            [f"src/{name}.pyx"],
            include_dirs=["src"],
            extra_compile_args=FLAGS + SIMD[name],
            libraries=LIBRARIES,
        )
        for name in names
    ]


def extensions():
    if os.environ.get("MICROGPT_NO_EXTENSIONS") == "1":
        return []
    from Cython.Build import cythonize

    modules = [
        Extension(
            "microgpt._engine",
            ["src/_engine.pyx"],
            include_dirs=["src"],
            extra_compile_args=FLAGS + SCALAR,
            libraries=LIBRARIES,
        ),
        Extension(
            "microgpt._script",
            ["src/script/_script.pyx"],
            include_dirs=["src"],
            extra_compile_args=FLAGS,
            libraries=LIBRARIES,
        ),
        Extension(
            "microgpt._record",
            ["src/_record.pyx"],
            include_dirs=["src"],
            extra_compile_args=FLAGS,
            libraries=LIBRARIES,
        ),
        *kernels(),
    ]
    return cythonize(
        modules, build_dir="build/cython", include_path=["src"], compiler_directives=DIRECTIVES
    )


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildOrExplain},
    options={"build_ext": {"parallel": os.cpu_count()}},
)
