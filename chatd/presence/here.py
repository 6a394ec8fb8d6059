"""The users of this node: what they are, what they let others see, and what the board and the store are told of it.

A part of the actor ``actor.Presence``, which calls it from one task; nothing else owns its state. Waits for the store's reads
and the board. Bounded by the node's sessions, and by those that ended within the expiry.
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
from chatd.presence.roster import Roster, shown
from chatd.presence.status import State, Status
from chatd.store.port import Store, Unavailable

BETWEEN_CHANGES = 1.0
"""Seconds between two changes told of one user: who comes and goes meanwhile is told of once."""
LEFT_STORED_SECONDS = 5.0
BATCH = 500

T = TypeVar("T")
Submit = Callable[[Operation, Callable[[Operation, Outcome], None]], bool]


class Here:
    """``on_state`` is called with (user, what others may see) at each change. ``rate``: changes told to the board a second.
    ``store_seconds``: how often it is stored when somebody was last there. ``wall_ms``: the wall clock."""

    def __init__(
        self, roster: Roster, store: Store, submit: Submit, metrics: Metrics, on_state: Callable[[str, State], None], *,
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
        self._tell_all = False
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

    def board_lost(self, now: float) -> None:
        """Say everything again, to those too who listen: they may have missed it."""
        self.roster.renew_all(now)
        self._tell_all = True

    def said(self, user: str) -> State | None:
        """What was last told of somebody who is here."""
        person = self.roster.people.get(user)
        return None if person is None else person.told

    async def turn(self, board: Board) -> None:
        """One round of what is due. Raises BoardDown."""
        now = trio.current_time()
        for user, person, renew in self.roster.due(now):
            self._changed[user] = None
            if renew:
                self._renewed[user] = None
            if not person.devices and person.last_active > person.stored:
                self._unstored[user] = person.last_active
        await self._learn_privacy()
        renewals, news = self._gather(trio.current_time())
        self.store_seen(trio.current_time())
        self._keep_last_words(news, trio.current_time())
        if not board.up:
            return  # ``board_lost`` renews everything when it is back
        tell_all, self._tell_all = self._tell_all, False
        words = {entry.user: entry for entry in news}
        if tell_all:
            words = {user: entry for user, (entry, _) in self._last_words.items()} | words
        try:
            await board.put(renewals, tell=tell_all)
            await board.put(list(words.values()), tell=True)
        except BoardDown:
            self._tell_all = True
            self._renewed.update(dict.fromkeys(entry.user for entry in (*renewals, *news)))
            raise

    def _keep_last_words(self, news: list[Entry], now: float) -> None:
        """Of who has gone or hides: when the board was lost they are said again, for no renewal does it, and what others
        hold may outlive them by ``expiry``. Not of who is back: that is said by itself."""
        for entry in news:
            self._last_words.pop(entry.user, None)
            if entry.status is Status.OFFLINE:
                self._last_words[entry.user] = (entry, now + self.roster.expiry)
        while self._last_words:
            user, (_, until) = next(iter(self._last_words.items()))
            if until > now:
                break
            del self._last_words[user]

    async def _learn_privacy(self) -> None:
        """Of those who are new here; and again with every renewal, for the word of another node may have been lost."""
        people = self.roster.people
        names = [
            user for user in dict.fromkeys((*self._renewed, *self._changed))
            if user in people and (user in self._renewed or people[user].shows is None)
        ]  # fmt: skip
        for batch in _batches(names):
            before = {user: people[user].shows for user in batch if user in people}
            try:
                found = await self._store.privacies(batch)
            except Unavailable:
                return
            for user, privacy in found.items():
                person = people.get(user)
                if person is not None and person.shows == before.get(user):  # else it was set while the store was read
                    person.shows = (privacy.presence, privacy.last_seen)

    def _gather(self, now: float) -> tuple[list[Entry], list[Entry]]:
        offset = self._wall_ms() - now * 1000
        people = self.roster.people
        renewed, self._renewed = self._renewed, {}
        news = []
        for user in list(self._changed):
            person = people.get(user)
            if person is not None:
                state = shown(person, offset)
                if _is_news(person.told, state):
                    if now - person.told_at < BETWEEN_CHANGES:
                        continue
                    if self._budget.take(now):
                        self._metrics.presence_coarsened += 1
                        break
                    person.told, person.told_at = state, now
                    news.append(Entry(user, *state))
                    self._on_state(user, state)
                self.roster.forget(user)
            del self._changed[user]
        states = [(user, shown(people[user], offset)) for user in renewed if user in people]
        return [Entry(user, *state) for user, state in states if state.status is not Status.OFFLINE], news

    # --- when they were last there --------------------------------------------------------------

    def store_seen(self, now: float, *, everybody: bool = False) -> None:
        """Hand what is due to the store writer: of who has left soon, of the others now and then."""
        if everybody or now >= self._sweep_at:
            self._sweep_at = now + self._store_seconds
            for user, person in self.roster.people.items():
                active = max((person.last_active, *(device.last_active for device in person.devices)))
                if active > person.stored:
                    self._unstored[user] = active
        elif not self._unstored or now < self._store_at:
            return
        self._store_at = now + LEFT_STORED_SECONDS
        offset = self._wall_ms() - now * 1000
        unstored, self._unstored = self._unstored, {}
        for batch in _batches(list(unstored.items())):
            note = NoteSeen(seen=tuple((user, int(active * 1000 + offset)) for user, active in batch))
            if self._submit(note, self._stored):
                self._note_stored(batch)
            else:
                self._unstored.update(batch)

    def _note_stored(self, batch: list[tuple[str, float]]) -> None:
        for user, active in batch:
            person = self.roster.people.get(user)
            if person is not None:
                person.stored = active

    def _stored(self, _: Operation, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            for person in self.roster.people.values():  # the disk: who is still known is stored with the next sweep
                person.stored = 0.0


def _is_news(said: State, state: State) -> bool:
    """Whether others would see a difference. While somebody is there, only whether ``seen`` may be known is one."""
    if state.status is Status.ONLINE:
        return said.status is not Status.ONLINE or bool(said.seen) != bool(state.seen)
    return said != state


def _batches(items: Iterable[T]) -> Iterable[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
