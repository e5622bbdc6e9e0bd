"""How people write a node's class: names, properties, slots, bases, constants; all are replaced."""

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
    assert bool(outcome.loops) == ("properties" not in name and "property" not in name)


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
