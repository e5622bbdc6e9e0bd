"""What of a script is the compiled code by another name, and what is its own.

A class is replaced if its constructor and `backward` are the oracle's and every
other method is one of the oracle's, or an addition that works on the compiled
node. Each spelling below gives the same bits for data and for every gradient;
what is not among them is the user's own and stays. Then the whole script is
searched for what could tell the two apart (see `kinds` for ints).
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass, field

from microgpt.kinds import Sightings
from microgpt.spelling import Names, match, means, normal, plain, standard

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
FUNCTIONS = {
    "linear": (
        "def f(x, w):\n    return [sum(wi * xi for wi, xi in zip(wo, x)) for wo in w]",
        "def f(x, w):\n    return [sum(wi * xi for xi, wi in zip(x, wo)) for wo in w]",
        "def f(x, w):\n    return [sum(wo[i] * x[i] for i in range(len(x))) for wo in w]",
    ),
    "softmax": (
        """
def f(logits):
    largest = max(v.data for v in logits)
    exps = [(v - largest).exp() for v in logits]
    total = sum(exps)
    return [e / total for e in exps]
""",
    ),
    "rmsnorm": (
        """
def f(x):
    scale = (sum(xi * xi for xi in x) / len(x) + 1e-5) ** -0.5
    return [xi * scale for xi in x]
""",
    ),
}
USES = {
    "linear": ("__add__", "__radd__", "__mul__"),
    "softmax": ("__add__", "__radd__", "__sub__", "exp", "__truediv__"),
    "rmsnorm": ("__add__", "__radd__", "__mul__", "__truediv__", "__pow__"),
}
# Names by which a script can look at itself; after them nothing is certain.
MIRRORS = frozenset(
    [
        "exec",
        "eval",
        "globals",
        "locals",
        "compile",
        "__import__",
        "delattr",
        "__builtins__",
        "dir",
    ]
)
REFLECTION = frozenset(
    [
        "ast",
        "builtins",
        "code",
        "ctypes",
        "dis",
        "gc",
        "imp",
        "importlib",
        "inspect",
        "multiprocessing",
        "concurrent",
        "pdb",
        "runpy",
        "sysconfig",
        "symtable",
        "tracemalloc",
        "trace",
        "types",
        "unittest.mock",
        "weakref",
    ]
)
DUNDERS = frozenset(
    ["__name__", "__init__", "__call__", "__file__", "__version__", "__doc__", "__post_init__"]
)


@dataclass
class Plan:
    """What to run instead of a script, and what to say about it.

    replaced and kept hold (line, name, text), kept with the reason as its text.
    """

    tree: ast.Module
    replaced: list[tuple[int, str, str]] = field(default_factory=list)
    kept: list[tuple[int, str, str]] = field(default_factory=list)


class Refusal(Exception):
    """The reason why something stays as it is, with the line that it is about."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def plan(tree: ast.Module) -> Plan:
    """Return the plan for a script; the tree itself is not changed."""
    result = Plan(tree)
    names = Names(tree)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    nested = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n not in classes]
    candidates = [node for node in classes + nested if _resembles(node)]
    if not candidates:
        result.kept.append((0, "the script", "no class in it has the methods of Value"))
        return result
    recognised = []
    for node in candidates:
        try:
            if node in nested:
                raise Refusal(node.lineno, "it is not at the top level of the script")
            recognised.append(Contract(node, tree, names))
        except Refusal as refusal:
            result.kept.append((refusal.line, node.name, str(refusal)))
    if len(recognised) != 1:
        for contract in recognised:
            result.kept.append(
                (contract.node.lineno, contract.node.name, "there is more than one such class")
            )
        return result
    contract = recognised[0]
    try:
        _undetected(contract, tree, names)
    except Refusal as refusal:
        result.kept.append((refusal.line, contract.node.name, str(refusal)))
        return result
    replacements: dict[ast.stmt, list[ast.stmt]] = {contract.node: contract.replacement()}
    result.replaced.append((contract.node.lineno, contract.node.name, contract.described()))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for name, spellings in FUNCTIONS.items():
                reason = _function(node, name, spellings, contract, tree, names)
                if reason == "":
                    replacements[node] = [_fetched(name, node.name, node)]
                    result.replaced.append((node.lineno, node.name, f"microgpt.{name}"))
                elif reason is not None:
                    result.kept.append((node.lineno, node.name, reason))
    body: list[ast.stmt] = []
    for statement in tree.body:
        body += replacements.get(statement, [statement])
    result.tree = ast.Module(body=body, type_ignores=[])
    return result


def _resembles(node: ast.ClassDef) -> bool:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return {"backward", "__add__", "__mul__"} <= methods


class Contract:
    """A class of the script that is the oracle's `Value`, and what it adds to it.

    Raises:  Refusal if it is not
    """

    def __init__(self, node: ast.ClassDef, tree: ast.Module, names: Names) -> None:
        self.node, self.names = node, names
        self.same: set[str] = set()
        self.extra: dict[str, ast.FunctionDef] = {}
        self.added: list[ast.stmt] = []
        self.float_grad = self.float_root = False
        self.relu_int = True
        if node.keywords or any(
            not (isinstance(b, ast.Name) and names.of(b.id) == "object") for b in node.bases
        ):
            raise Refusal(node.lineno, "it has a base class or a metaclass")
        if len(names.bound[node.name]) > 1:
            raise Refusal(node.lineno, "its name is bound more than once")
        own_init = any(
            isinstance(item, ast.FunctionDef) and item.name == "__init__" for item in node.body
        )
        fields = self._decorated(own_init)
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        if fields is not None:
            self._dataclass(fields)
        elif own_init:
            self._init(methods["__init__"])
        else:
            raise Refusal(node.lineno, "it has no __init__")
        self._backward(methods["backward"])
        self._members(methods)

    def _decorated(self, own_init: bool) -> list[ast.AnnAssign] | None:
        """Return the fields of a dataclass, None for a class without decorators."""
        if not self.node.decorator_list:
            return None
        decorator = self.node.decorator_list[0]
        call = decorator if isinstance(decorator, ast.Call) else None
        target = call.func if call else decorator
        dotted = ""
        if isinstance(target, ast.Name):
            dotted = self.names.of(target.id)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
            dotted = f"{self.names.of(target.value.id)}.{target.attr}"
        if len(self.node.decorator_list) > 1 or dotted != "dataclasses.dataclass" or own_init:
            raise Refusal(decorator.lineno, "it has a decorator")
        settings = {
            keyword.arg: keyword.value.value
            for keyword in (call.keywords if call else [])
            if isinstance(keyword.value, ast.Constant)
        }
        allowed = {"eq", "repr", "slots"}
        if (
            settings.get("eq", True) is not False
            or (call and (call.args or len(settings) != len(call.keywords)))
            or not set(settings) <= allowed
        ):
            raise Refusal(
                decorator.lineno, "as a dataclass it compares or behaves in ways of its own"
            )
        return [item for item in self.node.body if isinstance(item, ast.AnnAssign)]

    def _dataclass(self, fields: list[ast.AnnAssign]) -> None:
        positional, roles = [], {}
        for item in fields:
            name = item.target.id if isinstance(item.target, ast.Name) else ""
            default, init = item.value, True
            if isinstance(default, ast.Call) and isinstance(
                default.func, (ast.Name, ast.Attribute)
            ):
                options = {keyword.arg: keyword.value for keyword in default.keywords}
                init = not (
                    isinstance(options.get("init"), ast.Constant) and options["init"].value is False
                )  # type: ignore[attr-defined]
                default = options.get("default")
                factory = options.get("default_factory")
                if isinstance(factory, ast.Name) and self.names.of(factory.id) in ("tuple", "list"):
                    default = ast.Tuple(elts=[], ctx=ast.Load())
            roles[name] = default
            if init:
                positional.append(name)
        if (
            positional[:1] != ["data"]
            or roles["data"] is not None
            or "grad" not in roles
            or len(positional) < 3
        ):
            raise Refusal(
                self.node.lineno, "its fields are not data, children, local gradients and grad"
            )
        self.children, self.slopes = positional[1], positional[2]
        if set(roles) != {"data", "grad", self.children, self.slopes} or len(roles) != 4:
            raise Refusal(
                self.node.lineno,
                f"it has other fields than data, grad, {self.children}, {self.slopes}",
            )
        self._zero(roles["grad"], self.node.lineno)
        if not all(_empty(roles[name]) for name in (self.children, self.slopes)):
            raise Refusal(self.node.lineno, "a leaf has children")
        self.parameters = positional[:3]

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
            raise Refusal(line, "__init__ does not take data, children and local gradients")
        if len(arguments.defaults) != 2 or not all(_empty(d) for d in arguments.defaults):
            raise Refusal(line, "a leaf has children")
        me, data, children, slopes = parameters
        self.parameters = [data, children, slopes]
        roles: dict[str, ast.expr] = {}
        for statement in plain(function.body):
            target = (
                statement.targets[0]
                if isinstance(statement, ast.Assign) and len(statement.targets) == 1
                else None
            )
            if not (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == me
                and target.attr not in roles
            ):
                raise Refusal(
                    getattr(statement, "lineno", line),
                    "__init__ does more than to keep what it is given",
                )
            roles[target.attr] = statement.value  # type: ignore[attr-defined]
        by_parameter = {
            value.id: name for name, value in roles.items() if isinstance(value, ast.Name)
        }
        if (
            by_parameter.get(data) != "data"
            or len(roles) != 4
            or "grad" not in roles
            or set(by_parameter) != {data, children, slopes}
        ):
            raise Refusal(
                line, "__init__ does not keep data, grad, children and local gradients as they are"
            )
        self._zero(roles["grad"], line)
        self.children, self.slopes = by_parameter[children], by_parameter[slopes]

    def _zero(self, value: ast.expr | None, line: int) -> None:
        if not (
            isinstance(value, ast.Constant)
            and type(value.value) in (int, float)
            and repr(float(value.value)) == "0.0"
        ):
            raise Refusal(line, "grad does not start as 0")
        self.float_grad = type(value.value) is float

    def attributes(self) -> dict[str, str]:
        return {self.children: "C", self.slopes: "G"}

    def _backward(self, function: ast.FunctionDef) -> None:
        """Compare `backward`, its fresh list, set, root gradient and walk in any order."""
        me = function.args.args[0].arg if function.args.args else "self"
        stripped = copy.deepcopy(function)
        kept, fresh, root = [], {}, 0
        for statement in plain(stripped.body):
            target = (
                statement.targets[0]
                if isinstance(statement, ast.Assign) and len(statement.targets) == 1
                else None
            )
            value = statement.value if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id not in fresh:
                if isinstance(value, ast.List) and not value.elts:
                    fresh[target.id] = "order"
                    continue
                if (
                    isinstance(value, ast.Call)
                    and not value.args
                    and not value.keywords
                    and isinstance(value.func, ast.Name)
                    and self.names.of(value.func.id) == "set"
                ):
                    fresh[target.id] = "seen"
                    continue
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == me
                and target.attr == "grad"
            ):
                if (
                    isinstance(value, ast.Constant)
                    and type(value.value) in (int, float)
                    and value.value == 1
                    and not any(isinstance(s, ast.For) for s in kept)
                ):
                    root += 1
                    self.float_root = type(value.value) is float
                    continue
            kept.append(statement)
        if sorted(fresh.values()) != ["order", "seen"] or root != 1 or len(function.args.args) != 1:
            raise Refusal(
                function.lineno,
                "backward is not the oracle's: a depth-first walk with a list and a set, grad set to 1",
            )
        reader = ast.FunctionDef(
            name="backward", args=function.args, body=kept, decorator_list=function.decorator_list
        )
        declared = ast.parse(
            "\n".join(
                f"{name} = {'[]' if role == 'order' else '@'}" if False else f"{name} = 0"
                for name, role in fresh.items()
            )
        ).body
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
        raise Refusal(
            function.lineno,
            "backward is not the oracle's: another walk, another order of adding, or something cleared",
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
                raise Refusal(item.lineno, "it has a member that is not a method")
            if name in seen:
                raise Refusal(item.lineno, f"{name} is defined twice")
            seen.add(name)
            if name in ("__init__", "backward"):
                continue
            if name in METHODS:
                if not means(
                    _unguarded(item), METHODS[name], self.names, attributes, self.node.name
                ):
                    raise Refusal(
                        item.lineno,
                        f"{name} does not compute what the oracle's does, or not in that order",
                    )
                self.same.add(name)
                if name == "relu":
                    self.relu_int = any(
                        isinstance(n, ast.Constant) and n.value == 0 and type(n.value) is int
                        for n in ast.walk(item)
                    )
                continue
            if (
                name.startswith("__")
                and name.endswith("__")
                and name not in ("__repr__", "__str__")
            ):
                raise Refusal(item.lineno, f"it has a {name} of its own")
            self.extra[name] = item
            self.added.append(item)
        for name in sorted(self.same):
            for needed in NEEDS.get(name, ()):
                if needed not in self.same:
                    raise Refusal(self.node.lineno, f"{name} needs {needed}, which it lacks")

    def replacement(self) -> list[ast.stmt]:
        """Return the statements that stand for the class."""
        if not self.added:
            return [_fetched("Value", self.node.name, self.node)]
        node = copy.copy(self.node)
        node.bases = []
        node.decorator_list = [_expression("__import__('_microgpt_run').extended", self.node)]
        node.body = self.added
        return [ast.fix_missing_locations(node)]

    def described(self) -> str:
        if not self.added:
            return "microgpt.Value"
        return f"microgpt.Value with the script's own {', '.join(self.extra)}"


def _empty(value: ast.expr | None) -> bool:
    return isinstance(value, (ast.Tuple, ast.List)) and not value.elts


def _unguarded(function: ast.FunctionDef) -> ast.FunctionDef:
    """Return a method without its assertion on the exponent's type, which the compiled one makes too."""
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


def _expression(source: str, place: ast.AST) -> ast.expr:
    node = ast.parse(source, mode="eval").body
    for inner in ast.walk(node):
        ast.copy_location(inner, place)
    return node


def _fetched(name: str, target: str, place: ast.stmt) -> ast.stmt:
    """Return `target = the compiled name`, standing where the definition stood."""
    node = ast.Assign(
        targets=[ast.Name(id=target, ctx=ast.Store())],
        value=_expression(f"__import__('_microgpt_run').{name}", place),
    )
    return ast.fix_missing_locations(ast.copy_location(node, place))


# --------------------------------------------------- what could tell them apart


def _undetected(contract: Contract, tree: ast.Module, names: Names) -> None:
    """Refuse if the script could see that the class is another one.

    Raises:  Refusal with the first such place
    """
    cls = contract.node
    inside = {id(n) for n in ast.walk(cls)}
    kept_inside = {id(n) for member in contract.added for n in ast.walk(member)}
    parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if id(node) in inside and id(node) not in kept_inside:
            continue
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name) and node.id in MIRRORS:
            raise Refusal(
                line, f"the script uses {node.id}, after which nothing about it is certain"
            )
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _import(node)
        if isinstance(node, ast.Attribute):
            if node.attr in (contract.children, contract.slopes):
                raise Refusal(line, f"the script looks into the graph: .{node.attr}")
            if node.attr.startswith("__") and node.attr.endswith("__") and node.attr not in DUNDERS:
                raise Refusal(line, f"the script uses .{node.attr}")
            if (
                node.attr in ("modules", "settrace", "setprofile", "_getframe", "getsizeof")
                and isinstance(node.value, ast.Name)
                and names.of(node.value.id) == "sys"
            ):
                raise Refusal(line, f"the script uses sys.{node.attr}")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and names.of(node.func.id) in ("getattr", "setattr", "vars", "hasattr")
        ):
            known = (
                len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
                and node.args[1].value
                not in (contract.children, contract.slopes, "__dict__", "__class__")
            )
            if not known:
                raise Refusal(
                    line, f"the script uses {node.func.id} with a name that is not known here"
                )
        if isinstance(node, ast.Name) and node.id == cls.name and isinstance(node.ctx, ast.Load):
            _use_of_class(node, parents, contract, names)
    _globals_used(contract)
    sightings = Sightings(
        tree,
        names,
        cls,
        contract.extra,
        float_grads=contract.float_grad and contract.float_root,
        relu_int=contract.relu_int,
        keeps_repr=False,
    )
    if sightings.found:
        line, what = sightings.found[0]
        more = f" (and {len(sightings.found) - 1} more)" if len(sightings.found) > 1 else ""
        raise Refusal(line, f"the script {what}{more}")


def _import(node: ast.Import | ast.ImportFrom) -> None:
    modules = (
        [alias.name for alias in node.names]
        if isinstance(node, ast.Import)
        else [node.module or ""]
    )
    for module in modules:
        if module.split(".")[0] in REFLECTION or module in REFLECTION:
            raise Refusal(node.lineno, f"the script imports {module}, which looks into programs")
        star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        if (star and not standard(module)) or (isinstance(node, ast.ImportFrom) and node.level):
            raise Refusal(node.lineno, f"what the script imports from {module} is not known here")


def _use_of_class(
    node: ast.Name, parents: dict[int, ast.AST], contract: Contract, names: Names
) -> None:
    """Refuse a use of the class but to make a Value, to test for one, or to annotate."""
    parent = parents[id(node)]
    if isinstance(parent, ast.Call) and parent.func is node:
        wanted = dict(zip(contract.parameters, ("data", "children", "local_grads")))
        for keyword in parent.keywords:
            if wanted.get(keyword.arg or "") != keyword.arg:
                raise Refusal(
                    node.lineno,
                    f"{node.id} is called with {keyword.arg}=, which is named otherwise in the compiled one",
                )
        if len(parent.args) + len(parent.keywords) > 3 or any(
            isinstance(a, ast.Starred) for a in parent.args
        ):
            raise Refusal(
                node.lineno, f"{node.id} is called with arguments that are not known here"
            )
        return
    if isinstance(parent, ast.Tuple):
        parent = parents[id(parent)]
    if (
        isinstance(parent, ast.Call)
        and isinstance(parent.func, ast.Name)
        and names.of(parent.func.id) == "isinstance"
    ):
        return
    child: ast.AST = node
    while parent is not None:
        annotation = (getattr(parent, "annotation", None), getattr(parent, "returns", None))
        if any(child is a for a in annotation):
            return
        if not isinstance(parent, (ast.Subscript, ast.Tuple, ast.BinOp, ast.List)):
            break
        child, parent = parent, parents.get(id(parent))  # type: ignore[assignment]
    raise Refusal(node.lineno, f"the script uses the class {node.id} as an object")


def _globals_used(contract: Contract) -> None:
    """Refuse if a name that the class relies on might be rebound."""
    for node in ast.walk(contract.node):
        if isinstance(node, ast.Name) and node.id in (
            "isinstance",
            "max",
            "float",
            "set",
            "zip",
            "reversed",
            "int",
            "enumerate",
            "len",
            "range",
        ):
            if contract.names.of(node.id) != node.id:
                raise Refusal(node.lineno, f"the script has a {node.id} of its own")


def _function(
    node: ast.FunctionDef,
    name: str,
    spellings: tuple[str, ...],
    contract: Contract,
    tree: ast.Module,
    names: Names,
) -> str | None:
    """Return "" if a function is the compiled one's equal, a reason if only nearly, else None."""
    if not means(node, list(spellings), names, {}, contract.node.name):
        return f"its body does not mean what microgpt.{name} does" if node.name == name else None
    if len(names.bound[node.name]) > 1:
        return "its name is bound more than once"
    if not set(USES[name]) <= contract.same:
        return f"the class lacks an operator that microgpt.{name} uses"
    calls = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for use in ast.walk(tree):
        if isinstance(use, ast.Name) and use.id == node.name and isinstance(use.ctx, ast.Load):
            call = calls.get(id(use))
            if call is None or call.keywords or any(isinstance(a, ast.Starred) for a in call.args):
                return f"line {use.lineno} uses it otherwise than in a plain call"
    return ""
