"""The users of this node: what they are, what they let others see, and what the board and the store are told of it.

A part of the actor ``actor.Presence``; nothing else owns its state. What is decided and told here (``decide``) waits for the
store's reads alone, and what is put on the board (``write``) for the board: one that hangs stops nothing that needs none.
Bounded by the node's sessions, by those that ended within the expiry, and by LAST_WORDS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

import trio

from chatd.conversations.operations import NoteSeen, Operation, Outcome, Refused
from chatd.limits.bucket import TokenBucket
from chatd.ops.metrics import Metrics
from chatd.presence.port import Board, BoardDown, Entry
from chatd.presence.roster import Person, Roster, shown
from chatd.presence.status import PresenceState, Status
from chatd.store.port import Store, Unavailable

BETWEEN_CHANGES = 1.0
"""Seconds between two changes told of one user: who comes and goes meanwhile is told of once."""
LEFT_STORED_SECONDS = 5.0
LAST_WORDS = 20_000
"""Of so many who left while the board was away the moment is said when it is back."""
BATCH = 500
AT_ONCE = 100
"""Users who are looked at in one turn of the loop; when thousands come back at one moment, all of them are due."""

T = TypeVar("T")
Submit = Callable[[Operation, Callable[[Operation, Outcome], None]], bool]


class LocalUsers:
    """``on_state`` is called with (user, what others may see) at each change. ``rate``: changes told to the board a second.
    ``store_seconds``: how often it is stored when somebody was last there. ``wall_ms``: the wall clock."""

    def __init__(
        self, roster: Roster, store: Store, submit: Submit, metrics: Metrics, on_state: Callable[[str, PresenceState], None], *,
        rate: float, store_seconds: float, wall_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        self.roster = roster
        self._store = store
        self._submit = submit
        self._metrics = metrics
        self._on_state = on_state
        self._budget = TokenBucket(rate, rate)
        self._wall_ms = wall_ms
        self._changed: dict[str, None] = {}
        self._renewed: dict[str, None] = {}
        self._asked: dict[str, None] = {}
        self._board_lost = self._tell_all = self._unheard = False
        self._to_renew: dict[str, None] = {}
        self._to_tell: dict[str, Entry] = {}
        self._decided = trio.Event()
        self._last_words: dict[str, tuple[Entry, float]] = {}
        self._unstored: dict[str, float] = {}
        self._store_seconds = store_seconds
        self._store_at = self._sweep_at = trio.current_time() + LEFT_STORED_SECONDS

    def set_privacy(self, user: str, *, presence: bool, last_seen: bool) -> None:
        """The user has said what others may see."""
        person = self.roster.people.get(user)
        if person is not None:
            person.shows = (presence, last_seen)
            self._changed[user] = None

    def ask_privacy(self, user: str) -> None:
        """The user has said on another node what others may see. What that is the store tells, and not who says so: a word of
        earlier, said again by somebody who overheard it, would show who hides."""
        if user in self.roster.people:
            self._asked[user] = None

    def board_lost(self, now: float) -> None:
        """Say everything again, to those too who listen: they may have missed it."""
        self.roster.renew_all(now)
        self._board_lost = True

    def said(self, user: str) -> PresenceState | None:
        """What was last told of somebody who is here."""
        person = self.roster.people.get(user)
        return None if person is None else person.announced

    def is_undecided(self, user: str) -> bool:
        """Whether somebody is here of whom nothing was decided yet."""
        person = self.roster.people.get(user)
        return person is not None and person.shows is None

    async def decide(self) -> None:
        """One round of what is due: told to the watchers here, and kept for the board. Waits for the store's reads alone.
        A second one at the same time does no harm."""
        lost, self._board_lost = self._board_lost, False
        while due := self.roster.due(trio.current_time(), AT_ONCE):
            self._take_note(due)
            await trio.lowlevel.checkpoint()
        await self._learn_privacy()
        self._to_renew.update(self._renewed)
        self._renewed = {}
        news = self._gather(trio.current_time())
        self.store_seen(trio.current_time())
        self._keep_last_words(news, trio.current_time())
        self._to_tell.update((entry.user, entry) for entry in news)
        self._tell_all = self._tell_all or lost
        self._decided.set()

    def _take_note(self, due: list[tuple[str, Person, bool]]) -> None:
        for user, person, renew in due:
            if renew:
                self._renewed[user] = None
            if not renew or _may_be_news(person):
                self._changed[user] = None
            if not person.devices and person.last_active > person.stored:
                self._unstored[user] = person.last_active

    async def write(self, board: Board) -> None:
        """Wait for a round of ``decide``, and put on the board what there is for it. Raises BoardDown."""
        await self._decided.wait()
        self._decided = trio.Event()
        renewed, self._to_renew = self._to_renew, {}
        words, self._to_tell = self._to_tell, {}
        if not board.up:
            self._unheard = True
            return  # ``board_lost`` renews everything when it is back
        tell_all, self._tell_all = self._tell_all, False
        if tell_all:
            words = {user: entry for user, (entry, _) in self._last_words.items()} | words
        try:
            await board.put(self._renewals(renewed), tell=tell_all)
            await board.put(list(words.values()), tell=True)
            self._unheard = self._unheard and not tell_all
        except BoardDown:
            self._unheard = True
            self._tell_all = True
            self._to_renew.update(dict.fromkeys((*renewed, *words)))
            raise

    def _renewals(self, users: Iterable[str]) -> list[Entry]:
        offset = self._wall_ms() - trio.current_time() * 1000
        people = self.roster.people
        states = [(user, shown(people[user], offset)) for user in users if user in people]
        return [Entry(user, *state) for user, state in states if state.status is not Status.OFFLINE]

    def _keep_last_words(self, news: list[Entry], now: float) -> None:
        """Of who has gone or hides: when the board was lost they are said again, for no renewal does it, and what others
        hold may outlive them by ``expiry``; none is let go of before the board could take it. Not of who is back: that is
        said by itself."""
        for entry in news:
            self._last_words.pop(entry.user, None)
            if entry.status is Status.OFFLINE:
                self._last_words[entry.user] = (entry, now + self.roster.expiry)
        while self._last_words:
            user, (_, until) = next(iter(self._last_words.items()))
            if len(self._last_words) <= LAST_WORDS and (self._unheard or until > now):
                break
            del self._last_words[user]

    async def _learn_privacy(self) -> None:
        """Of those who are new here, or said something elsewhere; and again with every renewal, for that may have been lost."""
        people = self.roster.people
        asked, self._asked = self._asked, {}
        names = [
            user for user in dict.fromkeys((*asked, *self._renewed, *self._changed))
            if user in people and (user in asked or user in self._renewed or people[user].shows is None)
        ]  # fmt: skip
        for batch in _batches(names):
            before = {user: people[user].shows for user in batch if user in people}
            try:
                found = await self._store.privacies(batch)
            except Unavailable:
                self._asked.update(asked)
                return
            for user, privacy in found.items():
                person = people.get(user)
                shows = (privacy.presence, privacy.last_seen)
                if person is not None and person.shows == before.get(user) != shows:  # else it was set meanwhile, or is so
                    person.shows = shows
                    self._changed[user] = None

    def _gather(self, now: float) -> list[Entry]:
        offset = self._wall_ms() - now * 1000
        people = self.roster.people
        news = []
        for user in list(self._changed):
            person = people.get(user)
            if person is not None:
                state = shown(person, offset)
                if _is_news(person.announced, state):
                    if now - person.announced_at < BETWEEN_CHANGES:
                        continue
                    if self._budget.take(now):
                        self._metrics.presence_coarsened += 1
                        break
                    person.announced, person.announced_at = state, now
                    news.append(Entry(user, *state))
                    self._on_state(user, state)
                self.roster.forget(user)
            del self._changed[user]
        return news

    # --- when they were last there --------------------------------------------------------------

    def store_seen(self, now: float, *, everybody: bool = False) -> bool:
        """Hand what is due to the store writer: of who has left soon, of the others now and then. One part at each call, for a
        commit holds up the whole node, 2 ms a part. Whether there is more."""
        if everybody or now >= self._sweep_at:
            self._sweep_at = now + self._store_seconds
            for user, person in self.roster.people.items():
                active = max((person.last_active, *(device.last_active for device in person.devices)))
                if active > person.stored:
                    self._unstored[user] = active
        elif now < self._store_at:
            return False
        offset = self._wall_ms() - now * 1000
        batch = list(islice(self._unstored.items(), BATCH))
        taken = bool(batch) and self._submit(
            NoteSeen(seen=tuple((user, int(active * 1000 + offset)) for user, active in batch)), self._stored
        )
        if taken:
            self._note_stored(batch)
        more = taken and bool(self._unstored)
        if batch:
            self._store_at = now if more else now + LEFT_STORED_SECONDS
        return more

    def _note_stored(self, batch: list[tuple[str, float]]) -> None:
        for user, active in batch:
            del self._unstored[user]
            person = self.roster.people.get(user)
            if person is not None:
                person.stored = active

    def _stored(self, _: Operation, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            for person in self.roster.people.values():  # the disk: who is still known is stored with the next sweep
                person.stored = 0.0


def _may_be_news(person: Person) -> bool:
    """Whether what others see may differ from what was told; what somebody lets them see is looked up apart from this."""
    same = person.status is person.announced.status and person.seen_of == person.last_active
    return not same or not person.devices or person.shows is None


def _is_news(said: PresenceState, state: PresenceState) -> bool:
    """Whether others would see a difference. While somebody is there, only whether ``seen`` may be known is one."""
    if state.status is Status.ONLINE:
        return said.status is not Status.ONLINE or bool(said.seen) != bool(state.seen)
    return said != state


def _batches(items: Iterable[T]) -> Iterable[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
