"""The roll: what it tells the store and when, under a clock that jumps; and what the store makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import time_ns
from typing import Any

import pytest
import trio

from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import Author, Done, OpenDevice, Operation, Outcome, RollCall
from chatd.ops.metrics import Metrics
from chatd.sessions.roll import LEASE_MS, LEFT_AT_ONCE, TURN_SECONDS, Roll
from chatd.store.port import Unavailable
from chatd.store.writer import Writer

HERE = b"12345678"


class Book:
    """As much of a store as the roll needs: it notes what is committed, at once, or is ``broken``."""

    def __init__(self) -> None:
        self.calls: list[RollCall] = []
        self.broken = False

    async def commit(self, operations: Sequence[Operation], now: int, meanwhile: object = None) -> list[Outcome]:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise Unavailable("the disk")
        self.calls += [operation for operation in operations if isinstance(operation, RollCall)]
        return [Done() for _ in operations]


def writer_of(store: Any) -> Writer:
    return Writer(store, lambda appended: None, Metrics(), nullcontext(), max_items=100, max_bytes=1 << 20, batch=10)


def author(device_no: int, epoch: int = 1) -> Author:
    return Author(1, "a", device_no, epoch)


@pytest.fixture
async def running(autojump_clock: trio.testing.MockClock) -> AsyncIterator[tuple[Roll, Book]]:
    book = Book()
    writer = writer_of(book)
    roll = Roll(writer, HERE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await nursery.start(roll.run)
        yield roll, book
        nursery.cancel_scope.cancel()


async def test_a_lease_is_renewed_long_before_its_end(running: tuple[Roll, Book], autojump_clock: trio.testing.MockClock) -> None:
    """A node that lives is never taken for dead: three renewals fit into each lease; nothing else is written meanwhile."""
    _, book = running
    assert book.calls == [RollCall(node=HERE, lease_ms=LEASE_MS)]
    await trio.sleep(3 * LEASE_MS / 1000 + 2)
    assert book.calls == [RollCall(node=HERE, lease_ms=LEASE_MS)] * 10


async def test_who_left_is_told_until_the_store_has_it(
    running: tuple[Roll, Book], autojump_clock: trio.testing.MockClock
) -> None:
    """Sessions that are over are told in one call, the newest of a device; while the store cannot commit nothing of it is
    lost, nor the renewal; afterwards nothing is told twice."""
    roll, book = running
    book.broken = True
    roll.session_over(author(1, 5))
    await trio.sleep(LEASE_MS / 1000 + TURN_SECONDS / 2)  # between two turns: at one, either task may be the first
    roll.session_over(author(2))
    roll.session_over(author(1, 4))
    assert len(book.calls) == 1
    book.broken = False
    await trio.sleep(2)
    assert book.calls[1:] == [RollCall(node=HERE, lease_ms=LEASE_MS, left=((1, 5), (2, 1)))]
    await trio.sleep(10)
    assert len(book.calls) == 2


async def test_one_call_is_bounded(running: tuple[Roll, Book], autojump_clock: trio.testing.MockClock) -> None:
    """Thousands who leave at once are told in parts."""
    roll, book = running
    for number in range(LEFT_AT_ONCE * 2 + 1):
        roll.session_over(author(number))
    await trio.sleep(2)
    assert [len(call.left) for call in book.calls] == [0, LEFT_AT_ONCE, LEFT_AT_ONCE, 1]


async def test_a_node_that_ends_in_order_takes_all_along(tmp_path: Path) -> None:
    """On a real store: a session is online from its hello on, and after ``sign_off`` nobody is, without waiting for the lease."""
    async with open_store(tmp_path / "chatd.db") as store, trio.open_nursery() as nursery:
        writer = writer_of(store)
        roll = Roll(writer, HERE)
        nursery.start_soon(writer.run)
        await nursery.start(roll.run)
        opened: Any = await writer.call(OpenDevice(user="a", device="one", create_user=True, node=HERE))

        async def online() -> list[bool]:
            now = time_ns() // 1_000_000
            return [entry.online for entry in await store.devices(opened.author.user_no, now)]

        assert await online() == [True]
        await roll.sign_off()
        assert await online() == [False]
        nursery.cancel_scope.cancel()
