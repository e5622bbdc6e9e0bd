"""The optimizer: known answers, the schedule, and its errors."""

import random
from array import array

import pytest
from bits import bits


def test_the_first_step_moves_by_the_learning_rate_against_the_gradient(scalar):
    a, b = scalar.Value(1.0), scalar.Value(1.0)
    a.grad, b.grad = 3.0, -0.25
    scalar.Adam([a, b], learning_rate=0.5).step()
    assert abs(a.data - 0.5) < 1e-6
    assert abs(b.data - 1.5) < 1e-6


def test_a_step_is_the_originals_formula(scalar):
    beta1, beta2, rate, eps, num_steps = 0.8, 0.95, 0.03, 1e-6, 4
    adam = scalar.Adam([scalar.Value(0.7)], rate, beta1, beta2, eps_adam=eps, num_steps=num_steps)
    data, m, v = 0.7, 0.0, 0.0
    for t, grad in enumerate([0.3, -1.7, 0.0, 1e-200]):
        adam.params[0].grad = grad
        adam.step()
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        m_hat = m / (1 - beta1 ** (t + 1))
        v_hat = v / (1 - beta2 ** (t + 1))
        data -= rate * (1 - t / num_steps) * m_hat / (v_hat**0.5 + eps)
        assert bits(adam.params[0].data, adam.m[0], adam.v[0]) == bits(data, m, v)
        assert adam.t == t + 1


def test_three_hundred_random_steps_are_the_originals_formula(scalar):
    """Of formulas that are equal on paper, only the original's gives these bits."""
    beta1, beta2, rate, eps, num_steps = 0.85, 0.99, 0.013, 1e-8, 777
    adam = scalar.Adam([scalar.Value(0.7)], rate, beta1, beta2, eps_adam=eps, num_steps=num_steps)
    rng = random.Random(1)
    m, v = 0.0, 0.0
    for t in range(300):
        grad = adam.params[0].grad = rng.gauss(0, 1)
        data = adam.params[0].data = 0.0  # so that the step's last bits are seen
        adam.step()
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        m_hat = m / (1 - beta1 ** (t + 1))
        v_hat = v / (1 - beta2 ** (t + 1))
        data -= rate * (1 - t / num_steps) * m_hat / (v_hat**0.5 + eps)
        assert bits(adam.params[0].data, adam.m[0], adam.v[0]) == bits(data, m, v)


def test_a_step_clears_the_gradients(scalar):
    x = scalar.Value(1.0)
    x.grad = -2.0
    scalar.Adam([x]).step()
    assert bits(x.grad) == bits(0.0)


def test_gradients_of_zero_move_nothing(scalar):
    x = scalar.Value(-0.0)
    scalar.Adam([x]).step()
    assert bits(x.data) == bits(-0.0)


def test_without_eps_a_gradient_of_zero_divides_by_zero(scalar):
    with pytest.raises(ZeroDivisionError):
        scalar.Adam([scalar.Value(1.0)], eps_adam=0.0).step()


def test_a_gradient_whose_square_overflows_says_so(scalar):
    x = scalar.Value(1.0)
    x.grad = 1e200
    with pytest.raises(OverflowError):
        scalar.Adam([x]).step()


@pytest.mark.parametrize("fault", ["grad", "v"])
def test_a_step_that_raises_leaves_everything_as_it_was(scalar, fault):
    params = [scalar.Value(float(i)) for i in range(4)]
    adam = scalar.Adam(params)
    for _ in range(2):
        for i, x in enumerate(params):
            x.grad = 0.1 * i + 0.3
        adam.step()
    for i, x in enumerate(params):
        x.grad = 0.2 * i + 0.1
    if fault == "grad":
        params[2].grad = 1e200
    else:
        adam.v[2] = -1.0

    def state():
        return bits(*[x.data for x in params], *[x.grad for x in params], *adam.m, *adam.v), adam.t

    before = state()
    with pytest.raises((OverflowError, ValueError)):
        adam.step()
    assert state() == before


def test_a_negative_second_moment_has_no_root(scalar):
    adam = scalar.Adam([scalar.Value(1.0)])
    adam.v[0] = -1.0
    with pytest.raises(ValueError, match=r"^-98.99999999999991 \*\* 0.5 is not a real number$"):
        adam.step()
    assert bits(adam.params[0].data) == bits(1.0)


def test_a_step_before_the_first_divides_by_zero(scalar):
    adam = scalar.Adam([scalar.Value(1.0)])
    adam.t = -1
    with pytest.raises(ZeroDivisionError, match=r"^(float )?division by zero$"):
        adam.step()


def test_it_ends_after_num_steps(scalar):
    adam = scalar.Adam([scalar.Value(1.0)], num_steps=2)
    adam.step()
    adam.step()
    with pytest.raises(ValueError, match="all num_steps=2 steps"):
        adam.step()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"beta1": 1.0}, "beta1 .* not 1.0"),
        ({"beta2": -0.1}, "beta2 .* not -0.1"),
        ({"learning_rate": -1}, "learning_rate .* not -1"),
        ({"learning_rate": float("nan")}, "learning_rate .* not nan"),
        ({"eps_adam": float("inf")}, "eps_adam .* not inf"),
        ({"num_steps": 0}, "num_steps .* not 0"),
    ],
)
def test_settings_out_of_range_are_named(scalar, settings, named):
    with pytest.raises(ValueError, match=named):
        scalar.Adam([], **settings)


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "eps_adam", "num_steps", "clip"])
def test_settings_that_are_no_numbers_are_named(scalar, name):
    with pytest.raises(TypeError, match=f"{name} must be a number, not str"):
        scalar.Adam([], **{name: "2"})


def test_adam_of_every_engine_takes_any_values(model_engine, oracle):
    def train(made, value):
        params = [value(0.5), value(-2.0)]
        adam = made.Adam(params, learning_rate=0.1)
        for _ in range(3):
            (params[0] * params[1] + params[0] ** 2).backward()
            adam.step()
        return bits(*[p.data for p in params], *adam.m, *adam.v)

    assert train(model_engine, model_engine.Value) == train(oracle, oracle.Value)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 0.01}, {"beta1": 0.85}, {"beta2": 0.99}, {"eps_adam": 1e-3}],
)
def test_settings_of_single_precision_are_computed_in_double(model_engine, settings):
    np = pytest.importorskip("numpy")
    ((name, number),) = settings.items()
    results = []
    for setting in (np.float32(number), float(np.float32(number))):
        x = model_engine.Value(1.0)
        adam = model_engine.Adam([x], **{name: setting})
        for grad in (0.3, -0.1):
            x.grad = grad
            adam.step()
        assert type(x.data) is float
        results.append(bits(x.data, adam.m[0], adam.v[0]))
    assert results[0] == results[1]


def test_moments_that_are_set_are_those_of_the_next_step(engine, oracle):
    shown = []
    for made in (oracle, engine):
        model = made.GPT(5, 4, 2, 1, 4)
        adam = made.Adam(model.params)
        model.fit([[4, 0, 1, 4]], 2, adam=adam)
        adam.m = array("d", [0.5]) * len(model.params)
        adam.v = [0.25] * len(model.params)
        model.fit([[4, 0, 1, 4]], 2, adam=adam)
        adam.m = [0.0] * len(model.params)
        model.loss([4, 0, 1, 4]).backward()
        adam.step()
        shown.append(bits(*model.weights(), *adam.m, *adam.v))
    assert shown[0] == shown[1]
