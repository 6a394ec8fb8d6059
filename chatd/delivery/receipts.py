"""Receipts on their way: merged while they wait, and paced in larger groups. Pure.

The larger the group, the more marks it has and the less each of them says: up to 50 members each is told with the next
tick, up to 200 at most one a second for each member, beyond it only counts, once a second. Merging loses nothing: marks
are up-to, and what is told last is right. Bounded in what waits; beyond it what is new is dropped, and counted by the owner.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

PACED_ABOVE = 50
COUNTED_ABOVE = 200
PACE_SECONDS = 1.0
MAX_WAITING = 20_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Paced(Generic[K, V]):
    """What waits to be told, by key, the oldest first; a key marked as *paced* at most once in ``seconds``.

    The owner merges: ``get`` what waits, ``put`` the union.
    """

    def __init__(self, bound: int = MAX_WAITING, seconds: float = PACE_SECONDS) -> None:
        self._bound = bound
        self._seconds = seconds
        self._waiting: dict[K, tuple[V, bool]] = {}
        self._told: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, key: K) -> V | None:
        """What waits under the key."""
        found = self._waiting.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, *, paced: bool) -> bool:
        """Let it wait, in the place of what waited under the key. False: there is no room for another key."""
        if key not in self._waiting and len(self._waiting) >= self._bound:
            return False
        self._waiting[key] = (value, paced)
        return True

    def take(self, now: float, limit: int) -> list[tuple[K, V]]:
        """At most ``limit`` of what may be told now."""
        self._forget_told(now)
        taken: list[tuple[K, V]] = []
        for key, (value, paced) in self._waiting.items():
            if len(taken) >= limit:
                break
            if paced and key in self._told:
                continue
            taken.append((key, value))
        for key, _ in taken:
            if self._waiting.pop(key)[1]:
                self._told[key] = now
        return taken

    def _forget_told(self, now: float) -> None:
        old = []
        for key, told in self._told.items():  # in the order of time: told anew, they were not there
            if now - told < self._seconds:
                break
            old.append(key)
        for key in old:
            del self._told[key]


def merged(one: tuple[int, int, int] | None, other: tuple[int, int, int]) -> tuple[int, int, int]:
    """Two (delivered, read, device_no) of one member; -1 as device where it was not the same."""
    if one is None:
        return other
    return max(one[0], other[0]), max(one[1], other[1]), one[2] if one[2] == other[2] else -1


def widened(one: tuple[int, int] | None, other: tuple[int, int]) -> tuple[int, int]:
    """The range that holds two."""
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))
