"""Faults 13, 16 and 23: more than it can take, readers who do not read, and everybody back at once on an empty cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.e2e.cluster import Cluster, Peer, Server
from tests.faults.conftest import FREELY
from tests.faults.faults import resident, throttled
from tests.faults.flood import entered, flood, told_of
from tests.faults.machine import Machine

pytestmark = pytest.mark.long
USERS = 100
SECONDS = 15.0
BOUND_MIB = 256
"""The writer's mailbox (64 MiB) and what the sessions may hold, with Python's share of it."""
Clusters = Callable[..., Cluster]
Machines = Callable[..., tuple[Cluster, Machine]]
Told = Callable[[str], None]


async def _watch(server: Server, seen: list[int]) -> None:
    while True:
        seen.append(resident(server))
        await trio.sleep(0.2)


@pytest.mark.parametrize("short", ["disk", "processor"])
async def test_more_than_it_can_take(clusters: Clusters, machines: Machines, told: Told, short: str) -> None:
    """Twice and five times what it can: it goes on acknowledging, its memory is bounded, and it comes back by itself.

    The goodput is told, and has to be judged by who reads it: 80 % of the capacity at least."""
    cluster = machines(1, sync_ms=100)[0] if short == "disk" else clusters(1)
    server, seen = cluster.server(0), list[int]()
    with throttled(server, 0.2 if short == "processor" else 2.0):
        async with flood(cluster, USERS) as storm, trio.open_nursery() as watching:
            watching.start_soon(_watch, server, seen)
            await storm.during("begin", 2, None)
            capacity = await storm.during("capacity", SECONDS, None)
            spans = [capacity]
            for name, share in (("before", 0.5), ("2 x", 2.0), ("5 x", 5.0), ("back", 0.1), ("after", 0.5)):
                spans.append(await storm.during(name, SECONDS, share * capacity.rate))
            watching.cancel_scope.cancel()
    assert spans[3].offered > 2 * spans[3].acked, "there was more than it could take"
    assert spans[-1].refused == 0 and spans[-1].acked > 0, "it has not come back"
    assert (max(seen) - seen[0]) / 1024 < BOUND_MIB
    assert not storm.byes
    told(f"{told_of(spans)}; {seen[0] // 1024} to {max(seen) // 1024} MiB")


async def test_readers_who_do_not_read(clusters: Clusters, told: Told) -> None:
    """Fifty of a group of a hundred: they are cut, all of them, and nobody else misses anything."""
    cluster = clusters(1, settings=f"{FREELY}\noutbox_bytes = 262144\n")
    server = cluster.server(0)
    ann = await Peer.open(cluster, 0, "ann")
    readers = [await Peer.open(cluster, 0, f"reader{n}") for n in range(10)]
    deaf = [await Peer.open(cluster, 0, f"deaf{n}", narrow=True) for n in range(50)]
    made = await ann.ask("create", title="t", members=[f"reader{n}" for n in range(10)] + [f"deaf{n}" for n in range(50)])
    before, said = resident(server), 0
    while b"slow_consumer" not in (log := Path(server.log.name).read_bytes()) or log.count(b"slow_consumer") < len(deaf):
        ack = await ann.say(made["conv"], "x" * 8000)
        said += 1
        for reader in readers:
            await reader.event(made["conv"], ack["seq"])
    for peer in (*deaf, *readers):
        await peer.vanish()
    told(f"all cut after {said} messages of 8 kB; {before // 1024} to {resident(server) // 1024} MiB")


async def test_everybody_back_on_an_empty_cache(clusters: Clusters, told: Told) -> None:
    """2000 connections, ten devices of each of 200 users who share ten groups; the node is killed, and another has them all."""
    cluster = clusters(1, settings=f"{FREELY}\nconnections_per_address = 10000\nconnections_per_minute = 1000000\n")
    await _befriend(cluster)
    first = await _all_live(cluster)
    cluster.server(0).kill()
    await trio.to_thread.run_sync(cluster.start)
    again = await _all_live(cluster)
    told(f"2000 live {again:.1f} s after they knocked at a new node; {first:.1f} s at one that knew them")


async def _befriend(cluster: Cluster) -> None:
    """Ten groups of all 200."""
    for number in range(200):
        await trio.aclose_forcefully(await entered(cluster, f"s{number}"))
    maker = await Peer.open(cluster, 0, "maker")
    for number in range(10):
        made = await maker.ask("create", title=str(number), members=[f"s{n}" for n in range(200)])
        assert made["t"] == "ok", made
    await maker.close()


async def _all_live(cluster: Cluster) -> float:
    """Ten devices of each of 200 users; seconds until the last is live."""
    began, streams = trio.current_time(), list[trio.abc.Stream]()

    async def enter(number: int) -> None:
        streams.append(await entered(cluster, f"s{number % 200}", f"d{number // 200}"))

    async with trio.open_nursery() as everybody:
        for number in range(2000):
            everybody.start_soon(enter, number)
    seconds = trio.current_time() - began
    for stream in streams:
        await trio.aclose_forcefully(stream)
    return seconds
