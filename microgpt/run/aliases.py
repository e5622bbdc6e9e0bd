"""Which names may stand for the same container, so that what one adds the other holds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from microgpt.run.kinds import NONE, Kind


class Aliases:
    """Classes of keys that may share a container, and what was put into it by mutation.

    A container and what it contains are of one class: what is added at one level is
    taken to be at whatever level another key is known to hold something.
    """

    def __init__(self) -> None:
        self.parent: dict[Hashable, Hashable] = {}
        self.held: dict[Hashable, Kind] = {}

    def find(self, key: Hashable) -> Hashable:
        while key in self.parent:
            key = self.parent[key]
        return key

    def link(self, key: Hashable, others: Iterable[Hashable]) -> bool:
        """Join the classes of these; tell whether that is news."""
        news = False
        for other in others:
            a, b = self.find(key), self.find(other)
            if a != b:
                self.parent[a] = b
                self.held[b] = self.held.get(b, NONE) | self.held.pop(a, NONE)
                news = True
        return news

    def add(self, key: Hashable, kind: Kind) -> bool:
        """Put into the container of a class; tell whether that is news."""
        top = self.find(key)
        old = self.held.get(top, NONE)
        self.held[top] = old | kind
        return not kind <= old

    def of(self, key: Hashable, known: Kind) -> Kind:
        """Return what a key of a known kind may hold by another name's doing."""
        held = self.held.get(self.find(key), NONE)
        depths = {depth for depth, _ in known if depth}
        if not depths and held:
            depths = {max(depth for depth, _ in held)}
        return frozenset((depth, tag) for depth in depths for _, tag in held)
