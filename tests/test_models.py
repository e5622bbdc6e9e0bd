"""makemore's models: the same bits on every engine, makemore's shapes, and their errors."""

import pickle
import random

import pytest
from bits import bits

from microgpt import CharTokenizer, models
from microgpt.engine import load

NAMES = ["emma", "ava", "isabella", "bob", "anna", "o"]
SMALL = {"n_embd": 3, "n_hidden": 4, "block_size": 5}
MAKEMORE = {  # the weights that makemore prints for its names: `makemore.py --type NAME`
    "bigram": 729, "mlp": 69147, "rnn": 11803, "gru": 28315, "bow": 12827,
}  # fmt: skip
LADDER = list(MAKEMORE)


def tokens_of(names):
    tokenizer = CharTokenizer.from_documents(names)
    return tokenizer.vocab_size, [tokenizer.encode_document(name) for name in names]


def make(engine, name, vocab_size, seed=42, **sizes):
    if name == "bigram":
        sizes = {"block_size": sizes["block_size"]} if sizes else {}
    return engine.models[name](vocab_size, rng=random.Random(seed), **sizes)


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_training_and_sampling_equal_the_oracle(compiled, oracle, name, batch_size):
    vocab_size, documents = tokens_of(NAMES)
    shown = []
    for engine in (oracle, compiled):
        model = make(engine, name, vocab_size, **SMALL)
        adam = engine.Adam(model.params, num_steps=8)
        losses = model.fit(documents, 7, batch_size, adam=adam)
        model.loss(documents[2]).backward()
        rng = random.Random(1)
        samples = [model.generate(documents[0][1:3], top_k=4, rng=rng) for _ in range(3)]
        types = [(type(p.data), type(p.grad)) for p in model.params]
        numbers = [losses, model.weights(), model.gradients(), adam.m, adam.v]
        shown.append([samples, types, *(bits(*row) for row in numbers)])
    assert shown[1] == shown[0]


@pytest.mark.parametrize("name", LADDER)
def test_gradients_are_those_of_finite_differences(oracle, name):
    vocab_size, documents = tokens_of(NAMES)
    model = make(oracle, name, vocab_size, **SMALL)
    loss = model.batch_loss(documents)
    loss.backward()
    for p in random.Random(2).sample(model.params, 25):
        there = p.data
        p.data = there + 1e-6
        above = model.batch_loss(documents).data
        p.data = there - 1e-6
        below = model.batch_loss(documents).data
        p.data = there
        assert p.grad == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", LADDER)
def test_sizes_of_makemore_make_its_number_of_weights(name):
    sizes = {} if name == "bigram" else {"n_embd": 64, "n_hidden": 64}
    assert models.MODELS[name].Config(27, **sizes, block_size=16).num_params == MAKEMORE[name]


def test_bigram_reads_one_row_of_its_table(scalar):
    model = make(scalar, "bigram", 4, block_size=3)
    rows = model.state_dict["logits"]
    losses = [scalar.functions.cross_entropy(rows[a], b) for a, b in ((3, 0), (0, 0), (0, 2))]
    assert bits(model.loss([3, 0, 0, 2, 1]).data) == bits(((1 / 3) * sum(losses)).data)


def test_mlp_sees_the_last_tokens_and_the_blank_before_the_first(scalar):
    model = make(scalar, "mlp", 4, n_embd=1, n_hidden=2, block_size=2)
    w = model.state_dict
    context = model._begin(w)
    assert context == [w["wte"][4][0]] * 2
    model._logits(3, 0, context, w)
    assert context == [w["wte"][3][0], w["wte"][4][0]]
    model._logits(1, 1, context, w)
    assert context == [w["wte"][1][0], w["wte"][3][0]]


def test_bow_averages_the_embeddings_so_far(scalar):
    model = make(scalar, "bow", 3, n_embd=1, n_hidden=1, block_size=3)
    w, total = model.state_dict, None
    for name in ("fc2", "fc2_bias", "lm_head_bias"):
        for row in w[name]:
            for weight in row:
                weight.data = 0.0
    total = model._begin(w)
    xs = []
    for pos_id, token in enumerate([2, 0, 1]):
        (logit, *_) = model._logits(token, pos_id, total, w)
        xs.append(w["wte"][token][0].data + w["wpe"][pos_id][0].data)
        mean = sum(xs) / len(xs)
        assert logit.data == pytest.approx(w["lm_head"][0][0].data * (xs[-1] + mean), rel=1e-12)


def test_gru_keeps_its_state_where_its_gate_is_closed(scalar):
    model = make(scalar, "gru", 3, n_embd=1, n_hidden=1, block_size=3)
    (bias,) = model.state_dict["xh_to_z_bias"][0]
    hidden = model._begin(model.state_dict)
    start = hidden[0].data
    bias.data = -1000.0
    model._logits(0, 0, hidden, model.state_dict)
    assert bits(hidden[0].data) == bits(start)
    bias.data = 1000.0
    model._logits(0, 0, hidden, model.state_dict)
    assert hidden[0].data != start


@pytest.mark.parametrize("name", LADDER)
def test_a_wrong_size_token_or_document_is_named(engine, name):
    with pytest.raises(ValueError, match="block_size must be at least 1, not 0"):
        make(engine, name, 4, block_size=0)
    with pytest.raises(TypeError, match="vocab_size must be an integer, not '4'"):
        make(engine, name, "4")
    model = make(engine, name, 4, **SMALL)
    with pytest.raises(ValueError, match=r"token 4 is not in the vocabulary 0\.\.3"):
        model.loss([3, 4, 3])
    with pytest.raises(ValueError, match="at least two tokens, not 1"):
        model.loss([3])
    with pytest.raises(ValueError, match="at least one document"):
        model.fit([])


def test_every_engine_has_every_model(engine):
    assert list(engine.models) == [*LADDER, "gpt"]
    assert engine.models["gpt"] is engine.GPT
    for name, model in engine.models.items():
        assert model.name == name
        assert issubclass(model, models.Model)
    assert load(engine.NAME).models["rnn"].Value is engine.Value


@pytest.mark.parametrize("name", LADDER)
def test_a_first_weight_that_is_an_int_and_a_step_that_is_none(compiled, oracle, name):
    vocab_size, documents = tokens_of(NAMES)
    shown = []
    for engine in (oracle, compiled):
        model = make(engine, name, vocab_size, **SMALL)
        model.params[-1].data = 1
        model.params[0].data, model.params[1].grad = 0, 5
        for num_steps in (0, 2):
            adam = engine.Adam(model.params, num_steps=2)
            model.fit(documents, num_steps, adam=adam)
            shown.append([(type(x), bits(x)) for p in model.params for x in (p.data, p.grad)])
    assert shown[2:] == shown[:2]


def test_a_model_can_be_pickled(engine):
    for name in LADDER:
        model = make(engine, name, 4, **SMALL)
        copy = pickle.loads(pickle.dumps(model))
        assert type(copy) is type(model)
        assert bits(*copy.weights()) == bits(*model.weights())
        assert bits(copy.loss([3, 0, 1, 3]).data) == bits(model.loss([3, 0, 1, 3]).data)


@pytest.mark.parametrize("name", LADDER)
def test_evaluation_equals_the_oracles(compiled, oracle, name):
    vocab_size, documents = tokens_of([*NAMES, "isabellaisabella"])
    shown = []
    for engine in (oracle, compiled):
        model = make(engine, name, vocab_size, **SMALL)
        model.fit(documents, 3)
        found = [model.evaluate(documents), model.evaluate(documents[:1])]
        shown.append([(bits(e.nats), e.tokens) for e in found])
    assert shown[1] == shown[0]


@pytest.mark.parametrize("name", ["rnn", "mlp"])
def test_knobs_and_a_step_that_raises_equal_the_oracle(compiled, oracle, name):
    vocab_size, documents = tokens_of(NAMES)
    shown = []
    for engine in (oracle, compiled):
        model = make(engine, name, vocab_size, **SMALL)
        knobs = {"schedule": "cosine", "warmup": 2, "min_lr": 1e-3, "weight_decay": 0.1}
        adam = engine.Adam(model.params, num_steps=9, clip=0.5, **knobs)
        told = []
        model.fit(documents, 4, 2, adam=adam, on_step=lambda t, loss, told=told: told.append(loss))
        model.state_dict["lm_head"][0][0].data = 1e200
        model.params[0].grad = 0.25
        with pytest.raises((OverflowError, ValueError)):
            model.fit(documents, 3, 2, adam=adam)
        model.state_dict["lm_head"][0][0].data = 0.1
        adam.num_steps = 4
        with pytest.raises(ValueError, match="all num_steps=4"):
            model.fit(documents, 1, adam=adam)
        numbers = [told, model.weights(), model.gradients(), adam.m, adam.v]
        shown.append([adam.t, *(bits(*row) for row in numbers)])
    assert shown[1] == shown[0]


@pytest.mark.parametrize("name", LADDER)
def test_a_look_has_the_oracles_numbers_and_the_losss_gradients(engine, oracle, name):
    vocab_size, documents = tokens_of(NAMES)
    shown = []
    for each in (oracle, engine):
        model = make(each, name, vocab_size, **SMALL)
        look = model.look(documents[0])
        numbers = [look.probabilities, look.activations["logits"], *look.gradients.values()]
        shown.append([bits(look.loss, *array.ravel()) for array in numbers])
        loss = model.loss(documents[0])
        loss.backward()
        assert bits(loss.data) == bits(look.loss)
        weights = [x for name in model.state_dict for x in look.gradients[name].ravel()]
        assert bits(*weights) == bits(*model.gradients())
        assert look.attention.shape == (0, 0, len(look), len(look))
        assert "microgpt" in look._repr_html_()
        assert f"{model.config.num_params:,}" in model._repr_html_()
        with pytest.raises(ValueError, match=f"kind {name} has no layers"):
            _ = look.logit_lens
    assert shown[0] == shown[1]


@pytest.mark.parametrize("name", LADDER)
def test_a_model_is_saved_and_loaded(engine, tmp_path, name):
    model = make(engine, name, 4, **SMALL)
    model.tokenizer = CharTokenizer("abc")
    model.save(tmp_path / "m.safetensors")
    loaded = type(model).load(tmp_path / "m.safetensors")
    assert bits(*loaded.weights()) == bits(*model.weights())
    other = engine.models["gpt"]
    with pytest.raises(ValueError, match=f"holds a model of the kind {name}"):
        other.load(tmp_path / "m.safetensors")
