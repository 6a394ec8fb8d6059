"""One conversation's log as a value that events are applied to, in any order and any number of times. Pure.

Live events, replays, pages of history and single messages out of a search arrive as they please: an edit, a delete or
a reaction often comes before the message that it is about, which is paged in later. So each message is kept apart
from what was done to it, and what was done is kept per message as the state of the highest ``seq``. The same events
give the same messages however they came; ``tests/clients/test_client_log.py`` holds it to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace

from chatd_client.changes import DELETED, Deleted, Edited, Pinned, Posted, Reacted, change
from chatd_client.runs import Runs

if TYPE_CHECKING:
    from chatd_protocol.messages import Event

    from chatd_client.answers import MessageNow


@dataclass(frozen=True, slots=True)
class Reaction:
    """One emoji on a message, and who put it there, in the order in which they did."""

    emoji: str
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is now. ``edited``: the ``seq`` of the newest edit. ``deleted``: there is no body any more."""

    conv: str
    seq: int
    at: int
    sender: str
    type: str
    body: str | bytes
    reply_to: int | None
    mentions: tuple[str, ...]
    edited: int | None
    deleted: bool
    pinned: bool
    reactions: tuple[Reaction, ...]


class ConversationLog:
    """See the module's docstring. ``last``: the head of the log as far as is known, also where it is not here."""

    def __init__(self, conv: str) -> None:
        self.conv = conv
        self.last = 0
        self.events: dict[int, Event] = {}
        self._known = Runs()
        self._edits: dict[int, tuple[int, str | bytes]] = {}
        self._deleted: dict[int, int] = {}
        self._reactions: dict[int, dict[tuple[str, str], tuple[int, bool]]] = {}
        self._pins: dict[int, tuple[int, bool]] = {}
        self._replies: dict[int, set[int]] = {}

    def apply(self, event: Event) -> None:
        """Take in one event of this conversation."""
        match change(event):
            case Posted() as posted:
                event = self._posted(posted, event)
            case Edited(target=target) if target in self._deleted:
                event = _emptied(event)
            case Edited(target=target, body=body):
                if event.seq > self._edits.get(target, (0, ""))[0]:
                    self._edits[target] = event.seq, body
            case Deleted(target=target):
                self._delete(target, event.seq)
            case Reacted(target=target, emoji=emoji, removed=removed):
                given = self._reactions.setdefault(target, {})
                if event.seq > given.get((emoji, event.sender), (0, False))[0]:
                    given[emoji, event.sender] = event.seq, not removed
            case Pinned(target=target, removed=removed):
                if event.seq > self._pins.get(target, (0, False))[0]:
                    self._pins[target] = event.seq, not removed
        self.events[event.seq] = event
        self._known.add(event.seq)
        self.last = max(self.last, event.seq)

    def _posted(self, posted: Posted, event: Event) -> Event:
        if posted.type == DELETED:
            self._deleted.setdefault(event.seq, event.seq)
        if posted.reply_to is not None:
            self._replies.setdefault(posted.reply_to, set()).add(event.seq)
        return _emptied(event) if event.seq in self._deleted else event

    def apply_now(self, now: MessageNow) -> None:
        """Take in a message as a search, a thread or the pins show it, with its newest edit in it already."""
        event = now.event
        if now.edited is not None and event.seq not in self._deleted:
            if now.edited > self._edits.get(event.seq, (0, ""))[0] and isinstance(event.body, str | bytes):
                self._edits[event.seq] = now.edited, event.body
            known = self.events.get(event.seq)
            event = known or event
        self.apply(event)

    def message(self, seq: int) -> Message | None:
        """The message ``seq`` as it is now, as far as events are known; None where it is unknown or none."""
        event = self.events.get(seq)
        posted = change(event) if event is not None else None
        if not isinstance(posted, Posted):
            return None
        deleted = seq in self._deleted
        edit = None if deleted else self._edits.get(seq)
        return Message(
            posted.conv,
            seq,
            posted.at,
            posted.sender,
            DELETED if deleted else posted.type,
            edit[1] if edit else posted.body,
            posted.reply_to,
            () if deleted else posted.mentions,
            edit[0] if edit else None,
            deleted,
            not deleted and self._pins.get(seq, (0, False))[1],
            () if deleted else self._reactions_on(seq),
        )

    def end(self) -> range | None:
        """The events that are known without a gap up to the head; None while the head is not known."""
        return self._known.around(self.last)

    def around(self, seq: int) -> range | None:
        """The events that are known without a gap around ``seq``; None where it is not known itself."""
        return self._known.around(seq)

    def thread(self, root: int) -> list[int]:
        """The known messages of a thread, ascending: ``root``, and what replies to it or to one of these."""
        found, ahead = {root}, [root]
        while ahead:
            more = self._replies.get(ahead.pop(), set()) - found
            found |= more
            ahead += more
        return sorted(seq for seq in found if seq in self.events)

    def pins(self) -> list[int]:
        """What is pinned, ascending, as far as events are known."""
        return sorted(seq for seq, (_, on) in self._pins.items() if on and seq not in self._deleted)

    def is_deleted(self, seq: int) -> bool:
        """Whether a delete of ``seq`` is known, also where the message itself is not."""
        return seq in self._deleted

    def unread(self, me: str, after: int) -> list[int]:
        """The known messages above ``after`` that are neither one's own nor deleted, ascending."""
        return sorted(
            seq
            for seq, event in self.events.items()
            if seq > after and event.kind == "message" and event.sender != me and seq not in self._deleted
        )

    def drop_below(self, seq: int) -> None:
        """Forget what is below ``seq``; paging brings it again, and what was done to it by later events is kept."""
        for old in [known for known in self.events if known < seq]:
            del self.events[old]
        self._known.drop_below(seq)
        self._edits = {target: kept for target, kept in self._edits.items() if kept[0] >= seq}
        self._deleted = {target: by for target, by in self._deleted.items() if by >= seq}
        self._pins = {target: kept for target, kept in self._pins.items() if kept[0] >= seq}
        for given in self._reactions.values():
            for key in [key for key, (by, _) in given.items() if by < seq]:
                del given[key]
        self._reactions = {target: given for target, given in self._reactions.items() if given}
        for replies in self._replies.values():
            replies -= {reply for reply in replies if reply < seq}
        self._replies = {target: replies for target, replies in self._replies.items() if replies}

    def _delete(self, target: int, by: int) -> None:
        """What is withdrawn is not kept here either."""
        self._deleted[target] = max(by, self._deleted.get(target, 0))
        self._edits.pop(target, None)
        for seq, event in self.events.items():
            if seq == target or (event.kind == "edit" and event.target == target):
                self.events[seq] = _emptied(event)

    def _reactions_on(self, seq: int) -> tuple[Reaction, ...]:
        given = self._reactions.get(seq, {})
        users: dict[str, list[str]] = {}
        for (emoji, user), _ in sorted(
            ((key, by) for key, (by, on) in given.items() if on), key=lambda item: item[1]
        ):
            users.setdefault(emoji, []).append(user)
        return tuple(Reaction(emoji, tuple(names)) for emoji, names in users.items())


def _emptied(event: Event) -> Event:
    if event.kind == "message":
        return replace(event, type=DELETED, body="", mentions=UNSET)
    return replace(event, body="")
