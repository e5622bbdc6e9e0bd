"""Which gradients stay ints: the oracle's are, where backward adds nothing but ints.

Its root's gradient is the int 1, and the local gradients of `+` are ints 1; a product has an
int where it is multiplied by one. All other local gradients are floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from microgpt.recording.recorder import ADD, DOT, LEAF, MUL, POW, SELECT, SUM, Recorder

INT, UNKNOWN, FLOAT = range(3)  # of several terms the largest says what their sum is
MAX_FACTOR = 2**20  # sums of products of larger ints may leave 53 bits


def int_gradients(recorder: Recorder, root: int) -> list[int] | None:
    """Return the leaves that a root's gradient of the int 1 reaches as ints alone.

    None if that depends on the numbers, or the root's own number may be an int.
    """
    if root in recorder.ints:
        return None
    kinds = _kinds(recorder, root, floats=False)
    if not any(recorder.nodes[slot][0] == LEAF for slot in kinds):
        return []  # as usual: a float stands in the way to every leaf
    kinds = _kinds(recorder, root, floats=True)
    kinds = {slot: kind for slot, kind in kinds.items() if recorder.nodes[slot][0] == LEAF}
    if UNKNOWN in kinds.values():
        return None
    return [slot for slot, kind in kinds.items() if kind == INT]


def _kinds(recorder: Recorder, root: int, floats: bool) -> dict[int, int]:
    """Return the kinds of gradients, without floats those that no float has been added to."""
    kinds = {root: INT}
    constants = set(recorder.constants.values()) | set(recorder.numbers)
    for slot in range(root, recorder.n_weights - 1, -1):  # children come before their nodes
        if slot in kinds:
            for child, kind in _terms(recorder, slot):
                kind = max(kind, kinds[slot])
                if child not in constants and (floats or kind != FLOAT):
                    kinds[child] = max(kind, kinds.get(child, INT))
    return kinds


def _terms(recorder: Recorder, slot: int) -> Iterator[tuple[int, int]]:
    """Yield the children of a node with the kinds of its local gradients."""
    op, *args = recorder.nodes[slot]
    if op in (MUL, DOT):
        for a, b in [args] if op == MUL else zip(*args):
            yield a, _kind(recorder, b)
            yield b, _kind(recorder, a)
    elif op in (ADD, SUM):
        for child in args if op == ADD else args[0]:
            yield child, INT
    elif op == SELECT:
        for child in (*args[1], args[3]):
            yield child, FLOAT
    else:
        children: list[Any] = args[:1] if op == POW else args
        for child in children:
            yield child, UNKNOWN if op == POW and child in recorder.ints else FLOAT


def _kind(recorder: Recorder, slot: int) -> int:
    """Return what a number is: a constant int, perhaps an int, or a float."""
    if slot not in recorder.ints:
        return FLOAT
    for (_, number), constant in recorder.constants.items():
        if constant == slot:
            return INT if abs(memoryview(number).cast("d")[0]) <= MAX_FACTOR else UNKNOWN
    return UNKNOWN
