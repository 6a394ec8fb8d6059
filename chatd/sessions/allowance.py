"""What a session may do by itself, beside its user's limits: how many frames, and how many signals. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from chatd_protocol import messages

from chatd.limits.bucket import TokenBucket

SIGNALS_PER_SECOND: Final = 2.0
SIGNALS_BURST: Final = 20
"""Of typing and watch together: a client renews what it types every few seconds, and watches anew when somebody scrolls."""
WATCHED_PER_TOKEN: Final = 50
"""The store is asked about each user whom a ``watch`` names."""

_FLOOD_FACTOR: Final = 10
"""Messages of any type a second, as a multiple of ``messages_per_second``; beyond it the session is ended."""

FREE_BYTES: Final = 1024
BYTES_PER_FRAME: Final = 256
MALFORMED_FRAMES: Final = 16
"""What a message costs, in frames, beyond the one that it is: each 256 bytes of its structure, which take as long to read as a
small message; and of what is no message 16 more, for it is read the slow way, is answered, and counts as nothing else."""


def structure_cost(size: int, body: str | bytes) -> int:
    """Frames, for a message of ``size`` bytes that carries ``body``: bodies are free, for they are only looked over."""
    structure = size - len(body)
    if structure > FREE_BYTES and type(body) is str and not body.isascii():
        structure = size - len(body.encode())
    return structure // BYTES_PER_FRAME if structure > FREE_BYTES else 0


def malformed_cost(size: int) -> int:
    """Frames, for ``size`` bytes that are no message."""
    return MALFORMED_FRAMES + size // BYTES_PER_FRAME


def frames_bucket(messages_per_second: float, messages_burst: int) -> TokenBucket:
    """Of all frames, for who may send so many messages."""
    return TokenBucket(*_frames_bounds(messages_per_second, messages_burst))


@lru_cache(maxsize=100)
def _frames_bounds(per_second: float, burst: int) -> tuple[float, int]:
    """Rate and burst; kept, so that all sessions share the two numbers."""
    return per_second * _FLOOD_FACTOR, burst * _FLOOD_FACTOR


def signals_bucket() -> TokenBucket:
    """Of what is stored nowhere and has no answer."""
    return TokenBucket(SIGNALS_PER_SECOND, SIGNALS_BURST)


def signal_cost(message: messages.Typing | messages.Watch) -> float:
    """How many tokens one takes."""
    return max(1.0, len(message.users) / WATCHED_PER_TOKEN) if isinstance(message, messages.Watch) else 1.0
