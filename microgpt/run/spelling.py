"""Whether two functions are the same but for their spelling.

A function is compared with a pattern as a syntax tree, never executed. They are
the same up to the names of locals, comments, docstrings, annotations, aliases of
imported modules, temporaries used once and the order of the operands of a float
`+` or `*`: differences that cannot change a bit.
"""

from __future__ import annotations

import ast
import copy

from microgpt.run.names import Names, locals_of


def plain(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return a copy of statements without docstrings, annotations and `pass`."""
    kept: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.Pass):
            continue
        if isinstance(statement, ast.AnnAssign):
            if statement.value is None:
                continue
            assigned = ast.Assign(targets=[statement.target], value=statement.value)
            statement = ast.copy_location(assigned, statement)
        statement = copy.deepcopy(statement)
        for field in ("body", "orelse"):
            if isinstance(getattr(statement, field, None), list):
                setattr(statement, field, plain(getattr(statement, field)))
        if isinstance(statement, ast.FunctionDef):
            statement.returns = None
            for argument in ast.walk(statement.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
        if isinstance(statement, ast.Assign) and _parallel(statement):
            pairs = zip(statement.targets[0].elts, statement.value.elts)  # type: ignore[attr-defined]
            single = [ast.Assign(targets=[target], value=value) for target, value in pairs]
            kept += [ast.copy_location(assigned, statement) for assigned in single]
        else:
            kept.append(statement)
    return kept


def _parallel(statement: ast.Assign) -> bool:
    """Tell whether `a, b = [], set()` is the same as one assignment after the other."""
    target, value = statement.targets[0], statement.value
    return (
        len(statement.targets) == 1
        and isinstance(target, ast.Tuple)
        and isinstance(value, ast.Tuple)
        and len(target.elts) == len(value.elts)
        and all(isinstance(t, ast.Name) for t in target.elts)
        and not {t.id for t in target.elts if isinstance(t, ast.Name)}
        & {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
    )


class _Canonical(ast.NodeTransformer):
    """Rewrite spellings that cannot differ into one: names by meaning, -1 as a constant."""

    def __init__(self, names: Names, local: set[str], attributes: dict[str, str], cls: str) -> None:
        self.names, self.local, self.attributes, self.cls = names, local, attributes, cls

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.local or not isinstance(node.ctx, ast.Load):
            return node
        if node.id == self.cls:
            return ast.Name(id="@V", ctx=node.ctx)
        return ast.Name(id="@" + (self.names.of(node.id) or node.id + "?"), ctx=node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if (
            isinstance(node.value, ast.Name)
            and node.value.id.startswith("@")
            and node.value.id[-1] != "?"
        ):
            return ast.Name(id=f"{node.value.id}.{node.attr}", ctx=node.ctx)
        node.attr = self.attributes.get(node.attr, node.attr)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if (
            isinstance(node.op, ast.USub)
            and isinstance(node.operand, ast.Constant)
            and isinstance(node.operand.value, (int, float))
            and not isinstance(node.operand.value, bool)
        ):
            return ast.Constant(value=-node.operand.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        # 1 and 1.0 give the same bits; whether they print the same is judged elsewhere.
        if type(node.value) is int and abs(node.value) < 2**53:
            return ast.Constant(value=float(node.value))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if (
            isinstance(node.func, ast.Name)
            and node.func.id in ("@sum", "@max")
            and len(node.args) == 1
            and isinstance(node.args[0], ast.ListComp)
        ):
            listed = node.args[0]
            node.args = [ast.GeneratorExp(elt=listed.elt, generators=listed.generators)]
        return node


def normal(
    function: ast.FunctionDef,
    names: Names,
    attributes: dict[str, str] | None = None,
    cls: str = "V",
) -> list[ast.stmt]:
    """Return a function's body in normal form; its locals keep their names."""
    body = plain(function.body)
    local = {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    local |= {
        n.id
        for n in ast.walk(function)
        if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)
    }
    local |= {
        n.name for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function
    }
    rewriter = _Canonical(names, local, attributes or {}, cls)
    return inlined([rewriter.visit(statement) for statement in body])


def inlined(body: list[ast.stmt]) -> list[ast.stmt]:
    """Put a temporary that is assigned once and used once into its place.

    Only into the next statement and outside of comprehensions' bodies: there it is
    evaluated once, with nothing but pure arithmetic moved past it.
    """
    body = list(body)
    i = 0
    while i + 1 < len(body):
        first, second = body[i], body[i + 1]
        if (
            isinstance(first, ast.Assign)
            and len(first.targets) == 1
            and isinstance(first.targets[0], ast.Name)
        ):
            name = first.targets[0].id
            uses = [
                n for s in body for n in ast.walk(s) if isinstance(n, ast.Name) and n.id == name
            ]
            reads = [n for n in uses if isinstance(n.ctx, ast.Load)]
            if (
                len(uses) == 2
                and len(reads) == 1
                and isinstance(second, (ast.Assign, ast.Return))
                and _evaluated_once(second, reads[0])
            ):
                body[i + 1] = _Put(name, first.value).visit(second)
                del body[i]
                i = max(i - 1, 0)
                continue
        i += 1
    return body


def _evaluated_once(statement: ast.stmt, use: ast.Name) -> bool:
    for node in ast.walk(statement):
        if isinstance(
            node,
            (
                ast.ListComp,
                ast.SetComp,
                ast.DictComp,
                ast.GeneratorExp,
                ast.Lambda,
                ast.IfExp,
                ast.BoolOp,
            ),
        ):
            inside = [n for n in ast.walk(node) if n is use]
            if inside and not (
                isinstance(node, (ast.ListComp, ast.GeneratorExp))
                and any(n is use for n in ast.walk(node.generators[0].iter))
            ):
                return False
    return any(n is use for n in ast.walk(statement))


class _Put(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.value if node.id == self.name and isinstance(node.ctx, ast.Load) else node


def empty(value: ast.expr | None) -> bool:
    """Tell whether an expression is an empty tuple or list."""
    return isinstance(value, (ast.Tuple, ast.List)) and not value.elts


def match(pattern: object, node: object, bound: dict[str, str]) -> dict[str, str] | None:
    """Return the renaming of the pattern's locals under which both are equal, or None.

    The renaming is one to one. Operands of a `+` or `*` of floats (anything that
    reads `.data` or `.grad`, or a number) may stand in either order.
    """
    if isinstance(pattern, list):
        if not isinstance(node, list) or len(pattern) != len(node):
            return None
        for p, n in zip(pattern, node):
            found = match(p, n, bound)
            if found is None:
                return None
            bound = found
        return bound
    if not isinstance(pattern, ast.AST):  # by repr, as -0.0 equals 0.0
        return bound if type(pattern) is type(node) and repr(pattern) == repr(node) else None
    if type(pattern) is not type(node):
        return None
    if isinstance(pattern, (ast.Name, ast.arg, ast.FunctionDef)):
        field = {ast.Name: "id", ast.arg: "arg"}.get(type(pattern), "name")
        wanted, name = getattr(pattern, field), getattr(node, field)
        if wanted.startswith("@") or name.startswith("@"):
            return bound if wanted == name else None
        if bound.get(wanted, name) != name or (wanted not in bound and name in bound.values()):
            return None
        bound = {**bound, wanted: name}
        if isinstance(pattern, ast.FunctionDef):
            return _match_inner(pattern, node, bound)
        return bound
    if (
        isinstance(pattern, ast.BinOp)
        and isinstance(pattern.op, (ast.Add, ast.Mult))
        and is_number(pattern)
    ):
        if type(pattern.op) is not type(node.op):  # type: ignore[attr-defined]
            return None
        for left, right in ((node.left, node.right), (node.right, node.left)):  # type: ignore[attr-defined]
            found = match([pattern.left, pattern.right], [left, right], bound)
            if found is not None:
                return found
        return None
    for field, value in ast.iter_fields(pattern):
        if field in ("ctx", "type_comment", "kind"):
            continue
        found = match(value, getattr(node, field, None), bound)
        if found is None:
            return None
        bound = found
    return bound


def _match_inner(
    pattern: ast.FunctionDef, node: ast.AST, bound: dict[str, str]
) -> dict[str, str] | None:
    """Match a nested function, whose locals are others than those of the same names around it."""
    assert isinstance(node, ast.FunctionDef)
    theirs, ours = locals_of(pattern), locals_of(node)
    start = {p: n for p, n in bound.items() if p not in theirs and n not in ours}
    found = match(
        [pattern.args, pattern.body, pattern.decorator_list],
        [node.args, node.body, node.decorator_list],
        start,
    )
    if found is None or any(
        (p in theirs) != (n in ours) or bound.get(p, n) != n
        for p, n in found.items()
        if p not in theirs or n not in ours
    ):
        return None
    return {**bound, **{p: n for p, n in found.items() if p not in theirs}}


def is_number(node: ast.AST) -> bool:
    """Tell whether a pattern's expression is a plain float, not a `Value`."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("data", "grad")
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Attribute) and node.value.attr == "G"
    if isinstance(node, ast.BinOp):
        return is_number(node.left) or is_number(node.right)
    if isinstance(node, ast.Name):
        return node.id == "slope"
    return False


_EMPTY = Names(
    ast.Module(body=[ast.Import(names=[ast.alias(name="math", asname=None)])], type_ignores=[])
)


def _function(source: str, parameters: str = "self, other") -> ast.FunctionDef:
    text = (
        source
        if source.lstrip().startswith("def ")
        else f"def f({parameters}):\n"
        + "\n".join("    " + line for line in source.strip().splitlines())
    )
    node = ast.parse(text.strip()).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def means(
    function: ast.FunctionDef,
    spellings: list[str],
    names: Names,
    attributes: dict[str, str],
    cls: str,
) -> bool:
    """Tell whether a function's body is one of the spellings."""
    if function.decorator_list or not _simple(function.args):
        return False
    body = normal(function, names, attributes, cls)
    for spelling in spellings:
        wanted = _function(spelling)
        parameters = [a.arg for a in wanted.args.args][: len(function.args.args)]
        start = dict(zip(parameters, (a.arg for a in function.args.args)))
        if (
            len(start) == len(function.args.args)
            and match(normal(wanted, _EMPTY), body, start) is not None
        ):
            return True
    return False


def _simple(arguments: ast.arguments) -> bool:
    return not (
        arguments.posonlyargs
        or arguments.kwonlyargs
        or arguments.vararg
        or arguments.kwarg
        or arguments.defaults
    )
