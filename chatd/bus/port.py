"""The bus's port: moves events between nodes and may lose any of them; the store repairs what it loses (I6).

Implementations: ``chatd.adapters.redis.bus``. Conformance: ``tests/bus/conformance.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

OnMessage = Callable[[bytes, bytes], None]
"""Called with (channel, payload) in the order of arrival; synchronous, must not raise."""

OnLost = Callable[[], None]
"""Called when messages may have been missed: the link was down, or a bound was reached. Synchronous."""


class Bus(Protocol):
    """At most once, in order per publisher while the link is up. All methods are safe to cancel."""

    @property
    def up(self) -> bool:
        """Whether both directions work now."""

    def publish(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Send (channel, payload) pairs in one pipelined batch. Never waits, never raises: while the link is down, or
        its outbox of 64 MiB is full, they are dropped and counted."""

    async def subscribe(self, channels: Collection[bytes]) -> None:
        """Return when the server has confirmed all of them; at once while the link is down, and after a second or two where
        the server is silent (they are subscribed when it is back, and ``OnLost`` is called then). Not reference counted; a
        repeat does no harm."""

    def unsubscribe(self, channels: Collection[bytes]) -> None:
        """Never waits."""

    async def run(self) -> None:
        """Hold the link: connect, read, reconnect with jittered back-off. Ends only when cancelled."""
