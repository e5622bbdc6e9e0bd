"""The fused engine alone, at sizes that take the oracle minutes: wide, in batches, long contexts.

Every figure is a document's, so that batches compare with single documents.
"""

import random
import time
from pathlib import Path

import pytest
from bits import bits
from golden.original import read_documents

from microgpt import CharTokenizer

NAMES = read_documents(Path(__file__).parent.parent / "tests" / "golden" / "names.txt")
TOKENIZER = CharTokenizer.from_documents(NAMES)
DOCUMENTS = [TOKENIZER.encode_document(name) for name in NAMES[:64]]

pytestmark = pytest.mark.parametrize("engine", ["fused"], indirect=True)


def begin(engine, **config):
    model = engine.GPT(TOKENIZER.vocab_size, **config)
    return model, engine.Adam(model.params, 1e-4, num_steps=10**6)  # 0.01 is too much for 512


def train(model, adam, documents, num_steps, batch_size=1, threads=1):
    """Return the last step's loss."""
    return model.fit(documents, num_steps, batch_size, adam=adam, threads=threads)[-1]


@pytest.mark.parametrize(("n_embd", "steps"), [(256, 16), (512, 4)])
def test_training_wide(engine, timed, n_embd, steps):
    def two_steps(threads):
        return train(*begin(engine, n_embd=n_embd), DOCUMENTS, 2, threads=threads)

    assert bits(two_steps(1)) == bits(two_steps(2))  # the oracle would take minutes
    model, adam = begin(engine, n_embd=n_embd)
    timed(
        "training, wide",
        f"a document, {model.config.num_params:,} weights",
        train,
        lambda: (model, adam, DOCUMENTS, steps),
        count=steps,
    )


@pytest.mark.parametrize("n_embd", [16, 64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.benchmark(timer=time.perf_counter)  # processor time would count both threads
def test_training_in_batches(engine, oracle, timed, n_embd, threads):
    small = DOCUMENTS[:3]
    assert bits(train(*begin(engine), small, 2, 2, threads)) == bits(
        train(*begin(oracle), small, 2, 2)
    )
    model, adam = begin(engine, n_embd=n_embd)
    steps = 4096 // n_embd
    timed(
        f"training, batch 16, threads: {threads}",
        f"a document, {model.config.num_params:,} weights",
        train,
        lambda: (model, adam, DOCUMENTS, steps, 16, threads),
        count=16 * steps,
    )


@pytest.mark.parametrize("n_embd", [16, 64])
def test_training_on_long_documents(engine, oracle, timed, n_embd):
    rng = random.Random(1)
    document = [26, *(rng.randrange(26) for _ in range(255)), 26]
    short = [document[:40]]
    assert bits(train(*begin(engine, block_size=32), short, 1)) == bits(
        train(*begin(oracle, block_size=32), short, 1)
    )
    model, adam = begin(engine, n_embd=n_embd, block_size=256)
    steps = 256 // n_embd
    timed(
        "training, 256 positions",
        f"a document, {model.config.num_params:,} weights",
        train,
        lambda: (model, adam, [document], steps),
        count=steps,
    )
