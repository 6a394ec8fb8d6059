"""What a session may do by itself, beside its user's limits: how many frames, and how many signals. Pure."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Final

from chatd_protocol import messages

from chatd.limits.bucket import DEFAULT_MAX_KEYS, TokenBucket

SIGNALS_PER_SECOND: Final = 2.0
SIGNALS_BURST: Final = 20
"""Of typing and watch together: a client renews what it types every few seconds, and watches anew when somebody scrolls."""
WATCHED_PER_TOKEN: Final = 50
"""The store is asked about each user whom a ``watch`` names."""

GREETING_PER_SECOND: Final = 10.0
GREETING_BURST: Final = 400

SOON_FULL_SECONDS: Final = 1.0
"""A bucket that is full again so soon was not that of a flood."""

ITEMS_A_FRAME: Final = 16
"""Of a message: so many cost as much as a frame does by itself. One with as many as it may have counts as 256 frames."""

_FLOOD_FACTOR: Final = 10
"""Messages of any type a second, as a multiple of ``messages_per_second``; beyond it the session is ended."""
MALFORMED_FRAMES: Final = 16
"""What is no message costs so many more: it is read the slow way, is answered, and counts against nothing else."""


def frames_bucket(messages_per_second: float, messages_burst: int) -> TokenBucket:
    """Of all frames, for who may send so many messages."""
    return TokenBucket(*_frames_bounds(messages_per_second, messages_burst))


@lru_cache(maxsize=100)
def _frames_bounds(per_second: float, burst: int) -> tuple[float, int]:
    """Rate and burst; kept, so that all sessions share the two numbers."""
    return per_second * _FLOOD_FACTOR, burst * _FLOOD_FACTOR


def greeting_bucket() -> TokenBucket:
    """Of frames until the hello was good: it is one message, which may have all its positions."""
    return TokenBucket(GREETING_PER_SECOND, GREETING_BURST)


class Floods:
    """Who has flooded, until when they are not let in again: until the bucket of the session that is over would be full.

    Else a flood would have a whole burst for each time that it comes, and a login beside it, which costs more. By user, for a
    device's name is the client's to choose. Bounded: the oldest is forgotten.
    """

    def __init__(self, most: int = DEFAULT_MAX_KEYS) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._until)

    def ended(self, user: str, bucket: TokenBucket, now: float) -> None:
        """A session of the user is over, and had so much left."""
        if (wait := bucket.full_in(now)) > SOON_FULL_SECONDS:
            self._until[user] = now + wait
            self._until.move_to_end(user)
            if len(self._until) > self._most:
                self._until.popitem(last=False)

    def wait(self, user: str, now: float) -> float:
        """Seconds until a session of the user may begin; 0 for nearly everybody."""
        until = self._until.get(user)
        if until is None:
            return 0.0
        if until <= now:
            del self._until[user]
            return 0.0
        return until - now


def signals_bucket() -> TokenBucket:
    """Of what is stored nowhere and has no answer."""
    return TokenBucket(SIGNALS_PER_SECOND, SIGNALS_BURST)


def signal_cost(message: messages.Typing | messages.Watch) -> float:
    """How many tokens one takes."""
    return max(1.0, len(message.users) / WATCHED_PER_TOKEN) if isinstance(message, messages.Watch) else 1.0
