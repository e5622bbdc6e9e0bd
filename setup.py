"""The compiled modules: which, from what, with which flags."""

import gc
import os
import platform
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

DEBUG = os.environ.get("MICROGPT_DEBUG") == "1"

# Rules of exactness 3 and 4 (docs/exactness.md): no contraction to fused multiply-adds,
# and `**` calls libm's pow as it does in CPython.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-builtin-pow", "-fno-math-errno", "-Wall"]
FLAGS.append("-fno-asynchronous-unwind-tables")  # nothing here unwinds: 3 % of the wheel
STRIP = []
if "-g" not in os.environ.get("CFLAGS", "").split():  # Python's own flags ask for it
    FLAGS.append("-g0")  # a sixth of the time to compile, three quarters of the wheel
    STRIP = ["-Wl,-s"] if sys.platform == "linux" else []

# Single nodes leave nothing to vectorise, and nothing reads the flag that a comparison
# with NaN raises (clang never keeps it): replays take 12 % less time. With -O2 it compiles in
# 0.6 s less, but a + b and a * b take 5 to 10 % longer, and rows side by side a quarter.
SCALAR = ["-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl")]
AVX512 += ["-mfma", "-mprefer-vector-width=512"]
if sys.platform == "darwin":  # universal2: for the half that has such instructions
    AVX2, AVX512 = ([w for f in flags for w in ("-Xarch_x86_64", f)] for flags in (AVX2, AVX512))

X86 = platform.machine().lower() in ("x86_64", "amd64")
MODULES = {
    "_value": ("src/value/_value.pyx", SCALAR),
    "_record": ("src/recording/_record.pyx", ["-O1"]),
    # FOR_RUN: the nodes of src/value for `microgpt run`. -O1 would compile in 1.9 s less, but
    # scripts would run 7 % (the article's) to 13 % longer.
    "_script": ("src/script/_script.pyx", ["-O2", "-DFOR_RUN=1"]),
    "_gpt": ("src/gpt/_gpt.pyx", ["-Og"]),  # the same speed as -O3: the work is in the kernels
    # With -O2 a step takes 20 to 40 % longer. On x86 only processors without AVX2 use these.
    "_kernels": ("src/gpt/_kernels.pyx", ["-O2"] if X86 else []),
}
# Rule 7: one source, translated once and compiled for each instruction set; microgpt.fused picks.
SETS = {"_kernels_avx2": AVX2, "_kernels_avx512": AVX512} if X86 else {}
if TESTING := os.environ.get("MICROGPT_TESTING"):  # a module of tests/testing.py: never installed
    flags = SETS.get(TESTING.replace("_testing", "_kernels"), [])
    MODULES, SETS = {TESTING: (f"src/testing/{TESTING}.pyx", flags)}, {}

INCLUDE = ["src", "src/shared", "src/value", "src/gpt", "src/testing"]

# Not MSVC, which has no vector types: CC there is clang for MinGW.
WINDOWS = {"build": {"compiler": "mingw32"}} if os.name == "nt" else {}

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "wraparound": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    "binding": False,
    "auto_pickle": False,
    "c_api_binop_methods": True,
    "emit_code_comments": DEBUG,  # the C without them compiles faster
}


class Build(build_ext):
    """Compile only what is not compiled by these flags yet; where that fails, say what to do."""

    def run(self):
        names = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "ARCHFLAGS")
        made_with = repr([DEBUG, *map(os.environ.get, names)])
        stamp = Path(self.build_temp, "made-with")
        self.force = self.force or not stamp.exists() or stamp.read_text() != made_with
        super().run()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(made_with)

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


def extensions():
    if os.environ.get("MICROGPT_NO_EXTENSIONS") == "1":
        return []
    gc.disable()  # Cython takes a third less time
    from Cython import __version__

    folder = "build/debug" if DEBUG else "build/cython"
    sources = ["setup.py", *filter(os.path.isfile, glob("src/**", recursive=True))]

    def extension(name, source, flags):
        return Extension(
            f"microgpt.{name}",
            [str(source)],
            include_dirs=INCLUDE,
            depends=[path for path in sources if path.endswith((".h", ".py"))],
            extra_compile_args=FLAGS + flags,
            extra_link_args=STRIP,
            # Named, pow, exp and log are the versions that CPython itself was linked with.
            libraries=["m"] if os.name == "posix" else [],
        )

    modules = []
    for name, (source, flags) in MODULES.items():
        c = Path(folder, source).with_suffix(".c")
        # cythonize would make it again in every `pip install`, which unpacks a new Cython.
        if not newer_group(sources, c) and f" {__version__} " in c.open().readline():
            source = c
        modules.append(extension(name, source, flags))
    if not all(module.sources[0].endswith(".c") for module in modules):
        from Cython.Build import cythonize

        modules = cythonize(
            modules, build_dir=folder, include_path=INCLUDE, compiler_directives=DIRECTIVES
        )
    c = Path(folder, "src/gpt/_kernels.c")
    for name, flags in SETS.items():  # the C of the kernels, in which only their name differs
        copy = c.with_stem(name)
        if newer_group([c], copy):
            copy.write_text(c.read_text().replace(c.stem, name))
        modules.append(extension(name, copy, flags))
    return modules


setup(
    packages=[*find_packages(include=["microgpt", "microgpt.*"]), "microgpt_cython"],
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
    options={"build_ext": {"parallel": os.cpu_count()}} | WINDOWS,
)
