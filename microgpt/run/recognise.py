"""What of a script is the compiled code by another name, and what is its own.

One class that keeps `Value`'s contract is replaced, and with it the functions whose
bodies mean what `microgpt.linear`, `softmax` and `rmsnorm` do; but only after the
whole script was searched for what could tell the two apart (`calls.Sightings` for
ints). Whatever is not certain is left alone, with the reason and its line.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from microgpt.run.calls import Sightings
from microgpt.run.contract import Contract, fetched, resembles
from microgpt.run.freshness import Freshness
from microgpt.run.names import Names, RefusalError, standard, versioned
from microgpt.run.spelling import means

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
MIRRORS = frozenset("exec eval globals locals compile __import__ delattr __builtins__ dir".split())


REFLECTION = frozenset(
    """
    ast builtins code ctypes dis gc imp importlib inspect multiprocessing concurrent pdb runpy
    sysconfig symtable tracemalloc trace types unittest.mock weakref
    """.split()
)


DUNDERS = frozenset("__name__ __init__ __call__ __file__ __version__ __doc__ __post_init__".split())


@dataclass
class Plan:
    """What to run instead of a script's definitions, and what to say about it.

    replaced and kept hold (line, name, text), kept with the reason as its text;
    replacements the new statement by the line of the definition, made from that;
    unordered tells whether the script leaves the order of children open.
    """

    replaced: list[tuple[int, str, str]] = field(default_factory=list)
    kept: list[tuple[int, str, str]] = field(default_factory=list)
    replacements: dict[int, Callable[[ast.stmt], ast.stmt]] = field(default_factory=dict)
    unordered: bool = False


def plan(tree: ast.Module, *, one_file: bool = True) -> Plan:
    """Return the plan for a script, of which this tree may be changed."""
    result = Plan()
    names = Names(tree)
    if one_file:
        versioned(tree, names)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    nested = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n not in classes]
    candidates = [node for node in classes + nested if resembles(node)]
    if not candidates:
        result.kept.append((0, "the script", "no class in it has the methods of Value"))
        return result
    judged = [_contract(node, node in nested, names, result) for node in candidates]
    recognised = [contract for contract in judged if contract is not None]
    if len(recognised) != 1:
        for contract in recognised:
            result.kept.append(
                (contract.node.lineno, contract.node.name, "there is more than one such class")
            )
        return result
    contract = recognised[0]
    tree = ast.Module(
        body=[contract.node if n.lineno == contract.node.lineno else n for n in tree.body],
        type_ignores=[],
    )
    try:
        _undetected(contract, tree, names)
    except RefusalError as refusal:
        result.kept.append((refusal.line, contract.node.name, str(refusal)))
        return result
    result.replacements[contract.node.lineno] = contract.replacement
    result.unordered = contract.translation is not None and contract.translation.unordered
    result.replaced.append((contract.node.lineno, contract.node.name, contract.described()))
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            for name, spellings in FUNCTIONS.items():
                reason = _function(function, name, spellings, contract, tree, names)
                if reason == "":
                    result.replacements[function.lineno] = partial(fetched, name, function.name)
                    result.replaced.append((function.lineno, function.name, f"microgpt.{name}"))
                elif reason is not None:
                    result.kept.append((function.lineno, function.name, reason))
    return result


def _contract(node: ast.ClassDef, nested: bool, names: Names, result: Plan) -> Contract | None:
    try:
        if nested:
            raise RefusalError(node.lineno, "it is not at the top level of the script")
        return Contract(node, names)
    except RefusalError as refusal:
        result.kept.append((refusal.line, node.name, str(refusal)))
        return None


def _undetected(contract: Contract, tree: ast.Module, names: Names) -> None:
    """Refuse if the script could see that the class is another one.

    Raises:  RefusalError with the first such place
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
            raise RefusalError(
                line, f"the script uses {node.id}, after which nothing about it is certain"
            )
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _import(node)
        if isinstance(node, ast.Attribute):
            if node.attr in contract.hidden() and not _shown(node, parents, contract):
                raise RefusalError(line, f"the script looks into the graph: .{node.attr}")
            if node.attr.startswith("__") and node.attr.endswith("__") and node.attr not in DUNDERS:
                raise RefusalError(line, f"the script uses .{node.attr}")
            if (
                node.attr in ("modules", "settrace", "setprofile", "_getframe", "getsizeof")
                and isinstance(node.value, ast.Name)
                and names.of(node.value.id) == "sys"
            ):
                raise RefusalError(line, f"the script uses sys.{node.attr}")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and names.of(node.func.id) in ("getattr", "setattr", "vars", "hasattr")
        ):
            known = (
                len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
                and node.args[1].value not in {"__dict__", "__class__", *contract.hidden()}
            )
            if not known:
                raise RefusalError(
                    line, f"the script uses {node.func.id} with a name that is not known here"
                )
        if isinstance(node, ast.Name) and node.id == cls.name and isinstance(node.ctx, ast.Load):
            _use_of_class(node, parents, contract, names)
    sightings = Sightings(tree, names, contract)
    if sightings.found:
        line, what = sightings.found[0]
        more = f" (and {len(sightings.found) - 1} more)" if len(sightings.found) > 1 else ""
        raise RefusalError(line, f"the script {what}{more}")
    if contract.translation:
        for line, what in sorted(Freshness(sightings, tree).found)[:1]:
            raise RefusalError(line, f"its derivatives are closures, and the script {what}")


def _shown(node: ast.Attribute, parents: dict[int, ast.AST], contract: Contract) -> bool:
    """Tell whether a node with names shows in an attribute what the script's own would."""
    parent = parents[id(node)]
    translation = contract.translation
    if translation is None or not translation.shown(node.attr):
        return False
    if node.attr == translation.children and getattr(parent, "iter", None) is not node:
        return False
    if node.attr == "_op" and not isinstance(node.ctx, ast.Load):
        return False
    contract.labelled = True
    return True


def _import(node: ast.Import | ast.ImportFrom) -> None:
    modules = (
        [alias.name for alias in node.names]
        if isinstance(node, ast.Import)
        else [node.module or ""]
    )
    for module in modules:
        if module.split(".")[0] in REFLECTION or module in REFLECTION:
            raise RefusalError(
                node.lineno, f"the script imports {module}, which looks into programs"
            )
        star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        if (star and not standard(module)) or (isinstance(node, ast.ImportFrom) and node.level):
            raise RefusalError(
                node.lineno, f"what the script imports from {module} is not known here"
            )


def _use_of_class(
    node: ast.Name, parents: dict[int, ast.AST], contract: Contract, names: Names
) -> None:
    """Refuse a use of the class but to make a Value, to test for one, or to annotate."""
    parent = parents[id(node)]
    if isinstance(parent, ast.Call) and parent.func is node:
        if hasattr(parent, "named"):
            return  # written by Translation
        wanted = dict(zip(contract.parameters, ("data", "children", "local_grads")))
        for keyword in parent.keywords:
            translation = contract.translation
            if keyword.arg == "label" and translation and translation.shown("label"):
                contract.labelled = True
                continue
            own = translation is not None and keyword.arg != "data"
            if own or wanted.get(keyword.arg or "") != keyword.arg:
                raise RefusalError(
                    node.lineno,
                    f"{node.id} is called with {keyword.arg}=, a name that the compiled one lacks",
                )
        if len(parent.args) > (1 if contract.translation else 3) or any(
            isinstance(a, ast.Starred) for a in parent.args
        ):
            raise RefusalError(
                node.lineno, f"{node.id} is called with arguments that are not known here"
            )
        return
    called = parent.func if isinstance(parent, ast.Call) else None
    builtin = names.of(called.id) if isinstance(called, ast.Name) else ""
    if builtin == "map" and parent.args[0] is node and len(parent.args) == 2:  # type: ignore[attr-defined]
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
    raise RefusalError(node.lineno, f"the script uses the class {node.id} as an object")


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
