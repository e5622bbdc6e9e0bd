"""Training: the original program with another `Value`, and the package's model by width."""

import random
from pathlib import Path

import pytest
from bits import bits
from golden.original import Original, read_documents

from microgpt import CharTokenizer
from microgpt.models import MODELS

DOCUMENTS = read_documents(Path(__file__).parent.parent / "tests" / "golden" / "names.txt")
STEPS = {"python": 3, "cython": 30, "fused": 999}


def steps(training, count):
    return [next(training) for _ in range(count)]


@pytest.mark.parametrize("engine", ["python", "cython"], indirect=True)
def test_original_loop(engine, oracle, timed):
    def begin(value):
        return Original(DOCUMENTS, value).training()

    assert bits(*steps(begin(engine.Value), 2)) == bits(*steps(begin(oracle.Value), 2))
    timed(
        "the original loop, only its `Value` changed",
        "a step of 4,192 weights",
        steps,
        lambda: (begin(engine.Value), 10),
        count=10,
    )


@pytest.mark.parametrize("n_embd", [8, 16, 32, 64])
def test_training(engine, oracle, timed, n_embd):
    tokenizer = CharTokenizer.from_documents(DOCUMENTS)
    tokens = [tokenizer.encode_document(name) for name in random.Random(42).sample(DOCUMENTS, 64)]

    def begin(engine):
        model = engine.GPT(tokenizer.vocab_size, n_embd=n_embd)
        return model, engine.Adam(model.params)

    def train(model, adam, num_steps=3):
        return model.fit(tokens, num_steps, adam=adam)

    model, adam = begin(engine)
    if n_embd < 64:  # the oracle takes its time
        assert bits(*train(model, adam)) == bits(*train(*begin(oracle)))
    count = STEPS[engine.NAME]
    if engine.NAME == "python" and n_embd < 32:
        count = 24  # documents of all lengths: how much the collector has to do depends on them
    timed(
        "training",
        f"a step of {model.config.num_params:,} weights",
        train,
        lambda: (*begin(engine), count),
        count=count,
    )


@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt"])
def test_makemores_models(engine, oracle, timed, name):
    tokenizer = CharTokenizer.from_documents(DOCUMENTS)
    tokens = [tokenizer.encode_document(text) for text in ("emma", "isabella")]

    def begin(engine):
        sizes = {} if name == "bigram" else {"n_embd": 8, "n_hidden": 32}
        model = engine.models[name](tokenizer.vocab_size, **sizes)
        return model, engine.Adam(model.params)

    def train(model, adam, num_steps=2):
        return model.fit(tokens, num_steps, adam=adam)

    model, adam = begin(engine)
    assert bits(*train(model, adam)) == bits(*train(*begin(oracle)))
    count = 2 if engine.NAME == "python" else 200
    adam = engine.Adam(model.params, num_steps=10**6)  # the model goes on: it has recorded
    timed(
        f"training, makemore's {name}",
        f"a step of {model.config.num_params:,} weights",
        train,
        lambda: (model, adam, count),
        count=count,
    )
