"""Random programs show the same on every engine: data, gradients, exceptions, by bits."""

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from programs import PROGRAMS, large_program, run


@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS)
@example(program=[("leaf", 0, 0, -1e200), ("a ** k", 0, 0, 1.6)])  # overflows before it is complex
def test_programs_show_the_same(compiled_scalar, oracle, program):
    assert run(program, compiled_scalar) == run(program, oracle)


@pytest.mark.parametrize("seed", range(50))
def test_large_graphs_show_the_same(compiled_scalar, oracle, seed):
    program = large_program(random.Random(seed), 400)
    assert run(program, compiled_scalar) == run(program, oracle)


@pytest.mark.slow
@settings(max_examples=100_000, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS)
def test_many_programs_show_the_same(compiled_scalar, oracle, program):
    assert run(program, compiled_scalar) == run(program, oracle)
