"""The package from outside: imports, engines by name, and builds in fresh environments."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import microgpt

PACKAGE = Path(microgpt.__file__).parent
ROOT = Path(__file__).parent.parent
SETTINGS = (
    "MICROGPT_ENGINE",
    "MICROGPT_SIMD",
    "MICROGPT_NO_EXTENSIONS",
    "PYTHONPATH",
    "CC",
    "CFLAGS",
)


def run(*command, cwd=None, **environment):
    """Run a command in a clean environment; return it done, with its output as text."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in SETTINGS and not name.startswith("PYTEST_XDIST")  # a pytest is no worker
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def python(source, cwd=None, **environment):
    return run(sys.executable, "-W", "error", "-c", source, cwd=cwd, **environment)


def copy_without(folder, *modules):
    """Copy the package into a folder, where these of its modules cannot be imported."""
    missing = [f"{module}.*" for module in modules]
    ignored = shutil.ignore_patterns("__pycache__", *missing)
    shutil.copytree(PACKAGE, folder / "microgpt", ignore=ignored)
    for module in modules:  # an editable install would find its own, if they were only left out
        name = f"microgpt.{module}"
        error = f"ModuleNotFoundError({f'No module named {name!r}'!r}, name={name!r})"
        (folder / "microgpt" / f"{module}.py").write_text(f"raise {error}\n")
    return folder


@pytest.fixture(scope="module")
def pure_package(tmp_path_factory):
    """A folder with the package in it, whose compiled modules cannot be imported."""
    return copy_without(tmp_path_factory.mktemp("pure"), "_value", "_gpt")


def test_import_takes_no_third_party_package():
    done = python(
        "import sys; before = set(sys.modules); import microgpt\n"
        "from importlib.machinery import PathFinder\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "files = {n: getattr(sys.modules[n], '__file__', None) or '' for n in names}\n"
        "print(sorted(n for n, f in files.items() if '-packages' in f and n != 'microgpt'))"
    )
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_commands_import_nothing_of_the_web():
    done = python(
        "import microgpt.training, sys; print({'urllib.request', 'ssl'} & set(sys.modules))"
    )
    assert (done.returncode, done.stdout) == (0, "set()\n")


def test_unset_takes_the_compiled_engine(compiled):
    assert python(WHICH).stdout == "fused microgpt._value\n"


WHICH = "import microgpt.engine as e; print(e.NAME, e.Value.__module__)"


def test_unset_takes_the_oracle_where_nothing_is_built_and_says_so(pure_package):
    line, engine = python(WHICH, pure_package).stdout.splitlines()
    assert line.startswith(
        f"microgpt: {pure_package / 'microgpt'} has no compiled module microgpt._value: "
        "the python engine runs"
    )
    assert engine == "python microgpt.oracle"


def test_unset_takes_the_compiled_value_where_only_the_gpt_are_missing(tmp_path, compiled):
    line, engine = python(WHICH, copy_without(tmp_path, "_gpt")).stdout.splitlines()
    assert "no compiled module microgpt._gpt: the cython engine runs" in line
    assert engine == "cython microgpt._value"


@pytest.mark.parametrize("asked", ["MICROGPT_ENGINE=python", "MICROGPT_NO_EXTENSIONS=1"])
def test_what_was_asked_for_is_not_reported(pure_package, asked):
    name, _, value = asked.partition("=")
    assert python(WHICH, pure_package, **{name: value}).stdout == "python microgpt.oracle\n"


def test_the_command_in_a_folder_without_compiled_modules_says_so_once(pure_package):
    command = [sys.executable, "-m", "microgpt", "train", "--num-steps", "1", "--num-samples", "1"]
    done = run(*command, cwd=pure_package)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the python engine runs") == 1


def test_another_module_that_is_missing_is_no_reason_for_another_engine(tmp_path):
    copy_without(tmp_path, "_value")
    (tmp_path / "microgpt" / "_value.py").write_text("import no_such_module\n")
    last = python(WHICH, tmp_path).stdout.splitlines()[-1]
    assert last == "ModuleNotFoundError: No module named 'no_such_module'"


def test_an_instruction_set_that_was_not_built_falls_to_the_next(tmp_path, compiled):
    from microgpt import fused

    folder = copy_without(tmp_path)
    # -S: an editable install would find the modules that are missing here.
    which = (sys.executable, "-S", "-c", "from microgpt import fused; print(fused.SIMD)")
    *vector, baseline = fused._SIMD
    for simd in vector:
        for file in (folder / "microgpt").glob(f"{fused._SIMD[simd]}.*.so"):
            file.unlink()
        last = run(*which, cwd=folder, MICROGPT_SIMD=simd).stdout.splitlines()[-1]
        lacks = "build" if fused._gpt.runs(simd) else "processor"
        assert last.startswith(f"ImportError: this {lacks} has no {simd}: choose one of ")
    assert run(*which, cwd=folder).stdout == f"{baseline}\n"


def test_cython_is_taken_or_refused_never_replaced(pure_package):
    done = python("import microgpt.engine", pure_package, MICROGPT_ENGINE="cython")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]  # CPython 3.15 goes on: "Did you mean"
    assert last.startswith("ModuleNotFoundError: No module named 'microgpt._value'")


def test_python_is_the_oracle():
    assert python(WHICH, MICROGPT_ENGINE="python").stdout == "python microgpt.oracle\n"


@pytest.mark.parametrize("name", ["pypy", "", "Cython", "python "])
def test_an_engine_that_does_not_exist_lists_the_choices(name):
    done = python("import microgpt.engine", MICROGPT_ENGINE=name)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("ValueError")
    assert repr(name) in last
    assert "cython" in last
    assert "python" in last


def test_the_suite_fails_without_the_compiled_engine(pure_package):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    target = f"{ROOT / 'tests' / 'test_adam.py'}"
    path = str(pure_package)
    done = run(*command, "-c", ROOT / "pyproject.toml", target, cwd=path, PYTHONPATH=path)
    assert done.returncode == 1, done.stdout
    assert "No module named 'microgpt._value'" in done.stdout
    assert "skipped" not in done.stdout
    asked = {"PYTHONPATH": path, "MICROGPT_NO_EXTENSIONS": "1"}
    done = run(*command, "-c", ROOT / "pyproject.toml", target, cwd=path, **asked)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("flags", "folder"), [([], "tests/"), (["--benchmark-only"], "benchmarks/")]
)
def test_pytest_in_the_root_takes_the_tests_or_the_benchmarks(flags, folder):
    # As typed: `python -m pytest` would import the sources in place of what is installed.
    command = [Path(sys.executable).with_name("pytest"), "--collect-only", "-q"]
    done = run(*command, "-p", "no:cacheprovider", *flags, cwd=ROOT)
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    assert (done.returncode, len(collected) > 100) == (0, True), done.stdout
    assert all(line.startswith(folder) for line in collected)


def test_types_and_stubs_are_in_the_package():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_value.pyi").exists()
    assert (PACKAGE / "names.txt").exists()


def test_the_distribution_says_what_it_is():
    metadata = importlib.metadata.metadata("microgpt-cython")
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    scripts = importlib.metadata.distribution("microgpt-cython").entry_points
    assert {(s.name, s.value) for s in scripts if s.group == "console_scripts"} == {
        ("microgpt", "microgpt.commands:main")
    }


# From here on: builds, which take minutes.


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository's files, without anything that was ever built."""
    folder = tmp_path_factory.mktemp("source") / "microgpt"
    listed = run("git", "ls-files", "-z", cwd=ROOT)
    if listed.returncode:
        pytest.fail(f"these tests build what git lists, and git said: {listed.stdout}")
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    """The source distribution, as pip and build make it."""
    folder = tmp_path_factory.mktemp("sdist")
    program = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    done = run(sys.executable, "-c", program, folder, cwd=source)
    assert done.returncode == 0, done.stdout
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    """The files of the source distribution, which the tests build from."""
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, folder)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    """The wheel built from the source distribution, and what pip said: the one compilation."""
    folder = tmp_path_factory.mktemp("wheel")
    done = pip("wheel", "--verbose", "--no-deps", "--wheel-dir", folder, unpacked)
    assert done.returncode == 0, done.stdout
    (made,) = folder.glob("*.whl")
    return made, done.stdout


@pytest.fixture
def empty(tmp_path):
    """The python of an empty environment."""
    venv.create(tmp_path / "venv")
    return tmp_path / "venv" / "bin" / "python"


def pip(*arguments, **environment):
    """Run pip, which builds in an environment of its own; return it done."""
    return run(sys.executable, "-m", "pip", *arguments, **environment)


def install(python, *arguments, **environment):
    """Install into the environment of a python, from outside the sources; return it done."""
    folder = python.parent
    return pip("--python", python, "install", "--no-compile", *arguments, cwd=folder, **environment)


TRAIN = "import microgpt.engine as e; print(e.NAME, e.GPT(5).fit([[4, 0, 1, 4]], 2)[1].hex())"


@pytest.mark.slow
def test_the_sdist_holds_all_that_a_build_and_its_tests_need(sdist):
    with tarfile.open(sdist) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    listed = set(run("git", "ls-files", cwd=ROOT).stdout.split("\n"))
    needed = {n for n in listed if n.startswith(("src/", "microgpt/", "tests/", "benchmarks/"))}
    assert not needed - names
    generated = {name for name in names if name.endswith((".so", ".c", ".pyc"))}
    assert generated <= {"tests/allocation.c"}  # written by hand


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel[0]) as files:
        names = files.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "microgpt",
        "microgpt_cython",
    }
    assert not {name for name in names if name.endswith((".pyx", ".pxd", ".pxi", ".c"))}
    assert any(re.match(r"microgpt/_value\..*\.so$", name) for name in names)
    assert wheel[0].stat().st_size < 1_000_000


@pytest.mark.slow
def test_it_installs_and_works_in_an_empty_environment(wheel, empty, tmp_path):
    done = install(empty, wheel[0])
    assert done.returncode == 0, done.stdout
    oracle = python(TRAIN, tmp_path, MICROGPT_ENGINE="python").stdout.split()[1]
    assert run(empty, "-c", TRAIN, cwd=tmp_path).stdout.split() == ["fused", oracle]
    command = empty.with_name("microgpt")
    done = run(command, "train", "--num-steps", "2", "--num-samples", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "num docs: 30000" in done.stdout


@pytest.mark.slow
def test_a_second_build_compiles_nothing(wheel, unpacked, empty):
    """README's second command installs what its first one compiled."""
    done = install(empty, "--verbose", "--no-deps", unpacked)
    assert done.returncode == 0, done.stdout
    for sign in ("Cythonizing", "-c build/"):
        assert sign in wheel[1]
        assert sign not in done.stdout
    assert run(empty, "-c", TRAIN, cwd=empty.parent).stdout.split()[0] == "fused"


@pytest.mark.slow
def test_another_compiler_compiles_anew_and_its_failure_says_what_to_do(wheel, unpacked, empty):
    done = install(empty, "--no-deps", unpacked, CC="false")
    assert done.returncode != 0
    assert "microgpt: compiling microgpt._value failed" in done.stdout
    assert "MICROGPT_NO_EXTENSIONS=1" in done.stdout
    assert run(empty, "-c", "import microgpt", cwd=empty.parent).returncode != 0


@pytest.mark.slow
def test_the_pure_package_needs_no_compiler(source, empty, tmp_path):
    done = install(empty, "--no-deps", source, CC="false", MICROGPT_NO_EXTENSIONS="1")
    assert done.returncode == 0, done.stdout
    done = run(empty, "-c", TRAIN, cwd=tmp_path)
    assert done.stdout.split()[0] == "python"  # and no line says that modules are missing
    done = run(empty, "-c", "import microgpt.engine", cwd=tmp_path, MICROGPT_ENGINE="cython")
    assert "No module named 'microgpt._value'" in done.stdout


@pytest.mark.slow
def test_a_frozen_app_runs_the_compiled_engine(wheel, empty, tmp_path):
    done = install(empty, "pyinstaller", wheel[0])
    assert done.returncode == 0, done.stdout
    app = "from microgpt.commands import main\nmain(['train', '--num-steps', '2'])\n"
    (tmp_path / "app.py").write_text(f"{TRAIN}\n{app}")
    done = run(empty.with_name("pyinstaller"), "app.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    done = run(tmp_path / "dist" / "app" / "app", cwd=tmp_path)
    oracle = python(TRAIN, tmp_path, MICROGPT_ENGINE="python").stdout.split()[1]
    assert done.stdout.split()[:2] == ["fused", oracle], done.stdout
    assert (done.returncode, "num docs: 30000" in done.stdout) == (0, True), done.stdout
    assert "microgpt:" not in done.stdout
