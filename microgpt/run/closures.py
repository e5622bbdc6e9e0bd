"""micrograd's class told as the oracle's: derivatives as numbers instead of closures.

micrograd gives each node a function that adds into its children's gradients. Where
every such addition is a factor times the node's own gradient, the factors are the
local gradients that the oracle's nodes keep. Rewritten so, the class is judged like
any other. What the rewriting takes for granted is that `data`, which the function
reads when backward runs, is then still what it was: see `freshness`.
"""

from __future__ import annotations

import ast
import copy

from microgpt.run.names import Names, RefusalError
from microgpt.run.spelling import empty, plain

# What cannot fail where the operation itself did not.
TOTAL = frozenset("math.sin math.cos math.tanh math.atan abs float int bool".split())
PLAIN = (
    *(ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.BoolOp, ast.Call),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context),
)
SLOPES = "_local_grads"
# What microgpt.micrograd's nodes call themselves, by the method that makes them.
NAMED = {"__add__": "'+'", "__mul__": "'*'", "exp": "'exp'", "log": "'log'", "relu": "'ReLU'"}


def rule_of(cls: ast.ClassDef) -> str:
    """Return the attribute by which a class's nodes keep their function; "" if they keep none."""
    called = {n.func.attr for n in ast.walk(cls) if _calls_attribute(n)}  # type: ignore[attr-defined]
    for node in ast.walk(cls):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Attribute) and target.attr in called:
            value = node.value.body if isinstance(node.value, ast.Lambda) else node.value  # type: ignore[attr-defined]
            if isinstance(value, ast.Constant) and value.value is None:
                return target.attr
    return ""


def _calls_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


class Translation:
    """A class with closures, and `node`: the same with local gradients.

    hidden are the attributes of the script's nodes that the compiled ones lack;
    unordered tells whether children are kept in a set; operations are the methods
    rewritten, with the name that each gives to its node.

    Raises:  RefusalError if what a function adds is not a factor times the node's gradient
    """

    def __init__(self, cls: ast.ClassDef, names: Names) -> None:
        self.cls, self.names = cls, names
        self.rule, self.children, self.unordered = rule_of(cls), "", False
        self.parameters: list[str] = []
        self.hidden: dict[str, str] = {}  # with what they hold at first
        self.operations: dict[str, ast.expr] = {}
        methods = [item for item in cls.body if isinstance(item, ast.FunctionDef)]
        bodies = {m.name: self._init(m) for m in methods if m.name == "__init__"}
        for method in methods:
            if method.name == "backward":
                bodies["backward"] = [_Walk(self).visit(s) for s in plain(method.body)]
            elif method.name not in bodies and any(
                isinstance(n, ast.Attribute) and n.attr == self.rule for n in ast.walk(method)
            ):
                operation = _Operation(method, self)
                bodies[method.name] = operation.body
                self.operations[method.name] = operation.named
        self.node = copy.copy(cls)
        self.node.body = []
        for item in cls.body:
            item = copy.copy(item)
            if isinstance(item, ast.FunctionDef):
                item.body = bodies.get(item.name, item.body)
                if item.name == "__init__":
                    item.args = self.arguments
            self.node.body.append(item)
        ast.fix_missing_locations(self.node)

    def shown(self, attribute: str) -> bool:
        """Tell whether microgpt.micrograd's nodes show the same in an attribute as the script's."""
        if attribute == self.children:
            return attribute == "_prev" and self.unordered and self._composed()
        if self.hidden.get(attribute) != "''":
            return False
        return attribute == "label" or (attribute == "_op" and self._composed() and self._named())

    def _composed(self) -> bool:
        """Tell whether minus and division are made of plus, times and powers, as ours are."""
        return {n for n in self.operations if n[:2] == "__"} <= {"__add__", "__mul__", "__pow__"}

    def _named(self) -> bool:
        given = {name: ast.unparse(text) for name, text in self.operations.items()}
        power = next((m for m in self.node.body if getattr(m, "name", "") == "__pow__"), None)
        exponent = power.args.args[-1].arg if isinstance(power, ast.FunctionDef) else ""
        wanted = {**NAMED, "__pow__": f"f'**{{{exponent}}}'"}
        return all(text == wanted.get(name, text) for name, text in given.items())

    def labelled(self) -> ast.ClassDef:
        """Return the class over microgpt.micrograd's `Value`, whose nodes have names."""
        for node in ast.walk(self.node):
            if isinstance(node, ast.Call) and hasattr(node, "named"):
                *data, slopes = node.args
                node.args = [*data, node.named]
                node.keywords = [ast.keyword(arg="local_grads", value=slopes)]
        return ast.fix_missing_locations(self.node)

    def _init(self, function: ast.FunctionDef) -> list[ast.stmt]:
        """Return a body that keeps data, grad, children and local gradients, and no more."""
        refusal = RefusalError(
            function.lineno, "__init__ does not keep data, grad and children as they are"
        )
        arguments = function.args
        self.parameters = parameters = [a.arg for a in arguments.args]
        defaults = dict(zip(parameters[::-1], arguments.defaults[::-1]))
        if len(parameters) < 3 or not empty(defaults.get(parameters[2])):
            raise refusal
        me, data, children = parameters[:3]
        body: list[ast.stmt] = []
        for statement in plain(function.body):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if not isinstance(target, ast.Attribute):
                raise refusal
            value, name = statement.value, target.attr  # type: ignore[attr-defined]
            if name in ("data", "grad"):
                body.append(statement)
                continue
            if isinstance(value, ast.Name) and value.id != children:
                value = defaults.get(value.id)
            if name in self.hidden:
                raise refusal
            if self._keeps(value, children):
                self.children = name
            elif name != self.rule and not isinstance(value, ast.Constant):
                raise refusal
            self.hidden[name] = ast.unparse(value)
        if not self.children:
            raise refusal
        shape = ast.parse(
            f"def __init__({me}, {data}, {children}=(), {SLOPES}=()):\n"
            f"    {me}.{self.children} = {children}\n    {me}.{SLOPES} = {SLOPES}"
        ).body[0]
        assert isinstance(shape, ast.FunctionDef)
        self.arguments = shape.args
        return [ast.copy_location(s, function) for s in [*body, *shape.body]]

    def _keeps(self, value: ast.expr | None, parameter: str) -> bool:
        """Tell whether a value is the given children, or a collection of them."""
        if isinstance(value, ast.Call) and len(value.args) == 1:
            kind = self.names.of(ast.unparse(value.func))
            if kind in ("set", "frozenset", "tuple", "list"):
                self.unordered |= kind in ("set", "frozenset")
                value = value.args[0]
        return isinstance(value, ast.Name) and value.id == parameter


class _Walk(ast.NodeTransformer):
    """Write out what `v._backward()` does: the chain rule over local gradients."""

    def __init__(self, translation: Translation) -> None:
        self.of = translation

    def visit_If(self, node: ast.If) -> ast.AST:
        rule = ast.unparse(node.body[0]).removesuffix("()")
        tested = ast.unparse(node.test) in (rule, f"{rule} is not None")
        if tested and rule.endswith(f".{self.of.rule}") and not node.body[1:] + node.orelse:
            return self.visit(node.body[0])  # type: ignore[no-any-return]
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        v = ast.unparse(node).removesuffix(f".{self.of.rule}()")
        if not v.isidentifier():
            return node
        rule = ast.parse(
            f"for {v}_child, {v}_slope in zip({v}.{self.of.children}, {v}.{SLOPES}):\n"
            f"    {v}_child.grad += {v}_slope * {v}.grad"
        ).body[0]
        return ast.copy_location(rule, node)


class _Operation:
    """`body`: a method that makes a node and its function, as one that gives local gradients.

    named is what the method calls the node.
    """

    def __init__(self, method: ast.FunctionDef, translation: Translation) -> None:
        self.method, self.of = method, translation
        self.parameters = {a.arg for a in method.args.args}
        names = [n for n in ast.walk(method) if isinstance(n, ast.Name)]
        self.stored = [n.id for n in names if isinstance(n.ctx, ast.Store)]
        self.local = self.parameters.union(self.stored)
        self.before, self.out, node, closure = self._parts()
        data, children, *given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if len(given) > 1 or [keyword.arg for keyword in node.keywords] not in (
            [],
            self.of.parameters[3:4],
        ):
            raise self._refusal("gives its node more than data, children and a name")
        if not isinstance(children, (ast.Tuple, ast.List)) or not all(
            isinstance(child, ast.Name) and child.id in self.local for child in children.elts
        ):
            raise self._refusal("gives its node children that are not written out")
        parts = [n for s in [*self.before, data] for n in ast.walk(s) if isinstance(n, ast.expr)]
        self.computed = {ast.unparse(n) for n in parts}
        named = data.id if isinstance(data, ast.Name) else f"{self.out}_data"
        while not isinstance(data, ast.Name) and named in self.local:
            named += "_"
        self.replace = _Replace(f"{self.out}.data", named)
        computed = len(self.before)  # what the function itself computes comes after its node's data
        slopes = self._slopes(closure, [f"{ast.unparse(child)}.grad" for child in children.elts])
        if self.replace.done and not isinstance(data, ast.Name):
            target = ast.Name(id=named, ctx=ast.Store())
            assigned = ast.copy_location(ast.Assign(targets=[target], value=data), node)
            self.before.insert(computed, assigned)
            data = ast.Name(id=named, ctx=ast.Load())
        self.named = given[0] if given else ast.Constant(value="")
        local_grads = ast.Tuple(elts=slopes, ctx=ast.Load())
        made = ast.Call(func=node.func, args=[data, children, local_grads], keywords=[])
        made.named = self.named  # type: ignore[attr-defined]
        returned = ast.Return(value=ast.copy_location(made, node))
        self.body = [*self.before, ast.copy_location(returned, node)]

    def _refusal(self, reason: str) -> RefusalError:
        return RefusalError(self.method.lineno, f"{self.method.name} {reason}")

    def _parts(self) -> tuple[list[ast.stmt], str, ast.Call, list[ast.stmt]]:
        """Return what a method computes before, its node's name, the node and its function."""
        before: list[ast.stmt] = []
        functions: dict[str, list[ast.stmt]] = {}
        out, node, ending = "", None, []
        for statement in plain(self.method.body):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.FunctionDef) and not ast.unparse(statement.args):
                functions[statement.name] = plain(statement.body)
            elif node is not None:
                ending.append(ast.unparse(statement))
            elif (
                isinstance(target, ast.Name)
                and isinstance(value, ast.Call)
                and ast.unparse(value.func) == self.of.cls.name
                and len(value.args) > 1
            ):
                out, node = target.id, value
            else:
                before.append(statement)
        for name, closure in functions.items():
            wanted = [f"{out}.{self.of.rule} = {name}", f"return {out}"]
            if node is not None and len(functions) == 1 and ending == wanted:
                return before, out, node, closure
        raise self._refusal("does more than to make a node and its function")

    def _slopes(self, closure: list[ast.stmt], grads: list[str]) -> list[ast.expr]:
        """Return the factors by which a function adds to the children's gradients."""
        slopes: list[ast.expr] = []
        for statement in closure:
            value: ast.expr | None = getattr(statement, "value", None)
            target: ast.expr | None = None
            op: ast.operator | None = None
            if isinstance(statement, ast.AugAssign):
                target, op = statement.target, statement.op
            elif isinstance(statement, ast.Assign):
                target = statement.targets[0]
                if isinstance(target, ast.Name):
                    if self.stored.count(target.id) > 1 or target.id in self.parameters:
                        raise self._refusal(f"uses the name {target.id} twice")
                    temporary = ast.Assign(targets=[target], value=self._sure(statement.value))
                    self.before.append(ast.copy_location(temporary, statement))
                    continue
                if isinstance(value, ast.BinOp) and ast.unparse(value.left) == ast.unparse(target):
                    op, value = value.op, value.right
            wanted = grads[len(slopes)] if len(slopes) < len(grads) else ""
            if target is None or ast.unparse(target) != wanted:
                raise self._refusal("does not add to each of its children, in their order")
            if not isinstance(op, (ast.Add, ast.Sub)) or value is None:
                raise self._refusal("does not add to its children's gradients")
            slopes.append(self._slope(value, isinstance(op, ast.Sub)))
        if len(slopes) < len(grads):
            raise self._refusal("does not add to each of its children")
        return slopes

    def _slope(self, value: ast.expr, subtracted: bool) -> ast.expr:
        """Return the factor that a value is of the node's own gradient."""
        grad = f"{self.out}.grad"
        if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub):
            value, subtracted = value.operand, not subtracted
        if ast.unparse(value) == grad:
            return ast.Constant(value=-1 if subtracted else 1)
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
            for own, factor in ((value.right, value.left), (value.left, value.right)):
                if ast.unparse(own) == grad:
                    slope = self._sure(factor)
                    return ast.UnaryOp(op=ast.USub(), operand=slope) if subtracted else slope
        raise self._refusal("adds what is not a factor times the gradient of its node")

    def _sure(self, value: ast.expr) -> ast.expr:
        """Return a part of a factor as it is computed when the node is made.

        Raises:  RefusalError if it reads what may change later, or may fail by itself
        """
        for node in ast.walk(value):
            if isinstance(node, ast.Attribute):
                sure = node.attr == "data" and isinstance(node.value, ast.Name)
            elif isinstance(node, ast.Name):
                sure = node.id in self.local
            else:
                sure = isinstance(node, PLAIN) and self._cannot_fail(node)
            if not sure and not self._meaning(node):
                text = ast.unparse(value)
                raise self._refusal(f"has a derivative, {text}, that may fail or change by itself")
        return self.replace.visit(copy.deepcopy(value))  # type: ignore[no-any-return]

    def _meaning(self, node: ast.AST) -> str:
        """Return what a name or attribute of a module means, "" if it is the script's own."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            base = self._meaning(node.value)
            return f"{base}.{node.attr}" if base else ""
        if isinstance(node, ast.Name) and node.id not in self.local:
            return self.of.names.of(node.id)
        return ""

    def _cannot_fail(self, node: ast.AST) -> bool:
        """Tell whether an operation gives a number wherever the method itself does."""
        if self.method.name.startswith("__"):
            return True  # an operator, whose whole body will be compared
        computed = isinstance(node, ast.expr) and ast.unparse(node) in self.computed
        if isinstance(node, ast.Call):
            meaning = self._meaning(node.func)
            return meaning in TOTAL or (computed and meaning.startswith("math."))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            constant = node.right.value if isinstance(node.right, ast.Constant) else 0
            return computed or (isinstance(constant, (int, float)) and constant >= 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return computed or f"math.log({ast.unparse(node.right)})" in self.computed
        return not isinstance(node, (ast.Mod, ast.FloorDiv, ast.MatMult))


class _Replace(ast.NodeTransformer):
    """Put a name in the place of an attribute; tell whether that was done."""

    def __init__(self, attribute: str, name: str) -> None:
        self.attribute, self.name, self.done = attribute, name, False

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node) != self.attribute:
            return node
        self.done = True
        return ast.copy_location(ast.Name(id=self.name, ctx=ast.Load()), node)
