"""A script and the modules beside it, read as one.

What is certain about a script has to be certain about every file of it. So the
modules that it imports from its own directory are put before it, their imports of
each other dissolved, and the whole is judged as if it were one file. Lines are
numbered through: those of the n-th file start at n * STRIDE.
"""

from __future__ import annotations

import ast
import os
import sys

from microgpt.run.names import BUILTINS, Names
from microgpt.run.recognise import Plan, plan

STRIDE = 1_000_000


class Program:
    """The files of a script, the script itself last, and what is replaced in them.

    Raises:  SyntaxError, ValueError if one of them is not Python
    """

    def __init__(self, path: str, source: bytes, *, plain: bool = False) -> None:
        self.path, self.source = path, source
        self.files: list[tuple[str, str, ast.Module]] = []  # module name, path, tree
        self.texts: list[bytes] = []
        self.directory = os.path.dirname(os.path.realpath(path))
        script = ast.parse(source, os.path.abspath(path))
        self.found = Plan()
        try:
            self._imports(script, {os.path.splitext(os.path.basename(path))[0]})
            self.files.append(("__main__", path, script))
            self.texts.append(source)
            if not plain:
                self.found = self._judged()
        except RecursionError:
            self.files = [("__main__", path, script)]
            self.found = Plan(kept=[(0, "the script", "it is nested too deep to be read")])

    def _imports(self, tree: ast.Module, met: set[str]) -> None:
        """Read the modules beside the script that a file imports, theirs first."""
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                path = os.path.join(self.directory, f"{module}.py")
                if module in met or module in sys.builtin_module_names or not os.path.isfile(path):
                    continue
                met.add(module)
                with open(path, "rb") as file:
                    text = file.read()
                found = ast.parse(text, path)
                self._imports(found, met)
                self.files.append((module, os.path.relpath(path), found))
                self.texts.append(text)

    def _judged(self) -> Plan:
        modules = {name for name, _, _ in self.files[:-1]}
        body: list[ast.stmt] = []
        for i, ((_, _, tree), text) in enumerate(zip(self.files, self.texts)):
            ast.increment_lineno(tree, i * STRIDE)
            merged = _Dissolved(modules)
            body += merged.visit(ast.increment_lineno(ast.parse(text), i * STRIDE)).body
            if merged.problem:
                return Plan(kept=[merged.problem])
            shadowed = sorted(BUILTINS & set(Names(tree).bound)) if modules else []
            if shadowed:
                return Plan(
                    kept=[(i * STRIDE + 1, "the script", f"it has a {shadowed[0]} of its own")]
                )
        return plan(ast.Module(body=body, type_ignores=[]), one_file=not modules)

    def place(self, line: int) -> str:
        """Return the file and line of a line numbered through."""
        if not line:
            return self.path
        return f"{self.files[line // STRIDE][1]}:{line % STRIDE}"

    def file_of(self, module: str) -> str:
        """Return the absolute path of a module's file."""
        return os.path.abspath({name: path for name, path, _ in self.files}[module])

    def trees(self, every: bool) -> dict[str, ast.Module]:
        """Return the trees to run by module name: the script, what differs, or every one."""
        result = {}
        for name, _, tree in self.files:
            changed = [
                (statement, self.found.replacements.get(statement.lineno))
                for statement in tree.body
            ]
            body = [new(old) if new else old for old, new in changed]
            if every or name == "__main__" or any(new for _, new in changed):
                shifted = ast.Module(body=body, type_ignores=[])
                if tree.body:
                    ast.increment_lineno(shifted, -(tree.body[0].lineno // STRIDE) * STRIDE)
                result[name] = shifted
        return result


class _Dissolved(ast.NodeTransformer):
    """Make names of the modules beside the script into names of one file."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules
        self.known: dict[str, str] = {}
        self.problem: tuple[int, str, str] | None = None

    def visit_Import(self, node: ast.Import) -> ast.AST:
        kept = [alias for alias in node.names if alias.name not in self.modules]
        for alias in node.names:
            if alias.name in self.modules:
                self.known[alias.asname or alias.name] = alias.name
        return ast.copy_location(ast.Import(names=kept) if kept else ast.Pass(), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level or node.module not in self.modules:
            return node
        if any(alias.asname not in (None, alias.name) for alias in node.names):
            self.problem = (
                node.lineno,
                "the script",
                f"it renames what it imports from {node.module}",
            )
        return ast.copy_location(ast.Pass(), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.known:
            return ast.copy_location(ast.Name(id=node.attr, ctx=node.ctx), node)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.known:
            self.problem = (node.lineno, "the script", f"it uses the module {node.id} as an object")
        return node
