"""How people write a node's class: names, properties, slots, bases, constants; all are replaced."""

import textwrap

import pytest
from running import CLASS as WITH_SLOPES
from running import SCRIPTS, edited, executed, same

MOONS = (SCRIPTS / "moons.py").read_text(encoding="utf-8")
WITH_CLOSURES = MOONS[MOONS.index("class Value:") : MOONS.index("class Module:")]
USE = """

import random

draw = random.Random(3)
weights = [Value(draw.gauss(0, 1)) for _ in range(80)]
for step in range(3):
    x = [draw.uniform(-1, 1) for _ in weights]
    total = sum(w * x for w, x in zip(weights, x)) - 0.5
    loss = total**2 / 3 + 1 / (weights[0] + 4) + (total - 1).relu()
    for w in weights:
        w.grad = 0
    loss.backward()
    for w in weights:
        w.data -= 0.05 * w.grad
    print(loss.data, weights[0].grad, weights[1].data)
"""
SLOTS = '    __slots__ = ("data", "grad", "_children", "_local_grads")\n'
LIFTED = "other = other if isinstance(other, Value) else Value(other)"
PROPERTIES = """    @property
    def data(self):
        return self._data

    @data.setter
    def data(self, data):
        self._data = {}

    @property
    def grad(self):
        return self._grad

    @grad.setter
    def grad(self, grad):
        self._grad = grad

    def __add__"""
FLAG = (
    ('_op=""', "_op='', requires_grad=True"),
    ("self._op = _op", "self._op = _op\n        self.requires_grad = requires_grad"),
    ("            self.grad +=", "            if self.requires_grad: self.grad +="),
    ("            other.grad +=", "            if other.requires_grad: other.grad +="),
)
CONSTANTS = (('"+")', "Op.ADD)"), ('"*")', "Op.MUL)"))
DATACLASS = "    data: float\n    _children: tuple = ()\n    _local_grads: tuple = ()\n    grad: float = 0\n\n"
OPERATORS = WITH_SLOPES[WITH_SLOPES.index("    def __add__") :]

INSIDE = WITH_SLOPES.replace("Value(", "Engine.Value(").replace(", Value)", ", Engine.Value)")

# What stands before the class, edits of it, what stands at the end.
SLOPES = {
    "numbers_called_value": ("", (("data", "value"),), "print(hasattr(loss, 'data'))"),
    "properties": (
        "",
        ((SLOTS, ""), ("    def __add__", PROPERTIES.format("data"))),
        "print(vars(loss).keys())",
    ),
    "property_that_makes_floats": (
        "",
        ((SLOTS, ""), ("    def __add__", PROPERTIES.format("float(data)"))),
        "loss.data = 2\nprint(Value(3).data, loss.data)",
    ),
    "slots_with_private_names": (
        "",
        (("_children", "__children"), ("_local_grads", "__local_grads")),
        "print(dir(Value)[:2])",
    ),
    "slots_with_weak_references": (
        "import weakref\n",
        (('"_local_grads")', '"_local_grads", "__weakref__")'),),
        "print(weakref.ref(loss)() is loss)",
    ),
    "slot_that_is_set_later": (
        "",
        (('"_local_grads")', '"_local_grads", "tag")'),),
        "loss.tag = 5\nprint(loss.tag, hasattr(weights[0], 'tag'))\ndel loss.tag\n"
        "print(hasattr(loss, 'tag'))",
    ),
    "operator_module": (
        "import operator\n",
        (("self.data + other.data", "operator.add(self.data, other.data)"),),
        "",
    ),
    "abstract_real": (
        "import numbers\n",
        ((LIFTED, "other = Value(other) if isinstance(other, numbers.Real) else other"),),
        "",
    ),
    "abstract_base": (
        "import abc\n\n\nclass Node(abc.ABC):\n    __slots__ = ()\n\n    @abc.abstractmethod\n"
        "    def backward(self): ...\n\n\n",
        (("class Value:", "class Value(Node):"),),
        "print(isinstance(loss, Node), Value.__mro__, type(Value), Value.__abstractmethods__)\n"
        "class Named(Value):\n    pass\n\n\nprint((Named(2.0) * 3).data, Named.__mro__)",
    ),
    "generic_base": (
        "from typing import Generic, TypeVar\n\nT = TypeVar('T')\n",
        (("class Value:", "class Value(Generic[T]):"),),
        "print(Value[float](2.0).data, Value.__orig_bases__, Value.__parameters__)",
    ),
    "protocol_base": (
        "from typing import Protocol\n\n\nclass Node(Protocol):\n    def backward(self): ...\n\n\n",
        (("class Value:", "class Value(Node):"),),
        "print(Value.__mro__)",
    ),
    "dataclass_on_a_dataclass": (
        "from dataclasses import dataclass\n\n\n@dataclass(eq=False)\nclass Node:\n" + DATACLASS,
        ((WITH_SLOPES, "\n\n@dataclass(eq=False)\nclass Value(Node):\n    tag: str = ''\n\n" + OPERATORS),),
        "print(Value(2.0) * 3)",
    ),
    "class_on_a_dataclass": (
        "from dataclasses import dataclass\n\n\n@dataclass(eq=False)\nclass Node:\n" + DATACLASS,
        ((WITH_SLOPES, "\n\nclass Value(Node):\n" + OPERATORS),),
        "print(Value(2.0) * 3)",
    ),
    "recursion_limit": (
        "import sys\n",
        (("        topo = []\n", "        sys.setrecursionlimit(3210)\n        topo = []\n"),),
        "print(sys.getrecursionlimit())\nsys.setrecursionlimit(1000)",
    ),
    "recursion_limit_set_back": (
        "",
        (("        build_topo(self)\n", "        import sys\n\n        old = sys.getrecursionlimit()\n"
          "        sys.setrecursionlimit(max(old, 5000))\n        build_topo(self)\n"
          "        sys.setrecursionlimit(old)\n"),),
        "import sys\nprint(sys.getrecursionlimit())",
    ),
    "property_that_checks": (
        "",
        ((SLOTS, ""), ("    def __add__", PROPERTIES.format("data if isinstance(data, (int, float)) else 1 / 0"))),
        "try:\n    weights[0].data = 'x'\nexcept ZeroDivisionError as error:\n    print(error)",
    ),
    "class_in_a_class": (
        "",
        ((WITH_SLOPES, "class Engine:\n" + textwrap.indent(INSIDE, "    ") + "\n\nValue = Engine.Value\n"),),
        "print(Value.__qualname__, Engine.Value is Value)",
    ),
    "two_cells_with_slots": (
        "",
        ((WITH_SLOPES, f"{WITH_SLOPES}\n\nclass Value(Value):\n    __slots__ = ()\n\n"
          "    def half(self):\n        return self / 2\n"),),
        "print(loss.half().data, isinstance(loss, Value))",
    ),
    "helper_that_is_defined_twice": (
        "def lifted(x):\n    return 3 / 0\n\n\ndef lifted(x):\n"
        "    return x if isinstance(x, Value) else Value(x)\n\n\n",
        ((LIFTED, "other = lifted(other)"),),
        "def lifted(x):\n    return Value(7.0)\n\n\nprint((loss * 2).data)",
    ),
}  # fmt: skip
CLOSURES = {
    "numbers_called_value_and_gradient": (
        "",
        ((".data", ".value"), (".grad", ".gradient")),
        "print(vars(loss).keys())",
    ),
    "flag_in_closures": (
        "",
        FLAG,
        "a, b = Value(2.0, requires_grad=False), Value(3.0)\n"
        "c = a * b + a**2 + (a - b).relu() / b\nc.backward()\nprint(a, b, c)\n"
        "a.requires_grad = True\nc.backward()\nprint(a, b, c)",
    ),
    "flag_that_is_switched_before_backward": (
        "",
        FLAG,
        "a, b = Value(2.0), Value(3.0)\nc = a * b + a**2 + (a - b).relu() / b + sum([a * b, b * a])\n"
        "for flags in ((0, 1), (1, 0), (0, 0), (1, 1)):\n"
        "    a.requires_grad, b.requires_grad = map(bool, flags)\n    a.data += 0.5\n"
        "    c.backward()\n    print(a, b, c)",
    ),
    "flag_that_is_passed_on": (
        "",
        (*FLAG, ('(self, other), "*")' , "(self, other), '*', self.requires_grad or other.requires_grad)")),
        "a, b = Value(2.0, requires_grad=False), Value(3.0, requires_grad=False)\n"
        "c = a * b\nprint(c.requires_grad)\nc.backward()\nprint(a, b, c)",
    ),
    "enumeration": (
        "from enum import Enum\n\n\nclass Op(Enum):\n    NONE = ''\n    ADD = '+'\n    MUL = '*'\n\n\n",
        (*CONSTANTS, ('_op=""', "_op=Op.NONE")),
        "print(loss._op, (loss * 2)._op.value, Value(1.0)._op)",
    ),
    "names_with_underscores": (
        "",
        ((".data", "._data"), (".grad", "._grad")),
        "print(vars(loss).keys())",
    ),
    "label_of_the_number": (
        "",
        (('_op=""', "_op='', label=None"),
         ("self._op = _op", "self._op = _op\n        self.label = str(data) if label is None else label"
          "\n        self.sign = 1 if data > 0 else -1\n        self.kind = type(data)")),
        "print(loss.label, weights[0].label, (loss * 2 + 1).label, Value(2.0, label='x').label)\n"
        "product = loss * 3\nproduct.data = 7\nprint(product.label, product.data)",
    ),
    "id_in_the_constructor": (
        "",
        (("self._op = _op", "self._op = _op\n        self.uid = id(self)"),),
        "print(loss.uid == id(loss), len({(w * 2).uid for w in weights[:1]}))",
    ),
    "more_attributes_by_keywords": (
        "",
        (('_op=""', "_op='', **more"),
         ("self._op = _op", "self._op = _op\n        for k, v in more.items():\n            setattr(self, k, v)")),
        "print(Value(2.0, name='x').name, hasattr(loss, 'name'))",
    ),
    "more_attributes_by_dict": (
        "",
        (('_op=""', "_op='', **more"), ("self._op = _op", "self._op = _op\n        self.__dict__.update(more)")),
        "print(Value(2.0, name='x').name)",
    ),
    "empty_set_as_default": ("", (("_children=()", "_children=set()"), ("_prev = _children", "_prev = tuple(_children)")), ""),
    "print_behind_a_global_flag": (
        "DEBUG = False\n\n\n",
        (("        topo = []\n", "        topo = []\n        if DEBUG and self.data > 100:\n            print('big', self.data)\n"),
         ("            v._backward()\n", "            v._backward()\n            if DEBUG:\n                print(v.data)\n")),
        "DEBUG = True\nloss.data = 101\nloss.backward()",
    ),
    "prints_behind_settings": (
        "CONFIG = {'debug': False}\n\n\nclass Config:\n    debug = 0\n\n\n"
        "def show(x):\n    if LEVEL > 1:\n        print('level', x)\n\n\nLEVEL = 1\n\n\n",
        (("        topo = []\n", "        topo = []\n        if CONFIG['debug']:\n            print('config', self)\n"
          "        if Config.debug:\n            print('class', self)\n        show(self.data)\n"),),
        "LEVEL = 2\nloss.backward()\nConfig.debug = True\nloss.backward()\nCONFIG['debug'] = True\nloss.backward()",
    ),
    "assertion_behind_a_flag_of_the_class": (
        "",
        (("    def __init__", "    quiet = True\n\n    def __init__"),
         ("        topo = []\n", "        topo = []\n        if not Value.quiet:\n            assert self.data < 1000, self\n")),
        "Value.quiet = False\nloss.data = 1001\ntry:\n    loss.backward()\nexcept AssertionError as error:\n    print(error)",
    ),
    "print_behind_a_flag_of_the_node": (
        "",
        (('_op=""', "_op='', debug=False"), ("self._op = _op", "self._op = _op\n        self.debug = debug"),
         ("        topo = []\n", "        topo = []\n        if self.debug:\n            print('backward of', self.data)\n")),
        "a = Value(2.0, debug=True)\n(a * 3).backward()\na.backward()",
    ),
    "print_behind_a_parameter": (
        "",
        (("def backward(self):", "def backward(self, verbose=False):"),
         ("        topo = []\n", "        topo = []\n        if verbose:\n            print('backward of', self.data)\n")),
        "loss.backward(verbose=True)",
    ),
    "order_by_data": (
        "from functools import total_ordering\n\n\n@total_ordering\n",
        (("    def relu", "    def __eq__(self, other):\n        return self.data == other.data\n\n"
          "    def __lt__(self, other):\n        return self.data < other.data\n\n"
          "    __hash__ = object.__hash__\n\n    def relu"),),
        "print(max(weights).data, sorted(weights)[0].data)",
    ),
    "named_tuples_as_operations": (
        "from collections import namedtuple\n\nOp = namedtuple('Op', 'sign')\nADD, NAMES = Op('+'), ('*', '/')\n\n\n",
        (('"+")', "ADD)"), ('"*")', "NAMES[0])")),
        "print(loss._op, (loss + 1)._op.sign)\nNAMES = 'xy'\nprint((loss * 1)._op)",
    ),
    "names_in_a_dict": (
        "NAMES = {'add': '+'}\n\n\n",
        (('"+")', "NAMES['add'])"),),
        "print((loss + 1)._op)\nNAMES['add'] = 'plus'\nprint((loss + 1)._op)",
    ),
    "two_cells": (
        "",
        ((WITH_CLOSURES, f"{WITH_CLOSURES}\n\nold = Value(3.0)\n\n\nclass Value(Value):\n"
          "    def __init__(self, data, _children=(), _op='', label=''):\n"
          "        super().__init__(data, _children, _op)\n        self.label = label\n"),),
        "print(loss.label, (old * loss).data, isinstance(old, Value), Value.__mro__)\n(loss * old).backward()\nprint(old.grad)",
    ),
    "pickled_closures": (
        "import pickle\n\n\n",
        (),
        "for node in (loss, loss * 2, weights[0], loss**2):\n    print(node._backward.__qualname__)\n"
        "    try:\n        pickle.dumps(node)\n    except Exception as error:\n        print(str(error)[:60])",
    ),
    "class_of_constants": (
        "class Op:\n    ADD = '+'\n    MUL = '*'\n\n\n",
        CONSTANTS,
        "print(loss._op)\nOp.ADD = 'plus'\nprint((loss + 1)._op, (loss * 2)._op)",
    ),
}  # fmt: skip


def renamed(pairs, text):
    """Return a script's end with the names that its class gives its numbers."""
    for old, new in pairs:
        if old.strip(".") in ("data", "grad"):
            text = text.replace("." + old.strip("."), "." + new.strip("."))
    return text


@pytest.mark.parametrize("name", [*SLOPES, *CLOSURES])
def test_class_is_replaced_and_prints_the_same(name):
    cls = WITH_SLOPES if name in SLOPES else WITH_CLOSURES
    before, pairs, end = {**SLOPES, **CLOSURES}[name]
    source = "import math\n" + before + edited(cls, *pairs) + renamed(pairs, USE + end)
    outcome = same(source)
    assert outcome.replaced[-1:] == ["Value"], outcome.reasons
    assert outcome.ending == "end"
    assert outcome.native >= {"__add__", "__mul__", "__pow__", "__truediv__", "relu", "backward"}
    assert outcome.loops


EDGES = """class Value:
    def __init__(self, data, edges={0}):
        self.data = data
        self.grad = 0
        self.edges = {1}

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, [(self, 1), (other, 1)])

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, [(self, other.data), (other, self.data)])

    def __pow__(self, k):
        return Value(self.data**k, [(self, k * self.data ** (k - 1))])

    def relu(self):
        return Value(max(0, self.data), [(self, float(self.data > 0))])

    def tanh(self):
        t = math.tanh(self.data)
        return Value(t, [(self, 1 - t * t)])

    def square(self):
        return Value(self.data * self.data, [(self, 2 * self.data)])

    def backward(self):
        topo, visited = [], set()

        def build(v):
            if v not in visited:
                visited.add(v)
                for child, _ in v.edges:
                    build(child)
                topo.append(v)

        build(self)
        self.grad = 1
        for v in reversed(topo):
            for child, slope in v.edges:
                child.grad += slope * v.grad

"""


PAIRS = {
    "slope_first": [
        ("(self, 1), (other, 1)", "(1, self), (1, other)"),
        ("(self, other.data), (other, self.data)", "(other.data, self), (self.data, other)"),
        ("[(self, k * self.data ** (k - 1))]", "[(k * self.data ** (k - 1), self)]"),
        ("[(self, float(self.data > 0))]", "[(float(self.data > 0), self)]"),
        ("[(self, 1 - t * t)]", "[(1 - t * t, self)]"),
        ("[(self, 2 * self.data)]", "[(2 * self.data, self)]"),
        ("for child, _ in", "for _, child in"),
        ("for child, slope in", "for slope, child in"),
    ],
    "named_tuples": [("[(self, ", "[Edge(self, "), (", (other, ", ", Edge(other, ")],
}


@pytest.mark.parametrize("name", PAIRS)
def test_class_that_keeps_pairs_of_another_kind_is_replaced(name):
    rest = WITH_SLOPES[WITH_SLOPES.index("    def __neg__") : WITH_SLOPES.index("    def backward")]
    cls = edited(EDGES.format("()", "tuple(edges)"), *PAIRS[name])
    before = "import math\nfrom collections import namedtuple\n\nEdge = namedtuple('Edge', 'child slope')\n\n\n"
    end = "(loss.tanh() + loss.square() * 2).backward()\nprint(loss.edges[0][:0], weights[0].grad)"
    outcome = same(before + cls + rest + USE + end)
    assert (outcome.replaced, outcome.ending) == (["Value"], "end"), outcome.reasons


def test_flag_that_closures_read_when_they_run_is_seen():
    flag = (
        "            other.grad += out.grad\n",
        "            other.grad += out.grad\n            if DEBUG:\n                print('+')\n",
    )
    source = "import math\n\nDEBUG = False\n" + edited(WITH_CLOSURES, flag) + USE
    assert (
        same(source + "DEBUG = True\n(loss + 1).backward()\nloss.backward()").output.count("+") > 2
    )


@pytest.mark.parametrize(
    ("default", "kept"),
    [("()", "tuple(edges)"), ("()", "list(edges)"), ("[]", "edges"), ("None", "edges or []")],
)
def test_class_that_keeps_pairs_of_children_and_slopes_is_replaced(default, kept):
    rest = WITH_SLOPES[WITH_SLOPES.index("    def __neg__") : WITH_SLOPES.index("    def backward")]
    end = (
        "y = (loss.tanh() + loss.square()) * 2\ny.backward()\nprint(loss.edges[0][1], weights[0].grad)\n"
        "print(weights[0].edges, len(y.edges), vars(y).keys(), Value(2.0, ((y, 0.5),)).edges[0][1])\n"
        "y.backward()\nprint(weights[0].grad)"
    )
    outcome = same("import math\n" + EDGES.format(default, kept) + rest + USE + end)
    assert (outcome.replaced, outcome.ending) == (["Value"], "end"), outcome.reasons
    assert outcome.native >= {"__add__", "__mul__", "__pow__", "__truediv__", "relu", "tanh"}


def test_effect_of_setting_the_limit_stays_where_an_operator_has_it():
    source = edited(WITH_SLOPES, (LIFTED, f"sys.setrecursionlimit(2345)\n        {LIFTED}"))
    outcome = executed("import math\nimport sys\n" + source, plain=False)
    assert "mentions setrecursionlimit" in outcome.reasons


LEFT = {
    "closure_that_counts": (
        ("self._op = _op", "self._op = _op\n        self.visits = 0"),
        ("            other.grad += out.grad", "            other.grad += out.grad\n            self.visits += 1"),
    ),
    "backward_that_counts": (
        ("self._op = _op", "self._op = _op\n        self.visits = 0"),
        ("            v._backward()", "            v._backward()\n            v.visits = 1"),
    ),
    "recursion_limit_of_the_graph": (
        ("        build_topo(self)\n", "        build_topo(self)\n"
         "        sys.setrecursionlimit(max(1000, 7 * len(topo)))\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_class_whose_backward_does_more_is_left_alone(name):
    end = "\nprint(sys.getrecursionlimit(), getattr(loss, 'visits', 0), vars(loss._prev[0]).keys())"
    source = "import math\nimport sys\n" + edited(WITH_CLOSURES, *LEFT[name]) + USE + end
    assert same(source).replaced == []


def test_judging_a_class_leaves_the_recursion_limit():
    source = edited(WITH_SLOPES, *SLOPES["recursion_limit"][1])
    shown = (
        "print(sys.getrecursionlimit())\nValue(2.0).backward()\nprint(sys.getrecursionlimit())\n"
        "sys.setrecursionlimit(1000)"
    )
    outcome = same(f"import math\nimport sys\n\nsys.setrecursionlimit(1234)\n{source}\n{shown}")
    assert outcome.replaced == ["Value"]
