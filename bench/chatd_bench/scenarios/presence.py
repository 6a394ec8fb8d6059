"""``presence``: what it costs to tell who is there (see ``chatd_bench.presence``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from chatd_bench.generator import Generators, add_up
from chatd_bench.load import plans_of
from chatd_bench.machine import Cpu, read_cpu, read_memory
from chatd_bench.presence import PresenceLoad
from chatd_bench.scenarios.stage import Result, spent
from chatd_bench.server import Target, own_server

PRESENCE_SHARE = 0.05
WITHOUT_PRESENCE = {"CHATD_PRESENCE_RENEW_SECONDS": "1800", "CHATD_PRESENCE_EXPIRY_SECONDS": "3600"}
"""No lease is renewed while it is measured; nobody watches, and nobody leaves the screen."""


def run_presence(
    settings: Mapping[str, str], parameters: dict[str, int], generators: int, warmup: float, seconds: float,
    changes_per_s: float,
) -> Result:
    """Users who watch each other (see ``presence``), after as many on a server whose leases rest. Raises RunFailed."""
    with own_server({**settings, **WITHOUT_PRESENCE}) as target, _presence_load(target, parameters, generators) as running:
        without = _held(running, target, warmup, seconds, 0.0)
    with own_server(settings) as target, _presence_load(target, parameters, generators) as running:
        first = max(part["seconds"] for part in running.call("watch"))
        assert target.pid is not None, "it was started here"
        memory = read_memory(target.pid)
        present = _held(running, target, warmup, seconds, changes_per_s / generators)
        checks = add_up(running.call("check"))
    return {
        "first_told_s": first, "without": without, "with": present, "share": present["share"] - without["share"],
        "rss_kib": memory.rss, "checks": checks,
    }  # fmt: skip


@contextmanager
def _presence_load(target: Target, parameters: dict[str, int], generators: int) -> Iterator[Generators]:
    with Generators(PresenceLoad, plans_of("presence", target, parameters, generators)) as running:
        running.call("open")
        running.call("acquaint")
        yield running


def _held(running: Generators, target: Target, warmup: float, seconds: float, changes_per_s: float) -> Result:
    running.call("hold", warmup, changes_per_s)
    before = _cpu(target, running)
    parts = running.call("hold", seconds, changes_per_s)
    cpu = spent(before, _cpu(target, running), True)
    elapsed = max(part["seconds"] for part in parts)
    counts = {key: sum(part[key] for part in parts) / elapsed for key in ("changes", "presences", "heartbeats")}
    share = ((cpu["server_s"] or 0.0) + (cpu["bus_s"] or 0.0)) / elapsed
    return {"seconds": elapsed, "per_second": counts, "cpu": cpu, "share": share}


def _cpu(target: Target, running: Generators) -> Cpu:
    assert target.pid is not None, "it was started here"
    return read_cpu([target.pid], running.pids)


def presence_rows(result: Result) -> list[tuple[str, str]]:
    """For people."""
    rows = [("all told", f"{result['first_told_s']:.1f} s after everybody began to watch at once")]
    for name, part in (("without", result["without"]), ("with", result["with"])):
        cpu = part["cpu"]
        rates = ", ".join(f"{rate:,.0f} {what}/s" for what, rate in part["per_second"].items())
        rows.append((name, f"{rates}, for {part['seconds']:.0f} s"))
        spent = f"server {cpu['server_s']:.2f} s, Valkey {cpu['bus_s']:.2f} s: {part['share']:.2%} of one core"
        rows.append(("", f"{spent}; others {cpu['others_s']:.2f} s, stolen {cpu['stolen_s']:.2f} s"))
    verdict = "under" if result["share"] < PRESENCE_SHARE else "NOT under"
    return [
        *rows,
        ("presence", f"{result['share']:.2%} of one core, {verdict} {PRESENCE_SHARE:.0%} (heartbeats are in both)"),
        ("memory", f"{result['rss_kib']:,} KiB"),
        ("checked", ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in result["checks"].items())),
    ]
