"""A compiled loss: its graph's bits for any inputs, and an error where it cannot be recorded."""

import math
import random

import pytest
from bits import bits

from microgpt import CharTokenizer, micrograd
from microgpt.recording import MAX_RECORDINGS, RecordingError, compile

NAMES = ["emma", "ava", "isabella", "bob", "anna", "o", "nn"]
SIZES = {"n_embd": 4, "n_hidden": 3, "block_size": 5}


def matrix(engine, rng, n_out, n_in):
    return [[engine.Value(rng.gauss(0, 0.5)) for _ in range(n_in)] for _ in range(n_out)]


def leaves(weights):
    return [p for rows in weights.values() for row in rows for p in row]


def numbers(weights):
    """Return the bits and types of all data and gradients."""
    return typed(*(p.data for p in leaves(weights)), *(p.grad for p in leaves(weights)))


def typed(*numbers):
    return [(type(x), bits(x)) for x in numbers]


def documents():
    tokenizer = CharTokenizer.from_documents(NAMES)
    return tokenizer.vocab_size, [tokenizer.encode_document(name) for name in NAMES]


def twice(make, loss, engine, oracle, rows):
    """Return what a loss shows over the oracle's graph, and compiled on an engine."""
    shown = []
    for chosen in (oracle, engine):
        weights = make(chosen, random.Random(3))
        step = compile(loss(chosen.functions), weights)
        losses = [result(step, *inputs) for inputs in rows]
        losses += [result(step.mean, rows), result(step.forward, *rows[0])]
        shown.append((losses, numbers(weights)))
    return shown


def result(call, *inputs):
    try:
        return typed(call(*inputs))
    except (ValueError, ArithmeticError) as error:
        return type(error)


@pytest.mark.parametrize("name", ["bigram", "mlp", "rnn", "gru", "bow", "gpt"])
def test_a_compiled_model_equals_its_graph(compiled_scalar, oracle, name):
    vocab_size, texts = documents()
    accepted = vars(oracle.models[name](2).config)
    sizes = {size: n for size, n in SIZES.items() if size in accepted}
    models = [engine.models[name](vocab_size, **sizes) for engine in (oracle, compiled_scalar)]
    step = compile(models[1]._document_loss, models[1].state_dict)
    for tokens in [*texts, *reversed(texts)]:
        loss = models[0].loss(tokens)
        loss.backward()
        assert bits(step(tokens)) == bits(step.forward(tokens)) == bits(loss.data)
        assert bits(*models[1].gradients()) == bits(*models[0].gradients())
    loss = models[0].batch_loss(texts)
    loss.backward()
    assert bits(step.mean([(tokens,) for tokens in texts])) == bits(loss.data)
    assert bits(*models[1].gradients()) == bits(*models[0].gradients())


def skipgram(functions):
    """Two words of five predict the one between them: none of the package's models."""

    def loss(w, around, target, temperature):
        left, right = (w["words"][i] for i in around)
        x = [(a * b + 0.5).sigmoid() - c for a, b, c in zip(left, right, w["bias"][0])]
        x = [functions.maximum(a, functions.where(b, a * 2, -a)) for a, b in zip(x, left)]
        logits = [z / temperature for z in functions.linear(functions.rmsnorm(x), w["words"])]
        return functions.cross_entropy(logits, target) + 0.01 * functions.dot(x, right)

    return loss


def skipgram_weights(engine, rng):
    return {"words": matrix(engine, rng, 5, 3), "bias": matrix(engine, rng, 1, 3)}


def test_a_model_of_ones_own_with_tied_weights_equals_its_graph(compiled_scalar, oracle):
    rng = random.Random(1)
    rows = [
        ([rng.randrange(5), rng.randrange(5)], rng.randrange(5), rng.uniform(0.5, 2.0))
        for _ in range(60)
    ]
    rows += [([i, i], i, 1.0) for i in range(5)]
    judged, shown = twice(skipgram_weights, skipgram, compiled_scalar, oracle, rows)
    assert shown == judged


def test_rows_of_one_matrix_that_overlap_add_in_order(compiled_scalar, oracle):
    """The window of a row and a row of weights share accumulators at other places."""

    def loss(functions):
        def shifted(w, i, target):
            row = w["words"][i]
            return functions.cross_entropy(functions.linear([*row[1:], row[0]], w["words"]), target)

        return shifted

    rows = [(i, t) for i in range(5) for t in range(5)]
    judged, shown = twice(skipgram_weights, loss, compiled_scalar, oracle, rows)
    assert shown == judged


def test_products_of_a_row_with_its_own_neighbours_add_in_order(compiled_scalar, oracle):
    def make(engine, rng):
        return {"words": matrix(engine, rng, 2, 9)}

    def loss(functions):
        return lambda w, x: functions.dot(w["words"][0][1:], w["words"][0][:-1]) * x

    rows = [(0.1 + i / 3,) for i in range(9)]
    judged, shown = twice(make, loss, compiled_scalar, oracle, rows)
    assert shown == judged


@pytest.mark.parametrize("x", [(0.0, -0.0), (-0.0, 0.0), (2, 2.0), (2.0, 2)])
def test_of_two_equal_numbers_the_first_is_the_maximum(compiled_scalar, oracle, x):
    shown = []
    for engine in (oracle, compiled_scalar):
        w = [engine.Value(number) for number in x]
        step = compile(lambda w, f=engine.functions: f.maximum(w[0], w[1]), w)
        shown.append(typed(step(), step.forward(), *(p.grad for p in w)))
    assert shown[0] == shown[1]


def random_loss(seed, functions):
    def loss(w, tokens, target, x):
        rng = random.Random(seed)
        known = [
            *w["a"][0],
            w["a"][0][1] / x,
            x - w["a"][0][2],
            *(w["words"][t][1] for t in tokens),
        ]
        for _ in range(rng.randrange(5, 40)):
            a, b = rng.choice(known), rng.choice(known)
            made = rng.randrange(12)
            if made < 3:
                known.append([a + b, a * b, a - b][made])
            elif made < 8:
                z = a * 0.3
                names = ["tanh", "sigmoid", "exp", "relu"]
                known.append(getattr(z, names[made - 3])() if made < 7 else (z * z + 1).log())
            elif made == 8:
                known.append((a * a + 1) ** rng.choice([-0.5, -1, 2, 0.5, 3]))
            elif made == 9:
                known += functions.linear(rng.sample(known, min(4, len(known))), w["m"])
            elif made == 10:
                known += functions.softmax(rng.sample(known, 3))
            else:
                known.append(functions.dot(rng.sample(known, 3), rng.sample(known, 3)))
        x = rng.sample(known, 4)
        first = functions.cross_entropy(functions.linear(x, w["m"]), target)
        second = -functions.softmax([a + b for a, b in zip(x, w["words"][tokens[0]])])[0].log()
        return first * 0.5 + sum(known[-4:]) * 0.25 + second

    return loss


@pytest.mark.parametrize("seed", range(60))
def test_random_losses_equal_their_graphs(compiled_scalar, oracle, seed):
    def make(engine, rng):
        return {
            "words": matrix(engine, rng, 3, 4),
            "a": matrix(engine, rng, 1, 3),
            "m": matrix(engine, rng, 5, 4),
        }

    rng = random.Random(seed)
    rows = [([rng.randrange(3) for _ in range(2)], rng.randrange(5), rng.random()) for _ in "12345"]
    judged, shown = twice(
        make, lambda functions: random_loss(seed, functions), compiled_scalar, oracle, rows
    )
    assert shown == judged


INTS = {  # losses whose gradients, or numbers, are ints in part
    "a weight itself": lambda f, w, i, x: w["a"][0][0] + w["a"][0][1] * x,
    "minus": lambda f, w, i, x: -(w["a"][0][0] - w["a"][0][1] * 3) - w["words"][i][2],
    "a row's sum": lambda f, w, i, x: sum(w["words"][i]) * 2,
    "a row's sum with another use": lambda f, w, i, x: sum(w["words"][i]) + w["words"][2][1] * x,
    "unused": lambda f, w, i, x: w["a"][0][0] * x,
    "floats alone": lambda f, w, i, x: (w["a"][0][0] + w["words"][i][0]) * 1.0,
    "relu": lambda f, w, i, x: (w["a"][0][0] * x).relu() + (w["words"][i][0] * -1).relu(),
    "relu that scales": lambda f, w, i, x: (w["a"][0][0] * x).relu() * w["a"][0][1],
    "relu of relu": lambda f, w, i, x: (w["a"][0][0] * x).relu() * w["words"][i][1] + 1,
    "large": lambda f, w, i, x: w["a"][0][0] * 2**40 * 2**12 + w["words"][i][0],
    "power": lambda f, w, i, x: (w["a"][0][0] + 2) ** 2 + (w["a"][0][1] * x).relu() ** 0,
    "power of relu": lambda f, w, i, x: (w["a"][0][1] * x).relu() ** 2 + (w["a"][0][2]) ** 2,
    "relu to the power of 1": lambda f, w, i, x: (w["a"][0][1] + w["words"][i][0]).relu() ** 1,
    "minus relu": lambda f, w, i, x: (w["words"][i][0] * -0.0 - w["a"][0][0].relu()) * x,
    "twice": lambda f, w, i, x: w["words"][i][0].relu() * -2 * 3 * w["a"][0][1],
    "of a difference": lambda f, w, i, x: -(w["a"][0][0].relu() - w["a"][0][1].relu()) * x,
    "of relus": lambda f, w, i, x: w["a"][0][0].relu() * -1 * w["words"][i][0].relu() * x,
    "of a sum": lambda f, w, i, x: (w["a"][0][0].relu() - 3) * w["words"][i][1].relu() * x,
    "dot": lambda f, w, i, x: f.dot(w["words"][i], [1, 2.0, 3]) + f.dot(w["a"][0], w["a"][0]),
    "larger": lambda f, w, i, x: f.maximum(w["a"][0][0], f.where(w["a"][0][1], w["a"][0][2], 0)),
}


@pytest.mark.parametrize("name", INTS)
def test_ints_stay_ints_where_the_oracles_do(compiled_scalar, oracle, name):
    def make(engine, rng):
        return {"words": matrix(engine, rng, 3, 3), "a": matrix(engine, rng, 1, 3)}

    def loss(functions):
        return lambda w, i, x: INTS[name](functions, w, i, x)

    rows = [(i, x) for i in range(3) for x in (0.5, -0.5, 0.0)]
    judged, shown = twice(make, loss, compiled_scalar, oracle, rows)
    assert shown == judged


@pytest.mark.parametrize("name", INTS)
def test_an_int_zero_has_no_sign(compiled_scalar, oracle, name):
    for numbers_of_a in ((-1.0, 2.0, 3.0), (-1.0, -2.0, 3.0), (1.0, 1.0, -3.0), (0.0, -0.0, 0.0)):
        shown = []
        for engine in (oracle, compiled_scalar):
            w = {
                "a": [[engine.Value(x) for x in numbers_of_a]],
                "words": [[engine.Value(x) for x in row] for row in ((-2.0, 2.0, 1.0), (0.0,) * 3)],
            }
            step = compile(lambda w, i, x, f=engine.functions: INTS[name](f, w, i, x), w)
            if name.startswith("a row's sum with"):
                w["words"].append([engine.Value(1.0) for _ in range(3)])
            losses = [result(step, i, x) for i in (0, 1) for x in (1.0, 0.0)]
            losses.append(result(step.mean, [(0, 1.0), (1, 2.0)]))
            shown.append((losses, numbers(w)))
        assert shown[0] == shown[1]


def test_weights_that_are_ints_equal_the_graphs(compiled_scalar, oracle):
    shown = []
    for engine in (oracle, compiled_scalar):
        w = [engine.Value(x) for x in (2, -3, 5.0, 2**53)]
        step = compile(lambda w, x: w[0] * w[1] + w[2] * x + w[3] + w[0], w)
        found = [step(2.0), step.forward(2.0), step.mean([(1.0,), (2.0,)]), step(0.0)]
        w[0].data = 1.5
        w[1].data, w[3].data = -3.0, 1.0
        found += [step(2.0), *(p.grad for p in w)]
        for p in w:
            p.grad = 0
        found += [step(2.0), *(p.grad for p in w), *(p.data for p in w)]
        shown.append(typed(*found))
    assert shown[0] == shown[1]


def test_a_class_of_ones_own_runs_its_own_operations(engine):
    class Doubled(engine.Value):
        def __mul__(self, other):
            return super().__mul__(other) * 2

    step = compile(lambda w, x: w[0] * w[1] + x, [Doubled(3.0), Doubled(4.0)])
    assert step(1.0) == step.forward(1.0) == 25.0
    weights = [micrograd.Value(-0.0), micrograd.Value(2.0)]
    step = compile(lambda w, x: w[0].relu() * w[1] + w[0], weights)
    assert typed(step(1.0), weights[0].grad) == typed(-0.0, 1.0)


def test_the_loss_itself_runs_once_for_each_shape(compiled_scalar):
    calls = []

    def loss(w, tokens, kind):
        calls.append(kind)
        return sum(w[t][0] * (2.0 if kind == "double" else 1.0) for t in tokens)

    w = [[compiled_scalar.Value(1.0)], [compiled_scalar.Value(3.0)]]
    step = compile(loss, w)
    assert [step([0, 1], "single"), step([1, 1], "single"), step([1, 1], "double")] == [4, 6, 12]
    assert [step([0], "single"), step([0, 0], "single")] == [1, 2]
    assert calls == ["single", "double", "single"]
    step.record()
    step([0, 1], "single")
    assert len(calls) == 4
    assert [w[0][0].grad, w[1][0].grad] == [1 + 1 + 2 + 1, 1 + 2 + 4 + 1]


def test_a_recording_of_the_loss_alone_is_replaced_where_gradients_are_asked(compiled_scalar):
    calls = []

    def loss(w, tokens):
        calls.append(len(tokens))
        return sum(w[t][0] * w[t][0] for t in tokens) * 0.5

    w = [[compiled_scalar.Value(1.0)], [compiled_scalar.Value(3.0)]]
    step = compile(loss, w)
    assert [step.forward([0, 1]), step.forward([1, 1]), step([1, 1]), step.forward([0, 1])] == [
        5.0,
        9.0,
        9.0,
        5.0,
    ]
    assert [step([0, 1]), step.forward([0])] == [5.0, 0.5]
    assert calls == [2, 2, 1]
    assert (w[0][0].grad, w[1][0].grad) == (1.0, 9.0)


def test_many_shapes_do_not_fill_the_memory(compiled_scalar):
    w = [[compiled_scalar.Value(1.0)]]
    step = compile(lambda w, tokens: sum(w[t][0] for t in tokens) + 1, w)
    for n in range(1, MAX_RECORDINGS + 20):
        assert step([0] * n) == n + 1
    assert len(step._recordings) == MAX_RECORDINGS


def test_weights_that_change_are_read_and_others_in_their_place_are_recorded(compiled_scalar):
    V = compiled_scalar.Value  # noqa: N806 - a class
    w = {"w": [[V(2.0), V(3.0)]]}
    step = compile(lambda w, x: w["w"][0][0] * x + w["w"][0][1], w)
    assert step(1.0) == 5.0
    w["w"][0][0].data = 10.0
    assert step(1.0) == 13.0
    other = w["w"][0][0] = V(100.0)
    assert step(2.0) == 203.0
    assert other.grad == 2.0
    w["w"].append([V(1.0)])
    assert step(2.0) == 203.0
    w["w"] = [[V(0.5), V(0.0)]]
    assert (step(4.0), w["w"][0][0].grad) == (2.0, 4.0)


def test_gradients_are_added_to_those_that_are_there(compiled_scalar, oracle):
    shown = []
    for engine in (oracle, compiled_scalar):
        w = [engine.Value(-0.0), engine.Value(2.0), engine.Value(1.0)]
        for p, grad in zip(w, (-0.0, 1e16, math.inf)):
            p.grad = grad
        step = compile(lambda w, x: w[0] * w[1] * x, w)
        shown.append(bits(step(-0.0), step(1.0), *(p.grad for p in w)))
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("loss", "x", "error"),
    [
        (lambda w, x: (w[0] * x).exp(), 1e4, OverflowError),
        (lambda w, x: (w[0] * x).log(), -1.0, ValueError),
        (lambda w, x: w[0] / x, 0.0, ZeroDivisionError),
        (lambda w, x: (w[0] * x) ** 0.5, -1.0, ValueError),
        (lambda w, x: (w[0] * x) ** 1e3, 1e9, OverflowError),
    ],
)
def test_what_the_loss_raises_is_raised_and_nothing_is_added(scalar, loss, x, error):
    w = [scalar.Value(2.0)]
    step = compile(loss, w)
    step(0.5)
    grad = w[0].grad
    for call in (lambda: step(x), lambda: step.forward(x), lambda: step.mean([(0.5,), (x,)])):
        with pytest.raises(error):
            call()
    assert w[0].grad == grad
    assert step(0.5) == step.forward(0.5)


def refused(engine):
    """Return losses that cannot be recorded, each with words of the error."""
    f, number = engine.functions, r"no number while its loss is recorded"
    choose = "can only choose a row of the weights"
    outside = engine.Value(1.0)
    return {
        "data": (lambda w, t, x: w["m"][0][0] * w["m"][0][1].data, number),
        "compared": (lambda w, t, x: max(w["m"][0][0], w["m"][0][1]), number),
        "true": (lambda w, t, x: w["m"][0][0] if w["m"][0][1] else w["m"][0][2], number),
        "equal": (lambda w, t, x: w["m"][0][0] * (w["m"][0][0] == w["m"][0][1]), number),
        "float": (lambda w, t, x: w["m"][0][0] * math.sin(w["m"][0][1]), number),
        "left of it": (lambda w, t, x: outside + w["m"][0][0], number),
        "backward": (lambda w, t, x: w["m"][0][0].backward(), number),
        "grad": (lambda w, t, x: w["m"][0][0] * w["m"][0][1].grad, number),
        "operation": (lambda w, t, x: f.Operation(math.sin, math.cos)(w["m"][0][0]), number),
        "index as number": (lambda w, t, x: w["m"][0][0] * (t + 1), choose),
        "index compared": (lambda w, t, x: w["m"][0][0] if t == 1 else w["m"][0][1], choose),
        "range": (lambda w, t, x: sum(w["m"][0][i] for i in range(t)), choose),
        "plain list": (lambda w, t, x: [x * 2 for x in w["m"][0]][t], choose),
        "dictionary": (lambda w, t, x: w["m"][0][0] * {1: 2.0}[t], choose),
        "one weight": (lambda w, t, x: w["m"][0][t] * 2, "choose a row of a matrix"),
        "operand": (lambda w, t, x: w["m"][0][0] * t, "an operand must be"),
        "outside": (lambda w, t, x: w["m"][0][0] * outside, "not among the weights"),
        "computed outside": (lambda w, t, x: w["m"][0][0] * (outside * 2), "not among the weights"),
        "random": (lambda w, t, x: w["m"][0][0] * random.random(), "draws random numbers"),
        "changed": (lambda w, t, x: w["m"][0].append(w["m"][0][0]), "let it change a copy"),
        "changed in place": (lambda w, t, x: w["m"].__setitem__(0, []), "let it change a copy"),
        "no value": (lambda w, t, x: 1.0, "must return a Value, not float"),
        "a weight": (lambda w, t, x: w["m"][0][0], "nothing is computed"),
        "unequal logits": (
            lambda w, t, x: twice_each(f, w, t),
            "computed in different ways",
        ),
        "shared one by one": (
            lambda w, t, x: unequal(f, w, t), "computed in different ways",
        ),
        "a target twice": (lambda w, t, x: both(f, w, t), "has no other use"),
        "numbers alone": (lambda w, t, x: w["m"][0][0] * (x / 3), "can only meet values"),
        "number compared": (lambda w, t, x: w["m"][0][0] * (1.0 if x > 0 else 2.0), "only meet"),
        "number of math": (lambda w, t, x: w["m"][0][0] * math.sin(x), "can only meet values"),
        "exponent": (lambda w, t, x: w["m"][0][0] ** w["m"][0][1], "must be a number"),
    }  # fmt: skip


def unequal(f, w, t):
    a, b = w["m"][0][0].exp(), w["m"][0][1].exp()
    return f.cross_entropy([a * b, b * a, a + b], t)


def twice_each(f, w, t):
    a, b = w["m"][0][:2]
    return f.cross_entropy([a.exp().log() * 2, b.exp()] * 2, t)


def both(f, w, t):
    probs = f.softmax(w["m"][0])
    return probs[t] + probs[0]


@pytest.mark.parametrize("name", list(refused(__import__("microgpt").engine)))
def test_what_cannot_be_recorded_is_an_error_that_says_why(compiled_scalar, name):
    loss, words = refused(compiled_scalar)[name]
    w = {"m": matrix(compiled_scalar, random.Random(1), 2, 3)}
    step = compile(loss, w)
    with pytest.raises(RecordingError, match=words):
        step(1, 2.0)
    assert compiled_scalar.functions.softmax([w["m"][0][0]])[0].data == 1.0


def test_a_value_of_another_recording_is_refused(compiled_scalar):
    kept = []

    def loss(w, x):
        kept.append(w[0] * x)
        return (kept[0] + w[0]) ** 2

    step = compile(loss, [compiled_scalar.Value(1.0)])
    step(1.0)
    step.record()
    with pytest.raises(RecordingError, match="of another recording"):
        step(1.0)


def test_wrong_inputs_and_weights_are_named(compiled_scalar):
    V = compiled_scalar.Value  # noqa: N806 - a class
    w = [[V(1.0), V(2.0)], [V(3.0), V(4.0)]]

    def loss(w, i):
        return compiled_scalar.functions.cross_entropy(w[i], i)

    step = compile(loss, w)
    for i in (2, -1, 10**9):
        with pytest.raises(IndexError, match=f"{i} is out of range.*chooses one of 0..1"):
            step(i)
    with pytest.raises(TypeError, match="must be a number, not a Value"):
        step(V(1.0))
    with pytest.raises(TypeError, match="strings or lists of them, not set"):
        step({1})
    with pytest.raises(ValueError, match="at least one row"):
        step.mean([])
    with pytest.raises(TypeError, match="a weight must be a leaf"):
        compile(loss, [V(1.0) * 2])
    with pytest.raises(TypeError, match="not float"):
        compile(loss, [1.0])
    assert [p.grad for row in w for p in row] == [0.0] * 4


def test_logits_that_are_weights_need_no_order(compiled_scalar, oracle):
    rows = [([i], t, 1.0) for i in range(5) for t in range(3)]

    def loss(functions):
        return lambda w, i, t, x: functions.cross_entropy([a * x for a in w["words"][i[0]]], t)

    judged, shown = twice(skipgram_weights, loss, compiled_scalar, oracle, rows)
    assert shown == judged


def test_threads_may_record_and_build_graphs_at_once(compiled_scalar):
    from threading import Barrier, Thread

    meet, out = Barrier(2), []

    def loss(w, x):
        meet.wait()
        meet.wait()
        return w[0] * x

    def build():
        meet.wait()
        a = compiled_scalar.Value(2.0)
        out.append(compiled_scalar.functions.softmax([a, a])[0].data)
        out.append(compiled_scalar.functions.maximum(a, a * 2).data)
        meet.wait()

    thread = Thread(target=build)
    thread.start()
    assert compile(loss, [compiled_scalar.Value(3.0)])(2.0) == 6.0
    thread.join()
    assert out == [0.5, 4.0]
