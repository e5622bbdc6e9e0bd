"""Random programs give the same data, gradients and exceptions on every engine, by bits."""

from math import inf, nan

import fuzz
import pytest
from fuzz import classes, graphs, models

# Programs that once showed a difference, by what it was.
FOUND = {
    "an overflow comes before a complex power": [("leaf", 0, 0, -1e200), ("a ** k", 0, 0, 1.6)],
    "a played sum dies before a product it had taken in": [
        ("array accumulated", 0, 1, 1.0),
        ("array item played", 1, 1, 1.0),
        ("array dropped", 1, 3, 1.0),
    ],
    "a product is edited in a sum, then dies": [
        ("array accumulated", 0, 2, 1.0),
        ("array item's data", 2, 2, 0.5),
        ("array dropped", 0, 1, 1.0),
    ],
    "a sum is added to itself, which nobody else holds": [
        ("array", 2, 2, 1.0),
        ("array added to", 3, 3, 1.0),
        ("array sum", 1, 2, 1.0),
    ],
    "a sum has the gradient -0.0, and its only term too": [
        ("leaf", 0, 0, 1.0),
        ("set grad", 0, 0, -0.0),
        ("0 + a", 0, 0, 1.0),
        ("set grad", 0, 0, -0.0),
        ("a * k", 0, 0, -0.0),
        ("backward", 0, 0, 1.0),
    ],
}
FOUND_IN_MODELS = {
    "training goes on after Adam's last step, with a wrong token": [
        ("adam", 51, 0, 1.0),
        ("fit", 0, 3, 1.0),
        ("wrong token", 83, 60, 1.0),
    ],
    "the square of a gradient overflows in a step": [("set grad", 0, 0, 1e308), ("step", 0, 0, 1)],
    "a gradient of -0.0 and a unit that is off": [
        ("set grad", 0, 1, 1.0),
        ("loss", 0, 0, 1.0),
        ("backward", 0, 0, 1.0),
    ],
}
EXTREMES = [nan, inf, -inf, -0.0, 5e-324, 1.7976931348623157e308]


@pytest.fixture(autouse=True)
def _compiled(compiled_scalar):
    """Nothing to compare, and so nothing to test, where the pure package was asked for."""


@pytest.mark.parametrize("name", FOUND)
def test_difference_once_found_is_gone(name):
    assert fuzz.compare(graphs, FOUND[name])[1] is None


@pytest.mark.parametrize("name", FOUND_IN_MODELS)
def test_difference_once_found_in_models_is_gone(name):
    assert fuzz.compare(models, FOUND_IN_MODELS[name])[1] is None


@pytest.mark.parametrize("seed", range(20))
def test_programs_show_the_same(seed):
    for number in range(12):
        assert fuzz.compare(*fuzz.make(seed, number))[1] is None, (seed, number)


@pytest.mark.parametrize("name", graphs.STEPS)
def test_each_step_meets_each_extreme(name):
    for k in EXTREMES:
        program = [("leaf", 0, 0, k), ("leaf", 0, 0, -2.0), (name, 1, 0, 0.5), (name, 0, 5, k)]
        assert fuzz.compare(graphs, program)[1] is None, k


@pytest.mark.parametrize("name", models.STEPS)
def test_each_step_of_a_model_meets_each_extreme(name):
    for k in EXTREMES:
        program = [("set", 5, 0, k), ("loss", 3, 1, 1.0), ("backward", 0, 0, 1.0), (name, 1, 2, k)]
        assert fuzz.compare(models, program)[1] is None, k


@pytest.mark.parametrize("seed", range(20))
def test_programs_over_classes_of_any_settings_show_the_same(compiled_scalar, oracle, seed):
    for number in range(40 * seed, 40 * seed + 40):
        expected, found = (classes.show(made, number) for made in (oracle, compiled_scalar))
        assert found == expected, number


@pytest.mark.fuzz
def test_ten_minutes_of_programs_show_the_same():
    assert fuzz.fuzz(600, seed=1) == 0
