"""chatd's messages and bodies, for the measurements with clients of their own, in Python. Pure."""

from __future__ import annotations

from typing import Any

import cbor2

from chatd_bench.websocket import client_frame

CSEQ_DIGITS = 10
TIME_DIGITS = 16
STAMP_BYTES = CSEQ_DIGITS + TIME_DIGITS
"""The end of a body: the sender's cseq, and in us of the monotonic clock when it was due, so that every recipient can tell which
message it got and how old it is."""
MIN_BODY_BYTES = 32
MAX_BODY_BYTES = 60_000


def message_frame(fields: dict[str, Any], key: bytes) -> bytes:
    """Encoded, framed and masked with ``key``."""
    return client_frame(cbor2.dumps(fields), key)


def stamped(body_bytes: int, cseq: int, due_us: int) -> str:
    """A body of this size that says which message it is, and when it was due."""
    return f"{'x' * (body_bytes - STAMP_BYTES)}{cseq:0{CSEQ_DIGITS}d}{due_us:0{TIME_DIGITS}d}"


def stamp_of(body: object, body_bytes: int) -> tuple[int, int] | None:
    """The cseq and time in a body, or None where ``stamped`` did not make it."""
    filler = "x" * (body_bytes - STAMP_BYTES)
    if not isinstance(body, str) or len(body) != body_bytes or not body.startswith(filler):
        return None
    digits = body[-STAMP_BYTES:]
    return (int(digits[:CSEQ_DIGITS]), int(digits[CSEQ_DIGITS:])) if digits.isdecimal() else None
