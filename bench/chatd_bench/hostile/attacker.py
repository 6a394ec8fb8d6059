"""The attacker's process: nothing until it is told when, and then one attack, in the windows that it is told.

Owns its sockets, one set for each window: where one ends, all are lost. It runs at the lowest niceness: what it uses is what the
server and the generators leave, as if it were on another machine; and how much that was is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chatd_bench.hostile.account import SOURCE, Account
from chatd_bench.hostile.attacks import ATTACKS
from chatd_bench.hostile.sockets import Sockets
from chatd_bench.servers.server import Endpoint

LEAST = 19
"""The niceness of who may have what is left."""
BEHIND = 20
"""Acts that are made up for, where the process was not let run; more are given up."""
TURN_SECONDS = 0.005
"""How long it waits for its sockets at most, so that what it is to do is done in time."""


@dataclass(frozen=True)
class AttackOrder:
    """Everything that the process is told when it starts."""

    attack: str
    name: str
    endpoint: Endpoint
    credentials: Mapping[str, str]


class Attacker:
    """A load (``generator.Load``) of one attack."""

    def __init__(self, order: AttackOrder, _progress: Callable[[int], None]) -> None:
        self._order = order
        self._account = Account(order.credentials, order.endpoint, order.name)
        os.nice(LEAST)

    def turn(self, seconds: float) -> None:
        """Between commands."""
        time.sleep(seconds)

    def close(self) -> None:
        """There is nothing left."""

    def prepare(self) -> None:
        """Before anybody is measured. Raises RunFailed."""
        with self._sockets() as sockets:
            ATTACKS[self._order.attack](sockets, self._account).prepare()

    def attack(self, windows: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
        """In each of these windows of the monotonic clock; what became of it, and the CPU time that it took."""
        return [self._attack(*window) for window in windows]

    def _attack(self, begin: float, end: float) -> dict[str, Any]:
        with self._sockets() as sockets:
            attack = ATTACKS[self._order.attack](sockets, self._account)
            time.sleep(max(0.0, begin - time.monotonic()))
            cpu, done = time.process_time(), 0
            while (now := time.monotonic()) < end:
                due = int((now - begin) * attack.rate) + 1
                for _ in range(max(done, due - BEHIND), due):
                    attack.act()
                    sockets.tally.attempts += 1
                done = due
                sockets.turn(max(0.0, min(begin + done / attack.rate - time.monotonic(), TURN_SECONDS)))
            sockets.close_all()
            return {**asdict(sockets.tally), "cpu_s": time.process_time() - cpu}

    def _sockets(self) -> Sockets:
        return Sockets(self._order.endpoint.host, self._order.endpoint.port, SOURCE)
