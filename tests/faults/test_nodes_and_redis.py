"""What happens to nodes and to Redis, under load, with the checker as judge; and the soak of them all."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from chatd_proof.verdict import Verdict

from tests.conftest import ReportFigures
from tests.faults.conftest import Clusters, Machines
from tests.faults.injections import ask_valkey, children_of, descriptors, resident, stopped
from tests.faults.load import Load, calm, held, summary
from tests.faults.machine import cut_power
from tests.faults.proxy import proxied

pytestmark = pytest.mark.long
SECONDS = 20.0
HOUR = 3600.0
MOST_DESCRIPTORS, MOST_MIB = 100, 192
"""A node that has just begun has some 25, and 60 MiB; the load's connections come to 40."""


# --- what is done: each says how many processes, links or keys it has hit --------------------------


async def kill_a_node(load: Load) -> int:
    """kill -9, and another one in its place a moment later."""
    load.random.choice(load.cluster.running).kill()
    await trio.sleep(load.random.random())
    await trio.to_thread.run_sync(load.cluster.start)
    return 1


async def stop_a_node(load: Load, seconds: float = 5.0) -> int:
    """It sleeps, its sessions move, and it wakes."""
    with stopped(load.random.choice(load.cluster.running)):
        await trio.sleep(seconds)
    return 1


async def cut_pubsub(load: Load) -> int:
    """Every subscribed link is cut."""
    return int((await ask_valkey(load.cluster, "CLIENT", "KILL", "TYPE", "pubsub"))[1:])


async def flush(load: Load) -> int:
    """Redis is empty, its functions too."""
    keys = int((await ask_valkey(load.cluster, "DBSIZE"))[1:])
    await ask_valkey(load.cluster, "FLUSHALL")
    await ask_valkey(load.cluster, "FUNCTION", "FLUSH")
    return keys


async def kill_redis(load: Load) -> int:
    """kill -9 of the embedded server; a node starts another one."""
    found = [pid for server in load.cluster.running for pid in children_of(server)]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    await ask_valkey(load.cluster, "PING")
    return len(found)


async def drain_a_node(load: Load) -> int:
    """SIGTERM, as in a rolling restart; its place is taken first."""
    oldest = load.cluster.running[0]
    await trio.to_thread.run_sync(load.cluster.start)
    assert await trio.to_thread.run_sync(oldest.terminate) == 0
    return 1


async def cut_clients(load: Load) -> int:
    """Half of all connections, without a goodbye."""
    chosen = [client for client in load.clients if load.random.random() < 0.5]
    for client in chosen:
        await client.cut()
    return len(chosen)


Fault = Callable[[Load], Awaitable[int]]
FAULTS: dict[str, Fault] = {
    "kill -9 of a node": kill_a_node, "a node sleeps": stop_a_node, "pubsub cut": cut_pubsub, "flushed": flush,
    "Redis killed": kill_redis, "drained": drain_a_node, "clients cut": cut_clients,
}  # fmt: skip


async def _run_while_it_repeats(load: Load, fault: Fault, pause: float) -> tuple[Verdict, int]:
    """For SECONDS; what it has hit."""
    hit = 0

    async def disturb(load: Load) -> None:
        nonlocal hit
        with trio.move_on_after(SECONDS):
            while True:
                await trio.sleep(pause)
                with trio.CancelScope(shield=True):
                    hit += await fault(load)

    await load.prepare()
    return await load.run(disturb, SECONDS), hit


@pytest.mark.parametrize("nodes", [1, 2])
async def test_load_without_faults(clusters: Clusters, tmp_path: Path, report_figures: ReportFigures, nodes: int) -> None:
    load = Load(clusters(nodes), tmp_path)
    await load.prepare()
    verdict = await load.run(calm, SECONDS)
    held(verdict)
    report_figures(summary(verdict))


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(
    ("name", "pause"),
    [("kill -9 of a node", 4.0), ("a node sleeps", 3.0), ("pubsub cut", 0.2), ("flushed", 2.0), ("Redis killed", 4.0),
     ("drained", 4.0), ("clients cut", 0.5)],
)  # fmt: skip
async def test_load_while_a_fault_repeats(
    clusters: Clusters, tmp_path: Path, report_figures: ReportFigures, name: str, pause: float, nodes: int
) -> None:
    verdict, hit = await _run_while_it_repeats(Load(clusters(nodes), tmp_path), FAULTS[name], pause)
    held(verdict)
    assert hit, "nothing was hit by it"
    report_figures(f"{hit} hit: {summary(verdict)}")


@pytest.mark.parametrize(("rule", "share"), [("drop", 0.3), ("drop", 1.0), ("swap", 0.5)])
async def test_single_messages_of_the_bus(
    clusters: Clusters, tmp_path: Path, report_figures: ReportFigures, rule: str, share: float
) -> None:
    """Left out and exchanged while the links stay up: the case that most systems miss."""
    cluster = clusters(1)
    socket = next(iter(cluster.data.rglob("*.sock")))
    async with proxied(str(socket), **{rule: share}) as port:
        cluster.environ = {"CHATD_REDIS_URL": f"redis://127.0.0.1:{port}"}
        for _ in range(2):
            await trio.to_thread.run_sync(cluster.start)
        behind = cluster.servers[1:]
        load = Load(cluster, tmp_path, ports=lambda: [server.port for server in behind])
        await load.prepare()
        verdict = await load.run(calm, SECONDS)
        held(verdict)
    report_figures(summary(verdict))


async def test_an_overflowing_pubsub_buffer(clusters: Clusters, tmp_path: Path, report_figures: ReportFigures) -> None:
    """Redis drops the subscriber that sleeps; when it wakes it has everything."""
    load = Load(clusters(2), tmp_path, padding=4000)
    await ask_valkey(load.cluster, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 32768 1")
    verdict, _ = await _run_while_it_repeats(load, partial(stop_a_node, seconds=4.0), 1.0)
    held(verdict)
    stats = await ask_valkey(load.cluster, "INFO", "stats")
    assert b"client_output_buffer_limit_disconnections:0" not in stats, "no buffer has overflowed"
    report_figures(summary(verdict))


async def test_soak(machines: Machines, tmp_path: Path, report_figures: ReportFigures, request: pytest.FixtureRequest) -> None:
    """Random faults, one after another, for ``--soak`` seconds, of the power and the wall clock too: nothing is lost, and in the
    end no node has more descriptors or memory than MOST_DESCRIPTORS and MOST_MIB."""
    seconds = request.config.getoption("--soak")
    cluster, machine = machines(2)
    load = Load(cluster, tmp_path, lifetime=7 * 24 * 3600)
    await load.prepare()
    happened: Counter[str] = Counter()

    async def lose_all(load: Load) -> int:
        return await trio.to_thread.run_sync(cut_power, load.cluster, machine)

    async def jump(load: Load) -> int:
        machine.set_wall_clock(load.random.choice((-HOUR, -0.5, 0.0, 0.5, HOUR)))
        return 1

    faults: dict[str, Fault] = {**FAULTS, "power lost": lose_all, "wall clock": jump}

    async def disturb(load: Load) -> None:
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(load.random.random() * 4)
                name = load.random.choice(list(faults))
                happened[name] += 1
                with trio.CancelScope(shield=True):
                    await faults[name](load)
        machine.set_wall_clock(0)

    verdict = await load.run(disturb, seconds)
    held(verdict)
    most = max(map(descriptors, cluster.running)), max(map(resident, cluster.running)) // 1024
    each = ", ".join(f"{name} {count}" for name, count in happened.items())
    report_figures(
        f"{seconds:,} s, {happened.total()} faults ({each}): {summary(verdict)}, {most[0]} descriptors, {most[1]} MiB"
    )
    assert most[0] <= MOST_DESCRIPTORS
    assert most[1] <= MOST_MIB
