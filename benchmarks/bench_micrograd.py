"""micrograd's demonstration, one step of training, by the way it is written."""

import pytest
from bits import bits
from two_moons import WAYS, Plain


@pytest.mark.parametrize("engine", ["python", "cython"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_two_moons(engine, oracle, timed, way):
    training, judge = WAYS[way](engine), Plain(oracle)
    assert bits(training.step(0), *[p.data for p in training.params]) == bits(
        judge.step(0), *[p.data for p in judge.params]
    )
    timed("two moons, a step", way, training.step, lambda: (1,))
