"""The client's side of RFC 6455, as far as a load generator needs it. Pure: bytes in, bytes out.

The mask key is chosen at random once per connection and then kept. RFC 6455 (5.3, 10.3) asks for a fresh one per frame,
to protect proxies from scripts in browsers; a server cannot tell and has the same work, and a constant one lets frames
be masked ahead of time. It is never zero, for a server might skip that. A test tool may do so; a client must not.
"""

from __future__ import annotations

import base64
import random

PATH = "/ws"
SUBPROTOCOL = "chatd.v1.cbor"
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A
"""First bytes of final frames."""

MASKED = 0x80
MAX_HEAD_BYTES = 16 * 1024


class HandshakeRefused(Exception):
    """The server did not answer with 101; the text is the status line it sent."""


def upgrade_request(host: str, port: int, target: str = PATH, subprotocol: str | None = SUBPROTOCOL) -> bytes:
    """The opening handshake's request."""
    key = base64.b64encode(random.randbytes(16)).decode()
    offered = (f"Sec-WebSocket-Protocol: {subprotocol}",) if subprotocol else ()
    lines = (
        f"GET {target} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *offered, "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


def answer_end(data: bytes) -> int:
    """Where the frames begin after the server's 101, or 0 when more must be read. Raises HandshakeRefused.

    Not checked: Sec-WebSocket-Accept, which guards against caches that a load generator on the server's side of the
    network does not meet.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        if len(data) > MAX_HEAD_BYTES:
            raise HandshakeRefused("no end of its head")
        return 0
    if not data.startswith(b"HTTP/1.1 101 "):
        raise HandshakeRefused(data.partition(b"\r\n")[0][:200].decode("latin-1") + " " + _body_of(data))
    return end


def _body_of(data: bytes) -> str:
    return data.partition(b"\r\n\r\n")[2][:300].decode("utf-8", "replace")


def random_key() -> bytes:
    """A mask key without a zero byte."""
    return bytes(random.randrange(1, 256) for _ in range(4))


def mask(payload: bytes, key: bytes, offset: int = 0) -> bytes:
    """XOR ``payload``, which stands ``offset`` bytes into its frame's payload, with the repeated key."""
    size = len(payload)
    return (int.from_bytes(payload, "big") ^ mask_number(key, offset, size)).to_bytes(size, "big")


def mask_number(key: bytes, offset: int, size: int) -> int:
    """The mask of ``size`` bytes at ``offset``, as the big-endian number to XOR with."""
    repeated = key * (size // 4 + 2)
    return int.from_bytes(repeated[offset % 4 : offset % 4 + size], "big")


def frame_head(opcode: int, size: int, key: bytes) -> bytes:
    """What stands before a masked payload of ``size`` bytes, the key included."""
    if size < 126:
        return bytes((opcode, MASKED | size)) + key
    if size < 65536:
        return bytes((opcode, MASKED | 126)) + size.to_bytes(2, "big") + key
    return bytes((opcode, MASKED | 127)) + size.to_bytes(8, "big") + key


def client_frame(payload: bytes, key: bytes, opcode: int = BINARY) -> bytes:
    """One final masked frame."""
    return frame_head(opcode, len(payload), key) + mask(payload, key)


def server_frame_head(size: int) -> bytes:
    """What stands before a server's payload of ``size`` bytes, which is at most 64 KiB here."""
    return bytes((BINARY, size)) if size < 126 else b"\x82\x7e" + size.to_bytes(2, "big")


def find_frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Start and stop of the payload of the server's frame that begins at ``at``; None when it is not all there."""
    have = len(data) - at
    if have < 2:
        return None
    size, start = data[at + 1], at + 2
    if size >= 126:
        start += 2 if size == 126 else 8
        if len(data) < start:
            return None
        size = int.from_bytes(data[at + 2 : start], "big")
    return (start, start + size) if len(data) >= start + size else None
