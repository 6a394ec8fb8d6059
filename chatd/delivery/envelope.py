"""What travels on the bus: committed events, conversations that began, and a proof that a node of this server wrote it.

Every node holds the same key; an envelope whose code does not match is counted and dropped, so that somebody who can
publish to Redis still cannot put words into a conversation. BLAKE2b with a key is a MAC (RFC 7693, section 2.9).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest

import msgspec
from msgspec import Struct

from chatd.conversations.operations import Event

NODE_BYTES = 8
MAC_BYTES = 16
_HEAD_BYTES = NODE_BYTES + MAC_BYTES
_PREFIX = b"chatd:"


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """``began``: (user, conv) of memberships that began, on that user's channel. ``takeover``: (user, device, epoch) of a
    session that is new."""

    events: list[Event]
    began: list[tuple[str, str]] = []
    takeover: tuple[str, str, int] | None = None


class Forged(Exception):
    """Not written by a node that has the key, or not in this form."""


class Sealer:
    """Seals envelopes in the name of ``node`` (NODE_BYTES of its own choice), and opens those of the others.

    ``key`` is the deployment's, at most 64 bytes, as BLAKE2b allows.
    """

    def __init__(self, key: bytes, node: bytes) -> None:
        derived = blake2b(key, digest_size=32, person=b"chatd-bus").digest()
        self._keyed = blake2b(key=derived, digest_size=MAC_BYTES)
        self._node = node
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Envelope)

    def seal(self, envelope: Envelope, channel: bytes) -> bytes:
        """The channel is part of what is proven: an envelope cannot be replayed on another one."""
        body = self._encoder.encode(envelope)
        return self._node + self._code(self._node, channel, body) + body

    def is_own(self, payload: bytes) -> bool:
        """Whether it came back to where it was sealed. Not proven: a node skips it, and then a lie is skipped, too."""
        return payload.startswith(self._node)

    def open(self, channel: bytes, payload: bytes) -> Envelope:
        """Raises Forged only."""
        node, code, body = payload[:NODE_BYTES], payload[NODE_BYTES:_HEAD_BYTES], payload[_HEAD_BYTES:]
        if not compare_digest(self._code(node, channel, body), code):
            raise Forged("the code does not match")
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as fault:
            raise Forged("not an envelope") from fault

    def _code(self, node: bytes, channel: bytes, body: bytes) -> bytes:
        code = self._keyed.copy()
        code.update(b"%b%b\0%b" % (node, channel, body))
        return code.digest()


@lru_cache(maxsize=16_384)
def user_channel(user: str) -> bytes:
    return _PREFIX + b"u:" + user.encode()


def group_channel(conv: str) -> bytes:
    return _PREFIX + b"g:" + conv.encode()
