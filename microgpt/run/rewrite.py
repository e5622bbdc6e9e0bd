"""Marks a module's loops over parameters and its functions, and lists its global names."""

from __future__ import annotations

import ast
import operator
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from microgpt.run.loops import Loop

FUNCTION = "\0microgpt function"  # stands for microgpt.run.functions
_SIMPLE_CODE = tuple(
    getattr(ast, name)
    for name in (
        "Assign AugAssign If Pass Continue Expr Constant Name Attribute Subscript Tuple Call IfExp "
        "BinOp UnaryOp Compare BoolOp expr_context operator unaryop cmpop boolop"
    ).split()
)


class Rewriter(ast.NodeTransformer):
    """Give the loops over parameters in a module their `over`, and let small functions be seen."""

    def __init__(self, filename: str, reference: Callable[[str], ast.expr] = ast.Constant) -> None:
        self.filename, self.reference = filename, reference
        self.depth = 0  # of classes
        self.functions = 0  # around this place
        self.loops: dict[str, Loop] = {}
        self.bound: dict[str, set[object]] = {}  # global names: all that the code binds to them
        self.mentioned: set[str] = set()  # by classes that are judged
        self.tests: list[ast.If] = []
        self.below: dict[str, ast.FunctionDef] = {}  # functions that they mention, below them

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.tests = [part for part in ast.walk(node) if isinstance(part, ast.If)]
        return ast.fix_missing_locations(self.generic_visit(node))

    def binds(self, name: str, *meanings: object) -> None:
        self.bound.setdefault(name, set()).update(meanings)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not isinstance(node.ctx, ast.Load) and not self.functions + self.depth:
            self.binds(node.id, node)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        for name in node.names:
            self.binds(name, node, name)  # at any time
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        for part in node.names:
            self.binds(part.asname or part.name, (node.module, part.name))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if not self.functions + self.depth:
            self.binds(node.name, node)
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if methods & {"__add__", "__mul__"}:
            self.mentioned |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            return node  # it is judged as it stands
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if not self.functions + self.depth:
            self.binds(node.name, node)
        elif node.name == "backward":
            return node  # of a class that has its operators elsewhere
        self.functions += 1
        self.generic_visit(node)
        self.functions -= 1
        small = len(node.args.args) in (1, 2) and len(node.body) < 10
        below = not self.functions and node.name in self.mentioned
        if not self.depth and (small or below) and not node.decorator_list:
            node.decorator_list = [self.attribute(FUNCTION, "seen", node)]
            if below and not node.args.kw_defaults:
                self.below[node.name] = node
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        if _may_be_elementwise(node):
            marker = f"\0microgpt loop {len(self.loops)} {self.filename}"
            self.loops[marker] = Loop(node, self.filename)
            over = self.attribute(marker, "over", node.iter)
            node.iter = ast.copy_location(ast.Call(over, [node.iter], []), node.iter)
        return node

    def attribute(self, marker: str, name: str, place: ast.AST) -> ast.expr:
        found = ast.copy_location(self.reference(marker), place)
        return ast.copy_location(ast.Attribute(found, name, ast.Load()), place)

    def bind_functions_below(self, code: types.CodeType) -> None:
        """Bind the names of such functions to their code and defaults."""
        for part in code.co_consts:
            node = self.below.get(part.co_name) if isinstance(part, types.CodeType) else None
            if node is not None and self.bound[node.name] == {node}:
                with suppress(ValueError):  # a default that is not a constant
                    defaults = tuple(map(ast.literal_eval, node.args.defaults))
                    self.bound[node.name] = {(part, defaults)}


def _may_be_elementwise(loop: ast.For) -> bool:
    """Return whether a loop's body does nothing but assign, to an attribute among others."""
    nodes = [node for statement in loop.body for node in ast.walk(statement)]
    return (
        all(isinstance(node, _SIMPLE_CODE) for node in nodes)
        and any(
            isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) for node in nodes
        )
        and not any(
            isinstance(node, ast.Compare)
            and any(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops)
            and not all(isinstance(x, ast.Constant) and x.value is None for x in node.comparators)
            for node in nodes
        )
    )


def with_objects(code: types.CodeType, objects: dict[str, Any]) -> types.CodeType:
    """Return a code object with objects in the place of the constants that mark them."""
    constants = tuple(
        with_objects(constant, objects)
        if isinstance(constant, types.CodeType)
        else objects.get(constant, constant)
        if isinstance(constant, str)
        else constant
        for constant in code.co_consts
    )
    if all(map(operator.is_, constants, code.co_consts)):
        return code
    return code.replace(co_consts=constants)
