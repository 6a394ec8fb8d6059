"""Questions that are asked together: one read for all who wait, and each has its own answer, fault or end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import apsw
import pytest
import trio
import trio.testing

from chatd.adapters.sqlite.readers import CoalescedReads, Readers
from chatd.store.port import Unavailable


class Query:
    """Answers n with n * n, at most three at once; reads when it may."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may = threading.Event()
        self.began = threading.Event()
        self.fails = False

    def __call__(self, _: apsw.Connection, questions: Sequence[int]) -> list[int]:
        self.asked.append(list(questions))
        self.began.set()
        self.may.wait(10)
        if self.fails:
            raise Unavailable("the disk")
        return [question * question for question in questions[:3]]


class Asking:
    """Some who ask, each in a task, after the first one's read has begun."""

    def __init__(self, query: Query) -> None:
        self._coalesced = CoalescedReads(Readers(lambda: apsw.Connection(":memory:"), 2), query, 5)
        self.query = query
        self.told: dict[int, int | str] = {}
        self.scopes: dict[int, trio.CancelScope] = {}

    async def ask(self, question: int) -> None:
        with trio.CancelScope() as scope:
            self.scopes[question] = scope
            try:
                self.told[question] = await self._coalesced.read(question)
            except Unavailable as fault:
                self.told[question] = str(fault)

    def give_up(self, question: int) -> None:
        self.scopes[question].cancel()

    async def run(self, questions: Sequence[int], then: Callable[[], None]) -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for place, question in enumerate(questions):
                    nursery.start_soon(self.ask, question)
                    if place == 0:
                        await trio.to_thread.run_sync(self.query.began.wait)
                    else:
                        await trio.testing.wait_all_tasks_blocked()
                then()
                self.query.may.set()


async def test_who_waits_is_read_for_coalesced() -> None:
    """The first reads alone; the others five at once, of which three are answered, and the rest by the next read."""
    asking = Asking(query := Query())
    await asking.run(range(1, 8), lambda: None)
    assert asking.told == {number: number * number for number in range(1, 8)}
    assert query.asked == [[1], [2, 3, 4, 5, 6], [5, 6, 7]]


@pytest.mark.parametrize("gone", [1, 2, 4])
async def test_one_who_has_gone_holds_up_nobody(gone: int) -> None:
    """Also the one that was reading for the others, or is the next one to do so."""
    asking = Asking(Query())
    await asking.run(range(1, 5), partial(asking.give_up, gone))
    assert asking.told == {number: number * number for number in range(1, 5) if number != gone or gone == 1}


async def test_a_fault_is_told_to_all_whom_it_concerns() -> None:
    """And the next who ask are read for again."""
    asking = Asking(query := Query())
    query.fails = True
    await asking.run([1, 2, 3], lambda: None)
    assert asking.told == dict.fromkeys([1, 2, 3], "the disk")
    query.fails = False
    await asking.ask(4)
    assert asking.told[4] == 16
