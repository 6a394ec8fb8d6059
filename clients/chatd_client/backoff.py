"""When to try again, as a pure value: full jitter below a bound that doubles, on top of the server's own wish."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

FIRST_S = 1.0
CAP_S = 60.0
MAX_ASKED_S = 3600.0
"""The longest wish of a server that is obeyed: a slip in a proxy's Retry-After must not silence a bot for a year."""


class Backoff:
    """Delays between attempts of one client; ``rng`` is the only source of chance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0

    def reset(self) -> None:
        """A session lasted: the next attempt is quick again."""
        self._failures = 0

    def next_delay(self, retry_after_ms: int | None = None) -> float:
        """Seconds to wait before the next attempt.

        Even over [0, bound]; the bound is FIRST_S, then doubles up to CAP_S. Drawn from 0 and not from half of the
        bound: spread over the whole of it the clients of a lost node come back with the least of a crowd.
        ``retry_after_ms`` is waited for before that, with jitter at least as wide as itself.
        """
        bound = min(CAP_S, FIRST_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        asked = min((retry_after_ms or 0) / 1000, MAX_ASKED_S)
        return asked + self._rng.uniform(0.0, max(asked, bound))
