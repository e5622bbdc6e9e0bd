"""Every benchmark by engine and with the garbage collector on and off.

Run `pytest benchmarks --benchmark-only --benchmark-json=FILE`, then
`python benchmarks/report.py FILE`. Each benchmark asserts once that its result
equals the oracle's by bits; only then is it timed.
"""

import gc

import pytest

import microgpt.engine

collect_ignore = ["report.py"]


@pytest.fixture(params=["python", "cython", "fused"], scope="session")
def engine(request):
    return microgpt.engine.load(request.param)


@pytest.fixture(scope="session")
def oracle():
    return microgpt.engine.load("python")


@pytest.fixture(params=["on", "off"])
def collector(request):
    """The garbage collector as Python sets it, or off."""
    # As in a small script: what pytest holds is frozen, and then forgotten by a collection,
    # so that it does not make full collections rare.
    gc.freeze()
    gc.collect()
    if request.param == "off":
        gc.disable()
    yield request.param
    gc.enable()
    gc.unfreeze()


@pytest.fixture
def timed(request, benchmark, engine, collector):
    """Time function(*setup()): as many rounds as --benchmark-min-rounds says.

    What is timed does `count` times what the table shows, at a size.
    """
    rounds = request.config.getoption("benchmark_min_rounds")

    def time(title, size, function, setup=tuple, count=1, iterations=1):
        benchmark.group = f"{title}, {size}"
        benchmark.extra_info.update(
            title=title, size=size, engine=engine.NAME, collector=collector, count=count
        )
        if iterations == 1:
            benchmark.pedantic(function, setup=lambda: (setup(), {}), rounds=rounds)
        else:
            benchmark.pedantic(function, args=setup(), rounds=rounds, iterations=iterations)

    return time
