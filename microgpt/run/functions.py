"""Functions of lists, recognised by the graph that they build.

`linear`, `softmax`, `rmsnorm` and dot products, whatever their names: a function of the script is
called on nodes of the compiled class and has to build the very graph that the compiled one builds:
the same nodes, children, order. The function object stays, and gets code that calls the compiled
function, or the script's code if the compiled function cannot handle the arguments.
"""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

from microgpt import _script
from microgpt.run import probes
from microgpt.run.mentions import early, short
from microgpt.run.observed import DATA

Compiled = Callable[..., Any]
FOUND = "_microgpt_found"
NAMES = frozenset(
    (*DATA, *"sum zip max len range enumerate data exp append float list map pow min".split())
)
replaced: list[tuple[str, str, str]] = []  # place, name, what by
_pending: list[types.FunctionType] = []
_adoptions: list[Any] = []


def seen(function: Any) -> Any:
    """Judge a function that has just been defined; return it, or the same made before."""
    function = early.pop(id(getattr(function, "__code__", None)), function)
    if isinstance(function, types.FunctionType) and _may_match(function):
        if _adoptions:
            _judge(function, _adoptions[-1])
        else:
            _pending.append(function)
    return function


def class_known(adoption: Any) -> None:
    """Judge the functions that were defined before the class."""
    _adoptions.append(adoption)
    for function in _pending:
        _judge(function, adoption)
    _pending.clear()


def _may_match(function: types.FunctionType) -> bool:
    """Return whether a function could be one of ours: small, and all its names are known."""
    code = function.__code__
    return (
        code.co_argcount in (1, 2)
        and not code.co_kwonlyargcount
        and not code.co_flags & 0x2C  # *args, **kwargs, generators
        and not code.co_freevars
        and not function.__defaults__
        and len(code.co_code) < 400
        and _knows(code, function.__globals__)
    )


def _knows(code: types.CodeType, scope: dict[str, Any]) -> bool:
    names = set(code.co_names)
    return (
        names <= NAMES
        and not any(name in scope for name in names if hasattr(builtins, name))
        and all(_knows(c, scope) for c in code.co_consts if isinstance(c, types.CodeType))
    )


def _judge(function: types.FunctionType, adoption: Any) -> None:
    for what, compiled, cases in _templates(function, adoption.cls):
        if _equal(function, compiled, cases, adoption):
            code = function.__code__
            place = f"{code.co_filename}:{code.co_firstlineno}"
            own = types.FunctionType(code, function.__globals__, function.__name__)
            functools.update_wrapper(own, function)
            function.__code__ = calling(own, compiled, sorted(_builtin_names(code))).__code__
            own.__dict__.pop("__wrapped__")
            function.__wrapped__ = own  # type: ignore[attr-defined]  # for inspect
            replaced.append((short(place), function.__name__, f"the compiled {what}"))
            return


def _templates(
    function: types.FunctionType, cls: type
) -> Iterator[tuple[str, Compiled, list[Any]]]:
    """Yield the compiled functions that a function with so many parameters could be."""
    rows = _rows(cls)
    if function.__code__.co_argcount == 1:
        yield "softmax", _script.softmax, [(x,) for x, _ in rows]
        for eps in {c for c in function.__code__.co_consts if type(c) is float and 0 < c < 0.1}:
            yield "rmsnorm", _bind_eps(eps), [(x,) for x, _ in rows]
        return
    matrices = [(x, w) for x, w in rows]
    for x_first in (False, True):
        yield "linear", (lambda x, w, f=x_first: _script.linear(x, w, f)), matrices
        yield "linear", (lambda w, x, f=x_first: _script.linear(x, w, f)), [(w, x) for x, w in rows]
    vectors = [(x, w[0]) for x, w in rows]
    yield "dot product", _script.dot, vectors
    yield "dot product", (lambda a, b: _script.dot(b, a)), vectors


def _bind_eps(eps: float) -> Compiled:
    return lambda x: _script.rmsnorm(x, eps)


def _rows(cls: type) -> list[tuple[list[Any], list[list[Any]]]]:
    """Return vectors and matrices of fresh nodes; some share and repeat their leaves."""
    cases = []
    for n, m, shared in ((1, 1, False), (3, 2, False), (4, 3, True), (5, 1, True)):
        x = [cls(0.25 + 0.5 * i * (-1) ** i) for i in range(n)]
        w = [[cls(1.0 - 0.3 * i + 0.7 * j) for i in range(n)] for j in range(m)]
        if shared:
            x[-1] = x[0]
            w[0][1] = x[0]
            w[-1][0] = w[0][0]
        cases.append((x, w))
    return cases


def _equal(
    function: types.FunctionType, compiled: Compiled, cases: list[Any], adoption: Any
) -> bool:
    probe = probes.Probe(adoption.cls, adoption.family, sets=False)
    for arguments in cases:
        described = []
        for call in (function, compiled):
            try:
                result = call(*arguments)
            except Exception:
                return False
            if result is None:
                return False
            seen_graph = probes.Seen(probe)
            described.append([seen_graph(list(arguments)), seen_graph(result), type(result)])
        if described[0] != described[1]:
            return False
    return True


def calling(
    own: types.FunctionType, compiled: Compiled, names: Collection[str] = (), result: str = FOUND
) -> types.FunctionType:
    """Return a function like one of the script's that calls a compiled one first.

    It calls its own where the compiled one gives None, is given more than a node, or one of
    some built-in names, such as `sum`, means another function than it did.
    """
    code = own.__code__
    is_plain = not (own.__defaults__ or code.co_kwonlyargcount or code.co_flags & 0x0C)
    given = ", ".join(code.co_varnames[: code.co_argcount if is_plain else 1])
    rest, condition = ("", "") if is_plain else (", *args, **kwargs", "not (args or kwargs) and ")
    if names:
        condition += f"({', '.join([*names, ''])}) == '\\0names' and "
    # What is called would be a constant, which Python warns of.
    text = (
        f"def {code.co_name if code.co_name.isidentifier() else 'f'}({given}{rest}):\n"
        f" if {condition}({FOUND} := ('\\0compiled' if 1 else 0)({given})) is not None:\n"
        f"  return {result}\n"
        f" return ('\\0own' if 1 else 0)({given}{rest})"
    )
    marks = {
        "\0compiled": compiled,
        "\0own": own,
        "\0names": tuple(getattr(builtins, name) for name in names),
    }
    # Frames of that file are taken out of tracebacks (execution).
    module = compile(text, f"{_script.__name__}.pyx", "exec", dont_inherit=True)
    made = next(part for part in module.co_consts if isinstance(part, types.CodeType))
    constants = tuple(marks.get(c, c) if isinstance(c, str) else c for c in made.co_consts)
    made = made.replace(co_consts=constants)
    return cast(
        types.FunctionType,
        functools.update_wrapper(types.FunctionType(made, own.__globals__, own.__name__), own),
    )


def _builtin_names(code: types.CodeType) -> set[str]:
    found = {name for name in code.co_names if hasattr(builtins, name)}
    return found.union(
        *(_builtin_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    )
