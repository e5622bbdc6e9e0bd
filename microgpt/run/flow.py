"""How what a script computes flows through its names and functions.

Without order and without branches: a name has every kind that is ever assigned to
it in its scope, an attribute every kind under its name in any object, a function's
parameter every kind handed to it. The whole script is gone through until nothing
is added any more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from typing import TYPE_CHECKING

from microgpt.run.aliases import Aliases
from microgpt.run.kinds import NONE, Kind, k, tags, unwrap, wrap
from microgpt.run.names import Names, locals_of

if TYPE_CHECKING:
    from microgpt.run.contract import Contract

Named = dict[str, Kind]


class Flow:
    """The kinds of a script's names, attributes and functions.

    `found` is a list of (line, what is seen there) of the places where an int could
    be told from a float; empty means that there is none.
    """

    def __init__(self, tree: ast.Module, names: Names, contract: Contract) -> None:
        self.names, self.cls, self.extra = names, contract.node, contract.extra
        self.float_grads = contract.float_grad and contract.float_root
        self.relu = "R" if contract.relu_int else "V"
        self.late, self.labelled = contract.translation is not None, contract.labelled
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
            if isinstance(node, ast.ClassDef) and node is not self.cls:
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

    def block(self, body: list[ast.stmt], scope: int) -> None:
        raise NotImplementedError


def may_hold(kind: Kind) -> bool:
    """Tell whether something of a kind may be a container; an empty list has no kind."""
    return not kind or any(depth for depth, _ in kind)
