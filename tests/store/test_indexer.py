"""The indexer: works off what there is, rests meanwhile, and outlives a store that cannot."""

from __future__ import annotations

from typing import Any

import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.store.indexer import Indexer
from chatd.store.port import Unavailable


class Log:
    """A store of which only ``index`` is asked: each batch takes 2 s, and what it returns or raises is written down here."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []

    async def index(self) -> int:
        self.asked.append(trio.current_time())
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        if answer:
            await trio.sleep(2)
        return answer


async def run_for(seconds: float, indexer: Indexer) -> None:
    with trio.move_on_after(seconds):
        await indexer.run()


async def test_it_rests_longer_than_it_works(autojump_clock: MockClock) -> None:
    """One batch after another while something is left, each followed by a rest of four times its length; then each period."""
    log = Log(300, 100, 0, 0)
    began = trio.current_time()
    indexer = Indexer(log, period=10.0)  # type: ignore[arg-type]
    await run_for(35, indexer)
    assert [at - began for at in log.asked] == [0, 10, 20, 30]
    assert indexer.behind == 0


async def test_it_says_how_far_behind_it_is(autojump_clock: MockClock) -> None:
    """The number that the store gave last."""
    indexer = Indexer(Log(300, 100, 50), period=10.0)  # type: ignore[arg-type]
    await run_for(5, indexer)
    assert indexer.behind == 300


async def test_a_store_that_cannot_is_asked_again(autojump_clock: MockClock) -> None:
    """It goes on after the next period, and says so once."""
    store = Log(Unavailable("full"), Unavailable("full"), 0, Unavailable("again"))
    with structlog.testing.capture_logs() as said:
        await run_for(45, Indexer(store, period=10.0))  # type: ignore[arg-type]
    assert len(store.asked) == 5
    assert [entry["event"] for entry in said] == ["indexer.postponed"] * 2


async def test_cancelling_ends_it() -> None:
    """While it waits for the clock as while it waits for the store."""

    class Stuck:
        async def index(self) -> Any:
            await trio.sleep_forever()

    for store in (Stuck(), Log()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Indexer(store, period=1000.0).run)  # type: ignore[arg-type]
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
