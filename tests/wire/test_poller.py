"""The poller: whoever writes is heard, however many others have gone."""

from __future__ import annotations

import gc
import socket
import weakref

import pytest
import trio

from chatd.wire import poller
from chatd.wire.link import SocketLink
from chatd.wire.poller import Poller

GONE = 40


class Peer:
    """One connection; what its link says is noted in ``heard``."""

    def __init__(self, polled: Poller, heard: list[str]) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self._heard = heard
        self.link = SocketLink(ours, self, polled, polled.cork, max_bytes=1000, max_frames=10)

    def data_received(self, data: bytes) -> None:
        self._heard.append(data.decode())

    def outbox_overflowed(self) -> None:
        raise AssertionError("nothing is written here")

    def link_closed(self) -> None:
        self._heard.append("gone")


@pytest.mark.parametrize("says", ["", "bye"])
async def test_who_writes_is_heard_among_many_who_have_gone(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """They are ended a few in a turn, all of them in the end; and what somebody said before is still read."""
    monkeypatch.setattr(poller, "ENDS_A_TURN", 3)
    heard: list[str] = []
    polled = Poller()
    lost = [Peer(polled, heard) for _ in range(GONE)]
    writer = Peer(polled, heard)
    for peer in lost:
        peer.theirs.sendall(says.encode())
        peer.theirs.close()
    writer.theirs.sendall(b"hello")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(polled.run)
            for peer in lost:
                await peer.link.wait_ended()
            nursery.cancel_scope.cancel()
    assert heard.index("hello") <= 3
    assert heard.count("gone") == GONE
    assert heard.count("bye") == (GONE if says else 0)
    writer.theirs.close()
    polled.close()


async def test_who_writes_is_heard_beside_a_flood() -> None:
    """However much lies in a socket's buffer, little of it is taken before the others have their turn; in the end all is."""
    heard: list[str] = []
    polled = Poller()
    flood, writer = Peer(polled, heard), Peer(polled, heard)
    flood.theirs.sendall(b"x" * 65536)
    flood.theirs.shutdown(socket.SHUT_WR)
    writer.theirs.sendall(b"hello")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(polled.run)
            await flood.link.wait_ended()
            nursery.cancel_scope.cancel()
    assert sum(map(len, heard[: heard.index("hello")])) <= 4096
    assert "".join(heard).count("x") == 65536
    for peer in (flood, writer):
        peer.theirs.close()
    polled.close()


def test_a_link_that_has_ended_holds_nobody() -> None:
    """A session and its link know each other: what has ended must not be left to the cyclic collector, which runs seldom."""
    polled = Poller()
    peer = Peer(polled, [])
    known = weakref.ref(peer)
    gc.disable()
    try:
        peer.link.abort()
        peer.theirs.close()
        del peer
        assert known() is None
    finally:
        gc.enable()
    polled.close()
