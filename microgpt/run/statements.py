"""How what a script computes flows through its statements: assignments, loops, containers."""

from __future__ import annotations

import ast

from microgpt.run.flow import Flow
from microgpt.run.kinds import NONE, VALUES, Kind, blur, k, keys, tags, union, unwrap, wrap
from microgpt.run.names import standard


class Statements(Flow):
    """`block` goes through statements, `store` gives a target what it may hold."""

    def block(self, body: list[ast.stmt], scope: int) -> None:
        for statement in body:
            around, self.at = self.at, id(statement)
            self.statement(statement, scope)
            self.at = around

    def statement(self, node: ast.stmt, scope: int) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            kind = self.define(node, scope)
            for decorator in node.decorator_list:
                target = decorator.func if isinstance(decorator, ast.Call) else decorator
                known = (
                    "functools",
                    "staticmethod",
                    "classmethod",
                    "property",
                    "contextlib",
                    "atexit",
                    "abc",
                )
                if self.dotted(target, scope).split(".")[0] not in known:
                    kind |= self.unknown(node, self.value(target, scope), [kind], "a decorator")
            self.put((self.home(node.name, scope), node.name), kind)
        elif isinstance(node, ast.ClassDef):
            self.classes[id(node)] = node
            if node is self.cls:
                self.put((scope, node.name), k(("class", "Value")))
                return
            self.put((self.home(node.name, scope), node.name), k(("class", id(node))))
            fields = []
            for item in node.body:
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    key = next(iter(self.define(item, scope)))[1][1]
                    if not any(
                        isinstance(d, ast.Name) and d.id == "staticmethod"
                        for d in item.decorator_list
                    ):
                        positional = item.args.posonlyargs + item.args.args
                        if positional:
                            self.put((key, positional[0].arg), k(("object", id(node))))
                elif isinstance(item, (ast.Assign, ast.AnnAssign)) and item.value is not None:
                    for target in item.targets if isinstance(item, ast.Assign) else [item.target]:
                        if isinstance(target, ast.Name):
                            self.put_attribute(target.id, self.value(item.value, scope))
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    fields.append(item.target.id)
            self.env.setdefault(
                (-1, str(id(node))), frozenset((i, name) for i, name in enumerate(fields))
            )
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self.assign(target, node.value, self.value(node.value, scope), scope)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.assign(node.target, node.value, self.value(node.value, scope), scope)
        elif isinstance(node, ast.AugAssign):
            old = self.value(_loaded(node.target), scope)
            added = self.value(node.value, scope)
            kind = self.arithmetic(node, node.op, old, added)
            self.store(node.target, kind, scope)
            self.link_target(node.target, kind, node.value, scope)
            if any(depth for depth, _ in kind):  # in place
                self.store_into(node.target, added, scope)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.loop(node.target, node.iter, scope)
            self.block(node.body + node.orelse, scope)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and self.holds_value(target.value, scope):
                    self.see(target, f"deletes .{target.attr} of a {self.cls.name}")
        elif isinstance(node, ast.Return):
            if node.value is not None:
                kind = self.value(node.value, scope)
                self.result(scope, kind)
                self.link(("returned", scope), kind, node.value, scope)
            self.result_parts(scope, node.value, scope)
        elif isinstance(node, ast.Assert):
            self.value(node.test, scope)
            if node.msg is not None:
                self.shows(node.msg, self.value(node.msg, scope))
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for entered in node.items:
                kind = self.value(entered.context_expr, scope) | self.implied(("__enter__",))
                if entered.optional_vars is not None:
                    self.store(entered.optional_vars, kind, scope)
            self.block(node.body, scope)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                module = alias.name if isinstance(node, ast.Import) else node.module
                self.put((self.home(name, scope), name), k("?" if standard(module) else "x"))
        elif isinstance(node, ast.ExceptHandler):
            if node.name:
                self.put((self.home(node.name, scope), node.name), k("?"))
            self.block(node.body, scope)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child, scope)
                elif isinstance(child, (ast.stmt, ast.ExceptHandler)):
                    self.block([child], scope)  # type: ignore[list-item]
                elif type(child).__name__ == "match_case":
                    self.case(node, child, scope)

    def holds_value(self, node: ast.expr, scope: int) -> bool:
        return bool(tags(self.value(node, scope)) & VALUES)

    def case(self, node: ast.AST, case: ast.AST, scope: int) -> None:
        subject = self.value(node.subject, scope)  # type: ignore[attr-defined]
        for inner in ast.walk(case.pattern):  # type: ignore[attr-defined]
            for field in ("name", "rest"):
                if isinstance(getattr(inner, field, None), str):
                    self.put(
                        (self.home(getattr(inner, field), scope), getattr(inner, field)),
                        blur(subject),
                    )
        if tags(subject) & {"d", "s"}:
            self.see(node, "matches a number against patterns")
        self.block(case.body, scope)  # type: ignore[attr-defined]

    def assign(self, target: ast.expr, source: ast.expr, kind: Kind, scope: int) -> None:
        sequence = (ast.Tuple, ast.List)
        if (
            isinstance(target, sequence)
            and isinstance(source, sequence)
            and len(target.elts) == len(source.elts)
            and not any(isinstance(e, ast.Starred) for e in target.elts + source.elts)
        ):
            for t, s in zip(target.elts, source.elts):
                self.assign(t, s, self.value(s, scope), scope)
            return
        parts = self.called_parts(source, scope) if isinstance(target, sequence) else []
        if parts and all(part and len(part) == len(target.elts) for part in parts):  # type: ignore[attr-defined]
            for i, element in enumerate(target.elts):  # type: ignore[attr-defined]
                self.store(element, union(*[part[i] for part in parts if part]), scope)
        else:
            self.store(target, kind, scope)
        self.link_target(target, kind, source, scope)

    def store(self, target: ast.expr, kind: Kind, scope: int) -> None:
        if isinstance(target, ast.Name):
            self.put((self.home(target.id, scope), target.id), kind)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self.store(element, unwrap(kind), scope)
        elif isinstance(target, ast.Starred):
            self.store(target.value, wrap(kind), scope)
        elif isinstance(target, ast.Subscript):
            if isinstance(target.slice, ast.Slice):
                self.store_into(target.value, kind, scope)
            else:
                index = self.value(target.slice, scope)
                known = keys(index) if tags(index) - {"o", "i", "?"} else NONE
                self.store_into(target.value, wrap(kind) | known, scope)
        elif isinstance(target, ast.Attribute):
            base = self.value(target.value, scope)
            here = {tag for depth, tag in base if depth == 0}
            if not base and target.attr == "data":
                self.writes.add(id(target))  # of what could not be followed
            if here & VALUES or ("?" in here and target.attr in ("data", "grad")):
                self.store_in_value(target, kind)
            if here - VALUES - {"N"}:
                self.put_attribute(target.attr, kind)

    def store_into(self, container: ast.expr, kind: Kind, scope: int) -> None:
        """Add to what a container holds, and to what holds that container."""
        self.value(container, scope)
        if isinstance(container, ast.Name):
            key = (self.home(container.id, scope), container.id)
            if self.env.get(key, NONE) & k("?", "x") and tags(kind) & ({"d", "s"} | VALUES):
                self.see(container, f"keeps a {self.cls.name} where it cannot be followed")
            self.put(key, kind)
            self.changed |= self.aliases.add(key, kind)
        elif isinstance(container, ast.Attribute):
            self.store(container, kind, scope)
            self.changed |= self.aliases.add(("attribute", container.attr), kind)
        elif isinstance(container, ast.Subscript):
            self.store_into(container.value, wrap(kind), scope)
        elif tags(kind) & ({"d", "s"} | VALUES):
            self.see(container, "keeps a number that may be an int where it cannot be followed")

    def store_in_value(self, target: ast.Attribute, kind: Kind) -> None:
        number = tags(kind)
        if target.attr == "data":
            self.writes.add(id(target))
            if number & {"i", "d", "s", "o", "x"} or number & VALUES:
                self.see(target, "sets .data to what may not be a float")
        elif target.attr == "grad":
            if number & {"s", "o", "x"} or number & VALUES:
                self.see(target, "sets .grad to what may not be a plain number")
            if number - {"f"} and self.float_grads:
                self.float_grads = False
                self.changed = True
        elif not (self.labelled and target.attr == "label"):
            self.see(
                target,
                f"sets .{target.attr} of a {self.cls.name}, which the compiled one has no room for",
            )

    def loop(self, target: ast.expr, source: ast.expr, scope: int) -> None:
        """Bind a loop's target, by elements where the loop is over zip, enumerate or items."""
        if (
            isinstance(source, ast.Call)
            and isinstance(target, (ast.Tuple, ast.List))
            and not source.keywords
        ):
            name = self.dotted(source.func, scope)
            if name == "zip" and len(source.args) == len(target.elts):
                for element, argument in zip(target.elts, source.args):
                    self.loop(element, argument, scope)
                return
            if (
                isinstance(source.func, ast.Attribute)
                and source.func.attr == "items"
                and len(target.elts) == 2
            ):
                held = self.value(source.func.value, scope)
                named = frozenset(x for x in held if isinstance(x[1], tuple) and x[1][0] == "key")
                self.store(target.elts[0], unwrap(named) or k("o"), scope)
                self.store(target.elts[1], unwrap(held - named), scope)
                return
            if name == "enumerate" and len(target.elts) == 2 and source.args:
                self.store(target.elts[0], k("i"), scope)
                self.loop(target.elts[1], source.args[0], scope)
                return
        items = self.value(source, scope)
        kind = unwrap(items) | self.iterated(items)
        self.store(target, kind, scope)
        self.link_target(target, kind, source, scope)

    def iterated(self, kind: Kind) -> Kind:
        """Return what Python gets from an object of the script's by going through it."""
        if not any(isinstance(tag, tuple) or tag == "?" for _, tag in kind):
            return NONE
        names = ("__getitem__", "__next__")
        return self.implied(names, k("i")) | unwrap(self.implied(("__iter__",)))

    def shows(self, node: ast.expr, kind: Kind, as_float: bool = False) -> None:
        raise NotImplementedError

    def dotted(self, node: ast.expr, scope: int) -> str:
        raise NotImplementedError

    def arithmetic(self, node: ast.AST, op: ast.operator, left: Kind, right: Kind) -> Kind:
        raise NotImplementedError

    def unknown(self, node: ast.AST, kind: Kind, arguments: list[Kind], what: str) -> Kind:
        raise NotImplementedError


def _loaded(target: ast.expr) -> ast.expr:
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(id=target.id, ctx=ast.Load()), target)
    if isinstance(target, ast.Attribute):
        return ast.copy_location(
            ast.Attribute(value=target.value, attr=target.attr, ctx=ast.Load()), target
        )
    if isinstance(target, ast.Subscript):
        return ast.copy_location(
            ast.Subscript(value=target.value, slice=target.slice, ctx=ast.Load()), target
        )
    return target
