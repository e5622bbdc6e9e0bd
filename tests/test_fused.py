"""The fused engine against the oracle's graph, on every instruction set of this processor."""

import random
import subprocess
import sys

import pytest
from bits import bits

from microgpt import engine, fused

SHAPES = [
    # vocab_size, n_embd, n_head, n_layer, block_size
    (27, 16, 4, 1, 16),
    (1, 1, 1, 1, 1),
    (2, 2, 2, 1, 3),
    (3, 1, 1, 2, 2),
    (5, 6, 2, 2, 4),
    (7, 5, 5, 1, 20),
    (11, 12, 3, 3, 5),
    (30, 24, 2, 1, 9),
    (40, 20, 1, 1, 12),
]


def document(rng, vocab_size, length):
    """Return a document of random tokens with BOS, the last id, on both ends."""
    return [vocab_size - 1, *(rng.randrange(vocab_size) for _ in range(length)), vocab_size - 1]


def pair(shape, scale=1.0, seed=3):
    """Return an exact scalar model and the fused one of the same weights."""
    models = [
        engine.load(name).GPT(*shape, rng=random.Random(seed)) for name in ("cython", "fused")
    ]
    for model in models:
        for p in model.params:
            p.data *= scale
    return models


def assert_equal(scalar, model):
    """Weights and gradients are equal, matrix by matrix."""
    for name, matrix in model.state_dict.items():
        rows = scalar.state_dict[name]
        assert bits(*(p.data for row in matrix for p in row)) == bits(
            *(p.data for row in rows for p in row)
        ), name
        assert bits(*(p.grad for row in matrix for p in row)) == bits(
            *(p.grad for row in rows for p in row)
        ), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [0, 1, 2, 7, 23])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_loss_and_gradients_of_a_document_are_the_graphs(shape, length, scale):
    scalar, model = pair(shape, scale)
    tokens = document(random.Random(length), shape[0], length)
    for _ in range(2):  # the second adds to the first
        expected, loss = scalar.loss(tokens), model.loss(tokens)
        assert bits(loss.data) == bits(expected.data)
        expected.backward()
        loss.backward()
        assert_equal(scalar, model)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_of_a_batch_are_the_graphs(shape):
    scalar, model = pair(shape, 3.0)
    rng = random.Random(4)
    for lengths in ([5], [0, 9, 3], [4, 4, 30, 1, 0]):
        batch = [document(rng, shape[0], length) for length in lengths]
        expected, loss = scalar.batch_loss(batch), model.batch_loss(batch)
        assert bits(loss.data) == bits(expected.data)
        expected.backward()
        loss.backward()
        assert_equal(scalar, model)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_training_and_samples_are_the_graphs(shape, batch_size):
    scalar, model = pair(shape)
    rng = random.Random(5)
    documents = [document(rng, shape[0], rng.randrange(20)) for _ in range(7)]
    assert bits(*model.fit(documents, 10, batch_size)) == bits(
        *scalar.fit(documents, 10, batch_size)
    )
    assert_equal(scalar, model)
    streams = random.Random(6), random.Random(6)
    for top_k in (None, 1, 2):
        expected, drawn = (
            m.generate(temperature=0.9, top_k=top_k, rng=r)
            for m, r in zip((scalar, model), streams)
        )
        assert drawn == expected
    assert streams[0].random() == streams[1].random()


def test_a_second_backward_adds_what_the_graph_adds():
    scalar, model = pair((5, 4, 2, 1, 6))
    tokens = [4, 1, 2, 1, 4]
    for losses in (
        (scalar.loss(tokens), model.loss(tokens)),
        (scalar.batch_loss([tokens]), model.batch_loss([tokens])),
    ):
        for _ in range(3):
            for loss in losses:
                loss.backward()
            assert_equal(scalar, model)


def test_backward_takes_the_weights_of_the_forward_pass():
    scalar, model = pair((5, 4, 2, 1, 6))
    losses = scalar.loss([4, 1, 2, 4]), model.loss([4, 1, 2, 4])
    for m, loss in zip((scalar, model), losses):
        m.params[70].data = 9.0
        loss.backward()
    assert_equal(scalar, model)


@pytest.mark.parametrize(
    "simd", [simd for simd in ("avx2", "baseline") if fused._baseline.runs(simd)]
)
def test_every_instruction_set_passes_these_tests(simd, monkeypatch):
    if simd == fused.SIMD:
        pytest.skip("this is the set that these tests run on")
    monkeypatch.setenv("MICROGPT_SIMD", simd)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "graphs",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=600)


@pytest.mark.parametrize(
    ("simd", "error"), [("sse9", "ValueError: no MICROGPT_SIMD 'sse9'"), ("", "ValueError")]
)
def test_an_unknown_instruction_set_is_refused(simd, error, monkeypatch):
    monkeypatch.setenv("MICROGPT_SIMD", simd)
    result = subprocess.run(
        [sys.executable, "-c", "import microgpt.fused"], check=False, capture_output=True, text=True
    )
    assert error in result.stderr
    assert "baseline" in result.stderr


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES[:1] + SHAPES[3:5] + SHAPES[7:8])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_number_of_threads_gives_the_same_bits(threads, shape, batch_size):
    rng = random.Random(7)
    documents = [document(rng, shape[0], rng.randrange(20)) for _ in range(9)]
    trained = []
    for count in (1, threads):
        model = fused.GPT(*shape, rng=random.Random(8))
        model.threads = count
        trained.append((bits(*model.fit(documents, 15, batch_size)), model.weights().tobytes()))
    assert trained[0] == trained[1]
