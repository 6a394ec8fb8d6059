"""The mailbox of a session's actor: requests in their order, and the conversations that began.

Bounded, in items and in bytes: while it is ``full`` the session does not read its socket. Conversations are not the peer's
doing; of them only the names are kept, and beyond ``MAX_BEGAN`` not even these.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio
from chatd_protocol import messages

REQUESTS_BYTES: Final = 256 * 1024
MAX_BEGAN: Final = 1000
EVERYTHING: Final = ""
"""Stands for a conversation that began when so many have that they are not listed: all are looked up then."""


class Mailbox:
    """``most``: how many requests may wait; one more is taken, as the socket has given it already."""

    __slots__ = ("_began", "_bytes", "_most", "_requests", "_wake", "full")

    def __init__(self, most: int) -> None:
        self._most = most
        self._requests: deque[tuple[messages.ClientMessage, int]] = deque()
        self._bytes = 0
        self._began: dict[str, None] = {}
        self._wake: trio.Event | None = None
        self.full = False

    def put(self, request: messages.ClientMessage, size: int) -> None:
        """``size``: in bytes, as it came."""
        self._requests.append((request, size))
        self._weigh(size)
        self.wake()

    def conversation_began(self, conv: str) -> None:
        if len(self._began) < MAX_BEGAN:
            self._began[conv] = None
        else:
            self._began = {EVERYTHING: None}
        self.wake()

    def wake(self) -> None:
        """Whoever waits for the next job looks again."""
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    def take(self) -> messages.ClientMessage | str | None:
        """The id of a conversation that began (EVERYTHING: look which did), or else a request; None while there is neither."""
        if self._began:
            conv = next(iter(self._began))
            del self._began[conv]
            return conv
        if not self._requests:
            return None
        request, size = self._requests.popleft()
        self._weigh(-size)
        return request

    async def changed(self) -> None:
        """Wait for the next ``wake``. Cancelling is safe."""
        self._wake = trio.Event()
        await self._wake.wait()

    def _weigh(self, size: int) -> None:
        self._bytes += size
        self.full = len(self._requests) >= self._most or self._bytes >= REQUESTS_BYTES
