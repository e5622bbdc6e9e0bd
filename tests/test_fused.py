"""The fused engine against the oracle's graph, on every instruction set of this processor."""

import functools
import math
import os
import random
import subprocess
import sys

import numpy
import pytest
from bits import bits

from microgpt import engine

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


def pair(fused, shape, scale=1.0, seed=3):
    """Return an exact scalar model and the fused one of the same weights."""
    models = [
        chosen.GPT(*shape, rng=random.Random(seed)) for chosen in (engine.load("cython"), fused)
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
def test_loss_and_gradients_of_a_document_are_the_graphs(fused, shape, length, scale):
    scalar, model = pair(fused, shape, scale)
    tokens = document(random.Random(length), shape[0], length)
    for _ in range(2):  # the second adds to the first
        expected, loss = scalar.loss(tokens), model.loss(tokens)
        assert bits(loss.data) == bits(expected.data)
        expected.backward()
        loss.backward()
        assert_equal(scalar, model)


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_of_a_batch_are_the_graphs(fused, shape):
    scalar, model = pair(fused, shape, 3.0)
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
def test_training_and_samples_are_the_graphs(fused, shape, batch_size):
    scalar, model = pair(fused, shape)
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


def trained(chosen, shape, lengths, dropout=0.0):
    """Return losses, weights and gradients of a model after two steps and a backward."""
    rng = random.Random(5)
    documents = [document(rng, shape[0], length) for length in lengths]
    model = chosen.GPT(*shape, rng=random.Random(4), dropout=dropout)
    losses = model.fit(documents, 2, len(documents))
    model.loss(documents[0]).backward()
    return bits(*losses), bits(*model.weights()), bits(*model.gradients())


@functools.cache
def trained_graph(shape, lengths, dropout=0.0):
    """Return `trained` of the exact scalar engine, once for all instruction sets."""
    return trained(engine.load("cython"), shape, lengths, dropout)


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((5, 100, 4, 1, 4), (4,)),  # more rows than lead back to the inputs at once
        ((7, 68, 2, 1, 6), (4, 4)),  # more outputs than are transposed back at once
        ((3, 40, 2, 1, 30), (40,)),  # a sum in two parts, many positions
        ((300, 8, 1, 1, 3), (4, 1)),  # a vocabulary of more than a block
        ((67, 68, 2, 1, 40), (39, 39)),  # packed products, of more than a block of a sum
        ((500, 64, 4, 1, 33), (33,)),  # packed products of more than a block of columns
        ((3, 4, 2, 1, 140), (139,)),  # more positions than exponentials are computed in turn
        ((3, 4, 2, 1, 90), (89, 20, 5, 90, 0, 80, 89, 77, 33, 90, 89, 12)),  # groups of documents
    ],
)
def test_wide_models_are_the_graphs(fused, shape, lengths):
    assert trained(fused, shape, lengths) == trained_graph(shape, lengths)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_narrow_heads_of_any_length_are_the_graphs(fused, dropout):
    shape, lengths = (5, 8, 2, 1, 45), (45, 1, 3, 8, 12, 16, 17, 20, 25, 31, 32, 41)
    assert trained(fused, shape, lengths, dropout) == trained_graph(shape, lengths, dropout)


@pytest.mark.parametrize("n_head", [2, 4])
def test_positions_do_not_see_later_values_not_even_infinite_ones(fused, n_head):
    model = fused.GPT(5, 8, n_head, 1, 40, rng=random.Random(4))
    for matrix in ("wte", "wpe"):
        for row in model.state_dict[matrix]:
            row[0].data = 0.0
    model.state_dict["wte"][3][0].data = 1.0
    model.state_dict["layer0.attn_wv"][0][0].data = 1e308  # overflows for token 3 alone
    before, after = [4, *([0, 1, 2] * 7)[:19]], [3, *[0, 1, 2] * 6]
    whole = model.loss(before + after).activations["logits"]
    logits = [bits(*row) for row in whole.tolist()]
    assert "nan" in logits[20]
    prefix = model.loss([*before, 0]).activations["logits"]
    assert logits[:20] == [bits(*row) for row in prefix.tolist()]


def test_a_second_backward_knows_the_documents_of_the_first(fused):
    scalar, model = pair(fused, (5, 4, 2, 1, 6))
    tokens = [4, 1, 2, 1, 4]
    losses = scalar.loss(tokens), model.loss(tokens)
    for loss in losses:
        loss.backward()
    tokens[2] = 0
    for loss in losses:
        loss.backward()
    assert_equal(scalar, model)


def test_a_second_backward_adds_what_the_graph_adds(fused):
    scalar, model = pair(fused, (5, 4, 2, 1, 6))
    tokens = [4, 1, 2, 1, 4]
    for losses in (
        (scalar.loss(tokens), model.loss(tokens)),
        (scalar.batch_loss([tokens]), model.batch_loss([tokens])),
    ):
        for _ in range(3):
            for loss in losses:
                loss.backward()
            assert_equal(scalar, model)


def test_backward_takes_the_weights_of_the_forward_pass(fused):
    scalar, model = pair(fused, (5, 4, 2, 1, 6))
    losses = scalar.loss([4, 1, 2, 4]), model.loss([4, 1, 2, 4])
    for m, loss in zip((scalar, model), losses):
        m.params[70].data = 9.0
        loss.backward()
    assert_equal(scalar, model)


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
@pytest.mark.parametrize("shape", SHAPES[:1] + SHAPES[3:5] + SHAPES[7:8] + [(67, 68, 2, 1, 40)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_number_of_threads_gives_the_same_bits(fused, threads, shape, batch_size):
    rng = random.Random(7)
    documents = [document(rng, shape[0], rng.randrange(20)) for _ in range(9)]
    ended = []
    for count in (1, threads):
        model = fused.GPT(*shape, rng=random.Random(8))
        losses = model.fit(documents, 15, batch_size, threads=count)
        ended.append((bits(*losses), model.weights().tobytes()))
    assert ended[0] == ended[1]


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_that_take_many_shares_give_the_same_bits(fused, threads):
    rng = random.Random(9)
    documents = [[67, *(rng.randrange(67) for _ in range(rng.randint(60, 64)))] for _ in range(32)]
    ended = []
    for count in (1, threads):
        model = fused.GPT(68, 24, 2, 2, 64, rng=random.Random(8))
        losses = model.fit(documents, 2, 32, threads=count)  # 2,000 positions
        ended.append((bits(*losses), model.weights().tobytes()))
    assert ended[0] == ended[1]


def recorded(monkeypatch, model, tokens):
    """Return {function: lists of floats}, what the oracle computes on the way to a loss."""
    calls = {}
    module = sys.modules["microgpt.functions"]

    def recording(name, function):
        def call(*arguments):
            result = function(*arguments)
            calls.setdefault(name, []).append([value.data for value in result])
            return result

        return call

    for name in ("linear", "softmax", "rmsnorm"):
        monkeypatch.setattr(module, name, recording(name, getattr(module, name)))
    model.loss(tokens)
    return calls


@pytest.mark.parametrize("shape", [(27, 16, 4, 1, 16), (5, 6, 2, 3, 4), (7, 5, 1, 2, 9)])
def test_activations_are_the_graphs(fused, shape, monkeypatch):
    vocab_size, _, n_head, n_layer, block_size = shape
    oracle = engine.load("python").GPT(*shape, rng=random.Random(3))
    model = fused.GPT(*shape, rng=random.Random(3))
    tokens = document(random.Random(9), vocab_size, 7)
    n = min(len(tokens) - 1, block_size)
    loss = model.batch_loss([[vocab_size - 1, 0], tokens])
    assert loss.starts == [0, 1, 1 + n]
    shown = {name: numpy.asarray(buffer)[1:] for name, buffer in loss.activations.items()}
    assert not any(buffer.flags.owndata or buffer.flags.writeable for buffer in shown.values())
    calls = recorded(monkeypatch, oracle, tokens)
    linear, softmax, rmsnorm = (iter(calls[name]) for name in ("linear", "softmax", "rmsnorm"))
    for t in range(n):
        assert bits(*shown["layer0.input"][t]) == bits(*next(rmsnorm))
        for i in range(n_layer):
            at = f"layer{i}."
            assert bits(*shown[at + "attn_norm"][t]) == bits(*next(rmsnorm))
            for name in ("q", "k", "v"):
                assert bits(*shown[at + name][t]) == bits(*next(linear))
            for h in range(n_head):
                weights = numpy.asarray(loss.attention(i, 1))[h, t]
                assert bits(*weights) == bits(*next(softmax), *[0.0] * (n - 1 - t))
            out = numpy.array(next(linear)) + shown[at + "input"][t]
            assert bits(*shown[at + "mlp_input"][t]) == bits(*out)
            assert bits(*shown[at + "mlp_norm"][t]) == bits(*next(rmsnorm))
            hidden = numpy.maximum(next(linear), 0.0)
            assert bits(*shown[at + "mlp_hidden"][t]) == bits(*hidden)
            out = numpy.array(next(linear)) + shown[at + "mlp_input"][t]
            after = "output" if i == n_layer - 1 else f"layer{i + 1}.input"
            assert bits(*shown[after][t]) == bits(*out)
        assert bits(*shown["logits"][t]) == bits(*next(linear))
        assert bits(*shown["probs"][t]) == bits(*next(softmax))


def test_numpy_takes_weights_and_gradients_without_a_copy(fused):
    model = fused.GPT(5, 6, 2)
    model.loss([4, 1, 4]).backward()
    matrix = model.state_dict["layer0.mlp_fc2"]
    data, grad = numpy.asarray(matrix.data), numpy.asarray(matrix.grad)
    assert data.shape == (6, 24)
    assert data.dtype == float
    data[5, 23] = 7.0
    assert matrix[5][23].data == 7.0
    assert model.params[-1].data == 7.0
    assert bits(*grad.ravel()) == bits(*(p.grad for row in matrix for p in row))
    assert grad.any()
    assert numpy.shares_memory(numpy.asarray(model.params.grad), grad)


def state(model, adam):
    """Return all that a step changes, by bits."""
    return (
        bits(*model.weights()),
        bits(*model.gradients()),
        bits(*adam.m),
        bits(*adam.v),
        adam.t,
    )


NARROW = (5, 6, 2, 1, 4)
WIDE = (5, 28, 2, 1, 4)  # too many weights for all their gradients to be computed first


def both(fused, change, steps=3, batch_size=1, threads=1, watch=True, shape=NARROW, **settings):
    """Train both models, changed alike; return for each losses, exception and state.

    If watched, steps are told one by one, and so each is taken as the first of its run.
    """
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(*shape, rng=random.Random(3))
        adam = chosen.Adam(model.params, **settings)
        change(model, adam)
        losses = []
        try:
            model.fit(
                [[4, 1, 2, 1, 4], [4, 4], [4, 0, 4]],
                steps,
                batch_size,
                adam=adam,
                threads=threads,
                on_step=(lambda t, loss, losses=losses: losses.append(loss)) if watch else None,
            )
            ended = None
        except (ArithmeticError, ValueError) as error:
            ended = type(error)
        seen.append((bits(*losses), ended, state(model, adam)))
    return seen


def put(matrix, i, j, data=None, grad=None):
    """Return a change of one weight, or of its gradient."""

    def change(model, adam):
        p = model.state_dict[matrix][i][j]
        if data is not None:
            p.data = data
        if grad is not None:
            p.grad = grad

    return change


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    "number", [math.inf, -math.inf, math.nan, 1e200, -1e200, 1e160, 5e-324, -0.0]
)
@pytest.mark.parametrize(
    ("matrix", "i", "j"),
    [
        ("wte", 1, 2),
        ("wpe", 0, 0),
        ("wpe", 3, 1),
        ("lm_head", 1, 3),
        ("lm_head", 3, 0),
        ("layer0.attn_wq", 0, 1),
        ("layer0.attn_wk", 5, 5),
        ("layer0.attn_wv", 2, 0),
        ("layer0.attn_wo", 1, 1),
        ("layer0.mlp_fc1", 20, 3),
        ("layer0.mlp_fc2", 2, 20),
    ],
)
def test_a_weight_of_any_size_ends_as_on_the_graph(
    fused, matrix, i, j, number, batch_size, threads
):
    expected, found = both(fused, put(matrix, i, j, data=number), 3, batch_size, threads)
    assert found == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "number", [math.inf, math.nan, 1.4e154, -1e200, 1.3e154, 1e-160, 5e-324, -0.0, 1e-20, 1e10]
)
@pytest.mark.parametrize("matrix", ["wte", "layer0.attn_wq", "layer0.mlp_fc2"])
@pytest.mark.parametrize("shape", [NARROW, WIDE])
def test_a_gradient_of_any_size_ends_as_on_the_graph(fused, shape, matrix, number, threads):
    expected, found = both(fused, put(matrix, 2, 3, grad=number), threads=threads, shape=shape)
    assert found == expected


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {"eps_adam": 0.0},
        {"beta1": 0, "beta2": 0},
        {"learning_rate": 0},
        {"learning_rate": 1e300},
        {"num_steps": 2},
        {"num_steps": 2**53 + 1},
        {"num_steps": 10**400},
        {"beta1": 0.9999999999999999, "beta2": 0.9999999999999999},
    ],
)
@pytest.mark.parametrize("shape", [NARROW, WIDE])
def test_settings_at_their_bounds_end_as_on_the_graph(fused, shape, settings, threads):
    expected, found = both(
        fused, lambda model, adam: None, threads=threads, shape=shape, **settings
    )
    assert found == expected


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("second", "rate", "place"),
    [
        ([4, 0, 2, 3, 0, 2, 0, 0, 4], 0.01, 6),  # no token 1: its row of wte
        ([4, 0, 1, 2, 3, 4], 0.01, 5 * 6 + 5 * 6),  # five positions: the sixth row of wpe
        ([4, 0, 1, 2, 3, 0, 1, 2, 4], 0.0, 18 * 6 + 4 * 36 + 5 * 6),  # a unit that stays off
    ],
)
def test_adam_that_raises_in_a_later_step_leaves_what_the_graph_leaves(
    fused, second, rate, place, threads
):
    """Weights and moments are those after the step before, gradients those of this one."""
    documents = [[4, 3, 2, 1, 0, 4, 3, 2, 1], second]
    for _ in range(4):  # what threads do too much depends on which of them comes first
        seen = []
        for chosen in (engine.load("cython"), fused):
            model = chosen.GPT(5, 6, 2, 1, 8, rng=random.Random(3))
            adam = chosen.Adam(model.params, rate, beta2=0.0, eps_adam=0.0)
            for p in model.params:
                p.grad = 1e-3  # so that the first step has no gradient of zero
            for p in model.state_dict["layer0.mlp_fc1"][5]:
                p.data = 0.0
            with pytest.raises(ZeroDivisionError):
                model.fit(documents, 3, adam=adam, threads=threads)
            seen.append(state(model, adam))
        assert seen[0] == seen[1]
        weights, gradients, first_moments, second_moments, t = seen[0]
        assert t == 1
        assert gradients[place] in bits(0.0, -0.0)
        once = engine.load("cython").GPT(5, 6, 2, 1, 8, rng=random.Random(3))
        adam = engine.load("cython").Adam(once.params, rate, beta2=0.0, eps_adam=0.0)
        for p in once.params:
            p.grad = 1e-3
        for p in once.state_dict["layer0.mlp_fc1"][5]:
            p.data = 0.0
        once.fit(documents, 1, adam=adam)
        _, *after_one_step = state(once, adam)
        assert (weights, first_moments, second_moments) == (
            bits(*once.weights()),
            *after_one_step[1:3],
        )


def number(rng, largest):
    """Return zero, or a number of any size below 10 ** largest, often a usual one."""
    size = 10.0 ** rng.choice([rng.uniform(-325, largest), rng.uniform(-12, 1), rng.uniform(-3, 0)])
    return rng.choice([size, -size, size, -size, 0.0, -0.0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eps_adam": 1e-17},
        {"eps_adam": 1e-30},
        {"learning_rate": 1e25},
        {"learning_rate": 1e300},
        {"beta1": 0.9999999999999999, "beta2": 0.999},
    ],
)
@pytest.mark.parametrize("t", [0, 9, 171, 215, 3300, 3449, 3500, 3600, 3655, 10**5])
@pytest.mark.parametrize("seed", range(2))
def test_adam_of_any_numbers_is_the_scalar_one(fused, settings, t, seed):
    seen = []
    for chosen in (engine.load("cython"), fused):
        rng = random.Random(f"{t} {seed}")
        model = chosen.GPT(5, 6, 2, 1, 4)
        adam = chosen.Adam(model.params, num_steps=10**6, **settings)
        adam.t = t
        for i, p in enumerate(model.params):
            p.data, p.grad = number(rng, 308), number(rng, 150)
            adam.m[i], adam.v[i] = number(rng, 308), abs(number(rng, 308))
        adam.m[7], adam.m[8], adam.v[20], adam.v[21] = math.inf, math.nan, math.inf, math.nan
        for _ in range(2):
            adam.step()
            for p in model.params:
                p.grad = number(rng, 150)
        seen.append(state(model, adam))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("what", "number"),
    [
        *(("grad", x) for x in (1e30, 1e200, math.inf, math.nan, 1e-60, 1e-161, 1e-300, 0.0)),
        *(("v", x) for x in (-1.0, -0.0, 1e21, 1e250, math.inf, 0.0)),
        *(("m", x) for x in (1e-300, math.nan)),
        *(("data", x) for x in (0.0, 1e-200)),
    ],
)
def test_adam_among_usual_numbers_takes_one_of_any_size_anywhere(fused, what, number):
    """Vectors are under way while one is begun: all of them come to their end, and no more."""
    for where in [*range(0, 64, 7), 255, 300, -1]:
        seen = []
        for chosen in (engine.load("cython"), fused):
            rng = random.Random(where)
            model = chosen.GPT(5, 6, 2, 1, 4)
            adam = chosen.Adam(model.params)
            for i, p in enumerate(model.params):
                p.data, p.grad = rng.gauss(0, 0.1), rng.gauss(0, 1e-3)
                adam.m[i], adam.v[i] = rng.gauss(0, 1e-3), rng.gauss(0, 1e-3) ** 2
            if what in ("m", "v"):
                getattr(adam, what)[where] = number
            else:
                setattr(list(model.params)[where], what, number)
            try:
                adam.step()
                ended = None
            except Exception as error:
                ended = type(error)
            seen.append((ended, state(model, adam)))
        assert seen[0] == seen[1]
        if number in (1e200, -1.0):
            assert seen[0][0] in (OverflowError, ValueError)


@functools.cache
def differing(power, size):
    """Return numbers of a size whose square or root by libm's pow is not the rounded one."""
    rng = random.Random(f"{power} {size}")
    xs = [size * rng.uniform(0.5, 2.0) for _ in range(200_000)]
    rounded = (lambda x: x * x) if power == 2 else math.sqrt
    return [x for x in xs if x**power != rounded(x)][:150] or xs[:150]


@pytest.mark.parametrize(
    ("power", "size", "settings"),
    [
        *((2, size, {}) for size in (1e-20, 1e-3, 1.0, 1e8)),
        *((0.5, size, {"eps_adam": 1e-18}) for size in (1e-40, 1e-6, 1.0, 1e15)),
        *((0.5, size, {"eps_adam": 1e-300}) for size in (1e-308, 1e-200, 1e-80, 1e60, 1e300)),
        *((1, size, {"learning_rate": 1e300}) for size in (1e-308, 3e-309, 1e-309, 1e-315)),
    ],
)
def test_adam_takes_pows_square_and_root_where_they_are_not_the_rounded(
    fused, power, size, settings
):
    rng = random.Random(power)
    small = [size * rng.uniform(0.5, 2.0) for _ in range(150)]
    numbers = differing(power, size) if power != 1 else small
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(5, 6, 2, 1, 4)
        adam = chosen.Adam(model.params, beta1=0.7, beta2=0.5, **settings)
        for i, p in enumerate(model.params):
            number = numbers[i % len(numbers)]
            p.data = 0.0  # so that the whole step is seen
            p.grad = number if power == 2 else 0.0
            adam.v[i] = number if power == 0.5 else i % 3 * size**2 if power == 2 else 1.0
            adam.m[i] = number if power == 1 else math.sqrt(size)
        adam.step()
        seen.append(state(model, adam))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("beta2", [0.0, 0.3, 0.5, 0.99])
def test_squares_too_small_for_certificates_are_those_of_pow(fused, beta2):
    rng = random.Random(1)
    tiny = [10 ** rng.uniform(-162, -153) for _ in range(10**6)]
    tiny = [x for x in tiny if x * x != x**2] or tiny[:50]
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(27)
        adam = chosen.Adam(model.params, beta2=beta2)
        for i, p in enumerate(model.params):
            p.grad = 0.0 if i % 8 else tiny[i % len(tiny)]
        adam.step()
        seen.append(state(model, adam))
    assert seen[0] == seen[1]


def test_moments_too_small_for_quotients_by_multiplication_are_divided(fused):
    rng = random.Random(1)
    small = [10 ** rng.uniform(-323, -290) for _ in range(5000)]
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(27)
        adam = chosen.Adam(model.params)
        for i, p in enumerate(model.params):
            p.data, adam.m[i] = 0.0, small[i]
        adam.step()
        seen.append(state(model, adam))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "where"),
    [*((NARROW, i) for i in (0, 7, 13, 29, 200, 500)), *((WIDE, i) for i in (0, 300, 5000, 9799))],
)
@pytest.mark.parametrize("name", ["v", "grad", "v after gradients of -0.0"])
def test_adam_that_raises_anywhere_ends_as_on_the_graph(fused, name, shape, where, threads):
    """Whichever thread has the parameter, and whichever comes first."""

    def change(model, adam):
        if name != "grad":
            adam.v[where] = -1.0
            for p in model.params if name != "v" else ():
                p.grad = -0.0
        else:
            list(model.params)[where].grad = -1e200

    for watch in (True, False):
        expected, found = both(fused, change, threads=threads, watch=watch, shape=shape)
        assert found == expected
        assert found[1] in (ValueError, OverflowError)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("small", "large"),
    [("layer0.attn_wv", "layer0.attn_wo"), ("layer0.mlp_fc1", "layer0.mlp_fc2")],
)
@pytest.mark.parametrize("row", [1, -1])
@pytest.mark.parametrize("shape", [NARROW, WIDE])
def test_a_gradient_that_becomes_too_large_in_a_step_ends_as_on_the_graph(
    fused, shape, small, large, row, threads
):
    """A tiny row times a huge column is a usual number, but the row's gradient is huge."""

    def change(model, adam):
        for i, sign in ((row, 1.0), (row ^ 1, -1.0)):  # of two units one is on
            for p in model.state_dict[small][i]:
                p.data = sign * abs(p.data) * 1e-160
            for weights in model.state_dict[large]:
                weights[i].data *= 1e160

    for watch in (True, False):
        expected, found = both(fused, change, threads=threads, watch=watch, shape=shape)
        assert found == expected
        assert found[1] is OverflowError


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [NARROW, WIDE])
def test_an_embeddings_gradient_that_becomes_too_large_ends_as_on_the_graph(fused, shape, threads):
    """It is no product with an activation, all of which are 0 here."""

    def change(model, adam):
        for name in ("wte", "wpe"):
            for row in model.state_dict[name]:
                for p in row:
                    p.data = 0.0
        model.state_dict["lm_head"][1][3].data = 1e160

    for watch in (True, False):
        expected, found = both(fused, change, threads=threads, watch=watch, shape=shape)
        assert found == expected
        assert found[1] is OverflowError


@pytest.mark.parametrize("threads", [1, 2])
def test_adam_before_its_first_step_ends_as_on_the_graph(fused, threads):
    def change(model, adam):
        adam.t = -1

    expected, found = both(fused, change, threads=threads)
    assert found == expected
    assert found[1] is ZeroDivisionError


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_negative_zero_keep_their_sign_as_on_the_graph(fused, shape):
    scalar, model = pair(fused, shape)
    for made in (scalar, model):
        for p in made.params:
            p.grad = -0.0
        made.batch_loss([document(random.Random(5), shape[0], n) for n in (2, 9)]).backward()
    assert_equal(scalar, model)


def test_a_probability_of_zero_adds_no_negative_zero_to_gradients(fused):
    """Its logit's derivative is the 0.0 of a sum, not the -0.0 of its only term."""
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(*NARROW, rng=random.Random(3))
        for p in model.params:
            p.grad = -0.0
        for p in model.state_dict["lm_head"][3]:
            p.data *= 1e5  # with these weights, a logit far below the others
        model.loss([4, 0]).backward()
        seen.append(bits(*model.gradients()))
    assert seen[0] == seen[1]


def test_an_infinite_gradient_at_a_unit_that_is_off_is_no_number(fused):
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(*NARROW, rng=random.Random(3))
        for p in model.state_dict["layer0.mlp_fc1"][0]:
            p.data = 0.0
        for row in model.state_dict["layer0.mlp_fc2"]:
            row[0].data = 1.7e308
        for row in model.state_dict["lm_head"]:
            for p in row:
                p.data *= 100.0
        model.loss([4, 0, 1, 2, 4]).backward()
        seen.append(bits(*model.gradients()))
    assert seen[0] == seen[1]
    assert math.isnan(model.state_dict["layer0.mlp_fc1"][0][0].grad)


@pytest.mark.parametrize("grad", [0, -0.0])
@pytest.mark.parametrize(
    ("matrix", "i", "j", "number"),
    [
        *(("layer0.mlp_fc2", 2, 20, x) for x in (math.inf, math.nan, 1e200, -0.0)),
        *(("layer0.mlp_fc1", 20, 3, x) for x in (math.inf, math.nan, 1e200)),
        ("layer0.attn_wo", 4, 2, math.inf),
        ("lm_head", 1, 3, 1e200),
    ],
)
def test_terms_of_zeros_are_left_out_only_where_they_change_nothing(
    fused, matrix, i, j, number, grad
):
    """So many positions that the products with relu's zeros are sparse; unit 20 is always off."""
    seen = []
    documents = [document(random.Random(n), 5, 7) for n in range(6)]
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(5, 32, 2, 1, 8, rng=random.Random(3))
        for p in model.state_dict["layer0.mlp_fc1"][20]:
            p.data = 0.0
        model.state_dict[matrix][i][j].data = number
        for p in model.params:
            p.grad = grad
        try:
            model.batch_loss(documents).backward()
        except (ArithmeticError, ValueError) as error:
            seen.append(type(error))
        else:
            seen.append(bits(*model.gradients()))
    assert seen[0] == seen[1]


def test_a_faulty_document_ends_training_at_its_step(fused):
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(5, 6, 2, 1, 4, rng=random.Random(3))
        with pytest.raises(ValueError, match="token 9 is not in the vocabulary"):
            model.fit([[4, 1, 4], [4, 2, 4], [4, 9, 4]], 5)
        seen.append(bits(*model.weights()))
    assert seen[0] == seen[1]


def test_a_loss_that_raises_after_other_groups_of_its_step_leaves_what_the_graph_leaves(fused):
    """The first document's, whose group comes last: it has a token of probability zero."""
    seen = []
    for chosen in (engine.load("cython"), fused):
        model = chosen.GPT(5, 6, 2, 1, 1, rng=random.Random(3))
        adam = chosen.Adam(model.params)
        for p in model.state_dict["lm_head"][3]:
            p.data *= 1e6  # with these weights, a logit far below the others
        losses = []
        fine = [[4, 1, 4], [4, 2, 4], [4, 4]] * 200
        with pytest.raises(ValueError, match=r"math domain error|expected a positive"):
            model.fit(
                [*fine, [4, 3, 4], *fine[1:]],
                2,
                len(fine),
                adam=adam,
                on_step=lambda t, loss, losses=losses: losses.append(loss),
            )
        seen.append((bits(*losses), state(model, adam)))
    assert seen[0] == seen[1]
    assert adam.t == 1


def test_signals_end_training_at_a_step_and_nothing_is_lost(tmp_path):
    script = """
import os, signal, sys, threading, time
from microgpt import fused
model = fused.GPT(27)
adam = fused.Adam(model.params, num_steps=10**9)
sent = []
def send():
    time.sleep(0.5)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=send).start()
try:
    model.fit([[26, 1, 2, 26], [26, 3, 26]], 10**9, adam=adam)
except KeyboardInterrupt as interrupt:
    assert time.monotonic() - sent[0] < 10, "no timed test, but not for ever"
    assert adam.t > 0
    assert not vars(interrupt)
    again = fused.GPT(27)
    other = fused.Adam(again.params, num_steps=10**9)
    again.fit([[26, 1, 2, 26], [26, 3, 26]], adam.t, adam=other)
    assert again.weights() == model.weights()
    print("whole")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout == "whole\n"


def test_a_signal_does_not_wait_for_a_thousand_large_steps():
    script = """
import os, signal, threading, time
from microgpt import fused
model = fused.GPT(27, n_embd=192)
documents = [[26, *range(20), 26]] * 16  # a thousand of these take minutes
sent = []
def send():
    time.sleep(1)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=send).start()
try:
    model.fit(documents, 1000, 64)
except KeyboardInterrupt:
    print(time.monotonic() - sent[0])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert float(result.stdout) < 10, "no timed test, but not for ever"


def test_fit_calls_on_step_after_each_step(fused):
    model = fused.GPT(5, 6, 2, rng=random.Random(1))
    seen = []
    losses = model.fit(
        [[4, 1, 4]], 4, on_step=lambda t, loss: seen.append((t, loss, model.params[-1].data))
    )
    assert [(t, loss) for t, loss, _ in seen] == list(enumerate(losses))
    assert len({data for _, _, data in seen}) > 1


RESIDENT = """
import resource
from microgpt import fused

def resident():
    "Return the bytes of memory that the process holds now."
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (16, 1), (16, 2)])
def test_memory_does_not_grow_with_the_number_of_steps(batch_size, threads):
    script = f"""
model = fused.GPT(27, n_layer=2)
adam = fused.Adam(model.params, num_steps=10**6)
documents = [[26, *range(i % 20), 26] for i in range(1000)]

def train(steps):
    for _ in range(steps // 500):
        model.fit(documents, 500, {batch_size}, adam=adam, threads={threads})

train(2_000)  # the allocator's own stores fill, once
grown = []
while not grown or grown[-1] >= 2**20 and len(grown) < 3:  # a leak grows each time
    before = resident()
    train(32_000 // {batch_size})
    grown.append(resident() - before)
assert grown[-1] < 2**20, grown
"""
    # Else glibc gives threads stores of their own, and more of them on a busy machine.
    one_store = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    subprocess.run([sys.executable, "-c", RESIDENT + script], check=True, env=one_store)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_takes_the_memory_of_four_times_the_weights_and_one_batch():
    script = """
before = resident()
model = fused.GPT(27, n_embd=256, n_layer=2)
model.fit([[26, *range(26), 26]] * 8, 3, 4)
positions = 4 * 16
layers = 2 * (13 * 256 + 2 * 4 * 256 + 2 * 4 * 16)
numbers = 4 * len(model.params) + positions * (layers + 5 * 256 + 4 * 32) + 4 * 256 * 32
assert resident() - before < 8 * numbers + 2**21, (resident() - before, 8 * numbers)
"""
    subprocess.run([sys.executable, "-c", RESIDENT + script], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loss_takes_memory_for_the_products_that_its_model_has_and_no_others():
    script = """
model = fused.GPT(27)
losses = [model.loss([26, 1, 2, 26])]
before = resident()
losses += [model.loss([26, 1, 2, 26]) for _ in range(200)]
cost = (resident() - before) / 200
assert cost < 160 * 1024, cost  # operands that are packed, and activations
"""
    subprocess.run([sys.executable, "-c", RESIDENT + script], check=True)


@pytest.mark.parametrize(("n_embd", "batch_size", "useful"), [(16, 1, 1), (16, 64, 8), (64, 1, 1)])
def test_small_steps_take_the_threads_that_they_have_work_for(n_embd, batch_size, useful):
    from microgpt import fused

    model = fused.GPT(27, n_embd)
    assert model._useful_threads(1, batch_size) == 1
    assert model._useful_threads(8, batch_size) == useful


@pytest.mark.skipif(
    sys.platform != "linux" or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="limits the address space, of which sanitizers take more for each thread",
)
def test_threads_that_the_system_refuses_are_said(tmp_path):
    script = """
import resource
from microgpt import fused

with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
model = fused.GPT(5, 4, 2)
fused.WORK_OF_A_THREAD = 0
try:
    model.fit([[4, 1, 4]], 3, threads=1000)
except OSError as error:
    print(error)
assert model.fit([[4, 1, 4]], 3, threads=4) == fused.GPT(5, 4, 2).fit([[4, 1, 4]], 3)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=100
    )
    assert "of 1000 threads: ask for fewer" in result.stdout


def test_matrix_cannot_be_put_in_anothers_place(fused):
    model = fused.GPT(3)
    with pytest.raises(TypeError, match="item assignment"):
        model.state_dict["wte"] = model.state_dict["lm_head"]
