"""Where a script could see that the compiled `Value` holds floats only.

A pure-Python `Value` keeps an int as an int: `Value(2).data` prints as 2, `relu`
returns 0 and not 0.0, a gradient starts as 0, and an int 0 times -1 has no sign.
The bits of the numbers computed from them are the same, but a script that prints
such a number shows it. This module follows what may reach where, over the whole
script, without order of statements, and names each place where it could be seen.

A kind is a set of (depth, tag): depth counts the containers around it. Tags:
f float, i int, o other, ? unknown but of Python's library, x of a foreign library,
d float here but int in the script by itself, s the same with the sign of a zero in
doubt; V a Value with float data, R and W one whose data is d (R never negative),
S one whose data is s; ("fn", function), ("class", definition), ("object", definition);
("key", tag) what a dict has as its keys, where that is more than a str.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterable

from microgpt.spelling import Names, standard

Kind = frozenset  # of (int, tag)
NONE: Kind = frozenset()
DEEPEST = 5
VALUES = frozenset("VRWS")
CORE = frozenset(["log", "exp", "relu", "backward"])
FLOATS = frozenset(
    [
        "gauss",
        "uniform",
        "random",
        "normalvariate",
        "expovariate",
        "triangular",
        "betavariate",
        "gammavariate",
        "lognormvariate",
        "vonmisesvariate",
        "paretovariate",
        "weibullvariate",
        "time",
        "perf_counter",
        "monotonic",
        "process_time",
    ]
)
INTS = frozenset(
    [
        "randint",
        "randrange",
        "getrandbits",
        "index",
        "count",
        "find",
        "floor",
        "ceil",
        "trunc",
        "gcd",
        "lcm",
        "comb",
        "perm",
        "factorial",
        "isqrt",
        "ord",
        "len",
        "time_ns",
        "perf_counter_ns",
    ]
)
SHOWN = re.compile(r"%(?:\(\w+\))?[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[hlL]?([a-zA-Z%])")


def k(*tags: object) -> Kind:
    return frozenset((0, tag) for tag in tags)


def wrap(kind: Iterable) -> Kind:
    return frozenset((min(depth + 1, DEEPEST), tag) for depth, tag in kind)


def unwrap(kind: Kind) -> Kind:
    found = set()
    for depth, tag in kind:
        if isinstance(tag, tuple) and tag[0] == "key":
            found.add((0, tag[1]))
        elif depth:
            found.add((depth - 1, tag))
            if depth == DEEPEST:
                found.add((depth, tag))
        elif tag in ("?", "x", "o"):
            found.add((0, tag))
    return frozenset(found)


def blur(kind: Kind) -> Kind:
    """Return a kind at every depth: what a library function might hand back of it."""
    return frozenset((depth, tag) for tag in tags(kind) for depth in range(3))


def tags(kind: Kind) -> set:
    return {tag[1] if isinstance(tag, tuple) and tag[0] == "key" else tag for _, tag in kind}


def keys(kind: Kind) -> Kind:
    """Return the kind of what holds these as its keys."""
    return frozenset((1, ("key", tag)) for tag in tags(kind))


class Sightings:
    """The places of a script where an int could be told from a float.

    `found` is a list of (line, what is seen there); empty means that there is none.
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
    ) -> None:
        self.names, self.cls, self.extra = names, cls, extra
        self.float_grads, self.relu = float_grads, "R" if relu_int else "V"
        self.keeps_repr = keeps_repr
        self.env: dict[tuple[int, str], Kind] = {}
        self.attributes: dict[str, Kind] = {}
        self.returns: dict[int, Kind] = {}
        self.parents: dict[int, int] = {}
        self.locals: dict[int, set[str]] = {0: set()}
        self.methods: dict[str, list[ast.FunctionDef]] = {}
        self.bodies: dict[int, tuple[ast.AST, int]] = {}
        self.changed = True
        self.final = False
        self.found: list[tuple[int, str]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node is not cls:
                for item in node.body:
                    if isinstance(item, ast.FunctionDef):
                        self.methods.setdefault(item.name, []).append(item)
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

    # -------------------------------------------------------------- bookkeeping

    def run(self, tree: ast.Module) -> None:
        self.block(tree.body, 0)
        for method in self.extra.values():
            self.define(method, 0)
        for node, scope in list(self.bodies.values()):
            self.body(node, scope)

    def see(self, node: ast.AST, what: str) -> None:
        if self.final:
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
            self.locals[key] = _locals(node)
            self.returns[key] = NONE
            self.changed = True
        arguments = node.args
        positional = arguments.posonlyargs + arguments.args
        for argument, default in zip(
            positional[len(positional) - len(arguments.defaults) :], arguments.defaults
        ):
            self.put((key, argument.arg), self.value(default, scope))
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
            if default is not None:
                self.put((key, argument.arg), self.value(default, scope))
        return k(("fn", key))

    def body(self, node: ast.AST, _: int) -> None:
        key = id(node)
        if isinstance(node, ast.Lambda):
            self.result(key, self.value(node.body, key))
        else:
            self.block(node.body, key)  # type: ignore[attr-defined]

    def result(self, key: int, kind: Kind) -> None:
        if not kind <= self.returns[key]:
            self.returns[key] |= kind
            self.changed = True

    def call(
        self, key: int, positional: list[Kind], named: dict[str | None, Kind], rest: Kind
    ) -> Kind:
        """Hand arguments to a function of the script and return its result."""
        arguments = self.bodies[key][0].args  # type: ignore[attr-defined]
        parameters = [a.arg for a in arguments.posonlyargs + arguments.args]
        for i, kind in enumerate(positional):
            if i < len(parameters):
                self.put((key, parameters[i]), kind)
            elif arguments.vararg:
                self.put((key, arguments.vararg.arg), wrap(kind))
        keywords = parameters + [a.arg for a in arguments.kwonlyargs]
        for name, kind in named.items():
            if name in keywords:
                self.put((key, name), kind)
            elif arguments.kwarg:
                self.put((key, arguments.kwarg.arg), wrap(kind))
        if rest:
            for name in keywords:
                self.put((key, name), rest)
            for extra in (arguments.vararg, arguments.kwarg):
                if extra:
                    self.put((key, extra.arg), wrap(rest))
        return self.returns[key]

    # --------------------------------------------------------------- statements

    def block(self, body: list[ast.stmt], scope: int) -> None:
        for statement in body:
            self.statement(statement, scope)

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
            self.store(
                node.target,
                self.arithmetic(node, node.op, old, self.value(node.value, scope)),
                scope,
            )
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.loop(node.target, node.iter, scope)
            self.block(node.body + node.orelse, scope)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self.result(scope, self.value(node.value, scope))
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                kind = self.value(item.context_expr, scope)
                if item.optional_vars is not None:
                    self.store(item.optional_vars, kind, scope)
            self.block(node.body, scope)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                module = alias.name if isinstance(node, ast.Import) else node.module
                self.put((self.home(name, scope), name), k("?" if standard(module) else "x"))
        elif isinstance(node, ast.ExceptHandler):
            self.block(node.body, scope)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child, scope)
                elif isinstance(child, (ast.stmt, ast.ExceptHandler)):
                    self.statement(child, scope)  # type: ignore[arg-type]
                elif type(child).__name__ == "match_case":
                    self.case(node, child, scope)

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
        if isinstance(target, (ast.Tuple, ast.List)) and isinstance(source, (ast.Tuple, ast.List)):
            if len(target.elts) == len(source.elts) and not any(
                isinstance(e, ast.Starred) for e in target.elts + source.elts
            ):
                for t, s in zip(target.elts, source.elts):
                    self.assign(t, s, self.value(s, scope), scope)
                return
        self.store(target, kind, scope)

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
            if here - VALUES:
                self.put_attribute(target.attr, kind)

    def store_into(self, container: ast.expr, kind: Kind, scope: int) -> None:
        """Add to what a container holds, and to what holds that container."""
        self.value(container, scope)
        if isinstance(container, (ast.Name, ast.Attribute)):
            self.store(container, kind, scope)
        elif isinstance(container, ast.Subscript):
            self.store_into(container.value, wrap(kind), scope)
        elif tags(kind) & {"d", "s", "R", "W", "S"}:
            self.see(container, "keeps a number that may be an int where it cannot be followed")

    def store_in_value(self, target: ast.Attribute, kind: Kind) -> None:
        number = tags(kind)
        if target.attr == "data":
            if number & {"i", "d", "s", "o", "x"} or number & VALUES:
                self.see(target, "sets .data to what may not be a float")
        elif target.attr == "grad":
            if number & {"s", "o", "x"} or number & VALUES:
                self.see(target, "sets .grad to what may not be a plain number")
            if number - {"f"} and self.float_grads:
                self.float_grads = False
                self.changed = True
        else:
            self.see(
                target,
                f"sets .{target.attr} of a {self.cls.name}, which the compiled one has no room for",
            )

    def loop(self, target: ast.expr, source: ast.expr, scope: int) -> None:
        """Bind a loop's target, element by element where the loop is over zip, enumerate or items."""
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
        self.store(target, unwrap(self.value(source, scope)), scope)

    # -------------------------------------------------------------- expressions

    def dotted(self, node: ast.expr, scope: int) -> str:
        """Return what a name or attribute means: "math.log", "zip", or "" if the script's own."""
        if isinstance(node, ast.Name):
            return "" if self.home(node.id, scope) else self.names.of(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value, scope)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def value(self, node: ast.expr, scope: int) -> Kind:
        method = getattr(self, "value_" + type(node).__name__, None)
        if method is not None:
            return method(node, scope)
        kind = NONE
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                kind |= self.value(child, scope)
        return k("o") if isinstance(node, ast.Compare) else k("?") | blur(kind)

    def value_Constant(self, node: ast.Constant, scope: int) -> Kind:
        if isinstance(node.value, float):
            return k("f")
        if isinstance(node.value, int):
            return k("i" if abs(node.value) <= 2**53 else "x")
        return k("x" if isinstance(node.value, complex) else "o")

    def value_Name(self, node: ast.Name, scope: int) -> Kind:
        home = self.home(node.id, scope)
        found = self.env.get((home, node.id))
        if found is None:
            found = k("?") if not home and self.names.of(node.id) else NONE
        return found

    def value_Attribute(self, node: ast.Attribute, scope: int) -> Kind:
        dotted = self.dotted(node, scope)
        if dotted.startswith(("math.", "cmath.")):
            return k("f")
        base = self.value(node.value, scope)
        here = {tag for depth, tag in base if depth == 0}
        kind: set = set()
        for tag in here:
            if tag in VALUES:
                kind |= self.read_of_value(node, tag)
            elif tag in ("?", "x"):
                kind.add((0, tag))
            elif isinstance(tag, tuple):
                kind |= self.attributes.get(node.attr, NONE)
                for method in self.methods.get(node.attr, []):
                    if (
                        any(
                            isinstance(d, ast.Name) and d.id == "property"
                            for d in method.decorator_list
                        )
                        and id(method) in self.bodies
                    ):
                        kind |= self.returns[id(method)]
                    else:
                        kind.add((0, ("fn", id(method))))
        return frozenset(kind)

    def read_of_value(self, node: ast.Attribute, tag: str) -> Kind:
        if node.attr == "data":
            return k({"V": "f", "S": "s"}.get(tag, "d"))
        if node.attr == "grad":
            return k("f" if self.float_grads else "d")
        if node.attr in self.extra:
            method = self.extra[node.attr]
            if any(isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list):
                self.define(method, 0)
                return self.call(id(method), [k(tag)], {}, NONE)
        elif node.attr not in CORE:
            self.see(node, f"reads .{node.attr} of a {self.cls.name}")
        return NONE

    def value_Subscript(self, node: ast.Subscript, scope: int) -> Kind:
        base = self.value(node.value, scope)
        self.value(node.slice, scope)
        return base if isinstance(node.slice, ast.Slice) else unwrap(base)

    def value_Slice(self, node: ast.Slice, scope: int) -> Kind:
        for part in (node.lower, node.upper, node.step):
            if part is not None:
                self.value(part, scope)
        return NONE

    value_Index = lambda self, node, scope: self.value(node.value, scope)  # noqa: E731

    def value_List(self, node: ast.List, scope: int) -> Kind:
        kind = NONE
        for element in node.elts:
            kind |= (
                unwrap(self.value(element.value, scope))
                if isinstance(element, ast.Starred)
                else self.value(element, scope)
            )
        return wrap(kind)

    value_Tuple = value_Set = value_List

    def value_Dict(self, node: ast.Dict, scope: int) -> Kind:
        kind = dictionary = NONE
        for key, item in zip(node.keys, node.values):
            if key is None:
                kind |= unwrap(self.value(item, scope))
            else:
                kind |= self.value(item, scope)
                dictionary |= keys(self.value(key, scope))
        return wrap(kind) | dictionary

    def value_ListComp(self, node: ast.ListComp, scope: int) -> Kind:
        key = id(node)
        if key not in self.parents:
            self.parents[key] = scope
            self.locals[key] = {
                n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)
            }
        for generator in node.generators:
            self.loop(generator.target, generator.iter, key)
            for condition in generator.ifs:
                self.value(condition, key)
        if isinstance(node, ast.DictComp):
            return wrap(self.value(node.value, key)) | keys(self.value(node.key, key))
        return wrap(self.value(node.elt, key))

    value_SetComp = value_GeneratorExp = value_DictComp = value_ListComp

    def value_Lambda(self, node: ast.Lambda, scope: int) -> Kind:
        return self.define(node, scope)

    def value_Yield(self, node: ast.Yield, scope: int) -> Kind:
        if node.value is not None:
            self.result(scope, wrap(self.value(node.value, scope)))
        return k("?")

    def value_YieldFrom(self, node: ast.YieldFrom, scope: int) -> Kind:
        self.result(scope, self.value(node.value, scope))
        return k("?")

    def value_Starred(self, node: ast.Starred, scope: int) -> Kind:
        return unwrap(self.value(node.value, scope))

    def value_NamedExpr(self, node: ast.NamedExpr, scope: int) -> Kind:
        kind = self.value(node.value, scope)
        self.store(node.target, kind, scope)
        return kind

    def value_IfExp(self, node: ast.IfExp, scope: int) -> Kind:
        self.value(node.test, scope)
        return self.value(node.body, scope) | self.value(node.orelse, scope)

    def value_BoolOp(self, node: ast.BoolOp, scope: int) -> Kind:
        return frozenset().union(*[self.value(part, scope) for part in node.values])

    def value_UnaryOp(self, node: ast.UnaryOp, scope: int) -> Kind:
        kind = self.value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            return k("o")
        if isinstance(node.op, ast.USub):
            turned = {"R": "S", "W": "S", "d": "s"}
            return frozenset((depth, turned.get(tag, tag)) for depth, tag in kind if depth == 0)
        return kind

    def value_BinOp(self, node: ast.BinOp, scope: int) -> Kind:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        if (
            isinstance(node.op, ast.Mod)
            and isinstance(node.left, ast.Constant)
            and isinstance(node.left.value, str)
        ):
            shown = [c for c in SHOWN.findall(node.left.value) if c != "%"]
            parts = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
            for i, part in enumerate(parts):
                conversion = shown[i] if len(shown) == len(parts) else "s"
                self.shows(part, self.value(part, scope), conversion in "eEfFgGdi")
            return k("o")
        return self.arithmetic(node, node.op, left, right)

    def value_JoinedStr(self, node: ast.JoinedStr, scope: int) -> Kind:
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                spec = part.format_spec
                last = spec.values[-1] if isinstance(spec, ast.JoinedStr) and spec.values else None
                text = str(last.value) if isinstance(last, ast.Constant) else ""
                as_float = part.conversion == -1 and text[-1:] in tuple("eEfFgG%") and text != ""
                self.shows(part.value, self.value(part.value, scope), as_float)
                if isinstance(spec, ast.JoinedStr):
                    self.value(spec, scope)
        return k("o")

    def shows(self, node: ast.expr, kind: Kind, as_float: bool = False) -> None:
        """Note a number or `Value` that is turned into text."""
        text = ast.unparse(node) if hasattr(ast, "unparse") else "a number"
        found = tags(kind)
        if "s" in found or ("d" in found and not as_float):
            self.see(node, f"shows {text}, which may be an int")
        for tag in found & VALUES:
            method = self.extra.get("__str__") or self.extra.get("__repr__")
            if method is None and not self.keeps_repr:
                self.see(node, f"shows {text}, a {self.cls.name} without a __repr__ of its own")
            elif method is not None:
                self.define(method, 0)
                self.call(id(method), [k(tag)], {}, NONE)

    # -------------------------------------------------------------- arithmetic

    def arithmetic(self, node: ast.AST, op: ast.operator, left: Kind, right: Kind) -> Kind:
        kind: set = set()
        for depth, tag in left:
            if depth and isinstance(op, (ast.Add, ast.Mult, ast.BitOr, ast.BitAnd, ast.Sub)):
                kind.add((depth, tag))
        for depth, tag in right:
            if depth and isinstance(op, (ast.Add, ast.Mult, ast.BitOr, ast.BitAnd)):
                kind.add((depth, tag))
        for a in {tag for depth, tag in left if depth == 0}:
            for b in {tag for depth, tag in right if depth == 0}:
                kind |= self.pair(node, type(op).__name__, a, b)
        return frozenset(kind)

    def pair(self, node: ast.AST, op: str, a: object, b: object) -> Kind:
        both = {a, b}
        if both & VALUES:
            if "x" in both:
                self.see(node, f"computes a {self.cls.name} from a foreign library's number")
            if isinstance(a, tuple) or isinstance(b, tuple) or "o" in both:
                return NONE
            return k(_value_pair(op, str(a), str(b)))
        if isinstance(a, tuple) or isinstance(b, tuple):
            return k("?")
        if "x" in both:
            if both & {"d", "s"}:
                self.see(node, "hands a number that may be an int to a foreign library")
            return k("x")
        if "o" in both:
            return k("o", "?") if "?" in both else k("o")
        if "s" in both:
            return k("s")
        if op == "Div":
            return k("?") if both == {"?"} else k("f")
        if op in ("Add", "Sub", "Mult", "Pow"):
            if "d" in both:
                if "f" in both:
                    return k("f")
                return k("s" if op == "Mult" else "d")
            if both == {"f"} or both == {"f", "i"}:
                return k("f")
            return k("i") if both == {"i"} else k("?") | (k("f") if "f" in both else NONE)
        if "d" in both:
            return k("s")
        return k("f") if "f" in both and "?" not in both else k("i") if both == {"i"} else k("?")

    # -------------------------------------------------------------------- calls

    def value_Call(self, node: ast.Call, scope: int) -> Kind:
        positional, rest = [], NONE
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                rest |= unwrap(self.value(argument.value, scope))
            else:
                positional.append(self.value(argument, scope))
        named: dict[str | None, Kind] = {}
        for keyword in node.keywords:
            kind = self.value(keyword.value, scope)
            if keyword.arg is None:
                rest |= unwrap(kind)
            else:
                named[keyword.arg] = kind
        dotted = self.dotted(node.func, scope)
        if dotted:
            return self.library(node, dotted, positional, named, rest, scope)
        if isinstance(node.func, ast.Attribute):
            return self.method(node, node.func, positional, named, rest, scope)
        kind = NONE
        target = self.value(node.func, scope)
        for _, tag in target:
            kind |= self.invoke(node, tag, positional, named, rest)
        if not target:
            return NONE
        return kind

    def invoke(
        self, node: ast.Call, tag: object, positional: list[Kind], named: dict, rest: Kind
    ) -> Kind:
        """Call whatever a tag stands for."""
        if isinstance(tag, tuple) and tag[0] == "fn":
            return self.call(tag[1], positional, named, rest) if tag[1] in self.bodies else NONE
        if tag == ("class", "Value"):
            return self.new_value(node, positional, named, rest)
        if isinstance(tag, tuple):
            me = k(("object", tag[1]))
            name = "__init__" if tag[0] == "class" else "__call__"
            kind = me if tag[0] == "class" else NONE
            for method in self.methods.get(name, []):
                if id(method) in self.bodies:
                    kind |= (
                        self.call(id(method), [NONE, *positional], named, rest)
                        if name == "__call__"
                        else NONE
                    )
                    if name == "__init__":
                        self.call(id(method), [NONE, *positional], named, rest)
            if tag[0] == "class":  # a dataclass's or namedtuple's fields
                for i, field in self.env.get((-1, str(tag[1])), NONE):
                    if i < len(positional):
                        self.put_attribute(field, positional[i])
                    if field in named:
                        self.put_attribute(field, named[field])
                    self.put_attribute(field, rest)
            return kind
        return self.unknown(node, k(tag), [*positional, *named.values(), rest], "a call")

    def new_value(self, node: ast.Call, positional: list[Kind], named: dict, rest: Kind) -> Kind:
        number = tags(positional[0] if positional else named.get("data", rest))
        if (
            number & {"x"}
            or number & VALUES
            or rest
            or any(depth for depth, _ in (positional or [NONE])[0])
        ):
            self.see(node, f"makes a {self.cls.name} from what may not be a plain number")
        kind = {"f": "V", "s": "S"}
        return k(*[kind.get(tag, "W") for tag in number if tag != "o"]) if number else NONE

    def method(
        self,
        node: ast.Call,
        func: ast.Attribute,
        positional: list[Kind],
        named: dict,
        rest: Kind,
        scope: int,
    ) -> Kind:
        base = self.value(func.value, scope)
        here = {tag for depth, tag in base if depth == 0}
        arguments = [*positional, *named.values(), rest]
        kind = NONE
        name = func.attr
        for tag in here & VALUES:
            if name in self.extra:
                self.define(self.extra[name], 0)
                kind |= self.call(id(self.extra[name]), [k(tag), *positional], named, rest)
            elif name in CORE:
                kind |= {
                    "exp": k("V"),
                    "log": k("V"),
                    "relu": k(self.relu if tag != "V" or True else "V"),
                }.get(name, k("o"))
            else:
                self.see(node, f"calls .{name} of a {self.cls.name}")
        objects = [tag for tag in here if isinstance(tag, tuple) and tag[0] in ("object", "class")]
        if objects or (name in self.methods and not any(depth for depth, _ in base)):
            for method in self.methods.get(name, []):
                if id(method) in self.bodies:
                    static = any(
                        isinstance(d, ast.Name) and d.id == "staticmethod"
                        for d in method.decorator_list
                    )
                    kind |= self.call(
                        id(method), positional if static else [NONE, *positional], named, rest
                    )
            for tag in {t for _, t in self.attributes.get(name, NONE)} if objects else ():
                kind |= self.invoke(node, tag, positional, named, rest)
            if name in self.methods:
                return kind
        if "x" in here:
            kind |= self.unknown(node, k("x"), arguments, f".{name}()")
        if name in ("append", "add", "appendleft", "insert", "put"):
            self.store_into(func.value, wrap(frozenset().union(*positional)), scope)
            return kind | k("o")
        if name in ("extend", "update", "extendleft"):
            self.store_into(func.value, frozenset().union(*arguments), scope)
            return kind | k("o")
        if name == "setdefault":
            self.store_into(func.value, wrap(frozenset().union(*positional)), scope)
        if name in ("pop", "get", "popleft", "setdefault", "popitem", "__getitem__"):
            return kind | unwrap(base) | frozenset().union(*positional[1:])
        if name in ("items",):
            return kind | wrap(base)
        if name in ("values", "keys", "copy", "union", "intersection", "difference"):
            return kind | base | frozenset().union(*positional)
        if name in ("sort", "reverse", "clear", "remove", "discard"):
            for passed in [*positional, *named.values()]:
                for tag in tags(passed):
                    if isinstance(tag, tuple):
                        self.invoke(node, tag, [unwrap(base)], {}, NONE)
            return kind | k("o")
        if (
            name == "format"
            and isinstance(func.value, ast.Constant)
            and isinstance(func.value.value, str)
        ):
            self.formats(node, func.value.value, scope)
            return k("o")
        if name in FLOATS and "x" not in here:
            return kind | k("f")
        if name in INTS and "x" not in here:
            return kind | k("i")
        if name in ("choices", "sample", "choice"):
            return kind | self.drawn(name, positional, named)
        if name == "shuffle":
            return k("o")
        if here <= VALUES or (here and not here - {"x"}):
            return kind
        return kind | self.unknown(node, k("o" if here == {"o"} else "?"), arguments, f".{name}()")

    def drawn(self, name: str, positional: list[Kind], named: dict) -> Kind:
        population = (
            positional[0] if positional else named.get("population", named.get("seq", NONE))
        )
        return unwrap(population) if name == "choice" else population

    def formats(self, node: ast.Call, text: str, scope: int) -> None:
        try:
            fields = [
                (name, spec, conversion)
                for _, name, spec, conversion in string.Formatter().parse(text)
                if name is not None
            ]
        except ValueError:
            fields = []
        automatic = iter(range(len(fields)))
        as_float: dict[object, bool] = {}
        for name, spec, conversion in fields:
            key: object = next(automatic) if name == "" else int(name) if name.isdigit() else name
            as_float[key] = (
                as_float.get(key, True)
                and conversion is None
                and (spec or "")[-1:] in tuple("eEfFgG%")
                and bool(spec)
            )
        for i, argument in enumerate(node.args):
            self.shows(argument, self.value(argument, scope), as_float.get(i, False))
        for keyword in node.keywords:
            self.shows(
                keyword.value, self.value(keyword.value, scope), as_float.get(keyword.arg, False)
            )

    def library(
        self, node: ast.Call, name: str, positional: list[Kind], named: dict, rest: Kind, scope: int
    ) -> Kind:
        """Return what a builtin or a library's function gives for arguments of these kinds."""
        first = positional[0] if positional else rest
        every = frozenset().union(rest, *positional, *named.values())
        last = name.rsplit(".")[-1]
        if name in ("print", "str", "repr", "format", "ascii"):
            for argument in node.args:
                kind = self.value(
                    argument.value if isinstance(argument, ast.Starred) else argument, scope
                )
                self.shows(argument, kind)
            return k("o")
        if name in ("isinstance", "type"):
            if tags(first) & {"d", "s"}:
                self.see(node, "asks for the type of a number that may be an int")
            if name == "type" and tags(first) & VALUES:
                self.see(node, f"asks for the type of a {self.cls.name}")
            return k("o")
        if name.startswith("math."):
            if "s" in tags(every):
                return k("s")
            if last in ("fsum", "prod", "sumprod") and "d" in tags(every):
                return k("d")
            if last in ("copysign", "atan2") and tags(every) & {"d"}:
                return k("s")
            return k("i") if last in INTS else k("o") if last.startswith("is") else k("f")
        if name.startswith("random.") or name.startswith("time."):
            if last in FLOATS:
                return k("f")
            if last in ("choices", "sample", "choice"):
                return self.drawn(last, positional, named)
            if last == "shuffle":
                return k("o")
            if last in INTS:
                return k("i")
        if name in ("len", "ord", "id", "hash"):
            return k("i")
        if name == "range":
            return frozenset({(1, "i")})
        if (
            name in ("bool", "any", "all", "callable", "hasattr", "input", "open", "chr", "iter")
            and name != "iter"
        ):
            return k("o")
        if name == "float":
            return k("s" if "s" in tags(first) else "f")
        if name == "int" or (name == "round" and len(positional) == 1):
            return k("i")
        if name == "round":
            return first
        if name == "abs":
            return frozenset((0, {"s": "d"}.get(tag, tag)) for tag in tags(first))
        if name == "sum":
            start = positional[1] if len(positional) > 1 else named.get("start", k("i"))
            items = unwrap(first)
            total = start | self.arithmetic(node, ast.Add(), start, items)
            total |= self.arithmetic(node, ast.Add(), total, items)
            return frozenset((depth, "s" if tag == "d" else tag) for depth, tag in total)
        if name in ("max", "min"):
            self.apply(node, named.get("key", NONE), unwrap(first))
            items = unwrap(first) if len(positional) == 1 else frozenset().union(*positional)
            return items | named.get("default", NONE)
        if name in (
            "sorted",
            "reversed",
            "list",
            "tuple",
            "set",
            "frozenset",
            "iter",
            "filter",
            "itertools.chain",
            "itertools.islice",
            "itertools.cycle",
            "collections.deque",
            "copy.copy",
            "itertools.takewhile",
        ):
            self.apply(
                node,
                named.get("key", NONE) | frozenset(x for x in first if isinstance(x[1], tuple)),
                unwrap(first),
            )
            if name == "filter":
                return positional[1] if len(positional) > 1 else NONE
            return frozenset(x for x in frozenset().union(rest and wrap(rest), *positional))
        if name == "next":
            return unwrap(first) | frozenset().union(*positional[1:])
        if name == "zip":
            return wrap(wrap(frozenset().union(unwrap(rest), *[unwrap(p) for p in positional])))
        if name == "enumerate":
            return wrap(wrap(unwrap(first) | k("i")))
        if name == "map":
            return wrap(self.apply(node, first, *[unwrap(p) for p in positional[1:]]))
        if name == "functools.reduce":
            items = unwrap(positional[1]) if len(positional) > 1 else NONE
            total = items | frozenset().union(*positional[2:])
            operation = self.dotted(node.args[0], scope) if node.args else ""
            op = {"operator.add": ast.Add(), "operator.mul": ast.Mult()}.get(operation)
            if op is not None:
                return (
                    total
                    | self.arithmetic(node, op, total, items)
                    | self.arithmetic(node, op, items, items)
                )
            return total | self.apply(
                node, first, total | self.apply(node, first, total, items), items
            )
        if name == "dict":
            held = unwrap(unwrap(first)) | unwrap(first) | frozenset().union(*named.values()) | rest
            return wrap(held) | keys(held)
        if name in ("collections.defaultdict", "collections.Counter", "collections.OrderedDict"):
            return NONE | wrap(self.apply(node, first))
        if name == "pow" and len(positional) == 2:
            return self.arithmetic(node, ast.Pow(), positional[0], positional[1])
        if name == "super":
            return k(("object", 0))
        if name == "slice":
            return k("o")
        if name in ("getattr", "setattr", "vars"):
            if tags(first) & VALUES:
                self.see(node, f"uses {name} on a {self.cls.name}")
        root = name.split(".")[0]
        return self.unknown(
            node,
            k("?" if root == name or standard(root) else "x"),
            [*positional, *named.values(), rest],
            f"{name}()",
        )

    def apply(self, node: ast.Call, functions: Kind, *arguments: Kind) -> Kind:
        kind = NONE
        for tag in tags(functions):
            if isinstance(tag, tuple):
                kind |= self.invoke(node, tag, list(arguments), {}, NONE)
            elif tag in ("?", "x"):
                kind |= self.unknown(node, k(tag), list(arguments), "a call")
        return kind

    def unknown(self, node: ast.AST, kind: Kind, arguments: list[Kind], what: str) -> Kind:
        """Hand arguments to code that is not followed."""
        every = frozenset().union(*arguments) if arguments else NONE
        found = tags(every)
        if found & {"d", "s"}:
            self.see(node, f"hands a number that may be an int to {what}")
        elif found & VALUES:
            self.see(node, f"hands a {self.cls.name} to {what}")
        returned = kind
        for tag in found:
            if isinstance(tag, tuple) and tag[0] == "fn" and tag[1] in self.bodies:
                returned |= blur(self.call(tag[1], [], {}, kind))
        return returned | blur(frozenset((d, t) for d, t in every if isinstance(t, tuple)))


def _value_pair(op: str, a: str, b: str) -> str:
    """Return the kind of Value that an operator gives, at least one operand being one."""
    if "S" in (a, b) or "s" in (a, b):
        return "S"
    ints = set("RWid?")
    if op == "Div":
        return "V"
    if op == "Pow":
        return a if a in "RW" and b in ints else "V"
    if op == "Sub" and b in "RW":
        return "S"
    if a not in ints or b not in ints:
        return "V"
    if op == "Mult":
        return "R" if a == b == "R" else "S"
    return "R" if a == b == "R" or ({a, b} == {"R", "i"} and op == "Add" and False) else "W"


def _locals(node: ast.AST) -> set[str]:
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
        for field in ("name", "rest"):
            if isinstance(inner, ast.ExceptHandler) or type(inner).__name__.startswith("Match"):
                if isinstance(getattr(inner, field, None), str):
                    found.add(getattr(inner, field))
        stack += list(ast.iter_child_nodes(inner))
    return found - outer


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
