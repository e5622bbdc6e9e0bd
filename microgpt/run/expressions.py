"""The kinds of a script's expressions, but for its calls."""

from __future__ import annotations

import ast
import re
from typing import Any

from microgpt import micrograd
from microgpt.run.flow import may_hold
from microgpt.run.kinds import NONE, VALUES, Kind, blur, k, keys, pair, tags, union, unwrap, wrap
from microgpt.run.statements import Statements

CORE = frozenset(["log", "exp", "relu", "backward"])
OURS = frozenset(dir(micrograd.Value))
SHOWN = re.compile(r"%(?:\(\w+\))?[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[hlL]?([a-zA-Z%])")


NAMES = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"]
OPERATORS = (
    *(f"__{prefix}{name}__" for name in NAMES for prefix in ("", "r", "i")),
    *("__neg__", "__pos__", "__abs__", "__lshift__", "__rshift__"),
)


class Expressions(Statements):
    """`value` returns the kind of an expression, from those of its parts."""

    def dotted(self, node: ast.expr, scope: int) -> str:
        """Return what a name or attribute means: "math.log", "zip", or "" if the script's own."""
        if isinstance(node, ast.Name):
            return "" if self.home(node.id, scope) else self.names.of(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value, scope)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def value(self, node: ast.expr, scope: int) -> Kind:
        method = getattr(self, "value_" + type(node).__name__.lower(), None)
        if method is not None:
            known: Kind = method(node, scope)
            return known
        kind = NONE
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                kind |= self.value(child, scope)
        return k("o") if isinstance(node, ast.Compare) else k("?") | blur(kind)

    def value_constant(self, node: ast.Constant, scope: int) -> Kind:
        if isinstance(node.value, float):
            return k("f")
        if isinstance(node.value, int):
            return k("i" if abs(node.value) <= 2**53 else "x")
        return k("x" if isinstance(node.value, complex) else "o")

    def value_name(self, node: ast.Name, scope: int) -> Kind:
        home = self.home(node.id, scope)
        found = self.env.get((home, node.id))
        if found is None:
            found = k("?") if not home and self.names.of(node.id) else NONE
        return found | self.aliases.of((home, node.id), found) if may_hold(found) else found

    def value_attribute(self, node: ast.Attribute, scope: int) -> Kind:
        dotted = self.dotted(node, scope)
        if dotted.startswith(("math.", "cmath.")):
            return k("f")
        base = self.value(node.value, scope)
        here = {tag for depth, tag in base if depth == 0}
        kind: set[tuple[int, Any]] = set()
        if node.attr in ("data", "grad", "_op", "_prev", "label", *CORE, *self.extra):
            here |= tags(base) & VALUES  # no container has these: its depth is in doubt
        elif any(depth for depth, _ in base):
            kind.add((0, "?"))  # a container's method, as an object
        for tag in here - {"N"}:
            if tag in VALUES:
                kind |= self.read_of_value(node, tag)
                continue
            own = self.attributes.get(node.attr, NONE)
            kind |= own | self.implied(("__getattr__",), k("o"))
            if may_hold(own):
                kind |= self.aliases.of(("attribute", node.attr), own)
            if tag in ("?", "x", "o"):
                kind.add((0, "x" if tag == "x" else "?"))
            elif isinstance(tag, tuple):
                for method in self.methods.get(node.attr, []):
                    if (
                        any(
                            isinstance(d, ast.Name) and d.id == "property"
                            for d in method.decorator_list
                        )
                        and id(method) in self.bodies
                    ):
                        kind |= self.call(id(method), [NONE], {}, NONE)
                    else:
                        kind.add((0, ("fn", id(method))))
        return frozenset(kind)

    def read_of_value(self, node: ast.Attribute, tag: str) -> Kind:
        if node.attr == "data":
            return k({"V": "f", "S": "s"}.get(tag, "d"))
        if node.attr == "grad":
            return k("f" if self.float_grads else "d")
        if self.labelled and node.attr in ("_op", "label"):
            return k("o")
        if self.labelled and node.attr == "_prev":
            return wrap(k("V", "W", "N", *("S" if self.ints else "")))
        if node.attr in self.extra:
            method = self.extra[node.attr]
            if any(isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list):
                self.define(method, 0)
                return self.call(id(method), [k(tag, "N")], {}, NONE)
        if node.attr in OURS:  # else it is missing in both
            self.see(node, f"reads .{node.attr} of a {self.cls.name}")
        return NONE

    def value_subscript(self, node: ast.Subscript, scope: int) -> Kind:
        base = self.value(node.value, scope)
        index = self.value(node.slice, scope)
        kind = base if isinstance(node.slice, ast.Slice) else unwrap(base)
        if any(isinstance(tag, tuple) or tag == "?" for _, tag in base):
            kind |= self.implied(("__getitem__",), index)
        return kind

    def value_slice(self, node: ast.Slice, scope: int) -> Kind:
        for part in (node.lower, node.upper, node.step):
            if part is not None:
                self.value(part, scope)
        return NONE

    value_index = lambda self, node, scope: self.value(node.value, scope)  # noqa: E731

    def value_list(self, node: ast.List, scope: int) -> Kind:
        kind = NONE
        for element in node.elts:
            kind |= (
                unwrap(self.value(element.value, scope))
                if isinstance(element, ast.Starred)
                else self.value(element, scope)
            )
        return wrap(kind)

    value_tuple = value_set = value_list

    def value_dict(self, node: ast.Dict, scope: int) -> Kind:
        kind = dictionary = NONE
        for key, item in zip(node.keys, node.values):
            if key is None:
                kind |= unwrap(self.value(item, scope))
            else:
                kind |= self.value(item, scope)
                dictionary |= keys(self.value(key, scope))
        return wrap(kind) | dictionary

    def value_listcomp(self, node: ast.ListComp, scope: int) -> Kind:
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

    value_setcomp = value_generatorexp = value_dictcomp = value_listcomp

    def value_lambda(self, node: ast.Lambda, scope: int) -> Kind:
        return self.define(node, scope)

    def value_yield(self, node: ast.Yield, scope: int) -> Kind:
        if node.value is not None:
            kind = self.value(node.value, scope)
            self.result(scope, wrap(kind))
            self.parts[scope] = None
            self.link(("returned", scope), kind, node.value, scope)
        return k("?")

    def value_yieldfrom(self, node: ast.YieldFrom, scope: int) -> Kind:
        self.result(scope, self.value(node.value, scope))
        return k("?")

    def value_starred(self, node: ast.Starred, scope: int) -> Kind:
        return unwrap(self.value(node.value, scope))

    def value_namedexpr(self, node: ast.NamedExpr, scope: int) -> Kind:
        kind = self.value(node.value, scope)
        self.store(node.target, kind, scope)
        return kind

    def value_ifexp(self, node: ast.IfExp, scope: int) -> Kind:
        self.value(node.test, scope)
        return self.value(node.body, scope) | self.value(node.orelse, scope)

    def value_boolop(self, node: ast.BoolOp, scope: int) -> Kind:
        return union(*[self.value(part, scope) for part in node.values])

    def value_unaryop(self, node: ast.UnaryOp, scope: int) -> Kind:
        kind = self.value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            return k("o")
        if isinstance(node.op, ast.USub):
            turned = {"R": "S", "W": "S", "d": "s"}
            made = k("N") if tags(kind) & VALUES else NONE
            return made | {(depth, turned.get(tag, tag)) for depth, tag in kind if depth == 0}
        return kind

    def value_binop(self, node: ast.BinOp, scope: int) -> Kind:
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
        if isinstance(node.left, ast.Name) and ast.dump(node.left) == ast.dump(node.right):
            return union(*[self.square(node, tag) for tag in left])
        kind = self.arithmetic(node, node.op, left, right)
        if isinstance(node.op, (ast.Add, ast.Sub)) and (
            _nonzero(node.left) or _nonzero(node.right)
        ):
            signed = {"S": "W", "s": "d"}  # what is zero then is no negative zero
            return frozenset((depth, signed.get(tag, tag)) for depth, tag in kind)
        return kind

    def square(self, node: ast.BinOp, part: tuple[int, Any]) -> Kind:
        """Return the kind of an operation of something with itself: a square has no sign."""
        known = {"W": "R", "S": "R", "d": "d", "s": "d"}.get(str(part[1]))
        if part[0] == 0 and known and isinstance(node.op, ast.Mult):
            return k(known)
        return self.arithmetic(node, node.op, frozenset([part]), frozenset([part]))

    def value_joinedstr(self, node: ast.JoinedStr, scope: int) -> Kind:
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

    def arithmetic(self, node: ast.AST, op: ast.operator, left: Kind, right: Kind) -> Kind:
        kind: set[tuple[int, Any]] = set()
        if self.late and isinstance(op, ast.Pow) and tags(left) & VALUES and not _steep(node):
            self.see(
                node, f"raises a {self.cls.name} to a power that may have no derivative at zero"
            )
        if self.labelled and isinstance(op, ast.Pow) and "f" in tags(right):
            self.see(node, "shows what a power by a float is called")
        if any(isinstance(tag, tuple) for depth, tag in left | right if not depth):
            kind |= self.implied(OPERATORS, left) | self.implied(OPERATORS, right)
        for depth, tag in left:
            if depth and isinstance(op, (ast.Add, ast.Mult, ast.BitOr, ast.BitAnd, ast.Sub)):
                kind.add((depth, tag))
        for depth, tag in right:
            if depth and isinstance(op, (ast.Add, ast.Mult, ast.BitOr, ast.BitAnd)):
                kind.add((depth, tag))
        for a in {tag for depth, tag in left if depth == 0}:
            for b in {tag for depth, tag in right if depth == 0}:
                kind |= pair(type(op).__name__, a, b, lambda what: self.see(node, what))
        return frozenset(kind)

    def shows(self, node: ast.expr, kind: Kind, as_float: bool = False) -> None:
        """Note a number or `Value` that is turned into text."""
        if not kind and self.here in self.called:
            self.see(node, f"shows {ast.unparse(node)}, which cannot be followed")
        text = ast.unparse(node)
        found = tags(kind)
        if "s" in found or ("d" in found and not as_float):
            self.see(node, f"shows {text}, which may be an int")
        for tag in found & VALUES:
            method = self.extra.get("__str__") or self.extra.get("__repr__")
            if method is None:
                self.see(node, f"shows {text}, a {self.cls.name} without a __repr__ of its own")
            else:
                self.define(method, 0)
                self.call(id(method), [k(tag, "N")], {}, NONE)


def _nonzero(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value != 0


def _steep(power: ast.AST) -> bool:
    """Tell whether a power has a derivative wherever it has a value: not between 0 and 1."""
    exponent = getattr(power, "right", None) or getattr(power, "value", None)
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        return _nonzero(exponent.operand)
    return _nonzero(exponent) and exponent.value >= 1  # type: ignore[union-attr]
