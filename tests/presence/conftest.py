"""Nodes of one server, each a ``Presence`` with its board on a real Valkey and a real store, under a clock of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
from chatd_protocol.codec import Encoding
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.adapters.redis.presence import RedisBoard
from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.adapters.valkey import EmbeddedValkey
from chatd.conversations.operations import Author, CreateGroup, Event, OpenDevice, Operation
from chatd.delivery.envelope import Signal
from chatd.delivery.topic import HeldBytes, Topic
from chatd.ops.metrics import Metrics
from chatd.presence.actor import Presence

STEP = 0.1
IDLE = 0.004


@dataclass(frozen=True)
class Settings:
    renew_seconds: float = 30.0
    expiry_seconds: float = 60.0
    away_seconds: float = 300.0
    store_seconds: float = 300.0
    watched_users: int = 1000
    messages_per_second: float = 5000.0


class Session:
    """As presence sees it; ``got`` is what it was told, as (user, status)."""

    encoding = Encoding.CBOR

    def __init__(self, author: Author) -> None:
        self.user, self.author = author.user, author
        self.last_active = trio.current_time()
        self.inactive = self.idle = False
        self.told: list[dict[str, Any]] = []
        self.refused: list[str] = []

    @property
    def got(self) -> list[tuple[str, str]]:
        return [(message["user"], message["status"]) for message in self.told]

    def write(self, frame: bytes) -> None:
        while frame:
            size = frame[1]
            assert frame[0] == 0x82
            assert size < 126
            self.told.append(cbor2.loads(frame[2 : 2 + size]))
            frame = frame[2 + size :]

    def refuse(self, code: str, text: str) -> None:
        self.refused.append(code)


class Node:
    """One node, until it is killed."""

    def __init__(self, place: Place, name: str, settings: Settings) -> None:
        self._place = place
        self.name = name
        self.metrics = Metrics()
        self.presence = Presence(
            place.store, self._submit, self._signal, self.metrics, nullcontext(), settings,
            lambda: 10**12 + int(trio.current_time() * 1000)
        )
        self.board = RedisBoard(
            place.server.url, name, self.presence.heard_of, self.presence.board_lost, expiry=settings.expiry_seconds,
            jitter=lambda: 0.5,
        )  # fmt: skip
        self.presence.connect(self.board)
        self._scope = trio.CancelScope()
        place.nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.board.run)
                nursery.start_soon(self.presence.run)

    def _submit(self, operation: Operation, _: Any) -> bool:
        self._place.nursery.start_soon(self._place.do, operation)
        return True

    def _signal(self, outgoing: Mapping[bytes, list[Signal]]) -> None:
        for node in self._place.nodes:
            for channel, signals in outgoing.items():
                if node is not self:
                    node.presence.heard(channel, signals)

    def moved(self, conv: str, user: str, kind: str, *apart: Session) -> None:
        """The hub has released that event of the conversation, which these sessions follow and still read the store of."""
        topic: Topic[Any] = Topic(conv, group=True, held_bound=0, held_bytes=HeldBytes(0))
        for session in apart:
            topic.follow(session)
        self.presence.membership_moved(topic, Event(conv, 9, 1, "ann", kind, cbor2.dumps({"user": user}), 0, 0))

    def enter(self, author: Author) -> Session:
        session = Session(author)
        self.presence.enter(session)
        return session

    def kill(self) -> None:
        """No goodbye, to anybody."""
        self._scope.cancel()


class Place:
    """The store, the Valkey, the clock."""

    def __init__(self, store: SqliteStore, server: EmbeddedValkey, nursery: trio.Nursery, clock: MockClock) -> None:
        self.store = store
        self.server = server
        self.nursery = nursery
        self.clock = clock
        self._writing = trio.Lock()
        self.nodes: list[Node] = []

    async def node(self, name: str, **settings: Any) -> Node:
        made = Node(self, name, Settings(**settings))
        self.nodes.append(made)
        await self.until(lambda: made.board.up)
        return made

    async def do(self, *operations: Operation) -> list[Any]:
        async with self._writing:
            return list(await self.store.commit(operations, 1_700_000_000_000))

    async def people(self, *names: str) -> list[Author]:
        opened = await self.do(*[OpenDevice(user=name, device="d", create_user=True) for name in names])
        return [outcome.author for outcome in opened]

    async def group(self, owner: Author, *members: str) -> str:
        (made,) = await self.do(CreateGroup(author=owner, title="g", members=members, history="all"))
        conv: str = made.conv
        return conv

    async def settle(self) -> None:
        """Let everybody do what is to be done at this moment."""
        await wait_all_tasks_blocked(IDLE)

    async def go(self, seconds: float) -> None:
        """Let time pass; in larger steps where it is long."""
        step = STEP if seconds <= 5 else 5 * STEP
        for _ in range(round(seconds / step)):
            self.clock.jump(step)
            await self.settle()

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> float:
        """Let time pass until it holds; how long that took."""
        passed = 0.0
        await self.settle()
        step = STEP if seconds <= 20 else 5 * STEP
        while not condition():
            assert passed <= seconds, "it did not come about"
            self.clock.jump(step)
            await self.settle()
            passed += step
        return passed


class Hurry:
    """Time passes by itself while it is ``on``: a server's start and end take some."""

    def __init__(self, clock: MockClock) -> None:
        self.on = True
        self._clock = clock

    async def run(self) -> None:
        while self.on:
            self._clock.jump(0.01)
            await wait_all_tasks_blocked(0.002)


@pytest.fixture
async def place(tmp_path: Path, mock_clock: MockClock) -> AsyncIterator[Place]:
    async with trio.open_nursery() as outer:
        hurry = Hurry(mock_clock)
        outer.start_soon(hurry.run)
        async with EmbeddedValkey(tmp_path).running() as server, open_store(tmp_path / "chatd.db") as store:
            hurry.on = False
            async with trio.open_nursery() as nursery:
                yield Place(store, server, nursery, mock_clock)
                nursery.cancel_scope.cancel()
            hurry.on = True
            outer.start_soon(hurry.run)
        outer.cancel_scope.cancel()
