"""What travels on the bus: committed events, whom to invite, and a proof that a node of this server wrote it.

Every node holds the same key; an envelope whose code does not match is counted and dropped, so that somebody who can
publish to Redis still cannot put words into a conversation. BLAKE2b with a key is a MAC (RFC 7693, section 2.9).
"""

from __future__ import annotations

from hashlib import blake2b
from hmac import compare_digest

import msgspec
from msgspec import Struct

from chatd.conversations.operations import Event

MAC_BYTES = 16
_PREFIX = b"chatd:"


class Envelope(Struct, frozen=True, array_like=True):
    """``node``: who published it, so that it can skip its own. ``takeover``: (user, device, session) that is new."""

    node: bytes
    events: list[Event]
    invited: list[str] = []
    takeover: tuple[str, str, str] | None = None


class Forged(Exception):
    """Not written by a node that has the key, or not in this form."""


class Sealer:
    """Seals and opens envelopes with the deployment's key (at most 64 bytes, as BLAKE2b allows)."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key, digest_size=32, person=b"chatd-bus").digest()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Envelope)

    def seal(self, envelope: Envelope, channel: bytes) -> bytes:
        """The channel is part of what is proven: an envelope cannot be replayed on another one."""
        body = self._encoder.encode(envelope)
        return self._code(channel, body) + body

    def open(self, channel: bytes, payload: bytes) -> Envelope:
        """Raises Forged only."""
        body = payload[MAC_BYTES:]
        if not compare_digest(self._code(channel, body), payload[:MAC_BYTES]):
            raise Forged("the code does not match")
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as fault:
            raise Forged("not an envelope") from fault

    def _code(self, channel: bytes, body: bytes) -> bytes:
        return blake2b(channel + b"\0" + body, key=self._key, digest_size=MAC_BYTES).digest()


def user_channel(user: str) -> bytes:
    return _PREFIX + b"u:" + user.encode()


def group_channel(conv: str) -> bytes:
    return _PREFIX + b"g:" + conv.encode()
