"""Latencies as HdrHistogram keeps them: three significant digits from 1 us on, in memory that does not grow."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

HIGHEST_US = 3600 * 10**6
DIGITS = 3
PERCENTILES = (50, 90, 99, 99.9)

Counts = dict[int, int]
"""By index in HdrHistogram's array; what is sent between processes. Only what is not 0."""


def counts_of(pointer: ctypes.Array[ctypes.c_uint64] | Iterable[int]) -> Counts:
    """From the engine's array, which has the same layout."""
    return {index: count for index, count in enumerate(pointer) if count}


def merged(parts: Iterable[Mapping[int, int]]) -> HdrHistogram:
    """All that several generators counted."""
    histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
    for part in parts:
        for index, count in part.items():
            histogram.record_value(histogram.get_value_from_index(index), count)
    return histogram


def figures_ms(histogram: HdrHistogram) -> dict[str, float] | None:
    """Percentiles in ms, with the worst and the number of samples; None where nothing was counted."""
    if not histogram.total_count:
        return None
    figures = {f"p{percent:g}": histogram.get_value_at_percentile(percent) / 1000 for percent in PERCENTILES}
    return {**figures, "max": histogram.get_max_value() / 1000, "count": histogram.total_count}


def curve_ms(histogram: HdrHistogram) -> list[tuple[float, float]]:
    """(percentile, ms), from 0 to 100 in the steps that a latency curve is drawn with."""
    if not histogram.total_count:
        return []
    steps = [*range(0, 90, 5), *range(90, 99), 99, 99.5, 99.9, 99.95, 99.99, 99.999, 100]
    return [(float(step), histogram.get_value_at_percentile(step) / 1000) for step in steps]
