"""The indexer: has the store make findable what was committed, a batch at a time, by this node or another.

Every ``period`` seconds it asks the store whether there is something to do; that is cheap where there is not, or where the
engine indexes as it commits. Owns: how far behind the index is. No mailbox: what waits is the log itself. After each batch
it rests four times as long as that took, so that messages have the processor first: under full load the index falls behind
and catches up afterwards, as after the first start with a log that was not indexed; meanwhile search finds what there is.
Waits for: the store. Ends only when cancelled; what a batch had done is undone or kept whole.
"""

from __future__ import annotations

import structlog
import trio

from chatd.store.port import Store, Unavailable

REST = 4.0
"""Times that it works: a fifth of a core at most, about 10,000 messages a second."""

log = structlog.get_logger()


class Indexer:
    """``behind``: events that were committed and not looked at yet, when last seen."""

    def __init__(self, store: Store, *, period: float) -> None:
        self._store = store
        self._period = period
        self._healthy = True
        self.behind = 0

    async def run(self) -> None:
        while True:
            try:
                await self._catch_up()
            except Unavailable as fault:
                if self._healthy:
                    log.warning("indexer.postponed", reason=str(fault))
                self._healthy = False
            else:
                self._healthy = True
            await trio.sleep(self._period)

    async def _catch_up(self) -> None:
        began = trio.current_time()
        while behind := await self._store.index():
            self.behind = behind
            await trio.sleep(REST * (trio.current_time() - began))
            began = trio.current_time()
        self.behind = 0
