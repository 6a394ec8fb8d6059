"""When things are due: one moment per key, moved and cancelled at will. Pure; time is whatever number the caller uses."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64


class Timers(Generic[K]):
    """A heap whose outdated entries are skipped; it is made anew when they are the greater part, so memory is O(keys)."""

    __slots__ = ("_at", "_heap", "_number")

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: K) -> bool:
        return key in self._at

    def set(self, key: K, at: float) -> None:
        """Due at ``at``, whatever was said before."""
        self._at[key] = at
        self._number += 1  # what is due at one moment comes in the order in which it was set, and keys are not compared
        heappush(self._heap, (at, self._number, key))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Never due; one that is not there does no harm."""
        self._at.pop(key, None)

    def due(self, now: float, most: int = sys.maxsize) -> list[K]:
        """Take out what is due by now, earliest first, at most so many."""
        taken: list[K] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < most:
            at, _, key = heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                taken.append(key)
        return taken
