"""Latencies are counted where HdrHistogram counts them, in Python and in C, and add up over generators."""

from __future__ import annotations

from random import Random

import pytest
from chatd_bench.histogram import BUCKETS, Histogram, bucket_of, merged, upper_edge


def test_it_agrees_with_hdrhistogram() -> None:
    """The same values give the same percentiles; the same index stands for the same values."""
    hdrh = pytest.importorskip("hdrh.histogram")
    reference = hdrh.HdrHistogram(1, 3600 * 10**6, 3)
    ours, random = Histogram(), Random(1)
    for _ in range(5000):
        us = int(random.paretovariate(0.4)) + random.randrange(3000)
        us = min(us, 3_000_000_000)
        reference.record_value(us)
        ours.record(us)
    for percent in (1, 50, 90, 99, 99.9, 100):
        assert ours.percentile_ms(percent) == reference.get_value_at_percentile(percent) / 1000, percent


def test_no_percentile_is_better_than_what_was_seen() -> None:
    """A bucket's edge is at most a thousandth above what it holds, and never below."""
    for us in [*range(5000), *(7**n for n in range(11))]:
        edge = upper_edge(bucket_of(us))
        assert us <= edge <= us * 1.001 + 1
    assert (bucket_of(-5), bucket_of(10**15)) == (0, BUCKETS - 1)


def test_two_halves_are_the_same_as_the_whole() -> None:
    """What several generators counted is added up exactly; nothing counted gives nothing."""
    halves, whole = (Histogram(), Histogram()), Histogram()
    for us in range(1, 4001):
        halves[us % 2].record(us)
        whole.record(us)
    both = merged(half.counts for half in halves)
    assert both.counts == whole.counts
    assert both.figures_ms() == {"p50": 2.0, "p90": 3.601, "p99": 3.961, "p99.9": 3.997, "max": 4.001, "count": 4000}
    assert Histogram().figures_ms() is None
    assert Histogram().curve_ms() == []
