"""The scrubber: asks the store once a period, and outlives one that cannot."""

from __future__ import annotations

import structlog
import trio
from trio.testing import MockClock

from chatd.store.port import Unavailable
from chatd.store.scrubber import Scrubber


class Log:
    """A store of which only ``scrub`` is asked; when, and what it raises, is written down here."""

    def __init__(self, *faults: Exception | None) -> None:
        self.faults = list(faults)
        self.asked: list[float] = []

    async def scrub(self) -> None:
        self.asked.append(trio.current_time())
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault


async def test_once_a_period(autojump_clock: MockClock) -> None:
    """However much is deleted: what a second brings together is one checkpoint."""
    log, began = Log(), trio.current_time()
    with trio.move_on_after(3.5):
        await Scrubber(log).run()  # type: ignore[arg-type]
    assert [at - began for at in log.asked] == [0, 1, 2, 3]


async def test_a_store_that_cannot_is_asked_again(autojump_clock: MockClock) -> None:
    """It goes on, and says so once until it is well again."""
    store = Log(Unavailable("full"), Unavailable("full"), None, Unavailable("again"))
    with structlog.testing.capture_logs() as said, trio.move_on_after(4.5):
        await Scrubber(store).run()  # type: ignore[arg-type]
    assert len(store.asked) == 5
    assert [entry["event"] for entry in said] == ["scrubber.postponed"] * 2
