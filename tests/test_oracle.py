"""The specification: known answers, a recursive walk, and the original program."""

import itertools
import math
import random

import pytest
from bits import bits
from golden.original import Original

from microgpt.adam import Adam
from microgpt.gpt import GPT
from microgpt.oracle import Tape, Value
from microgpt.tokenizer import CharTokenizer


def recursive_backward(loss):
    """Do what `backward` means, as the original says it: recursively."""
    finished, seen = [], set()

    def visit(node):
        if id(node) not in seen:
            seen.add(id(node))
            for child in node._children:
                visit(child)
            finished.append(node)

    visit(loss)
    loss.grad = 1.0
    for node in reversed(finished):
        for child, local_grad in zip(node._children, node._local_grads):
            child.grad += local_grad * node.grad
    return finished


def entangled(rng, size):
    """Return leaves and the root of a random graph in which most nodes are shared."""
    nodes = [Value(rng.uniform(0.5, 2)) for _ in range(5)]
    leaves = nodes[:]
    while len(nodes) < size:
        a, b = rng.choice(nodes), rng.choice(nodes)
        made = rng.choice(
            [
                lambda a, b: a + b,
                lambda a, b: a * b,
                lambda a, b: a - b,
                lambda a, b: a / (b * b + 1),
                lambda a, _: (a * 0.01).exp(),
                lambda a, _: (a * a + 1).log(),
                lambda a, _: a.relu(),
                lambda a, _: a.tanh(),
                lambda a, _: a.sigmoid(),
                lambda a, _: (a * a + 1) ** -0.5,
            ]
        )(a, b)
        nodes.append(made * 0.5)
    return leaves, sum(nodes[-10:])


@pytest.mark.parametrize(
    ("expression", "data", "grads"),
    [
        (lambda a, b: a + b, 5.0, (1.0, 1.0)),
        (lambda a, b: a - b, -1.0, (1.0, -1.0)),
        (lambda a, b: a * b, 6.0, (3.0, 2.0)),
        (lambda a, b: b / a, 1.5, (-0.75, 0.5)),
        (lambda a, b: a**3 + b, 11.0, (12.0, 1.0)),
        (lambda a, b: 6 / (1 - a) + b, -3.0, (6.0, 1.0)),
        (lambda a, b: (a - b).relu() + b, 3.0, (0.0, 1.0)),
        (lambda a, b: (b - a).relu() + b, 4.0, (-1.0, 2.0)),
        (lambda a, b: (a - 2).tanh() + b, 3.0, (1.0, 1.0)),
        (lambda a, b: (a - 2).sigmoid() * 4 + b, 5.0, (1.0, 1.0)),
        (lambda a, b: a.log() * b, math.log(2) * 3, (1.5, math.log(2))),
        (lambda a, b: a.exp() + b, math.exp(2) + 3, (math.exp(2), 1.0)),
        (lambda a, b: a * a * b, 12.0, (12.0, 4.0)),
    ],
)
def test_known_answers(expression, data, grads):
    a, b = Value(2), Value(3)
    out = expression(a, b)
    out.backward()
    assert bits(out.data, a.grad, b.grad) == bits(data, *grads)


def test_micrograds_readme_example_gives_its_published_numbers():
    a, b = Value(-4.0), Value(2.0)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.backward()
    assert f"{g.data:.4f} {a.grad:.4f} {b.grad:.4f}" == "24.7041 138.8338 645.5773"


def test_backward_visits_children_left_to_right_and_adds_in_reverse():
    # Three terms whose sum depends on the order in which they are added.
    x = Value(1.0)
    big, small, negative = x * 1e16, x * 1.0, x * -1e16
    (big + small + negative).backward()
    assert x.grad == (-1e16 + 1.0) + 1e16
    assert x.grad != (1e16 + -1e16) + 1.0


@pytest.mark.parametrize("seed", range(20))
def test_backward_equals_a_recursive_walk(seed):
    leaves, root = entangled(random.Random(seed), 120)
    twins, twin_root = entangled(random.Random(seed), 120)
    root.backward()
    finished = recursive_backward(twin_root)
    assert len(Tape(root)) == len(finished)
    assert bits(*(x.grad for x in leaves)) == bits(*(x.grad for x in twins))


@pytest.mark.parametrize("seed", range(10))
def test_gradients_agree_with_finite_differences(seed):
    rng = random.Random(seed)
    leaves, root = entangled(rng, 40)
    root.backward()
    step = 1e-6
    for i, leaf in enumerate(leaves):
        values = []
        for sign in (1, -1):
            rng = random.Random(seed)
            moved = [rng.uniform(0.5, 2) for _ in leaves]
            moved[i] += sign * step
            values.append(_replay(seed, moved).data)
        slope = (values[0] - values[1]) / (2 * step)
        assert leaf.grad == pytest.approx(slope, rel=1e-4, abs=1e-6)


def _replay(seed, data):
    """Return the root of `entangled(Random(seed), 40)` at other leaf data."""

    class Moved(random.Random):
        moved = iter(data)

        def uniform(self, a, b):
            super().uniform(a, b)
            return next(self.moved)

    return entangled(Moved(seed), 40)[1]


def test_a_chain_of_a_hundred_thousand_nodes_needs_no_recursion():
    x = Value(1.0)
    out = x
    for _ in range(100_000):
        out = out + 1
    out.backward()
    assert x.grad == 1.0


@pytest.mark.parametrize(
    "documents",
    [
        ["emma", "olivia", "ava", "isabella", "sophia", "mia", "li"],
        ["漢字", "é", "🙂\u200d🌈", "e\u0301"],
    ],
    ids=["names", "odd alphabets"],
)
@pytest.mark.parametrize(
    ("n_embd", "n_head", "n_layer", "block_size"), [(16, 4, 1, 16), (6, 2, 2, 4), (4, 1, 1, 3)]
)
def test_training_equals_the_original_program(documents, n_embd, n_head, n_layer, block_size):
    documents = documents[:]
    shape = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer, "block_size": block_size}
    judge = Original(documents, **shape)
    losses = list(itertools.islice(judge.training(num_steps=1000), 9))

    rng = random.Random(42)
    rng.shuffle(documents)
    tokenizer = CharTokenizer.from_documents(documents)
    model = GPT(tokenizer.vocab_size, rng=rng, **shape)
    adam = Adam(model.params, num_steps=1000)
    tokens = [tokenizer.encode_document(document) for document in documents]
    assert bits(*model.fit(tokens, 9, adam=adam)) == bits(*losses)
    assert bits(*(p.data for p in model.params)) == bits(*(p.data for p in judge.params))
    names = [tokenizer.decode(model.generate(rng=rng)) for _ in range(5)]
    assert names == list(judge.samples(5))
