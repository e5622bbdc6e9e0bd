"""Classes with one edit each: every edit that changes a meaning has to be noticed by a probe.

The class is refused, or the edited operator stays Python code; in both cases it prints the same.
"""

import pytest
from running import CLASS, SCRIPTS, edited, executed, same

MOONS = (SCRIPTS / "moons.py").read_text(encoding="utf-8")
CLOSURES = MOONS[MOONS.index("class Value:") : MOONS.index("class Module:")]
GRADS = "            for child, local_grad in zip(v._children, v._local_grads):\n"
# (old, new) in the class with local gradients, and the operator that may not be compiled then;
# None where the class has to be refused.
MUTANTS = [
    ("(self, other), (1, 1)", "(other, self), (1, 1)", None),
    ("(self, other), (1, 1)", "(self, self), (1, 1)", None),
    ("(self, other), (1, 1)", "(self, other), (1, 2)", None),
    ("(self, other), (1, 1)", "(self, other), (1, -1)", None),
    ("(self, other), (1, 1)", "(self, other), (1, 0)", None),
    ("(self, other), (1, 1)", "(self,), (1,)", None),
    ("(self, other), (1, 1)", "(self, other), (1,)", None),
    ("self.data + other.data, (self", "self.data - other.data, (self", None),
    ("self.data + other.data, (self", "self.data + other.data + 0.0, (self", None),
    ("self.data + other.data, (self", "abs(self.data) + other.data, (self", None),
    ("(other.data, self.data)", "(self.data, other.data)", None),
    ("(other.data, self.data)", "(other.data, other.data)", None),
    ("(other.data, self.data)", "(-other.data, self.data)", None),
    ("(other.data, self.data)", "(other.data, self.data + 0.0)", None),
    ("self.data * other.data, (self, other)", "self.data * other.data, (other, self)", None),
    ("self.data * other.data, (self, other)", "self.data * other.data + 0.0, (self, other)", None),
    ("self.data * other.data, (self, other)", "self.data * other.data * 1.0, (self, other)", None),
    ("self.data * other.data, (self, other)", "self.data * abs(other.data), (self, other)", None),
    ("child.grad += local_grad * v.grad", "child.grad = local_grad * v.grad", None),
    ("child.grad += local_grad * v.grad", "child.grad -= local_grad * v.grad", None),
    ("child.grad += local_grad * v.grad", "child.grad += local_grad", None),
    ("child.grad += local_grad * v.grad", "child.grad += local_grad * self.grad", None),
    ("child.grad += local_grad * v.grad", "child.grad += local_grad * v.grad * 2", None),
    ("child.grad += local_grad * v.grad", "child.grad += local_grad * v.grad + 0.0", None),
    ("child.grad += local_grad * v.grad", "child.grad += float(local_grad * v.grad)", None),
    ("child.grad += local_grad * v.grad", "child.grad = child.grad * 1.0 + local_grad * v.grad", None),
    ("self.grad = 1\n", "self.grad = 1.0\n", ""),
    ("self.grad = 1\n", "self.grad = 2\n", None),
    ("self.grad = 1\n", "self.grad = -1\n", None),
    ("self.grad = 1\n", "self.grad += 1\n", None),
    ("self.grad = 1\n", "self.data = 1\n", None),
    ("        self.grad = 1\n", "", None),
    ("        self.grad = 1\n", "        for v in topo:\n            v.grad = 0\n        self.grad = 1\n", None),
    (GRADS, "            if v is not self:\n                v.grad = v.grad + 0.0\n" + GRADS, None),
    ("reversed(topo)", "topo", None),
    ("reversed(topo)", "reversed(topo[1:])", ""),
    ("reversed(topo)", "reversed(topo[:-1])", None),
    ("reversed(topo)", "sorted(topo, key=id)", None),
    ("for child in v._children:", "for child in v._children[::-1]:", None),
    ("for child in v._children:", "for child in v._children[:1]:", None),
    ("for child, local_grad in zip(v._children, v._local_grads)",
     "for child, local_grad in zip(v._children[::-1], v._local_grads[::-1])", None),
    ("for child, local_grad in zip(v._children, v._local_grads)",
     "for child, local_grad in zip(v._children[:1], v._local_grads)", None),
    ("if v not in visited", "if v.data not in visited", None),
    ("visited.add(v)", "visited.add(v.data)", None),
    ("                topo.append(v)", "                topo.insert(0, v)", None),
    ("self.data = data\n", "self.data = data + 0\n", None),
    ("self.data = data\n", "self.data = -data\n", None),
    ("self.data = data\n", "self.data = data or 0.0\n", None),
    ("self.data = data\n", "self.data = max(data, -1.0)\n", None),
    ("self.data = data\n", "self.data = data if data < 1e6 else 1e6\n", None),
    ("self.grad = 0\n", "self.grad = 0.0\n", ""),
    ("self.grad = 0\n", "self.grad = 1\n", None),
    ("self.grad = 0\n", "self.grad = -0.0\n", None),
    ("self._children = children", "self._children = children[::-1]", None),
    ("self._children = children", "self._children = children[:1]", None),
    ("self._children = children", "self._children = ()", None),
    ("self._local_grads = local_grads", "self._local_grads = local_grads[::-1]", None),
    ("self._local_grads = local_grads", "self._local_grads = [*local_grads]", ""),
    ("(other * self.data ** (other - 1),)", "(other * self.data ** other,)", "__pow__"),
    ("(other * self.data ** (other - 1),)", "(self.data ** (other - 1) * other + 0.0,)", "__pow__"),
    ("(other * self.data ** (other - 1),)", "(float(other) * self.data ** (other - 1),)", "__pow__"),
    ("Value(self.data**other,", "Value(float(self.data)**other,", "__pow__"),
    ("Value(self.data**other,", "Value(math.pow(self.data, other),", "__pow__"),
    ("(1 / self.data,)", "(1 / self.data + 0,)", ""),
    ("(1 / self.data,)", "(-1 / self.data,)", "log"),
    ("(1 / self.data,)", "(self.data**-1,)", "log"),
    ("math.log(self.data), (self,)", "math.log(abs(self.data)), (self,)", ""),
    ("math.log(self.data), (self,)", "math.log2(self.data), (self,)", "log"),
    ("(math.exp(self.data),)", "(math.exp(self.data) * 2,)", "exp"),
    ("Value(math.exp(self.data)", "Value(math.exp(-self.data)", "exp"),
    ("Value(math.exp(self.data)", "Value(math.expm1(self.data)", "exp"),
    ("(float(self.data > 0),)", "(float(self.data >= 0),)", "relu"),
    ("(float(self.data > 0),)", "(self.data > 0,)", "relu"),
    ("(float(self.data > 0),)", "(1 if self.data > 0 else 0,)", ""),
    ("max(0, self.data)", "max(self.data, 0)", ""),
    ("max(0, self.data)", "max(0.0, self.data)", ""),
    ("max(0, self.data)", "max(0.1, self.data)", "relu"),
    ("return self * -1", "return self * -1.0", ""),
    ("return self * -1", "return self * -2", "__neg__"),
    ("return self * -1", "return -1 * self", ""),
    ("return self * -1", "return Value(-self.data, (self,), (-1,))", "__neg__"),
    ("return self + (-other)", "return (-other) + self", "__sub__"),
    ("return self + (-other)", "return self + other * -1", ""),
    ("return self * other**-1", "return other**-1 * self", "__truediv__"),
    ("return self * other**-1", "return self * other**-1.0", ""),
    ("return self * other**-1", "return self * (1 / other)", "__truediv__"),
    ("return other + (-self)", "return (-self) + other", ""),
    ("return other + (-self)", "return -(self - other)", "__rsub__"),
    ("return other * self**-1", "return self**-1 * other", ""),
]  # fmt: skip
TANH = "def tanh(self):\n        t = math.tanh(self.data)\n        return Value(t, (self,), ({},))\n\n    def exp(self):"
USE = """

def shown(*nodes):
    return [repr(n.data) + " " + repr(n.grad) for n in nodes]


for x, y in ((0.5, -1.25), (3, 2), (1.5, 1.5), (2.0, 7), (0.3, 1e7), (1.0, 0.0)):
    a, b, k = Value(x), Value(y), Value(0.7)
    try:
        c = (a * b + a**2 - b * k) * (k - 2) + (a * 3.0).relu() * b.relu() + 2 * k - (1 - b)
        c = c + (a / (k + 1)) + (2 / k) + (a * 0.1).exp() + (a + 1).log() + (-b) + sum([a, b, k])
        c.backward()
        print(shown(a, b, k, c))
        (c * k + a).backward()
        print(shown(a, b, k, c), len(c._children), c._local_grads)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_every_edit_of_the_class_is_noticed(number):
    old, new, operator = MUTANTS[number]
    source = "import math\n\n\n" + edited(CLASS, (old, new)) + USE
    outcome = executed(source, plain=False) if "key=id" in new else same(source)
    if operator is None:
        assert outcome.replaced == [], "the edit changes a meaning"
        assert outcome.reasons
    else:
        assert outcome.replaced == ["Value"], outcome.reasons
        assert operator not in outcome.native


def test_the_class_itself_is_replaced():
    outcome = same("import math\n\n\n" + CLASS + USE)
    assert outcome.native >= {"__add__", "__rtruediv__", "log", "exp", "relu", "backward"}


CLOSURE_MUTANTS = [
    ("self.grad += out.grad\n            other.grad += out.grad", "self.grad = out.grad\n            other.grad += out.grad", None),
    ("self.grad += out.grad\n            other.grad += out.grad", "self.grad += out.grad\n            other.grad = out.grad", None),
    ("self.grad += out.grad\n            other.grad += out.grad", "self.grad += out.grad", None),
    ("self.grad += out.grad\n            other.grad += out.grad", "self.grad += out.grad\n            other.grad -= out.grad", None),
    ("self.grad += other.data * out.grad", "self.grad += self.data * out.grad", None),
    ("self.grad += other.data * out.grad", "self.grad += other.data * out.data", None),
    ("self.grad += other.data * out.grad", "self.grad += other.data * out.grad + 0.0", None),
    ("(other * self.data ** (other - 1)) * out.grad", "other * (self.data ** (other - 1) * out.grad)", "__pow__"),
    ("(other * self.data ** (other - 1)) * out.grad", "(other * self.data ** other) * out.grad", "__pow__"),
    ("(out.data > 0) * out.grad", "(out.data >= 0) * out.grad", "relu"),
    ("(out.data > 0) * out.grad", "(self.data > 1) * out.grad", "relu"),
    ("v._backward()", "v._backward(); v.grad = 0", None),
    ("reversed(topo)", "topo", None),
    ("self.grad = 1\n", "self.grad = 0\n", None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CLOSURE_MUTANTS)))
def test_every_edit_of_the_class_of_closures_is_noticed(number):
    old, new, operator = CLOSURE_MUTANTS[number]
    use = (
        USE[: USE.index("        c = c + (a / ")]
        + "        c.backward()\n"
        + USE[USE.index("        print(shown(a, b, k, c))") :]
    )
    source = edited(CLOSURES, (old, new)) + use.replace(
        "len(c._children), c._local_grads", "len(c._prev)"
    )
    outcome = same(source)
    if operator is None:
        assert outcome.replaced == [], "the edit changes a meaning"
    else:
        assert outcome.replaced == ["Value"], outcome.reasons
        assert operator not in outcome.native


# What no probe tries: the code is read for it.
UNSEEN = {
    "a_global_list": ("self.data = data\n", "self.data = data\n        SEEN.append(data)\n"),
    "a_counter_of_the_class": ("self.data = data\n", "self.data = data\n        Value.count += 1\n"),
    "a_large_constant": ("self.data + other.data, (self", "min(self.data + other.data, 1e9), (self"),
    "randomness": ("self.data * other.data, (self", "self.data * other.data * random.choice([1]), (self"),
    "a_print": ("        topo = []\n", "        topo = []\n        print('backward')\n"),
    "an_attribute_that_is_a_list": (
        "return Value(self.data + other.data, (self, other), (1, 1))",
        "return Value(self.data + other.data, (self, other), (1, 0) if self.frozen else (1, 1))",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_code_that_reads_what_no_probe_changes_is_left_alone(name):
    source = edited(
        CLASS,
        UNSEEN[name],
        ('    __slots__ = ("data",', '    count = 0\n    __slots__ = ("frozen", "data",'),
    )
    source = edited(source, ("self.grad = 0\n", "self.grad = 0\n        self.frozen = []\n"))
    outcome = same("import math\nimport random\n\nSEEN = []\n\n\n" + source + USE)
    assert outcome.replaced == []
    assert "mentions" in outcome.reasons or "reads" in outcome.reasons or "sets" in outcome.reasons


def test_a_switch_that_is_turned_later_is_watched():
    source = edited(
        CLASS,
        ("class Value:\n", "class Value:\n    off = False\n"),
        ("        self._children = children\n        self._local_grads = local_grads\n",
         "        if Value.off or OFF:\n            children, local_grads = (), ()\n"
         "        self._children = children\n        self._local_grads = local_grads\n"),
    )  # fmt: skip
    use = """
for turn in ("", "Value.off = True", "Value.off = False", "OFF = True", "OFF = False"):
    exec(turn)
    a = Value(1.5)
    b = a * 2 + a
    b.backward()
    print(turn, len(b._children), a.grad, len((b / 3)._children), len(Value(1, (a,), (1,))._children))
"""
    outcome = same("import math\n\nOFF = False\n\n\n" + source + use)
    assert outcome.replaced == ["Value"], outcome.reasons


# ------------------------------------------------------------------- one number in a thousand

HARD = """
for x in [0.001 * k for k in range(100, 1900)]:
    a = Value(x)
    {use}
    b.backward()
    print(b.data.hex(), a.grad.hex())
"""
FORMULAS = {
    "log_by_a_power": ("(1 / self.data,)", "(self.data**-1,)", "b = a.log()"),
    "log_by_a_division": ("(1 / self.data,)", "(1.0 / self.data,)", "b = a.log()"),
    "square_by_a_product": (
        "Value(self.data**other, (self,)",
        "Value(self.data * self.data if other == 2 else self.data**other, (self,)",
        "b = a**2",
    ),
    "root_by_sqrt": (
        "Value(self.data**other, (self,)",
        "Value(math.sqrt(self.data) if other == 0.5 else self.data**other, (self,)",
        "b = a**0.5",
    ),
    "tanh_by_a_product": ("def exp(self):", TANH.format("1 - t * t"), "b = a.tanh()"),
    "tanh_by_a_power": ("def exp(self):", TANH.format("1 - t**2"), "b = a.tanh()"),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_that_round_otherwise_are_told_apart(name):
    old, new, use = FORMULAS[name]
    outcome = same("import math\n\n\n" + edited(CLASS, (old, new)) + HARD.format(use=use))
    assert outcome.replaced == ["Value"], outcome.reasons
    if "tanh" in name:
        assert "tanh" in outcome.native  # each is compiled as it is written


# ------------------------------------------------------------------- classes with bases

PRINTS = "    def __repr__(self):\n        return f'Value({self.data}, {self.grad})'\n\n"
BASES = {
    "mixin_that_prints": (
        "class Prints:\n" + PRINTS + "\n",
        (("class Value:", "class Value(Prints):"),),
        "print(a, isinstance(a, Prints), issubclass(Value, Prints))",
    ),
    "mixin_with_an_operator": (
        "class Ops:\n    def __neg__(self):\n        return self * -1\n\n\n",
        (("class Value:", "class Value(Ops):"),
         ("    def __neg__(self):\n        return self * -1\n\n", "")),
        "print((-a).data, len((-a)._children))",
    ),
    "constructor_of_the_base": (
        "class Base:\n    def __init__(self, data):\n        self.data = data\n        self.grad = 0\n\n\n",
        (("class Value:", "class Value(Base):"),
         ('    __slots__ = ("data", "grad", "_children", "_local_grads")\n', ""),
         ("        self.data = data\n        self.grad = 0\n", "        super().__init__(data)\n")),
        "print(sorted(vars(a)))",
    ),
    "backward_of_the_base": (
        "class Base:\n    __slots__ = ()\n\n" + CLASS[CLASS.index("    def backward"):],
        (("class Value:", "class Value(Base):"), (CLASS[CLASS.index("    def backward"):], "\n")),
        "print(isinstance(a, Base), Value.__mro__[1].__name__)",
    ),
    "two_bases": (
        "class One:\n    def double(self):\n        return self * 2\n\n\n"
        "class Two(One):\n    def double(self):\n        return super().double() + 1\n\n\n",
        (("class Value:", "class Value(Two):"),),
        "b = a.double()\nb.backward()\nprint(b.data, a.grad)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_class_with_bases_of_its_own_is_replaced(name):
    before, pairs, use = BASES[name]
    source = "import math\n\n\n" + before + edited(CLASS, *pairs) + USE + "\n" + use + "\n"
    outcome = same(source)
    assert outcome.replaced == ["Value"], outcome.reasons
    assert outcome.native >= {"__add__", "__mul__", "__neg__", "backward"}


def test_class_on_a_replaced_one_stays_and_works():
    use = """

class Wide(Value):
    def __add__(self, other):
        other = other if isinstance(other, Wide) else Wide(other)
        return Wide(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other):
        other = other if isinstance(other, Wide) else Wide(other)
        return Wide(self.data * other.data, (self, other), (other.data, self.data))

    def double(self):
        return self * 2


a, b = Wide(0.3), Value(0.7)
c = (a * a + 1).double() + a
c.backward()
(b * b).backward()
print(c.data, a.grad, b.grad, type(c), isinstance(c, Value), isinstance(b, Wide))
"""
    outcome = same("import math\n\n\n" + CLASS + use)
    assert outcome.replaced == ["Value"], outcome.reasons


BASES_THAT_STAY = {
    "of_floats": "class Value(float):",
    "with_a_metaclass": "class Value(metaclass=type('Meta', (type,), {})):",
    "whose_constructor_counts": "class Base:\n    n = []\n    def __init__(self):\n        Base.n.append(1)\n\n\nclass Value(Base):",
}


@pytest.mark.parametrize("name", BASES_THAT_STAY)
def test_class_with_other_bases_stays(name):
    source = edited(CLASS, ("class Value:", BASES_THAT_STAY[name]))
    if "(Base)" in source:
        source = edited(
            source, ("self.data = data\n", "self.data = data\n        super().__init__()\n")
        )
    outcome = same("import math\n\n\n" + source + USE)
    assert outcome.replaced == []


# ------------------------------------------------------------------- names with other meanings

LINEAR = """

def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]


x = [Value(0.1 * k) for k in range(4)]


def show():
    for y in linear(x, [x, x]):
        print(y.data, len(y._children))


show()
"""


@pytest.mark.parametrize(
    "change",
    [
        "sum = lambda items: list(items)[0]",
        "import builtins\nkept = builtins.sum\nbuiltins.sum = lambda items: list(items)[-1]",
    ],
)
def test_function_of_lists_follows_its_names(change):
    back = "\nbuiltins.sum = kept\n" if "builtins" in change else ""
    outcome = same("import math\n\n\n" + CLASS + LINEAR + change + "\nshow()\n" + back)
    assert outcome.replaced == ["Value"], outcome.reasons
    assert outcome.functions == ["linear"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("\nisinstance = lambda x, kind: True\n", "isinstance"),
        ("\n\ndef change():\n    global isinstance\n    isinstance = 3\n\n", "isinstance"),
    ],
)
def test_class_whose_built_in_names_change_stays(change, reason):
    outcome = same("import math\n\n\n" + CLASS + USE + change + USE)
    assert outcome.replaced == []
    assert reason in outcome.reasons
