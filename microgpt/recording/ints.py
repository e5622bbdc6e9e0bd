"""Whether a gradient may stay an int: the oracle's do, where backward adds nothing but ints.

Its root's gradient is the int 1, and the local gradients of `+` are ints 1; a product has an
int where it is multiplied by one. All other local gradients are floats.
"""

from __future__ import annotations

from collections.abc import Iterator

from microgpt.recording.recorder import Recorder


def may_show_ints(recorder: Recorder, root: int) -> bool:
    """Return whether the root's number, or a leaf's gradient, may be an int."""
    constants = {*recorder.constants.values(), *recorder.numbers}
    reached = {root}
    for slot in range(root, recorder.n_weights - 1, -1):  # children come before their nodes
        if slot in reached:
            reached.update(x for x in _reached_by_ints(recorder, slot) if x not in constants)
    return root in recorder.ints or any(recorder.nodes[slot][0] == "" for slot in reached)


def _reached_by_ints(recorder: Recorder, slot: int) -> Iterator[int]:
    """Yield the children by which a node's local gradient may be an int."""
    op, *args = recorder.nodes[slot]
    if op in ("*", "dot"):
        for a, b in [args] if op == "*" else zip(*args):
            if b in recorder.ints:
                yield a
            if a in recorder.ints:
                yield b
    elif op in ("+", "sum"):
        yield from args if op == "+" else args[0]
    elif op == "**" and args[0] in recorder.ints:
        yield args[0]
