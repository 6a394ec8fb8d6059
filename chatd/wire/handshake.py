"""The answer to an opening handshake (RFC 6455, 4.2.2). Pure.

The request has been read and judged before (``listener.head``), so there is nothing left to refuse: each header of the
handshake was there exactly once and well formed. No extension is negotiated, whatever was offered. Own code, and not
trio-websocket's, which made nurseries, tasks and channels for it: that was a good part of what a login costs.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def switching_protocols(key: bytes, subprotocol: str) -> bytes:
    """The response that begins a WebSocket. ``key``: the request's Sec-WebSocket-Key."""
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: %b\r\n\r\n" % (accept, subprotocol.encode("ascii"))
    )
