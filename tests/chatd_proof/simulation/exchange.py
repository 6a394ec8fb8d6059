"""The bus between the nodes: in order and at once when all is well; it may lose, delay, repeat and reorder what it carries."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from random import Random

import trio

from chatd.bus.port import OnLost, OnMessage

LATENCY_SECONDS = 0.002
LATE_SECONDS = 3.0


@dataclass
class Exchange:
    """What all nodes publish to. Each fault is a share of all messages, per receiver."""

    random: Random
    dropped: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    buses: list[ExchangeBus] = field(default_factory=list)

    def carry(self, source: ExchangeBus, channel: bytes, payload: bytes) -> None:
        """To everybody who is subscribed, the publisher too, as Redis does."""
        for bus in self.buses:
            if not bus.up or channel not in bus.subscribed or self._happens(self.dropped):
                continue
            for _ in range(2 if self._happens(self.repeated) else 1):
                bus.expect(source, channel, payload, late=self._happens(self.late))

    def _happens(self, share: float) -> bool:
        return share > 0 and self.random.random() < share


class ExchangeBus:
    """One node's end: ``chatd.bus.port.Bus``."""

    def __init__(self, exchange: Exchange, on_message: OnMessage, on_lost: OnLost, cork: AbstractContextManager[None]) -> None:
        self._exchange = exchange
        self._on_message = on_message
        self._on_lost = on_lost
        self._cork = cork
        self._wanted: set[bytes] = set()
        self.subscribed: set[bytes] = set()
        self._coming: list[tuple[float, int, bytes, bytes]] = []
        self._due: dict[int, float] = {}
        self._serial = count()
        self._bell = trio.Event()
        self.up = True
        self.dead = False
        exchange.buses.append(self)

    def publish(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """See the port."""
        if self.up and not self.dead:
            for channel, payload in messages:
                self._exchange.carry(self, channel, payload)

    async def subscribe(self, channels: Collection[bytes]) -> None:
        """See the port."""
        self._wanted.update(channels)
        await trio.sleep(self._exchange.random.random() * LATENCY_SECONDS)
        if self.up:
            self.subscribed.update(self._wanted.intersection(channels))
            await trio.sleep(self._exchange.random.random() * LATENCY_SECONDS)

    def unsubscribe(self, channels: Collection[bytes]) -> None:
        """See the port."""
        self._wanted.difference_update(channels)
        self.subscribed.difference_update(channels)

    def expect(self, source: ExchangeBus, channel: bytes, payload: bytes, *, late: bool) -> None:
        """It is under way. In order from each source, but for what is late."""
        random = self._exchange.random
        due = trio.current_time() + random.random() * LATENCY_SECONDS
        if late:
            due += random.random() * LATE_SECONDS
        else:
            due = self._due[id(source)] = max(due, self._due.get(id(source), 0.0))
        heapq.heappush(self._coming, (due, next(self._serial), channel, payload))
        self._bell.set()

    def cut(self) -> None:
        """The link is gone, and all that was under way."""
        self.up = False
        self.subscribed.clear()
        self._coming.clear()
        self._on_lost()

    def mend(self) -> None:
        """It is back, with all that is wanted."""
        self.up = True
        self.subscribed.update(self._wanted)
        self._on_lost()

    def leave(self) -> None:
        """The node is gone."""
        self.dead = True
        self._exchange.buses.remove(self)

    async def run(self) -> None:
        """See the port."""
        while True:
            self._bell = trio.Event()
            while self._coming and self._coming[0][0] <= trio.current_time():
                _, _, channel, payload = heapq.heappop(self._coming)
                if self.up and channel in self.subscribed:
                    with self._cork:
                        self._on_message(channel, payload)
            with trio.move_on_at(self._coming[0][0]) if self._coming else trio.CancelScope():
                await self._bell.wait()
