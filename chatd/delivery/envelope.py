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


class TypingSignal(Struct, frozen=True, array_like=True, gc=False, tag="t"):
    """Somebody types in ``conv`` on the node that says so, or does no more."""

    conv: str
    user: str
    on: bool


class ReceiptSignal(Struct, frozen=True, array_like=True, gc=False, tag="r"):
    """A member's marks; ``device_no`` moved them and is not told (-1: several). ``members``: how many ``conv`` has."""

    conv: str
    user: str
    delivered: int
    read: int
    device_no: int
    members: int


class CountSignal(Struct, frozen=True, array_like=True, gc=False, tag="c"):
    """In a large group marks were moved over ``low < seq <= high``: who wrote there is to be told new counts."""

    conv: str
    low: int
    high: int


class PrivacySignal(Struct, frozen=True, array_like=True, gc=False, tag="p"):
    """A user has said what others may see; on that user's channel. Whoever hears it asks the store: this may be an old one.
    ``presence`` and ``last_seen`` are for nodes of a version that still believed them, beside which this one may run."""

    user: str
    presence: bool
    last_seen: bool


class BlockSignal(Struct, frozen=True, array_like=True, gc=False, tag="b"):
    """One of two users blocks the other, or does no more; on the channels of both. ``conv``: their conversation, "" for none."""

    user: str
    other: str
    conv: str


Signal = TypingSignal | ReceiptSignal | CountSignal | PrivacySignal | BlockSignal


class Envelope(Struct, frozen=True, array_like=True, gc=False):
    """``began``: (user, conv) of memberships that began, on that user's channel. ``takeover``: (user, device, epoch) of a
    session that is new. ``ended``: (user, device_no, epoch) of sessions that were signed out. ``signals``: what is in no log
    and is lost without harm."""

    events: list[Event]
    began: list[tuple[str, str]] = []
    takeover: tuple[str, str, int] | None = None
    ended: list[tuple[str, int, int]] = []
    signals: list[Signal] = []


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


def addressee(channel: bytes) -> str | None:
    """Whose channel it is; None for a group's."""
    return channel[len(_PREFIX) + 2 :].decode() if channel.startswith(_PREFIX + b"u:") else None


def group_channel(conv: str) -> bytes:
    return _PREFIX + b"g:" + conv.encode()
