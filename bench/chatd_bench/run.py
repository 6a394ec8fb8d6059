"""One run of one scenario: starts generators against a server, gives them their steps, and adds up what they saw.

The parent's own part; it does no work while something is timed but read /proc at both ends of the window.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from chatd_bench.connection import RunFailed
from chatd_bench.generator import Generators
from chatd_bench.histogram import Histogram
from chatd_bench.load import Plan
from chatd_bench.machine import Cpu, Memory, read_cpu, read_memory
from chatd_bench.server import Target, own_server

Result = dict[str, Any]

LEAD_SECONDS = 0.3
"""From the order to its beginning: time for all generators to hear it."""
GENERATOR_LIMIT = 0.9
FOREIGN_LIMIT = 0.1
PRESENCE_SHARE = 0.05
WITHOUT_PRESENCE = {"CHATD_PRESENCE_RENEW_SECONDS": "1800", "CHATD_PRESENCE_EXPIRY_SECONDS": "3600"}
"""No lease is renewed while it is measured; nobody watches, and nobody leaves the screen."""


def run_dm(target: Target, parameters: dict[str, int], generators: int, warmup: float, seconds: float) -> Result:
    """Pairs of connections (see ``dm``). Raises RunFailed."""
    with Generators(plans_of("dm", target, parameters, generators)) as running:
        running.call("open")
        result = _timed(running, target, warmup, seconds)
        return {**result, "checks": add_up(running.call("check"))}


def run_group(target: Target, parameters: dict[str, int], generators: int, warmup: float, seconds: float) -> Result:
    """One group (see ``group``). Raises RunFailed."""
    with Generators(plans_of("group", target, parameters, generators)) as running:
        running.call("open")
        [conv] = running.call("create", only=0)
        running.call("join", conv)
        result = _timed(running, target, warmup, seconds)
        checks = add_up(running.call("check", result["acked_total"]))
        return {**result, "checks": checks}


def run_idle(target: Target, steps: list[int], generators: int, hold: float) -> Result:
    """Idle connections in steps (see ``idle``); ``hold`` is in seconds, before each look. Raises RunFailed."""
    if target.pid is None:
        raise RunFailed("idle: whose memory? Name the server's process with --pid")
    seen: list[tuple[int, Memory]] = []
    with Generators(plans_of("idle", target, {}, generators)) as running:
        before = read_cpu(target.pid, running.pids)
        for total in steps:
            running.call("grow", total)
            time.sleep(hold)
            seen.append((total, read_memory(target.pid)))
        cpu = _spent(target, before, read_cpu(target.pid, running.pids))
        checks = add_up(running.call("check"))
    return {"steps": _slopes(seen), "cpu": cpu, "warnings": [], "checks": checks}


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
    with Generators(plans_of("presence", target, parameters, generators)) as running:
        running.call("open")
        running.call("acquaint")
        yield running


def _held(running: Generators, target: Target, warmup: float, seconds: float, changes_per_s: float) -> Result:
    running.call("hold", warmup, changes_per_s)
    before = read_cpu(target.pid, running.pids)
    parts = running.call("hold", seconds, changes_per_s)
    cpu = _spent(target, before, read_cpu(target.pid, running.pids))
    elapsed = max(part["seconds"] for part in parts)
    counts = {key: sum(part[key] for part in parts) / elapsed for key in ("changes", "presences", "heartbeats")}
    share = ((cpu["server_s"] or 0.0) + (cpu["bus_s"] or 0.0)) / elapsed
    return {"seconds": elapsed, "per_second": counts, "cpu": cpu, "share": share}


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


def plans_of(
    scenario: str, target: Target, parameters: dict[str, int], generators: int, ports: tuple[int, ...] = ()
) -> list[Plan]:
    """One for each generator; ``ports``: of all nodes, where there is more than one."""
    run_id = f"b{secrets.token_hex(4)}"
    return [
        Plan(
            scenario=scenario, host=target.host, port=target.port, private_key=target.private_key, issuer=target.issuer,
            audience=target.audience, run_id=run_id, generator=number, generators=generators, parameters=parameters,
            ports=ports,
        )
        for number in range(generators)
    ]  # fmt: skip


def _timed(running: Generators, target: Target, warmup: float, seconds: float) -> Result:
    start = time.monotonic() + LEAD_SECONDS
    running.start("timed", start, warmup, seconds)
    _sleep_until(start + warmup)
    before = read_cpu(target.pid, running.pids)
    _sleep_until(start + warmup + seconds)
    after = read_cpu(target.pid, running.pids)
    parts = running.answers()
    cpu = _spent(target, before, after)
    generator_load = max(part["cpu_s"] / part["seconds"] for part in parts)
    cpu["generator_load"] = generator_load
    result = _added(parts)
    result["cpu"] = cpu
    result["warnings"] = _warnings(cpu, generator_load, result["seconds"])
    served = (cpu["server_s"] or 0.0) + (cpu["bus_s"] or 0.0)
    if served:
        result["delivered_per_cpu_s"] = result["delivered"] / served
    return result


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _added(parts: list[Result]) -> Result:
    totals = {key: sum(part[key] for part in parts) for key in ("acked", "delivered", "acked_total", "other_messages")}
    seconds = max(part["seconds"] for part in parts)
    return {
        **totals, "seconds": seconds, "acked_per_s": totals["acked"] / seconds,
        "delivered_per_s": totals["delivered"] / seconds,
        "ack_latency_ms": percentiles_ms([part["ack_latency"] for part in parts]),
        "delivery_latency_ms": percentiles_ms([part["delivery_latency"] for part in parts]),
    }  # fmt: skip


def percentiles_ms(recorded: list[list[tuple[int, int]]]) -> dict[str, float | None]:
    """Of all generators' latencies together."""
    histogram = Histogram()
    for pairs in recorded:
        histogram.add(pairs)
    return {f"p{percent:g}": histogram.percentile_ms(percent) for percent in (50, 90, 99, 99.9, 100)}


def _spent(target: Target, before: Cpu, after: Cpu) -> dict[str, float | None]:
    """CPU seconds of each; None of a server whose process is not known, and then nobody can say who the others are."""
    used = Cpu(*(round(end - begin, 3) for begin, end in zip(before, after, strict=True)))
    known = target.pid is not None
    others = max(0.0, round(used.machine - used.server - used.bus - used.generators, 3))
    return {
        "server_s": used.server if known else None, "bus_s": used.bus if known else None,
        "generators_s": used.generators, "others_s": others if known else None, "stolen_s": used.stolen,
    }  # fmt: skip


def _warnings(cpu: dict[str, float | None], generator_load: float, seconds: float) -> list[str]:
    warnings = []
    if generator_load > GENERATOR_LIMIT:
        warnings.append(
            f"the generator was the limit: it used {generator_load:.0%} of a core (try --generators 2); the server may "
            "do more than this"
        )
    foreign = ((cpu["others_s"] or 0.0) + (cpu["stolen_s"] or 0.0)) / seconds
    if foreign > FOREIGN_LIMIT:
        warnings.append(f"others used {foreign:.0%} of a core meanwhile, or the hypervisor took it: run it again")
    return warnings


def _slopes(seen: list[tuple[int, Memory]]) -> list[dict[str, float]]:
    """Memory at each step, and its slope since the one before: total / N would spread the server's own over them."""
    steps: list[dict[str, float]] = []
    for place, (total, memory) in enumerate(seen):
        step: dict[str, float] = {"connections": total, "rss_kib": memory.rss, "pss_kib": memory.pss}
        if place:
            more = total - seen[place - 1][0]
            step["rss_kib_per_connection"] = round((memory.rss - seen[place - 1][1].rss) / more, 2)
            step["pss_kib_per_connection"] = round((memory.pss - seen[place - 1][1].pss) / more, 2)
        steps.append(step)
    return steps


def add_up(parts: list[dict[str, int]]) -> dict[str, int]:
    """What all generators counted, together."""
    return {key: sum(part[key] for part in parts) for key in parts[0]}
