"""Who watches whom on this node, what the other nodes say of them, and telling the watchers.

A part of the actor ``actor.Presence``; nothing else owns its state. A session's request waits at most once; users are watched
up to a bound of the node's, beyond which nobody more is, and the session is told. Above ``rate`` messages a second changes
wait, and only what is last is told: updates coarsen. Who may watch (``admit``) waits for the store, what other nodes say
(``load``, ``read``) for the board; what is told (``tell_changes``) for neither.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

import structlog
import trio
from chatd_protocol import messages
from chatd_protocol.codec import Encoding, encode
from chatd_protocol.codes import ErrorCode
from msgspec import UNSET

from chatd.conversations.operations import Author
from chatd.delivery.hub import frame_of
from chatd.limits.bucket import TokenBucket
from chatd.ops.metrics import Metrics
from chatd.presence.local_users import BETWEEN_CHANGES, LocalUsers
from chatd.presence.port import Board, BoardDown, Lease
from chatd.presence.status import NOWHERE, PresenceState, Status
from chatd.presence.watched import Watched
from chatd.store.port import Store, Unavailable
from chatd.timers import Timers

OWN = ""
"""The name under which this node's own word is held."""
FOR_GOOD = float("inf")
BATCH = 500
ASKED = 50
"""Users in one question to the store, for one session; then it is the next one's turn. The read is short, whoever asks: the
few threads that read serve history, too."""
AGAIN_SECONDS = 0.5
"""After this pause the board or the store is asked again, where it could not answer."""

log = structlog.get_logger()


class Watcher(Protocol):
    """A session, as presence sees it; ``status.Device`` is the rest."""

    user: str
    encoding: Encoding

    @property
    def author(self) -> Author | None: ...

    def write(self, frame: bytes) -> None: ...

    def refuse(self, code: str, text: str) -> None: ...


class Watch:
    """What a session watches. ``wanted``: whom it named. ``granted``: of whom it is told. ``to_ask``: about whom the store is
    to be asked yet; ``afresh``: all of them are to be told, and not only those who are new."""

    __slots__ = ("afresh", "granted", "refused", "session", "to_ask", "wanted")

    def __init__(self, session: Watcher) -> None:
        self.session = session
        self.wanted: frozenset[str] = frozenset()
        self.granted: dict[str, None] = {}
        self.to_ask: dict[str, None] = {}
        self.afresh = self.refused = False


class Watching:
    """``interval``: seconds between two reads of a watched user's leases. ``bound``: of watched users."""

    def __init__(
        self, local: LocalUsers, store: Store, metrics: Metrics, cork: AbstractContextManager[None], *, interval: float,
        bound: int, rate: float,
    ) -> None:  # fmt: skip
        self._local = local
        self._store = store
        self._metrics = metrics
        self._cork = cork
        self._interval = interval
        self._bound = bound
        self._budget = TokenBucket(rate, rate)
        self._watches: dict[object, Watch] = {}
        self._of_user: dict[str, dict[Watch, None]] = {}
        self._asking: OrderedDict[Watch, None] = OrderedDict()
        self._bell = trio.Event()
        self._to_load: dict[str, None] = {}
        self._load_bell = trio.Event()
        self.watched: dict[str, Watched[Watcher]] = {}
        self._look: Timers[str] = Timers()
        self._changed: dict[str, None] = {}

    # --- what others say, all of it synchronous ---------------------------------------------------

    def want(self, session: Watcher, users: list[str], board: Board) -> None:
        """A session watches these users instead of those before."""
        watch = self._watches.get(session)
        if watch is None:
            watch = self._watches[session] = Watch(session)
            self._of_user.setdefault(session.user, {})[watch] = None
        watch.wanted = frozenset(users)
        self._release(watch, [user for user in watch.granted if user not in watch.wanted], board)
        watch.to_ask = {}
        watch.afresh, watch.refused = True, False
        self._ask(watch, sorted(watch.wanted))

    def ask_again(self, session: object, about: str | None = None) -> None:
        """Somebody joined or left a conversation of this session's: who may know of whom is asked anew."""
        watch = self._watches.get(session)
        if watch is None:
            return
        if about is None or about == watch.session.user:
            self._ask(watch, sorted(watch.wanted))
        elif about in watch.wanted:
            self._ask(watch, [about])

    def ask_about(self, user: str, other: str) -> None:
        """Whether one user's sessions here may know of another has to be asked anew."""
        for watch in self._of_user.get(user, ()):
            if other in watch.wanted:
                self._ask(watch, [other])

    def _ask(self, watch: Watch, users: Iterable[str]) -> None:
        watch.to_ask.update(dict.fromkeys(users))
        self._asking[watch] = None
        self._bell.set()

    def forget(self, session: Watcher, board: Board) -> None:
        """A session is over."""
        watch = self._watches.pop(session, None)
        if watch is not None:
            own = self._of_user[session.user]
            del own[watch]
            if not own:
                del self._of_user[session.user]
            self._asking.pop(watch, None)
            self._release(watch, list(watch.granted), board)

    def own_state(self, user: str, state: PresenceState) -> None:
        """This node's own word on a user."""
        watched = self.watched.get(user)
        if watched is None:
            return
        if _own_is_online(watched) and state.status is not Status.ONLINE:
            self._load_anew(user, watched)  # meanwhile nobody read what the others say: their leases may long be over
        watched.hold(OWN, state, FOR_GOOD)
        self._changed[user] = None

    def heard(self, user: str, lease: Lease) -> None:
        """Another node's word, as it says it."""
        watched = self.watched.get(user)
        if watched is not None:
            now = trio.current_time()
            watched.heard += 1
            watched.hold(lease.node, PresenceState(Status(lease.status), lease.seen), now + lease.left)
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
            if _own_is_online(self.watched[user]):
                self._look.set(user, trio.current_time() + self._interval)  # the others could not say more
            else:
                due.append(user)
        await self._read(due, board)

    async def _read(self, users: list[str], board: Board) -> None:
        for at in range(0, len(users), BATCH):
            batch = users[at : at + BATCH]
            heard = [self.watched[user].heard if user in self.watched else 0 for user in batch]
            try:
                found = await board.read(batch)
            except BoardDown:
                for user in users[at:]:
                    if user in self.watched:
                        self._look.set(user, trio.current_time() + AGAIN_SECONDS)
                raise
            now = trio.current_time()
            for user, before, leases in zip(batch, heard, found, strict=True):
                self._take(user, before, leases, now)

    def _take(self, user: str, heard: int, leases: list[Lease], now: float) -> None:
        watched = self.watched.get(user)
        if watched is None:
            return
        if watched.heard != heard:
            self._look.set(user, now)  # what was heard meanwhile may be newer than the answer, or older: read again
            return
        for lease in leases:
            watched.hold(lease.node, PresenceState(Status(lease.status), lease.seen), now + lease.left)
        watched.expire(now, OWN)
        self._look.set(user, watched.look_at(now, self._interval))
        self._changed[user] = None

    # --- who may watch ------------------------------------------------------------------------------

    async def admit(self, board: Board) -> None:
        """Wait for requests, and answer all that there are: ASKED users of one session, then of the next."""
        await self._bell.wait()
        self._bell = trio.Event()
        while self._asking:
            watch, _ = self._asking.popitem(last=False)
            users = list(islice(watch.to_ask, ASKED))
            for user in users:
                del watch.to_ask[user]
            if watch.to_ask:
                self._asking[watch] = None
            await self._admit(watch, users, board)

    async def _admit(self, watch: Watch, users: list[str], board: Board) -> None:
        author = watch.session.author
        assert author is not None, "no watch comes before the hello"
        try:
            known = {known.user: known.last_seen for known in await self._store.acquainted(author.user_no, users)}
            if any(map(self._local.is_undecided, known)):
                await self._local.decide()  # they have just come: the first word is not to be that they are away
        except Unavailable:
            if self._watches.get(watch.session) is watch:
                self._ask(watch, watch.wanted.intersection(users))
            await trio.sleep(AGAIN_SECONDS)
            return
        if self._watches.get(watch.session) is not watch:
            return
        # Not of those about whom it is to be asked once more: what was read may be out of date.
        answered = [user for user in users if user in watch.wanted and user not in watch.to_ask]
        lost = [user for user in answered if user in watch.granted and user not in known]
        self._release(watch, lost, board)  # first, for there may be room for as many as go
        told = self._grant(watch, {user: known[user] for user in answered if user in known})
        self._tell_first(watch.session, told)
        self._tell_gone(watch.session, lost)
        watch.afresh = watch.afresh and bool(watch.to_ask)

    def _grant(self, watch: Watch, known: dict[str, int]) -> list[str]:
        """Who of them is to be told now."""
        told = []
        for user, last_seen in known.items():
            watched = self.watched.get(user)
            if watched is None:
                if len(self.watched) >= self._bound:
                    self._refuse(watch)
                    continue
                watched = self._begin(user)
            watched.seen = max(watched.seen, last_seen)
            if user not in watch.granted:
                watch.granted[user] = None
                watched.watchers[watch.session] = None
                told.append(user)
            elif watch.afresh:
                told.append(user)
        return told

    def _refuse(self, watch: Watch) -> None:
        if not watch.refused:
            watch.refused = True
            watch.session.refuse(ErrorCode.OVERLOADED, "watch: the server watches as many users as it may")

    def _begin(self, user: str) -> Watched[Watcher]:
        watched = self.watched[user] = Watched()
        said = self._local.said(user)
        if said is not None and said.status is not Status.OFFLINE:
            watched.hold(OWN, said, FOR_GOOD)
        self._look.set(user, trio.current_time() + self._interval)
        self._load_anew(user, watched)
        return watched

    def _release(self, watch: Watch, users: Iterable[str], board: Board) -> None:
        unwatched = []
        for user in users:
            del watch.granted[user]
            watched = self.watched[user]
            del watched.watchers[watch.session]
            if not watched.watchers:
                unwatched.append(user)
                del self.watched[user]
                self._look.cancel(user)
                self._changed.pop(user, None)
                self._to_load.pop(user, None)
        board.unlisten(unwatched)

    # --- what the other nodes say of somebody new ---------------------------------------------------

    def _load_anew(self, user: str, watched: Watched[Watcher]) -> None:
        watched.loaded = False
        self._to_load[user] = None
        self._load_bell.set()

    async def load(self, board: Board) -> None:
        """Wait for users of whom it is not known what the other nodes say; then tell of them. First it is listened and then
        read, so that nothing falls in between; a board that cannot be had leaves what this node knows by itself."""
        await self._load_bell.wait()
        self._load_bell = trio.Event()
        users, self._to_load = list(self._to_load), {}
        await board.listen([user for user in users if user in self.watched])
        try:
            await self._read([user for user in users if user in self.watched], board)
        except BoardDown as fault:
            log.debug("presence.board_down", reason=str(fault))
        for user in users:
            watched = self.watched.get(user)
            if watched is not None:
                watched.loaded = True
                self._changed[user] = None
                if watched.announced is None:
                    watched.announced = watched.state()
                    self._write(user, watched, watched.watchers)

    # --- telling ------------------------------------------------------------------------------------

    def tell_changes(self) -> None:
        """Write what has changed and may be told by now; to be called every tick."""
        now = trio.current_time()
        with self._cork:
            for user in list(self._changed):
                watched = self.watched[user]
                state = watched.state()
                if state != watched.announced:
                    if not _is_settled(watched) or now - watched.announced_at < BETWEEN_CHANGES:
                        continue
                    if self._budget.take(now, len(watched.watchers)):
                        self._metrics.presence_coarsened += 1
                        break
                    watched.announced, watched.announced_at = state, now
                    watched.frames.clear()
                    self._write(user, watched, watched.watchers)
                del self._changed[user]

    def _tell_first(self, session: Watcher, users: Sequence[str]) -> None:
        frames = []
        for user in users:
            watched = self.watched[user]
            if watched.announced is None:
                if not _is_settled(watched):
                    continue  # ``load`` will tell
                watched.announced = watched.state()
            frames.append(self._frame(user, watched, session.encoding))
        if frames:
            session.write(b"".join(frames))
        self._metrics.presence_told += len(frames)

    def _tell_gone(self, session: Watcher, users: Sequence[str]) -> None:
        """They share no conversation any more: from here on the session knows nothing of them."""
        for user in users:
            session.write(_presence_frame(session.encoding, user, NOWHERE))

    def _write(self, user: str, watched: Watched[Watcher], sessions: Collection[Watcher]) -> None:
        for session in sessions:
            session.write(self._frame(user, watched, session.encoding))
        self._metrics.presence_told += len(sessions)

    def _frame(self, user: str, watched: Watched[Watcher], encoding: Encoding) -> bytes:
        frame = watched.frames.get(encoding)
        if frame is None:
            frame = watched.frames[encoding] = _presence_frame(encoding, user, watched.announced or NOWHERE)
        return frame


def _own_is_online(watched: Watched[Watcher]) -> bool:
    """Whether no other node could say more."""
    own = watched.leases.get(OWN)
    return own is not None and own.state.status is Status.ONLINE


def _is_settled(watched: Watched[Watcher]) -> bool:
    return watched.loaded or _own_is_online(watched)


def _presence_frame(encoding: Encoding, user: str, state: PresenceState) -> bytes:
    seen = state.seen or UNSET
    return frame_of(encoding, encode(encoding, messages.Presence(user=user, status=state.status.wire, last_seen=seen)))
