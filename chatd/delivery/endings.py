"""Endings: finds the sessions that were ended elsewhere and that the bus did not tell of, by looking into the store.

Within 5 s a session that was signed out is over on every node, whatever the bus loses; so the store is asked every
``LOOK_SECONDS``. That costs a node 0.01 % of a core: the answer is mostly empty. Owns: the token of the last look. Waits for:
the store. Ends only when cancelled.
"""

from __future__ import annotations

import structlog
import trio

from chatd.delivery.hub import Hub
from chatd.store.port import Store, Unavailable

LOOK_SECONDS = 2.0

log = structlog.get_logger()


class Endings:
    """``store`` is asked, ``hub`` told."""

    def __init__(self, hub: Hub, store: Store) -> None:
        self._hub = hub
        self._store = store
        self._token = 0
        self._healthy = True

    async def run(self) -> None:
        while True:
            try:
                await self._look()
            except Unavailable as fault:
                if self._healthy:
                    log.warning("endings.postponed", reason=str(fault))
                self._healthy = False
            else:
                self._healthy = True
            await trio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        more = True
        while more:
            found = await self._store.endings(self._token)
            for user, device_no, epoch in found.ended:
                self._hub.end_sessions(user, device_no, epoch)
            self._token, more = found.token, found.more
