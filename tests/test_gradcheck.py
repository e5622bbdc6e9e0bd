"""The gradient check finds a wrong slope, and passes right ones in both ways."""

import random

import pytest
from bits import bits

from microgpt import CharTokenizer
from microgpt.gradcheck import GradientError, gradcheck
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
