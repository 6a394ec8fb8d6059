"""Every refusal has its code, changes nothing, and nothing a client sends ends the process."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import cbor2
import pytest
import trio

from tests.client_frames import BINARY, CLOSE, PING, frame
from tests.e2e.cluster import Cluster, Peer

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: chatd.v1.cbor\r\n\r\n"
)


def raw(cluster: Cluster, *chunks: bytes) -> bytes:
    """Write bytes as they are to node 0, and read what it answers until it closes or is silent."""
    with socket.create_connection(("127.0.0.1", cluster.server(0).port), timeout=10) as sock:
        answer = b""
        try:
            for chunk in chunks:
                sock.sendall(chunk)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                answer += data
        except ConnectionError:
            return answer
        return answer


async def alive(cluster: Cluster) -> bool:
    """The node still serves, and the process is the one that was started."""
    peer = await Peer.open(cluster, 0, "canary", os.urandom(4).hex())
    answered = (await peer.ask("conversations"))["t"] == "ok"
    await peer.close()
    return answered and all(server.process.poll() is None for server in cluster.servers)


PACKETS = {
    "a connection header beyond ASCII": UPGRADE.replace(b"Connection: Upgrade", b"Connection: \xff"),
    "b subprotocol beyond ASCII": UPGRADE.replace(b"chatd.v1.cbor", b"\xff"),
    "c extensions beyond ASCII": UPGRADE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: \xff\r\n\r\n"),
    "d host beyond ASCII": UPGRADE.replace(b"Host: localhost", b"Host: \xff"),
    "d2 host that is no punycode": UPGRADE.replace(b"Host: localhost", b"Host: xn--999999999"),
    "e pings around a close": UPGRADE + frame(CLOSE, b"\x03\xe8") + frame(PING, b"x") * 5,
    "f oversize and ping in one segment": UPGRADE + frame(BINARY, b"x" * 70000) + frame(PING, b"x"),
    "g two oversize in one segment": UPGRADE + frame(BINARY, b"x" * 70000) * 2,
    "h noise after the handshake": UPGRADE + os.urandom(500),
}


@pytest.mark.parametrize("name", PACKETS)
async def test_the_packets_that_kill_a_naive_server(cluster: Cluster, name: str) -> None:
    """reliability.md 0.1: closed or answered, and the node goes on."""
    await trio.to_thread.run_sync(raw, cluster, PACKETS[name])
    assert await alive(cluster)


async def test_a_broken_handshake_is_answered(cluster: Cluster) -> None:
    """Each with an HTTP status: no common subprotocol, a wrong version, a foreign origin, another path."""
    cases = {
        b"400": UPGRADE.replace(b"chatd.v1.cbor", b"soap"),
        b"426": UPGRADE.replace(b"Version: 13", b"Version: 8"),
        b"403": UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"),
        b"404": UPGRADE.replace(b"/ws", b"/else"),
    }
    for status, head in cases.items():
        answer = await trio.to_thread.run_sync(raw, cluster, head)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]


@pytest.mark.parametrize(
    ("message", "code", "named"),
    [
        ({"t": "nonsense"}, "unknown_type", "nonsense"),
        ({"no": "type"}, "bad_message", "t"),
        ({"t": "send", "to": "@a", "body": "x"}, "bad_message", "cseq"),
        ({"t": "send", "cseq": "1", "to": "@a", "body": "x"}, "bad_message", "cseq"),
        ({"t": "send", "cseq": 0, "to": "@a", "body": "x"}, "bad_message", "cseq"),
        ({"t": "send", "cseq": 2**53, "to": "@a", "body": "x"}, "bad_message", "cseq"),
        ({"t": "send", "cseq": 1, "to": "@a", "body": 5}, "bad_message", "body"),
        ({"t": "history", "id": 1, "conv": "c", "limit": 201}, "bad_message", "limit"),
        ({"t": "create", "id": 1, "title": "", "members": []}, "bad_message", "title"),
        ({"t": "create", "id": 1, "title": "x" * 201, "members": []}, "bad_message", "title"),
        ({"t": "create", "id": 1, "title": "x", "members": ["Not A Name"]}, "bad_message", "members"),
        ({"t": "hello", "token": "x", "device": "y"}, "out_of_place", "hello"),
    ],
)
@pytest.mark.parametrize("encoding", ["cbor", "json"])
async def test_bad_messages(cluster: Cluster, message: dict[str, Any], code: str, named: str, encoding: str) -> None:
    """Typed errors that name the field; the session stays up and nothing is stored."""
    peer = await Peer.open(cluster, 0, "careless", os.urandom(4).hex(), encoding=encoding)
    await peer.send(message)
    error = await peer.until(lambda m: m["t"] == "error")
    assert error["code"] == code
    assert named in error["message"]
    assert error.get("id") == message.get("id")
    assert (await peer.ask("conversations"))["t"] == "ok"
    await peer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\xbf\x61t\x65watch\xff", b"\xc0\xa0", b"\xa2\x61t\x61a\x61t\x61b", b"\xa0\x00", b"\x81" * 20 + b"\x00",
        b"\xa1\x61t\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xff", b"", b"\x9b" + b"\xff" * 8,
    ],
    ids=["indefinite", "tag", "duplicate", "trailing", "deep", "nan", "break", "empty", "huge"],
)  # fmt: skip
async def test_cbor_that_is_not_strict(cluster: Cluster, data: bytes) -> None:
    """Refused as bad_message; the session stays up."""
    peer = await Peer.open(cluster, 0, "sloppy", os.urandom(4).hex())
    await peer.socket.send(data)
    assert (await peer.until(lambda m: m["t"] == "error"))["code"] == "bad_message"
    assert (await peer.ask("conversations"))["t"] == "ok"
    await peer.close()


async def test_before_the_hello(cluster: Cluster) -> None:
    """A send before the hello, a bad token, and text on a binary session end with their codes."""
    early = await Peer.bare(cluster.server(0))
    await early.send({"t": "send", "cseq": 1, "to": "@a", "body": "x"})
    assert await early.closed() == 4202
    forged = await Peer.bare(cluster.server(0))
    await forged.send({"t": "hello", "token": "a.b.c", "device": "d"})
    assert await forged.closed() == 4200
    text = await Peer.bare(cluster.server(0))
    await text.socket.send(json.dumps({"t": "hello"}))
    assert await text.closed() == 1003


async def test_an_expired_token_is_refused(cluster: Cluster) -> None:
    """A token past its ``exp`` opens nothing, whatever its signature."""
    peer = await Peer.bare(cluster.server(0))
    await peer.send({"t": "hello", "token": cluster.token("late", -60), "device": "d"})
    assert await peer.closed() == 4200


async def test_two_requests_and_a_ping_in_one_segment(cluster: Cluster) -> None:
    """Frames that arrive together are each answered."""
    peer = await Peer.open(cluster, 0, "batcher")
    frames = b"".join(frame(BINARY, cbor2.dumps({"t": "conversations", "id": n})) for n in (71, 72)) + frame(PING, b"p")
    await peer.socket.stream.send_all(frames)
    answers = [await peer.until(lambda m, n=n: m.get("id") == n) for n in (71, 72)]
    assert [answer["t"] for answer in answers] == ["ok", "ok"]
    await peer.close()
