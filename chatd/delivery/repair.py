"""Repair: notices what the bus lost, the last message included, and reads it from the store (I6).

Two ways to notice. A hole in a topic: after a short grace (the missing event is mostly under way) the log is read. And
every ``period`` seconds, and when the bus says that it may have lost something at once and for a moment more often, the
store is asked what was committed since the last look; what a topic has not seen is a hole too, and a membership that
nobody heard of is announced. Owns: the token of the last look. Waits for: the store. Ends only when cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import structlog
import trio

from chatd.delivery.hub import Hub
from chatd.ops.metrics import Metrics
from chatd.store.port import Store, Unavailable

HURRY_SECONDS = 3.0
HURRY_PERIOD = 0.5
"""After a loss the store is asked so often for so long: other nodes' links come back in their own time, within 2 s
(``redis.link.PAUSE_LONGEST``), and what they could not publish until then nobody tells."""
READS_AT_ONCE = 2
"""Without Redis every conversation over two nodes has a hole at each look. The store reads no more at once, and takes who
asks in turn."""
READ_EVENTS = 500
RETRY_SECONDS = 1.0
"""Pause after a read that the store could not do."""
READ_BYTES = 256 * 1024
"""Less than an outbox holds: a session that keeps up is not cut because of what the bus lost."""

log = structlog.get_logger()


class Repair:
    """``period`` and ``grace`` in seconds."""

    def __init__(
        self, hub: Hub, store: Store, metrics: Metrics, cork: AbstractContextManager[None], *, period: float, grace: float
    ) -> None:
        self._hub = hub
        self._store = store
        self._metrics = metrics
        self._cork = cork
        self._period = period
        self._grace = grace
        self._gap = trio.Event()
        self._lost = trio.Event()
        self._token: int | None = None
        hub.on_gap = self._gap_noticed

    def _gap_noticed(self) -> None:
        self._gap.set()

    def bus_lost(self) -> None:
        """The bus may have dropped messages: look now."""
        self._lost.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fill_gaps)
            await self._look_for_lost()

    async def _fill_gaps(self) -> None:
        while True:
            await self._gap.wait()
            await trio.sleep(self._grace)
            self._gap = trio.Event()
            gapped = iter(list(self._hub.gapped))
            async with trio.open_nursery() as nursery:
                for _ in range(READS_AT_ONCE):
                    nursery.start_soon(self._fill_each, gapped)

    async def _fill_each(self, convs: Iterator[str]) -> None:
        for conv in convs:
            try:
                await self._fill(conv)
            except Unavailable as fault:
                log.warning("repair.postponed", reason=str(fault))
                await trio.sleep(RETRY_SECONDS)
                self._gap.set()

    async def _fill(self, conv: str) -> None:
        topic = self._hub.topics.get(conv)
        while topic is not None and topic.gapped and topic.head is not None:
            events = await self._store.log(conv, topic.head, READ_EVENTS, max_bytes=READ_BYTES)
            if not events:
                log.error("repair.failed", conv=conv, head=topic.head, seen=topic.seen)
                topic.seen = topic.head  # the store holds no such event: the announcement was wrong
                break
            self._metrics.repairs += 1
            with self._cork:
                for event in events:
                    self._hub.offer(topic, event)
            topic = self._hub.topics.get(conv)
        self._hub.gapped.discard(conv)

    async def _look_for_lost(self) -> None:
        hurry_until = float("-inf")
        while True:
            try:
                await self._look()
            except Unavailable as fault:
                log.warning("repair.postponed", reason=str(fault))
            hurrying = trio.current_time() < hurry_until
            with trio.move_on_after(min(HURRY_PERIOD, self._period) if hurrying else self._period):
                await self._lost.wait()
            if self._lost.is_set():
                hurry_until = trio.current_time() + HURRY_SECONDS
            self._lost = trio.Event()

    async def _look(self) -> None:
        more = True
        while more:
            changes = await self._store.changes(self._token)
            for conv, head in changes.heads.items():
                topic = self._hub.topics.get(conv)
                if topic is not None:
                    topic.note(head)
                    if topic.gapped:
                        self._hub.gapped.add(conv)
                        self._gap.set()
            for user, conv in changes.joined:
                self._hub.announce(user, conv)
            self._token, more = changes.token, changes.more
