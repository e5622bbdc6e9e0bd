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
S one whose data is s, and beside them N: a node made of others, no leaf;
("fn", function), ("class", definition), ("object", definition);
("key", tag) what a dict has as its keys, where that is more than a str.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Kind = frozenset[tuple[int, Any]]
NONE: Kind = frozenset()
DEEPEST = 5
VALUES = frozenset("VRWS")


def k(*tags: object) -> Kind:
    return frozenset((0, tag) for tag in tags)


def wrap(kind: Iterable[tuple[int, Any]]) -> Kind:
    return frozenset((min(depth + 1, DEEPEST), tag) for depth, tag in kind)


def unwrap(kind: Kind) -> Kind:
    found: set[tuple[int, Any]] = set()
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


def tags(kind: Kind) -> set[Any]:
    return {tag[1] if isinstance(tag, tuple) and tag[0] == "key" else tag for _, tag in kind}


def keys(kind: Kind) -> Kind:
    """Return the kind of what holds these as its keys."""
    return frozenset((1, ("key", tag)) for tag in tags(kind))


def union(*kinds: Kind) -> Kind:
    return NONE.union(*kinds)


def pair(op: str, a: Any, b: Any, see: Callable[[str], None]) -> Kind:
    """Return the kind of a number or `Value` that an operator gives for two tags."""
    both = {a, b}
    if both & VALUES:
        if "x" in both:
            see("computes a Value from a foreign library's number")
        if isinstance(a, tuple) or isinstance(b, tuple) or both & {"o", "N"}:
            return NONE
        return k(_value_pair(op, str(a), str(b)), "N")
    if "N" in both:
        return NONE
    if isinstance(a, tuple) or isinstance(b, tuple):
        return k("?")
    if "x" in both:
        if both & {"d", "s"}:
            see("hands a number that may be an int to a foreign library")
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
    return "R" if a == b == "R" else "W"
