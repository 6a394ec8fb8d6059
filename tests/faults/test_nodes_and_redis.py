"""Faults 1-8 and 17 of processes and of Redis, under load, with the checker as judge; and the soak of them all."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.cluster import Cluster
from tests.faults.faults import ask_valkey, children_of, descriptors, resident, stopped
from tests.faults.load import Load, calm, held, summary
from tests.faults.machine import Machine, lose_power
from tests.faults.proxy import proxied

pytestmark = pytest.mark.long
SECONDS = 20.0
HOUR = 3600.0
Clusters = Callable[..., Cluster]
Machines = Callable[..., tuple[Cluster, Machine]]
Told = Callable[[str], None]


async def kill_a_node(load: Load) -> None:
    """kill -9, and another one in its place a moment later."""
    cluster = load.cluster
    running = [server for server in cluster.servers if server.process.poll() is None]
    load.random.choice(running).kill()
    await trio.sleep(load.random.random())
    await trio.to_thread.run_sync(cluster.start)


async def stop_a_node(load: Load, seconds: float = 5.0) -> None:
    """It sleeps, its sessions move, and it wakes."""
    running = [server for server in load.cluster.servers if server.process.poll() is None]
    server = load.random.choice(running)
    with stopped(server):
        await trio.sleep(seconds)


async def cut_pubsub(load: Load) -> None:
    """Every subscribed link is cut."""
    await ask_valkey(load.cluster, "CLIENT", "KILL", "TYPE", "pubsub")


async def flush(load: Load) -> None:
    """Redis is empty, its functions too."""
    await ask_valkey(load.cluster, "FLUSHALL")
    await ask_valkey(load.cluster, "FUNCTION", "FLUSH")


async def kill_redis(load: Load) -> None:
    """kill -9 of the embedded server; a node starts another one."""
    for server in load.cluster.servers:
        for pid in children_of(server):
            os.kill(pid, signal.SIGKILL)
    await ask_valkey(load.cluster, "PING")


async def drain_a_node(load: Load) -> None:
    """SIGTERM, as in a rolling restart; its place is taken first."""
    cluster = load.cluster
    running = [server for server in cluster.servers if server.process.poll() is None]
    await trio.to_thread.run_sync(cluster.start)
    assert await trio.to_thread.run_sync(running[0].terminate) == 0


async def cut_clients(load: Load) -> None:
    """Half of all connections, without a goodbye."""
    for client in load.clients:
        if client._stream is not None and load.random.random() < 0.5:
            await trio.aclose_forcefully(client._stream)


FAULTS = {
    "kill -9 of a node": kill_a_node, "a node sleeps": stop_a_node, "pubsub cut": cut_pubsub, "flushed": flush,
    "Redis killed": kill_redis, "drained": drain_a_node, "clients cut": cut_clients,
}  # fmt: skip


async def _again(fault: Any, pause: float, load: Load) -> None:
    with trio.move_on_after(SECONDS):
        while True:
            await trio.sleep(pause)
            with trio.CancelScope(shield=True):
                await fault(load)


@pytest.mark.parametrize("nodes", [1, 2])
async def test_in_peace(clusters: Clusters, tmp_path: Path, told: Told, nodes: int) -> None:
    load = Load(clusters(nodes), tmp_path)
    await load.prepare()
    verdict = await load.run(calm, SECONDS)
    held(verdict)
    told(summary(verdict))


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(
    ("name", "pause"),
    [("kill -9 of a node", 4.0), ("a node sleeps", 3.0), ("pubsub cut", 0.2), ("flushed", 2.0), ("Redis killed", 4.0),
     ("drained", 4.0), ("clients cut", 0.5)],
)  # fmt: skip
async def test_under(clusters: Clusters, tmp_path: Path, told: Told, name: str, pause: float, nodes: int) -> None:
    load = Load(clusters(nodes), tmp_path)
    await load.prepare()
    verdict = await load.run(partial(_again, FAULTS[name], pause), SECONDS)
    held(verdict)
    told(summary(verdict))


@pytest.mark.parametrize(("rule", "share"), [("drop", 0.3), ("drop", 1.0), ("swap", 0.5)])
async def test_single_messages_of_the_bus(clusters: Clusters, tmp_path: Path, told: Told, rule: str, share: float) -> None:
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
    told(summary(verdict))


async def test_an_overflowing_pubsub_buffer(clusters: Clusters, tmp_path: Path, told: Told) -> None:
    """Redis drops the subscriber that sleeps; when it wakes it has everything."""
    load = Load(clusters(2), tmp_path, padding=4000)
    await load.prepare()
    await ask_valkey(load.cluster, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 32768 1")
    verdict = await load.run(partial(_again, partial(stop_a_node, seconds=4.0), 1.0), SECONDS)
    held(verdict)
    stats = await ask_valkey(load.cluster, "INFO", "stats")
    assert b"client_output_buffer_limit_disconnections:0" not in stats, "no buffer has overflowed"
    told(summary(verdict))


async def test_soak(machines: Machines, tmp_path: Path, told: Told, request: pytest.FixtureRequest) -> None:
    """Random faults, one after another, for ``--soak`` seconds, of the power and the wall clock too: nothing is lost, and no
    memory or descriptor kept."""
    seconds = request.config.getoption("--soak")
    cluster, machine = machines(2)
    load = Load(cluster, tmp_path, lifetime=7 * 24 * 3600)
    await load.prepare()
    happened: Counter[str] = Counter()

    async def lose_all(load: Load) -> None:
        await trio.to_thread.run_sync(lose_power, load.cluster, machine)

    async def jump(load: Load) -> None:
        machine.set_wall_clock(load.random.choice((-HOUR, -0.5, 0.0, 0.5, HOUR)))

    faults = {**FAULTS, "power lost": lose_all, "wall clock": jump}

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
    running = [server for server in load.cluster.servers if server.process.poll() is None]
    told(
        f"{seconds:,} s, {happened.total()} faults ({', '.join(f'{name} {count}' for name, count in happened.items())}): "
        f"{summary(verdict)}, "
        f"{max(map(descriptors, running))} descriptors, {max(map(resident, running)) // 1024} MiB"
    )
