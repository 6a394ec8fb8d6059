"""Connections against a real socket whose other end does what servers do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from chatd_bench.connection import Connection, RunFailed
from chatd_bench.load import Load

from chatd.wire.frames import FrameParser

DEADLINE_SECONDS = 60
"""Seconds, against hanging for ever on a busy machine; no test measures by it."""
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(DEADLINE_SECONDS)
        yield made


@pytest.fixture
def opened(plan, listener):
    """A connection that has sent its handshake and hello, and the server's end of it."""
    load = Load(plan("dm", port=listener.getsockname()[1]))
    connection = Connection("someone")
    load.connect(connection, 0)
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(DEADLINE_SECONDS)
        yield load.loop, connection, peer
    load.loop.close()


def read_opening(peer: socket.socket) -> tuple[bytes, bytes]:
    """The head of the upgrade and the payload of the hello behind it, in however many pieces they come."""
    data = b""
    while not (end := data.find(b"\r\n\r\n") + 4) > 3:
        data += peer.recv(65536)
    parser = FrameParser(65536)
    frames = parser.feed(data[end:])
    while not frames:
        frames = parser.feed(peer.recv(65536))
    [(_, hello)] = frames
    return data[:end], hello


def test_handshake_hello_and_live(opened, framed) -> None:
    """The upgrade and a masked hello go out at once; welcome and live make the connection live, in whatever pieces."""
    loop, connection, peer = opened
    head, hello = read_opening(peer)
    assert head.startswith(b"GET /ws HTTP/1.1\r\n")
    assert b"Sec-WebSocket-Protocol: chatd.v1.cbor" in head
    assert b"hello" in hello
    data = SWITCH + framed({"t": "welcome", "heartbeat_ms": 9000}) + framed({"t": "live"})
    for at in range(0, len(data), 11):
        peer.sendall(data[at : at + 11])
        loop.turn(DEADLINE_SECONDS)
    loop.turn_until(lambda: connection.live, DEADLINE_SECONDS, "live")
    assert connection.heartbeat_s == 3.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull", "503 Service Unavailable full"),
        (b"x" * 20_000, "no end of its head"),
        (SWITCH + b"\x88\x02\x10\x68", "0x88"),
        (b"", "closed the connection"),
    ],
)
def test_a_server_that_does_not_want_us_ends_the_run(opened, answer: bytes, said: str) -> None:
    """Refusals, close frames and lost connections are told in words, and not waited out."""
    loop, _, peer = opened
    read_opening(peer)
    peer.sendall(answer)
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(RunFailed, match=said):
        loop.turn_until(lambda: False, DEADLINE_SECONDS, "an end")


def test_what_the_kernel_does_not_take_follows_later(opened) -> None:
    """More than a socket's buffers hold is kept, in order, and written when the server reads again."""
    loop, connection, peer = opened
    read_opening(peer)
    frames = [bytes((number % 256,)) * 100_000 for number in range(200)]
    for frame in frames:
        connection.out.append(frame)
        connection.flush()
    wanted = b"".join(frames)
    got = bytearray()
    peer.setblocking(False)

    def complete() -> bool:
        with suppress(BlockingIOError):
            while len(got) < len(wanted):
                got.extend(peer.recv(1 << 20))
        return len(got) >= len(wanted)

    loop.turn_until(complete, DEADLINE_SECONDS, "all of it")
    assert bytes(got) == wanted


def test_a_ping_is_answered(opened) -> None:
    """A server's ping gets a masked pong with its payload."""
    loop, _, peer = opened
    read_opening(peer)
    peer.sendall(SWITCH + b"\x89\x03abc")
    peer.setblocking(False)
    parser, frames = FrameParser(65536), []

    def answered() -> bool:
        with suppress(BlockingIOError):
            frames.extend(parser.feed(peer.recv(65536)))
        return bool(frames)

    # One turn reads once, and the upgrade and the ping may come in two pieces.
    loop.turn_until(answered, DEADLINE_SECONDS, "a pong")
    assert frames == [(0xA, b"abc")]
