"""Receipts on their way: merged while they wait, and paced in larger groups. Pure.

The larger the group, the more marks it has and the less each of them says: up to 50 members each is told with the next
tick, up to 200 at most one a second for each member, beyond it only counts, once a second. Merging loses nothing: marks
are up-to, and what is told last is right. Bounded in what waits; beyond it what is new is dropped, and counted by the owner.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from chatd.timers import Timers

PACED_ABOVE = 50
COUNTED_ABOVE = 200
PACE_SECONDS = 1.0
MAX_WAITING = 20_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Paced(Generic[K, V]):
    """What waits to be told, by key, the oldest first; a key marked as *paced* at most once in ``seconds``.

    The owner merges: ``get`` what waits, ``put`` the union. What was told lately and has news waits apart, so that ``take``
    looks only at what it takes: it is called many times in a tick.
    """

    def __init__(self, bound: int = MAX_WAITING, seconds: float = PACE_SECONDS) -> None:
        self._bound = bound
        self._seconds = seconds
        self._ready: OrderedDict[K, tuple[V, bool]] = OrderedDict()
        self._early: dict[K, V] = {}
        self._told: Timers[K] = Timers()

    def __len__(self) -> int:
        return len(self._ready) + len(self._early)

    def get(self, key: K) -> V | None:
        """What waits under the key."""
        found = self._ready.get(key)
        return self._early.get(key) if found is None else found[0]

    def put(self, key: K, value: V, *, paced: bool) -> bool:
        """Let it wait, in the place of what waited under the key. False: there is no room for another key."""
        if key not in self._ready and key not in self._early and len(self) >= self._bound:
            return False
        if paced and key not in self._ready and key in self._told:
            self._early[key] = value
        else:
            self._early.pop(key, None)
            self._ready[key] = (value, paced)
        return True

    def take(self, now: float, limit: int) -> list[tuple[K, V]]:
        """At most ``limit`` of what may be told now."""
        for key in self._told.due(now):
            if key in self._early:
                self._ready[key] = (self._early.pop(key), True)
        taken: list[tuple[K, V]] = []
        while self._ready and len(taken) < limit:
            key, (value, paced) = self._ready.popitem(last=False)
            taken.append((key, value))
            if paced:
                self._told.set(key, now + self._seconds)
        return taken


def merged(one: tuple[int, int, int] | None, other: tuple[int, int, int]) -> tuple[int, int, int]:
    """Two (delivered, read, device_no) of one member; -1 as device where it was not the same."""
    if one is None:
        return other
    return max(one[0], other[0]), max(one[1], other[1]), one[2] if one[2] == other[2] else -1


def widened(one: tuple[int, int] | None, other: tuple[int, int]) -> tuple[int, int]:
    """The range that holds two."""
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))
