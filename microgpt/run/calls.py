"""The kinds of what a script's calls return: its own functions, methods, the library's."""

from __future__ import annotations

import ast
import string
from collections.abc import Hashable

from microgpt.run.expressions import CORE, OURS, Expressions
from microgpt.run.flow import Named, may_hold
from microgpt.run.kinds import NONE, VALUES, Kind, blur, k, keys, tags, union, unwrap, wrap
from microgpt.run.names import standard

FLOATS = frozenset(
    """
    gauss uniform random normalvariate expovariate triangular betavariate gammavariate
    lognormvariate vonmisesvariate paretovariate weibullvariate time perf_counter monotonic
    process_time
    """.split()
)
INTS = frozenset(
    """
    randint randrange getrandbits index count find floor ceil trunc gcd lcm comb perm factorial
    isqrt ord len time_ns perf_counter_ns
    """.split()
)

RESULTS = {
    **dict.fromkeys("len ord id hash int".split(), "i"),
    **dict.fromkeys("bool any all callable hasattr input open chr slice".split(), "o"),
}
# What holds, or goes through, what it is given.
CONTAINERS = frozenset(
    """
    sorted reversed list tuple set frozenset iter filter itertools.chain itertools.islice
    itertools.cycle itertools.takewhile collections.deque copy.copy
    """.split()
)


class Sightings(Expressions):
    """The places of a script where an int could be told from a float: `found`."""

    def value_call(self, node: ast.Call, scope: int) -> Kind:
        positional, rest = [], NONE
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                rest |= unwrap(self.value(argument.value, scope))
            else:
                positional.append(self.value(argument, scope))
        named: Named = {}
        for keyword in node.keywords:
            kind = self.value(keyword.value, scope)
            if keyword.arg is None:
                rest |= unwrap(kind)
            else:
                named[keyword.arg] = kind
        self.passing = self.passed(node, scope) if self.linking else []
        around, self.at = self.at, id(node)
        result = self.result_of_call(node, positional, named, rest, scope)
        self.at = around
        return result

    def result_of_call(
        self, node: ast.Call, positional: list[Kind], named: Named, rest: Kind, scope: int
    ) -> Kind:
        dotted = self.dotted(node.func, scope)
        if dotted:
            return self.library(node, dotted, positional, named, rest, scope)
        if isinstance(node.func, ast.Attribute):
            return self.method(node, node.func, positional, named, rest, scope)
        kind = NONE
        for _, tag in self.value(node.func, scope):
            kind |= self.invoke(node, tag, positional, named, rest)
        return kind

    def passed(self, node: ast.Call, scope: int) -> list[tuple[Kind, set[Hashable]]]:
        """Return the kinds of a call's arguments, and what their containers go by."""
        found = []
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            kind = self.value(argument, scope)
            if may_hold(kind):
                found.append((kind, self.roots(argument, scope)))
        return found

    def invoke(
        self, node: ast.Call, tag: object, positional: list[Kind], named: Named, rest: Kind
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
                self.foreign(
                    node, self.classes.get(tag[1]), union(rest, *positional, *named.values())
                )
                for i, field in self.env.get((-1, str(tag[1])), NONE):
                    if i < len(positional):
                        self.put_attribute(field, positional[i])
                    if field in named:
                        self.put_attribute(field, named[field])
                    self.put_attribute(field, rest)
            return kind
        return self.unknown(node, k(tag), [*positional, *named.values(), rest], "a call")

    def foreign(self, node: ast.Call, cls: ast.ClassDef | None, arguments: Kind) -> None:
        """Note numbers handed to a class that may keep them in ways of its base class."""
        for base in cls.bases if cls else []:
            script = isinstance(base, ast.Name) and self.names.of(base.id) in ("", "object")
            if not script and tags(arguments) & ({"d", "s"} | VALUES):
                self.see(node, f"hands a number to a class derived from {ast.unparse(base)}")
            for fields in [kinds for (scope, _), kinds in self.env.items() if scope == -1]:
                for _, field in fields:  # a base class's fields come first
                    self.put_attribute(field, arguments)

    def new_value(self, node: ast.Call, positional: list[Kind], named: Named, rest: Kind) -> Kind:
        number = tags(positional[0] if positional else named.get("data", rest))
        if (
            number & {"x"}
            or number & VALUES
            or rest
            or any(depth for depth, _ in (positional or [NONE])[0])
        ):
            self.see(node, f"makes a {self.cls.name} from what may not be a plain number")
        kind = {"f": "V", "s": "S"}
        self.ints |= self.here in self.called and bool(number - {"f", "o", "N"})
        made = k("N") if number and len(positional) + len({*named} - {"label"}) > 1 else NONE
        return made | k(*[kind.get(tag, "W") for tag in number if tag not in ("o", "N")])

    def method(
        self,
        node: ast.Call,
        func: ast.Attribute,
        positional: list[Kind],
        named: Named,
        rest: Kind,
        scope: int,
    ) -> Kind:
        base = self.value(func.value, scope)
        here = {tag for depth, tag in base if depth == 0}
        if func.attr in CORE or func.attr in self.extra:
            here |= tags(base) & VALUES  # no container has these: its depth is in doubt
        arguments = [*positional, *named.values(), rest]
        kind = NONE
        name = func.attr
        for tag in here & VALUES:
            if name in self.extra:
                self.define(self.extra[name], 0)
                me = k(tag, "N") if "N" in here else k(tag)
                kind |= self.call(id(self.extra[name]), [me, *positional], named, rest)
            elif name in CORE:
                self.ints |= name == "relu"
                kind |= {
                    "exp": k("V", "N"),
                    "log": k("V", "N"),
                    "relu": k(self.relu, "N"),
                }.get(name, k("o"))
            elif name in OURS:  # else it is missing in both
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
            self.store_into(func.value, wrap(union(*positional)), scope)
            return kind | k("o")
        if name in ("extend", "update", "extendleft"):
            self.store_into(func.value, union(*arguments), scope)
            return kind | k("o")
        if name == "setdefault":
            self.store_into(func.value, wrap(union(*positional)), scope)
        if name in ("pop", "get", "popleft", "setdefault", "popitem", "__getitem__"):
            return kind | unwrap(base) | union(*positional[1:])
        if name in ("items",):
            return kind | wrap(base)
        if name in ("values", "keys", "copy", "union", "intersection", "difference"):
            return kind | base | union(*positional)
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
        if (here and here <= VALUES | {"x", "N"}) or not base:
            return kind
        return kind | self.unknown(node, k("o" if here == {"o"} else "?"), arguments, f".{name}()")

    def drawn(self, name: str, positional: list[Kind], named: Named) -> Kind:
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
        self,
        node: ast.Call,
        name: str,
        positional: list[Kind],
        named: Named,
        rest: Kind,
        scope: int,
    ) -> Kind:
        """Return what a builtin or a library's function gives for arguments of these kinds."""
        first = positional[0] if positional else rest
        every = union(rest, *positional, *named.values())
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
        if name.startswith(("random.", "time.")):
            if last in FLOATS:
                return k("f")
            if last in ("choices", "sample", "choice"):
                return self.drawn(last, positional, named)
            if last == "shuffle":
                return k("o")
            if last in INTS:
                return k("i")
        if name in RESULTS:
            return k(RESULTS[name])
        if name == "range":
            return frozenset({(1, "i")})
        if name == "float":
            return k("s" if "s" in tags(first) else "f")
        if name == "round":
            return k("i") if len(positional) == 1 else first
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
            items = unwrap(first) if len(positional) == 1 else union(*positional)
            return items | named.get("default", NONE)
        if name in CONTAINERS:
            self.apply(
                node,
                named.get("key", NONE) | frozenset(x for x in first if isinstance(x[1], tuple)),
                unwrap(first),
            )
            if name == "filter":
                return positional[1] if len(positional) > 1 else NONE
            return union(rest and wrap(rest), *positional)
        if name == "next":
            return unwrap(first) | union(*positional[1:])
        if name == "zip":
            return wrap(wrap(union(unwrap(rest), *[unwrap(p) for p in positional])))
        if name == "enumerate":
            return wrap(wrap(unwrap(first) | k("i")))
        if name == "map":
            return wrap(self.apply(node, first, *[unwrap(p) for p in positional[1:]]))
        if name == "functools.reduce":
            items = unwrap(positional[1]) if len(positional) > 1 else NONE
            total = items | union(*positional[2:])
            operation = self.dotted(node.args[0], scope) if node.args else ""
            op = {"operator.add": ast.Add(), "operator.mul": ast.Mult()}.get(operation)
            if op is not None:
                total |= self.arithmetic(node, op, total, items)
                return total | self.arithmetic(node, op, items, items)
            return total | self.apply(
                node, first, total | self.apply(node, first, total, items), items
            )
        if name == "dict":
            held = unwrap(unwrap(first)) | unwrap(first) | union(*named.values()) | rest
            return wrap(held) | keys(held)
        if name in ("collections.defaultdict", "collections.Counter", "collections.OrderedDict"):
            return wrap(self.apply(node, first))
        if name == "pow" and len(positional) == 2:
            return self.arithmetic(node, ast.Pow(), positional[0], positional[1])
        if name == "super":
            return k(("object", 0))
        if name in ("getattr", "setattr", "vars") and tags(first) & VALUES:
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
        every = union(*arguments) if arguments else NONE
        found = tags(every)
        if found & {"d", "s"}:
            self.see(node, f"hands a number that may be an int to {what}")
        elif found & VALUES:
            self.see(node, f"hands a {self.cls.name} to {what}")
        returned = kind
        for tag in found:
            if isinstance(tag, tuple) and tag[0] == "fn" and tag[1] in self.bodies:
                returned |= blur(self.call(tag[1], [], {}, kind))
                self.handed.add(tag[1])
        return returned | blur(frozenset((d, t) for d, t in every if isinstance(t, tuple)))
