"""The node's numbers, as plain integers on one object, and their form for Prometheus.

The hot path writes ``metrics.stored += n``: an attribute add (30 ns), where a kept child of
prometheus_client costs 250 ns and a lock. They are read only when somebody asks, by a collector of ours. One object per
node, handed to those who count; nothing is global, so two nodes in one test do not share numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_COUNTERS = {
    "connections_accepted": "Connections accepted on the public port",
    "connections_refused": "Connections turned away: too many from one address, or in all",
    "connection_faults": "Connections ended by a fault that was not the peer's",
    "requests": "Requests taken in: everything but sends, marks and heartbeats",
    "stored": "Events committed (I1)",
    "deliveries": "Events written to sessions",
    "repeats": "Sends that had been stored before and got their first ack again (I3)",
    "replayed": "Events sent to devices that came back (I7)",
    "batches": "Group commits",
    "bus_forged": "Messages from the bus that no node of ours had sealed",
    "repairs": "Gaps filled from the store (I6)",
    "signed_out": "Sessions ended because their device was signed out, or the password changed",
    "slow_consumers": "Sessions cut because they did not read",
    "signals": "Receipts and typing notices written to sessions",
    "signals_dropped": "Receipts and typing notices let go, because too many waited or the store could not be asked",
    "presence_told": "Presence messages written to sessions",
    "presence_coarsened": "Times that changes of presence had to wait, because there were more than presence.messages_per_second",
    "marks_dropped": "Up-to marks let go, because too many of one session waited for the store",
}

class Histogram:
    """Counts of values in buckets; ``bounds`` are their upper ends, ascending, the last bucket has none."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each bucket with all below it, ``+Inf`` last."""
        labels = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        running, buckets = 0, []
        for label, count in zip(labels, self.counts, strict=True):
            running += count
            buckets.append((label, float(running)))
        return buckets


class Metrics:
    """One node's numbers. Counters only grow; what is a level is asked of its owner (``watch``).

    ``count_refused`` counts by code. Codes come from the one table, never from a client: each is a time series, and a
    client could make millions.
    """

    __slots__ = (*_COUNTERS, "batch_size", "commit_seconds", "limit_seconds", "limited", "refused", "_registry", "_sources")

    connections_accepted: int
    connections_refused: int
    connection_faults: int
    requests: int
    stored: int
    deliveries: int
    repeats: int
    replayed: int
    batches: int
    bus_forged: int
    repairs: int
    signed_out: int
    slow_consumers: int
    signals: int
    signals_dropped: int
    presence_told: int
    presence_coarsened: int
    marks_dropped: int

    def __init__(self) -> None:
        for name in _COUNTERS:
            setattr(self, name, 0)
        self.batch_size = Histogram(BATCH_SIZES)
        self.commit_seconds = Histogram(SECONDS)
        self.refused: dict[str, int] = {}
        self.limited: dict[str, int] = {}
        self.limit_seconds = Histogram(SECONDS)
        self._sources: list[tuple[str, str, Callable[[], float], type[CounterMetricFamily | GaugeMetricFamily]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Exposition(self))
        ProcessCollector(registry=self._registry)

    def count_refused(self, code: str) -> None:
        """Count a client's message that was answered with the error ``code``."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def observe_commit(self, size: int, seconds: float) -> None:
        """Count one group commit: its operations, and how long the store took."""
        self.batches += 1
        self.batch_size.observe(size)
        self.commit_seconds.observe(seconds)

    def watch(self, name: str, text: str, source: Callable[[], float], *, counter: bool = False) -> None:
        """Add a gauge, or a counter, ``chatd_<name>`` that is asked for when the page is: a mailbox's depth, for one."""
        self._sources.append((name, text, source, CounterMetricFamily if counter else GaugeMetricFamily))

    def exposition(self) -> bytes:
        """The page at ``/metrics``. A few ms: it also reads the process's own numbers from /proc."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """Everything, as Prometheus' families."""
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"chatd_{name}", text, value=getattr(self, name))
        for name, text, source, family in self._sources:
            yield family(f"chatd_{name}", text, value=source())
        yield _by_label("refused", "Clients' messages answered with an error", "code", self.refused)
        yield _by_label("limited", "Attempts beyond a rate limit, by operation", "operation", self.limited)
        yield _histogram("limit_seconds", "Time of a call to Redis about rate limits", self.limit_seconds)
        yield _histogram("batch_size", "Operations in a group commit", self.batch_size)
        yield _histogram("commit_seconds", "Time of a group commit, with what is done beside it", self.commit_seconds)


class _Exposition(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


def _by_label(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"chatd_{name}", text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"chatd_{name}", text)
    family.add_metric([], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family
