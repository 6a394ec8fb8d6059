"""The roll: this node's sign of life in the store, and which of its sessions are over, for the list of one's devices.

A device is online where its newest session lasts on a node that runs. Both stand in the store: that is right with Redis
away, and after ``kill -9``, when the node's lease ends by itself. (To ask the other nodes over the bus would need to know
who must answer, and how long to wait for a dead one.)

Owns: the sessions that are over and not told yet, one number a device, so no more than devices connected here before.
Waits for: the clock and the store writer; nobody waits for it but the start. What the writer or the store refuses is told
at the next turn. Ends when cancelled.
"""

from __future__ import annotations

from itertools import islice

import trio

from chatd.conversations.operations import Author, Done, RollCall
from chatd.store.writer import Full, Writer

LEASE_MS = 60_000
RENEW_SECONDS = 20.0
TURN_SECONDS = 1.0
LEFT_AT_ONCE = 200
"""They keep the store for 2 ms, and whatever else is to be stored comes in between."""


class Roll:
    """``node``: a name of this process' own choice, another at each start."""

    def __init__(self, writer: Writer, node: bytes) -> None:
        self.node = node
        self._writer = writer
        self._left: dict[int, int] = {}
        self._renewed = 0.0

    def session_over(self, author: Author) -> None:
        """A session of this node is over. Never waits."""
        self._left[author.device_no] = max(author.epoch, self._left.get(author.device_no, 0))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started when the store was asked to note the node. Where it could not, nobody here is shown as online until it can,
        at a later turn: the server starts all the same, and its readiness tells of the store."""
        await self._call(LEASE_MS)
        task_status.started()
        while True:
            await trio.sleep(TURN_SECONDS)
            if self._left or trio.current_time() - self._renewed >= RENEW_SECONDS:
                while await self._call(LEASE_MS) and self._left:
                    pass

    async def sign_off(self) -> None:
        """The node ends in order: nobody is online here any more. Cancelling leaves it to the lease."""
        await self._call(0)

    async def _call(self, lease_ms: int) -> bool:
        """Whether the store has it."""
        now = trio.current_time()
        told = dict(islice(self._left.items(), LEFT_AT_ONCE))
        try:
            outcome = await self._writer.call(RollCall(node=self.node, lease_ms=lease_ms, left=tuple(told.items())))
        except Full:
            return False
        if not isinstance(outcome, Done):
            return False
        self._renewed = now
        for device_no, epoch in told.items():
            if self._left.get(device_no) == epoch:
                del self._left[device_no]
        return True
