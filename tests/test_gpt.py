"""The model: its functions, its configuration, and its errors."""

import math
import random
from array import array
from decimal import Decimal
from fractions import Fraction

import pytest
from bits import bits
from golden.original import Original

from microgpt import Config, gpt, linear, rmsnorm, softmax
from microgpt.engine import load

SIZES = ["vocab_size", "n_embd", "n_head", "n_layer", "block_size"]


def values(engine, *numbers):
    return [engine.Value(number) for number in numbers]


def data(nodes):
    return bits(*(node.data for node in nodes))


def test_linear_sums_products_left_to_right_from_zero(model_engine):
    x = values(model_engine, 1e16, 1.0, -1e16)
    w = [values(model_engine, 1.0, 1.0, 1.0), values(model_engine, 0.1, 0.2, 0.3)]
    expected = [0.0 + 1e16 + 1.0 + -1e16, 0.0 + 0.1 * 1e16 + 0.2 * 1.0 + 0.3 * -1e16]
    assert data(linear(x, w)) == bits(*expected)


def test_softmax_gives_probabilities(model_engine):
    probs = softmax(values(model_engine, 1.0, 3.0, 2.0, -1000.0))
    exps = [math.exp(x - 3.0) for x in (1.0, 3.0, 2.0, -1000.0)]
    total = 0.0
    for e in exps:
        total += e
    assert data(probs) == bits(*(e * total**-1 for e in exps))


def test_softmax_does_not_overflow(model_engine):
    assert data(softmax(values(model_engine, 1e308, 1e308))) == bits(0.5, 0.5)


def test_rmsnorm_divides_by_the_root_mean_square(model_engine):
    scale = ((0.0 + 3.0 * 3.0 + 4.0 * 4.0) * 2**-1 + 1e-5) ** -0.5
    assert data(rmsnorm(values(model_engine, 3.0, 4.0))) == bits(3.0 * scale, 4.0 * scale)


def test_gpt_gives_the_originals_logits_position_by_position(model_engine):
    judge = Original(["abc", "ab"], n_embd=6, n_head=2, n_layer=2, block_size=4)
    state_dict = {
        name: [values(model_engine, *(p.data for p in row)) for row in rows]
        for name, rows in judge.weights.items()
    }
    config = Config(4, 6, 2, 2, 4)
    ours, theirs = ([[], []], [[], []]), ([[], []], [[], []])
    for pos_id, token_id in enumerate([3, 0, 1, 2]):
        logits = gpt(token_id, pos_id, *ours, state_dict, config)
        assert data(logits) == data(judge.logits(token_id, pos_id, *theirs))
        assert len(ours[0][1]) == len(ours[1][0]) == pos_id + 1


def test_weights_are_drawn_matrix_by_matrix_row_by_row(model_engine):
    model = model_engine.GPT(3, n_embd=2, n_head=1, block_size=2, rng=random.Random(7))
    rng = random.Random(7)
    assert data(model.params) == bits(*(rng.gauss(0, 0.08) for _ in model.params))
    assert list(model.state_dict) == list(model.config.shapes())
    assert list(model.state_dict)[:4] == ["wte", "wpe", "lm_head", "layer0.attn_wq"]
    assert data(model.state_dict["wpe"][0]) == bits(*model.weights()[6:8])


def test_without_rng_the_seed_is_the_originals(model_engine):
    assert model_engine.GPT(3).weights() == model_engine.GPT(3, rng=random.Random(42)).weights()


def test_config_counts_its_parameters():
    config = Config(27)
    assert (config.num_params, config.head_dim) == (4192, 4)
    assert sum(rows * columns for rows, columns in config.shapes().values()) == 4192


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [0, -1, 2.0, "2", None, True])
def test_a_size_that_is_no_positive_integer_is_named(model_engine, name, size):
    sizes = dict.fromkeys(SIZES, 1)
    sizes[name] = size
    error = ValueError if type(size) is int else TypeError
    with pytest.raises(error, match=name):
        model_engine.GPT(**sizes)


def test_n_embd_must_be_a_multiple_of_n_head(model_engine):
    with pytest.raises(ValueError, match=r"n_embd \(6\) must be a multiple of n_head \(4\)"):
        model_engine.GPT(5, n_embd=6, n_head=4)


def test_tokens_after_the_block_are_ignored(model_engine):
    model = model_engine.GPT(4, n_embd=4, n_head=2, block_size=2)
    assert bits(model.loss([3, 0, 1]).data) == bits(model.loss([3, 0, 1, 2, 0, 3]).data)


@pytest.mark.parametrize("tokens", [[], [3]])
def test_a_document_needs_two_tokens(model_engine, tokens):
    with pytest.raises(ValueError, match=f"at least two tokens, not {len(tokens)}"):
        model_engine.GPT(4, n_embd=4, n_head=2).loss(tokens)


@pytest.mark.parametrize("token", [-1, 4, 100])
def test_a_token_out_of_the_vocabulary_is_named(model_engine, token):
    model = model_engine.GPT(4, n_embd=4, n_head=2)
    for use in (model.loss, model.generate, lambda tokens: model.batch_loss([tokens])):
        with pytest.raises(ValueError, match=rf"token {token} is not in the vocabulary 0\.\.3"):
            use([0, token])


def test_training_needs_documents_and_a_batch(model_engine):
    model = model_engine.GPT(4, n_embd=4, n_head=2)
    with pytest.raises(ValueError, match="at least one document"):
        model.fit([])
    with pytest.raises(ValueError, match="at least one document"):
        model.batch_loss([])
    for threads in (0, 1025):
        with pytest.raises(ValueError, match=rf"threads must be in 1\.\.1024, not {threads}"):
            model.fit([[3, 0, 3]], threads=threads)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        model.fit([[3, 0, 3]], batch_size=0)


def test_set_weights_takes_what_weights_gives(model_engine):
    model, other = model_engine.GPT(4, n_embd=4, n_head=2), model_engine.GPT(4, n_embd=4, n_head=2)
    moved = model.weights()
    for i in range(len(moved)):
        moved[i] += 0.5
    other.set_weights(moved)
    assert other.weights() == moved
    with pytest.raises(ValueError, match=f"{len(moved)} weights, not 1"):
        other.set_weights(moved[:1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"temperature": -1}, "temperature must be at least 0, not -1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"prompt": [0] * 16}, "leaves no room: block_size is 16"),
    ],
)
def test_generate_refuses_what_it_cannot_do(model_engine, arguments, named):
    with pytest.raises(ValueError, match=named):
        model_engine.GPT(4, n_embd=4, n_head=2).generate(**arguments)


def test_generate_begins_with_the_prompt_and_stops_at_the_block(model_engine):
    model = model_engine.GPT(4, n_embd=4, n_head=2, block_size=5)
    drawn = [model.generate([1, 2], temperature=2.0, rng=random.Random(i)) for i in range(30)]
    assert all(tokens[:2] == [1, 2] and 3 not in tokens for tokens in drawn)
    assert max(map(len, drawn)) == 5
    assert min(map(len, drawn)) < 5


def test_top_k_of_one_takes_the_largest_logit(model_engine):
    model = model_engine.GPT(4, n_embd=4, n_head=2, block_size=5)
    drawn = {tuple(model.generate(top_k=1, rng=random.Random(i))) for i in range(10)}
    assert len(drawn) == 1
    everything = model.generate(top_k=4, rng=random.Random(1))
    assert everything == model.generate(rng=random.Random(1))


class Middle(random.Random):
    """Draws 0.5 each time."""

    def random(self):
        return 0.5


class Halves(random.Random):
    """A generator whose numbers alone are its own."""

    def random(self):
        return 0.5 * super().random()


class First:
    """A generator that is none but has choices."""

    def choices(self, population, weights):
        return [population[len(weights) // 2]]


def patched():
    rng = random.Random(3)
    rng.choices = lambda population, weights: [population[0]]
    return rng


def test_a_draw_on_the_border_of_two_tokens_is_the_upper_one(model_engine):
    drawn = []
    for chosen in (load("python"), model_engine):
        model = chosen.GPT(9, n_embd=4, n_head=2, block_size=7)
        model.set_weights(array("d", [0.0] * model.config.num_params))  # all are as likely
        drawn.append(model.generate([1], length=3, bos=False, rng=Middle()))
        largest = model.generate([1], length=3, bos=False, temperature=0)
    assert drawn[0] == drawn[1] == [1, 4, 4]
    assert largest == [1, 0, 0]


@pytest.mark.parametrize("make", [random.Random, Halves, First, patched, lambda: random])
@pytest.mark.parametrize("top_k", [None, 2])
def test_generate_draws_by_the_choices_of_any_generator(model_engine, make, top_k):
    drawn = []
    for chosen in (load("python"), model_engine):
        rng = make()
        if hasattr(rng, "seed"):
            rng.seed(5)
        model = chosen.GPT(6, n_embd=4, n_head=2, block_size=7)
        drawn.append([model.generate([1], temperature=2, top_k=top_k, rng=rng) for _ in range(9)])
        drawn[-1].append(rng.random() if hasattr(rng, "random") else None)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("patches", [False, True])
def test_generate_reads_weights_that_its_generator_changes(model_engine, patches):
    drawn = []
    for chosen in (load("python"), model_engine):
        model = chosen.GPT(6, n_embd=4, n_head=2, block_size=7)
        seen = []

        def choose(population, weights=None, model=model, seen=seen):
            model.state_dict["lm_head"][2][1].data += 0.5
            model.state_dict["layer0.mlp_fc2"][1][5].data += 2.0
            seen.append(weights)
            return [population[len(seen) % 3]]

        rng = random.Random(3)
        if patches:
            rng.choices = choose
        else:
            rng = type(
                "Own", (random.Random,), {"choices": lambda self, *a, **k: choose(*a, **k)}
            )()
        drawn.append((model.generate([1], temperature=2, length=6, rng=rng), seen))
    assert len(drawn[0][1]) > 2
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("temperature", [5e-324, math.inf, 2, Fraction(1, 3), Decimal(3)])
@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf, 1e200])
def test_generate_ends_as_the_oracles(model_engine, temperature, weight):
    ended = []
    for chosen in (load("python"), model_engine):
        model = chosen.GPT(6, n_embd=4, n_head=2, block_size=7)
        model.state_dict["lm_head"][2][1].data = weight
        try:
            ended.append(model.generate(temperature=temperature, rng=random.Random(5)))
        except (ArithmeticError, ValueError) as error:
            ended.append(repr(error))
    assert ended[0] == ended[1]


def mistakes():
    yield lambda model: model.generate("ab"), TypeError, r"tokenizer\.encode\(text\)"
    yield lambda model: model.generate(["a"]), TypeError, "token 'a' is not an integer"
    yield lambda model: model.generate([0.5]), TypeError, "token 0.5 is not an integer"
    yield lambda model: model.loss("ab"), TypeError, r"not a str: pass tokenizer\.encode_document"
    yield lambda model: model.loss(iter([3, 0, 3])), TypeError, "a list of token ids, not a list_it"
    yield lambda model: model.batch_loss(["ab"]), TypeError, "a list of token ids, not a str"
    yield lambda model: model.fit("ab"), TypeError, "a sequence of documents, not a str"
    yield lambda model: model.fit(["ab"]), TypeError, "a list of token ids, not a str"
    yield lambda model: model.fit([["a", "b"]]), TypeError, "token 'a' is not an integer"
    yield lambda model: model.fit([[3, 0.0, 3]]), TypeError, "token 0.0 is not an integer"
    yield lambda model: model.fit([[3, 0, 3], None]), TypeError, "a list of token ids, not a None"
    yield lambda model: model.fit(x for x in [[3, 0, 3]]), TypeError, "not a generator"
    yield lambda model: model.fit({"a": [3, 0, 3]}), TypeError, "not a dict"
    yield lambda model: model.fit([[0, 1, 2]]), ValueError, r"with BOS \(3\), not with token 0"
    yield lambda model: model.fit([[3, 0, 3]], threads=0), ValueError, r"threads must be in 1\.\."
    yield lambda model: model.fit([[3, 0, 3]], threads="2"), TypeError, "threads must be an int"
    yield lambda model: model.fit([[3, 0, 3]], threads=1025), ValueError, "1024, not 1025"


@pytest.mark.parametrize("number", range(16))
def test_what_is_no_token_ids_says_what_to_pass(engine, number):
    model = engine.GPT(4, n_embd=4, n_head=2)
    use, error, named = list(mistakes())[number]
    with pytest.raises(error, match=named):
        use(model)
    assert bits(*model.gradients()) == bits(*[0.0] * len(model.params))


def test_pieces_of_text_train_without_bos(engine):
    model, other = engine.GPT(4, n_embd=4, n_head=2), load("python").GPT(4, n_embd=4, n_head=2)
    pieces = [[0, 1, 2, 0, 1], (2, 2), bytes([1, 0])]
    assert bits(*model.fit(pieces, 4, bos=False)) == bits(*other.fit(pieces, 4, bos=False))


def test_a_prompt_may_be_an_iterator(engine):
    model = engine.GPT(4, n_embd=4, n_head=2)
    assert model.generate(iter([1, 2])) == model.generate([1, 2])


def test_threads_set_from_outside_warn(engine):
    model = engine.GPT(4, n_embd=4, n_head=2)
    with pytest.warns(DeprecationWarning, match="pass threads to fit"):
        model.threads = 2
    assert model.threads == 2
    again = engine.GPT(4, n_embd=4, n_head=2)
    assert model.fit([[3, 0, 3]], 3) == again.fit([[3, 0, 3]], 3, threads=1)
    engine.GPT.threads = 3
    try:
        with pytest.warns(DeprecationWarning, match="pass threads to fit"):
            again.fit([[3, 0, 3]], 1)
    finally:
        del engine.GPT.threads


def failing(engine, spoil, steps, **settings):
    """Return the error of training that a step ends, and whether all is as before that step."""
    model = engine.GPT(4, n_embd=4, n_head=2, rng=random.Random(2))
    adam = engine.Adam(model.params, **settings)
    seen = []

    def on_step(t, loss):
        if t + 1 == steps:
            spoil(model, adam)
        seen[:] = [model.weights(), bits(*adam.m), bits(*adam.v), adam.t]

    try:
        model.fit([[3, 0, 1, 3], [3, 2, 3]], 9, adam=adam, on_step=on_step)
    except (ArithmeticError, ValueError) as error:
        assert seen == [model.weights(), bits(*adam.m), bits(*adam.v), adam.t]
        return repr(error), bits(*model.gradients(), *model.weights()), adam.t
    raise AssertionError("no step failed")


def grad(model, adam):
    model.params[40].grad = 1e200


def moment(model, adam):
    adam.v[-1] = -1.0


def weight(model, adam):
    model.state_dict["lm_head"][2][1].data = 1e308


@pytest.mark.parametrize("spoil", [grad, moment, weight])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_that_fails_changes_no_weight(engine, oracle, spoil, steps):
    shown = failing(engine, spoil, steps)
    assert shown == failing(oracle, spoil, steps)
    assert shown[2] == steps


def test_without_eps_a_later_step_that_divides_by_zero_changes_nothing(engine, oracle):
    def nothing(model, adam):
        pass

    settings = {"eps_adam": 0.0, "beta2": 0.0}
    shown = []
    for made in (engine, oracle):
        model = made.GPT(4, n_embd=4, n_head=2, rng=random.Random(2))
        adam = made.Adam(model.params, **settings)
        with pytest.raises(ZeroDivisionError) as caught:
            model.fit([[3, 0, 1, 2, 3], [3, 2, 3]], 9, adam=adam)
        shown.append((str(caught.value), bits(*model.weights(), *model.gradients()), adam.t))
    assert shown[0] == shown[1]
