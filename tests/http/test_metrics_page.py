"""The metrics: plain integers in, the Prometheus text format out."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from chatd.ops.health import Readiness
from chatd.ops.metrics import Histogram, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    page = metrics.exposition().decode()
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_counts_are_exported() -> None:
    """What is added to an attribute is on the page, beside the process's own numbers."""
    metrics = Metrics()
    metrics.stored += 3
    metrics.count_refused("forbidden")
    metrics.count_refused("forbidden")
    metrics.watch("writer_mailbox", "Operations that wait for the writer", lambda: 5)
    found = samples(metrics)
    assert found["chatd_stored_total"] == 3
    assert found["chatd_refused_total{code=forbidden}"] == 2
    assert found["chatd_writer_mailbox"] == 5
    assert found["process_resident_memory_bytes"] > 0


def test_every_number_starts_at_zero_and_is_exported() -> None:
    """Each attribute of the class is one family of the page, so a forgotten one is seen here."""
    found = samples(Metrics())
    numbers = [name for name, kind in Metrics.__annotations__.items() if kind == "int"]
    assert len(numbers) >= 10
    for name in numbers:
        assert found[f"chatd_{name}_total"] == 0


def test_histograms_are_cumulative() -> None:
    """Bounds are inclusive, each bucket holds those below it, and sum and count agree."""
    metrics = Metrics()
    for size, seconds in ((1, 0.001), (2, 0.003), (3, 0.5), (5000, 99)):
        metrics.observe_commit(size, seconds)
    found = samples(metrics)
    assert found["chatd_batch_size_bucket{le=1.0}"] == 1
    assert found["chatd_batch_size_bucket{le=2.0}"] == 2
    assert found["chatd_batch_size_bucket{le=1024.0}"] == 3
    assert found["chatd_batch_size_bucket{le=+Inf}"] == found["chatd_batch_size_count"] == 4
    assert found["chatd_batch_size_sum"] == 5006
    assert found["chatd_commit_seconds_bucket{le=0.005}"] == 2
    assert found["chatd_batches_total"] == 4


def test_histogram_total() -> None:
    """The last cumulative bucket counts every value, whatever it was."""
    histogram = Histogram((1, 10))
    for value in (-1, 1, 1.5, 10, 11, 1e9):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("10.0", 4.0), ("+Inf", 6.0)]


def test_two_nodes_share_nothing() -> None:
    """Numbers belong to their object: nothing is global."""
    one, other = Metrics(), Metrics()
    one.stored += 1
    assert samples(other)["chatd_stored_total"] == 0


def test_readiness() -> None:
    """Required checks decide, others are only shown, a probe that raises is not well, and draining ends it."""
    readiness = Readiness()
    readiness.add("store", lambda: True)
    readiness.add("bus", lambda: False, required=False)
    assert readiness.judge().ready
    assert readiness.judge().checks == {"store": True, "bus": False, "serving": True}
    readiness.add("broken", lambda: 1 / 0 > 0)
    assert not readiness.judge().ready
    fresh = Readiness()
    fresh.draining = True
    assert not fresh.judge().ready
