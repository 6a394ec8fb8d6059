"""The pace of logins: so many steps of them in each turn of the loop, however many come at once.

A login is some steps of 0.1 to 0.3 ms, with waits in between. When thousands come back at one moment, a commit or an
answer of Redis wakes hundreds of them, and without this everybody else's messages would wait until all have had their step.

Owns the order of those who wait: logins that have begun go before new ones, so that each is over soon after it began; first
come, first served otherwise. Bounded by the connections, each of which waits here at most once. Waits for nothing but
the next turn; nobody holds anything while it waits for a peer, for the store or for Redis. Ends when cancelled.
"""

from __future__ import annotations

import trio

STEPS_A_TURN = 8


class Pace:
    """One node's. ``run`` must be running."""

    def __init__(self) -> None:
        self._begun = trio.lowlevel.ParkingLot()
        self._new = trio.lowlevel.ParkingLot()
        self._bell = trio.Event()

    def __len__(self) -> int:
        return len(self._begun) + len(self._new)

    async def begin(self) -> None:
        """Wait until a new connection may be looked at. Cancelling is safe."""
        self._bell.set()
        await self._new.park()

    async def step(self) -> None:
        """Wait until a login may go on. Cancelling is safe."""
        self._bell.set()
        await self._begun.park()

    async def run(self) -> None:
        while True:
            await self._bell.wait()
            while len(self):
                going_on = len(self._begun.unpark(count=STEPS_A_TURN))
                if going_on < STEPS_A_TURN:
                    self._new.unpark(count=STEPS_A_TURN - going_on)
                await trio.lowlevel.checkpoint()
            self._bell = trio.Event()
