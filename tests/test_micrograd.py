"""micrograd's interface on every engine, against an independent program and finite differences."""

import copy
import gc
import json
import math
import operator
import pickle
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import graphviz
import numpy as np
import pytest
import two_moons
from bits import bits
from hypothesis import given
from hypothesis import strategies as st
from two_moons import micrograd_over as over

DOCS = Path(__file__).parents[1] / "docs"
needs_dot = pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz's program is not here")


@pytest.fixture(scope="module")
def micrograd(engine):
    """The module over each engine in turn."""
    return over(engine)


class Judge:
    """Derivatives as micrograd takes them, written from its description and nothing else.

    Each node has a function that hands its gradient down; the nodes are run in the
    reverse of a recursive topological order, children left to right.
    """

    def __init__(self, data, parents=(), hand_down=lambda grad: None):
        self.data, self.grad = data, 0.0
        self.parents, self.hand_down = parents, hand_down

    def combine(self, other, data, by_self, by_other):
        def hand_down(grad):
            self.grad += by_self * grad
            other.grad += by_other * grad

        return Judge(data, (self, other), hand_down)

    def apply(self, data, derivative):
        def hand_down(grad):
            self.grad += derivative * grad

        return Judge(data, (self,), hand_down)

    def __add__(self, other):
        other = other if isinstance(other, Judge) else Judge(other)
        return self.combine(other, self.data + other.data, 1.0, 1.0)

    def __mul__(self, other):
        other = other if isinstance(other, Judge) else Judge(other)
        return self.combine(other, self.data * other.data, other.data, self.data)

    def __pow__(self, k):
        return self.apply(self.data**k, k * self.data ** (k - 1))

    def relu(self):
        data = 0 if self.data < 0 else self.data
        return self.apply(data, 1.0 if data > 0 else 0.0)

    def exp(self):
        return self.apply(math.exp(self.data), math.exp(self.data))

    def log(self):
        return self.apply(math.log(self.data), 1 / self.data)

    def tanh(self):
        return self.apply(math.tanh(self.data), 1.0 - math.tanh(self.data) ** 2)

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -other

    def __truediv__(self, other):
        return self * other**-1

    def __radd__(self, number):
        return self + number

    def __rmul__(self, number):
        return self * number

    def __rsub__(self, number):
        return (-self) + number

    def __rtruediv__(self, number):
        return self**-1 * number

    def backward(self):
        order, seen = [], set()

        def visit(node):
            if node not in seen:
                seen.add(node)
                for parent in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        self.grad = 1.0
        for node in reversed(order):
            node.hand_down(node.grad)


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]
UNARY = [
    operator.neg,
    operator.methodcaller("relu"),
    operator.methodcaller("tanh"),
    lambda v: (v * 0.01).exp(),
    lambda v: (v * v + 0.5).log(),
    lambda v: v**2,
    lambda v: (v * v + 1.0) ** -0.5,
]
NUMBERS = st.floats(-4, 4).filter(lambda x: abs(x) > 1e-3) | st.integers(1, 4)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(range(len(UNARY) + 3 * len(BINARY))), *[st.integers(0, 7)] * 2, NUMBERS
    ),
    min_size=1,
    max_size=25,
)


def run(value, data, steps):
    """Return the leaves and the root of a random program over any `Value`."""
    leaves = [value(x) for x in data]
    recent = leaves[:]
    for choice, i, j, number in steps:
        a, b = recent[-1 - i % len(recent)], recent[-1 - j % len(recent)]
        way, which = divmod(choice - len(UNARY), len(BINARY))
        if choice < len(UNARY):
            node = UNARY[choice](a)
        elif way == 0:
            node = BINARY[which](a, b)
        elif way == 1:
            node = BINARY[which](a, number)
        else:
            node = BINARY[which](number, b)
        recent.append(node.tanh() if abs(node.data) > 10 else node)
    return leaves, recent[-1]


@given(st.lists(NUMBERS, min_size=2, max_size=4), STEPS)
def test_random_programs_have_the_judges_bits(engine, data, steps):
    def shown(value):
        leaves, root = run(value, data, steps)
        root.backward()
        return bits(root.data, root.grad, *[leaf.grad for leaf in leaves])

    try:
        expected = shown(Judge)
    except ArithmeticError as error:
        with pytest.raises(type(error)):
            shown(over(engine).Value)
    else:
        assert shown(over(engine).Value) == expected


@given(st.lists(st.floats(0.3, 2), min_size=3, max_size=3), st.integers(0, 5))
def test_gradients_are_those_of_finite_differences(engine, data, seed):
    value = over(engine).Value
    steps = [
        (choice, rng.randrange(8), rng.randrange(8), rng.uniform(0.5, 2))
        for rng in [random.Random(seed)]
        for choice in rng.choices([0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13], k=8)
    ]
    leaves, root = run(value, data, steps)
    root.backward()
    h = 1e-5
    for i, leaf in enumerate(leaves):
        up, down = ([x + sign * h * (i == j) for j, x in enumerate(data)] for sign in (1, -1))
        slope = (run(value, up, steps)[1].data - run(value, down, steps)[1].data) / (2 * h)
        assert leaf.grad == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_readme_example_of_micrograd_prints_its_three_numbers(micrograd):
    a, b = micrograd.Value(-4.0), micrograd.Value(2.0)
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


# ---------------------------------------------------------------- one node


def test_every_result_is_of_the_class_itself_and_says_what_made_it(micrograd):
    a, b = micrograd.Value(2.0), micrograd.Value(3)
    made = {
        "+": [a + b, a + 1, 1 + a, a - b, 1 - a, a - 1, sum([a, b])],
        "*": [a * b, a * 2, 2 * a, -a, a / b, a / 2, 2 / a],
        "**2": [a**2, a**2.0, a ** np.int64(2), a ** np.float64(2)],
        "**-1": [a**-1, (1 / a)._children[0]],
        "**0.5": [a**0.5],
        "exp": [a.exp()],
        "log": [a.log()],
        "tanh": [a.tanh()],
        "ReLU": [a.relu(), (-a).relu()],
        "": [a, b, (a + 1)._children[1], micrograd.Value(1.0, (a,), local_grads=(2.0,))],
    }
    for op, nodes in made.items():
        for node in nodes:
            assert type(node) is micrograd.Value
            assert node._op == op
            assert node.label == ""


def test_children_are_a_set_in_order_from_left_to_right(micrograd):
    a, b = micrograd.Value(2.0), micrograd.Value(3.0)
    assert list((a * b)._prev) == [a, b]
    assert list((b * a)._prev) == [b, a]
    assert (a * b)._prev == {b, a}
    assert len((a + a)._prev) == 1
    assert a in (a + b)._prev
    assert not a._prev


def test_label_and_op_can_be_set_and_read(micrograd):
    a = micrograd.Value(2.0, label="a")
    b = a * 3
    b.label = "b"
    assert (a.label, a._op, b.label, b._op) == ("a", "", "b", "*")
    b._op = "thrice"
    assert (b.label, b._op) == ("b", "thrice")
    assert micrograd.Value(1.0, (a,), "f", "c").label == "c"
    a.__init__(4.0)
    assert (a.data, a.label, a._op) == (4.0, "", "")


def test_ints_stay_ints_as_in_micrograd_and_other_numbers_become_floats(micrograd):
    assert repr(micrograd.Value(2)) == "Value(data=2, grad=0)"
    a = micrograd.Value(2)
    c = (a * 3 - 1) ** 2
    c.backward()
    assert repr(c) == "Value(data=25, grad=1)"
    assert repr(a) == "Value(data=2, grad=30)"
    assert repr((-a).relu()) == "Value(data=0, grad=0)"
    for number in (2, True, np.float32(0.5), np.int64(-1), np.array(2.5)):
        v = micrograd.Value(number)
        assert (v.data, type(v.data)) == (number, int if isinstance(number, int) else float)
        assert type(number * v) is type(v * number) is micrograd.Value
    for bad in ("1", None, [1.0], 1j):
        with pytest.raises(TypeError):
            micrograd.Value(bad)
        with pytest.raises(TypeError):
            micrograd.Value(1.0) * bad


def test_nodes_take_attributes(micrograd):
    v = micrograd.Value(2.0)
    v.name = "w1"
    out = v * 3
    out.note = out.label = "product"
    assert (v.name, vars(v), out.note, out.label) == ("w1", {"name": "w1"}, "product", "product")
    assert not hasattr(v * 3, "name")
    del v.name
    assert vars(v) == {}
    twin = copy.deepcopy(out)
    assert (twin.note, twin._children[0].data) == ("product", 2.0)


def test_own_operation_is_given_by_its_local_gradients(micrograd):
    x = micrograd.Value(0.5)
    y = micrograd.Value(math.sin(x.data), (x,), "sin", local_grads=(math.cos(x.data),))
    (y * y).backward()
    assert bits(x.grad) == bits(math.cos(0.5) * (math.sin(0.5) + math.sin(0.5)))
    assert (y._op, list(y._prev)) == ("sin", [x])


def test_third_argument_may_be_microgpts(micrograd):
    x, y = micrograd.Value(0.5), micrograd.Value(3.0)
    out = micrograd.Value(7.0, (x, y), (2.0, -1.0))
    out.backward()
    assert (x.grad, y.grad, out._op) == (2.0, -1.0, "")
    with pytest.raises(TypeError):
        micrograd.Value(7.0, (x,), 2.0)


def test_node_of_unknown_derivative_passes_nothing_on(micrograd):
    x = micrograd.Value(0.5)
    y = micrograd.Value(math.sin(x.data), (x,), "sin")
    (y * 2).backward()
    assert (x.grad, y.grad) == (0.0, 2.0)


def test_own_backward_function_is_refused_and_the_way_out_named(micrograd):
    x = micrograd.Value(0.5)
    y = micrograd.Value(math.sin(x.data), (x,), "sin")
    with pytest.raises(AttributeError, match="local_grads"):
        y._backward = lambda: None
    with pytest.raises(ValueError, match="2 local gradients for 1 children"):
        micrograd.Value(1.0, (x,), "f", local_grads=(2.0, 3.0))


def test_backward_can_be_played_by_hand_node_by_node(micrograd):
    def build():
        x, w = micrograd.Value(0.5), micrograd.Value(-3.0)
        n = x * w + x
        return x, w, n, n.tanh()

    x, w, n, o = build()
    o.backward()
    by_hand = build()
    by_hand[3].grad = 1.0
    for node in (by_hand[3], by_hand[2], next(iter(by_hand[2]._prev))):
        node._backward()
    assert bits(*[v.grad for v in by_hand]) == bits(x.grad, w.grad, n.grad, o.grad)


def test_subclass_keeps_its_operations_on_every_result(micrograd):
    class Wave(micrograd.Value):
        def sin(self):
            slope = math.cos(self.data)
            return type(self)(math.sin(self.data), (self,), "sin", local_grads=(slope,))

    a = Wave(0.25)
    a.note = "kept"
    out = ((1 - a * 3).relu().tanh() + a).sin()
    out.backward()
    b = Judge(0.25)
    inner = (1 - b * 3).relu().tanh() + b
    judged = inner.apply(math.sin(inner.data), math.cos(inner.data))
    judged.backward()
    assert type(out) is Wave
    assert bits(out.data, a.grad) == bits(judged.data, b.grad)
    assert a.note == "kept"


def test_operations_can_be_added_to_the_class(micrograd, monkeypatch):
    monkeypatch.setattr(micrograd.Value, "square", lambda self: self * self, raising=False)
    assert (micrograd.Value(2.0) + 1).square().data == 9.0


def test_classes_meet_by_the_left_one(engine):
    plain, ours = engine.Value(2.0), over(engine).Value(3.0)
    assert type(plain + ours) is type(plain * ours) is type(plain - ours) is engine.Value
    assert type(ours + plain) is type(ours * plain) is type(ours - plain) is type(ours)
    total = 0 + plain * 2 + ours * 5  # a long sum keeps the class of what it adds
    total.backward()
    assert bits(ours.grad, plain.grad) == bits(5.0, 2.0)
    assert type(total._children[1]) is type(ours)


def test_subclass_on_the_right_does_not_change_the_order(micrograd):
    class Other(micrograd.Value):
        pass

    left, right = micrograd.Value(2.0), Other(3.0)
    for out in (left + right, left * right):
        assert type(out) is micrograd.Value
        assert list(out._prev) == [left, right]


def test_reflected_operator_of_a_subclass_goes_first(micrograd):
    class Loud(micrograd.Value):
        def __radd__(self, other):
            out = super().__radd__(other)
            out.label = "reflected"
            return out

    out = micrograd.Value(1.0) + Loud(2.0)
    assert (type(out), out.label, out.data) == (Loud, "reflected", 3.0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_keep_graph_and_names(micrograd, copied):
    a = micrograd.Value(2.0, label="a")
    out = copied(a.tanh() ** 2)
    (tanh,) = out._children
    (leaf,) = tanh._children
    assert [type(node) for node in (out, tanh, leaf)] == [micrograd.Value] * 3
    assert [(node._op, node.label) for node in (out, tanh, leaf)] == [
        ("**2", ""),
        ("tanh", ""),
        ("", "a"),
    ]


def test_a_graph_of_a_million_nodes_is_built_played_and_freed(compiled):
    value = over(compiled).Value
    x = value(1.0)
    y = x
    for _ in range(250_000):
        y = y * 1.0 + x
    y.backward()
    assert x.grad == 250_001.0
    before = len(gc.get_objects())
    del y
    assert len(gc.get_objects()) <= before


def test_nodes_are_not_the_collectors(compiled):
    nodes = [over(compiled).Value(float(i)) for i in range(100)]
    nodes += [a + 1 for a in nodes]
    assert not any(gc.is_tracked(node) for node in nodes)


def test_nodes_hold_their_class_and_their_names_exactly_as_long_as_they_live(compiled):
    value = over(compiled).Value
    names = [object() for _ in range(3)]

    def held():
        return [sys.getrefcount(x) for x in (value, *names)]

    def build():
        x = value(0.5, label=names[0])
        x.label = names[1]
        y = (x * 2 + 1 - x / 3).tanh().relu() ** 2
        y._op = names[2]
        y.__init__(1.0)
        return x, copy.copy(x), y

    build()
    before = held()
    kept = [build() for _ in range(50)]
    assert held() > before
    del kept
    assert held() == before


def test_attributes_need_room_and_settings_are_checked(engine):
    with pytest.raises(TypeError, match="Wide needs __slots__"):

        class Wide(engine.Value, attributes=True):
            __slots__ = ("more",)

    for name, choice in (("results", "all"), ("relu", "leaky"), ("init", 0), ("attributes", int)):
        with pytest.raises(ValueError, match=f"{name} of class Odd must be "):
            type("Odd", (engine.Value,), {}, **{name: choice})
    with pytest.raises(TypeError):
        type("Odd", (engine.Value,), {}, colour=1)


def test_an_init_that_may_be_left_out_is_that_of_the_class_that_says_so(micrograd, monkeypatch):
    class Named(micrograd.Value):
        def __init__(self, data, name="leaf"):
            super().__init__(data)
            self.name = name

    named = Named(2.0)
    assert (named.name, Named(1.0, "w").name, (named * 3).data) == ("leaf", "w", 6.0)
    assert micrograd.Value(3).label == ""
    assert micrograd.Value(3, label="x").label == "x"
    monkeypatch.setattr(
        micrograd.Value,
        "__init__",
        lambda self, data: named.__class__.__mro__[2].__init__(self, 2 * data),
    )
    assert micrograd.Value(3).data == 6


def test_a_base_of_another_class_is_raised_to_a_value(micrograd, engine):
    x, y = micrograd.Value(3.0), engine.Value(2.0)
    for out, a, b in ((x**y, x, y), (y**x, y, x), (x**x, x, x)):
        assert out._children == (a, b)
        assert out.data == a.data**b.data
        assert type(out) is micrograd.Value
        assert out._op == "**"
    for a, b in ((y, y), (2.0, y), (y, "2")):
        with pytest.raises(TypeError):
            a**b


# ---------------------------------------------------------------- networks


def test_networks_draw_their_weights_in_order_and_describe_themselves(micrograd):
    random.seed(7)
    mlp = micrograd.MLP(2, [3, 1])
    rng = random.Random(7)
    expected = []
    for nin, nout in ((2, 3), (3, 1)):
        for _ in range(nout):
            expected += [*[rng.uniform(-1, 1) for _ in range(nin)], 0.0]
    assert bits(*[p.data for p in mlp.parameters()]) == bits(*expected)
    assert repr(mlp) == (
        "MLP of [Layer of [ReLUNeuron(2), ReLUNeuron(2), ReLUNeuron(2)], "
        "Layer of [LinearNeuron(3)]]"
    )
    assert [type(p) for p in mlp.parameters()] == [micrograd.Value] * 13


def test_one_output_is_a_value_and_more_are_a_list(micrograd):
    x = [micrograd.Value(1.0), -2.0]
    assert isinstance(micrograd.Neuron(2)(x), micrograd.Value)
    assert isinstance(micrograd.Layer(2, 1)(x), micrograd.Value)
    assert isinstance(micrograd.MLP(2, [1, 1])(x), micrograd.Value)
    assert len(micrograd.MLP(2, [1, 4])(x)) == 4


def test_zero_grad_clears_every_parameter(micrograd):
    mlp = micrograd.MLP(2, [2, 1])
    mlp([1.0, 2.0]).backward()
    assert any(p.grad for p in mlp.parameters())
    mlp.zero_grad()
    assert bits(*[p.grad for p in mlp.parameters()]) == bits(*[0.0] * 9)
    assert micrograd.Module().parameters() == []


# ------------------------------------------------------------------ draw_dot


def drawn(source):
    """Return the boxes' texts and the edges between them, as dot itself lays them out."""
    laid_out = json.loads(subprocess.check_output(["dot", "-Tjson"], input=source, text=True))
    texts = [node["label"] for node in laid_out["objects"]]
    edges = [(texts[e["tail"]], texts[e["head"]]) for e in laid_out["edges"]]
    return texts, edges


@needs_dot
def test_draw_dot_shows_each_node_once_with_its_numbers(micrograd):
    a, b = micrograd.Value(2.0, label="a"), micrograd.Value(-3.0, label="{b|c}")
    out = a * b + a
    out.backward()
    texts, edges = drawn(micrograd.draw_dot(out).source)
    box_a, box_b = (
        r"{ a | data 2.0000 | grad -2.0000 }",
        r"{ \{b\|c\} | data -3.0000 | grad 2.0000 }",
    )
    product, total = "{ data -6.0000 | grad 1.0000 }", "{ data -4.0000 | grad 1.0000 }"
    assert sorted(texts) == sorted([box_a, box_b, product, total, "*", "+"])
    assert sorted(edges) == sorted(
        [(box_a, "*"), (box_b, "*"), ("*", product), (product, "+"), (box_a, "+"), ("+", total)]
    )


def test_draw_dot_is_a_digraph_and_the_same_every_time(micrograd):
    def draw():
        a = micrograd.Value(2.0)
        return micrograd.draw_dot((a * a + a).tanh(), format="png", rankdir="TB")

    dot = draw()
    assert isinstance(dot, graphviz.Digraph)
    assert dot.format == "png"
    assert "rankdir=TB" in dot.source
    assert dot.source == draw().source


def test_draw_dot_writes_labels_as_they_stand(micrograd):
    source = micrograd.draw_dot(micrograd.Value(2.0, label="{b|<c>}")).source
    assert r"\{b\|\<c\>\} | data 2.0000" in source


def test_draw_dot_takes_as_many_nodes_as_can_be_read(micrograd):
    x = micrograd.Value(1.0)
    for _ in range(micrograd.MAX_DRAWN - 1):
        x = x.tanh()
    assert micrograd.draw_dot(x).source.count("->") == 2 * 399
    with pytest.raises(ValueError, match=r"401 nodes .* at most 400"):
        micrograd.draw_dot(x.tanh())


@needs_dot
def test_draw_dot_renders_up_to_its_limit(micrograd, tmp_path):
    x = micrograd.Value(1.0)
    for _ in range(micrograd.MAX_DRAWN - 1):
        x = x.tanh()
    path = micrograd.draw_dot(x).render(tmp_path / "chain", cleanup=True)
    assert Path(path).read_text(encoding="utf-8").count("tanh") == 399


def test_draw_dot_refuses_a_huge_graph_at_once(compiled):
    x = over(compiled).Value(1.0)
    for _ in range(100_000):
        x = x + 1.0
    with pytest.raises(ValueError, match="200,001 nodes"):
        over(compiled).draw_dot(x)


def test_draw_dot_names_what_is_wrong(micrograd, monkeypatch):
    with pytest.raises(TypeError, match="Value, not float"):
        micrograd.draw_dot(1.0)
    with pytest.raises(ValueError, match="rankdir must be 'LR' or 'TB', not 'up'"):
        micrograd.draw_dot(micrograd.Value(1.0), rankdir="up")
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match=r"microgpt-cython\[viz\]"):
        micrograd.draw_dot(micrograd.Value(1.0))


def test_draw_dot_draws_plain_values_too(engine):
    a = engine.Value(2.0)
    assert over(engine).draw_dot(a * 3).source.count("->") == 2


# ----------------------------------------------------------------- two moons


@pytest.fixture(scope="module")
def judged():
    """The losses and final weights of two steps by the reference program."""
    random.seed(1337)
    points, labels = two_moons.moons()
    layers = [
        [([Judge(random.uniform(-1, 1)) for _ in range(nin)], Judge(0.0)) for _ in range(nout)]
        for nin, nout in zip([2, *two_moons.SIZES], two_moons.SIZES)
    ]
    params = [p for layer in layers for w, b in layer for p in (*w, b)]
    losses = []
    for k in range(2):
        hinges = 0
        for point, label in zip(points, labels):
            x = [Judge(z) for z in point]
            for layer in layers:
                x = [sum((wi * xi for wi, xi in zip(w, x)), b) for w, b in layer]
                x = [xi.relu() for xi in x] if layer is not layers[-1] else x
            hinges = hinges + (1 + -label * x[0]).relu()
        loss = hinges * (1 / 100) + 1e-4 * sum(p * p for p in params)
        for p in params:
            p.grad = 0.0
        loss.backward()
        losses.append(loss.data)
        for p in params:
            p.data -= (1.0 - 0.9 * k / 100) * p.grad
    return bits(*losses, *[p.data for p in params])


@pytest.mark.parametrize("way", two_moons.WAYS)
def test_two_moons_train_with_the_judges_bits(engine, judged, way):
    training = two_moons.WAYS[way](engine)
    losses = [training.step(k) for k in range(2)]
    assert bits(*losses, *[p.data for p in training.params]) == judged


# ----------------------------------------------------------------- notebooks


def printed(notebook):
    """Return what the cells of a notebook print, cell by cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    return [
        "".join("".join(out["text"]) for out in cell if out["output_type"] == "stream")
        for cell in outputs
    ]


def run_notebook(notebook, folder):
    """Run a notebook in Jupyter's own runner and return what it printed."""
    copied = Path(shutil.copy(DOCS / notebook, folder))
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return printed(copied)


def test_two_moons_notebook_prints_what_is_stored_in_it(compiled_scalar, tmp_path):
    shown = run_notebook("two_moons.ipynb", tmp_path)
    assert shown == printed(DOCS / "two_moons.ipynb")
    training = two_moons.Micrograd(compiled_scalar)
    losses = [training.step(k) for k in range(100)]
    for k in (0, 50, 99):
        assert f"step {k:2}: loss {losses[k]:.4f}" in "".join(shown)


@needs_dot
def test_draw_graph_notebook_prints_what_is_stored_in_it(compiled_scalar, tmp_path):
    shown = run_notebook("draw_graph.ipynb", tmp_path)
    assert shown == printed(DOCS / "draw_graph.ipynb")
    pictures = json.loads((tmp_path / "draw_graph.ipynb").read_text(encoding="utf-8"))["cells"]
    svgs = [
        out["data"]["image/svg+xml"]
        for cell in pictures
        for out in cell.get("outputs", [])
        if "data" in out
    ]
    assert len(svgs) == 2
    assert "bias" in "".join(svgs[1])


def test_a_value_to_the_power_of_a_value(micrograd):
    a, b = micrograd.Value(2.0), micrograd.Value(3.0)
    out = a**b + 2**b
    out.backward()
    assert (out.data, tuple(out._children[0]._children)) == (16.0, (a, b))
    assert bits(a.grad, b.grad) == bits(12.0, 0.0 + 8.0 * math.log(2.0) + 8.0 * math.log(2.0))
    with pytest.raises(ValueError, match=r"math domain error|expected a positive input"):
        micrograd.Value(-2.0) ** b


def test_values_compare_by_number_and_become_floats(micrograd):
    a, b = micrograd.Value(1.0), micrograd.Value(2.0)
    assert a < b <= 2.0 < micrograd.Value(3.0) > 1 >= a
    assert max([a, b, micrograd.Value(0)]) is b
    assert (a == micrograd.Value(1.0), a == a, len({a, b, a})) == (False, True, 2)
    assert (float(b), int(float(b)), math.sqrt(micrograd.Value(4.0))) == (2.0, 2, 2.0)


def test_zero_grad_of_a_value_clears_the_graph_below_it(micrograd):
    a = micrograd.Value(3.0)
    out = a * a + 1
    out.backward()
    out.zero_grad()
    assert [node.grad for node in (a, out, out._children[0])] == [0, 0, 0]


def test_a_value_becomes_an_int_and_has_an_absolute_value_and_a_root(micrograd):
    values = [micrograd.Value(x) for x in (-3, 2.5, 0.0, -0.0)]
    for value in values:
        (abs(value) * 2).backward()
    assert [(type(v.grad), v.grad) for v in values] == [(int, -2), (int, 2), (int, 0), (int, 0)]
    sizes = [abs(value) for value in values]
    assert [(type(v.data), str(v.data)) for v in sizes] == [
        (int, "3"),
        (float, "2.5"),
        (float, "0.0"),
        (float, "0.0"),
    ]
    assert ([v._op for v in sizes], type(sizes[0])) == (["abs"] * 4, micrograd.Value)
    assert [int(value) for value in values] == [-3, 2, 0, 0]
    root = micrograd.Value(4.0)
    root.sqrt().backward()
    assert (root.sqrt().data, root.grad) == (2.0, 0.25)


def test_no_grad_gives_leaves_of_the_same_numbers(micrograd):
    x, y = micrograd.Value(0.5, label="x"), micrograd.Value(-2)

    def results():
        return [
            x + y, 1 + y, x - y, 1 - x, x * y, 2 * y, x / y, 1 / y, x**2, x**x, 2**x, -y, abs(y),
            x.relu(), x.tanh(), x.sigmoid(), x.exp(), x.log(), x.sqrt(), sum([x, y]),
            micrograd.Value(3.0, (x, y), "f", local_grads=(1, 2)),
            micrograd.MLP(2, [3, 1])([x, y]),
        ]  # fmt: skip

    random.seed(5)
    graph = results()
    with micrograd.no_grad():
        random.seed(5)
        leaves = results()
        with micrograd.no_grad():
            assert not (x * y)._prev
        assert not (x * y)._prev
        leaves[0].backward()
    assert [(type(v.data), v.data) for v in leaves] == [(type(v.data), v.data) for v in graph]
    assert {type(v) for v in leaves} == {micrograd.Value}
    assert not any(v._prev or v._op for v in leaves[:-2])
    assert (x.grad, leaves[0].grad, x.label) == (0, 1, "x")
    assert all(v._prev for v in graph)
    assert all(v._prev for v in results())


def test_no_grad_ends_with_its_block_and_holds_in_its_thread_alone(micrograd):
    x, seen = micrograd.Value(3.0), []

    @micrograd.no_grad()
    def square(depth=0):
        return square(depth - 1) if depth else x * x

    assert not square(2)._prev
    with pytest.raises(ZeroDivisionError), micrograd.no_grad():
        x / 0
    assert (x * x)._prev == {x}
    with micrograd.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * x)._prev))
        thread.start()
        thread.join()
    assert seen == [{x}]

    class Mine(micrograd.Value):
        def __mul__(self, other):
            return super().__mul__(other) + 1

    with micrograd.no_grad():
        mine = Mine(2.0) * 3
    assert (type(mine), mine.data, len(mine._prev)) == (Mine, 7.0, 0)
    assert vars(micrograd.Value).keys().isdisjoint({"__mul__", "tanh"})


def test_activations_are_chosen_by_name(micrograd):
    def outs(*args, **named):
        random.seed(2)
        neuron = micrograd.Neuron(2, *args, **named)
        return repr(neuron), neuron.activation, neuron([1.0, -2.0]).data

    total = outs(False)[2]
    linear, tanh = ("LinearNeuron(2)", "linear", total), ("TanhNeuron(2)", "tanh", math.tanh(total))
    assert outs(activation=None) == outs("linear") == outs(activation="linear") == linear
    assert outs(activation="tanh") == outs("tanh") == outs(micrograd.Value.tanh) == tanh
    assert outs()[:2] == outs(True, activation="ReLU")[:2] == ("ReLUNeuron(2)", "relu")
    assert outs("sigmoid")[:2] == ("SigmoidNeuron(2)", "sigmoid")
    kinds = [
        [neuron.activation for layer in mlp.layers for neuron in layer.neurons]
        for mlp in (
            micrograd.MLP(1, [2, 1]),
            micrograd.MLP(1, [2, 1], activation="tanh"),
            micrograd.MLP(1, [2, 1], activations=["sigmoid", "tanh"]),
        )
    ]
    assert kinds == [
        ["relu"] * 2 + ["linear"],
        ["tanh"] * 2 + ["linear"],
        ["sigmoid"] * 2 + ["tanh"],
    ]
    assert repr(micrograd.Layer(2, 1, activation="tanh")) == "Layer of [TanhNeuron(2)]"
    for make in (micrograd.Neuron, lambda n, **named: micrograd.MLP(n, [1], **named)):
        with pytest.raises(
            ValueError, match="unknown activation 'bogus': choose one of relu, tanh"
        ):
            make(2, activation="bogus")
    with pytest.raises(ValueError, match="1 activations for 2 layers"):
        micrograd.MLP(2, [3, 1], activations=["tanh"])


def test_an_absolute_value_is_replayed(compiled_scalar):
    micrograd = over(compiled_scalar)
    x = micrograd.Value(2.0)
    tape = compiled_scalar.Tape(abs(x) * 3.0, inputs=[x])
    assert tape.forward([-5.0]) == 15.0
