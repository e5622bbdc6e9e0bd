"""The steps of a recorded graph, forward and backward, as arrays for the compiled `Recording`."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from microgpt._record import OPS, Recording
from microgpt.recording.ints import may_show_ints
from microgpt.recording.recorder import Recorder
from microgpt.recording.walk import Entry, Walk


class Assembler:
    """The steps of `Recording`, as its arrays, from the nodes and the walk."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.forward = array("q")
        self.backward = array("q")
        self.pieces = array("q")
        self.pool = array("q")
        self.powers = array("d")
        self.table = array("q")
        self.vectors: dict[int, list[tuple[int, int]]] = {}  # of a tuple by id: (slot, n) pieces
        for op, out, *args in recorder.order:
            self._step("unsigned" if out in recorder.unsigned else op, out, args)

    def _step(self, op: str, out: int, args: list[Any]) -> None:
        """Write a step forward, or let the last one do it too."""
        if op == "gather":
            number, first, _, width = args
            self._append("gather", width, out, first, 0, 0, 0, number)
        elif op == "largest":
            start = len(self.pool)
            self.pool.extend(args[0])
            self._append("largest", 1, out, 0, 0, start, 0, len(self.pool))
        elif op == "sum":
            self._append("sum", len(args[0]), out, args[0][0], 1)
        elif op == "select":
            number, exps, _, inverse = args
            self._append("select", 1, out, exps[0], 0, inverse, 0, number)
        elif op == "where":
            self._append("where", 1, out, args[0], 0, args[1], 0, args[2])
        elif op == "dot":
            self._product(out, *args)
        else:
            power = self._power(args.pop()) if op == "**" else 0
            a, b = args[0], args[1] if len(args) > 1 else 0
            last = self.forward[-8:]
            if len(last) and last[0] == OPS[op] and last[2] + last[1] == out and last[7] == power:
                # One more of the same: an operand is the same slot, or the next one.
                n, a_step, b_step = last[1], last[4], last[6]
                if n == 1:
                    a_step, b_step = a - last[3], b - last[5]
                if (a - last[3], b - last[5]) == (n * a_step, n * b_step) and (
                    a_step in (0, 1) and b_step in (0, 1)
                ):
                    self.forward[-7] = n + 1
                    self.forward[-4], self.forward[-2] = a_step, b_step
                    return
            self._append(op, 1, out, a, 0, b, 0, power)

    def _append(self, op: str, n: int, out: int, *rest: int) -> None:
        self.forward.extend([OPS[op], n, out, *rest, *[0] * (5 - len(rest))])

    def _power(self, k: float) -> int:
        if k not in self.powers:
            self.powers.append(k)
        return self.powers.index(k)

    def _vector(self, slots: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return slots as pieces (slot, n) that follow each other and share their home's row."""
        found = self.vectors.get(id(slots))
        if found is not None:
            return found
        gathered = self.recorder.gathered
        first, n = slots[0], len(slots)
        if slots == tuple(range(first, first + n)) and gathered.keys().isdisjoint(slots):
            pieces = [(first, n)]
        else:
            pieces = [(first, 1)]
            for s in slots[1:]:
                first, n = pieces[-1]
                if s == first + n and gathered.get(s) == gathered.get(s - 1):
                    pieces[-1] = first, n + 1
                else:
                    pieces.append((s, 1))
        self.vectors[id(slots)] = pieces
        return pieces

    def _products(
        self, a: tuple[int, ...], b: tuple[int, ...], start: int = 0, stop: int | None = None
    ) -> tuple[int, int]:
        """Write the pieces of some terms of a dot product; return where they lie."""
        first, todo = len(self.pieces) // 3, (len(a) if stop is None else stop) - start
        in_a, in_b = self._vector(a), self._vector(b)
        if len(in_a) == len(in_b) == 1:
            self.pieces.extend((in_a[0][0] + start, in_b[0][0] + start, todo))
            return first, first + 1
        left, right = iter(in_a), iter(in_b)
        s, n = _skip(left, start)
        t, m = _skip(right, start)
        while True:
            k = min(n, m, todo)
            self.pieces.extend((s, t, k))
            s, n, t, m, todo = s + k, n - k, t + k, m - k, todo - k
            if not todo:
                return first, len(self.pieces) // 3
            if not n:
                s, n = next(left)
            if not m:
                t, m = next(right)

    def _product(self, out: int, a: tuple[int, ...], b: tuple[int, ...]) -> None:
        vector = self._vector(a)
        width, last = len(a), self.forward[-8:]
        if (
            len(vector) == 1
            and len(last)
            and last[0] == OPS["linear"]
            and last[2] + last[1] == out
            and last[4] == width
            and vector[0][0] == last[3] + last[1] * width
            and self.linear is b
        ):
            self.forward[-7] += 1
            return
        start, stop = self._products(a, b)
        self.linear = b
        if len(vector) == 1:
            self._append("linear", 1, out, vector[0][0], width, start, 0, stop)
        else:
            self._append("dot", 1, out, 0, 0, start, 0, stop)

    linear: tuple[int, ...] | None = None

    def play(self, entries: Sequence[Entry]) -> None:
        """Write the steps backward of entries, the last one first."""
        for slot, start, stop in reversed(entries):
            op, *args = self.recorder.nodes[slot]
            step = [0] * 8
            step[0], step[2] = OPS[op], slot
            if op == "select" and isinstance(start, list):
                self._groups(args[0], start, stop)
                continue
            if op == "":
                continue
            if op == "dot":
                step[5], step[7] = self._products(args[0], args[1], start, stop)
            elif op == "sum":
                step[1], step[3] = stop - start, args[0][start]
            elif op == "select":
                step[3], step[5], step[7] = args[1][0], args[3], args[0]
            else:
                slots = args[:1] if op == "**" else args
                step[3] = slots[0]
                step[5] = slots[1] if len(slots) > 1 else 0
                step[7] = slots[2] if len(slots) > 2 else 0
            self.backward.extend(step)

    def _groups(self, number: int, groups: list[Any], shared: list[Any]) -> None:
        n, base = len(groups[0]), self.bases[id(groups)]
        self.backward.extend([OPS["groups"], n, 0, len(groups), 0, base, 0, number])
        for k in range(n - 1, -1, -1):
            self.backward.extend([OPS["segment"], n, 0, k, 0, base, 0, number])
            if k:
                self.play(shared[k - 1])

    def write_groups(self, entries: Sequence[Entry]) -> None:
        """Write the steps of all groups, which stand before the outermost steps."""
        for _, groups, shared in entries:
            if not isinstance(groups, list):
                continue
            for span in shared:
                self.write_groups(span)
            ranges = []
            for segments in groups:
                for segment in segments:
                    start = len(self.backward) // 8
                    self.play(segment)
                    ranges += [start, len(self.backward) // 8]
            self.bases[id(groups)] = len(self.table) // 2
            self.table.extend(ranges)

    def recording(self, root: int, backward: bool) -> Any:
        """Return the compiled program whose last slot to be computed is root."""
        self.bases: dict[int, int] = {}
        entries = Walk(self.recorder.nodes).entries(root) if backward else []
        self.write_groups(entries)
        main = len(self.backward) // 8
        self.play(entries)
        return Recording(
            len(self.recorder.nodes),
            self.recorder.n_weights,
            root,
            self.forward,
            self.backward,
            self.pieces,
            self.pool,
            self.powers,
            self.table,
            main,
            array("q", self.recorder.choices),
            [(slot, array("d", x)[0]) for (_, x), slot in self.recorder.constants.items()],
            self.recorder.numbers,
            2 if self.recorder.is_uncertain else may_show_ints(self.recorder, root),
        )


def _skip(pieces: Iterator[tuple[int, int]], count: int) -> tuple[int, int]:
    """Return the run that holds item number count, from that item on."""
    slot, n = next(pieces)
    while count >= n:
        count -= n
        slot, n = next(pieces)
    return slot + count, n - count
