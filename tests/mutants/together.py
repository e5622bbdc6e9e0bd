"""Many mutants of one module in one build: each is a branch that a number chooses.

A statement that mutants edit becomes

    if MUTANT == 7:
        the edited statement
    elif MUTANT == 9:
        ...
    else:
        the statement as it was

where MUTANT is read from the environment when the module is imported. An edit without
such a form, of a declaration or a header, gets a build of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = """\
#include <stdlib.h>
static int MUTANT = -1;
__attribute__((constructor)) static void read_mutant(void) {
    const char *number = getenv("MUTANT");
    if (number) MUTANT = atoi(number);
}
"""
DECLARATION = '\ncdef extern from "mutant.h" nogil:\n    int MUTANT\n'
CONTINUES = ("elif", "else", "except", "finally")
FIXED = ("def", "cdef", "cpdef", "class", "ctypedef", "cimport", "from", "import")


class Statement(NamedTuple):
    """A logical line: the numbers of its first line and of the one after its last."""

    first: int
    last: int
    indent: int
    word: str


def statements(lines: list[str]) -> list[Statement]:
    """Return the logical lines of a source; blank lines and comments belong to none."""
    found = []
    i = 0
    while i < len(lines):
        line = lines[i]
        stripped = line.strip()
        first, depth, quoted = i, 0, False
        while True:
            quoted ^= lines[i].count('"""') % 2 == 1
            if not quoted:
                code = re.sub(r'"[^"]*"|\'[^\']*\'|#.*', "", lines[i])
                depth += sum(map(code.count, "([{")) - sum(map(code.count, ")]}"))
            i += 1
            if i == len(lines) or not (quoted or depth or lines[i - 1].rstrip().endswith("\\")):
                break
        if stripped and not stripped.startswith("#"):
            word = re.match(r"@|\w*", stripped)
            found.append(
                Statement(first, i, len(line) - len(line.lstrip()), (word and word[0]) or "")
            )
    return found


def region(lines: list[str], first: int, last: int) -> tuple[int, int] | None:
    """Return the smallest run of whole statements, of one block, around lines first to last."""
    known = statements(lines)
    inside = [s for s, at in enumerate(known) if at.first < last and at.last > first]
    if not inside:
        return None
    low, high = inside[0], inside[-1]
    if not is_in_function(lines, known, low):
        return None
    while True:
        indent = min(at.indent for at in known[low : high + 1])
        if indent == 0 or any(at.word in (*FIXED, "@") for at in known[low : high + 1]):
            single = low == high and indent and known[low].word == "cdef"
            return (known[low].first, known[low].last) if single else None
        if known[low].indent > indent or known[low].word in CONTINUES:
            low -= 1
            continue
        after = known[high + 1] if high + 1 < len(known) else None
        if after and (
            after.indent > indent or (after.indent == indent and after.word in CONTINUES)
        ):
            high += 1
            continue
        return known[low].first, known[high].last


def is_in_function(lines: list[str], known: list[Statement], s: int) -> bool:
    """Return whether a statement stands in the body of a function."""
    indent = known[s].indent
    for at in reversed(known[:s]):
        if at.indent < indent:
            indent = at.indent
            if at.word in ("def", "cdef", "cpdef") and "(" in lines[at.first]:
                return True
    return False


def joined(text: str, edits: dict[int, tuple[str, str]]) -> tuple[str, set[int]]:
    """Return a source with the edits (before, after) as branches, and which of them it has."""
    lines = text.split("\n")
    regions: dict[int, tuple[int, int]] = {}
    for number, (before, after) in edits.items():
        start = text.index(before)
        same = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), len(after))
        same = min(same, len(before) - 1)
        first = text.count("\n", 0, start + same)
        tail = next(
            (i for i, (a, b) in enumerate(zip(before[:same:-1], after[:same:-1])) if a != b), 0
        )
        last = text.count("\n", 0, start + len(before) - tail) + (before[-1] != "\n" or tail > 0)
        found = region(lines, first, max(last, first + 1))
        if found:
            regions[number] = found
    groups: list[tuple[int, int, list[int]]] = []
    for number, (first, last) in sorted(regions.items(), key=lambda item: item[1]):
        if groups and first < groups[-1][1]:
            old = groups.pop()
            groups.append((old[0], max(old[1], last), [*old[2], number]))
        else:
            groups.append((first, last, [number]))
    out = list(lines)
    done: set[int] = set()
    end = len(lines)
    for first, last, numbers in reversed(groups):
        found = region(lines, first, last)
        if found is None or found[1] > end:
            continue
        branches = branched(lines, *found, {number: edits[number] for number in numbers})
        if branches:
            out[found[0] : found[1]] = branches
            done.update(numbers)
            end = found[0]
    return "\n".join(out), done


def branched(
    lines: list[str], first: int, last: int, edits: dict[int, tuple[str, str]]
) -> list[str] | None:
    """Return lines first to last with a branch for each edit, or None where that cannot be."""
    whole = "\n".join(lines)
    ahead = len("\n".join(lines[:first])) + (first > 0)
    behind = len("\n".join(lines[last:])) + (last < len(lines))
    indent = re.match(" *", lines[first])
    assert indent
    space = indent[0]
    original = lines[first:last]
    out: list[str] = []
    declares = original[0].strip().startswith("cdef ")
    if declares:
        out += original
    for number, (before, after) in edits.items():
        edited = whole.replace(before, after)
        body = edited[ahead : len(edited) - behind].split("\n")
        body = [line for line in body if line.strip()]
        if edited[:ahead] != whole[:ahead] or edited[len(edited) - behind :] != whole[-behind:]:
            return None
        if declares:
            assigned = re.fullmatch(r"\s*cdef [^=]*?(\w+) = (.*)", "\n".join(body), re.DOTALL)
            if not assigned or body[0].partition(" = ")[0] != original[0].partition(" = ")[0]:
                return None
            body = [space + f"{assigned[1]} = {assigned[2]}"]
        out.append(f"{space}{'if' if declares or not out else 'elif'} MUTANT == {number}:")
        out += ["    " + line for line in "\n".join(body).split("\n")] if body else []
        if not body:
            out.append(space + "    pass")
    if not declares:
        out.append(f"{space}else:")
        out += ["    " + line for line in original]
    return out
