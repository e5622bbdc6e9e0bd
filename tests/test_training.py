"""Training and sampling: every engine against the oracle and the golden figures, by bits."""

import functools
import math
import random
from pathlib import Path

import pytest
from bits import bits
from golden.original import Original, libm_fingerprint, read_documents
from sets import load

from microgpt import CharTokenizer

GOLDEN = Path(__file__).with_name("golden")
NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "li", "charlotte", "zoe", "x"]
SHAPES = {
    "the default": {},
    "head_dim 3": {"n_embd": 6, "n_head": 2},
    "one head": {"n_embd": 8, "n_head": 1},
    "head_dim 1": {"n_embd": 4, "n_head": 4},
    "three layers": {"n_embd": 8, "n_head": 2, "n_layer": 3},
    "one channel": {"n_embd": 1, "n_head": 1},
    "documents longer than the block": {"n_embd": 8, "n_head": 2, "block_size": 3},
    "a block of one": {"n_embd": 4, "n_head": 2, "block_size": 1},
    "documents shorter than the block": {"n_embd": 8, "n_head": 2, "block_size": 40},
}
ALPHABETS = {
    "CJK": ["漢字", "仮名", "漢仮", "日本語", "本日"],
    "emoji": ["🙂🙃", "👩\u200d💻", "🏳️\u200d🌈", "🙂"],
    "combining marks": ["e\u0301a", "a\u0308o\u0308", "n\u0303", "éa"],
    "one character": ["a", "aaa", "aa"],
    "spaces and symbols": ["to be, or not", "a\tb", "«ﬁ»", "\u2028x"],
}


@functools.cache
def trained(engine_name, documents, num_steps, batch_size, shape):
    """Return all that training shows: losses, gradients a step, weights, then samples."""
    engine = load(engine_name)
    tokenizer = CharTokenizer.from_documents(documents)
    rng = random.Random(42)
    model = engine.GPT(tokenizer.vocab_size, rng=rng, **dict(shape))
    adam = engine.Adam(model.params, num_steps=num_steps)
    tokens = [tokenizer.encode_document(document) for document in documents]
    shown = []
    for t in range(num_steps):
        batch = [tokens[(t * batch_size + b) % len(tokens)] for b in range(batch_size)]
        loss = model.batch_loss(batch) if batch_size > 1 else model.loss(batch[0])
        loss.backward()
        shown.append(bits(loss.data))
        shown.append(bits(*model.gradients()))
        adam.step()
        shown.append(bits(*model.weights()))
    shown.append([model.generate(rng=rng) for _ in range(5)])
    if model.config.block_size > 1:
        shown.append(model.generate([0], temperature=1.5, top_k=2, rng=rng))
    return shown


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_trains_as_on_the_oracle(compiled_model, shape):
    case = (tuple(NAMES), 4, 1, tuple(SHAPES[shape].items()))
    assert trained(compiled_model.NAME, *case) == trained("python", *case)


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_every_alphabet_trains_as_on_the_oracle(compiled_model, alphabet):
    case = (tuple(ALPHABETS[alphabet]), 4, 1, (("n_embd", 8), ("n_head", 2)))
    assert trained(compiled_model.NAME, *case) == trained("python", *case)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_train_as_on_the_oracle(compiled_model, batch_size):
    case = (tuple(NAMES), 3, batch_size, (("n_embd", 8), ("n_head", 2), ("block_size", 6)))
    assert trained(compiled_model.NAME, *case) == trained("python", *case)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_fit_is_the_loop_around_single_steps(model_engine, batch_size):
    shape = (("n_embd", 8), ("n_head", 2))
    shown = trained(model_engine.NAME, tuple(NAMES), 4, batch_size, shape)
    tokenizer = CharTokenizer.from_documents(NAMES)
    model = model_engine.GPT(tokenizer.vocab_size, rng=random.Random(42), **dict(shape))
    steps = []
    losses = model.fit(
        [tokenizer.encode_document(name) for name in NAMES],
        4,
        batch_size,
        on_step=lambda t, loss: steps.append((t, loss)),
    )
    assert [bits(loss) for loss in losses] == shown[0:12:3]
    assert steps == list(enumerate(losses))
    assert bits(*model.weights()) == shown[11]


def test_a_batch_of_one_is_its_document(model_engine):
    model = model_engine.GPT(5, n_embd=4, n_head=2)
    assert bits(model.batch_loss([[4, 1, 2, 4]]).data) == bits(model.loss([4, 1, 2, 4]).data)


def test_gradients_agree_with_finite_differences(model_engine):
    model = model_engine.GPT(4, n_embd=4, n_head=2, n_layer=1, block_size=4)
    tokens = [3, 0, 2, 1, 3]
    model.loss(tokens).backward()
    weights, gradients, step = model.weights(), model.gradients(), 1e-6
    for i in range(0, len(weights), 7):
        ends = []
        for sign in (1, -1):
            moved = weights[:]
            moved[i] += sign * step
            model.set_weights(moved)
            ends.append(model.loss(tokens).data)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert math.isclose(gradients[i], slope, rel_tol=1e-4, abs_tol=1e-7)


def golden_start(engine):
    """Return the default model as the original draws it from names.txt, its tokens, and more."""
    documents = read_documents(GOLDEN / "names.txt")
    rng = random.Random(42)
    rng.shuffle(documents)
    tokenizer = CharTokenizer.from_documents(documents)
    model = engine.GPT(tokenizer.vocab_size, rng=rng)
    tokens = [tokenizer.encode_document(document) for document in documents[:1000]]
    return model, tokens, tokenizer, rng


@functools.cache
def same_libm():
    """Tell whether the golden figures belong to this machine's exp, log and pow."""
    return (GOLDEN / "libm.txt").read_text().split("\n")[1] == libm_fingerprint()


def test_the_first_steps_on_names_are_the_originals(model_engine):
    model, tokens, _, _ = golden_start(model_engine)
    losses = model.fit(tokens, 10, adam=model_engine.Adam(model.params, num_steps=1000))
    if same_libm():
        original = (GOLDEN / "names_1000.losses.hex").read_text().split()[:10]
    else:
        training = Original(read_documents(GOLDEN / "names.txt")).training()
        original = [next(training).hex() for _ in range(10)]
    assert bits(*losses) == original


def test_a_thousand_steps_on_names_and_their_samples_are_the_originals(compiled_model):
    if not same_libm():
        pytest.skip("this libm is not that of the golden figures: the tests above compare engines")
    model, tokens, tokenizer, rng = golden_start(compiled_model)
    assert bits(*model.fit(tokens)) == (GOLDEN / "names_1000.losses.hex").read_text().split()
    samples = [tokenizer.decode(model.generate(rng=rng)) for _ in range(20)]
    assert samples == (GOLDEN / "names_1000.samples").read_text().split()
