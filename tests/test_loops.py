"""Loops over parameters: compiled or run as Python code, they write the same numbers.

Each case is the body of a function of a script, over parameters with gradients.
"""

import pytest
from running import CLASS, SCRIPTS, edited, same

START = """
import math
import random

CLASS

draw = random.Random(7)
params = [Value(draw.gauss(0, 1)) for _ in range(150)]
m = [0.0] * len(params)
v = [0.0] * len(params)
others = [Value(draw.gauss(0, 1)) for _ in params]
ints = [0] * len(params)
lr, beta1, beta2, eps, wd = 0.01, 0.85, 0.99, 1e-8, 0.1


class Optimizer:
    rate = 0.05

    def __init__(self, params):
        self.params, self.lr, self.betas = params, 0.02, (0.9, 0.95)
        self.m, self.v, self.t = [0.0] * len(params), [0.0] * len(params), 0
        self.state = {"m": [0.0] * len(params), "lr": 0.03}

    @property
    def counted(self):
        self.t += 1
        return 0.01

    def parameters(self):
        return list(self.params)


opt = Optimizer(params)
BEFORE

def update(step, self=opt):
    lr_t = lr * (1 - step / 10)
BODY
    return {k: x for k, x in locals().items() if isinstance(x, (int, float))}


for step in range(3):
    for j, p in enumerate(params):
        if j % 5:
            (p * draw.gauss(0, 1) * p).backward()
    try:
        names = update(step)
    except Exception as error:
        names = type(error).__name__, str(error)
    print(step, names, opt.t)
    for p in params + others:
        print(repr(p.data), repr(p.grad))
    print(m, v, ints, opt.m, opt.v, opt.state)
"""
ADAM = """
for i, p in enumerate(params):
    m[i] = beta1 * m[i] + (1 - beta1) * p.grad
    v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
    m_hat = m[i] / (1 - beta1 ** (step + 1))
    v_hat = v[i] / (1 - beta2 ** (step + 1))
    p.data -= lr_t * m_hat / (v_hat**0.5 + eps)
    p.grad = 0
"""
COMPILED = {
    "adam": ADAM,
    "adam_with_locals": """
b1, b2 = beta1, beta2
for i in range(len(params)):
    p = params[i]
    g = p.grad
    m[i] = b1 * m[i] + (1 - b1) * g
    v[i] = b2 * v[i] + (1 - b2) * g * g
    p.data = p.data - lr * (m[i] / (1 - b1 ** (step + 1))) / (math.sqrt(v[i]) + eps)
""",
    "adamw_of_a_class": """
self.t += 1
for i, p in enumerate(self.params):
    self.m[i] = self.betas[0] * self.m[i] + (1 - self.betas[0]) * p.grad
    self.v[i] = self.betas[1] * self.v[i] + (1 - self.betas[1]) * p.grad**2
    m_hat = self.m[i] / (1 - self.betas[0] ** self.t)
    p.data *= 1 - self.lr * wd
    p.data -= self.lr * m_hat / ((self.v[i] / (1 - self.betas[1] ** self.t)) ** 0.5 + eps)
""",
    "adam_of_zip": """
for i, (p, mi, vi) in enumerate(zip(params, m, v)):
    m[i] = beta1 * mi + (1 - beta1) * p.grad
    v[i] = beta2 * vi + (1 - beta2) * p.grad * p.grad
    p.data -= lr_t * m[i] / (v[i] ** 0.5 + eps)
""",
    "values_of_a_dict": "\nfor p in dict(enumerate(params)).values():\n    p.data -= lr * p.grad\n",
    "items_of_a_dict": "\nfor name, p in dict(enumerate(params)).items():\n    p.data -= lr * p.grad\nprint(name)\n",
    "lists_in_a_list": """
state = [m, v]
for i, p in enumerate(params):
    state[0][i] = 0.9 * state[0][i] + 0.1 * p.grad
    state[1][i] = 0.99 * state[1][i] + 0.01 * p.grad**2
    p.data -= lr * state[0][i] / (pow(state[1][i], 0.5) + 1e-8)
""",
    "zip_of_ranges": """
for p, i in zip(params, range(len(params))):
    m[i], v[i] = 0.9 * m[i] + p.grad, v[i] + 1.0
    p.data -= lr * m[i]
""",
    "sgd": "\nfor p in params:\n    p.data += -lr * p.grad\n",
    "sgd_of_a_method": "\nfor p in self.parameters():\n    p.data -= self.lr * p.grad\n",
    "sgd_of_a_tuple": "\nfor p in tuple(params):\n    p.data -= Optimizer.rate * p.grad\n",
    "sgd_of_an_iterator": "\nfor p in iter(params):\n    p.data -= lr * p.grad\n",
    "momentum": """
for i, p in enumerate(params):
    m[i] = 0.9 * m[i] + p.grad
    p.data -= lr * m[i]
""",
    "nesterov_or_not": """
nesterov, decay = step > 0, None
for i, p in enumerate(params):
    g = p.grad if decay is None else p.grad + decay * p.data
    m[i] = 0.9 * m[i] + g
    if nesterov:
        g = g + 0.9 * m[i]
    else:
        g = m[i]
    p.data -= lr * g
""",
    "state_in_a_dict": """
for i, p in enumerate(params):
    self.state["m"][i] = 0.9 * self.state["m"][i] + p.grad
    p.data -= self.state["lr"] * self.state["m"][i]
""",
    "weight_decay": "\nfor p in params:\n    p.data *= 1 - lr * wd\n",
    "decay_in_the_gradient": "\nfor p in params:\n    p.grad += wd * p.data\n    p.data -= lr * p.grad\n",
    "clipping_by_a_factor": """
norm = math.sqrt(sum(p.grad**2 for p in params))
if norm > 0.5:
    for p in params:
        p.grad *= 0.5 / (norm + 1e-6)
""",
    "clipping_each": "\nfor p in params:\n    p.data -= lr * max(-0.5, min(0.5, p.grad))\n",
    "zeroing": "\nfor p in params:\n    p.grad = 0\n",
    "zeroing_with_a_float": "\nfor p in params:\n    p.grad = 0.0\n",
    "zeroing_then_reading": "\nfor p in params:\n    p.grad = 0\n    p.data += p.grad * 0.5 + lr\n",
    "averages_of_weights": "\nfor p, q in zip(params, others):\n    q.data = 0.9 * q.data + 0.1 * p.data\n",
    "chained_assignment": "\nfor i, p in enumerate(params):\n    m[i] = step_size = lr * p.grad\n    p.data -= step_size\n",
    "continue": "\nskip = step == 1\nfor p in params:\n    if skip:\n        continue\n    p.data -= lr * p.grad\n",
    "square_root_of_a_schedule": "\nfor p in params:\n    p.data -= lr / math.sqrt(step + 1) * p.grad\n",
    "function_of_a_schedule": "\nfor p in params:\n    p.data -= lr * math.cos(step) * p.grad\n",
    "list_of_rates": "\nrates = [0.1, 0.2]\nfor p in params:\n    p.data -= rates[1] * p.grad\n",
}  # fmt: skip
AS_IT_STANDS = {
    "sum_carried_along": "\nt = 0.0\nfor p in params:\n    t += p.grad\n    p.data -= lr * t\n",
    "item_of_the_first": "\nfor i, p in enumerate(params):\n    m[i] = m[0] + 1.0\n    p.data -= lr * m[i]\n",
    "data_of_the_first": "\nfor p in params:\n    p.data -= lr * params[0].data\n",
    "data_of_a_named_one": "\nfirst = params[0]\nfor p in params:\n    p.data -= lr * first.data\n",
    "item_before": "\nfor i, p in enumerate(params):\n    m[i] = m[i - 1] + 1.0\n    p.data -= lr * m[i]\n",
    "index_as_a_number": "\nfor i, p in enumerate(params):\n    p.data -= lr * i\n",
    "index_from_one": "\nfor i, p in enumerate(params, 1):\n    m[i - 1] = p.grad\n    p.data -= lr * p.grad\n",
    "test_of_the_gradient": "\nfor p in params:\n    if p.grad > 0:\n        p.data -= lr\n",
    "gradient_equal_to_zero": "\nfor p in params:\n    p.data -= 0.0 if p.grad == 0 else lr\n",
    "gradient_or_one": "\nfor p in params:\n    p.data -= lr * (p.grad or 1.0)\n",
    "counter": "\nfor p in params:\n    self.t += 1\n    p.data -= lr * p.grad\n",
    "property_that_counts": "\nfor p in params:\n    p.data -= self.counted * p.grad\n",
    "function_of_its_own": "\nfor p in params:\n    p.data -= lr * abs(p.grad)\n",
    "draws": "\nfor p in params:\n    p.data += draw.gauss(0, 0.1)\n",
    "same_parameter_twice": "\nfor p in params[:1] + params:\n    p.data -= lr * p.grad\n    p.grad = p.data\n",
    "same_parameter_in_both_lists": "\nfor p, q in zip(params, params[::-1]):\n    p.data -= lr * q.data\n",
    "list_of_ints": "\nfor i, p in enumerate(params):\n    ints[i] = ints[i] + p.grad\n    p.data -= lr * ints[i]\n",
    "data_becomes_an_int": "\nfor p in params:\n    p.data = 2\n",
    "gradient_becomes_an_int": "\nfor p in params:\n    p.grad = 3\n    p.data -= lr * p.grad\n",
    "division_that_raises": "\nfor i, p in enumerate(params):\n    p.data /= params[40].grad - 1.0 if i == 40 else 1.0\n",
    "element_that_raises": "\nm[40] = 0.0\nfor i, p in enumerate(params):\n    p.data = p.grad / m[i] if False else 1.0 / m[i]\n",
    "power_that_raises": "\nfor i, p in enumerate(params):\n    p.data = (p.data - 2.0) ** -0.5 if step else (p.data * 0.0) ** -1.0\n",
    "overflow_that_raises": "\nfor p in params:\n    p.data = (p.data * 1e200) ** 2\n",
    "short_list": "\nshort = m[:40]\nfor i, p in enumerate(params):\n    short[i] += p.grad\n    p.data -= lr\n",
    "missing_name": "\nfor p in params:\n    p.data -= lr * p.grad\n    p.data -= missing\n",
    "generator": "\nfor p in (p for p in params):\n    p.data -= lr * p.grad\n",
    "rebound_sqrt": "\nfor p in params:\n    p.data -= root(p.grad * p.grad)\n",
    "numbers_of_another_type": "\nfrom fractions import Fraction\nfor p in params:\n    p.data -= Fraction(1, 2) * p.grad\n",
    "attribute_of_the_node": "\nfor p in others:\n    p.data -= lr * len(p._children)\n",
    "few": "\nfor p in params[:5]:\n    p.data -= lr * p.grad\n",
}  # fmt: skip


def outcome(body, before="", klass=CLASS):
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    script = edited(START, ("CLASS", klass), ("BEFORE", before), ("BODY", indented))
    result = same(script)
    assert result.replaced == ["Value"]
    assert result.ending == "end"
    lines = script.splitlines()
    return [lines[line - 1].strip() for line in result.loops]


@pytest.mark.parametrize("name", COMPILED)
def test_loop_is_compiled_and_leaves_the_same_numbers(name):
    assert len(outcome(COMPILED[name])) == 1


@pytest.mark.parametrize("name", AS_IT_STANDS)
def test_loop_that_is_not_elementwise_runs_as_it_stands(name):
    assert outcome(AS_IT_STANDS[name], "root = lambda x: x**0.5\n") == []


def test_loop_at_the_top_of_a_script_is_compiled():
    body = edited(START, ("CLASS", CLASS), ("BEFORE", ""), ("BODY", "    pass"))
    at = body.index("    try:\n")
    text = "    lr_t = lr\n" + "\n".join("    " + line for line in ADAM.strip().splitlines())
    result = same(body[:at] + text + "\n" + body[at:])
    assert len(result.loops) == 1


def test_one_element_that_raises_midway_leaves_what_the_loop_leaves():
    body = """
m[90] = -1.0
try:
    for i, p in enumerate(params):
        p.data -= lr / math.sqrt(m[i])
except ValueError:
    pass
"""
    assert outcome(body, "for i in range(len(m)): m[i] = 1.0\n") == []


def test_loop_compiles_when_the_list_becomes_one_of_floats():
    body = """
for i, p in enumerate(params):
    ints[i] = ints[i] + p.grad * 1.0
    p.data -= lr * ints[i]
"""
    assert len(outcome(body)) == 1  # from the second step on


def test_function_that_is_rebound_is_called():
    body = "\nfor p in params:\n    p.data -= lr * max(p.grad, 0.5)\n"
    assert outcome(body, "max = lambda a, b: a * b\n") == []


def test_closures_have_their_loops_compiled_too():
    moons = (SCRIPTS / "moons.py").read_text(encoding="utf-8")
    klass = moons[moons.index("class Value:") : moons.index("class Module:")]
    assert len(outcome(ADAM, klass=klass)) == 1
