"""Whether a graph may outlive a change of `data`.

A closure reads data when backward runs, a local gradient is a number taken when the
node is made. They are the same if every node that a backward meets was made after
the last change: if no name that may hold a computed node from before the change is
read between it and a later backward. This is liveness, over the statements of every
function, with the calls that `flow` found; where that cannot see, it assumes the worst.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from microgpt.run.calls import Sightings
from microgpt.run.kinds import tags
from microgpt.run.names import COMPREHENSIONS

LAZY = frozenset(["map", "filter", "iter"])
INDIRECT = frozenset(["getattr", "methodcaller", "attrgetter"])
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class State(NamedTuple):
    """The names that are read from here on before a backward, and whether one may follow."""

    live: frozenset[str] = frozenset()
    later: bool = False

    def __or__(self, other: State) -> State:
        return State(self.live | other.live, self.later or other.later)

    def without(self, names: set[str]) -> State:
        return State(self.live - names, self.later)


class Freshness:
    """`found`: the (line, what) of places where changed data may meet an older graph."""

    def __init__(self, flow: Sightings, tree: ast.Module) -> None:
        self.flow = flow
        flow.at = -1  # what is evaluated again here is no statement's
        self.found: set[tuple[int, str]] = set()
        self.scopes = {0: tree, **{key: node for key, (node, _) in flow.bodies.items()}}
        self.writing = self._reaching(lambda node: id(node) in flow.writes)
        self.playing = self._reaching(_plays)
        if not (self.writing and self.playing):
            return
        self.free = self._free()
        self.after: dict[int, State] = {}  # by function, where it returns to
        before = None
        while before != self.after:
            before = dict(self.after)
            self.found.clear()
            for key, node in self.scopes.items():
                self.key = key
                self.exit = self.caught = self.after.get(self.key, State())
                self.loops: list[tuple[State, State]] = []
                if isinstance(node, ast.Lambda):
                    self.evaluated(node, self.exit)
                else:
                    self.block(node.body, self.exit)  # type: ignore[attr-defined]
                self.kept(node)
        for name, kind in flow.attributes.items():
            if "N" in tags(kind | flow.aliases.of(("attribute", name), kind)):
                every = [n for node in self.scopes.values() for n in _inside(node)]
                places = [n for n in every if isinstance(n, ast.Attribute) and n.attr == name]
                first = min(places, key=lambda n: n.lineno, default=flow.cls)
                self.see(first, f"changes .data and keeps what it computes in .{name}")

    def _reaching(self, does: Callable[[ast.AST], bool]) -> set[int]:
        """Return the functions that may do something, by what they call too."""
        found: set[int] = set()
        own = {key: [node, *_inside(node)] for key, node in self.scopes.items()}
        size = -1
        while size != len(found):
            size = len(found)
            for key, nodes in own.items():
                if any(does(n) or self.runs(n) & found for n in nodes):
                    found.add(key)
        return found

    def runs(self, node: ast.AST) -> set[int]:
        """Return the functions that a statement or call may run."""
        return self.flow.calls.get(id(node), set())

    def see(self, node: ast.AST, what: str) -> None:
        self.found.add((getattr(node, "lineno", 1), re.sub(r"@\d+", "", what)))

    def block(self, body: list[ast.stmt], after: State) -> State:
        for statement in reversed(body):
            after = self.statement(statement, after | self.caught) | self.caught
        return after

    def statement(self, node: ast.stmt, after: State) -> State:
        if isinstance(node, ast.If):
            return self.evaluated(
                node, self.block(node.body, after) | self.block(node.orelse, after)
            )
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            return self.loop(node, after)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            left = self.evaluated(node, after)  # a context manager also runs at the end
            entered = self.guarded(node.body, left, left)
            return self.evaluated(node, entered.without(_stored(node)))
        if isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            final = self.block(node.finalbody, after)  # type: ignore[attr-defined]
            handled = final
            for handler in node.handlers:  # type: ignore[attr-defined]
                handled |= self.guarded(handler.body, final, final)
            after = self.guarded(node.orelse, final, final)  # type: ignore[attr-defined]
            return self.guarded(node.body, after, handled)  # type: ignore[attr-defined]
        if type(node).__name__ == "Match":
            for case in node.cases:  # type: ignore[attr-defined]
                after |= self.block(case.body, after)
            return self.evaluated(node, after)
        if isinstance(node, ast.ClassDef):
            return self.evaluated(node, self.block(node.body, after))
        if isinstance(node, (ast.Return, ast.Raise)):
            return self.evaluated(node, self.exit | self.caught)
        if isinstance(node, (ast.Break, ast.Continue)):
            return self.loops[-1][isinstance(node, ast.Continue)]
        assigns = isinstance(node, (ast.Assign, ast.AnnAssign, ast.Delete))
        return self.evaluated(node, after.without(_stored(node)) if assigns else after)

    def loop(self, node: ast.For | ast.AsyncFor | ast.While, after: State) -> State:
        out = self.block(node.orelse, after)
        head, before = self.evaluated(node, out), None
        while head != before:
            before = head
            self.loops.append((after, head))
            again = self.block(node.body, head).without(_stored(node))
            self.loops.pop()
            head |= self.evaluated(node, out | again)
        return head

    def guarded(self, body: list[ast.stmt], after: State, handled: State) -> State:
        """Go through statements of which each may be the last, with what then follows."""
        outer, self.caught = self.caught, self.caught | handled
        before = self.block(body, after)
        self.caught = outer
        return before

    def evaluated(self, node: ast.AST, after: State) -> State:
        """Go through what a statement itself evaluates; `after` is without what it assigns."""
        parts = [node, *_inside(node, False)]
        plays = [n for n in parts if _plays(n) or self.runs(n) & self.playing]
        for part in parts:
            follows = after.later or any(other is not part for other in plays)
            for key in self.runs(part):
                self.after[key] = self.after.get(key, State()) | State(later=follows)
            calls = bool(self.runs(part) & self.writing)
            pauses = isinstance(part, (ast.Yield, ast.YieldFrom, ast.Await))
            if follows and (calls or pauses or id(part) in self.flow.writes):
                held = sorted(after.live)
                if calls and not held:
                    held = self.held_while(part, node)
                if held:
                    self.see(part, f"changes .data while {held[0]} is kept for a later backward")
        if not (after.later or plays):
            return after
        return State(after.live | self.reads(node), True)

    def held_while(self, call: ast.AST, node: ast.AST) -> list[str]:
        """Return the nodes that a statement computes around a call, which may be older than it."""
        own = list(_inside(node, False))
        elsewhere = {id(n) for n in ast.walk(call)}
        for inner in own:
            if isinstance(inner, COMPREHENSIONS):  # whose names mean something else
                elsewhere |= {id(n) for n in ast.walk(inner) if n is not inner}
        return [
            ast.unparse(n)
            for n in own
            if isinstance(n, ast.expr)
            and id(n) not in elsewhere
            and isinstance(getattr(n, "ctx", ast.Load()), ast.Load)
            and "N" in tags(self.flow.value(n, self.key))
        ]

    def reads(self, node: ast.AST) -> set[str]:
        """Return the names that may hold a computed node and are read, by what is called too."""
        source = node.body if isinstance(node, ast.Lambda) else node  # the function looked at
        found = {name for _, name in self.computed(source, self.key)}
        for part in [node, *_inside(node, False)]:
            for home, name in set().union(*(self.free[key] for key in self.runs(part))):
                if self.flow.home(name, self.key) == home:
                    found.add(name)
                elif not self.key:
                    self.see(part, f"changes .data and runs a function that keeps {name}")
        return found

    def computed(self, node: ast.AST, scope: int) -> set[tuple[int, str]]:
        """Return the names, with where they live, that are read and may hold a computed node."""
        names = _read(node, frozenset())
        return {
            (self.flow.home(name.id, scope), name.id)
            for name in names
            if "N" in tags(self.flow.value(name, scope))
        }

    def _free(self) -> dict[int, set[tuple[int, str]]]:
        """Return for each function the names of others that it reads, by what it calls too."""
        found: dict[int, set[tuple[int, str]]] = {}
        for key, node in self.scopes.items():
            own: list[ast.AST] = [n for n in _inside(node) if isinstance(n, ast.stmt)]
            if isinstance(node, ast.Lambda):
                own = [node.body]
            read = set().union(*(self.computed(n, key) for n in own))
            found[key] = {(home, name) for home, name in read if home != key}
        before = None
        while before != found:
            before = {key: set(names) for key, names in found.items()}
            for key, node in self.scopes.items():
                for part in [node, *_inside(node)]:
                    for other in self.runs(part):
                        found[key] |= {pair for pair in found[other] if pair[0] != key}
        return found

    def held_by(self, function: ast.AST) -> set[object]:
        """Return the tags of what a function's defaults and decorators keep from call to call."""
        arguments: ast.arguments = function.args  # type: ignore[attr-defined]
        named = [*arguments.posonlyargs, *arguments.args]
        pairs = [*zip(named[::-1], arguments.defaults[::-1])]
        pairs += [(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d]
        kept: set[object] = set()
        for argument, default in pairs:
            kept |= tags(self.flow.value(default, self.key))
            if not isinstance(default, ast.Constant):  # a list grows from call to call
                kept |= tags(self.flow.env.get((id(function), argument.arg), frozenset()))
        if getattr(function, "decorator_list", []):
            kept |= tags(self.flow.returns.get(id(function), frozenset()))
        return kept

    def kept(self, scope: ast.AST) -> None:
        """Note what no liveness of names can tell: nodes kept elsewhere, calls at other times."""
        for node in _inside(scope):
            runs = self.runs(node)
            if isinstance(node, FUNCTIONS):
                if "N" in self.held_by(node):
                    self.see(node, "changes .data and lets a function keep what was computed")
                if _strays(node) or id(node) in self.flow.handed:
                    runs = {id(node)}
            elif isinstance(node, ast.GeneratorExp):
                runs = {key for inner in ast.walk(node) for key in self.runs(inner)}
            elif not (isinstance(node, ast.Call) and ast.unparse(node.func) in LAZY):
                runs = set()
            if runs & (self.writing | self.playing):
                self.see(node, "changes .data in a function that may run at another time")
            if getattr(node, "id", getattr(node, "attr", "")) in INDIRECT:
                self.see(node, "changes .data and calls functions by their names")


def _strays(node: ast.AST) -> bool:
    """Tell whether a function runs elsewhere than where it is called: a generator, an operator."""
    name = getattr(node, "name", "")
    if name[:2] == name[-2:] == "__" and name not in ("__init__", "__call__"):
        return True
    return any(isinstance(n, (ast.Yield, ast.YieldFrom, ast.Await)) for n in _inside(node))


def _plays(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
    )


def _defaults(node: ast.AST) -> list[ast.expr]:
    arguments: ast.arguments = node.args  # type: ignore[attr-defined]
    return [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]


def _outside(node: ast.AST) -> list[ast.expr]:
    """Return what is evaluated where a function is defined."""
    return [*getattr(node, "decorator_list", []), *_defaults(node)]


def _inside(node: ast.AST, statements: bool = True) -> Iterator[ast.AST]:
    """Yield what is below a function, module or statement, but for functions inside of it.

    Without `statements` only what the statement itself evaluates.
    """
    if isinstance(node, ast.Lambda) or (isinstance(node, FUNCTIONS) and statements):
        below: Iterable[ast.AST] = node.body if isinstance(node.body, list) else [node.body]
    else:
        below = _outside(node) if isinstance(node, FUNCTIONS) else ast.iter_child_nodes(node)
    stack = [n for n in below if statements or not isinstance(n, ast.stmt)]
    while stack:
        inner = stack.pop()
        yield inner
        below = _outside(inner) if isinstance(inner, FUNCTIONS) else ast.iter_child_nodes(inner)
        stack += [n for n in below if statements or not isinstance(n, ast.stmt)]


def _stored(node: ast.AST) -> set[str]:
    """Return the names that a statement certainly gives another meaning."""
    targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
    targets += [item.optional_vars for item in getattr(node, "items", [])]
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return set()
    return {
        n.id
        for target in targets
        if target is not None
        for n in ast.walk(target)
        if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)
    }


def _read(node: ast.AST, hidden: frozenset[str]) -> Iterator[ast.Name]:
    """Yield the names that a statement or expression reads, but for their data and grad."""
    if isinstance(node, ast.Name):
        if node.id not in hidden and isinstance(node.ctx, ast.Load):
            yield node
        return
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.attr not in ("data", "grad"):
            yield from _read(node.value, hidden)
        return
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target
    parts: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, FUNCTIONS):
        parts = list(_outside(node))
    if isinstance(node, COMPREHENSIONS):
        first = node.generators[0].iter
        yield from _read(first, hidden)
        bound = {
            n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)
        }
        hidden |= bound
        parts = [n for n in parts if n is not node.generators[0]]
        parts += [*node.generators[0].ifs]
    for part in parts:
        if not isinstance(part, ast.stmt):
            yield from _read(part, hidden)
