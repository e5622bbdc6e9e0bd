"""The gradient check finds a wrong slope, and passes right ones in both ways."""

import random

import pytest
from bits import bits
from command import run

from microgpt import CharTokenizer
from microgpt.commands import main
from microgpt.engine import load
from microgpt.gradcheck import TOLERANCES, GradientError, check_model, gradcheck
from microgpt.models import MODELS

NAMES = ["emma", "ava", "bob"]
SIZES = {"n_embd": 4, "n_hidden": 3, "block_size": 5}


@pytest.mark.parametrize("complex_step", [False, True])
@pytest.mark.parametrize("name", ["bigram", "mlp", "rnn", "gru", "bow", "gpt"])
def test_all_models_pass(scalar, name, complex_step):
    tokenizer = CharTokenizer.from_documents(NAMES)
    accepted = vars(MODELS[name].Config(2))
    sizes = {size: n for size, n in SIZES.items() if size in accepted}
    model = scalar.models[name](tokenizer.vocab_size, rng=random.Random(3), **sizes)
    model.params[0].grad = 7.0
    before = bits(*model.weights(), *model.gradients())
    chosen = random.Random(1).sample(range(len(model.params)), 4)
    tokens = tokenizer.encode_document("emma")
    checks = gradcheck(
        model._document_loss, model.state_dict, tokens, indices=chosen, complex_step=complex_step
    )
    assert [check.weight for check in checks] == chosen
    assert max(check.error for check in checks) < (1e-12 if complex_step else 1e-6)
    assert bits(*model.weights(), *model.gradients()) == before


@pytest.mark.parametrize("complex_step", [False, True])
def test_every_operation_passes_and_the_complex_step_has_all_digits(scalar, complex_step):
    f = scalar.functions

    def loss(w, x):
        a, b, c = w
        total = (a * b - c / a) ** 2 + (3.0 - a) / (b * 2) + x * a - b.relu() + 1 / c
        total += (a * a).log() + (b * 0.1).exp() + c.tanh() * a.sigmoid()
        return total + f.maximum(a, b) * f.where(c, a, b) + f.dot([a, b], [c, a])

    w = [scalar.Value(1.5), scalar.Value(-0.7), scalar.Value(0.4)]
    errors = [check.error for check in gradcheck(loss, w, 0.25, complex_step=complex_step)]
    assert max(errors) < (1e-15 if complex_step else 1e-8)


@pytest.mark.parametrize("complex_step", [False, True])
def test_a_wrong_slope_is_found(scalar, complex_step):
    def loss(w):
        square = w[0] * w[0]
        if hasattr(square, "_children"):  # the slope is wrong by a thousandth
            wrong = (2.002 * w[0].data,)
            return type(w[0])(square.data, (w[0],), wrong) * w[1]
        return square * w[1]

    with pytest.raises(GradientError, match=r"weight 0: its gradient is 18\.0"):
        gradcheck(loss, [scalar.Value(3.0), scalar.Value(3.0)], complex_step=complex_step)


@pytest.mark.parametrize("name", MODELS)
def test_each_model_of_each_engine_passes_by_matrix(model_engine, name):
    tokenizer = CharTokenizer.from_documents(NAMES)
    accepted = vars(MODELS[name].Config(2))
    sizes = {size: n for size, n in SIZES.items() if size in accepted}
    model = model_engine.models[name](tokenizer.vocab_size, **sizes)
    before = bits(*model.weights())
    found = dict(check_model(model, tokenizer.encode_document("emma"), 3, random.Random(1)))
    assert list(found) == list(model.state_dict)
    for both in found.values():
        for checks, tolerance in zip(both, TOLERANCES):
            assert max(check.error for check in checks) < tolerance
            assert any(check.gradient for check in checks)
    assert bits(*model.weights()) == before


@pytest.mark.parametrize("way", [0, 1])
def test_a_wrong_gradient_of_a_model_is_found_in_both_ways(scalar, way):
    class Wrong(scalar.models["bigram"]):
        def loss(self, tokens):
            loss = super().loss(tokens)
            return scalar.Value(loss.data, (loss,), (1.001,))

    ((_, both),) = check_model(Wrong(4, block_size=3), [3, 0, 1, 3], 5, random.Random(1))
    assert max(check.error for check in both[way]) > 10 * TOLERANCES[way]
    assert min(check.gradient for check in both[way]) < 0.0


def test_the_command_checks_a_new_model_and_a_saved_one(tmp_path):
    small = ["--model", "rnn", "--n-embd", "2", "--n-hidden", "3"]
    status, out, err = run("gradcheck", *small, "--text", "emma", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("text: 'emma', 5 tokens; engine: ")
    assert "\nxh_to_h " in out
    assert out.endswith("all within 1e-06 of differences and 1e-12 of complex steps\n")
    run("train", *small, "--num-steps", "3", "--num-samples", "0", "--out", "saved", cwd=tmp_path)
    status, out, err = run("gradcheck", "saved", "--weights", "1", cwd=tmp_path)
    assert (status, err, out.count("      1  ")) == (0, "", 6)


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--weights", "0"], "must be a whole number of at least 1", 2),
        (["--n-embd", "0"], "n-embd: must be at least 1", 2),
        (["--text", "\u00c9"], "is not in the vocabulary", 1),
        (["nowhere"], "nowhere", 1),
        (["nowhere", "--n-embd", "3"], "leave out --n-embd", 2),
    ],
)
def test_a_wrong_command_line_is_named(tmp_path, arguments, words, status):
    found, _, err = run("gradcheck", *arguments, cwd=tmp_path)
    assert (found, err.count("\n")) == (status, 1)
    assert words in err


def test_the_command_says_which_gradient_is_wrong(monkeypatch, capsys):
    model = load("python").models["bigram"]
    plain = model.loss

    def wrong(self, tokens):
        return load("python").Value((loss := plain(self, tokens)).data, (loss,), (1.01,))

    monkeypatch.setattr(model, "loss", wrong)
    assert main(["gradcheck", "--model", "bigram", "--engine", "python", "--text", "emma"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("wrong: weight ")
