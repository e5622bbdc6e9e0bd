"""Whether a class is the oracle's `Value`, and what it adds to it.

A class is replaced if its constructor and `backward` are the oracle's and every
other method is one of the oracle's, or an addition that works on the compiled
node. Each spelling below gives the same bits for data and for every gradient;
what is not among them is the user's own.
"""

from __future__ import annotations

import ast
import copy

from microgpt.run.closures import Translation, rule_of
from microgpt.run.fields import written_out
from microgpt.run.names import Names, RefusalError
from microgpt.run.spelling import empty, match, means, normal, plain

# `V` is the class, C and G its attributes for children and local gradients.
LIFT = (
    "other = other if isinstance(other, V) else V(other)",
    "other = V(other) if not isinstance(other, V) else other",
    "if not isinstance(other, V):\n    other = V(other)",
)


def _lifted(result: str) -> list[str]:
    return [f"{lift}\nreturn {result}" for lift in LIFT]


METHODS = {
    "__add__": _lifted("V(self.data + other.data, (self, other), (1, 1))"),
    "__mul__": _lifted("V(self.data * other.data, (self, other), (other.data, self.data))"),
    "__pow__": [
        "return V(self.data ** other, (self,), (other * self.data ** (other - 1),))",
    ],
    "log": ["return V(math.log(self.data), (self,), (1 / self.data,))"],
    "exp": [
        "return V(math.exp(self.data), (self,), (math.exp(self.data),))",
        "e = math.exp(self.data)\nreturn V(e, (self,), (e,))",
    ],
    "relu": [
        f"return V({data}, (self,), ({slope},))"
        for data in ("max(0, self.data)", "self.data if self.data > 0 else 0")
        for slope in (
            "float(self.data > 0)",
            "int(self.data > 0)",
            "self.data > 0",
            "1 if self.data > 0 else 0",
        )
    ],
    "__neg__": ["return self * -1", "return V(-self.data, (self,), (-1,))"],
    "__radd__": ["return self + other", "return self.__add__(other)"],
    "__rmul__": ["return self * other", "return self.__mul__(other)"],
    # a + b * -1 as two nodes or as one: the same terms at the same place of the walk
    "__sub__": [
        "return self + -other",
        *_lifted("V(self.data - other.data, (self, other), (1, -1))"),
    ],
    "__rsub__": ["return other + -self", "return -self + other"],
    "__truediv__": ["return self * other ** -1"],
    "__rtruediv__": ["return other * self ** -1"],
}


# The methods that a body goes through: it means the same only where they do.
NEEDS = {
    "__neg__": ("__mul__",),
    "__radd__": ("__add__",),
    "__rmul__": ("__mul__",),
    "__sub__": ("__add__", "__neg__"),
    "__rsub__": ("__add__", "__radd__", "__neg__"),
    "__truediv__": ("__mul__", "__pow__"),
    "__rtruediv__": ("__mul__", "__rmul__", "__pow__"),
}


VISITS = (
    """
def visit(v):
    if v not in seen:
        seen.add(v)
        for child in v.C:
            visit(child)
        order.append(v)
""",
    """
def visit(v):
    if v in seen:
        return
    seen.add(v)
    for child in v.C:
        visit(child)
    order.append(v)
""",
)


CHAIN_RULE = (
    "    for child, slope in zip(v.C, v.G):\n        child.grad += slope * v.grad",
    "    for child, slope in zip(v.C, v.G):\n        child.grad = child.grad + slope * v.grad",
    "    for i, child in enumerate(v.C):\n        child.grad += v.G[i] * v.grad",
    "    for i in range(len(v.C)):\n        v.C[i].grad += v.G[i] * v.grad",
)


BACKWARD = [
    f"{visit}visit(self)\nfor v in {order}:\n{rule}"
    for visit in VISITS
    for order in ("reversed(order)", "order[::-1]")
    for rule in CHAIN_RULE
]


def resembles(node: ast.ClassDef) -> bool:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return {"backward", "__add__", "__mul__"} <= methods


class Contract:
    """A class of the script that is the oracle's `Value`, and what it adds to it.

    Raises:  RefusalError if it is not
    """

    def __init__(self, node: ast.ClassDef, names: Names) -> None:
        self.names = names
        self.labelled = False
        self.node = node = self._plain(node)
        self.same: set[str] = set()
        self.extra: dict[str, ast.FunctionDef] = {}
        self.added: list[ast.stmt] = []
        self.float_grad = self.float_root = False
        self.relu_int = True
        if node.keywords or any(
            not (isinstance(b, ast.Name) and names.of(b.id) == "object") for b in node.bases
        ):
            raise RefusalError(node.lineno, "it has a base class or a metaclass")
        if len(names.bound[node.name]) > 1:
            raise RefusalError(node.lineno, "its name is bound more than once")
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        if "__init__" not in methods:
            raise RefusalError(node.lineno, "it has no __init__")
        self._init(methods["__init__"])
        self._backward(methods["backward"])
        self._members(methods)

    def _plain(self, node: ast.ClassDef) -> ast.ClassDef:
        """Return the class as one with a constructor and local gradients."""
        node = written_out(node, self.names)
        self.translation = Translation(node, self.names) if rule_of(node) else None
        if self.translation is None:
            return node
        return self.translation.labelled() if self.labelled else self.translation.node

    def _init(self, function: ast.FunctionDef) -> None:
        line = function.lineno
        arguments = function.args
        parameters = [a.arg for a in arguments.args]
        if (
            arguments.posonlyargs
            or arguments.kwonlyargs
            or arguments.vararg
            or arguments.kwarg
            or function.decorator_list
            or len(parameters) != 4
        ):
            raise RefusalError(line, "__init__ does not take data, children and local gradients")
        if len(arguments.defaults) != 2 or not all(empty(d) for d in arguments.defaults):
            raise RefusalError(line, "a leaf has children")
        me, data, children, slopes = parameters
        self.parameters = [data, children, slopes]
        roles: dict[str, str] = {}
        for statement in plain(function.body):
            name, _, value = ast.unparse(statement).partition(" = ")
            attribute = name.removeprefix(f"{me}.")
            simple = isinstance(statement, ast.Assign) and f"{me}.{attribute}" == name
            if not simple or not attribute.isidentifier() or attribute in roles:
                raise RefusalError(line, "__init__ does more than to keep what it is given")
            roles[attribute] = value
        grad = roles.pop("grad", "")
        attribute_of = {value: name for name, value in roles.items()}
        if attribute_of.get(data) != "data" or sorted(attribute_of) != sorted(self.parameters):
            raise RefusalError(
                line, "__init__ does not keep data, grad, children and local gradients as they are"
            )
        if grad not in ("0", "0.0"):
            raise RefusalError(line, "grad does not start as 0")
        self.float_grad = grad == "0.0"
        self.children, self.slopes = attribute_of[children], attribute_of[slopes]

    def hidden(self) -> set[str]:
        """Return the attributes by which a script could look into the graph."""
        more = self.translation.hidden if self.translation else set()
        return {self.children, self.slopes, *more}

    def attributes(self) -> dict[str, str]:
        return {self.children: "C", self.slopes: "G"}

    def _backward(self, function: ast.FunctionDef) -> None:
        """Compare `backward`, its fresh list, set, root gradient and walk in any order."""
        me = function.args.args[0].arg if function.args.args else "self"
        kept: list[ast.stmt] = []
        fresh: dict[str, str] = {}
        root = 0
        for statement in plain(function.body):
            name, _, value = ast.unparse(statement).partition(" = ")
            role = {"[]": "order", "set()": "seen"}.get(value)
            if role == "seen" and self.names.of("set") != "set":
                role = None
            if role and name.isidentifier() and name not in fresh:
                fresh[name] = role
                continue
            walks = any(isinstance(s, ast.For) for s in kept)
            if name == f"{me}.grad" and value in ("1", "1.0") and not walks:
                root += 1
                self.float_root = value == "1.0"
                continue
            kept.append(statement)
        if sorted(fresh.values()) != ["order", "seen"] or root != 1 or len(function.args.args) != 1:
            raise RefusalError(
                function.lineno,
                "backward is not the oracle's: a depth-first walk with a list and a set, grad "
                "set to 1",
            )
        reader = copy.copy(function)
        declared = ast.parse("\n".join(f"{name} = 0" for name in fresh)).body
        reader.body = [*declared, *kept]
        body = normal(reader, self.names, self.attributes(), self.node.name)[len(declared) :]
        for spelling in BACKWARD:
            wanted = ast.parse(
                "def f(self):\n    order = 0\n    seen = 0\n"
                + "\n".join("    " + line for line in spelling.splitlines())
            ).body[0]
            start = {"self": me, **{role: name for name, role in fresh.items()}}
            assert isinstance(wanted, ast.FunctionDef)
            if (
                not function.decorator_list
                and match(normal(wanted, self.names_of_patterns())[2:], body, start) is not None
            ):
                return
        raise RefusalError(
            function.lineno,
            "backward is not the oracle's: another walk or order, or something cleared",
        )

    @staticmethod
    def names_of_patterns() -> Names:
        return Names(ast.parse("import math"))

    def _members(self, methods: dict[str, ast.FunctionDef]) -> None:
        attributes = self.attributes()
        seen = set()
        for item in self.node.body:
            name = item.name if isinstance(item, ast.FunctionDef) else ""
            if isinstance(item, (ast.Expr, ast.Pass, ast.AnnAssign)) and (
                not isinstance(item, ast.Expr) or isinstance(item.value, ast.Constant)
            ):
                continue
            if (
                isinstance(item, ast.Assign)
                and isinstance(item.targets[0], ast.Name)
                and len(item.targets) == 1
            ):
                name = item.targets[0].id
                if name == "__slots__":
                    continue
                if isinstance(item.value, ast.Name) and (name, item.value.id) in (
                    ("__radd__", "__add__"),
                    ("__rmul__", "__mul__"),
                ):
                    self.same.add(name)
                    continue
            if not isinstance(item, ast.FunctionDef):
                raise RefusalError(item.lineno, "it has a member that is not a method")
            if name in seen:
                raise RefusalError(item.lineno, f"{name} is defined twice")
            seen.add(name)
            if name in ("__init__", "backward"):
                continue
            if name in METHODS and means(
                _unguarded(item), METHODS[name], self.names, attributes, self.node.name
            ):
                self.same.add(name)
                if name == "relu":
                    self.relu_int = any(
                        isinstance(n, ast.Constant) and n.value == 0 and type(n.value) is int
                        for n in ast.walk(item)
                    )
                continue
            if name in METHODS and name.startswith("__"):
                raise RefusalError(
                    item.lineno,
                    f"{name} does not compute what the oracle's does, or not in that order",
                )
            if (
                name.startswith("__")
                and name.endswith("__")
                and name not in ("__repr__", "__str__")
            ):
                raise RefusalError(item.lineno, f"it has a {name} of its own")
            if any(
                isinstance(n, ast.Name) and n.id in ("super", "__class__") for n in ast.walk(item)
            ):
                raise RefusalError(item.lineno, f"{name} uses super or __class__")
            self.extra[name] = item
            self.added.append(item)
        for name in sorted(self.same):
            for needed in NEEDS.get(name, ()):
                if needed not in self.same:
                    raise RefusalError(self.node.lineno, f"{name} needs {needed}, which it lacks")

    def replacement(self, place: ast.stmt) -> ast.stmt:
        """Return the statement that stands for the class, which is at that place."""
        assert isinstance(place, ast.ClassDef)
        if not self.added and not self.labelled:
            return fetched("Value", place.name, place)
        place = self._plain(place)
        lines = {member.lineno for member in self.added}
        node = copy.copy(place)
        node.bases = []
        function = "labelled" if self.labelled else "extended"
        node.decorator_list = [expression(f"__import__('_microgpt_run').{function}", place)]
        node.body = [m for m in place.body if m.lineno in lines] or [ast.Pass()]
        return ast.fix_missing_locations(node)

    def described(self) -> str:
        base = "microgpt.micrograd.Value" if self.labelled else "microgpt.Value"
        own = f" with the script's own {', '.join(self.extra)}" if self.added else ""
        unordered = self.translation is not None and self.translation.unordered
        return base + own + (", children from left to right" if unordered else "")


def _unguarded(function: ast.FunctionDef) -> ast.FunctionDef:
    """Return a method without its assertion on the exponent's type, as the compiled one."""
    if function.name != "__pow__" or len(function.args.args) != 2:
        return function
    other = function.args.args[1].arg
    bare = copy.copy(function)
    bare.body = [
        statement
        for statement in function.body
        if not (
            isinstance(statement, ast.Assert)
            and ast.dump(statement.test)
            in (
                ast.dump(ast.parse(f"isinstance({other}, {types})", mode="eval").body)
                for types in ("(int, float)", "(float, int)")
            )
        )
    ]
    return bare


def expression(source: str, place: ast.AST) -> ast.expr:
    node = ast.parse(source, mode="eval").body
    for inner in ast.walk(node):
        ast.copy_location(inner, place)
    return node


def fetched(name: str, target: str, place: ast.stmt) -> ast.stmt:
    """Return `target = the compiled name`, standing where the definition stood."""
    node = ast.Assign(
        targets=[ast.Name(id=target, ctx=ast.Store())],
        value=expression(f"__import__('_microgpt_run').{name}", place),
    )
    return ast.fix_missing_locations(ast.copy_location(node, place))
