"""The parent's side of ``outage``: takes Redis away from two nodes, gives it back, and judges what came of it.

One run for each kind of outage, each on a cluster of its own: warm-up; *before*, without an outage, for comparison; *during*;
the healing and a settling time; *after*, as long as before; and the end, when everything has to be there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from chatd_bench.cluster import Cluster, own_cluster
from chatd_bench.connection import RunFailed
from chatd_bench.generator import Generators, add_up
from chatd_bench.histogram import merged
from chatd_bench.load import plans_of
from chatd_bench.machine import read_cpu
from chatd_bench.outage import HEAL_SECONDS, OutageLoad
from chatd_bench.outage_memory import Samples, judge
from chatd_bench.participant import Part
from chatd_bench.scenarios.stage import Result

REST_SECONDS = 10.0
"""For what waits to be told or stored once nobody says anything."""
HELD = ("gapped_topics", "held_bytes", "signals_waiting", "bus_waiting_bytes", "outbox_bytes", "writer_mailbox")
"""Gauges that are 0 where nothing happens: whatever else is left over."""
LEVELS = ("sessions", "presence_people", "presence_watched", "topics", "limit_leases")
"""Gauges that may not be higher than they were before the outage."""
PHASES = ("before", "during", "after")


@dataclass(frozen=True)
class Outage:
    """What to do, in seconds. ``parameters`` are the generators'."""

    parameters: dict[str, int]
    generators: int
    away: float
    warmup: float
    control: float
    settle: float
    renew: float
    memory_kib: float

    @property
    def expiry(self) -> float:
        """After so long without a session somebody is offline."""
        return 2 * self.renew

    @property
    def heartbeat(self) -> float:
        """Within it presence has to be right again; a heartbeat in a tiny run is shorter than a link takes to come back."""
        return max(self.renew, HEAL_SECONDS)

    @property
    def before(self) -> float:
        """Long enough that who leaves at its beginning is taken for gone in the middle of the outage."""
        return max(self.control, self.expiry - self.away / 2)

    @property
    def settings(self) -> dict[str, str]:
        """The server's."""
        return {
            "CHATD_PRESENCE_RENEW_SECONDS": f"{self.renew:g}", "CHATD_PRESENCE_EXPIRY_SECONDS": f"{self.expiry:g}",
        }  # fmt: skip


@dataclass
class Times:
    """When what began, by the monotonic clock."""

    before: float = 0.0
    taken: float = 0.0
    left: float = 0.0
    returned: float = 0.0
    after: float = 0.0
    end: float = 0.0


@dataclass
class Seen:
    """What one run has shown so far."""

    samples: Samples
    times: Times = field(default_factory=Times)
    levels: list[dict[str, float]] = field(default_factory=list)
    result: Result = field(default_factory=dict)


def run_outage(outage: Outage, how: str) -> Result:
    """One kind of outage (see ``cluster.KINDS``). Raises RunFailed."""
    with own_cluster(outage.settings) as cluster:
        plans = plans_of("outage", cluster.target, outage.parameters, outage.generators, cluster.ports)
        with Generators(OutageLoad, plans) as running:
            seen = Seen(Samples(cluster.pids))
            for step in ("open", "watch", "begin"):
                running.call(step)
            seen.samples.take(time.monotonic() + outage.warmup)
            cpu = read_cpu((), running.pids)
            _before(outage, cluster, running, seen)
            _during(outage, cluster, running, seen, how)
            _after(outage, running, seen)
            spent = read_cpu((), running.pids)
            lasted = seen.times.end - seen.times.before
            seen.result["generator_load"] = (spent.generators - cpu.generators) / lasted / outage.generators
            seen.result["machine_load"] = (spent.machine - cpu.machine) / lasted
            _end(outage, cluster, running, seen)
            seen.result["memory"] = _memory(outage, seen)
            return seen.result


def _before(outage: Outage, cluster: Cluster, running: Generators, seen: Seen) -> None:
    seen.times.before = time.monotonic()
    running.call("phase", "before", seen.times.before)
    running.call("leave", Part.LEFT.value)
    seen.samples.take(seen.times.before + outage.before)
    seen.levels = cluster.gauges()


def _during(outage: Outage, cluster: Cluster, running: Generators, seen: Seen, how: str) -> None:
    times = seen.times
    times.taken = time.monotonic()
    running.call("phase", "during", times.taken)
    cluster.valkey.take_away(how)
    running.call("note_acks")
    seen.samples.take(times.taken + outage.away / 2)
    times.left = time.monotonic()
    running.call("act")
    seen.samples.take(times.taken + outage.away)
    acked = [ack for part in running.call("acks") for ack in part]
    seen.result["stored_while_away"] = _all_stored(cluster.store, acked)
    cluster.valkey.give_back(how)
    times.returned = time.monotonic()
    seen.result["away_s"] = times.returned - times.taken
    running.call("phase", "after", times.returned)


def _after(outage: Outage, running: Generators, seen: Seen) -> None:
    times = seen.times
    running.call("speak_only")
    seen.result["delivery_heal_s"] = max(running.call("healed", times.returned))
    running.call("gone", Part.LEFT.value)
    right = running.call("presence_right", times.returned, outage.heartbeat)
    seen.result["presence_heal_s"] = max(right)
    seen.samples.take(time.monotonic() + outage.settle)
    times.after = time.monotonic()
    seen.samples.take(times.after + outage.before)
    times.end = time.monotonic()


def _end(outage: Outage, cluster: Cluster, running: Generators, seen: Seen) -> None:
    gone_at = seen.times.left + outage.expiry
    time.sleep(max(0.0, gone_at - time.monotonic()))
    running.call("gone", Part.LEAVES.value)
    running.call("presence_right", gone_at, outage.heartbeat)
    running.call("rest")
    seen.result["left_over"] = _left_over(cluster, seen.levels)
    seen.result["checks"] = add_up(running.call("check"))
    parts = running.call("tallies")
    seen.result["longest_typing_s"] = max(part["longest_typing_s"] for part in parts)
    seen.result["late_s"] = max(part["late_s"] for part in parts)
    lengths = (outage.before, seen.result["away_s"], seen.times.end - seen.times.returned)
    seen.result["phases"] = {
        name: _phase([part["phases"][name] for part in parts], seconds)
        for name, seconds in zip(PHASES, lengths, strict=True)
    }


def _phase(parts: Sequence[dict[str, Any]], seconds: float) -> Result:
    totals = {key: sum(part[key] for part in parts) for key in ("sent", "acked", "delivered")}
    return {
        **totals, "seconds": seconds, "acked_per_s": totals["acked"] / seconds,
        "delivered_per_s": totals["delivered"] / seconds,
        "ack_latency_ms": merged(part["ack_latency"] for part in parts).figures_ms(),
        "delivery_latency_ms": merged(part["delivery_latency"] for part in parts).figures_ms(),
    }  # fmt: skip


def _all_stored(store: Path, acked: Sequence[tuple[str, int]]) -> int:
    """Look into the store itself, while Redis is away; how many acknowledged messages it holds. Raises RunFailed."""
    reader = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = set(
            reader.execute(
                "SELECT conversations.id, events.seq FROM events JOIN conversations ON conversations.no = events.conv"
            )
        )
    finally:
        reader.close()
    if missing := set(acked) - found:
        raise RunFailed(f"{len(missing)} of {len(acked)} messages acknowledged during the outage are not in the store")
    return len(acked)


def _left_over(cluster: Cluster, before: list[dict[str, float]]) -> dict[str, list[float]]:
    """The gauges at the end, by name. Raises RunFailed where something is held, or a level is higher than before."""
    end = time.monotonic() + REST_SECONDS
    while True:
        now = cluster.gauges()
        faults = [
            f"node {number}: {name} {gauges[name]:,.0f}" for number, gauges in enumerate(now) for name in HELD if gauges[name]
        ]
        faults += [
            f"node {number}: {name} {gauges[name]:,.0f}, before {earlier[name]:,.0f}"
            for number, (gauges, earlier) in enumerate(zip(now, before, strict=True))
            for name in LEVELS if gauges[name] > earlier[name]
        ]  # fmt: skip
        if not faults:
            return {name: [gauges[name] for gauges in now] for name in (*HELD, *LEVELS)}
        if time.monotonic() > end:
            raise RunFailed(f"left over {REST_SECONDS:.0f} s after the last message: {'; '.join(faults)}")
        time.sleep(0.2)


def _memory(outage: Outage, seen: Seen) -> list[Result]:
    times, samples = seen.times, seen.samples
    between = (times.after - times.taken) / outage.before
    found: list[Result] = []
    for node in range(len(samples.pids)):
        node_found: Result = {}
        for kind in ("rss", "pss"):
            control = samples.line(node, kind, times.before, times.taken)
            after = samples.line(node, kind, times.after, times.end)
            node_found[kind] = judge(f"{kind.upper()} of node {node}", control, after, between, outage.memory_kib)
        found.append(node_found)
    return found
