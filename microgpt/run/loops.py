"""Loops over parameters: Adam, SGD and their kin, as programs of vector operations.

`for p in params: p.data -= lr * p.grad` is compiled when every element is computed from
its own numbers alone: from data and grad of its node, items of lists at its index, and
numbers that the loop does not change. Only the loop's iterable is rewritten:

    for i, p in enumerate(params):    becomes    for i, p in LOOP.over(enumerate(params)):

`over` runs all elements but the last as vectors, in the order of operations of the body,
and returns an iterator of the last one, so that the body itself leaves its names and
raises its exceptions. What it cannot prove about the objects that it meets (another
class, a node that stands twice, an int, an element that would raise) makes it return the
iterable as it came.

    LOOP is a constant of the code object: no name of the script can collide with it.
"""

from __future__ import annotations

import ast
import math
import operator
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, cast

from microgpt import _script

FUNCTION = "\0microgpt function"  # stands for microgpt.run.functions
MIN_ELEMENTS = 16  # below, the preparation takes longer than the loop
MAX_INT = 2**53
FIELDS = {"data": 0, "grad": 1}
ITEM = 2
ADD, SUB, MUL, DIV, POW, NEG, SQRT, MAX, MIN = range(9)
OPERATIONS: dict[type[ast.operator], int] = {
    ast.Add: ADD,
    ast.Sub: SUB,
    ast.Mult: MUL,
    ast.Div: DIV,
    ast.Pow: POW,
}
PURE = {math.sqrt: SQRT, max: MAX, min: MIN}

kinds: set[type] = set()  # the compiled classes whose nodes a loop may change
compiled: set[Loop] = set()  # the loops that have run as vectors, for the report


class Unsupported(Exception):  # noqa: N818 - a decision, not a fault
    """The loop stays as it stands."""


class Sequence(NamedTuple):
    """Where the elements of a column come from: bound by the loop's target, or an expression."""

    path: tuple[int, ...] | None
    code: str | None


class Operation(NamedTuple):
    """One step over all elements; operands are numbers of earlier steps."""

    code: int
    a: int
    b: int


class Load(NamedTuple):
    sequence: int
    field: int


class Slot(NamedTuple):
    """A number that is the same for all elements."""

    place: int


class Plan:
    """What a loop's body computes, for one shape of its iterable and one outcome of its tests."""

    def __init__(self) -> None:
        self.steps: list[Operation | Load | Slot] = []
        self.slots: list[ast.expr] = []
        self.sequences: list[Sequence] = []
        self.nodes: set[int] = set()  # sequences whose elements have data and grad
        self.items: set[int] = set()  # sequences of floats
        self.stores: dict[tuple[int, int], int] = {}
        self.functions: list[tuple[ast.expr, int]] = []
        self.programs: dict[Any, Any] = {}
        self.numbers: Any = None
        self.leaves: Any = None


class Loop:
    """One `for` statement of a script."""

    def __init__(self, statement: ast.For, filename: str) -> None:
        self.target, self.body = statement.target, statement.body
        self.makes_iterator = isinstance(statement.iter, ast.Call)
        self.line, self.filename = statement.lineno, filename
        self.plans: dict[Any, Plan | None] = {}
        self.ifs = [test for part in self.body for test in _ifs(part)]
        tests = ast.Tuple([test.test for test in self.ifs], ast.Load())
        self.tests = _compiled(tests, filename) if self.ifs else None

    def over(self, iterable: Any) -> Any:
        """Run all elements but the last, and return the rest of the iterable."""
        try:
            frame = sys._getframe(1)
            columns: dict[tuple[int, ...], Any] = {}
            shape, n = _open(iterable, self.makes_iterator, (), columns)
            if n <= MIN_ELEMENTS or not kinds:
                return iterable
            return self._run(frame, iterable, shape, columns, n)
        except Exception:  # what the loop itself raises, it raises by itself
            return iterable

    def _run(self, frame: types.FrameType, iterable: Any, shape: Any, columns: Any, n: int) -> Any:
        names, scope = frame.f_globals, frame.f_locals
        tests: tuple[bool, ...] = ()
        if self.tests:
            tests = eval(self.tests, names, scope)
            if any(type(test) not in (bool, int, float, type(None)) for test in tests):
                return iterable
            tests = tuple(map(bool, tests))
        key = shape, tests
        if key not in self.plans:
            try:
                self.plans[key] = _planned(self, shape, tests)
            except Unsupported:
                self.plans[key] = None
        plan = self.plans[key]
        if plan is None:
            return iterable
        for function, code in plan.functions:
            if PURE.get(eval(_compiled(function, self.filename), names, scope)) != code:
                return iterable
        sequences = [
            columns[s.path] if s.path is not None else eval(s.code, names, scope)  # type: ignore[arg-type]
            for s in plan.sequences
        ]
        changed = {id(sequences[s]) for s, _ in plan.stores}
        if len(changed) != len({s for s, _ in plan.stores}):
            return iterable
        if not all(type(leaf) in (float, int) for leaf in eval(plan.leaves, names, scope)):
            return iterable
        numbers = eval(plan.numbers, names, scope)
        signature = tuple(
            type(x) if type(x) is float else (x > 0) - (x < 0) if type(x) is int else None
            for x in numbers
        )
        if None in signature or any(type(x) is int and abs(x) > MAX_INT for x in numbers):
            return iterable
        if signature not in plan.programs:
            plan.programs[signature] = _program(plan, signature)
        program = plan.programs[signature]
        if program is None:
            return iterable
        code, loads, constants, stores, ints_allowed = program
        kind = type(sequences[min(plan.nodes)][0])
        if kind not in kinds:
            return iterable
        done = _script.run_loop(
            [(i in plan.nodes, sequence) for i, sequence in enumerate(sequences)],
            kind,
            n - 1,
            loads,
            code,
            [(register, float(numbers[slot])) for register, slot in constants],
            stores,
            ints_allowed,
        )
        if not done:
            return iterable
        compiled.add(self)
        return _rest(iterable, n - 1)


def _compiled(expression: ast.expr, filename: str) -> types.CodeType:
    tree = ast.fix_missing_locations(ast.Expression(expression))
    return compile(tree, filename, "eval", dont_inherit=True)


# ------------------------------------------------------------------ iterables

_LIST_ITERATOR: type = type(iter([]))
_TUPLE_ITERATOR: type = type(iter(()))


def _open(
    value: Any, fresh: bool, path: tuple[int, ...], columns: dict[Any, Any]
) -> tuple[Any, int]:
    """Return the shape of an iterable and its length, and write its columns by their paths."""
    kind = type(value)
    if kind is list or kind is tuple:
        columns[path] = value
        return "items", len(value)
    if kind is range:
        if value.start or value.step != 1:
            raise Unsupported
        return "index", len(value)
    if kind in (_LIST_ITERATOR, _TUPLE_ITERATOR):
        _, arguments, *index = value.__reduce__()
        if index != [0]:
            raise Unsupported
        columns[path] = arguments[0]
        return "items", len(arguments[0])
    if kind is enumerate and fresh:
        _, (inner, start) = value.__reduce__()
        shape, n = _open(inner, fresh, (*path, 1), columns)
        return ("enumerate", start, shape), n
    if kind is zip and fresh:
        _, iterators, *state = value.__reduce__()
        if state:
            raise Unsupported
        parts = [_open(part, fresh, (*path, i), columns) for i, part in enumerate(iterators)]
        return ("zip", *(shape for shape, _ in parts)), min(n for _, n in parts)
    raise Unsupported


def _rest(value: Any, done: int) -> Any:
    """Return what an iterable gives after so many elements."""
    if type(value) is range:
        return value[done:]
    if type(value) in (list, tuple):
        iterator = iter(value)
        iterator.__setstate__(done)
        return iterator
    if type(value) is enumerate:
        inner, start = cast(Any, value).__reduce__()[1]
        return enumerate(_rest(inner, done), start + done)
    if type(value) is zip:
        for part in value.__reduce__()[1]:
            _rest(part, done)
        return value
    value.__setstate__(done)
    return value


# ------------------------------------------------------------------ the body


class _Planner:
    """Turns the statements of a body into the steps of a plan."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.plan = Plan()
        self.elements: dict[str, int] = {}  # names of elements, by sequence
        self.indices: set[str] = set()
        self.blocked: set[str] = set()  # names that differ from element to element otherwise
        self.vectors: dict[str, int] = {}  # names of results, by step
        self.numbers: dict[str, ast.expr] = {}  # names that the body gives one number
        self.current: dict[tuple[int, int], int] = {}
        self.assigned = {
            node.id
            for part in loop.body
            for node in ast.walk(part)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }

    def bind(self, target: ast.expr, shape: Any, path: tuple[int, ...]) -> None:
        if shape == "items" and isinstance(target, ast.Name):
            self.elements[target.id] = self.sequence(Sequence(path, None))
        elif shape == "index" and isinstance(target, ast.Name):
            self.indices.add(target.id)
        elif isinstance(target, (ast.Tuple, ast.List)) and shape[0] == "enumerate":
            if len(target.elts) != 2 or not isinstance(target.elts[0], ast.Name):
                raise Unsupported
            (self.indices if shape[1] == 0 else self.blocked).add(target.elts[0].id)
            self.bind(target.elts[1], shape[2], (*path, 1))
        elif isinstance(target, (ast.Tuple, ast.List)) and shape[0] == "zip":
            if len(target.elts) != len(shape) - 1:
                raise Unsupported
            for i, part in enumerate(target.elts):
                self.bind(part, shape[i + 1], (*path, i))
        else:
            raise Unsupported

    def sequence(self, sequence: Sequence) -> int:
        if sequence not in self.plan.sequences:
            self.plan.sequences.append(sequence)
        return self.plan.sequences.index(sequence)

    def add(self, step: Operation | Load | Slot) -> int:
        self.plan.steps.append(step)
        return len(self.plan.steps) - 1

    # statements

    def run(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Assign):
                if len(statement.targets) != 1:
                    raise Unsupported
                self.assign(statement.targets[0], statement.value)
            elif isinstance(statement, ast.AugAssign):
                value = ast.BinOp(_as_load(statement.target), statement.op, statement.value)
                self.assign(statement.target, value)
            elif not isinstance(statement, ast.Pass) and not (
                isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            ):
                raise Unsupported

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            name = target.id
            if name in self.elements or name in self.indices or name in self.blocked:
                raise Unsupported
            element = self.element(value)
            if element is not None and isinstance(value, ast.Subscript) and self.has_fields(name):
                self.elements[name] = element
                return
            if self.is_invariant(value):
                self.numbers[name] = self.substituted(value)
                self.vectors.pop(name, None)
            else:
                self.vectors[name] = self.expression(value)
                self.numbers.pop(name, None)
            return
        step = self.expression(value)
        place = self.place(target)
        if place is None:
            raise Unsupported
        self.plan.stores[place] = self.current[place] = step

    def has_fields(self, name: str) -> bool:
        """Tell whether the body reads data or grad of a name."""
        return any(
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == name
            for part in self.loop.body
            for node in ast.walk(part)
        )

    # expressions

    def element(self, node: ast.expr) -> int | None:
        """Return the sequence that an expression is an element of."""
        if isinstance(node, ast.Name):
            return self.elements.get(node.id)
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Name)
            and node.slice.id in self.indices
            and self.is_path(node.value)
        ):
            return self.sequence(Sequence(None, ast.unparse(node.value)))
        return None

    def place(self, node: ast.expr) -> tuple[int, int] | None:
        """Return the sequence and the field that an expression is."""
        if isinstance(node, ast.Attribute) and node.attr in FIELDS:
            element = self.element(node.value)
            if element is not None:
                self.plan.nodes.add(element)
                return element, FIELDS[node.attr]
        elif isinstance(node, (ast.Subscript, ast.Name)):
            element = self.element(node)
            if element is not None:
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    raise Unsupported
                self.plan.items.add(element)
                return element, ITEM
        return None

    def expression(self, node: ast.expr) -> int:
        """Return the step that computes an expression."""
        if self.is_invariant(node):
            self.plan.slots.append(self.substituted(node))
            return self.add(Slot(len(self.plan.slots) - 1))
        place = self.place(node)
        if place is not None:
            if place not in self.current:
                self.current[place] = self.add(Load(*place))
            return self.current[place]
        if isinstance(node, ast.Name) and node.id in self.vectors:
            return self.vectors[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            a = self.expression(node.left)
            return self.add(Operation(OPERATIONS[type(node.op)], a, self.expression(node.right)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            a = self.expression(node.operand)
            return self.add(Operation(NEG, a, a))
        if isinstance(node, ast.Call) and not node.keywords and self.is_path(node.func):
            code = {"sqrt": SQRT, "max": MAX, "min": MIN}.get(ast.unparse(node.func).split(".")[-1])
            if code is not None and len(node.args) == (1 if code == SQRT else 2):
                self.plan.functions.append((node.func, code))
                operands = [self.expression(argument) for argument in node.args]
                return self.add(Operation(code, operands[0], operands[-1]))
        raise Unsupported

    def is_path(self, node: ast.expr) -> bool:
        """Tell whether an expression is a name that the loop does not change, or its attribute."""
        if isinstance(node, ast.Attribute):
            return self.is_path(node.value)
        if isinstance(node, ast.Subscript):
            return isinstance(node.slice, ast.Constant) and self.is_path(node.value)
        return isinstance(node, ast.Name) and not (
            node.id in self.assigned
            or node.id in self.elements
            or node.id in self.indices
            or node.id in self.blocked
        )

    def is_invariant(self, node: ast.expr) -> bool:
        """Tell whether an expression is arithmetic over numbers that the loop does not change."""
        if isinstance(node, ast.Constant):
            return type(node.value) in (int, float, bool, type(None))
        if isinstance(node, ast.Name) and node.id in self.numbers:
            return True
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            return self.is_path(node)
        if isinstance(node, ast.BinOp):
            return self.is_invariant(node.left) and self.is_invariant(node.right)
        if isinstance(node, ast.UnaryOp):
            return self.is_invariant(node.operand)
        if isinstance(node, ast.Compare):
            return all(self.is_invariant(part) for part in (node.left, *node.comparators))
        if isinstance(node, ast.BoolOp):
            return all(self.is_invariant(part) for part in node.values)
        return False

    def substituted(self, node: ast.expr) -> ast.expr:
        """Return an invariant expression without names that the body gives."""
        numbers = self.numbers

        class Substitute(ast.NodeTransformer):
            def visit_Name(self, name: ast.Name) -> ast.AST:
                return numbers.get(name.id, name)

        copy = ast.parse(ast.unparse(node), mode="eval").body
        return Substitute().visit(copy)  # type: ignore[no-any-return]


def _as_load(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body


def _leaves(expressions: list[ast.expr]) -> list[ast.expr]:
    """Return the names and attributes of expressions, each once."""
    found: dict[str, ast.expr] = {}

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
            found.setdefault(ast.unparse(node), node)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child)

    for expression in expressions:
        visit(expression)
    return list(found.values())


def _flattened(statements: list[ast.stmt], tests: Iterator[bool]) -> list[ast.stmt]:
    """Return the statements that run for an outcome of all tests."""
    result: list[ast.stmt] = []
    for statement in statements:
        if isinstance(statement, ast.If):
            chosen = next(tests)
            body = _flattened(statement.body, tests)
            orelse = _flattened(statement.orelse, tests)
            result += body if chosen else orelse
        else:
            result.append(statement)
    return result


def _planned(loop: Loop, shape: Any, tests: tuple[bool, ...]) -> Plan:
    """Return what a loop computes."""
    planner = _Planner(loop)
    planner.bind(loop.target, shape, ())
    if not all(planner.is_invariant(test.test) for test in loop.ifs):
        raise Unsupported
    planner.run(_flattened(loop.body, iter(tests)))
    plan = planner.plan
    if not plan.nodes or plan.nodes & plan.items or not plan.stores:
        raise Unsupported
    filename = loop.filename
    plan.numbers = _compiled(ast.Tuple(plan.slots, ast.Load()), filename)
    plan.leaves = _compiled(ast.Tuple(_leaves(plan.slots), ast.Load()), filename)
    return plan


def _ifs(node: ast.AST) -> Iterator[ast.If]:
    """Yield the `if` statements in a statement in the order in which they are written."""
    if isinstance(node, ast.If):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _ifs(child)


# ------------------------------------------------------- numbers that may be ints

FLOATS, MIXED = "floats", "mixed"  # of a column: floats; floats and the int 0


def _program(plan: Plan, signature: tuple[Any, ...]) -> Any:
    """Return the program of a plan for such numbers, or None; best one that takes the int 0."""
    for loaded in (MIXED, FLOATS):
        with suppress(Unsupported):
            return (*_assembled(plan, signature, loaded), loaded is MIXED)
    return None


def _assembled(plan: Plan, signature: tuple[Any, ...], loaded: str) -> Any:
    """Return code, loads, constants and stores.

    Raises:  Unsupported where a result's int would differ from the float that stands for it
    """
    kinds_of: list[Any] = []
    code = bytearray()
    loads, constants = [], []
    if len(plan.steps) > 255:
        raise Unsupported
    for number, step in enumerate(plan.steps):
        if isinstance(step, Load):
            kinds_of.append(FLOATS if step.field == ITEM else loaded)
            loads.append((number, step.sequence, step.field))
        elif isinstance(step, Slot):
            kinds_of.append(signature[step.place])
            constants.append((number, step.place))
        else:
            kinds_of.append(_kind(step.code, kinds_of[step.a], kinds_of[step.b]))
            code += bytes((step.code, number, step.a, step.b))
    stores = []
    for (sequence, field), step_number in plan.stores.items():
        kind = kinds_of[step_number]
        as_int = field == FIELDS["grad"] and kind == 0
        if kind not in (FLOATS, float) and not as_int:
            raise Unsupported
        stores.append((step_number, sequence, field, as_int))
    return bytes(code), loads, constants, stores


def _kind(code: int, a: Any, b: Any) -> Any:
    """Return the kind of a result. A number's kind is `float`, or the sign of an int."""
    operands = {a, b} if code not in (NEG, SQRT) else {a}
    if MIXED not in operands:
        if code in (MAX, MIN) and operands - {FLOATS, float}:
            raise Unsupported
        return FLOATS
    ints = [kind for kind in operands if type(kind) is int]
    if code in (MAX, MIN, NEG):
        raise Unsupported
    if code in (SQRT, DIV):
        return FLOATS
    if code == POW:
        if a is not MIXED or type(b) is not int:
            if b is float or b is FLOATS:
                return FLOATS
            raise Unsupported
        if b <= 0:
            raise Unsupported
        return MIXED
    if FLOATS in operands or float in operands:
        return FLOATS
    if not ints:
        return MIXED
    if code == MUL and ints[0] >= 0:
        return MIXED
    raise Unsupported


# ------------------------------------------------------------------ rewriting


class Rewriter(ast.NodeTransformer):
    """Give the loops over parameters in a module their `over`, and let small functions be seen."""

    def __init__(self, filename: str, reference: Callable[[str], ast.expr] = ast.Constant) -> None:
        self.filename, self.reference = filename, reference
        self.depth = 0  # of classes
        self.loops: dict[str, Loop] = {}

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if {"__add__", "__mul__", "backward"} <= methods:
            return node  # it is judged as it stands
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        small = len(node.args.args) in (1, 2) and len(node.body) < 10
        if not self.depth and small and not node.decorator_list:
            constant = ast.copy_location(self.reference(FUNCTION), node)
            node.decorator_list = [
                ast.copy_location(ast.Attribute(constant, "seen", ast.Load()), node)
            ]
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        if _may_be_elementwise(node):
            loop = Loop(node, self.filename)
            marker = f"\0microgpt loop {len(self.loops)} {self.filename}"
            self.loops[marker] = loop
            constant = ast.copy_location(self.reference(marker), node.iter)
            over = ast.copy_location(ast.Attribute(constant, "over", ast.Load()), node.iter)
            node.iter = ast.copy_location(ast.Call(over, [node.iter], []), node.iter)
        return node


def _may_be_elementwise(node: ast.For) -> bool:
    """Tell whether a loop's body does nothing but assign, to data or grad among others."""
    stores = False
    pending = list(node.body)
    while pending:
        statement = pending.pop()
        if isinstance(statement, ast.If):
            pending += [*statement.body, *statement.orelse]
        elif isinstance(statement, (ast.Assign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            stores |= any(isinstance(t, ast.Attribute) and t.attr in FIELDS for t in targets)
        elif not isinstance(statement, ast.Pass) and not (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            return False
    return stores


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
