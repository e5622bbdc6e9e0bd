"""How what a script computes flows through its statements, names and functions.

Without order and without branches: a name has every kind that is ever assigned to
it in its scope, an attribute every kind under its name in any object, a function's
parameter every kind handed to it. The whole script is gone through until nothing
is added any more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable

from microgpt.run.aliases import Aliases
from microgpt.run.kinds import NONE, VALUES, Kind, blur, k, keys, tags, union, unwrap, wrap
from microgpt.run.names import Names, locals_of, standard

Named = dict[str, Kind]


class Flow:
    """The kinds of a script's names, attributes and functions, and its statements.

    `found` is a list of (line, what is seen there) of the places where an int could
    be told from a float; empty means that there is none.
    """

    def __init__(
        self,
        tree: ast.Module,
        names: Names,
        cls: ast.ClassDef,
        extra: dict[str, ast.FunctionDef],
        float_grads: bool,
        relu_int: bool,
        keeps_repr: bool,
        late: bool = False,
        labelled: bool = False,
    ) -> None:
        self.names, self.cls, self.extra = names, cls, extra
        self.float_grads, self.relu = float_grads, "R" if relu_int else "V"
        self.keeps_repr, self.late, self.labelled = keeps_repr, late, labelled
        self.ints = False  # whether a Value may hold an int
        self.env: dict[tuple[int, str], Kind] = {}
        self.attributes: dict[str, Kind] = {}
        self.returns: dict[int, Kind] = {}
        self.parts: dict[int, list[Kind] | None] = {}  # of results that are always such a tuple
        self.parents: dict[int, int] = {}
        self.locals: dict[int, set[str]] = {0: set()}
        self.methods: dict[str, list[ast.FunctionDef]] = {}
        self.bodies: dict[int, tuple[ast.AST, int]] = {}
        self.aliases = Aliases()
        self.passing: list[tuple[Kind, set[Hashable]]] = []  # the current call's arguments
        self.called: set[int] = {0}
        self.here = self.at = 0  # the function and the statement or call that is looked at
        self.calls: dict[int, set[int]] = {}  # by statement or call: the functions it may run
        self.handed: set[int] = set()  # functions that code which is not followed may run
        self.writes: set[int] = set()  # targets by which data of a Value may change
        self.classes: dict[int, ast.ClassDef] = {}
        self.changed = True
        self.final = False
        self.found: list[tuple[int, str]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node is not cls:
                for item in node.body:
                    if isinstance(item, ast.FunctionDef):
                        self.methods.setdefault(item.name, []).append(item)
        # Names are linked once their kinds are known: what is still empty then is an empty list.
        for self.linking in (False, True):
            for _ in range(60):
                self.changed = False
                self.run(tree)
                if not self.changed:
                    break
            else:
                self.found.append((1, "what is computed could not be followed to the end"))
        self.final = True
        self.run(tree)
        self.found = sorted(set(self.found))

    def run(self, tree: ast.Module) -> None:
        self.here = 0
        self.block(tree.body, 0)
        for method in self.extra.values():
            self.define(method, 0)
        for node, scope in list(self.bodies.values()):
            self.body(node, scope)

    def see(self, node: ast.AST, what: str) -> None:
        if self.final:
            what = re.sub(r"@\d+", "", what)  # see `versioned`
            self.found.append((getattr(node, "lineno", 0), what))

    def put(self, key: tuple[int, str], kind: Kind) -> None:
        old = self.env.get(key, NONE)
        if not kind <= old:
            self.env[key] = old | kind
            self.changed = True

    def put_attribute(self, name: str, kind: Kind) -> None:
        old = self.attributes.get(name, NONE)
        if not kind <= old:
            self.attributes[name] = old | kind
            self.changed = True

    def home(self, name: str, scope: int) -> int:
        while scope and name not in self.locals[scope]:
            scope = self.parents[scope]
        return scope

    def define(self, node: ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef, scope: int) -> Kind:
        key = id(node)
        if key not in self.bodies:
            self.bodies[key] = (node, scope)
            self.parents[key] = scope
            self.locals[key] = locals_of(node)
            self.returns[key] = NONE
            self.changed = True
        arguments = node.args
        positional = arguments.posonlyargs + arguments.args
        for argument, default in zip(
            positional[len(positional) - len(arguments.defaults) :], arguments.defaults
        ):
            self.put((key, argument.arg), self.value(default, scope))
        for argument, optional in zip(arguments.kwonlyargs, arguments.kw_defaults):
            if optional is not None:
                self.put((key, argument.arg), self.value(optional, scope))
        return k(("fn", key))

    def body(self, node: ast.AST, _: int) -> None:
        key = self.here = self.at = id(node)
        name = getattr(node, "name", "")
        if name.startswith("__") and name.endswith("__") and name not in self.extra:
            self.called.add(key)  # by Python itself
        if isinstance(node, ast.Lambda):
            self.result(key, self.value(node.body, key))
            self.link(("returned", key), self.returns[key], node.body, key)
        else:
            self.block(node.body, key)  # type: ignore[attr-defined]

    def result(self, key: int, kind: Kind) -> None:
        if not kind <= self.returns[key]:
            self.returns[key] |= kind
            self.changed = True

    def result_parts(self, key: int, value: ast.expr | None, scope: int) -> None:
        """Note the kinds of a returned tuple's elements, one by one."""
        plain = isinstance(value, ast.Tuple) and not any(
            isinstance(e, ast.Starred) for e in value.elts
        )
        new = [self.value(e, scope) for e in value.elts] if plain else None  # type: ignore[union-attr]
        old = self.parts.get(key, new)
        if old is None or new is None or len(old) != len(new):
            self.parts[key] = None
        else:
            self.parts[key] = [a | b for a, b in zip(old, new)]
        self.changed |= self.parts[key] != old

    def called_parts(self, source: ast.expr, scope: int) -> list[list[Kind] | None]:
        """Return the parts of what a call may give; none if it may call something else too."""
        if not isinstance(source, ast.Call):
            return []
        if isinstance(source.func, ast.Attribute):
            known = tags(self.value(source.func.value, scope))
            functions = [id(method) for method in self.methods.get(source.func.attr, [])]
            kind = "object"
        else:
            known = tags(self.value(source.func, scope))
            functions = [tag[1] for tag in known if isinstance(tag, tuple)]
            kind = "fn"
        if not all(isinstance(tag, tuple) and tag[0] == kind for tag in known):
            return []
        return [self.parts.get(key) for key in functions]

    def call(self, key: int, positional: list[Kind], named: Named, rest: Kind) -> Kind:
        """Hand arguments to a function of the script and return its result."""
        self.calls.setdefault(self.at, set()).add(key)
        if key not in self.called:
            self.called.add(key)
            self.changed = True
        arguments = self.bodies[key][0].args  # type: ignore[attr-defined]
        parameters = [a.arg for a in arguments.posonlyargs + arguments.args]
        for i, kind in enumerate(positional):
            if i < len(parameters):
                self.put((key, parameters[i]), kind)
                self.link_argument((key, parameters[i]), kind)
            elif arguments.vararg:
                self.put((key, arguments.vararg.arg), wrap(kind))
                self.link_argument((key, arguments.vararg.arg), kind)
        keywords = parameters + [a.arg for a in arguments.kwonlyargs]
        for name, kind in named.items():
            if name in keywords:
                self.put((key, name), kind)
                self.link_argument((key, name), kind)
            elif arguments.kwarg:
                self.put((key, arguments.kwarg.arg), wrap(kind))
                self.link_argument((key, arguments.kwarg.arg), kind)
        if rest:
            for name in keywords:
                self.put((key, name), rest)
                self.link_argument((key, name), rest)
            for extra in (arguments.vararg, arguments.kwarg):
                if extra:
                    self.put((key, extra.arg), wrap(rest))
        return self.returns[key]

    def link_argument(self, parameter: tuple[int, str], kind: Kind) -> None:
        """Note that a parameter may stand for the arguments of this kind."""
        for passed, roots in self.passing:
            if may_hold(kind) and (passed == kind or wrap(unwrap(passed)) == wrap(kind)):
                self.changed |= self.aliases.link(parameter, roots)

    def roots(self, node: ast.expr, scope: int) -> set[Hashable]:
        """Return the names, attributes and results that an expression's containers go by.

        A display or comprehension is a new container: only what its elements contain is shared.
        """
        found: set[Hashable] = set()
        if isinstance(node, ast.Name):
            key = (self.home(node.id, scope), node.id)
            return {key} if may_hold(self.env.get(key, NONE)) else found
        if isinstance(node, ast.Attribute):
            held = self.attributes.get(node.attr)
            return {("attribute", node.attr)} if held is not None and may_hold(held) else found
        if isinstance(node, (ast.Compare, ast.Constant, ast.JoinedStr, ast.Lambda)):
            return found
        if isinstance(node, ast.Call):
            results = self.results(node.func, scope)
            if results:
                return results
            if isinstance(node.func, ast.Attribute):
                found |= self.roots(node.func.value, scope)
        inner = scope
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            inner = id(node)
            parts = [node.value] if isinstance(node, ast.DictComp) else [node.elt]
        elif isinstance(node, ast.Subscript):
            parts = [node.value]
        elif isinstance(node, ast.Call):
            parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        else:
            parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        for part in parts:
            if inner in self.locals and may_hold(self.value(part, inner)):
                found |= self.roots(part, inner)
        return found

    def results(self, function: ast.expr, scope: int) -> set[Hashable]:
        """Return the results of the script's functions that an expression may call."""
        if isinstance(function, ast.Attribute):
            return {("returned", id(method)) for method in self.methods.get(function.attr, [])}
        called = tags(self.value(function, scope)) if isinstance(function, ast.Name) else set()
        return {("returned", tag[1]) for tag in called if isinstance(tag, tuple) and tag[0] == "fn"}

    def link(self, key: Hashable, kind: Kind, source: ast.expr, scope: int) -> None:
        """Note that a key may stand for a container that an expression yields."""
        if self.linking and may_hold(kind):
            self.changed |= self.aliases.link(key, self.roots(source, scope))

    def link_target(self, target: ast.expr, kind: Kind, source: ast.expr, scope: int) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                self.link_target(part, unwrap(kind), source, scope)
        elif isinstance(target, (ast.Subscript, ast.Starred)):
            self.link_target(target.value, kind, source, scope)
        elif isinstance(target, ast.Name):
            self.link((self.home(target.id, scope), target.id), kind, source, scope)
        elif isinstance(target, ast.Attribute):
            self.link(("attribute", target.attr), kind, source, scope)

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

    def implied(self, names: tuple[str, ...], *arguments: Kind) -> Kind:
        """Return what methods that Python calls by itself give, whichever object's they are."""
        kind = NONE
        for name in names:
            for method in self.methods.get(name, []):
                if id(method) in self.bodies:
                    kind |= self.call(id(method), [NONE, *arguments], {}, NONE)
        return kind

    def value(self, node: ast.expr, scope: int) -> Kind:
        raise NotImplementedError

    def shows(self, node: ast.expr, kind: Kind, as_float: bool = False) -> None:
        raise NotImplementedError

    def dotted(self, node: ast.expr, scope: int) -> str:
        raise NotImplementedError

    def arithmetic(self, node: ast.AST, op: ast.operator, left: Kind, right: Kind) -> Kind:
        raise NotImplementedError

    def unknown(self, node: ast.AST, kind: Kind, arguments: list[Kind], what: str) -> Kind:
        raise NotImplementedError


def may_hold(kind: Kind) -> bool:
    """Tell whether something of a kind may be a container; an empty list has no kind."""
    return not kind or any(depth for depth, _ in kind)


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
