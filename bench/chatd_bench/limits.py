"""``limits``: what a check of a rate limit costs in the process and through Redis, and how well nodes share one.

The only scenario that runs parts of the server in its own process: over the wire a check is too small to be seen. The
nodes are limiters of their own, each with a link of its own, to one Valkey that is started for it; they share this
process, so their reports come later than those of nodes that have a core each. Measures, and judges nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from chatd.adapters.redis.limits import RedisLimits
from chatd.adapters.valkey import EmbeddedValkey
from chatd.limits.limiter import Limiter, UserLimits
from chatd.limits.rules import Operation, Tiers
from chatd.logs import configure_logging
from chatd.ops.metrics import Metrics
from chatd.options import Limits
from chatd_bench.connection import RunFailed
from chatd_bench.histogram import Histogram

Result = dict[str, Any]

USERS = 1000
TURN = 100
"""Checks between two looks of the other tasks, as a batch of frames has them."""
CALLERS = 10
UP_SECONDS = 10.0
RATE, BURST = 1000.0, 2000
IN_PROCESS = Limits(messages_per_second=20_000.0, messages_burst=4000)
"""More than a user gets to try, and little enough that leases have to be renewed meanwhile."""


def run_limits(seconds: float, nodes: int) -> Result:
    """All three measurements, ``seconds`` each. Raises RunFailed."""
    configure_logging("warning", "auto")
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as name:
        result: Result = trio.run(_measure, Path(name), seconds, nodes)
    return result


async def _measure(directory: Path, seconds: float, nodes: int) -> Result:
    async with EmbeddedValkey(directory).running() as server:
        async with _node(server.url, IN_PROCESS) as limiter:
            checks = await _in_process(limiter, seconds)
        async with _node(server.url, Limits(connections_per_minute=1_000_000)) as limiter:
            redis = await _through_redis(limiter, seconds)
        async with AsyncExitStack() as stack:
            limits = Limits(messages_per_second=RATE, messages_burst=BURST)
            shared = [await stack.enter_async_context(_node(server.url, limits)) for _ in range(nodes)]
            over = await _over_nodes(shared, seconds)
    return {"in_process": checks, "through_redis": redis, "over_nodes": over}


@asynccontextmanager
async def _node(url: str, limits: Limits) -> AsyncIterator[Limiter]:
    limiter = Limiter(Tiers(limits), Metrics())
    up = trio.Event()

    def link_up() -> None:
        limiter.link_up()
        up.set()

    redis = RedisLimits(url, on_up=link_up, on_down=limiter.link_down)
    limiter.connect(redis)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis.run)
        nursery.start_soon(limiter.run)
        with trio.move_on_after(UP_SECONDS):
            await up.wait()
        if not up.is_set():
            raise RunFailed("limits: Valkey did not answer")
        yield limiter
        nursery.cancel_scope.cancel()


async def _entered(limiter: Limiter, user: str) -> UserLimits:
    limits = limiter.enter(user, "")
    await limiter.ready(limits)
    return limits


async def _in_process(limiter: Limiter, seconds: float) -> Result:
    """Users in turn, each with a limit that it does not reach; reports go on beside it."""
    leases = [(await _entered(limiter, f"user{number}")).messages for number in range(USERS)]
    checks = refused = 0
    reports, began, cpu = limiter.reports, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < seconds:
        for at in range(0, USERS, TURN):
            now = trio.current_time()
            for lease in leases[at : at + TURN]:
                refused += lease.take(now) > 0
            checks += TURN
            await trio.lowlevel.checkpoint()
    return {
        "checks": checks, "checks_per_s": checks / elapsed, "refused": refused, "reports": limiter.reports - reports,
        "cpu_us_per_check": (time.process_time() - cpu) / checks * 1e6,
    }  # fmt: skip


async def _through_redis(limiter: Limiter, seconds: float) -> Result:
    """Addresses' attempts, each a call of its own, CALLERS at once."""
    latencies, began = Histogram(), time.perf_counter()

    async def call(caller: int) -> None:
        number = 0
        while time.perf_counter() - began < seconds:
            number += 1
            address = f"10.{caller}.{number >> 8 & 255}.{number & 255}"
            asked = time.perf_counter()
            await limiter.count(Operation.CONNECTIONS, address)
            latencies.record(int((time.perf_counter() - asked) * 1e6))

    async with trio.open_nursery() as nursery:
        for caller in range(CALLERS):
            nursery.start_soon(call, caller)
    if limiter.failures:
        raise RunFailed(f"limits: Valkey left {limiter.failures} calls without an answer")
    calls = latencies.total
    percentiles = {f"p{percent:g}": latencies.percentile_ms(percent) for percent in (50, 90, 99, 99.9, 100)}
    return {"calls": calls, "calls_per_s": calls / seconds, "latency_ms": percentiles}


async def _over_nodes(nodes: list[Limiter], seconds: float) -> Result:
    """One user on all nodes, who wants three times as much as there is."""
    leases = [(await _entered(limiter, "busy")).messages for limiter in nodes]
    passed = [0] * len(nodes)
    began, tried, worst = trio.current_time(), 0, 0.0
    while (elapsed := trio.current_time() - began) < seconds:
        while tried < BURST * 2 + 3 * RATE * elapsed:
            for number, lease in enumerate(leases):
                passed[number] += lease.take(trio.current_time()) == 0.0
            tried += len(leases)
        worst = max(worst, sum(passed) / (BURST + RATE * (trio.current_time() - began)))
        await trio.sleep(0.001)
    allowed = BURST + RATE * elapsed
    return {
        "nodes": len(nodes), "allowed": round(allowed), "passed": sum(passed), "by_node": passed, "tried": tried,
        "of_limit": sum(passed) / allowed, "of_limit_at_worst": worst,
    }  # fmt: skip


def limit_rows(result: Result) -> list[tuple[str, str]]:
    """The result as lines."""
    checks, redis, over = result["in_process"], result["through_redis"], result["over_nodes"]
    latencies = "   ".join(f"{name} {value:.2f}" for name, value in redis["latency_ms"].items() if value is not None)
    shares = ", ".join(f"{count:,}" for count in over["by_node"])
    return [
        ("in process", f"{checks['checks_per_s']:>10,.0f} checks/s, {checks['cpu_us_per_check']:.2f} us of CPU each"),
        ("", f"{checks['reports']:>10,} reports to Redis meanwhile, {checks['refused']:,} refused"),
        ("Redis", f"{redis['calls_per_s']:>10,.0f} calls/s, {CALLERS} at once   {latencies}   ms"),
        ("over nodes", f"{over['passed']:>10,} of {over['allowed']:,} through, {over['tried']:,} tried ({shares})"),
        ("", f"{over['of_limit']:>10.1%} of the limit, and at most {over['of_limit_at_worst']:.1%} at any time"),
    ]
