"""The store that nodes share, with a disk that may be slow, fail, and say no to what it has done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import trio

from chatd.adapters.sqlite.store import SqliteStore
from chatd.conversations.operations import Operation, Outcome
from chatd.store.port import Unavailable

QUICK_SECONDS = 0.002


class Disk:
    """What all nodes' stores have in common: one commit at a time, and how well it is. ``failing``: of how many things."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.turn = trio.Lock()
        self.failing = 0.0
        self.usual_seconds = random.choice((QUICK_SECONDS, QUICK_SECONDS, 0.3))
        self.pause_seconds = self.usual_seconds

    async def pause(self) -> None:
        """As long as the disk takes."""
        await trio.sleep(self._random.random() * self.pause_seconds)

    def maybe_fail(self) -> None:
        """Raises Unavailable, sometimes."""
        if self.failing and self._random.random() < self.failing:
            raise Unavailable("the simulated disk")


class DiskStore:
    """One node's way to it: ``chatd.store.port.Store`` over the real adapter. With ``dead`` set it does nothing more."""

    def __init__(self, inner: SqliteStore, disk: Disk) -> None:
        self._inner = inner
        self._disk = disk
        self.dead = False

    async def commit(
        self, operations: Sequence[Operation], now: int, meanwhile: Callable[[], None] | None = None
    ) -> list[Outcome]:
        """See the port. Fails before it has done anything, or after it has done all of it."""
        if meanwhile is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(meanwhile)
        async with self._disk.turn:
            await self._disk.pause()
            self._disk.maybe_fail()
            if self.dead:
                raise Unavailable("a node that was killed")
            outcomes = await self._inner.commit(operations, now)
            await self._disk.pause()
            self._disk.maybe_fail()
            return outcomes

    async def index(self) -> int:
        """Search is not what is simulated."""
        await trio.lowlevel.checkpoint()
        return 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        read = getattr(self._inner, name)

        async def slowly(*values: object, **named: object) -> Any:
            await self._disk.pause()
            self._disk.maybe_fail()
            return await read(*values, **named)

        return slowly
