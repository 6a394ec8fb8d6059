"""``idle``: connections that do nothing but send heartbeats, while the server's memory and CPU are looked at.

Servers without heartbeats are looked at all the same: that their connections were there to the end is seen by the engine.

It is never void: what a process keeps and uses is the same whoever else runs, and what they used is in the result.
"""

from __future__ import annotations

import time
from typing import Any

from chatd_bench.cast import Cast, make_users
from chatd_bench.faults import RunFailed
from chatd_bench.machine import Memory, memory_of
from chatd_bench.scenarios.stage import Options, Result, run_id, spent, stage


def run_idle(options: Options, steps: list[int], hold: float) -> Result:
    """Connections in steps; each is held for ``hold`` seconds before the look at it. That has to be a heartbeat's time or more,
    in which each connection sends one, all of them evenly spread."""
    users = make_users(run_id(), steps[-1])
    cast = Cast(users, homes=tuple(user.number % options.generators for user in users))
    seen: list[tuple[int, Memory]] = []
    shares: list[dict[str, Any]] = []
    with stage(options, cast) as on:
        if not on.running.main_pids:
            raise RunFailed("idle: whose memory? Name the server's process with --pid")
        opened = 0
        for total in steps:
            on.call("open", opened, total, what="connected", total=total - opened)
            on.call("arm")
            opened = total
            before, began = on.cpu(), time.monotonic()
            on.call("hold", hold)
            shares.append(_share(spent(before, on.cpu(), True), time.monotonic() - began))
            seen.append((total, memory_of(on.running.main_pids)))
        settled = on.call("settle", {})
        expected = any(on.call("has_heartbeats"))
        about = on.about()
    if (beats := sum(part["heartbeats"] for part in settled)) < opened and expected:
        raise RunFailed(f"{beats:,} heartbeats of {opened:,} connections: hold them longer, for each is to send one")
    checks = {"connections": opened, "heartbeats_answered": beats}
    held = [{**step, **share} for step, share in zip(slopes(seen), shares, strict=True)]
    return {"steps": held, "cpu": shares[-1]["cpu"], "void": [], "checks": checks, **about}


def _share(cpu: dict[str, Any], seconds: float) -> dict[str, Any]:
    """While everybody only was there: heartbeats and their answers."""
    return {"cpu": cpu, "share_of_core": round((cpu["server_s"] + cpu["bus_s"]) / seconds, 4)}


def slopes(seen: list[tuple[int, Memory]]) -> list[dict[str, Any]]:
    """Memory at each step, and its slope since the one before: total / N would spread the server's own over them."""
    steps: list[dict[str, Any]] = []
    for place, (total, memory) in enumerate(seen):
        step: dict[str, Any] = {"connections": total, "rss_kib": memory.rss, "pss_kib": memory.pss}
        if place:
            more = total - seen[place - 1][0]
            step["rss_kib_per_connection"] = round((memory.rss - seen[place - 1][1].rss) / more, 2)
            step["pss_kib_per_connection"] = round((memory.pss - seen[place - 1][1].pss) / more, 2)
        steps.append(step)
    return steps
