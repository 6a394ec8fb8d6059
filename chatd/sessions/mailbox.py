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
    """``most``: how many requests may wait; one more is taken, as the socket has given it already.

    Its queues exist only while something is in them, and its owner is parked without an event: an empty deque and an
    event that is waited for were 2 KiB of an idle connection.
    """

    __slots__ = ("_began", "_bytes", "_most", "_requests", "_waiting", "full")

    def __init__(self, most: int) -> None:
        self._most = most
        self._requests: deque[tuple[messages.ClientMessage, int]] | None = None
        self._bytes = 0
        self._began: dict[str, None] | None = None
        self._waiting: trio.lowlevel.Task | None = None
        self.full = False

    def put(self, request: messages.ClientMessage, size: int) -> None:
        """``size``: in bytes, as it came."""
        if self._requests is None:
            self._requests = deque()
        self._requests.append((request, size))
        self._weigh(size)
        self.wake()

    def conversation_began(self, conv: str) -> None:
        if self._began is None:
            self._began = {}
        if len(self._began) < MAX_BEGAN:
            self._began[conv] = None
        else:
            self._began = {EVERYTHING: None}
        self.wake()

    def wake(self) -> None:
        """Whoever waits for the next job looks again."""
        task, self._waiting = self._waiting, None
        if task is not None and task.custom_sleep_data is self:  # Trio clears it where a cancellation was quicker
            trio.lowlevel.reschedule(task)

    def take(self) -> messages.ClientMessage | str | None:
        """The id of a conversation that began (EVERYTHING: look which did), or else a request; None while there is neither."""
        if self._began:
            conv = next(iter(self._began))
            del self._began[conv]
            self._began = self._began or None
            return conv
        if self._requests is None:
            return None
        request, size = self._requests.popleft()
        self._weigh(-size)
        self._requests = self._requests or None
        return request

    async def changed(self) -> None:
        """Wait for the next ``wake``; for one task at a time. Cancelling is safe."""
        task = self._waiting = trio.lowlevel.current_task()
        task.custom_sleep_data = self
        await trio.lowlevel.wait_task_rescheduled(_let_go)

    def _weigh(self, size: int) -> None:
        self._bytes += size
        self.full = self._requests is not None and (len(self._requests) >= self._most or self._bytes >= REQUESTS_BYTES)


def _let_go(_: object) -> trio.lowlevel.Abort:
    """A cancellation may have the task; ``wake`` finds out."""
    return trio.lowlevel.Abort.SUCCEEDED
