"""When to try again, as a pure value: full jitter, a quick first try, and the server's own wish before both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

FIRST_S = 0.5
BASE_S = 0.5
CAP_S = 30.0


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

        The first try falls in [0, FIRST_S]; the n-th after it in [0, min(CAP_S, BASE_S * 2**n)]. With
        ``retry_after_ms`` the wait is never shorter than that: the jitter is laid on top, half as wide again, so
        that a node's clients do not come back together.
        """
        ceiling = FIRST_S if self._failures == 0 else min(CAP_S, BASE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        if retry_after_ms:
            asked = min(retry_after_ms / 1000, 3600.0)
            return asked + self._rng.uniform(0.0, max(asked / 2, ceiling))
        return self._rng.uniform(0.0, ceiling)
