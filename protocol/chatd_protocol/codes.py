"""The one table of error codes and close codes; SPEC.md and the clients are checked against it.

An error answers one message and leaves the session up. A close code ends the session, and its
range tells the client what to do (SPEC.md, "Closing").
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ErrorCode(StrEnum):
    """Codes of ``error``, and of HTTP answers' ``error.code``."""

    BAD_MESSAGE = "bad_message"  # not decodable, or a field of the wrong type or size
    UNKNOWN_TYPE = "unknown_type"
    UNSUPPORTED = "unsupported"  # a message of the protocol which this server does not serve
    OUT_OF_PLACE = "out_of_place"  # not in this state: a second hello, a send of a session that was replaced
    UNAUTHENTICATED = "unauthenticated"  # HTTP only: bad name, password or token
    NAME_TAKEN = "name_taken"
    CSEQ_GAP = "cseq_gap"
    CSEQ_REUSED = "cseq_reused"
    FORBIDDEN = "forbidden"  # a member, but not allowed this
    NOT_FOUND = "not_found"  # not there, or not yours: the two look the same
    TOO_MANY_MEMBERS = "too_many_members"
    TOO_MANY_DEVICES = "too_many_devices"
    TOO_MANY_REACTIONS = "too_many_reactions"
    TOO_MANY_PINS = "too_many_pins"
    TOO_LATE = "too_late"  # the time for edits and deletes is over
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"  # a queue is full: try again
    UNAVAILABLE = "unavailable"  # the store cannot commit now: try again
    TOO_LARGE = "too_large"  # HTTP only: request body
    METHOD_NOT_ALLOWED = "method_not_allowed"  # HTTP only
    ORIGIN_REFUSED = "origin_refused"  # HTTP only, at the upgrade
    BAD_UPGRADE = "bad_upgrade"  # HTTP only: no subprotocol in common, or a broken handshake
    INTERNAL = "internal"


RETRYABLE = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL})


class Close(NamedTuple):
    """A reason to end a session: the WebSocket close code and the name sent as ``bye.reason``."""

    code: int
    reason: str


# 4000-4099: reconnect now.
DRAINING = Close(4000, "draining")
INTERNAL_ERROR = Close(4001, "internal_error")
HEARTBEAT_MISSED = Close(4002, "heartbeat_missed")
# 4100-4199: reconnect after retry_after_ms, with jitter.
SLOW_CONSUMER = Close(4100, "slow_consumer")
OVERLOADED = Close(4101, "overloaded")
RATE_LIMITED = Close(4103, "rate_limited")
UNAVAILABLE = Close(4104, "unavailable")
# 4200-4299: do not reconnect before something has changed.
BAD_TOKEN = Close(4200, "bad_token")
TOKEN_EXPIRED = Close(4201, "token_expired")
HELLO_EXPECTED = Close(4202, "hello_expected")
REPLACED = Close(4203, "replaced")
TOO_MANY_DEVICES = Close(4205, "too_many_devices")
SIGNED_OUT = Close(4206, "signed_out")

CLOSES = (
    DRAINING, INTERNAL_ERROR, HEARTBEAT_MISSED, SLOW_CONSUMER, OVERLOADED, RATE_LIMITED,
    UNAVAILABLE, BAD_TOKEN, TOKEN_EXPIRED, HELLO_EXPECTED, REPLACED, TOO_MANY_DEVICES, SIGNED_OUT,
)


def may_reconnect(code: int) -> bool:
    """Whether a client should come back after this close code; unknown and RFC 6455 codes say yes."""
    return not 4200 <= code <= 4299
