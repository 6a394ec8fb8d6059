"""Presence: who is on this node, what the other nodes say of whom is watched here, and telling the watchers.

One actor owns all of it (``here``, ``watching``). Mailbox: synchronous calls of sessions, the hub and the board; a user or a
session waits in it at most once, so it is bounded by them. Three tasks, which wait for the clock, the board and the
store's reads: one keeps leases, one answers who watches, one tells changes. All end when cancelled.

Redis away: what is known stays as it is, and this node's own users go on to be right for its own sessions. A node that dies
renews no leases; who watches its users finds that within the expiry. What somebody hides never leaves the node where
they are (``roster.shown``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import structlog
import trio

from chatd.ops.metrics import Metrics
from chatd.presence.here import Here, Submit
from chatd.presence.port import Board, BoardDown, Lease
from chatd.presence.roster import Roster
from chatd.presence.status import Device, State
from chatd.presence.watching import AGAIN_SECONDS, Watcher, Watching
from chatd.store.port import Store

TICK_SECONDS = 0.5
"""Changes are told in rounds: what 100 users have done in one of them is one wake-up, and one write for each session."""

log = structlog.get_logger()


class Session(Device, Watcher, Protocol):
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
    """``submit``: the store writer's. ``wall_ms``: the wall clock, in ms."""

    def __init__(
        self, store: Store, submit: Submit, metrics: Metrics, cork: AbstractContextManager[None], settings: Settings,
        wall_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        self._board: Board | None = None
        rate = settings.messages_per_second
        self._roster = Roster(
            away=settings.away_seconds, renew=settings.renew_seconds, expiry=settings.expiry_seconds
        )
        self._here = Here(
            self._roster, store, submit, metrics, self._own_state, rate=rate, store_seconds=settings.store_seconds,
            wall_ms=wall_ms,
        )  # fmt: skip
        self._watching = Watching(
            self._here, store, metrics, cork, interval=settings.renew_seconds, bound=settings.watched_users, rate=rate
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

    def enter(self, session: Session) -> None:
        """A session is open."""
        self._roster.enter(session.user, session, trio.current_time())

    def leave(self, session: Session) -> None:
        """A session is over; a repeat, or one that never was in, does no harm."""
        self._watching.forget(session, self.board)
        self._roster.leave(session.user, session, trio.current_time())

    def stir(self, user: str) -> None:
        """What a session of the user tells of itself has changed."""
        self._roster.look(user, trio.current_time())

    def watch(self, session: Session, users: list[str]) -> None:
        """A session watches these users instead of those before."""
        self._watching.want(session, users)

    def set_privacy(self, user: str, *, presence: bool, last_seen: bool) -> None:
        """The user has said, here or elsewhere, what others may see."""
        self._here.set_privacy(user, presence=presence, last_seen=last_seen)

    def membership_moved(self, members: Sequence[Session], user: str) -> None:
        """``user`` joined or left a conversation in which ``members`` are live."""
        for session in members:
            self._watching.ask_again(session, user)

    def conversation_began(self, session: Session) -> None:
        """A session follows a conversation that it did not."""
        self._watching.ask_again(session)

    def told(self, user: str, lease: Lease) -> None:
        """The board: another node's word."""
        self._watching.told(user, lease)

    def board_lost(self) -> None:
        """The board: it is there again, or was emptied."""
        now = trio.current_time()
        self._here.board_lost(now)
        self._watching.board_lost(now)

    def store_seen(self) -> None:
        """Before the store writer is closed: when everybody was last there."""
        self._here.store_seen(trio.current_time(), everybody=True)

    def _own_state(self, user: str, state: State) -> None:
        self._watching.own_state(user, state)

    # --- the tasks ------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for task in (self._keep, self._admit, self._tell):
                nursery.start_soon(task)

    async def _keep(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            for part in (self._here.turn, self._watching.read):
                try:
                    await part(self.board)
                except BoardDown as fault:
                    log.debug("presence.board_down", reason=str(fault))
                    await trio.sleep(AGAIN_SECONDS)

    async def _admit(self) -> None:
        while True:
            await self._watching.admit(self.board)

    async def _tell(self) -> None:
        while True:
            await trio.sleep(TICK_SECONDS)
            self._watching.tell_changes()
