"""When to say that somebody types: at the first key, again while it goes on, and once when it is over. Pure."""

from __future__ import annotations

RENEW_S = 4.0
"""The server's lease is 6 s."""
PAUSE_S = 5.0


class TypingLease:
    """Each method returns what is to be told: a conversation, and whether one types there. Times are in seconds."""

    def __init__(self) -> None:
        self._conv: str | None = None
        self._told_at = self._typed_at = 0.0

    def typed(self, now: float, conv: str | None, is_message: bool) -> list[tuple[str, bool]]:
        """The input changed; ``conv`` None: there is nobody to be told."""
        said = self._leave(conv if is_message else None)
        if conv is None or not is_message:
            return said
        self._typed_at = now
        if self._conv is None or now - self._told_at >= RENEW_S:
            self._conv, self._told_at = conv, now
            said.append((conv, True))
        return said

    def lapsed(self, now: float, conv: str | None) -> list[tuple[str, bool]]:
        """Time passed, or another conversation was opened."""
        return self._leave(conv if now - self._typed_at < PAUSE_S else None)

    def _leave(self, conv: str | None) -> list[tuple[str, bool]]:
        if self._conv is None or self._conv == conv:
            return []
        left, self._conv = self._conv, None
        return [(left, False)]
