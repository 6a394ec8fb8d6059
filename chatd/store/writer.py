"""The store writer: every change of this node goes through this one actor, many in one commit.

Mailbox: operations, bounded in items and bytes; when it is full ``submit`` says no and the caller answers
``overloaded``. What gathers while one commit is on the disk is the next batch; it begins APART_SECONDS after the one
before at the earliest, unless it is full. One that comes after a pause does not wait. Waits for: the store and, so
long, the clock. What a commit brought is released in order, all its frames under one cork: acks and events leave only
after the store has said yes (I1, I2). Where another batch waits already, that is while this next one is on the disk,
which is half of the throughput: with one after the other, either the Trio thread or the disk had nothing to do. A
commit that fails refuses its whole batch with ``unavailable``; the actor goes on, and the next commit finds out whether
the disk is well again.

Ends when its mailbox is closed and empty (draining), or when cancelled: then nobody was told of what was in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import time_ns
from typing import Final

import structlog
import trio
from chatd_protocol.codes import ErrorCode

from chatd.conversations.operations import (
    AddMembers,
    Appended,
    CreateGroup,
    Edit,
    NoteSeen,
    Operation,
    Outcome,
    Refused,
    RemoveMembers,
    RollCall,
    Send,
)
from chatd.ops.metrics import Metrics
from chatd.store.port import Store, Unavailable

APART_SECONDS: Final = 0.005
"""On a quick disk commits would be of a few messages each, and what each costs by itself (1.3 ms of CPU: its thread, its
pages, its release) most of the work. At 1000 messages a second two fifths less CPU for 1 ms more until delivery, at 3000
a quarter less; where commits take longer anyway, nothing."""
STUCK_SECONDS: Final = 15.0
"""A commit that takes longer is one of a disk that hangs: it may never tell of an error, and the node is not ready meanwhile."""
SHARE_EVERY: Final = 64
"""So many operations come in between two updates of ``inflight_share``."""
OPERATION_BYTES: Final = 200
NAME_BYTES: Final = 80
"""What an operation is taken to occupy beside its payload, and each name in it."""

OnOutcome = Callable[[Operation, Outcome], None]
Batch = list[tuple[Operation, OnOutcome, int]]
Release = Callable[[Sequence[Appended]], None]

log = structlog.get_logger()


def _size_of(operation: Operation) -> int:
    kind = type(operation)
    if kind is Send or kind is Edit:
        return OPERATION_BYTES + len(operation.payload)  # type: ignore[union-attr]
    if isinstance(operation, CreateGroup):
        return OPERATION_BYTES + NAME_BYTES * len(operation.members)
    if isinstance(operation, AddMembers | RemoveMembers):
        return OPERATION_BYTES + NAME_BYTES * len(operation.users)
    if isinstance(operation, RollCall):
        return OPERATION_BYTES + NAME_BYTES * len(operation.left)
    if isinstance(operation, NoteSeen):
        return OPERATION_BYTES + NAME_BYTES * len(operation.seen)
    return OPERATION_BYTES


class Full(Exception):
    """The mailbox is at its bound: answer ``overloaded``."""


class Writer:
    """``release`` gets what each commit appended, before the outcomes go to those who asked."""

    def __init__(
        self, store: Store, release: Release, metrics: Metrics, cork: AbstractContextManager[None], *, max_items: int,
        max_bytes: int, batch: int,
    ) -> None:  # fmt: skip
        self._store = store
        self._release = release
        self._metrics = metrics
        self._cork = cork
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._batch = batch
        self._mailbox: deque[tuple[Operation, OnOutcome, int]] = deque()
        self._bytes = 0
        self._arrived = trio.Event()
        self._under_way = 0
        self._next_at = 0.0
        self._committed: tuple[Batch, list[Outcome]] | None = None
        self._outcomes = 0
        self._batch_settled = trio.Event()
        self._closed = False
        self.inflight_share = 1.0
        """The part of its ``inflight_sends`` that each session may use now; it falls to 0 as the mailbox fills. So the senders'
        sockets are not read, and they wait, each for its own; to refuse a message costs nearly half as much as to store it, and
        those behind it are in vain too."""
        self._last_commit_ok = True
        self._committing_since: float | None = None

    def __len__(self) -> int:
        return len(self._mailbox)

    @property
    def healthy(self) -> bool:
        """Whether the last commit was done, and none is under way for STUCK_SECONDS."""
        since = self._committing_since
        return self._last_commit_ok and (since is None or trio.current_time() - since < STUCK_SECONDS)

    def submit(self, operation: Operation, on_outcome: OnOutcome) -> bool:
        """Queue one operation; False when the mailbox is full or closed. ``on_outcome`` is called once, on the
        Trio thread, while ``run`` lasts; an exception from it ends ``run``."""
        size = _size_of(operation)
        if self._closed or len(self._mailbox) >= self._max_items or self._bytes + size > self._max_bytes:
            return False
        self._mailbox.append((operation, on_outcome, size))
        self._bytes += size
        if not len(self._mailbox) % SHARE_EVERY:
            self._update_share()
        self._arrived.set()
        return True

    def _update_share(self) -> None:
        empty = 1.0 - max(len(self._mailbox) / self._max_items, self._bytes / self._max_bytes)
        self.inflight_share = empty * empty

    async def call(self, operation: Operation) -> Outcome:
        """Queue one operation and wait for its outcome. Raises Full. Cancelling leaves its effect unknown."""
        done = trio.Event()
        outcomes: list[Outcome] = []

        def arrived(_: Operation, outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        if not self.submit(operation, arrived):
            raise Full
        await done.wait()
        return outcomes[0]

    async def settled(self) -> None:
        """Wait until everything that is queued now has its outcome. Cancelling is safe."""
        until = self._outcomes + self._under_way + len(self._mailbox)
        await trio.lowlevel.checkpoint()
        while self._outcomes < until:
            await self._batch_settled.wait()

    def close(self) -> None:
        """Take nothing more; ``run`` ends when what is queued is stored."""
        self._closed = True
        self._arrived.set()

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            while self._mailbox:
                await self._keep_apart()
                await self._commit_one_batch()
            if self._closed:
                return
            self._arrived = trio.Event()

    async def _keep_apart(self) -> None:
        early = self._next_at - trio.current_time()
        if early > 0 and len(self._mailbox) < self._batch and not self._closed:
            self._settle_committed()  # nothing goes to the disk yet: there is no commit beside which it could be done
            await trio.sleep(early)

    async def _commit_one_batch(self) -> None:
        mailbox = self._mailbox
        batch = [mailbox.popleft() for _ in range(min(len(mailbox), self._batch))]
        operations = [operation for operation, _, _ in batch]
        self._update_share()
        self._under_way += len(batch)
        meanwhile = None if self._committed is None else self._settle_committed
        began = self._committing_since = trio.current_time()
        self._next_at = began + APART_SECONDS
        try:
            outcomes = await self._store.commit(operations, time_ns() // 1_000_000, meanwhile)
        except Unavailable as fault:
            if self._last_commit_ok:
                log.error("store.failed", reason=str(fault), operations=len(batch))  # noqa: TRY400 - the disk, not a bug
            self._last_commit_ok = False
            outcomes = [Refused(ErrorCode.UNAVAILABLE, "the store cannot commit now; try again")] * len(batch)
        else:
            if not self._last_commit_ok:
                log.info("store.recovered")
            self._last_commit_ok = True
            self._metrics.observe_commit(len(batch), trio.current_time() - began)
        self._committing_since = None
        self._settle_committed()
        self._committed = batch, outcomes
        if not mailbox:
            self._settle_committed()

    def _settle_committed(self) -> None:
        """Release the batch that was committed last, once: while the next one is written, or when there is none."""
        if self._committed is None:
            return
        (batch, outcomes), self._committed = self._committed, None
        self._bytes -= sum(size for _, _, size in batch)
        appended = [outcome for outcome in outcomes if type(outcome) is Appended]
        self._metrics.stored += sum(len(outcome.events) for outcome in appended)
        with self._cork:
            self._release(appended)
            for (operation, on_outcome, _), outcome in zip(batch, outcomes, strict=True):
                on_outcome(operation, outcome)
        self._outcomes += len(batch)
        self._under_way -= len(batch)
        self._batch_settled.set()
        self._batch_settled = trio.Event()
