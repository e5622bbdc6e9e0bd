"""Copies and pickles of models and optimizers: in a process, in another, on another engine."""

import copy
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from bits import bits
from pickled import DOCUMENTS, goes_on, state, train_elsewhere, trained

from microgpt.engine import load


def shares(model, adam):
    """Return whether the optimizer moves the model's own weights."""
    return all(a is b or a.data == b.data for a, b in zip(adam.params, model.params)) and (
        adam.params is model.params or adam.params[0] is model.params[0]
    )


WAYS = {
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
    "protocol 2": lambda both: pickle.loads(pickle.dumps(both, 4)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
def test_model_and_adam_go_on_from_a_copy(engine, way):
    model, adam = trained(engine)
    other, other_adam = WAYS[way]((model, adam))
    assert type(other) is type(model)
    assert type(other_adam) is type(adam)
    assert shares(other, other_adam)
    assert state(other, other_adam) == state(model, adam)
    before = model.weights()
    expected = goes_on(other, other_adam)
    assert model.weights() == before
    assert goes_on(model, adam) == expected
    assert other.generate(rng=random.Random(1)) == model.generate(rng=random.Random(1))


def test_best_so_far_is_kept_by_a_deep_copy(engine):
    model, adam = trained(engine)
    model.name = "mine"
    best = copy.deepcopy(model)
    kept = best.weights()
    assert best.name == "mine"
    goes_on(model, adam)
    assert best.weights() == kept != model.weights()
    shallow = copy.copy(model)
    shallow.params[0].data = 7.0
    assert model.params[0].data == 7.0


def test_parts_of_a_model_stay_its_parts(engine):
    model, _ = trained(engine)
    row, p = model.state_dict["wpe"][2], model.params[30]
    other, other_row, other_p = copy.deepcopy((model, row, p))
    other_row[1].data, other_p.data = 8.0, 9.0
    assert other.state_dict["wpe"][2][1].data == 8.0
    assert other.params[30].data == 9.0
    assert model.params[30].data != 9.0
    matrix = pickle.loads(pickle.dumps(model.state_dict["layer0.mlp_fc1"]))
    assert [len(row) for row in matrix] == [4] * 16
    assert bits(matrix[3][1].data) == bits(model.state_dict["layer0.mlp_fc1"][3][1].data)


def test_a_subclass_of_ones_own_is_kept(engine):
    class Named(engine.GPT):
        def called(self):
            return "named"

    model = Named(3, 2, 1)
    Named.__qualname__ = "test_a_subclass"
    globals()["test_a_subclass"] = Named
    sys.modules.setdefault(__name__, sys.modules[Named.__module__])
    try:
        other = copy.deepcopy(model)
    finally:
        del globals()["test_a_subclass"]
    assert other.called() == "named"
    assert other.weights() == model.weights()


def test_another_process_trains_on(engine):
    both = trained(engine)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        shown, other = pool.submit(train_elsewhere, both).result(timeout=100)
    assert shown == goes_on(*both)
    assert state(*other) == state(*both)


LOADING = """
import pickle, sys
import microgpt
model, adam = pickle.load(sys.stdin.buffer)
losses = model.fit([[4, 0, 1, 2, 4], [4, 3, 4], [4, 2, 2, 4]], 4, 2, adam=adam)
print(type(model).__module__, microgpt.engine.NAME)
print(*[x.hex() for x in (*losses, *model.weights(), *adam.m, *adam.v)])
"""


def loaded(both, **environment):
    """Return what a process shows that loads and trains on, or its last line of error."""
    result = subprocess.run(
        [sys.executable, "-c", LOADING],
        input=pickle.dumps(both),
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    return result.stdout.decode().splitlines() or result.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize("name", ["python", "cython", "fused"])
def test_a_pickle_of_any_engine_trains_on_under_another(engine, compiled_scalar, name):
    both = trained(engine)
    shown = loaded(both, MICROGPT_ENGINE=name)
    losses = both[0].fit(DOCUMENTS, 4, 2, adam=both[1])
    numbers = (*losses, *both[0].weights(), *both[1].m, *both[1].v)
    assert shown[1].split() == list(bits(*numbers))


def test_a_pickle_of_the_fused_engine_loads_where_nothing_is_compiled(compiled_scalar, tmp_path):
    both = trained(load("fused"))
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import sys\nfor name in ('_engine', '_gpt', '_value', '_gpt'):\n"
        "    sys.modules['microgpt.' + name] = None\n"
    )
    shown = loaded(both, MICROGPT_ENGINE="python", PYTHONPATH=str(tmp_path))
    losses = both[0].fit(DOCUMENTS, 4, 2, adam=both[1])
    assert shown[0] == "microgpt.engine python"
    assert shown[1].split()[:4] == list(bits(*losses))
    refused = loaded(trained(load("cython")), MICROGPT_ENGINE="python", PYTHONPATH=str(tmp_path))
    assert "cython" in refused or "_engine" in refused or "_value" in refused


def test_a_fused_loss_says_that_it_is_not_copied(compiled_scalar):
    loss = load("fused").GPT(5, 4, 2).loss([4, 1, 4])
    with pytest.raises(TypeError, match="keep its data, or the model and the documents"):
        copy.deepcopy(loss)
