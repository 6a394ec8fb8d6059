"""Networks that are bad, and clients that do what they may: a byte at a time, cuts at every offset, one device everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
from wsproto.frame_protocol import FrameProtocol

from tests.conftest import ReportFigures
from tests.e2e.cluster import Closed, Peer
from tests.faults.conftest import Clusters
from tests.faults.load import Load, calm, held, summary, upgraded
from tests.faults.proxy import proxied

pytestmark = pytest.mark.long
TURNS = 1000
GONE = (Closed, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@pytest.mark.parametrize("rules", [{"slice": 1}, {"slice": 7, "delay": 0.01}, {"cut": 30000}, {"delay": 0.2}], ids=str)
async def test_networks_that_are_bad(
    clusters: Clusters, tmp_path: Path, report_figures: ReportFigures, rules: dict[str, float]
) -> None:
    """Between the clients and both nodes."""
    cluster = clusters(2)
    async with proxied(cluster.servers[0].port, **rules) as one, proxied(cluster.servers[1].port, **rules) as other:
        load = Load(cluster, tmp_path, ports=lambda: [one, other])
        await load.prepare()
        verdict = await load.run(calm, 15)
    held(verdict)
    report_figures(f"{summary(verdict)}; {verdict.figures['sessions']:,} sessions")


def _framed(message: dict[str, Any]) -> bytes:
    return bytes(FrameProtocol(client=True, extensions=[]).send_data(cbor2.dumps(message), fin=True))


async def test_cuts_at_every_offset(clusters: Clusters, report_figures: ReportFigures) -> None:
    """What one says in a session, cut off after each of its bytes and said again: each message is stored once."""
    cluster = clusters(1)
    server = cluster.server(0)
    ben = await Peer.open(cluster, 0, "ben")
    said = [{"t": "send", "cseq": n, "to": "@ben", "body": f"number {n}"} for n in (1, 2, 3)]
    offsets = len(b"".join(map(_framed, said)))
    for offset in range(offsets + 1):
        user = f"cut{offset}"
        hello = _framed({"t": "hello", "token": cluster.token(user), "device": "d"})
        stream, _ = await upgraded(server.port)
        await stream.send_all(hello + b"".join(map(_framed, said))[:offset])
        await trio.aclose_forcefully(stream)
        again = await Peer.open(cluster, 0, user, "d")
        for message in said:
            await again.send(message)
        for message in said:
            ack = await again.until(lambda m, n=message["cseq"]: m.get("cseq") == n)
            assert ack["t"] == "ack", (offset, ack)
        page = await again.ask("history", conv=ack["conv"])
        assert [event["body"] for event in page["events"]] == ["number 1", "number 2", "number 3"], offset
        await again.vanish()
    await ben.vanish()
    report_figures(f"{offsets + 1} offsets")


async def test_one_device_from_two_nodes_a_thousand_times(clusters: Clusters, report_figures: ReportFigures) -> None:
    """Two sessions of one device at once, on two nodes: one of them remains, and no number is used twice."""
    cluster = clusters(2)
    await Peer.open(cluster, 0, "ben")
    stored = 0
    for turn in range(TURNS):
        sessions: list[Peer] = []

        async def enter(node: int) -> None:
            try:
                sessions.append(await Peer.open(cluster, node, "ann", "d", positions={}))  # noqa: B023
            except GONE:
                return

        async with trio.open_nursery() as both:
            both.start_soon(enter, 0)
            both.start_soon(enter, 1)
        outcomes = []
        for number, peer in enumerate(sessions):
            if peer.welcome["t"] == "welcome":
                try:  # something else each: the same from both would be a repeat, which is acknowledged to either
                    outcomes.append(await peer.say("@ben", f"turn {turn}, {number}"))
                except GONE:
                    continue
        acks = [answer for answer in outcomes if answer["t"] == "ack"]
        assert len(acks) <= 1, (turn, outcomes)
        stored += len(acks)
        for peer in sessions:
            await peer.vanish()
    last = await Peer.open(cluster, 0, "ann", "d", positions={})
    assert last.welcome["cseq"] == stored
    assert stored >= TURNS / 2, "hardly any of them had a session to say it in"
    report_figures(f"{stored} stored of {TURNS} turns")


async def test_everything_is_said_five_times(clusters: Clusters, report_figures: ReportFigures) -> None:
    """On one session after another and on both nodes, in any order: once in the log, the same place in each ack."""
    cluster = clusters(2)
    await Peer.open(cluster, 0, "ben")
    places: dict[int, set[int]] = {}
    conv = ""
    for turn in range(5):
        peer = await Peer.open(cluster, turn, "ann", "d", positions={})
        for cseq in range(1, 101):
            await peer.send({"t": "send", "cseq": cseq, "to": "@ben", "body": f"number {cseq}"})
        for _ in range(100):
            ack = await peer.until(lambda m: m["t"] in ("ack", "error"))
            assert ack["t"] == "ack"
            places.setdefault(ack["cseq"], set()).add(ack["seq"])
            conv = ack["conv"]
        await peer.send({"t": "send", "cseq": 7, "to": "@ben", "body": "something else"})
        refused = await peer.until(lambda m: m["t"] == "error")
        assert refused["code"] == "cseq_reused"
        await peer.close()
    reader = await Peer.open(cluster, 1, "ann", "reader", positions={conv: 0})
    bodies = [event["body"] for _, event in reader.seen_events() if event["body"].startswith("number")]
    assert sorted(bodies) == sorted(f"number {n}" for n in range(1, 101))
    assert all(len(found) == 1 for found in places.values())
    report_figures("100 messages, five times each")


