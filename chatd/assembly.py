"""The actors of one node, wired to each other, above the ports: what is the same whatever stands behind these.

``app`` gives them SQLite, Redis and sockets; the simulation (``tests/chatd_proof``) a store, a bus and a clock of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio
from chatd_protocol.codec import MAX_CLIENT_BYTES
from chatd_protocol.messages import MAX_PAGE

from chatd.bus.port import Bus
from chatd.config import Config
from chatd.delivery.endings import Endings
from chatd.delivery.envelope import Sealer
from chatd.delivery.hub import Hub
from chatd.delivery.repair import Repair
from chatd.delivery.signals import Signals
from chatd.limits.limiter import Limiter
from chatd.limits.port import SharedLimits
from chatd.limits.rules import Tiers
from chatd.ops.metrics import Metrics
from chatd.presence.actor import Presence
from chatd.presence.port import Board
from chatd.sessions.node import Identity, Node
from chatd.sessions.roll import Roll
from chatd.store.indexer import Indexer
from chatd.store.port import Store
from chatd.store.scrubber import Scrubber
from chatd.store.writer import Writer
from chatd.wire.link import Cork

Actor = Callable[[], Awaitable[None]]


class Assembly:
    """``name``: the node's own, NODE_BYTES, another at each start. ``verify``: who a token speaks for, or it raises."""

    def __init__(
        self, config: Config, store: Store, metrics: Metrics, cork: Cork, *, name: bytes, bus_key: bytes,
        verify: Callable[[str], Identity], wall_ms: Callable[[], int], random: Random,
    ) -> None:  # fmt: skip
        limits, delivery = config.limits, config.delivery
        self.hub = Hub(
            Sealer(bus_key, name), metrics, held_events=delivery.held_events, held_bytes=delivery.held_bytes
        )  # fmt: skip
        self.writer = Writer(
            store, self.hub.committed, metrics, cork, max_items=limits.writer_items, max_bytes=limits.writer_bytes,
            batch=limits.batch_items,
        )  # fmt: skip
        self.writer_ended = trio.Event()
        self.repair = Repair(
            self.hub, store, metrics, cork, period=delivery.repair_seconds, grace=delivery.repair_grace_ms / 1000
        )  # fmt: skip
        self.signals = Signals(self.hub, store, metrics, cork)
        self.presence = Presence(store, self.writer.submit, self.hub.signal, metrics, cork, config.presence, wall_ms)
        self.hub.observers.append(self.presence)
        self.limiter = Limiter(Tiers(limits), metrics)
        self.node = Node(
            store=store, writer=self.writer, hub=self.hub, metrics=metrics, limits=limits, verify=verify, cork=cork,
            roll=Roll(self.writer, name), limiter=self.limiter, signals=self.signals, presence=self.presence,
            heartbeat_ms=config.server.heartbeat_ms, hello_seconds=config.server.hello_seconds,
            marks_seconds=delivery.marks_ms / 1000, random=random,
            advertised={
                "message_bytes": MAX_CLIENT_BYTES, "page_events": MAX_PAGE, "group_members": limits.group_members,
            },
        )  # fmt: skip
        self.indexer = Indexer(store, period=config.store.search_seconds)
        self._endings = Endings(self.hub, store)
        self._scrubber = Scrubber(store)

    def connect(self, bus: Bus, board: Board, limits: SharedLimits) -> None:
        """What calls these actors and is called by them, and so comes later. Their ``run`` is the caller's to start."""
        self.hub.connect(bus)
        self.presence.connect(board)
        self.limiter.connect(limits)

    def actors(self) -> list[Actor]:
        """To be started, each for the node's whole life; only the writer ends by itself, when it is closed and empty. The roll
        is started with ``start``: it returns when the store was asked to note the node."""
        node = self.node
        return [
            self.repair.run, self._endings.run, node.sweep, node.flush_marks, node.pace.run, self.limiter.run,
            self.signals.run, self.presence.run, self.indexer.run, self._scrubber.run, self._write,
        ]  # fmt: skip

    async def _write(self) -> None:
        await self.writer.run()
        self.writer_ended.set()
