"""When to stop asking a server that does not answer: a circuit breaker. Pure; ``now`` is in seconds, any epoch.

Closed, until FAILURES in a row; then open for OPEN_SECONDS, in which nobody asks; then one may try, and its success or
failure closes or opens it again.
"""

from __future__ import annotations

from typing import Final

FAILURES: Final = 5
OPEN_SECONDS: Final = 30.0


class Breaker:
    """One server's. Calls that were under way when it opened may still report; that changes nothing for the worse."""

    __slots__ = ("_failures", "_until")

    def __init__(self) -> None:
        self._failures = 0
        self._until: float | None = None

    @property
    def opened(self) -> bool:
        """Whether it is open, or half-open: from the failure too many until the next success."""
        return self._until is not None

    def allows(self, now: float) -> bool:
        """Whether the server may be asked now. The one who is told so after a pause is the one who tries: for others
        the pause begins anew."""
        if self._until is None:
            return True
        if now < self._until:
            return False
        self._until = now + OPEN_SECONDS
        return True

    def wait(self, now: float) -> float:
        """Seconds until it allows the next try; 0 if it does now."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    def succeeded(self) -> None:
        """The server answered."""
        self._failures = 0
        self._until = None

    def failed(self, now: float) -> bool:
        """The server did not. True when this is the failure that opens the breaker."""
        self._failures += 1
        if self._until is not None or self._failures < FAILURES:
            return False
        self._until = now + OPEN_SECONDS
        return True

    def probe(self, now: float) -> None:
        """Let the next one try at once: there is news of the server, as a connection made anew."""
        if self._until is not None:
            self._until = now
