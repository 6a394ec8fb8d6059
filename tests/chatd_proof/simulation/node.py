"""A node of the simulation: all of chatd's actors, on the simulated store, bus and Redis, and on memory streams."""

from __future__ import annotations

import secrets
from pathlib import Path
from random import Random
from typing import cast

import trio
from chatd_protocol.codec import Encoding
from msgspec import Struct

from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.assembly import Assembly
from chatd.config import Config
from chatd.delivery.envelope import NODE_BYTES
from chatd.listener.listener import run_on_stream
from chatd.ops.metrics import Metrics
from chatd.sessions.session import Session
from chatd.store.port import Store
from chatd.wire.link import Cork
from chatd.wire.stream_link import StreamLink
from chatd_proof.simulation.determinism import EPOCH_NS
from chatd_proof.simulation.disk import Disk, DiskStore
from chatd_proof.simulation.exchange import Exchange, ExchangeBus
from chatd_proof.simulation.shared import SimulatedBoard, SimulatedLimits, SimulatedRedis

BUS_KEY = bytes(32)


class Speaker(Struct, frozen=True):
    """Who a token speaks for: the token is the user's name."""

    user: str
    expires_at_ms: int = 2**52
    good_until_ms: int = 2**52
    outside: bool = True
    tier: str = ""
    token_id: bytes = b""
    generation: int = 0
    issued_at_ms: int = 2**52


def wall_ms() -> int:
    return EPOCH_NS // 10**6 + int(trio.current_time() * 1000)


class SimulatedNode:
    """``run`` is its life; ``kill`` ends it at once, between two steps of any of its tasks."""

    def __init__(self, config: Config, path: Path, disk: Disk, exchange: Exchange, redis: SimulatedRedis, random: Random) -> None:
        self._config = config
        self._path = path
        self._disk = disk
        self._exchange = exchange
        self._redis = redis
        self._random = random
        self._scope = trio.CancelScope()
        self._sessions: trio.Nursery | None = None
        self.streams: dict[trio.abc.Stream, None] = {}  # not a set: its order would be that of addresses
        self.core: Assembly | None = None
        self.bus: ExchangeBus | None = None
        self.store: DiskStore | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """From its start to its being killed. Raises what an actor raises: that is a bug."""
        limits, delivery = self._config.limits, self._config.delivery
        async with open_store(
            self._path, max_members=limits.group_members, max_devices=limits.devices_per_user,
            new_device_events=delivery.replay_new_device_events,
        ) as inner:  # fmt: skip
            with self._scope:
                await self._live(inner, task_status)

    async def _live(self, inner: SqliteStore, task_status: trio.TaskStatus[None]) -> None:
        cork, name = Cork(), secrets.token_bytes(NODE_BYTES)
        self.store = DiskStore(inner, self._disk)
        core = self.core = Assembly(
            self._config, cast("Store", self.store), Metrics(), cork, name=name, bus_key=BUS_KEY, verify=Speaker, wall_ms=wall_ms,
            random=self._random,
        )  # fmt: skip
        bus = self.bus = ExchangeBus(self._exchange, core.hub.bus_message, core.repair.bus_lost, cork)
        board = SimulatedBoard(
            self._redis, name.hex(), core.presence.heard_of, core.presence.board_lost, self._config.presence.expiry_seconds
        )
        core.connect(bus, board, SimulatedLimits(self._redis))
        try:
            async with trio.open_nursery() as nursery:
                for actor in (bus.run, board.run, *core.actors()):
                    nursery.start_soon(actor)
                await nursery.start(core.node.roll.run)
                core.limiter.link_up()
                async with trio.open_nursery() as self._sessions:
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            board.leave()

    @property
    def alive(self) -> bool:
        """Whether it takes connections."""
        return self._sessions is not None and not self._scope.cancel_called

    def kill(self) -> None:
        """kill -9: it says nothing more to anybody, and what it had not committed is not."""
        assert self.bus is not None
        assert self.store is not None
        self.bus.leave()
        self.store.dead = True
        self._scope.cancel()

    def accept(self, stream: trio.abc.Stream) -> None:
        """A connection; the handshake is not simulated."""
        assert self._sessions is not None
        self._sessions.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        core = self.core
        assert core is not None
        session = Session(core.node, Encoding.CBOR, "simulated", secrets.token_hex(8))
        limits = self._config.limits
        link = StreamLink(stream, session, max_bytes=limits.outbox_bytes, max_frames=limits.outbox_frames)
        self.streams[stream] = None
        try:
            await run_on_stream(core.node, session, link)
        finally:
            del self.streams[stream]
