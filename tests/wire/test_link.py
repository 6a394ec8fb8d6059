"""Links whose peer does not read: bounded in bytes and in frames, cut with a whole farewell, closed hard when that is not
read either; and a fault behind one link ends that link alone."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from chatd.wire import link as links
from chatd.wire.link import LINGER_SECONDS, Cork, SocketLink
from chatd.wire.poller import Poller
from chatd.wire.stream_link import StreamLink

FAREWELL = b"farewell"
LARGE = 1 << 20
NO_BOUND = 1 << 40


class Receiver:
    """Cuts its link when that is full, as a session does."""

    def __init__(self) -> None:
        self.link: Any = None
        self.heard: list[bytes] = []
        self.overflowed = self.closed = 0

    def data_received(self, data: bytes) -> None:
        if data == b"fault":
            raise RuntimeError("planted")
        self.heard.append(data)

    def outbox_overflowed(self) -> None:
        self.overflowed += 1
        self.link.cut(FAREWELL)

    def link_closed(self) -> None:
        self.closed += 1


class Registry:
    """The poller's part, which notes what it is asked for."""

    def __init__(self) -> None:
        self.readable = False
        self.aborts: list[float] = []

    def watch(self, link: SocketLink, *, readable: bool, writable: bool) -> None:
        self.readable = readable

    def forget(self, link: SocketLink) -> None: ...

    def schedule_abort(self, link: SocketLink, seconds: float) -> None:
        self.aborts.append(seconds)


class Pair:
    """A link on one end of a socket pair, whose kernel buffer is small, and the peer's end."""

    def __init__(
        self, *, registry: Any = None, cork: Cork | None = None, max_bytes: int = NO_BOUND, max_frames: int = NO_BOUND
    ) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.registry = registry or Registry()
        self.receiver = Receiver()
        self.link = self.receiver.link = SocketLink(
            ours, self.receiver, self.registry, cork or Cork(), max_bytes=max_bytes, max_frames=max_frames
        )

    def all_that_is_read(self) -> bytes:
        """By a peer that reads at last, to the end."""
        got = b""
        self.theirs.setblocking(False)
        while True:
            try:
                data = self.theirs.recv(65536)
            except BlockingIOError:
                self.link.on_writable()
                continue
            if not data:
                return got
            got += data

    def close(self) -> None:
        self.link.abort()
        self.theirs.close()


def test_an_outbox_is_bounded_in_bytes() -> None:
    """I9: beyond the bound the link is cut, once, and what waits is dropped."""
    pair = Pair(max_bytes=100_000)
    most = 0
    for _ in range(1000):
        pair.link.write(b"x" * 1000)
        most = max(most, pair.link.waiting_bytes)
    assert pair.receiver.overflowed == 1
    assert most <= 100_000
    assert pair.link.waiting_bytes <= 1000 + len(FAREWELL)
    pair.close()


def test_an_outbox_is_bounded_in_frames() -> None:
    """I9: many small ones are lists and objects, whatever they add up to."""
    pair = Pair(max_frames=10)
    pair.link.write(b"x" * LARGE)
    for _ in range(100):
        pair.link.write(b"y")
    assert pair.receiver.overflowed == 1
    pair.close()


def test_what_is_gathered_is_bounded() -> None:
    """I9: one batch may write more to a link than that may keep; it does not wait for the batch's end."""
    cork = Cork()
    pair = Pair(cork=cork, max_bytes=100_000)
    with cork:
        for _ in range(1000):
            pair.link.write(b"x" * 1000)
        assert pair.receiver.overflowed == 1
    pair.close()


def test_a_farewell_comes_whole_behind_the_frame_that_is_half_out() -> None:
    """A cut inside a frame would make the farewell a part of it; the frames behind it are dropped."""
    pair = Pair()
    pair.link.write(b"a" * LARGE)
    for _ in range(10):
        pair.link.write(b"b" * 100)
    pair.link.cut(FAREWELL)
    assert pair.all_that_is_read() == b"a" * LARGE + FAREWELL
    assert pair.registry.aborts == [LINGER_SECONDS]
    pair.close()


def test_a_link_that_is_not_to_be_read_is_not_watched() -> None:
    """I9: TCP then slows the peer down; when it closes, its end is to be seen all the same."""
    pair = Pair()
    assert pair.registry.readable
    pair.link.pause_reading()
    assert not pair.registry.readable
    pair.link.resume_reading()
    assert pair.registry.readable
    pair.link.pause_reading()
    pair.link.finish(FAREWELL)
    assert pair.registry.readable
    pair.close()


async def test_who_reads_no_farewell_is_closed_hard(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody waits for a peer: after the linger nothing of it is held any more."""
    polled = Poller()
    pair = Pair(registry=polled, cork=polled.cork)
    pair.link.write(b"x" * LARGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polled.run)
        began = trio.current_time()
        pair.link.cut(FAREWELL)
        with trio.fail_after(60):
            await pair.link.wait_ended()
        assert LINGER_SECONDS <= trio.current_time() - began <= LINGER_SECONDS + 2
        nursery.cancel_scope.cancel()
    assert pair.receiver.closed == 1
    pair.theirs.close()
    polled.close()


async def test_a_fault_behind_a_link_ends_that_link_alone() -> None:
    """Whatever one peer's bytes make the server raise: the others are heard, and the poller goes on."""
    polled = Poller()
    pairs = [Pair(registry=polled, cork=polled.cork) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polled.run)
        pairs[1].theirs.sendall(b"fault")
        with trio.fail_after(30):
            await pairs[1].link.wait_ended()
        for pair in (pairs[0], pairs[2]):
            pair.theirs.sendall(b"hello")
        with trio.fail_after(30):
            while not (pairs[0].receiver.heard and pairs[2].receiver.heard):
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert polled.faults == 1
    assert [pair.receiver.closed for pair in pairs] == [0, 1, 0]
    for pair in pairs:
        pair.close()
    polled.close()


@pytest.mark.skipif(not (links.__file__ or "").endswith(".py"), reason="what is compiled takes no stand-in for a link")
def test_a_fault_in_a_flush_keeps_nothing_from_the_others() -> None:
    """What a batch has gathered for them is still written."""
    cork, told = Cork(), []

    def fail() -> None:
        raise RuntimeError("planted")

    broken: Any = SimpleNamespace(flush=fail, abort=lambda: told.append("aborted"))
    sound: Any = SimpleNamespace(flush=lambda: told.append("flushed"))
    with cork:
        cork.add(broken)
        cork.add(sound)
    assert told == ["aborted", "flushed"]


@pytest.mark.parametrize(("bounds", "frame"), [((10_000, NO_BOUND), b"x" * 1000), ((NO_BOUND, 10), b"x")])
async def test_a_stream_is_bounded_too(
    autojump_clock: trio.testing.MockClock, bounds: tuple[int, int], frame: bytes
) -> None:
    """TLS: in bytes, in frames, and in the time that a farewell is waited for."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    receiver = Receiver()
    link = receiver.link = StreamLink(ours, receiver, max_bytes=bounds[0], max_frames=bounds[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        for _ in range(100):
            link.write(frame)
        assert receiver.overflowed == 1
        assert link.waiting_bytes <= len(frame) + len(FAREWELL)
        began = trio.current_time()
        with trio.fail_after(60):
            await link.wait_ended()
        assert trio.current_time() - began == pytest.approx(LINGER_SECONDS)
    await theirs.aclose()
