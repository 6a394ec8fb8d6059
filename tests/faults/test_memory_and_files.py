"""What a process may have comes to its end: file descriptors, memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import Peer, Server
from tests.faults.conftest import Clusters
from tests.faults.injections import descriptors, short_of_memory
from tests.faults.load import Load, held, summary, upgraded

pytestmark = pytest.mark.long
DEADLINE_SECONDS = 300.0
LEFT = 10
"""Descriptors more than the node has open."""
KNOCKING = 100
MORE_BYTES = 8 * 2**20
TURNS = 3


def _limit(server: Server, what: int, most: int) -> None:
    """The soft limit, so that it can be given back."""
    _, hard = resource.prlimit(server.process.pid, what)
    resource.prlimit(server.process.pid, what, (most, hard))


async def test_file_descriptors_run_out(clusters: Clusters, report_figures: ReportFigures) -> None:
    """Nobody more comes in; who is there is served, and its Redis link and store go on; with room again, all come in."""
    cluster = clusters(1)
    server = cluster.server(0)
    ann, ben = await Peer.open(cluster, 0, "ann"), await Peer.open(cluster, 0, "ben")
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    _limit(server, resource.RLIMIT_NOFILE, descriptors(server) + LEFT)
    entered: list[trio.abc.Stream] = []

    async def knock() -> None:
        entered.append((await upgraded(server.port))[0])

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as outside:
            for _ in range(KNOCKING):
                outside.start_soon(knock)
            while b"listener.full" not in Path(server.log.name).read_bytes():
                ack = await ann.say("@ben", "is anybody there?")
                await ben.event(ack["conv"], ack["seq"])
            for number in range(100):
                ack = await ann.say("@ben", f"number {number}")
                await ben.event(ack["conv"], ack["seq"])
            let_in = len(entered)
            assert let_in < KNOCKING
            _limit(server, resource.RLIMIT_NOFILE, hard)
    assert len(entered) == KNOCKING, "who waited is let in"
    for stream in entered:
        await trio.aclose_forcefully(stream)
    report_figures(f"{let_in} of {KNOCKING} let in, the rest when there was room; 100 messages delivered meanwhile")


async def test_memory_runs_out(clusters: Clusters, tmp_path: Path, report_figures: ReportFigures) -> None:
    """Under load; the node goes on, or the kernel ends it and it is started again: nothing that it acknowledged is lost."""
    load = Load(clusters(1), tmp_path)
    await load.prepare()
    ended = ran_out = 0

    async def disturb(load: Load) -> None:
        nonlocal ended, ran_out
        for _ in range(TURNS):
            await trio.sleep(2)
            server = load.cluster.server(0)
            with short_of_memory(server, MORE_BYTES) as count:
                with trio.move_on_after(10):
                    await _eat(load, server)
                ran_out += count() > 0
            if server.process.poll() is not None:
                ended += 1
                await trio.to_thread.run_sync(load.cluster.start)

    verdict = await load.run(disturb, 20)
    held(verdict)
    assert ran_out == TURNS, "there was memory left"
    report_figures(f"{TURNS} times, the node ended {ended} times: {summary(verdict)}")


async def _eat(load: Load, server: Server) -> None:
    """Connections that say much and read nothing, until the node is gone."""
    async with trio.open_nursery() as eaters:
        for number in range(200):
            eaters.start_soon(_say_much, load, server, f"eater{number}")
        while server.process.poll() is None:
            await trio.sleep(0.05)
        eaters.cancel_scope.cancel()


async def _say_much(load: Load, server: Server, user: str) -> None:
    try:
        peer = await Peer.bare(server)
        await peer.send({"t": "hello", "token": load.cluster.token(user), "device": "d"})
        for cseq in range(1, 200):  # to nobody: what they say is judged, and not stored
            await peer.send({"t": "send", "cseq": cseq, "to": "@nobody.at.all", "body": "x" * 60000})
    except Exception:  # noqa: BLE001 - a node without memory may answer anything, or nothing
        return
