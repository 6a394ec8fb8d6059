"""What passes ``check_upgrade`` is answered, in a form that other libraries read (reliability attack 28)."""

from __future__ import annotations

from random import Random

import pytest
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, Request

from chatd.listener.head import HeadRefused, check_upgrade, choose_subprotocol, parse_head
from chatd.wire.handshake import switching_protocols

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: chatd.v1.cbor\r\nSec-WebSocket-Extensions: permessage-deflate\r\nCookie: a=b\r\n\r\n"
)


def flipped(random: Random) -> bytes:
    """The handshake with one or two bytes changed."""
    data = bytearray(HANDSHAKE)
    for _ in range(random.randint(1, 2)):
        data[random.randrange(len(data) - 4)] = random.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes(seed: int) -> None:
    """Of 500 damaged handshakes each is refused, or answered with 101; none raises."""
    random, taken = Random(seed), 0
    for _ in range(500):
        data = flipped(random)
        try:
            head = parse_head(data)
            check_upgrade(head)
        except HeadRefused:
            continue
        answer = switching_protocols(head.only(b"sec-websocket-key") or b"", choose_subprotocol(head) or "")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n") == 6
        taken += 1
    assert taken > 5  # else nothing was answered


def test_example_of_the_rfc() -> None:
    """RFC 6455, 1.3: the accept value of its sample nonce."""
    answer = switching_protocols(b"dGhlIHNhbXBsZSBub25jZQ==", "chatd.v1.cbor")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer


@pytest.mark.parametrize("subprotocol", ["chatd.v1.cbor", "chatd.v1.json"])
def test_another_library_takes_it(subprotocol: str) -> None:
    """A client that checks all of the answer accepts it, with no extension and the subprotocol chosen."""
    client = WSConnection(ConnectionType.CLIENT)
    request = client.send(Request(host="chat.example", target="/ws", subprotocols=["chatd.v1.json", "chatd.v1.cbor"]))
    head = parse_head(request)
    check_upgrade(head)
    client.receive_data(switching_protocols(head.only(b"sec-websocket-key") or b"", subprotocol))
    assert list(client.events()) == [AcceptConnection(subprotocol=subprotocol)]
