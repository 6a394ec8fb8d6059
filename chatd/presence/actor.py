"""Presence: who is on this node, what the other nodes say of whom is watched here, and telling the watchers.

One actor owns all of it (``local_users``, ``watching``). Mailbox: synchronous calls of sessions, the hub and the board; a user
or a session waits in it at most once, so it is bounded by them. Six tasks: one decides what this node says and one tells
changes, which wait for the clock (and the store's reads); one answers who watches, which waits for the store; three that
wait for the board write leases, read them, and load what is said of somebody new. All end when cancelled.

Redis away, or silent: what is known stays as it is, and this node's own users go on to be right for its own sessions. A node
that dies renews no leases; who watches its users finds that within the expiry. What somebody hides never leaves the node
where they are (``roster.shown``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import structlog
import trio

from chatd.conversations.operations import Event
from chatd.delivery.envelope import BlockSignal, PrivacySignal, Signal, user_channel
from chatd.delivery.hub import Subscriber, member_of
from chatd.delivery.topic import Topic
from chatd.ops.metrics import Metrics
from chatd.presence.local_users import LocalUsers, Submit
from chatd.presence.port import Board, BoardDown, Lease
from chatd.presence.roster import Roster
from chatd.presence.status import Device, PresenceState
from chatd.presence.watching import AGAIN_SECONDS, Watcher, Watching
from chatd.store.port import Store

TICK_SECONDS = 0.5
"""Changes are told in rounds: what 100 users have done in one of them is one wake-up, and one write for each session."""

log = structlog.get_logger()


class PresenceSession(Device, Watcher, Protocol):
    """What presence needs of a session."""


class Settings(Protocol):
    """The part of the configuration that this keeps to; ``config.toml`` explains it."""

    @property
    def renew_seconds(self) -> float: ...
    @property
    def expiry_seconds(self) -> float: ...
    @property
    def away_seconds(self) -> float: ...
    @property
    def store_seconds(self) -> float: ...
    @property
    def watched_users(self) -> int: ...
    @property
    def messages_per_second(self) -> float: ...


class Presence:
    """Implements ``chatd.delivery.hub.Observer``. ``submit``: the store writer's. ``signal``: the hub's. ``wall_ms``: the wall
    clock, in ms."""

    typing: Container[str] = ()

    def __init__(
        self, store: Store, submit: Submit, signal: Callable[[Mapping[bytes, list[Signal]]], None], metrics: Metrics,
        cork: AbstractContextManager[None], settings: Settings, wall_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        self._signal = signal
        self._board: Board | None = None
        rate = settings.messages_per_second
        self._roster = Roster(
            away=settings.away_seconds, renew=settings.renew_seconds, expiry=settings.expiry_seconds
        )
        self._local = LocalUsers(
            self._roster, store, submit, metrics, self._own_state, rate=rate, store_seconds=settings.store_seconds,
            wall_ms=wall_ms,
        )  # fmt: skip
        self._watching = Watching(
            self._local, store, metrics, cork, interval=settings.renew_seconds, bound=settings.watched_users, rate=rate
        )

    def connect(self, board: Board) -> None:
        """Composition: the board calls this actor and this actor calls the board, so one of them comes later."""
        self._board = board

    @property
    def board(self) -> Board:
        assert self._board is not None, "connect() comes first, in app.py"
        return self._board

    @property
    def people(self) -> int:
        """Users with a lease of this node."""
        return len(self._roster)

    @property
    def watched(self) -> int:
        """Users whom somebody here watches."""
        return len(self._watching.watched)

    # --- the mailbox ----------------------------------------------------------------------------

    def enter(self, session: PresenceSession) -> None:
        """A session is open."""
        self._roster.enter(session.user, session, trio.current_time())

    def leave(self, session: PresenceSession) -> None:
        """A session is over; a repeat, or one that never was in, does no harm."""
        self._watching.forget(session, self.board)
        self._roster.leave(session.user, session, trio.current_time())

    def stir(self, user: str) -> None:
        """What a session of the user tells of itself has changed."""
        self._roster.look(user, trio.current_time())

    def watch(self, session: PresenceSession, users: list[str]) -> None:
        """A session watches these users instead of those before."""
        self._watching.want(session, users, self.board)

    def set_privacy(self, user: str, *, presence: bool, last_seen: bool) -> None:
        """The user has said here what others may see: the nodes where the user is are told."""
        self._local.set_privacy(user, presence=presence, last_seen=last_seen)
        self._signal({user_channel(user): [PrivacySignal(user, presence, last_seen)]})

    def conversations_moved(self, session: PresenceSession) -> None:
        """A session has caught up with a conversation that it did not follow, or was removed from one."""
        self._watching.ask_again(session)

    def heard_of(self, user: str, lease: Lease) -> None:
        """The board: another node's word."""
        self._watching.heard(user, lease)

    def board_lost(self) -> None:
        """The board: it is there again, or was emptied."""
        now = trio.current_time()
        self._local.board_lost(now)
        self._watching.board_lost(now)

    def store_seen(self) -> bool:
        """Before the store writer is closed: when everybody was last there, one part at each call. Whether there is more."""
        return self._local.store_seen(trio.current_time(), everybody=True)

    # --- what the hub says ----------------------------------------------------------------------

    def spoken(self, event: Event) -> None:
        """See the port: what is said is nothing to presence."""

    def membership_moved(self, topic: Topic[Subscriber], event: Event) -> None:
        """See the port. Those who still read the store ask again, too: they find this there, and say nothing of it."""
        user = member_of(event)
        for session in topic.subscribers():
            self._watching.ask_again(session, user)

    def heard(self, channel: bytes, signals: Sequence[Signal]) -> None:
        """See the port."""
        for signal in signals:
            if isinstance(signal, BlockSignal):
                self._watching.ask_about(signal.user, signal.other)
                self._watching.ask_about(signal.other, signal.user)
            elif isinstance(signal, PrivacySignal):
                self._local.ask_privacy(signal.user)

    def _own_state(self, user: str, state: PresenceState) -> None:
        self._watching.own_state(user, state)

    # --- the tasks ------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for task in (self._decide, self._tell, self._admit, self._load):
                nursery.start_soon(task)
            for part in (self._local.write, self._read):
                nursery.start_soon(self._try_again, part)

    async def _decide(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            await self._local.decide()

    async def _tell(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            self._watching.tell_changes()

    async def _admit(self) -> None:
        while True:
            await self._watching.admit(self.board)

    async def _load(self) -> None:
        while True:
            await self._watching.load(self.board)

    async def _read(self, board: Board) -> None:
        await trio.sleep(TICK_SECONDS)
        await self._watching.read(board)

    async def _try_again(self, part: Callable[[Board], Awaitable[None]]) -> None:
        while True:
            try:
                await part(self.board)
            except BoardDown as fault:
                log.debug("presence.board_down", reason=str(fault))
                await trio.sleep(AGAIN_SECONDS)
