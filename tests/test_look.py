"""`model.look`: the same arrays on every engine, interventions, and its display."""

import subprocess
import sys
from html.parser import HTMLParser

import numpy
import pytest
from bits import bits

from microgpt import CharTokenizer
from microgpt.settings import Settings
from microgpt.training import Training

NAMES = ["emma", "olivia", "ava", "isabella"]
TOKENIZER = CharTokenizer.from_documents(NAMES)
TOKENS = TOKENIZER.encode_document("bella")


def model_of(engine, n_layer=2, block_size=8):
    model = engine.GPT(TOKENIZER.vocab_size, 8, 4, n_layer, block_size)
    model.tokenizer = TOKENIZER
    return model


def arrays(look):
    """Return all arrays of a look as bytes, by name."""
    found = {**look.activations, **{f"d {name}": x for name, x in look.gradients.items()}}
    found |= {"attention": look.attention, "lens": look.logit_lens, "bits": look.surprise}
    return {name: (array.shape, array.tobytes()) for name, array in found.items()}


def patches(look):
    """Return interventions of every kind, near what the look saw."""
    rng = numpy.random.default_rng(1)
    attention = look.attention[1] * 0.5
    near = {name: x + rng.normal(0, 0.1, x.shape) for name, x in look.activations.items()}
    yield {"ablate": [(0, 2)]}
    yield {"ablate": [(0, 0), (1, 3)], "patch": {"layer1.q": {2: numpy.ones(8)}}}
    yield {"patch": {"layer1.attention": attention}}
    for name in near:
        if name != "probs":
            yield {"patch": {name: near[name]}}


def test_every_engine_has_the_oracles_bits(compiled, oracle):
    look = model_of(oracle).look("bella")
    assert arrays(model_of(compiled).look("bella")) == arrays(look)


def test_gradients_of_tokens_that_cannot_follow_have_the_oracles_signs(compiled, oracle):
    seen = 0
    for token in range(TOKENIZER.vocab_size):
        models = model_of(compiled), model_of(oracle)
        for model in models:
            for p in model.state_dict["lm_head"][token]:
                p.data *= 1e5
        found, expected = (model.look("a") for model in models)
        try:
            numbers = arrays(expected)
        except ValueError:  # no other token can follow
            continue
        assert arrays(found) == numbers
        gradients = expected.gradients["logits"][expected.activations["probs"] == 0.0]
        assert not numpy.signbit(gradients).any()
        seen += gradients.size
    assert seen


def test_every_intervention_has_the_oracles_bits(compiled, oracle):
    ours, specified = model_of(compiled), model_of(oracle)
    plain = arrays(specified.look("bella"))
    for change in patches(specified.look("bella")):
        expected = arrays(specified.look("bella", **change))
        assert expected != plain
        assert arrays(ours.look("bella", **change)) == expected


def test_a_look_is_the_models_own_loss_and_gradients(engine):
    model = model_of(engine)
    look = model.look("bella")
    loss = model.loss(TOKENS)
    assert bits(look.loss) == bits(loss.data)
    assert not any(model.gradients())
    look.gradients  # noqa: B018 (computed here, and not into the model's weights)
    assert not any(model.gradients())
    loss.backward()
    flat = numpy.concatenate([look.gradients[name].ravel() for name in model.state_dict])
    assert flat.tobytes() == model.gradients().tobytes()
    assert look.surprise.mean() == pytest.approx(look.loss / numpy.log(2))


def test_gradients_of_activations_are_the_slopes_of_the_loss(engine):
    model = model_of(engine)
    look = model.look("bella")
    for name in ("embedding", "layer0.v", "layer1.attended", "layer1.mlp_hidden", "logits"):
        x, step = look.activations[name], 1e-6
        index = numpy.unravel_index(numpy.argmax(abs(look.gradients[name])), x.shape)
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            ends.append(model.look("bella", patch={name: moved}).loss)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(look.gradients[name][index], 1e-4)


def test_putting_back_what_was_there_changes_nothing(engine):
    model = model_of(engine)
    look = model.look("bella")
    same = {name: x for name, x in look.activations.items() if name != "probs"}
    for name, x in same.items():
        again = model.look("bella", patch={name: x})
        assert again.probabilities.tobytes() == look.probabilities.tobytes()


def test_an_ablated_head_gives_zeros_and_nothing_flows_back_through_it(engine):
    look = model_of(engine).look("bella", ablate=[(0, 2)])
    assert not look.activations["layer0.attended"][:, 4:6].any()
    assert look.activations["layer0.attended"][:, 6:].any()
    assert not look.gradients["layer0.attention"][2].any()
    assert look.gradients["layer0.attention"][3].any()


def test_a_row_alone_is_patched_and_earlier_positions_keep_their_bits(engine):
    model = model_of(engine)
    look, row = model.look("bella"), numpy.arange(8.0)
    patched = model.look("bella", patch={"layer0.mlp_input": {3: row}})
    assert patched.activations["layer0.mlp_input"][3].tolist() == row.tolist()
    assert patched.probabilities[:3].tobytes() == look.probabilities[:3].tobytes()
    assert patched.probabilities[3].tobytes() != look.probabilities[3].tobytes()


def test_a_probability_of_zero_is_an_infinite_surprise(engine, oracle):
    looks = []
    for made in (engine, oracle):
        model = model_of(made)
        head = model.state_dict["lm_head"]
        for row in head:
            for p in row:
                p.data *= 1e5
        looks.append((model.look("bella"), model))
    (look, model), (expected, _) = looks
    zero = [look.probabilities[t, token] == 0 for t, token in enumerate(TOKENS[1:])]
    assert any(zero)
    assert [bool(numpy.isinf(cost)) for cost in look.surprise] == zero
    assert look.loss == float("inf")
    assert look.probabilities.tobytes() == expected.probabilities.tobytes()
    assert "inf" in Balance(look._repr_html_()).text
    with pytest.raises(ValueError, match=r"math domain error|expected a positive input"):
        look.gradients  # noqa: B018 - raises


def test_the_logit_lens_ends_as_the_model_does(engine):
    look = model_of(engine).look("bella")
    assert look.logit_lens.shape == (3, len(look), TOKENIZER.vocab_size)
    assert look.logit_lens[-1].tobytes() == look.probabilities.tobytes()
    assert look.logit_lens.sum(-1) == pytest.approx(1.0)


def test_attention_is_a_share_of_what_came_before(engine):
    look = model_of(engine).look("bella")
    assert look.attention.shape == (2, 4, 6, 6)
    assert look.attention.sum(-1) == pytest.approx(1.0)
    assert not numpy.triu(look.attention[1, 2], 1).any()


def test_token_ids_are_taken_as_they_are(engine):
    model = model_of(engine)
    assert arrays(model.look(TOKENS)) == arrays(model.look("bella"))
    model.tokenizer = None
    look = model.look(TOKENS)
    assert look.characters[:2] == ["", f"<{TOKENS[1]}>"]
    with pytest.raises(ValueError, match="no tokenizer"):
        model.look("bella")


def test_a_text_longer_than_the_block_says_so(engine):
    look = model_of(engine, block_size=4).look("isabella")
    assert len(look) == 4
    assert look.unseen == 5
    assert "5 tokens after block_size not seen" in repr(look)
    assert bits(look.loss) == bits(model_of(engine, block_size=4).loss(look.tokens).data)


def test_a_look_drops_nothing_and_draws_nothing(engine, oracle):
    model = engine.GPT(TOKENIZER.vocab_size, 8, 4, 2, 8, dropout=0.5)
    model.tokenizer, state = TOKENIZER, model.dropout_rng.getstate()
    expected = arrays(model_of(oracle).look("bella"))
    assert arrays(model.look("bella")) == expected
    assert model.dropout_rng.getstate() == state


def test_training_goes_on_without_changing_a_look(engine, oracle):
    model = model_of(engine)
    look = model.look("bella")
    model.fit([TOKENS], num_steps=1)
    assert arrays(look) == arrays(model_of(oracle).look("bella"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ablate": [(2, 0)]}, r"no head \(2, 0\): layers are 0..1, heads 0..3"),
        ({"ablate": [(0, -1)]}, r"no head \(0, -1\)"),
        ({"patch": {"layer2.q": []}}, "no activation 'layer2.q': choose one of embedding, "),
        ({"patch": {"layer0.q": [1.0]}}, r"layer0.q: an array of shape \(1,\), not \(6, 8\)"),
        ({"patch": {"layer0.q": {6: [0.0] * 8}}}, "position 6 of shape .*: positions are 0..5"),
        ({"patch": {"layer0.q": {0: [0.0]}}}, r"each of shape \(8,\)"),
        ({"patch": {"layer0.attention": [[1.0]]}}, r"shape \(1, 1\), not \(4, 6, 6\)"),
    ],
)
def test_an_intervention_that_does_not_fit_is_named(engine, change, message):
    with pytest.raises(ValueError, match=message):
        model_of(engine).look("bella", **change)


@pytest.mark.parametrize("tokens", [[], [TOKENIZER.BOS], [99, 0]])
def test_tokens_that_are_no_document_are_refused(engine, tokens):
    with pytest.raises(ValueError, match="token"):
        model_of(engine).look(tokens)


class Balance(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, html):
        super().__init__()
        self.open, self.count, self.text = [], {}, ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_looks_models_and_tokenizers_show_themselves_in_a_notebook(engine):
    model = model_of(engine)
    shown = Balance(model.look("bella")._repr_html_())
    assert shown.count["figure"] == shown.count["image"] == 8
    assert shown.count["tr"] == 1 + 6
    assert "6 positions" in shown.text
    assert f"{model.config.num_params:,} weights" in Balance(model._repr_html_()).text
    assert repr(engine.GPT(27)) == (
        "<GPT(27, n_embd=16, n_head=4, n_layer=1, block_size=16): 4,192 weights>"
    )
    assert repr(CharTokenizer("ba")) == "CharTokenizer('ab')"
    assert "10 tokens" in Balance(TOKENIZER._repr_html_()).text


def test_a_model_without_a_tokenizer_shows_its_ids(engine):
    model = engine.GPT(5, n_embd=4)
    shown = Balance(model.look([4, 0, 3, 4])._repr_html_())
    assert "<0>" in shown.text
    assert "<3>" in shown.text


def test_a_run_shows_how_far_it_is_its_losses_and_its_settings(engine):
    settings = Settings(engine=engine.NAME, model="bigram", num_steps=4, val=0.001, seed=7)
    run = Training(settings)
    assert "none yet" in Balance(run._repr_html_()).text
    run.fit()
    shown = Balance(run._repr_html_()).text
    losses = list(run.recent)
    assert f"{sum(losses) / 4:.4f}" in shown
    assert "mean loss of the last 4 steps" in shown
    assert f"lowest held-out loss, after step {run.best[0]}" in shown
    assert f"{run.best[1]:.4f}" in shown
    for name, value in {"model": "bigram", "seed": "7", "num_steps": "4"}.items():
        assert f"{name}{value}" in shown
    assert repr(run) in shown


def test_a_value_shows_what_it_was_computed_from(scalar):
    a, b = scalar.Value(2.0), scalar.Value(-3.0)
    y = a * b
    y.backward()
    shown = Balance(y._repr_html_())
    assert shown.count["tr"] == 3
    assert repr(y) in shown.text
    assert shown.text.count("-3.0") == 4  # a's gradient, b, twice a's local gradient
    assert "table" not in Balance(a._repr_html_()).count
    many = Balance(scalar.Value(1.0, [a] * 30, [1.0] * 30)._repr_html_())
    assert "and 10 more" in many.text


def test_markup_in_a_text_is_text(engine):
    tokenizer = CharTokenizer("<b>&\n ")
    model = engine.GPT(tokenizer.vocab_size, 8, 4)
    model.tokenizer = tokenizer
    shown = Balance(model.look("<b>&\n ")._repr_html_())
    assert "b" not in shown.count
    assert "\\n" in shown.text
    assert "\N{OPEN BOX}" in shown.text
    assert "&" in Balance(tokenizer._repr_html_()).text


def test_importing_the_package_imports_nothing_to_look_with():
    program = "import sys, microgpt; print([m for m in sys.modules if m in sys.argv[1:]])"
    heavy = ["numpy", "matplotlib", "plotly", "rich", "microgpt.look", "microgpt.pages"]
    done = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_without_numpy_the_message_says_what_to_install():
    program = (
        "import sys, microgpt; sys.modules['numpy'] = None\n"
        "try: microgpt.GPT(3).look([2, 0, 2])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "look needs numpy: pip install 'microgpt-cython[view]'\n", done.stderr
