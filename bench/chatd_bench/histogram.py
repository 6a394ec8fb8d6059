"""Latencies in a fixed amount of memory: linear buckets, so that several generators' records are added up exactly.

Pure. A bucket is 10 us wide, the last one holds everything from ten seconds on; a percentile is the upper edge of its
bucket, so it is never better than what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

BUCKET_US = 10
BUCKETS = 1_000_000

Pairs = list[tuple[int, int]]


class Histogram:
    """Counts of latencies. The hot paths of the scenarios write ``counts`` themselves: a call doubles their cost."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS

    def record(self, us: int) -> None:
        """Count one latency in microseconds; below zero (two cores' clocks) counts as none."""
        self.counts[bucket_of(us)] += 1

    def clear(self) -> None:
        """Forget everything, as at the end of the warm-up."""
        self.counts[:] = [0] * BUCKETS

    def add(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Add what another histogram gave as ``pairs``."""
        for bucket, count in pairs:
            self.counts[bucket] += count

    def pairs(self) -> Pairs:
        """The buckets that are not empty, with their counts: what is sent between processes."""
        return [(bucket, count) for bucket, count in enumerate(self.counts) if count]

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that ``percent`` of all did not exceed, in ms; None when nothing was recorded."""
        pairs = self.pairs()
        rank = math.ceil(sum(count for _, count in pairs) * percent / 100)
        for bucket, count in pairs:
            rank -= count
            if rank <= 0:
                return (bucket + 1) * BUCKET_US / 1000
        return None


def bucket_of(us: int) -> int:
    """The index in ``Histogram.counts`` for a latency in microseconds."""
    return min(max(us, 0) // BUCKET_US, BUCKETS - 1)
