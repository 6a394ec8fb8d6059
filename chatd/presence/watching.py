"""Who watches whom on this node, what the other nodes say of them, and telling the watchers.

A part of the actor ``actor.Presence``; nothing else owns its state. A session's request waits at most once; users are watched
up to a bound of the node's, beyond which nobody more is, and the session is told. Above ``rate`` messages a second changes
wait, and only what is last is told: updates coarsen. Waits for the store's reads and the board.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import trio
from chatd_protocol import messages
from chatd_protocol.codec import Encoding, encode
from chatd_protocol.codes import ErrorCode
from msgspec import UNSET

from chatd.conversations.operations import Author
from chatd.delivery.hub import frame_of
from chatd.limits.bucket import TokenBucket
from chatd.ops.metrics import Metrics
from chatd.presence.here import BETWEEN_CHANGES, Here
from chatd.presence.port import Board, BoardDown, Lease
from chatd.presence.status import NOWHERE, State, Status
from chatd.presence.watched import Watched
from chatd.store.port import Store, Unavailable
from chatd.timers import Timers

OWN = ""
"""The name under which this node's own word is held."""
FOR_GOOD = float("inf")
BATCH = 500
AGAIN_SECONDS = 0.5
"""After this pause the board or the store is asked again, where it could not answer."""


class Watcher(Protocol):
    """A session, as presence sees it; ``status.Device`` is the rest."""

    user: str
    encoding: Encoding

    @property
    def author(self) -> Author | None: ...

    def write(self, frame: bytes) -> None: ...

    def refuse(self, code: str, text: str) -> None: ...


class Watching:
    """``interval``: seconds between two reads of a watched user's leases. ``bound``: of watched users."""

    def __init__(
        self, here: Here, store: Store, metrics: Metrics, cork: AbstractContextManager[None], *, interval: float,
        bound: int, rate: float,
    ) -> None:  # fmt: skip
        self._here = here
        self._store = store
        self._metrics = metrics
        self._cork = cork
        self._interval = interval
        self._bound = bound
        self._budget = TokenBucket(rate, rate)
        self._wanted: dict[Watcher, frozenset[str]] = {}
        self._asking: dict[Watcher, bool] = {}
        self._bell = trio.Event()
        self._granted: dict[Watcher, list[str]] = {}
        self.watched: dict[str, Watched[Watcher]] = {}
        self._look: Timers[str] = Timers()
        self._changed: dict[str, None] = {}

    # --- what others say, all of it synchronous ---------------------------------------------------

    def want(self, session: Watcher, users: list[str]) -> None:
        """A session watches these users instead of those before."""
        self._wanted[session] = frozenset(users)
        self._ask(session, afresh=True)

    def ask_again(self, session: Watcher, about: str | None = None) -> None:
        """Somebody joined or left a conversation of this session's: who may know of whom is asked anew."""
        wanted = self._wanted.get(session)
        if wanted and (about is None or about in wanted or about == session.user):
            self._ask(session, afresh=False)

    def _ask(self, session: Watcher, *, afresh: bool) -> None:
        self._asking[session] = self._asking.pop(session, False) or afresh
        self._bell.set()

    def forget(self, session: Watcher, board: Board) -> None:
        """A session is over."""
        self._wanted.pop(session, None)
        self._asking.pop(session, None)
        self._release(session, self._granted.pop(session, []), board)

    def own_state(self, user: str, state: State) -> None:
        """This node's own word on a user."""
        watched = self.watched.get(user)
        if watched is not None:
            watched.hold(OWN, state, FOR_GOOD)
            self._changed[user] = None

    def told(self, user: str, lease: Lease) -> None:
        """Another node's word, as it says it."""
        watched = self.watched.get(user)
        if watched is not None:
            now = trio.current_time()
            watched.hold(lease.node, State(Status(lease.status), lease.seen), now + lease.left)
            self._look.set(user, watched.look_at(now, self._interval))
            self._changed[user] = None

    def board_lost(self, now: float) -> None:
        """Read everything; and what is missing may only not be back yet: it holds for one more interval."""
        for user, watched in self.watched.items():
            watched.extend(now + self._interval)
            self._look.set(user, now)

    # --- the leases of the watched ----------------------------------------------------------------

    async def read(self, board: Board) -> None:
        """Read the leases that are due. Nothing runs out while the board is away. Raises BoardDown."""
        if not board.up:
            return
        due = []
        for user in self._look.due(trio.current_time()):
            own = self.watched[user].leases.get(OWN)
            if own is not None and own.state.status is Status.ONLINE:
                self._look.set(user, trio.current_time() + self._interval)  # the others could not say more
            else:
                due.append(user)
        await self._read(due, board)

    async def _read(self, users: list[str], board: Board) -> None:
        for at in range(0, len(users), BATCH):
            batch = users[at : at + BATCH]
            try:
                found = await board.read(batch)
            except BoardDown:
                for user in users[at:]:
                    if user in self.watched:
                        self._look.set(user, trio.current_time() + AGAIN_SECONDS)
                raise
            now = trio.current_time()
            for user, leases in zip(batch, found, strict=True):
                self._take(user, leases, now)

    def _take(self, user: str, leases: list[Lease], now: float) -> None:
        watched = self.watched.get(user)
        if watched is None:
            return
        for lease in leases:
            watched.hold(lease.node, State(Status(lease.status), lease.seen), now + lease.left)
        watched.expire(now, OWN)
        self._look.set(user, watched.look_at(now, self._interval))
        self._changed[user] = None

    # --- who may watch ------------------------------------------------------------------------------

    async def admit(self, board: Board) -> None:
        """Wait for a request, and answer all that there are, one after another."""
        await self._bell.wait()
        while self._asking:
            session = next(iter(self._asking))
            await self._admit(session, self._asking.pop(session), board)
        self._bell = trio.Event()

    async def _admit(self, session: Watcher, afresh: bool, board: Board) -> None:
        wanted, author = self._wanted[session], session.author
        assert author is not None, "no watch comes before the hello"
        try:
            found = {known.user: known.last_seen for known in await self._store.acquainted(author.user_no, sorted(wanted))}
        except Unavailable:
            if session in self._wanted:
                self._asking[session] = self._asking.get(session, False) or afresh
            await trio.sleep(AGAIN_SECONDS)
            return
        if self._wanted.get(session) is not wanted:
            return  # gone, or it wants others by now
        before = self._granted.get(session, [])
        lost = set(before).difference(found)
        self._release(session, lost, board)  # first, for there may be room for as many as go
        granted, fresh = self._grant(session, found)
        await self._load(fresh, board)
        if self._wanted.get(session) is wanted:
            self._tell_first(session, granted if afresh else sorted(set(granted).difference(before)))
            self._tell_gone(session, sorted(lost & wanted))

    def _grant(self, session: Watcher, found: dict[str, int]) -> tuple[list[str], list[str]]:
        before = set(self._granted.get(session, ()))
        granted, fresh = [], []
        for user, last_seen in found.items():
            watched = self.watched.get(user)
            if watched is None:
                if len(self.watched) >= self._bound:
                    continue
                watched = self.watched[user] = Watched()
                fresh.append(user)
            if user not in before:
                watched.watchers.append(session)
            watched.seen = max(watched.seen, last_seen)
            granted.append(user)
        self._granted[session] = granted
        if len(granted) < len(found):
            session.refuse(ErrorCode.OVERLOADED, "watch: the server watches as many users as it may")
        return granted, fresh

    async def _load(self, fresh: list[str], board: Board) -> None:
        """Learn of users whom nobody watched before: first listen, then read, so that nothing falls in between."""
        now = trio.current_time()
        for user in fresh:
            said = self._here.said(user)
            if said is not None and said.status is not Status.OFFLINE:
                self.watched[user].hold(OWN, said, FOR_GOOD)
            self._look.set(user, now + self._interval)
        await board.listen(fresh)
        try:
            await self._read(fresh, board)
        except BoardDown:
            return  # what this node knows by itself; the rest when the board is back

    def _release(self, session: Watcher, users: Iterable[str], board: Board) -> None:
        unwatched = []
        for user in users:
            watched = self.watched[user]
            watched.watchers.remove(session)
            if not watched.watchers:
                unwatched.append(user)
                del self.watched[user]
                self._look.cancel(user)
                self._changed.pop(user, None)
        board.unlisten(unwatched)

    # --- telling ------------------------------------------------------------------------------------

    def tell_changes(self) -> None:
        """Write what has changed and may be told by now; to be called every tick."""
        now = trio.current_time()
        with self._cork:
            for user in list(self._changed):
                watched = self.watched[user]
                state = watched.state()
                if state != watched.told:
                    if now - watched.told_at < BETWEEN_CHANGES:
                        continue
                    if self._budget.take(now, len(watched.watchers)):
                        self._metrics.presence_coarsened += 1
                        break
                    watched.told, watched.told_at = state, now
                    watched.frames.clear()
                    self._write(user, watched, watched.watchers)
                del self._changed[user]

    def _tell_first(self, session: Watcher, users: Sequence[str]) -> None:
        frames = []
        for user in users:
            watched = self.watched[user]
            if watched.told is None:
                watched.told = watched.state()
            frames.append(self._frame(user, watched, session.encoding))
        if frames:
            session.write(b"".join(frames))
        self._metrics.presence_told += len(frames)

    def _tell_gone(self, session: Watcher, users: Sequence[str]) -> None:
        """They share no conversation any more: from here on the session knows nothing of them."""
        for user in users:
            session.write(_presence_frame(session.encoding, user, NOWHERE))

    def _write(self, user: str, watched: Watched[Watcher], sessions: Sequence[Watcher]) -> None:
        for session in sessions:
            session.write(self._frame(user, watched, session.encoding))
        self._metrics.presence_told += len(sessions)

    def _frame(self, user: str, watched: Watched[Watcher], encoding: Encoding) -> bytes:
        frame = watched.frames.get(encoding)
        if frame is None:
            frame = watched.frames[encoding] = _presence_frame(encoding, user, watched.told or NOWHERE)
        return frame


def _presence_frame(encoding: Encoding, user: str, state: State) -> bytes:
    seen = state.seen or UNSET
    return frame_of(encoding, encode(encoding, messages.Presence(user=user, status=state.status.wire, last_seen=seen)))
