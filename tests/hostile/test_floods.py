"""Floods of frames by who does not read, or means nothing by them: the node's memory is bounded, the connection is cut
or answered, and others are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from chatd_protocol import codes

from tests.client_frames import BINARY, CONTINUATION, PING, PONG, frame
from tests.conftest import ReportFigures
from tests.e2e.cluster import FREELY, Closed, Cluster, Peer, metric
from tests.faults.injections import resident
from tests.hostile.catalogue import LIMIT, beat

pytestmark = pytest.mark.usefixtures("no_stream_left")
DEADLINE_SECONDS = 120.0
MANY = 100_000
GROWTH_KIB = 48 * 1024
"""What one attacker may make the node grow by; its outbox is 1 MiB, and the rest is what an allocator keeps."""
SMALL = beat(0, text=False)


@pytest.fixture(params=["", FREELY], ids=["by-default", "without-limits"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """With the rate limits that are the default, which cut most floods, and without, so that the bounds behind them are met."""
    made = Cluster(tmp_path, 1, request.param)
    yield made
    made.stop()


def _bytewise() -> bytes:
    """A heartbeat in fragments of one byte."""
    parts = [SMALL[at : at + 1] for at in range(len(SMALL))]
    frames = [frame(CONTINUATION if at else BINARY, part, fin=at == len(parts) - 1) for at, part in enumerate(parts)]
    return b"".join(frames)


FLOODS = {
    "pings": lambda: frame(PING, b"x" * 100) * MANY,
    "empty pings": lambda: frame(PING) * MANY,
    "pongs": lambda: frame(PONG, b"x" * 100) * MANY,
    "heartbeats": lambda: frame(BINARY, SMALL) * MANY,
    "one-byte fragments": lambda: _bytewise() * (MANY // len(SMALL)),
    "empty fragments": lambda: frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * MANY,
    "empty messages": lambda: frame(BINARY) * MANY,
    "unknown messages": lambda: frame(BINARY, b"\xa1\x61t\x61x") * MANY,
}
CUTS = {1006, 1008, codes.RATE_LIMITED.code, codes.SLOW_CONSUMER.code}
"""How a flood may end: by a policy with its code, or (1006) with a reset that was quicker than the goodbye."""


async def flood(peer: Peer, data: bytes) -> None:
    """All of it, or what is taken; nothing is read meanwhile."""
    try:
        for at in range(0, len(data), 65536):
            await peer.socket.stream.send_all(data[at : at + 65536])
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


@pytest.mark.parametrize("name", [next(iter(FLOODS)), *(pytest.param(name, marks=pytest.mark.long) for name in list(FLOODS)[1:])])
async def test_a_flood_is_answered_or_cut(node: Cluster, report_figures: ReportFigures, name: str) -> None:
    """By one who does not read while it lasts. It is over when the connection is, or when all of it was swallowed and the same
    connection is answered again."""
    server = node.server(0)
    other = await Peer.open(node, 0, "other")
    attacker = await Peer.open(node, 0, "attacker", narrow=True)
    before, most, said = resident(server), 0, 0
    over = trio.Event()

    async def attack() -> None:
        # What a flood leaves unsent because nobody reads the answers is given up after a while: by then it has done its harm.
        with trio.move_on_after(DEADLINE_SECONDS / 4):
            await flood(attacker, FLOODS[name]())
        over.set()

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attack)
            while not over.is_set() or not said:
                assert (await other.say("@other", "to myself"))["t"] == "ack"
                said += 1
                most = max(most, resident(server))
                await trio.sleep(0.02)
        code = await _closed_or_answered(attacker)
    most = max(most, resident(server))
    assert code in CUTS | {0}
    assert most - before <= GROWTH_KIB
    assert metric(server, "chatd_link_faults_total") == metric(server, "chatd_connection_faults_total") == 0
    end = f"cut with {code}" if code else "swallowed"
    report_figures(f"{name}: {end}, {max(0, most - before) / 1024:.1f} MiB more; {said} messages of others meanwhile")


async def _closed_or_answered(peer: Peer) -> int:
    """The close code, or 0 where a request behind the flood is answered."""
    try:
        answer = await peer.ask("conversations")
    except (Closed, trio.BrokenResourceError):
        return peer.socket.close_code
    return 0 if answer["t"] in ("ok", "error") else -1


@pytest.mark.long
async def test_unfinished_messages(tmp_path: Path, report_figures: ReportFigures) -> None:
    """A thousand connections, each with a message of 64 KiB but for its last byte: as much memory as they were let in for. It is
    had back when they are cut, 10 s later: as many again take next to nothing more."""
    node = Cluster(tmp_path, 1, "[limits]\nconnections_per_address = 2000\n")
    try:
        before = resident(node.server(0))
        first, again = [await _most_with_a_thousand_begun(node) for _ in range(2)]
    finally:
        node.stop()
    assert first - before <= 1000 * 64 * 2
    assert again - first <= (first - before) / 4
    more = [(most - before) / 1024 for most in (first, again)]
    report_figures(f"{more[0]:.0f} MiB more for 62 MiB begun, {more[1]:.0f} when it was done again")


async def _most_with_a_thousand_begun(node: Cluster) -> int:
    """KiB, while somebody else is served; then all of them are cut."""
    held = [await Peer.open(node, 0, f"u{number % 20}", f"d{number}") for number in range(1000)]
    unfinished = frame(BINARY, b"x" * LIMIT)[:-1]
    for peer in held:
        await peer.socket.stream.send_all(unfinished)
    other = await Peer.open(node, 0, "other")
    assert (await other.say("@other", "to myself"))["t"] == "ack"
    most, ends = resident(node.server(0)), list[int]()

    async def wait_for(peer: Peer) -> None:
        ends.append(await peer.closed())

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            for peer in held:
                nursery.start_soon(wait_for, peer)
    assert set(ends) == {1008}
    return most
