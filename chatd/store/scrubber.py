"""The scrubber: has the store take out of its files what deletes have left in them.

Once a second, and not with each delete: it costs the disk as much as a commit does, and the next commit waits for it. So a
deleted text is off the disk a second later, or when what was in the way has gone. Owns nothing. Waits for: the store. Ends
only when cancelled; a store that is closed scrubs once more.
"""

from __future__ import annotations

import structlog
import trio

from chatd.store.port import Store, Unavailable

PERIOD = 1.0

log = structlog.get_logger()


class Scrubber:
    def __init__(self, store: Store, *, period: float = PERIOD) -> None:
        self._store = store
        self._period = period
        self._healthy = True

    async def run(self) -> None:
        while True:
            try:
                await self._store.scrub()
            except Unavailable as fault:
                if self._healthy:
                    log.warning("scrubber.postponed", reason=str(fault))
                self._healthy = False
            else:
                self._healthy = True
            await trio.sleep(self._period)
