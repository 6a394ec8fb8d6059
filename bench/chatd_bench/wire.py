"""chatd's messages as the generator writes and recognises them. Pure.

What it sends is encoded once, and only the digits that differ are patched in. What it receives is compared with the
bytes that must come next; whatever does not match that shape is decoded with cbor2 and checked by its meaning instead,
so a server that writes its maps in another order is measured a little worse, and judged alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cbor2

from chatd_bench.websocket import BINARY, client_frame, frame_head, mask, mask_number, server_frame_head

CSEQ_DIGITS = 10
TIME_DIGITS = 16
STAMP_BYTES = CSEQ_DIGITS + TIME_DIGITS
"""The end of each body: the sender's cseq and its monotonic clock in microseconds, so that every recipient can tell
which message it got and how old it is."""
MIN_BODY_BYTES = 32
MAX_BODY_BYTES = 60_000

WIDTHS = (1, 2, 3, 5)
"""Bytes of a CBOR integer below 2**32."""

AT = b"\x62at\x1b"
"""How an event's time begins: in ms since 1970, it has needed eight bytes since February of that year."""
TIME_BYTES = 8
AT_BYTES = len(AT) + TIME_BYTES


def text(value: str) -> bytes:
    """A CBOR text string."""
    return cbor2.dumps(value)


def _number(value: int) -> bytes:
    return cbor2.dumps(value)


_NUMBERS = [_number(value) for value in range(65536)]


def number(value: int) -> bytes:
    """A CBOR unsigned integer."""
    return _NUMBERS[value] if value < 65536 else _number(value)


def filler(body_bytes: int) -> str:
    """The part of a body that is the same in every message."""
    return "x" * (body_bytes - STAMP_BYTES)


class SendTemplate:
    """A ``send`` to one conversation over one connection; ``frame`` fills in what differs.

    ``body`` and ``cseq`` stand last in the map, so that stamp and cseq are one stretch of bytes to mask.
    """

    __slots__ = ("_variants",)

    def __init__(self, to: str, body_bytes: int, key: bytes) -> None:
        fixed = (
            b"\xa4\x61t\x64send\x62to" + text(to) + b"\x64body" + _text_head(body_bytes) + filler(body_bytes).encode()
        )
        self._variants: dict[int, tuple[bytes, int, int]] = {}
        for width in WIDTHS:
            size = STAMP_BYTES + len(b"\x64cseq") + width
            head = frame_head(BINARY, len(fixed) + size, key) + mask(fixed, key)
            self._variants[width] = (head, mask_number(key, len(fixed), size), size)

    def frame(self, cseq: int, now_us: int) -> bytes:
        """The whole frame of one message."""
        digits = number(cseq)
        head, key, size = self._variants[len(digits)]
        tail = b"%010d%016d\x64cseq%b" % (cseq, now_us, digits)
        return head + (int.from_bytes(tail, "big") ^ key).to_bytes(size, "big")


def _text_head(size: int) -> bytes:
    return text("x" * size)[:-size]


class EventShape(NamedTuple):
    """A ``message`` event's frame, byte for byte: how it begins, up to its ``seq``, and where the rest stands in it."""

    start: bytes
    clock: int
    rest: int
    stamp: int
    size: int


def event_shape(conv: str, rest: bytes, width: int) -> EventShape:
    """The frame of an event whose ``seq`` has ``width`` bytes, with ``rest`` as ``event_rest`` gives it."""
    start = b"\xa8\x61t\x65event\x64conv" + text(conv) + b"\x63seq"
    size = len(start) + width + AT_BYTES + len(rest) + STAMP_BYTES
    head = server_frame_head(size) + start
    clock = len(head) + width
    return EventShape(
        head, clock, clock + AT_BYTES, clock + AT_BYTES + len(rest), clock + AT_BYTES + len(rest) + STAMP_BYTES
    )


def event_rest(sender: str, body_bytes: int) -> bytes:
    """What stands between an event's ``at`` and the stamp at the end of its body."""
    return (
        b"\x64from" + text(sender) + b"\x64kind" + text("message") + b"\x64type" + text("text")
        + b"\x64body" + _text_head(body_bytes) + filler(body_bytes).encode()
    )  # fmt: skip


ACK_START = b"\xa5\x61t\x63ack\x64cseq"


def ack_middle(conv: str) -> bytes:
    """What stands between an ack's ``cseq`` and its ``seq``."""
    return b"\x64conv" + text(conv) + b"\x63seq"


def stamp_of(body: object, body_bytes: int) -> tuple[int, int] | None:
    """The cseq and time in a body, or None when it is not one that a ``SendTemplate`` of this size wrote."""
    if not isinstance(body, str) or len(body) != body_bytes or not body.startswith(filler(body_bytes)):
        return None
    digits = body[-STAMP_BYTES:]
    return (int(digits[:CSEQ_DIGITS]), int(digits[CSEQ_DIGITS:])) if digits.isdecimal() else None


def message_frame(fields: dict[str, Any], key: bytes) -> bytes:
    """Any message of a client's, as a frame."""
    return client_frame(cbor2.dumps(fields), key)
