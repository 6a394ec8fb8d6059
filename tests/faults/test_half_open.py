"""Half-open connections: the cable is out, and nobody says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import FREELY, Cluster, Peer, Socket, bodies
from tests.faults.network import Network, network

pytestmark = pytest.mark.long
BEAT_MS = 1000
SAID = 20
SETTINGS = f"{FREELY}\n[server]\nheartbeat_ms = {BEAT_MS}\n[presence]\nrenew_seconds = 0.5\nexpiry_seconds = 1.0\n"
"""Who is gone counts as offline a second after their connection was ended, not the usual minute."""


async def _enter(cluster: Cluster, behind: Network) -> Peer:
    """ann, from behind the cable; she tells no positions, so that the server's cursors decide."""
    port = cluster.server(0).port
    peer = Peer(await Socket.connect(port, "chatd.v1.cbor", over=await behind.connect(port)), "cbor")
    await peer.send({"t": "hello", "token": cluster.token("ann"), "device": "d"})
    await peer.until(lambda m: m["t"] == "live")
    return peer


async def _beating(peer: Peer) -> None:
    while True:
        await trio.sleep(BEAT_MS / 2000)
        await peer.send({"t": "heartbeat"})


async def test_a_cable_that_is_pulled(tmp_path: Path, report_figures: ReportFigures) -> None:
    """She is shown as offline; what is said meanwhile waits, none of it as delivered; and comes first when she is back."""
    with network() as cable:
        cluster = Cluster(tmp_path, 1, SETTINGS, listen=cable.host)
        try:
            await _try(cluster, cable, report_figures)
        finally:
            cluster.stop()


async def _try(cluster: Cluster, cable: Network, report_figures: ReportFigures) -> None:
    port = cluster.server(0).port
    ann = await _enter(cluster, cable)
    ben = Peer(await Socket.connect(port, "chatd.v1.cbor", over=await trio.open_tcp_stream(cable.host, port)), "cbor")
    await ben.send({"t": "hello", "token": cluster.token("ben"), "device": "d"})
    await ben.until(lambda m: m["t"] == "live")
    async with trio.open_nursery() as beating:
        beating.start_soon(_beating, ben)
        before = await ben.say("@ann", "before")
        await ann.event(before["conv"], before["seq"])
        await ben.send({"t": "watch", "users": ["ann"]})
        await ben.until(lambda m: m["t"] == "presence" and m["status"] == "online")
        cable.pull()
        began = trio.current_time()
        for number in range(SAID):
            await ben.say("@ann", f"number {number}")
        await ben.until(lambda m: m["t"] == "presence" and m["status"] == "offline")
        noticed = trio.current_time() - began
        cable.plug()
        again = await _enter(cluster, cable)
        assert bodies(again.seen, before["conv"]) == ["before", *(f"number {n}" for n in range(SAID))]
        beating.cancel_scope.cancel()
    report_figures(f"noticed and shown after {noticed:.1f} s, with a heartbeat of {BEAT_MS / 1000:g} s")
