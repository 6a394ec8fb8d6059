"""Repair: notices what the bus lost, the last message included, and reads it from the store (I6).

Two ways to notice. A hole in a topic: after a short grace (the missing event is mostly under way) the log is read. And
every ``period`` seconds, and when the bus says that it may have lost something at once and for a moment more often, the
store is asked what was committed since the last look; what a topic has not seen is a hole too, and a membership that
nobody heard of is announced. Owns: the token of the last look. Waits for: the store. Ends only when cancelled.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import structlog
import trio

from chatd.conversations.operations import Event
from chatd.delivery.hub import Hub
from chatd.ops.metrics import Metrics
from chatd.store.port import Store, Unavailable

HURRY_SECONDS = 3.0
HURRY_PERIOD = 0.5
"""After a loss the store is asked so often for so long: other nodes' links come back in their own time, within 2 s
(``redis.link.PAUSE_LONGEST``), and what they could not publish until then nobody tells."""
READ_TOPICS = 100
"""Conversations in one read. Without Redis each that is over two nodes has a hole at each look, and on a busy node a thread
waits some ms for its turn: one by one they were not done by the next look."""
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
            waiting = list(self._hub.gapped)
            while waiting:
                try:
                    waiting = await self._fill(waiting)
                except Unavailable as fault:
                    log.warning("repair.postponed", reason=str(fault))
                    await trio.sleep(RETRY_SECONDS)
                    self._gap.set()
                    break

    async def _fill(self, convs: list[str]) -> list[str]:
        """Read the first of them on from where they stand; return those that are to be read yet."""
        wanted = [(conv, head) for conv in convs[:READ_TOPICS] if (head := self._hole(conv)) is not None]
        found = await self._store.logs(wanted, READ_EVENTS, max_bytes=READ_BYTES) if wanted else []
        for (conv, after), events in zip(wanted, found, strict=False):
            self._release(conv, after, events)
        again = [conv for conv in convs[:READ_TOPICS] if self._hole(conv) is not None]
        return again + convs[READ_TOPICS:]

    def _hole(self, conv: str) -> int | None:
        """Behind what something is missing; else the conversation is no gapped one any more."""
        topic = self._hub.topics.get(conv)
        if topic is None or not topic.gapped:
            self._hub.gapped.discard(conv)
            return None
        return topic.head

    def _release(self, conv: str, after: int, events: list[Event]) -> None:
        topic = self._hub.topics.get(conv)
        if topic is None:
            return
        if not events and topic.head == after:
            log.error("repair.failed", conv=conv, head=topic.head, seen=topic.seen)
            topic.seen = topic.head  # the store holds no such event: the announcement was wrong
        self._metrics.repairs += bool(events)
        with self._cork:
            for event in events:
                self._hub.offer(topic, event)

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
            committed = await self._store.committed(self._token)
            for conv, head in committed.heads.items():
                topic = self._hub.topics.get(conv)
                if topic is not None:
                    topic.note(head)
                    if topic.gapped:
                        self._hub.gapped.add(conv)
                        self._gap.set()
            for user, conv in committed.joined:
                self._hub.announce(user, conv)
            self._token, more = committed.token, committed.more
