"""Latencies in memory that does not grow, so that several generators' records are added up exactly: HdrHistogram's layout.

Three significant digits: a bucket is 1 us wide up to 2 ms, 2 us up to 4 ms, and so on; it ends with four hours. Percentiles
are the upper edges of buckets, so none is better than what was seen. engine.c counts in the same layout (wire.h). Written
here and not imported: the library has no wheel for Linux on ARM, and is forty lines as far as it is needed; a test holds
the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

HALF_BITS = 10
HALF = 1 << HALF_BITS
BUCKETS = 24 * HALF
PERCENTILES = (50, 90, 99, 99.9)
CURVE = (*range(0, 90, 5), *range(90, 99), 99, 99.5, 99.9, 99.95, 99.99, 99.999, 100)

Counts = dict[int, int]
"""By bucket, what is not 0."""


class Histogram:
    """Counts of latencies in microseconds."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counts = dict(counts or {})

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    def record(self, us: int) -> None:
        """Count one; below zero (two cores' clocks) counts as none."""
        bucket = bucket_of(us)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def add(self, counts: Mapping[int, int]) -> None:
        """Add what another one counted."""
        for bucket, count in counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def percentile_ms(self, percent: float) -> float | None:
        """What ``percent`` of all did not exceed, in ms; None when nothing was recorded."""
        rank = max(1, math.ceil(self.total * percent / 100))
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return upper_edge(bucket) / 1000
        return None

    def figures_ms(self) -> dict[str, float] | None:
        """Percentiles in ms, with the worst and the number of samples; None where nothing was counted."""
        if not self.counts:
            return None
        figures = {f"p{percent:g}": self.percentile_ms(percent) or 0.0 for percent in PERCENTILES}
        return {**figures, "max": upper_edge(max(self.counts)) / 1000, "count": self.total}

    def curve_ms(self) -> list[tuple[float, float]]:
        """(percentile, ms), in the steps that a latency curve is drawn with."""
        return [(float(step), self.percentile_ms(step) or 0.0) for step in CURVE] if self.counts else []


def merged(parts: Iterable[Mapping[int, int]]) -> Histogram:
    """All that several generators counted."""
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def bucket_of(us: int) -> int:
    """Where a latency is counted."""
    value = max(us, 0)
    shift = (value | (2 * HALF - 1)).bit_length() - (HALF_BITS + 1)
    return min(((shift + 1) << HALF_BITS) + (value >> shift) - HALF, BUCKETS - 1)


def upper_edge(bucket: int) -> int:
    """The highest latency in us that is counted there."""
    shift = max(0, (bucket >> HALF_BITS) - 1)
    base = bucket if bucket < 2 * HALF else (bucket & (HALF - 1)) + HALF
    return ((base + 1) << shift) - 1
