"""What all sessions of this node share: its services, its table of sessions, and the tasks that serve them.

``sweep`` ends the silent and the expired, ``flush_marks`` stores up-to marks in batches, ``drain`` says goodbye spread
over time; ``pace`` has a task of its own. Owns: the table of sessions. Each waits for the clock only (``flush_marks`` for a mark
first), and ends when cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random
from time import time_ns
from typing import NamedTuple, Protocol

import structlog
import trio
from chatd_protocol import codes

from chatd.delivery.hub import Hub
from chatd.delivery.signals import Signals
from chatd.limits.limiter import Limiter
from chatd.ops.metrics import Metrics
from chatd.presence.actor import Presence
from chatd.sessions.allowance import Floods
from chatd.sessions.pace import Pace
from chatd.sessions.roll import Roll
from chatd.sessions.session import Session
from chatd.sessions.wheel import TimingWheel
from chatd.store.port import Store
from chatd.store.writer import Writer

SWEEP_SECONDS = 1.0
SILENT_HEARTBEATS = 2
"""A session that said nothing for so many heartbeat intervals is taken for dead."""

log = structlog.get_logger()


class Limits(Protocol):
    """The part of the configuration's limits that sessions keep to."""

    @property
    def messages_per_second(self) -> float: ...
    @property
    def messages_burst(self) -> int: ...
    @property
    def inflight_sends(self) -> int: ...
    @property
    def requests_waiting(self) -> int: ...
    @property
    def outbox_bytes(self) -> int: ...


class PageBytes(NamedTuple):
    """Payload bytes of a page of a replay, of an answer, and what may still wait in the outbox when one is written."""

    replay: int
    answer: int
    drained: int


def page_bytes(outbox_bytes: int) -> PageBytes:
    """Such that a page never cuts who reads: with events' own keys, and base64, it fits in beside what was waiting, and
    stays below the 1 MiB of a server's message."""
    return PageBytes(min(256 * 1024, outbox_bytes // 4), min(768 * 1024, outbox_bytes // 2), outbox_bytes // 8)


class Identity(Protocol):
    """Who a token speaks for."""

    @property
    def user(self) -> str: ...
    @property
    def expires_at_ms(self) -> int: ...
    @property
    def good_until_ms(self) -> int: ...
    @property
    def outside(self) -> bool: ...
    @property
    def tier(self) -> str: ...
    @property
    def token_id(self) -> bytes: ...
    @property
    def generation(self) -> int: ...
    @property
    def issued_at_ms(self) -> int: ...


class Node:
    """The composition root fills it; everything a session needs is here, and nothing else."""

    def __init__(
        self, *, store: Store, writer: Writer, hub: Hub, metrics: Metrics, limits: Limits, verify: Callable[[str], Identity],
        cork: AbstractContextManager[None], roll: Roll, signals: Signals, presence: Presence, limiter: Limiter,
        heartbeat_ms: int, hello_seconds: float, marks_seconds: float, advertised: dict[str, int], random: Random,
    ) -> None:  # fmt: skip
        self.store = store
        self.writer = writer
        self.hub = hub
        self.metrics = metrics
        self.limits = limits
        self.pages = page_bytes(limits.outbox_bytes)
        self.cork = cork
        self.roll = roll
        self.signals = signals
        self.presence = presence
        self.limiter = limiter
        self.verify = verify
        self.heartbeat_ms = heartbeat_ms
        self.hello_seconds = hello_seconds
        self.marks_seconds = marks_seconds
        self.advertised = advertised
        self.random = random
        self.pace = Pace()
        self.floods = Floods()
        self.sessions: dict[str, Session] = {}
        self.wheel = TimingWheel()
        self.marked: list[Session] = []
        self._marks_bell = trio.Event()
        self.draining = False

    def add(self, session: Session) -> None:
        """A session begins; ``sessions`` is where it is taken out again."""
        self.sessions[session.session_id] = session
        self.wheel.after(session.session_id, 1)

    def waiting_bytes(self) -> int:
        """Bytes in all outboxes."""
        return sum(session.link.waiting_bytes for session in self.sessions.values())

    async def sweep(self) -> None:
        silence = SILENT_HEARTBEATS * self.heartbeat_ms / 1000
        while True:
            await trio.sleep(SWEEP_SECONDS)
            due, soon = self.wheel.turn()
            for number, session_id in enumerate(due):
                if (left := self._look_at(session_id, silence)) is not None:
                    self.wheel.after(session_id, left / SWEEP_SECONDS)
                if number % 1000 == 999:
                    await trio.lowlevel.checkpoint()
            for number, session_id in enumerate(soon):  # as many as peers like: half a frame is enough
                if self._look_at(session_id, silence) == 0:
                    self.wheel.soon(session_id)
                if number % 1000 == 999:
                    await trio.lowlevel.checkpoint()

    def _look_at(self, session_id: str, silence: float) -> float | None:
        """In how many seconds to look again; None where the session is over."""
        session = self.sessions.get(session_id)
        if session is None:
            return None
        return session.expire(trio.current_time(), time_ns() // 1_000_000, silence)

    def mark_moved(self, session: Session) -> None:
        """A session has marks that are to be stored, and had none."""
        self.marked.append(session)
        self._marks_bell.set()

    async def flush_marks(self) -> None:
        while True:
            await self._marks_bell.wait()
            await trio.sleep(self.marks_seconds)
            self._marks_bell = trio.Event()
            marked, self.marked = self.marked, []
            for session in marked:
                session.flush_marks()

    async def drain(self, seconds: float) -> None:
        """End every session with ``draining``, evenly over ``seconds``, each with its own moment to come back. Returns when
        the last one's link is closed; links see to that in their own bounded time."""
        self.draining = True
        sessions = list(self.sessions.values())
        log.info("node.draining", sessions=len(sessions), seconds=seconds)
        pause = seconds / max(len(sessions), 1)
        due = trio.current_time()
        for session in sessions:
            session.end(codes.DRAINING, retry_after_ms=self.random.randrange(0, 1000))
            due += pause
            await trio.sleep(max(0.0, due - trio.current_time()))
        while self.sessions:  # those too that came through the handshake meanwhile, and those whose peers still read
            for session in list(self.sessions.values()):
                session.end(codes.DRAINING, retry_after_ms=self.random.randrange(0, 1000))
            await trio.sleep(0.02)
