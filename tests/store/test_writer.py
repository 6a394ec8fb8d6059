"""The store writer: what an operation weighs in its mailbox, and when what a commit brought is released."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.conversations.operations import (
    AddMembers,
    Author,
    CreateAccount,
    NoteSeen,
    Operation,
    Outcome,
    Refused,
    RollCall,
)
from chatd.ops.metrics import Metrics
from chatd.store.port import Unavailable
from chatd.store.writer import NAME_BYTES, OPERATION_BYTES, STUCK_SECONDS, Writer

NAMES = tuple(f"u{number}" for number in range(500))
AUTHOR = Author(1, "a", 1, 1)


@pytest.mark.parametrize(
    "operation",
    [
        NoteSeen(seen=tuple((name, 1) for name in NAMES)),
        RollCall(node=b"n", lease_ms=1, left=tuple((number, 1) for number in range(500))),
        AddMembers(author=AUTHOR, conv="c", users=NAMES),
    ],
    ids=lambda operation: type(operation).__name__,
)
async def test_names_are_weighed(operation: Operation) -> None:
    """I9: the bound in bytes holds for operations that carry many names or numbers, too."""
    nowhere: Any = None
    size = OPERATION_BYTES + 500 * NAME_BYTES
    writer = Writer(nowhere, lambda _: None, Metrics(), nullcontext(), max_items=100, max_bytes=2 * size, batch=10)
    assert [writer.submit(operation, lambda *_: None) for _ in range(3)] == [True, True, False]


async def test_so_many_operations_wait() -> None:
    """I9: one more is refused, whatever they weigh; and who closes takes none at all."""
    nowhere: Any = None
    writer = Writer(nowhere, lambda _: None, Metrics(), nullcontext(), max_items=2, max_bytes=1 << 30, batch=10)
    operation = CreateAccount(user="a", password_hash="")
    assert [writer.submit(operation, lambda *_: None) for _ in range(3)] == [True, True, False]
    other = Writer(nowhere, lambda _: None, Metrics(), nullcontext(), max_items=2, max_bytes=1 << 30, batch=10)
    other.close()
    assert not other.submit(operation, lambda *_: None)


@pytest.mark.parametrize(("items", "size"), [(1000, 1 << 30), (1 << 20, 1000 * OPERATION_BYTES)], ids=["items", "bytes"])
async def test_the_fuller_the_mailbox_the_less_of_each(items: int, size: int) -> None:
    """What a session may have under way shrinks before the bound is reached, be it one of items or of bytes."""
    nowhere: Any = None
    writer = Writer(nowhere, lambda _: None, Metrics(), nullcontext(), max_items=items, max_bytes=size, batch=10)
    seen = [writer.inflight_share]
    while writer.submit(CreateAccount(user="a", password_hash=""), lambda *_: None):
        seen.append(writer.inflight_share)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 1.0
    assert seen[500] == pytest.approx(0.25, abs=0.1)
    assert seen[-1] < 0.01


class Gate:
    """The real store, whose commits go on one after another as they are let. ``calls``: how often each tells of its waits."""

    def __init__(self, store: SqliteStore, calls: int) -> None:
        self.store = store
        self.calls = calls
        self.begun: list[Sequence[Operation]] = []
        self.fails: set[int] = set()
        self._let, self._wanted = trio.open_memory_channel[None](10)
        self._came = trio.Event()

    async def commit(
        self, operations: Sequence[Operation], now: int, meanwhile: Callable[[], None] | None = None
    ) -> list[Outcome]:
        self.begun.append(operations)
        for _ in range(self.calls):
            if meanwhile is not None:
                meanwhile()
        came, self._came = self._came, trio.Event()
        came.set()
        await self._wanted.receive()
        if len(self.begun) in self.fails:
            raise Unavailable("the disk")
        return await self.store.commit(operations, now)

    async def until_begun(self, number: int) -> None:
        with trio.fail_after(30):
            while len(self.begun) < number:
                await self._came.wait()

    def let(self) -> None:
        self._let.send_nowait(None)


class Desk:
    """A writer on a gate, and what it told: the operations' names, and whether they were refused."""

    def __init__(self, store: SqliteStore, calls: int) -> None:
        self.gate = Gate(store, calls)
        self.told: list[tuple[str, bool]] = []
        gate: Any = self.gate
        self.writer = Writer(gate, lambda _: None, Metrics(), nullcontext(), max_items=100, max_bytes=1 << 20, batch=1)

    def submit(self, *names: str) -> None:
        for name in names:
            self.writer.submit(CreateAccount(user=name, password_hash=""), self._hear)

    def _hear(self, operation: Operation, outcome: Outcome) -> None:
        assert isinstance(operation, CreateAccount)
        self.told.append((operation.user, isinstance(outcome, Refused)))


@pytest.mark.parametrize("calls", [1, 3], ids=["one wait", "three waits"])
async def test_a_batch_is_released_while_the_next_one_is_on_the_disk(tmp_path: Path, calls: int) -> None:
    """Once, however often the store says that it waits; and not before it is itself stored."""
    async with open_store(tmp_path / "chatd.db") as store, trio.open_nursery() as nursery:
        desk = Desk(store, calls)
        nursery.start_soon(desk.writer.run)
        desk.submit("a", "b")
        await desk.gate.until_begun(1)
        assert desk.told == []
        desk.gate.let()
        await desk.gate.until_begun(2)
        assert desk.told == [("a", False)]
        desk.gate.let()
        await desk.writer.settled()
        assert desk.told == [("a", False), ("b", False)]
        desk.writer.close()


async def test_what_was_committed_is_released_though_the_store_tells_of_no_wait(tmp_path: Path) -> None:
    """``meanwhile`` is the store's to call, or not; and who closes gets everything out."""
    async with open_store(tmp_path / "chatd.db") as store:
        desk = Desk(store, calls=0)
        desk.submit("a", "b", "c")
        desk.writer.close()
        for _ in range(3):
            desk.gate.let()
        await desk.writer.run()
        assert desk.told == [("a", False), ("b", False), ("c", False)]


async def test_a_batch_that_fails_does_not_touch_the_one_before(tmp_path: Path) -> None:
    """I1: the first was stored and is told so; the second was not."""
    async with open_store(tmp_path / "chatd.db") as store:
        desk = Desk(store, calls=0)
        desk.gate.fails = {2}
        desk.submit("a", "b", "c")
        desk.writer.close()
        for _ in range(3):
            desk.gate.let()
        await desk.writer.run()
        assert desk.told == [("a", False), ("b", True), ("c", False)]
        assert [await store.account(name) is not None for name in "abc"] == [True, False, True]


async def test_a_commit_that_hangs_is_no_health(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """A disk that answers nothing fails nothing either: the node is not ready, so that others are sent new connections."""
    async with open_store(tmp_path / "chatd.db") as store, trio.open_nursery() as nursery:
        desk = Desk(store, calls=0)
        nursery.start_soon(desk.writer.run)
        desk.submit("a")
        await desk.gate.until_begun(1)
        assert desk.writer.healthy
        mock_clock.jump(STUCK_SECONDS)
        assert not desk.writer.healthy
        desk.gate.let()
        await desk.writer.settled()
        assert desk.writer.healthy
        desk.writer.close()
