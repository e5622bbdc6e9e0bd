"""What the names of a script stand for, where that is certain."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Iterator

BUILTINS = frozenset(dir(builtins))
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class RefusalError(Exception):
    """The reason why something stays as it is, with the line that it is about."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class Names:
    """What the names of a module's top level stand for, where that is certain.

    `meaning[name]` is "math.log", "math", the name of a builtin, or "" for what
    the script itself defines or may define.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.bound: dict[str, list[ast.AST]] = {}
        self.meaning: dict[str, str] = {}
        self.foreign: set[str] = set()
        self.unknown_star: str | None = None
        for name, node in _bindings(tree):
            self.bound.setdefault(name, []).append(node)
        for name, nodes in self.bound.items():
            meanings = {_imported(name, node) for node in nodes}
            self.meaning[name] = meanings.pop() if len(meanings) == 1 else ""

    def of(self, name: str) -> str:
        """Return what a global name means: dotted, a builtin's name, or "" if the script's own."""
        if name in self.meaning:
            return self.meaning[name]
        return name if name in BUILTINS else ""


def _imported(name: str, node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if (alias.asname or alias.name.split(".")[0]) == name:
                return alias.name if alias.asname else name
    if isinstance(node, ast.ImportFrom) and not node.level:
        for alias in node.names:
            if alias.name == "*" or (alias.asname or alias.name) == name:
                return f"{node.module}.{name if alias.name == '*' else alias.name}"
    return ""


def standard(module: str | None) -> bool:
    """Tell whether a module is of Python's own library (and not beside the script)."""
    root = (module or "").split(".")[0]
    if hasattr(sys, "stdlib_module_names"):
        return root in sys.stdlib_module_names
    if root in sys.builtin_module_names:
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    origin = (spec.origin or "") if spec else ""
    return (
        bool(spec)
        and "site-packages" not in origin
        and origin.startswith(("frozen", "built-in", sys.base_prefix))
    )


def star_names(module: str | None) -> list[str] | None:
    """Return the names that `from module import *` binds; None if that is not known."""
    if module is None or not standard(module):
        return None
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    return list(getattr(found, "__all__", [name for name in vars(found) if name[0] != "_"]))


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield every (name, node) by which a global name may come to be."""

    def scope(node: ast.AST, globals_: set[str] | None) -> Iterator[tuple[str, ast.AST]]:
        inside = globals_ is not None
        for child in ast.iter_child_nodes(node):
            for name in _binds(child):
                if not inside or name in globals_:  # type: ignore[operator]
                    yield name, child
            if isinstance(child, SCOPES):
                declared = {
                    name
                    for inner in ast.walk(child)
                    if isinstance(inner, ast.Global)
                    for name in inner.names
                }
                yield from scope(child, declared)
            elif isinstance(child, COMPREHENSIONS):
                walrus = {n.target.id for n in ast.walk(child) if isinstance(n, ast.NamedExpr)}
                yield from scope(child, walrus if not inside else walrus & globals_)  # type: ignore[operator]
            else:
                yield from scope(child, globals_)

    yield from scope(tree, None)


def _binds(node: ast.AST) -> list[str]:
    """Return the names that one node binds, not counting those inside it."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [alias.asname or alias.name for alias in node.names if alias.name != "*"]
        if any(alias.name == "*" for alias in node.names) and not node.level:
            names += star_names(node.module) or []
        return names
    if isinstance(node, ast.ExceptHandler) and node.name:
        return [node.name]
    captured = getattr(node, "rest", None) or (
        getattr(node, "name", None) if type(node).__name__.startswith("Match") else None
    )
    return [captured] if isinstance(captured, str) else []


def locals_of(node: ast.AST) -> set[str]:
    """Return the names that are local to a function."""
    found = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}  # type: ignore[attr-defined]
    outer: set[str] = set()
    stack = list(node.body) if isinstance(node.body, list) else []  # type: ignore[attr-defined]
    while stack:
        inner = stack.pop()
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(inner.name)
            continue
        if isinstance(
            inner, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
        ):
            found |= {
                n.target.id
                for n in ast.walk(inner)
                if isinstance(n, ast.NamedExpr) and isinstance(n.target, ast.Name)
            }
            continue
        if isinstance(inner, (ast.Global, ast.Nonlocal)):
            outer |= set(inner.names)
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            found.add(inner.id)
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            found |= {(a.asname or a.name).split(".")[0] for a in inner.names}
        if isinstance(inner, ast.ExceptHandler) or type(inner).__name__.startswith("Match"):
            captured = (getattr(inner, field, None) for field in ("name", "rest"))
            found |= {name for name in captured if isinstance(name, str)}
        stack += list(ast.iter_child_nodes(inner))
    return found - outer


def versioned(tree: ast.Module, names: Names) -> None:
    """Give a name of the top level another one, in place, wherever it is assigned anew.

    The statements of the top level run once, in their order: what a name held before an
    assignment is not what it holds after. Only names that no function reads or writes.
    """
    shared = set(_shared(tree, None))
    free = {
        name
        for name, nodes in names.bound.items()
        if all(isinstance(n, ast.Name) for n in nodes) and name not in shared | BUILTINS
    }
    now: dict[str, str] = {}
    for statement in tree.body:
        assigned = set()
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
                assigned |= {n.id for n in parts if isinstance(n, ast.Name) and n.id in free}
        stored = []
        below: list[ast.AST] = [statement]
        while below:
            node = below.pop()
            if isinstance(node, SCOPES):
                continue
            below += ast.iter_child_nodes(node)
            if isinstance(node, ast.Name) and node.id in free:
                if node.id in assigned and isinstance(node.ctx, ast.Store):
                    stored.append(node)
                else:
                    node.id = now.get(node.id, node.id)
        for name in assigned:
            now[name] = f"{name}@{statement.lineno}"
        for node in stored:
            node.id = now[node.id]


def _shared(node: ast.AST, bound: frozenset[str] | None) -> Iterator[str]:
    """Yield the names that functions and classes use and that are not their own locals."""
    for child in ast.iter_child_nodes(node):
        inner = bound
        if isinstance(child, ast.ClassDef):
            inner = bound or frozenset()
        elif isinstance(child, SCOPES):
            inner = (bound or frozenset()) | locals_of(child)
        elif bound is not None and isinstance(child, COMPREHENSIONS):
            yield from _shared(ast.Expr(value=child.generators[0].iter), bound)
            inner = bound | {
                n.id
                for g in child.generators
                for n in ast.walk(g.target)
                if isinstance(n, ast.Name)
            }
        if bound is not None and isinstance(child, ast.Name) and child.id not in bound:
            yield child.id
        yield from _shared(child, inner)
