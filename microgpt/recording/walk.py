"""The order in which the oracle's walk finishes a recorded graph, for every target at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from microgpt.recording.recorder import RecordingError

NEW, BEFORE, FIRST, LATER = range(4)  # when the walk has reached a slot

Entry = tuple[Any, ...]


class Walk:
    """The order in which the oracle's walk finishes the nodes below a root.

    An entry is (slot, start, stop): terms of a dot product are finished in pieces where one
    of them is the first to reach a node. The entry of a SELECT is (slot, groups, shared): groups
    has, for each target, the segments of entries that only its logit reaches; shared has the
    entries that every logit reaches. The segments of the target's group lie around them.
    """

    def __init__(self, nodes: list[tuple[Any, ...]]) -> None:
        self.nodes = nodes
        self.reached = bytearray([BEFORE if node[0] == "" else NEW for node in nodes])
        self.finished: set[int] = set()  # ids of lists of slots that are all BEFORE

    def children(self, slot: int) -> tuple[Sequence[int], int]:
        """Return the slots that a node is computed from, and how many make a term."""
        op, *args = self.nodes[slot]
        if op == "dot":
            return [s for pair in zip(*args) for s in pair], 2
        if op == "sum":
            return args[0], 1
        return (args[:1] if op == "**" else args), 0

    def entries(self, root: int, group: _Group | None = None) -> list[Entry]:
        """Return the entries below a root that is not reached yet; into a group if given."""
        if self.nodes[root][0] == "select":
            return self._select(root)
        out: list[Entry] = [] if group is None else group.entries
        mark = BEFORE if group is None else group.mark
        stack: list[list[Any]] = []
        self._open(root, mark, stack, group)
        while stack:
            frame = stack[-1]
            slot, children, width, i, start = frame
            n = len(children)
            while i < n:
                child = children[i]
                state = self.reached[child]
                i += 1
                if state == BEFORE or (
                    state != NEW and group is not None and not group.touches(child, state)
                ):
                    continue
                if width and (i - 1) // width > start:
                    out.append((slot, start, (i - 1) // width))
                    start = (i - 1) // width
                if state != NEW and group is not None:
                    group.cut(child)
                    continue
                frame[3:] = i, start
                if self.nodes[child][0] != "select":
                    self._open(child, mark, stack, group)
                    break
                if group is not None:
                    raise RecordingError("the logits of a target depend on another target")
                self.reached[child] = BEFORE
                out.extend(self._select(child))
            else:
                out.append((slot, start, n // width if width else 0))
                if group is not None:
                    group.ended[slot] = len(out)
                stack.pop()
        return out

    def _open(self, slot: int, mark: int, stack: list[list[Any]], group: _Group | None) -> None:
        self.reached[slot] = mark
        if group is not None:
            group.begun[slot] = len(group.entries)
        node = self.nodes[slot]
        if node[0] == "dot" and self._is_finished(node[2]) and self._is_finished(node[1]):
            # The usual case: nothing new below a row.
            stack.append([slot, range(2 * len(node[1])), 2, 2 * len(node[1]), 0])
            return
        stack.append([slot, *self.children(slot), 0, 0])

    def _is_finished(self, slots: tuple[int, ...]) -> bool:
        if id(slots) not in self.finished:
            states = bytes(map(self.reached.__getitem__, slots))
            if states.count(BEFORE) < len(states):
                return False
            self.finished.add(id(slots))
        return True

    def _select(self, slot: int) -> list[Entry]:
        _, _, exps, total, inverse = self.nodes[slot]
        for x in (*exps, total, inverse):
            if self.reached[x] != NEW:
                raise RecordingError("what a target chooses from is computed more than once")
        first = _Group(FIRST, None)
        self.entries(exps[0], first)
        groups = [first]
        for x in exps[1:]:
            if self.reached[x] != NEW:
                raise RecordingError(_UNEQUAL)
            group = _Group(LATER, first)
            self.entries(x, group)
            group.close()
            groups.append(group)
        for group in groups:
            for s in group.begun:
                self.reached[s] = BEFORE
        self.reached[total] = self.reached[inverse] = BEFORE
        shared = [first.entries[a:b] for _, a, b in first.spans]
        return [
            (slot, [group.segments() for group in groups], shared),
            (total, 0, len(exps)),
            (inverse, 0, 0),
            (slot, 0, 0),
        ]


_UNEQUAL = (
    "the logits that a target chooses from are computed in different ways: the order of the "
    "gradients would depend on the target. Make them the outputs of one linear"
)


class _Group:
    """The entries below one target's logit, and where they meet those of the first target.

    The first group holds the shared entries too: spans are (slot, begin, end) in its entries.
    Every later group has to meet the same slots in the same order.
    """

    def __init__(self, mark: int, first: _Group | None) -> None:
        self.mark = mark
        self.first = first
        self.entries: list[Entry] = []
        self.begun: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.spans: list[tuple[int, int, int]] = []  # of the first group alone
        self.begins: list[int] = []
        self.cuts: list[int] = []  # where the entries of a later group are cut
        self.is_fixed = False

    def touches(self, slot: int, state: int) -> bool:
        """Return whether a slot is met for the first time that the first group has reached."""
        first = self.first
        if first is None or slot in self.begun:
            return False
        if state != FIRST:
            raise RecordingError(_UNEQUAL)
        k = bisect_right(first.begins, first.begun[slot], hi=len(self.cuts)) - 1
        return k < 0 or first.ended[slot] > first.spans[k][2]

    def cut(self, slot: int) -> None:
        first, k = self.first, len(self.cuts)
        assert first is not None
        if not first.is_fixed:
            begin, end = first.begun[slot], first.ended[slot]
            if first.spans and begin < first.spans[-1][2]:
                raise RecordingError(_UNEQUAL)
            first.spans.append((slot, begin, end))
            first.begins.append(begin)
        elif k >= len(first.spans) or first.spans[k][0] != slot:
            raise RecordingError(_UNEQUAL)
        self.cuts.append(len(self.entries))

    def close(self) -> None:
        first = self.first
        assert first is not None
        if len(self.cuts) != len(first.spans):
            raise RecordingError(_UNEQUAL)
        first.is_fixed = True

    def segments(self) -> list[list[Entry]]:
        """Return the entries of this group alone, cut where it meets the shared ones."""
        if self.first is None:
            begins = [0, *(b for _, _, b in self.spans)]
            ends = [*(a for _, a, _ in self.spans), len(self.entries)]
        else:
            begins, ends = [0, *self.cuts], [*self.cuts, len(self.entries)]
        return [self.entries[a:b] for a, b in zip(begins, ends)]
