"""What passes ``check_upgrade`` does not harm the library that makes the handshake (reliability attack 28)."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing

from chatd.listener.head import HeadRefused, check_upgrade, choose_subprotocol, parse_head
from chatd.wire.handshake import accept_websocket

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
async def test_flipped_bytes(seed: int) -> None:
    """Of 500 damaged handshakes each is refused by us, or answered with 101 by the library; none raises."""
    random, taken = Random(seed), 0
    for _ in range(500):
        data = flipped(random)
        try:
            head = parse_head(data)
            check_upgrade(head)
        except HeadRefused:
            continue
        server, client = trio.testing.memory_stream_pair()
        with trio.fail_after(10):
            await accept_websocket(server, data, choose_subprotocol(head) or "")
            assert (await client.receive_some()).startswith(b"HTTP/1.1 101 ")
        taken += 1
    assert taken > 5  # else the library was not tried
