"""micrograd's class, whose nodes keep a function `_backward`, under `microgpt run`.

With children in a tuple the script always has the same bits, and the compiled class has to
give them. With children in a set the script's bits change from run to run, and the compiled
class has to give those of the tuple.
"""

import random

import pytest
from running import SCRIPTS, edited, executed, same

MOONS = (SCRIPTS / "moons.py").read_text(encoding="utf-8")
CLASS = MOONS[MOONS.index("class Value:") : MOONS.index("class Module:")]
BEFORE_RELU = "    def relu(self):"
FLOATS = (("self.grad = 0\n", "self.grad = 0.0\n"), ("self.grad = 1\n", "self.grad = 1.0\n"))
# Every closure's own weights are read when backward runs: these numbers tell when that is.
SMALL = (
    "import math\n\n\n"
    + edited(CLASS, *FLOATS)
    + """
a, b = Value(0.5), Value(-1.25)
c = a * b + a**2 - b / a + (a * 3.0).relu()
c.backward()
print(c, a, b)
"""
)


def own(name, data, *statements, children="(self,)"):
    """Return the pair of texts that adds an operation to the class."""
    lines = [
        f"    def {name}(self, other=2.0):",
        f"        out = Value({data}, {children}, {name!r})",
        "",
        "        def _backward():",
        *(f"            {statement}" for statement in statements),
        "",
        "        out._backward = _backward",
        "        return out",
        "",
        BEFORE_RELU,
    ]
    return BEFORE_RELU, "\n".join(lines)


def shown(text):
    """Return the pair of texts that adds statements at the end of SMALL."""
    return "print(c, a, b)\n", "print(c, a, b)\n" + text


def test_network_of_closures_is_replaced_and_prints_the_same():
    outcome = same(MOONS)
    assert (outcome.replaced, outcome.ending) == (["Value"], "end"), outcome.reasons
    assert outcome.output.count("loss") == 5
    assert outcome.loops


@pytest.mark.parametrize("collection", ["set", "frozenset"])
def test_children_in_a_set_are_taken_from_left_to_right(collection):
    ordered = executed(MOONS, plain=False)
    source = edited(MOONS, ("_prev = _children", f"_prev = {collection}(_children)"))
    outcome = executed(source, plain=False)
    assert (outcome.output, outcome.replaced) == (ordered.output, ["Value"])
    assert any("children in a set" in line for line in outcome.watch.lines())


SPELLINGS = {
    "tuple": (("_prev = _children", "_prev = tuple(_children)"),),
    "list": (("_prev = _children", "_prev = list(_children)"),),
    "no_name": (
        (', _op=""', ""),
        ("        self._op = _op\n", ""),
        (', "+")', ")"),
        (', "*")', ")"),
        (', "ReLU")', ")"),
        (', f"**{other}")', ")"),
    ),
    "name_by_keyword": (('(self, other), "+")', '(self, other), _op="+")'),),
    "renamed": (
        ("_backward", "rule"),
        (".rule()", ".rule()"),
        ("out", "node"),
        ("_prev", "parents"),
        ("_children", "given"),
        ("Value", "Scalar"),
        ("other", "that"),
        ("self", "this"),
        ("topo", "order"),
    ),
    "walk_with_another_name": (
        (
            "for v in reversed(topo):\n            v._backward()",
            "for node in reversed(topo):\n            node._backward()",
        ),
    ),
    "children_of_another_name": (
        ("build_topo(v)", "build_topo(v)"),
        (
            "for child in v._prev:\n                    build_topo(child)",
            "for v_child in v._prev:\n                    build_topo(v_child)",
        ),
    ),
    "no_rule_at_leaves": (
        ("lambda: None", "None"),
        ("            v._backward()", "            if v._backward:\n                v._backward()"),
    ),
    "no_rule_is_none": (
        ("lambda: None", "None"),
        (
            "            v._backward()",
            "            if v._backward is not None:\n                v._backward()",
        ),
    ),
    "dataclass": (
        ("import math\n", "import math\nfrom dataclasses import dataclass, field\n"),
        (
            SMALL[SMALL.index("class Value:") : SMALL.index("    def __add__")],
            "@dataclass(eq=False, repr=False)\nclass Value:\n    data: float\n    _prev: tuple = ()\n"
            "    _op: str = ''\n    grad: float = field(default=0.0, init=False)\n"
            "    _backward: object = field(default_factory=lambda: lambda: None, init=False)\n\n",
        ),
    ),
    "type_hints": (
        (
            'def __init__(self, data, _children=(), _op=""):',
            'def __init__(self, data: float, _children: tuple = (), _op: str = "") -> None:',
        ),
        ("self._prev = _children", "self._prev: tuple = _children"),
        ("def _backward():", "def _backward() -> None:"),
        ("def __add__(self, other):", "def __add__(self, other: 'Value') -> 'Value':"),
    ),
    "docstrings": (("def _backward():", 'def _backward():\n            """Hand on."""'),),
    "factor_on_the_right": (("other.data * out.grad", "out.grad * other.data"),),
    "one_written_out": (("self.grad += out.grad", "self.grad += 1.0 * out.grad"),),
    "assignment": (
        ("self.grad += other.data * out.grad", "self.grad = self.grad + other.data * out.grad"),
    ),
    "relu_as_a_condition": (
        ("(out.data > 0) * out.grad", "(1.0 if out.data > 0 else 0.0) * out.grad"),
    ),
    "relu_of_self": (("(out.data > 0) * out.grad", "(self.data > 0) * out.grad"),),
    "relu_by_max": (("0 if self.data < 0 else self.data", "max(0.0, self.data)"),),
    "own_minus": (
        (
            "    def __neg__(self):\n        return self * -1\n",
            "    def __neg__(self):\n        out = Value(-self.data, (self,), 'neg')\n\n"
            "        def _backward():\n            self.grad += -out.grad\n\n"
            "        out._backward = _backward\n        return out\n",
        ),
    ),
    "own_subtraction": (
        (
            "        return self + (-other)\n",
            "        other = other if isinstance(other, Value) else Value(other)\n"
            "        out = Value(self.data - other.data, (self, other), '-')\n\n"
            "        def _backward():\n            self.grad += out.grad\n            other.grad -= out.grad\n\n"
            "        out._backward = _backward\n        return out\n",
        ),
    ),
    "backward_is_first": (
        (
            '        out = Value(self.data * other.data, (self, other), "*")\n',
            "",
        ),
        (
            "            self.grad += other.data * out.grad\n            other.grad += self.data * out.grad\n\n        out._backward",
            '            self.grad += other.data * out.grad\n            other.grad += self.data * out.grad\n\n        out = Value(self.data * other.data, (self, other), "*")\n        out._backward',
        ),
    ),
    "tanh": (
        own("tanh", "math.tanh(self.data)", "self.grad += (1 - out.data**2) * out.grad"),
        shown("t = (a * b).tanh()\nt.backward()\nprint(t, a, b)\n"),
    ),
    "tanh_by_exp": (
        own(
            "tanh",
            "(math.exp(2 * self.data) - 1) / (math.exp(2 * self.data) + 1)",
            "self.grad += (1 - out.data * out.data) * out.grad",
        ),
        shown("t = (a * b).tanh()\nt.backward()\nprint(t, a, b)\n"),
    ),
    "sigmoid": (
        own(
            "sigmoid",
            "1 / (1 + math.exp(-self.data))",
            "s = out.data",
            "self.grad += s * (1 - s) * out.grad",
        ),
        shown("t = (a * b).sigmoid()\nt.backward()\nprint(t, a, b)\n"),
    ),
    "exp_and_log": (
        own("exp", "math.exp(self.data)", "self.grad += out.data * out.grad"),
        own("log", "math.log(self.data)", "self.grad += (1 / self.data) * out.grad"),
        shown("t = (a.exp() + 1.0).log()\nt.backward()\nprint(t, a)\n"),
    ),
    "leaky": (
        own(
            "leaky",
            "self.data if self.data > 0 else 0.01 * self.data",
            "self.grad += (1.0 if self.data > 0 else 0.01) * out.grad",
        ),
        shown("t = (a * b).leaky()\nt.backward()\nprint(t, a, b)\n"),
    ),
    "sine": (
        own("sine", "math.sin(self.data)", "self.grad += math.cos(self.data) * out.grad"),
        shown("t = a.sine() * b.sine()\nt.backward()\nprint(t, a, b)\n"),
    ),
    "composed": (
        (BEFORE_RELU, "    def square(self):\n        return self * self\n\n" + BEFORE_RELU),
        shown("t = (a + b).square()\nt.backward()\nprint(t, a, b)\n"),
    ),
    "twice_from_one_graph": (shown("c.backward()\nc.backward()\nprint(c, a, b)\n"),),
    "same_child_twice": (shown("t = a * a + a + a\nt.backward()\nprint(t, a)\n"),),
    "not_a_number": (
        shown(
            "x, y = (a * float('nan')).relu(), (a * -0.0).relu()\ny.backward()\nprint(f'{x.data:.1f} {y.data:.1f}', a)\n"
        ),
    ),
    "changed_before": (shown("a.data = 4.0\nd = a * b\nd.backward()\nprint(d, a, b)\n"),),
    "changed_after": (shown("d = a * b\nd.backward()\na.data += 4.0\nprint(c.data, d.data)\n"),),
    "name_used_again": (
        shown("a.data += 1.0\nc = a * b\nc.backward()\nprint(c)\nc = [c.data]\nprint(c)\n"),
    ),
    "numerical_gradient": (
        shown(
            "def f():\n    return (a * b + a).data\n\n\n"
            "low = f()\na.data += 1e-6\nprint((f() - low) / 1e-6)\n"
        ),
    ),
    "loop_that_rebuilds": (
        shown(
            "for k in range(4):\n    loss = (a * b - 3.0) ** 2\n    a.grad = b.grad = 0.0\n    loss.backward()\n"
            "    for p in (a, b):\n        p.data -= 0.01 * p.grad\n    print(k, loss.data)\nprint(loss)\n"
        ),
    ),
    "labels_in_a_loop": (
        ('_op=""):', '_op="", label=""):'),
        ("self._op = _op\n", "self._op = _op\n        self.label = label\n"),
        shown(
            "p = [Value(0.5, label='p'), Value(0.25, label='q')]\nfor k in range(3):\n"
            "    loss = (p[0] * a - p[1]) ** 2\n    loss.backward()\n    for x in p:\n        x.data -= 0.1 * x.grad\n"
            "        x.grad = 0.0\nprint([(x.label, x.data) for x in p])\n"
        ),
    ),
    "step_in_a_function": (
        shown(
            "def step(k, rate=0.01):\n    losses = []\n    for x in (1.0, 2.0):\n        losses.append((a * x - b) ** 2)\n"
            "    total = sum(losses)\n    a.grad = b.grad = 0.0\n    total.backward()\n"
            "    for p in (a, b):\n        p.data -= rate * p.grad\n    return total.data\n\n\n"
            "history = []\nfor k in range(3):\n    history.append(step(k))\nprint(history)\n"
        ),
    ),
    "step_in_an_object": (
        shown(
            "class Descent:\n    def __init__(self, params, rate):\n        self.params, self.rate = params, rate\n\n"
            "    def zero_grad(self):\n        for p in self.params:\n            p.grad = 0.0\n\n"
            "    def step(self):\n        for p in self.params:\n            p.data -= self.rate * p.grad\n\n\n"
            "def main():\n    descent = Descent([a, b], 0.01)\n    for k in range(3):\n        loss = (a * b - 3.0) ** 2\n"
            "        descent.zero_grad()\n        loss.backward()\n        descent.step()\n        print(k, loss.data)\n"
            "    print(loss)\n\n\nmain()\n"
        ),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling_is_replaced_and_prints_the_same(name):
    outcome = same(edited(SMALL, *SPELLINGS[name]))
    assert outcome.replaced == (["Scalar"] if name == "renamed" else ["Value"]), outcome.reasons
    assert outcome.ending == "end"


# Each reads something when backward runs that may be another when the node is made.
STALE = {
    "leaf_changed": "d = a * b\nb.data = 5.0\nd.backward()\n",
    "leaf_changed_by_setattr": "d = a * b\nsetattr(b, 'data', 5.0)\nd.backward()\n",
    "leaf_changed_in_a_loop_target": "d = a * b\nfor b.data in (1.0, 2.0):\n    pass\nd.backward()\n",
    "leaf_changed_in_a_function": "d = a * b\n\n\ndef change():\n    b.data = 5.0\n\n\nchange()\nd.backward()\n",
    "backward_in_a_function": "d = a * b\n\n\ndef play():\n    d.backward()\n\n\nb.data = 5.0\nplay()\n",
    "backward_of_an_argument": "d = a * b\n\n\ndef play(x):\n    b.data = 5.0\n    x.backward()\n\n\nplay(d)\n",
    "graph_before_the_loop": "d = a * b\nfor k in range(3):\n    d.backward()\n    b.data -= 0.1 * b.grad\n",
    "part_before_the_loop": "d = a * b\nfor k in range(3):\n    e = d * 2.0\n    e.backward()\n    b.data -= 0.1 * b.grad\n",
    "graph_of_the_step_before": "d = a * b\nfor k in range(3):\n    e = d + a * b\n    e.backward()\n    b.data -= 0.1\n    d = e\n",
    "kept_in_a_list": "kept = []\nfor k in range(3):\n    kept.append(a * b)\n    sum(kept).backward()\n    b.data -= 0.1\n",
    "kept_in_a_dict": "kept = {}\nfor k in range(3):\n    kept[k] = a * b\n    for x in kept.values():\n        x.backward()\n    b.data -= 0.1\n",
    "kept_in_an_object": "class Box:\n    pass\n\n\nbox = Box()\nbox.d = a * b\nb.data = 5.0\nbox.d.backward()\n",
    "kept_by_another_name": "d = a * b\ne = d\nd = a\nb.data = 5.0\ne.backward()\n",
    "kept_by_a_closure": "def keep(x):\n    return lambda: x.backward()\n\n\nplay = keep(a * b)\nb.data = 5.0\nplay()\n",
    "kept_by_a_default": "def play(x=a * b):\n    x.backward()\n\n\nb.data = 5.0\nplay()\n",
    "kept_by_a_cache": "import functools\n\n\n@functools.cache\ndef build():\n    return a * b\n\n\nbuild()\nb.data = 5.0\nbuild().backward()\n",
    "kept_by_a_generator": "def build():\n    d = a * b\n    while True:\n        yield d\n\n\nit = build()\nnext(it)\nb.data = 5.0\nnext(it).backward()\n",
    "kept_by_a_comprehension": "kept = [x * b for x in (a, b)]\nb.data = 5.0\n[x.backward() for x in kept]\n",
    "kept_beside_a_call": "def change():\n    b.data = 5.0\n    return 1.0\n\n\n(a * b + change()).backward()\n",
    "kept_on_the_way_out": "d = a * b\nwhile True:\n    b.data = 5.0\n    if a.data < 1:\n        break\n    d = a + b\nd.backward()\n",
    "kept_by_continue": "d = a * b\nfor k in range(2):\n    b.data -= 1.0\n    if k == 0:\n        continue\n    d.backward()\n",
    "kept_on_an_error": "d = a * b\ntry:\n    b.data = 5.0\n    1 / 0\n    d = a\nexcept ZeroDivisionError:\n    pass\nd.backward()\n",
    "kept_in_the_end": "d = a * b\ntry:\n    b.data = 5.0\n    d = a * b\nfinally:\n    d.backward()\n",
    "kept_in_one_branch": "d = a * b\nb.data = 5.0\nif a.data > 9:\n    d = a * b\nd.backward()\n",
    "kept_in_a_with": "import contextlib\nd = a * b\nwith contextlib.suppress(ZeroDivisionError):\n    b.data = 5.0\n    1 / 0\n    d = a\nd.backward()\n",
    "kept_in_a_global": "d = a\n\n\ndef build():\n    global d\n    d = a * b\n\n\nbuild()\nb.data = 5.0\nd.backward()\n",
    "kept_by_a_method": "class Model:\n    def __init__(self):\n        self.out = None\n\n    def __call__(self):\n        self.out = a * b\n        return self.out\n\n\n"
    "model = Model()\nmodel()\nb.data = 5.0\nmodel.out.backward()\n",
    "handed_to_the_library": "import threading\nd = a * b\n\n\ndef change():\n    b.data = 5.0\n\n\nt = threading.Thread(target=change)\nt.start()\nt.join()\nd.backward()\n",
    "changed_by_a_generator": "def change():\n    while True:\n        b.data = 5.0\n        yield 1\n\n\nit = change()\nd = a * b\nnext(it)\nd.backward()\n",
    "changed_by_a_generator_expression": "def change():\n    b.data = 5.0\n\n\nit = (change() for _ in (1, 2))\nd = a * b\nnext(it)\nd.backward()\n",
    "changed_by_a_map": "def change(x):\n    b.data = x\n\n\nit = map(change, [5.0])\nd = a * b\nlist(it)\nd.backward()\n",
    "changed_by_name": "class Box:\n    def change(self):\n        b.data = 5.0\n\n\nd = a * b\ngetattr(Box(), 'change')()\nd.backward()\n",
    "changed_by_a_comparison": "class Box:\n    def __lt__(self, other):\n        b.data = 5.0\n        return True\n\n\nd = a * b\nBox() < 3\nd.backward()\n",
    "changed_on_leaving": "class Box:\n    def __enter__(self):\n        return self\n\n    def __exit__(self, *error):\n        b.data = 5.0\n\n\nwith Box():\n    d = a * b\nd.backward()\n",
    "changed_by_a_context_manager": "import contextlib\n\n\n@contextlib.contextmanager\ndef change():\n    yield\n    b.data = 5.0\n\n\nwith change():\n    d = a * b\nd.backward()\n",
    "changed_by_a_partial": "import functools\n\n\ndef change(x):\n    b.data = x\n\n\nd = a * b\nfunctools.partial(change, 5.0)()\nd.backward()\n",
    "changed_by_a_bound_method": "class Box:\n    def change(self):\n        b.data = 5.0\n\n\nf = Box().change\nd = a * b\nf()\nd.backward()\n",
    "changed_by_a_property": "class Box:\n    @property\n    def change(self):\n        b.data = 5.0\n        return 1.0\n\n\nbox = Box()\nd = a * b\nbox.change\nd.backward()\n",
    "changed_by_a_key": "def change(x):\n    b.data = 5.0\n    return x\n\n\nd = a * b\nsorted([1, 2], key=change)\nd.backward()\n",
    "changed_in_a_table_of_functions": "def change():\n    b.data = 5.0\n\n\ntable = {'change': change}\nd = a * b\ntable['change']()\nd.backward()\n",
    "changed_in_the_else_of_a_try": "d = a * b\ntry:\n    try:\n        pass\n    except ValueError:\n        pass\n    else:\n        b.data = 5.0\n        1 / 0\n        d = a\n    finally:\n        d.backward()\nexcept ZeroDivisionError:\n    pass\n",
    "kept_by_a_list_as_default": "def play(kept=[]):\n    kept.append(a * b)\n    sum(kept).backward()\n    b.data -= 0.5\n\n\nplay()\nplay()\n",
    "kept_in_a_field": "from dataclasses import dataclass\n\n\n@dataclass\nclass Box:\n    d: object\n\n\nbox = Box(a * b)\nb.data = 5.0\nbox.d.backward()\n",
    "kept_by_an_alias_in_an_object": "class Box:\n    def __init__(self, xs):\n        self.xs = xs\n\n\nkept = []\nbox = Box(kept)\nkept.append(a * b)\nb.data = 5.0\nsum(box.xs).backward()\n",
    "kept_in_an_attribute_of_a_function": "def f():\n    pass\n\n\nf.d = a * b\nb.data = 5.0\nf.d.backward()\n",
    "computed_node_changed": "d = a * b\ne = d * a\nd.data = 7.0\ne.backward()\n",
}


@pytest.mark.parametrize("name", STALE)
def test_closures_read_the_data_of_when_they_run(name):
    outcome = same(edited(SMALL, shown(STALE[name] + "print(a, b)\n")))
    assert (outcome.replaced, outcome.ending) == (["Value"], "end"), outcome.reasons


NEAR_MISSES = {
    "quotient": (own("log", "math.log(self.data)", "self.grad += out.grad / self.data"),),
    "three_factors": (own("twice", "2 * self.data", "self.grad += out.grad * 2 * 1.0"),),
    "other_child_first": (
        (
            "self.grad += other.data * out.grad\n            other.grad += self.data * out.grad",
            "other.grad += self.data * out.grad\n            self.grad += other.data * out.grad",
        ),
    ),
    "one_child_only": (("            other.grad += out.grad\n", ""),),
    "one_child_twice": (
        ("            other.grad += out.grad\n", "            self.grad += out.grad\n"),
    ),
    "swapped_factors": (("other.data * out.grad", "self.data * out.grad"),),
    "assigned": (("other.grad += out.grad", "other.grad = out.grad"),),
    "conditional": (own("step", "self.data", "if self.data > 0:", "    self.grad += out.grad"),),
    "clipped": (("self.grad += out.grad", "self.grad += max(-1.0, min(1.0, out.grad))"),),
    "random": (
        own("noisy", "self.data", "self.grad += random.random() * out.grad"),
        ("import math\n", "import math\nimport random\n"),
    ),
    "global": (
        own("scaled", "SCALE * self.data", "self.grad += SCALE * out.grad"),
        ("import math\n", "import math\nSCALE = 3.0\n"),
    ),
    "may_fail": (own("root", "math.sqrt(self.data)", "self.grad += 0.5 / out.data * out.grad"),),
    "counts": (own("counted", "self.data", "self.grad += out.grad", "print('played')"),),
    "children_of_a_name": (own("same", "self.data", "self.grad += out.grad", children="other"),),
    "lambda_as_rule": (
        (
            BEFORE_RELU,
            "    def detach(self):\n        out = Value(self.data, (self,), 'detach')\n"
            "        out._backward = lambda: None\n        return out\n\n" + BEFORE_RELU,
        ),
        shown("d = (a * b).detach()\nd.backward()\nprint(a, d)\n"),
    ),
    "root_power": (shown("print((a**0.5).data)\n"),),
    "power_of_a_name": (shown("for k in range(3):\n    print((a**k).data)\n"),),
    "rule_called": (shown("c._backward()\nprint(a)\n"),),
    "rule_set": (shown("c._backward = lambda: None\nc.backward()\nprint(a)\n"),),
    "graph_read": (shown("print(len(c._prev))\n"),),
    "name_read": (shown("print(c._op)\n"), ('_op=""', "_op=None")),
    "children_by_keyword": (
        shown("d = Value(1.0, children=(a,))\nd.backward()\nprint(a, d)\n"),
        ("_children", "children"),
    ),
    "node_written_out": (shown("d = Value(1.0, (a,), 'own')\nd.backward()\nprint(a, d)\n"),),
    "int_gradient": (("self.grad = 0.0", "self.grad = 0"),),
    "clears": (
        (
            "self.grad = 1.0\n",
            "for v in topo:\n            v.grad = 0.0\n        self.grad = 1.0\n",
        ),
    ),
    "forward_walk": (("reversed(topo)", "topo"),),
    "own_attribute": (("self._op = _op", "self._op = _op\n        self.seen = [_op]"),),
    "keeps_more_children": (("_prev = _children", "_prev = [*_children]"),),
}


LEFT = {
    "one_child_only": "probe __add__",
    "one_child_twice": "probe __add__",
    "swapped_factors": "probe __mul__",
    "assigned": "probe __add__",
    "clipped": "probe graphs",
    "clears": "probe backward",
    "forward_walk": "probe graphs",
    "own_attribute": "keep seen, a list",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_is_left_alone_or_keeps_what_differs(name):
    outcome = same(edited(SMALL, *NEAR_MISSES[name]))
    if name in LEFT:
        assert outcome.replaced == []
        assert LEFT[name] in outcome.reasons
    else:
        assert outcome.replaced == ["Value"], outcome.reasons


# ------------------------------------------------------------------- names and pictures

NAMED = edited(
    SMALL,
    (" + (a * 3.0).relu()", ""),
    ('_op=""):', '_op="", label=""):'),
    ("self._op = _op\n", "self._op = _op\n        self.label = label\n"),
    ("_prev = _children", "_prev = set(_children)"),
    own("tanh", "math.tanh(self.data)", "self.grad += (1 - out.data**2) * out.grad"),
    ("Value(0.5), Value(-1.25)", "Value(0.5, label='a'), Value(-1.25, label='b')"),
)
DRAWN = """
c = (a * b + a**2 - b / a).tanh()
c.label = "c"
c.backward()


def walk(root):
    nodes, edges = set(), set()

    def build(v):
        if v not in nodes:
            nodes.add(v)
            for child in v._prev:
                edges.add((child, v))
                build(child)

    build(root)
    return nodes, edges


nodes, edges = walk(c)
print(sorted("%s | %.4f | %.4f | %s" % (n.label, n.data, n.grad, n._op) for n in nodes))
print(sorted(f"{x._op} {x.data:.6f} -> {y._op} {y.label}" for x, y in edges))
"""


@pytest.mark.parametrize(
    "change",
    [
        ("", ""),
        ('"+"', '"add"'),
        ('f"**{other}"', '"**"'),
        ("_prev = set(_children)", "_prev = _children"),
        ("for child in v._prev", "for child in list(v._prev)"),
        ("a**2 ", "a**2.0 "),
        ('label=""', "label=None"),
        ("print(sorted(", "c._op = 'mine'\nprint(sorted("),
        ("print(sorted(", "c.note = 'mine'\nprint(sorted("),
    ],
)
def test_names_and_children_show_as_by_itself(change):
    assert same(edited(NAMED + DRAWN, change)).replaced == ["Value"]


def test_class_in_a_module_beside_the_script_is_replaced(tmp_path):
    (tmp_path / "engine.py").write_text(CLASS)
    (tmp_path / "nn.py").write_text(
        "import random\nfrom engine import Value\n\n\n"
        + MOONS[MOONS.index("class Module:") : MOONS.index("random.seed")]
    )
    script = (
        "import random\nfrom engine import Value\nfrom nn import MLP\n"
        + MOONS[MOONS.index("random.seed") :]
    )
    outcome = same(script, tmp_path / "script.py")
    assert (outcome.replaced, outcome.ending) == (["Value"], "end")


# ------------------------------------------------------------------- random programs

BARE = CLASS[: CLASS.index("    def relu")] + CLASS[CLASS.index("    def backward") :]
BARE = edited(BARE[: BARE.index("    def __repr__")], *FLOATS)
PRELUDE = """
def change():
    b.data = b.data - 0.125


class Descent:
    def step(self):
        for p in (a, b):
            p.data -= 0.01 * p.grad


def build(x):
    return x * a + b


def play(x):
    x.backward()


def train(x):
    BODY
    return x


descent = Descent()
a, b = Value(0.5), Value(-1.25)
d, e, f = a * 1.0, b * 1.0, a * b
kept = []
"""


class Writer:
    """Random programs that build graphs, play them and change data, in any order."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def name(self):
        return self.random.choice("def")

    def expression(self, depth=0):
        kinds = ["a", "b", self.name(), "sum(kept, a)"]
        if depth < 3:
            one, two = self.expression(depth + 1), self.expression(depth + 1)
            kinds += [f"({one} * {two})", f"({one} + {two})", f"({one} - 0.5)", f"build({one})"]
            kinds.append(f"sum([x * a for x in ({self.name()}, b)])")
        return self.random.choice(kinds)

    def statement(self, depth, loop):
        pick, name = self.random.choice, self.name()
        level = pick([0, 1, 2])
        simple = [
            [f"{name} = {self.expression()}"],
            [f"{name}, rate = {self.expression()}, 1.0"],
            [
                pick(
                    [
                        "a.data += 0.25",
                        "b.data *= 0.5",
                        "a.data = 1.5",
                        "change()",
                        "descent.step()",
                    ]
                )
            ],
            [f"{name}.backward()"],
            [pick([f"{name}.backward()", f"play({name})"])],
            [pick(["kept = []", "kept = [a]", f"kept.append({name})"])],
            [f"{name} = train({pick(['a', 'b', self.name()])})"],
        ]
        if loop:
            simple.append([f"if a.data > {level}:", f"    {pick(['break', 'continue'])}"])
        if depth > 2 or self.random.random() < 0.7:
            return pick(simple)
        first, second = self.block(depth + 1, loop), self.block(depth + 1, loop)
        return pick(
            [
                [f"if a.data > {level}:", *first],
                [f"if a.data > {level}:", *first, "else:", *second],
                [f"for k{depth} in range({level + 1}):", *self.block(depth + 1, True)],
                [
                    *("try:", *first, f"    {pick(['pass', '1 / 0'])}", *second),
                    *("except ZeroDivisionError:", *self.block(depth + 1, loop)),
                ],
                ["try:", *first, "finally:", *self.block(depth + 1, False)],
            ]
        )

    def block(self, depth, loop):
        count = self.random.choice([1, 2, 3])
        return ["    " + line for _ in range(count) for line in self.statement(depth, loop)]

    def program(self):
        bodies = [
            "y = x * a\n    y.backward()\n    b.data -= 0.1",
            "x = b * a\n    a.data += 0.1\n    x = x * 1.0",
            "y = a * b\n    y.backward()\n    a.data += 0.1\n    x = a * b",
        ]
        count = self.random.choice([2, 3, 5, 8])
        lines = [line for _ in range(count) for line in self.statement(0, False)]
        shown = "\nprint(a.grad.hex(), b.grad.hex(), a.data, b.data)\n"
        return (
            BARE + edited(PRELUDE, ("BODY", self.random.choice(bodies))) + "\n".join(lines) + shown
        )


@pytest.mark.parametrize("seed", range(5))
def test_random_program_prints_the_same(seed):
    writer = Writer(seed)
    for _ in range(24):
        source = writer.program()
        outcome = same(source)
        assert outcome.replaced == ["Value"], source
