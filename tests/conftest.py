"""One fixture runs each test on every engine; a missing one fails, it never skips."""

import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from sets import SETS, load, runs

import microgpt.engine
from microgpt.oracle import ClassOptions

PURE = os.environ.get("MICROGPT_ENGINE") == "python" or (
    os.environ.get("MICROGPT_NO_EXTENSIONS") == "1"
)
UNASKED = pytest.param(None, marks=pytest.mark.skip(reason="the pure package was asked for"))
COMPILED_SCALAR = [UNASKED] if PURE else ["cython"]
COMPILED = [UNASKED] if PURE else ["cython", "fused"]
ON_EACH_SET = [UNASKED] if PURE else [f"fused {simd}" for simd in SETS]
PYTHON = ["python"]
collect_ignore_glob = ["test_fused*.py"] if PURE else []

# No timed test: hypothesis' deadline would be one. CI's programs are the same every run.
settings.register_profile("microgpt", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("microgpt")

# Under `nohup` the processes that tests start and hang up would ignore it.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config):
    """Let `pytest --benchmark-only` in the root take the benchmarks in place of the tests."""
    # Not registered where pytest-benchmark is not installed.
    if config.getoption("benchmark_only", False) and config.args == config.getini("testpaths"):
        config.args = ["benchmarks"]
    # pytest-xdist would begin with the files of many tests, and end with the long files of few.
    config.option.loadscopereorder = False


def pytest_sessionstart(session):
    # A process started from the root would import the source folder, not what is installed.
    if not session.config.pluginmanager.hasplugin("dsession"):  # pytest-xdist's workers do so
        os.chdir(Path(__file__).parent)


def pytest_collection_finish():
    # The collections that tests ask for then visit what tests make, not all modules.
    gc.collect()
    gc.freeze()


def pytest_report_header():
    return f"microgpt: {microgpt.engine.NAME} engine from {os.path.dirname(microgpt.__file__)}"


def alive():
    """Count the package's objects by class, and the compiled nodes, which no collector sees."""
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    # The classes that `microgpt run` has made stay, as classes do.
    stay = ("microgpt.run", "microgpt._script")
    names = ((kind, str(kind.__module__)) for kind in kinds)
    count = Counter(k for k, n in names if n.startswith("microgpt.") and not n.startswith(stay))
    del count[ClassOptions]  # those of classes, some of which modules keep
    compiled = sys.modules.get("microgpt._value")
    return count + Counter({"compiled nodes": compiled._live() if compiled else 0})


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_alive(request):
    """After every module there are no more objects than before it."""
    before, failed = alive(), request.session.testsfailed
    yield
    if request.session.testsfailed == failed:  # a failure's traceback keeps what it shows
        assert not alive() - before


def load_or_skip(name):
    """Return an engine by name; skip an instruction set that this processor lacks."""
    simd = name.partition(" ")[2]
    return pytest.skip(f"this processor has no {simd}") if simd and not runs(simd) else load(name)


@pytest.fixture(params=ON_EACH_SET, scope="session")
def fused(request):
    """The fused engine, on every instruction set in turn."""
    return load_or_skip(request.param)


@pytest.fixture(
    params=PYTHON if PURE else [*PYTHON, *COMPILED_SCALAR, *ON_EACH_SET], scope="session"
)
def model_engine(request):
    """Every engine in turn, the fused one on every instruction set."""
    return load_or_skip(request.param)


@pytest.fixture(params=[UNASKED] if PURE else COMPILED_SCALAR + ON_EACH_SET, scope="session")
def compiled_model(request):
    """Every engine but the oracle, the fused one on every instruction set."""
    return load_or_skip(request.param)


@pytest.fixture(params=PYTHON if PURE else PYTHON + COMPILED, scope="session")
def engine(request):
    """Every engine in turn: NAME, Value, Tape, GPT, Adam."""
    return microgpt.engine.load(request.param)


@pytest.fixture(params=COMPILED, scope="session")
def compiled(request):
    """Every engine but the oracle; none where the pure package was asked for."""
    return microgpt.engine.load(request.param)


@pytest.fixture(params=PYTHON if PURE else PYTHON + COMPILED_SCALAR, scope="session")
def scalar(request):
    """Every engine with a `Value` of its own."""
    return microgpt.engine.load(request.param)


@pytest.fixture(params=COMPILED_SCALAR, scope="session")
def compiled_scalar(request):
    """Every compiled engine with a `Value` of its own."""
    return microgpt.engine.load(request.param)


@pytest.fixture(scope="session")
def oracle():
    """The engine that the others have to equal."""
    return microgpt.engine.load("python")
