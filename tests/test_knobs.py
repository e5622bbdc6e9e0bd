"""Schedules, decay, clipping, dropout, evaluation and sampling: by bits those of the oracle."""

import functools
import math
import random

import pytest
from bits import bits

import microgpt.engine
from microgpt import adam as adam_module
from microgpt.adam import SCHEDULES

DOCUMENTS = [[4, 0, 1, 2, 4], [4, 3, 4], [4, 2, 2, 1, 0, 3, 0, 4], [4, 4]]
SHAPE = (5, 4, 2, 1, 6)


def trained(made, num_steps=4, batch_size=1, threads=1, dropout=0.0, on_step=None, **settings):
    """Return all that training with settings shows: losses, weights, moments, the generator."""
    model = made.GPT(*SHAPE, rng=random.Random(3), dropout=dropout)
    adam = made.Adam(model.params, 0.05, num_steps=20, **settings)
    losses = model.fit(
        DOCUMENTS, num_steps, batch_size, adam=adam, threads=threads, on_step=on_step
    )
    numbers = (*losses, *model.weights(), *adam.m, *adam.v)
    return bits(*numbers), adam.t, model.dropout_rng.getstate()


@functools.cache
def specified(*arguments, **settings):
    """Return what the oracle shows, once for all engines."""
    return trained(microgpt.engine.load("python"), *arguments, **settings)


SETTINGS = [
    {"schedule": "constant"},
    {"schedule": "constant", "warmup": 3},
    {"schedule": "cosine"},
    {"schedule": "cosine", "warmup": 4, "min_lr": 0.01},
    {"schedule": "linear", "warmup": 2, "min_lr": 0.01},
    {"min_lr": 0.01},
    {"weight_decay": 0.1},
    {"clip": 0.1},
    {"clip": 1e300},
    {"clip": 1.0, "weight_decay": 0.3, "schedule": "cosine", "warmup": 1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 1), (2, 3)])
def test_training_with_a_knob_is_the_oracles(engine, settings, batch_size, threads):
    found = trained(engine, batch_size=batch_size, threads=threads, **settings)
    assert found == specified(batch_size=batch_size, **settings)
    assert found != specified(batch_size=batch_size) or settings == {"clip": 1e300}


@pytest.mark.parametrize("dropout", [0.1, 0.8])
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 1), (2, 3)])
def test_dropout_draws_what_the_oracle_draws(engine, dropout, batch_size, threads):
    found = trained(engine, 3, batch_size, threads, dropout)
    assert found == specified(3, batch_size, dropout=dropout)
    told = trained(engine, 3, batch_size, threads, dropout, on_step=lambda t, loss: None)
    assert told == found
    assert found[2] != random.Random(42).getstate()


def test_all_knobs_together_are_the_oracles(engine):
    settings = dict(SETTINGS[-1], dropout=0.3, batch_size=2)
    assert trained(engine, threads=2, **settings) == specified(**settings)


class OwnRandom(random.Random):
    """A class that may do anything: its state is read and set by its methods alone."""


def test_dropout_draws_from_any_generator(engine):
    ends = []
    for rng in (random.Random(9), OwnRandom(9)):
        model = engine.GPT(*SHAPE, rng=random.Random(3), dropout=0.4)
        model.dropout_rng = rng
        rng.gauss(0, 1)  # the other half of a pair of normal numbers is kept for the next call
        seen = []
        model.fit(
            DOCUMENTS, 2, on_step=lambda t, loss, rng=rng, seen=seen: seen.append(rng.random())
        )
        ends.append((bits(*model.weights()), seen, rng.getstate()))
    assert ends[0] == ends[1]


def test_losses_and_gradients_with_dropout_are_the_oracles(engine, oracle):
    shown = []
    for made in (oracle, engine):
        model = made.GPT(*SHAPE, rng=random.Random(3), dropout=0.4)
        model.dropout_rng.seed(9)
        seen = []
        for loss in (model.loss(DOCUMENTS[0]), model.batch_loss(DOCUMENTS[1:])):
            for _ in range(2):
                loss.backward()
                seen.append(bits(loss.data, *model.gradients()))
        shown.append((seen, model.dropout_rng.getstate()))
    assert shown[0] == shown[1]


def test_a_kept_number_is_scaled_and_a_dropped_one_is_zero(engine):
    model = engine.GPT(*SHAPE, rng=random.Random(3), dropout=0.5)
    assert bits(model.loss(DOCUMENTS[0]).data) != bits(model.loss(DOCUMENTS[0]).data)
    rng = random.Random(42)
    values = [engine.Value(3.0) for _ in range(20)]
    dropped = engine.GPT(*SHAPE, dropout=0.5)._drop(values)
    assert [v.data for v in dropped] == [0.0 if rng.random() < 0.5 else 6.0 for _ in range(20)]


def test_a_number_is_dropped_where_the_draw_is_below_the_probability(engine):
    dropout = random.Random(42).random()  # the first draw of a model
    dropped = engine.GPT(*SHAPE, dropout=dropout)._drop([engine.Value(3.0)])
    assert dropped[0].data == 3.0 * (1 / (1 - dropout))


def test_a_loss_drops_where_a_draw_is_below_the_probability(engine, oracle):
    dropout = random.Random(42).random()
    models = [e.GPT(*SHAPE, rng=random.Random(3), dropout=dropout) for e in (engine, oracle)]
    found, expected = (bits(model.loss([4, 1, 4]).data) for model in models)
    assert found == expected


def test_a_failed_step_draws_nothing(engine):
    model = engine.GPT(*SHAPE, rng=random.Random(3), dropout=0.5)
    model.fit(DOCUMENTS, 2)
    state = model.dropout_rng.getstate()
    model.params[7].grad = 1e200
    with pytest.raises(OverflowError):
        model.fit(DOCUMENTS, 2)
    assert model.dropout_rng.getstate() == state
    with pytest.raises(ValueError, match="vocabulary"):
        model.fit([[4, 1, 9]], 2)
    assert model.dropout_rng.getstate() == state


@pytest.mark.parametrize("clip", [0.01, 1e-200])
def test_a_clipped_step_that_fails_leaves_gradients_as_they_were(engine, oracle, clip):
    shown = []
    for made in (oracle, engine):
        model = made.GPT(*SHAPE, rng=random.Random(3))
        adam = made.Adam(model.params, clip=clip, weight_decay=0.1, eps_adam=0.0, beta2=0.0)
        for i, p in enumerate(model.params):
            p.grad = 0.0 if i == 100 else 0.1 * i
        with pytest.raises(ZeroDivisionError):
            adam.step()
        shown.append(bits(*model.weights(), *model.gradients(), *adam.m, *adam.v))
    assert shown[0] == shown[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_are_nanogpts(engine, schedule):
    numbers = [(0.5, 0.1, 2), (0.3, 0.01, 3), (0.7, 0.02, 5), (0.05, 0.01, 5), (0.05, 0.0, 0)]
    for high, low, warmup in numbers:  # with each, another order of the formulas would show
        adam = engine.Adam([], high, num_steps=10, schedule=schedule, warmup=warmup, min_lr=low)
        for t in range(10):
            r = (t - warmup) / (10 - warmup)
            rate = {
                "linear": low + (1 - r) * (high - low),
                "constant": high,
                "cosine": low + 0.5 * (1.0 + math.cos(math.pi * r)) * (high - low),
            }[schedule]
            if t < warmup:
                rate = high * (t + 1) / (warmup + 1)
            assert bits(adam.rate(t)) == bits(rate)
    adam = engine.Adam([], 0.01, num_steps=7)
    assert bits(*map(adam.rate, range(7))) == bits(*(0.01 * (1 - t / 7) for t in range(7)))


@pytest.mark.parametrize("clip", [1.0, 1e200])
def test_a_square_overflows_after_clipping_or_not_at_all(engine, oracle, clip):
    ended = []
    for made in (engine, oracle):
        model = made.GPT(*SHAPE, rng=random.Random(3))
        adam = made.Adam(model.params, 0.05, clip=clip, eps_adam=0.1)
        for p in model.params:
            p.grad = 1e160  # the sum of squares is infinite: every gradient is taken times 0
        adam.step()
        ended.append(bits(*model.weights(), *adam.m, *adam.v))
    assert ended[0] == ended[1]


def test_clipped_gradients_have_the_norm(engine, oracle):
    rng = random.Random(5)
    grads = [rng.gauss(0, 3) for _ in range(2500)]
    squares = adam_module.sum_of_squares(grads)
    assert abs(squares - math.fsum(g * g for g in grads)) < 1e-9
    shown = []
    for made in (oracle, engine):
        model = made.GPT(40, 16, 4, 1, 16)
        adam = made.Adam(model.params, clip=2.0)
        for p, grad in zip(model.params, grads):
            p.grad = grad
        adam.step()
        shown.append(bits(*model.weights(), *adam.m))
    assert shown[0] == shown[1]
    first = grads[0] * (2.0 / (math.sqrt(squares) + 1e-6))
    assert bits(adam.m[0]) == bits((1 - 0.85) * first)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_norms_are_those_of_the_gradients_before_they_are_clipped(engine, batch_size, threads):
    for clip in (None, 0.01):
        model = engine.GPT(*SHAPE, rng=random.Random(3))
        adam = engine.Adam(model.params, clip=clip)
        expected = {}
        for t in range(5):
            batch = [DOCUMENTS[(t * batch_size + b) % 4] for b in range(batch_size)]
            model.batch_loss(batch).backward() if batch_size > 1 else model.loss(*batch).backward()
            expected[t] = math.sqrt(adam_module.sum_of_squares(model.gradients()))
            adam.norms = {}
            adam.step()
            assert adam.norms == {t: expected[t]}
        for on_step in (None, lambda t, loss: None):
            fitted = engine.GPT(*SHAPE, rng=random.Random(3))
            adam = engine.Adam(fitted.params, clip=clip)
            adam.norms = {}
            fitted.fit(DOCUMENTS, 5, batch_size, adam=adam, on_step=on_step, threads=threads)
            assert list(adam.norms) == list(expected)
            assert bits(*adam.norms.values()) == bits(*expected.values())
            assert bits(*fitted.weights()) == bits(*model.weights())


def test_norm_may_be_beyond_the_largest_float_and_a_failed_step_has_none(engine, oracle):
    shown = []
    for made in (oracle, engine):
        model = made.GPT(*SHAPE, rng=random.Random(3))
        adam = made.Adam(model.params)
        adam.norms = {}
        for p in model.params:
            p.grad = 1e153
        adam.step()
        model.params[7].grad = 1e200
        with pytest.raises(OverflowError):
            adam.step()
        shown.append((bits(*model.weights(), *adam.m, *adam.v), adam.norms))
    assert shown[0] == shown[1]
    assert list(shown[0][1]) == [0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"schedule": "step"}, "schedule must be one of linear, constant, cosine, not 'step'"),
        ({"warmup": -1}, r"warmup must be in 0\.\.999"),
        ({"warmup": 1000}, r"warmup must be in 0\.\.999, below num_steps, not 1000"),
        ({"min_lr": 1.0}, "min_lr .1.0. is above learning_rate"),
        ({"min_lr": math.nan}, "min_lr must be a finite number"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number of at least 0, not -0.1"),
        ({"clip": 0}, "clip must be a finite number above 0, or None, not 0"),
        ({"clip": math.nan}, "clip must be a finite number above 0, or None, not nan"),
    ],
)
def test_knobs_out_of_range_are_named(engine, settings, named):
    with pytest.raises(ValueError, match=named):
        engine.Adam([], **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be"),
        ({"init_std": -1}, "init_std must be a finite number of at least 0, not -1"),
    ],
)
def test_a_models_knobs_out_of_range_are_named(engine, settings, named):
    with pytest.raises(ValueError, match=named):
        engine.GPT(3, **settings)


def test_weights_are_drawn_with_init_std(engine):
    model = engine.GPT(3, 2, 1, rng=random.Random(7), init_std=0.02)
    rng = random.Random(7)
    assert bits(*model.weights()) == bits(*(rng.gauss(0, 0.02) for _ in model.params))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_evaluation_is_the_documents_losses(engine, oracle, threads):
    model = engine.GPT(*SHAPE, rng=random.Random(3), dropout=0.5)
    rng = random.Random(1)
    documents = [
        [4, *(rng.randrange(5) for _ in range(rng.randrange(9))), 4]
        for _ in range(60 if engine.NAME == "fused" else 20)
    ]
    found = model.evaluate(documents, threads=threads)
    nats, tokens = 0.0, 0
    judge = oracle.GPT(*SHAPE, rng=random.Random(3))
    for document in documents[:20]:
        n = min(6, len(document) - 1)
        tokens += n
        nats += total(judge, document)
    some = model.evaluate(documents[:20], threads=threads)
    assert (bits(some.nats), some.tokens) == (bits(nats), tokens)
    assert some.loss == nats / tokens
    assert found.tokens == sum(min(6, len(document) - 1) for document in documents)
    assert found == engine.GPT(*SHAPE, rng=random.Random(3)).evaluate(documents)
    assert set(bits(*model.gradients())) == set(bits(0.0))


def total(model, document):
    nats = 0.0
    weights = model.state_dict
    for loss in model._losses(weights, document, model._begin(weights)):
        nats += loss.data
    return nats


def test_evaluation_refuses_what_it_cannot_do(engine):
    model = engine.GPT(*SHAPE)
    for documents, error in (([], ValueError), ([[4]], ValueError), ("ab", TypeError)):
        with pytest.raises(error):
            model.evaluate(documents)
    model.state_dict["lm_head"][2][1].data = 1e308
    with pytest.raises(ValueError, match=r"math domain error|expected a positive"):
        model.evaluate(DOCUMENTS * 100, threads=2)


@functools.cache
def samples(name, items):
    """Return what an engine draws with arguments, once for all engines that are compared."""
    made, arguments = (
        microgpt.engine.load(name),
        {k: [*v] if isinstance(v, tuple) else v for k, v in items},
    )
    model = made.GPT(7, 4, 2, 1, 5, rng=random.Random(4), init_std=0.5)
    rng = random.Random(2)
    drawn = [model.generate(rng=rng, **arguments) for _ in range(8)]
    return drawn, rng.random()


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": 30, "temperature": 3.0},
        {"length": 9, "bos": False, "prompt": [2], "temperature": 3.0},
        {"length": 12, "prompt": [1, 2, 3, 4, 5, 0, 1], "temperature": 2.0},
        {"temperature": 0},
        {"temperature": 0.0, "length": 20},
        {"top_p": 0.5, "temperature": 1.0},
        {"top_p": 1.0, "temperature": 1.0},
        {"top_p": 1e-9, "temperature": 1.0, "length": 9},
        {"top_p": 0.7, "top_k": 3, "temperature": 1.5, "length": 25},
        {"stop": [3], "length": 40, "temperature": 3.0},
        {"stop": [3, 1], "length": 60, "temperature": 3.0},
        {"bos": False, "prompt": [2], "length": 9, "temperature": 0},
        {"bos": False, "prompt": [2], "length": 9, "temperature": 9.0, "top_k": 6},
        {"bos": False, "prompt": [2], "length": 9, "temperature": 9.0, "top_p": 0.9},
    ],
    ids=str,
)
def test_samples_are_the_oracles(engine, arguments):
    items = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in arguments.items())
    drawn, after = samples(engine.NAME, items)
    assert (drawn, after) == samples("python", items)
    length = arguments.get("length", 5)
    assert all(len(tokens) <= length for tokens in drawn)
    if arguments.get("temperature") == 3.0:
        assert max(map(len, drawn)) > 5
    if not arguments.get("bos", True):  # BOS is never drawn
        assert {len(tokens) for tokens in drawn} == {9}
    if arguments.get("temperature") == 0:
        assert after == random.Random(2).random()
    for stop in [arguments["stop"]] if "stop" in arguments else []:
        ended = [tokens for tokens in drawn if tokens[-len(stop) :] == stop]
        assert ended or len(stop) > 1
        assert all(stop[0] not in tokens[:-1] for tokens in drawn) or len(stop) > 1


def test_a_stop_text_that_begins_in_the_prompt_ends_nothing(engine):
    model = engine.GPT(*SHAPE, rng=random.Random(3))
    tokens = model.generate([1], temperature=0, length=4, bos=False)
    again = model.generate([1], temperature=0, length=4, bos=False, stop=tokens[:2])
    assert len(tokens) == 4
    assert again[:3] == tokens[:3]


def test_a_cropped_context_begins_at_position_zero(engine):
    model = engine.GPT(7, 8, 2, 1, 5, rng=random.Random(4), init_std=0.5)
    tokens = model.generate([1, 2, 3, 4, 5, 1], temperature=0, length=7)
    again = model.generate([2, 3, 4, 5, 1], temperature=0, length=6, bos=False)
    assert tokens[6:] == again[5:]


def test_nucleus_takes_the_fewest_of_the_largest(engine):
    from microgpt.model import nucleus

    assert nucleus([5, 6, 7, 8], [0.25, 0.25, 0.3, 0.2], 0.5) == ([5, 7], [0.25, 0.3])
    assert nucleus([5, 6, 7], [0.5, 0.25, 0.25], 0.5) == ([5], [0.5])
    assert nucleus([5, 6], [0.5, 0.25], 1.0) == ([5, 6], [0.5, 0.25])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"temperature": -1}, "temperature must be at least 0, not -1"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
        ({"length": 0}, "leaves no room: length is 0"),
        ({"prompt": [1, 2], "length": 2}, "a prompt of 2 tokens leaves no room: length is 2"),
        ({"bos": False}, "without bos, generation needs a prompt of at least one token"),
        ({"bos": False, "prompt": [0], "sizes": [1]}, "without bos, there is no token to draw"),
    ],
)
def test_sampling_refuses_what_it_cannot_do(engine, arguments, named):
    sizes = arguments.get("sizes", [4])
    arguments = {name: value for name, value in arguments.items() if name != "sizes"}
    with pytest.raises(ValueError, match=named):
        engine.GPT(*sizes, n_embd=4, n_head=2).generate(**arguments)


def test_a_length_is_a_whole_number(engine):
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        engine.GPT(4, n_embd=4, n_head=2).generate(length=7.5)


def test_schedules_are_named():
    assert SCHEDULES == ("linear", "constant", "cosine")
