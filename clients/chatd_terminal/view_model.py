"""What is on screen, as a pure value: conversations, their lines, and what is unread.

Everything arrives in any order (live events, replays, pages of history scrolled in, answers that raced with them),
so a conversation keeps its events by ``seq`` and folds them into lines when asked: the same events give the same
lines however they came. Knows no widget, no socket and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from chatd_client import ConnectionChanged, ConversationItem, Fact, Hole, Page, Queued, SendRefused, Stored
from chatd_protocol.messages import Event, Live, Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LineState = Literal["queued", "stored", "refused", "notice"]

KEEP_EVENTS = 3000
"""Of one conversation: some 60 screens, and 3 MB at 1 KB each. Older ones are fetched again when scrolled to."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the message pane. ``text`` is as received: whoever prints it makes it plain."""

    seq: int
    at: int
    sender: str
    text: str
    state: LineState
    marks: str = ""


@dataclass(slots=True)
class Conversation:
    """One conversation as far as it is known here. ``conv`` of a 1:1 that has no message yet is ``@name``."""

    conv: str
    kind: str = "group"
    title: str = ""
    members: tuple[str, ...] = ()
    last: int = 0
    at: int = 0
    read: int = 0
    listed_last: int = 0
    listed_unread: int = 0
    complete: bool = False
    left: bool = False
    version: int = 0
    events: dict[int, Event] = field(default_factory=dict)
    pending: dict[str, Line] = field(default_factory=dict)

    def oldest(self) -> int | None:
        """The lowest ``seq`` known without a gap up to the head, where scrolling back goes on; None: nothing known."""
        if self.last not in self.events:
            return None
        seq = self.last
        while seq - 1 in self.events:
            seq -= 1
        return seq

    def unread(self, me: str) -> int:
        """Messages after the read mark, not one's own, not deleted.

        Exact where all events after the mark are known; else the server's number for the part that it counted, moved
        on by what came after.
        """
        deleted = {event.target for event in self.events.values() if event.kind == "delete"}

        def counts(event: Event) -> bool:
            return event.kind == "message" and event.sender != me and event.seq not in deleted

        oldest = self.oldest()
        if (oldest is not None and oldest <= self.read + 1) or self.read >= self.listed_last:
            return sum(counts(event) for seq, event in self.events.items() if seq > self.read)
        newer = sum(counts(event) for seq, event in self.events.items() if seq > self.listed_last)
        return self.listed_unread + newer

    def lines(self) -> list[Line]:
        """The gap-free end of the log as lines, then what waits to be stored."""
        oldest = self.oldest()
        known = [self.events[seq] for seq in range(oldest, self.last + 1)] if oldest is not None else []
        return [*_fold(known), *self.pending.values()]

    def is_known(self) -> bool:
        """Whether there is anything to call it by: a 1:1 that begins with another's message is a mere id at first."""
        return bool(self.title or self.members)

    def name(self, me: str) -> str:
        """What to call it in the list."""
        if self.title:
            return self.title
        others = [member for member in self.members if member != me]
        return ", ".join(others) or self.conv.removeprefix("@")


class Model:
    """All that one user sees. Each method is one fact."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.conversations: dict[str, Conversation] = {}
        self.open: str | None = None
        self.connection = ConnectionChanged("connecting")

    def ordered(self) -> list[Conversation]:
        """Latest first."""
        shown = [chat for chat in self.conversations.values() if not chat.left or chat.conv == self.open]
        return sorted(shown, key=lambda chat: (-chat.at, chat.conv))

    def current(self) -> Conversation | None:
        """The open one."""
        return self.conversations.get(self.open) if self.open is not None else None

    def unread_elsewhere(self) -> int:
        """What is unread in the conversations that are not open."""
        return sum(chat.unread(self.me) for chat in self.ordered() if chat.conv != self.open)

    def waiting(self) -> int:
        """Own messages that are not stored yet."""
        return sum(line.state == "queued" for chat in self.conversations.values() for line in chat.pending.values())

    def apply(self, fact: Fact) -> None:
        """A fact of the client."""
        match fact:
            case Event():
                self._event(fact)
            case Stored():
                self._stored(fact)
            case SendRefused(item=item):
                self._refused(item, f"{fact.code}: {fact.message}")
            case Receipt(conv=conv, user=user, read=read) if user == self.me:
                self.read(conv, read)
            case ConnectionChanged():
                self.connection = fact
            case Hole(conv=conv, before=before):
                chat = self._chat(conv)
                chat.last = max(chat.last, before - 1)
                chat.version += 1
            case Live():
                self.connection = ConnectionChanged("live")

    def listed(self, items: Iterable[ConversationItem]) -> None:
        """A page of the list."""
        for item in items:
            chat = self._chat(item.conv)
            chat.kind, chat.title = item.kind or chat.kind, item.title or chat.title
            chat.members = item.members or chat.members
            if item.last >= chat.listed_last:
                chat.listed_last, chat.listed_unread = item.last, item.unread
            chat.last = max(chat.last, item.last)
            chat.read = max(chat.read, item.read)
            if item.event is not None:
                self._event(item.event)
            self._adopt(chat)
            chat.version += 1

    def paged(self, page: Page) -> None:
        """A page of history; one without ``more`` says that nothing older is there."""
        chat = self._chat(page.conv)
        chat.last = max(chat.last, page.last)
        for event in page.events:
            self._keep(chat, event)
        oldest = chat.oldest()
        chat.complete = chat.complete or not page.more or oldest == 1
        chat.version += 1

    def queued(self, item: Queued) -> None:
        """One's own message, typed and not stored."""
        if item.fields.get("t") == "send":
            chat = self._for(str(item.fields["to"]))
            chat.pending[item.key] = Line(0, item.at, self.me, _text(item.fields.get("body")), "queued")
            chat.at = max(chat.at, item.at)
            chat.version += 1

    def reconcile(self, waiting: Iterable[Queued], stored: int) -> None:
        """What still waits; other lines that seem to do so were stored while this screen could not follow.

        So were those up to the welcome's ``cseq``, ``stored``: they come as events, and would stand there twice.
        """
        keys = {item.key for item in waiting if not 0 < item.cseq <= stored}
        for chat in self.conversations.values():
            gone = [key for key, line in chat.pending.items() if line.state == "queued" and key not in keys]
            for key in gone:
                del chat.pending[key]
            chat.version += bool(gone)

    def read(self, conv: str, seq: int) -> None:
        """Move a read mark; it never moves back."""
        chat = self._chat(conv)
        if seq > chat.read:
            chat.read = seq
            chat.version += 1

    def dm(self, name: str) -> Conversation:
        """The 1:1 with ``name``: the known one, or a place for one that begins with its first message."""
        return self._for(f"@{name}")

    def group(self, conv: str, title: str) -> Conversation:
        """A group just made, which its first event may not have reached yet."""
        chat = self._chat(conv)
        chat.title = chat.title or title
        return chat

    def _for(self, to: str) -> Conversation:
        if to.startswith("@"):
            for chat in self.conversations.values():
                if chat.kind == "dm" and not chat.conv.startswith("@") and self._other(chat) == to[1:]:
                    return chat
        chat = self._chat(to)
        if to.startswith("@"):
            chat.kind, chat.members = "dm", (self.me, to[1:])
        return chat

    def _other(self, chat: Conversation) -> str | None:
        others = [member for member in chat.members if member != self.me]
        return others[0] if others else (self.me if chat.members else None)

    def _chat(self, conv: str) -> Conversation:
        return self.conversations.setdefault(conv, Conversation(conv))

    def _adopt(self, chat: Conversation) -> None:
        """A 1:1 has got its id: what was written to ``@name`` belongs to it."""
        other = self._other(chat)
        if chat.kind != "dm" or other is None or chat.conv.startswith("@"):
            return
        if (early := self.conversations.pop(f"@{other}", None)) is not None:
            chat.pending = {**early.pending, **chat.pending}
            chat.at = max(chat.at, early.at)
            if self.open == early.conv:
                self.open = chat.conv

    def _stored(self, fact: Stored) -> None:
        fields, ack = fact.item.fields, fact.ack
        if str(fields.get("to", "")).startswith("@") and ack.conv not in self.conversations:
            chat = self._chat(ack.conv)
            chat.kind, chat.members = "dm", (self.me, str(fields["to"])[1:])
        for chat in self.conversations.values():
            if chat.pending.pop(fact.item.key, None) is not None:
                chat.version += 1
        self._adopt(self._chat(ack.conv))
        self._event(_own_event(fields, fact, self.me))

    def _refused(self, item: Queued, why: str) -> None:
        if item.fields.get("t") != "send":
            return
        chat = self._for(str(item.fields["to"]))
        text = _text(item.fields.get("body"))
        chat.pending[item.key] = Line(0, item.at, self.me, text, "refused", f"not sent ({why})")
        chat.version += 1

    def _event(self, event: Event) -> None:
        chat = self._chat(event.conv)
        newest = event.seq >= chat.last
        chat.last = max(chat.last, event.seq)
        chat.at = max(chat.at, event.at)
        self._keep(chat, event)
        if newest:
            self._membership(chat, event)
        chat.version += 1

    def _membership(self, chat: Conversation, event: Event) -> None:
        match event.kind:
            case "created" | "renamed" if isinstance(event.title, str):
                chat.title = event.title
                chat.kind = "group"
                chat.members = tuple(event.members) if isinstance(event.members, list) else chat.members
            case "joined" if isinstance(event.user, str):
                chat.members = tuple(dict.fromkeys([*chat.members, event.user]))
                chat.left = chat.left and event.user != self.me
            case "left" if isinstance(event.user, str):
                chat.members = tuple(member for member in chat.members if member != event.user)
                chat.left = chat.left or event.user == self.me

    def _keep(self, chat: Conversation, event: Event) -> None:
        chat.events[event.seq] = event
        if len(chat.events) > KEEP_EVENTS and chat.conv != self.open:
            for seq in sorted(chat.events)[: KEEP_EVENTS // 3]:
                del chat.events[seq]
            chat.complete = False


def _own_event(fields: Mapping[str, Any], fact: Stored, me: str) -> Event:
    """The event that an ack stands for."""
    kind = {"send": "message", "edit": "edit", "delete": "delete", "react": "reaction"}[str(fields["t"])]
    keys: dict[str, Any] = {"conv": fact.ack.conv, "seq": fact.ack.seq, "at": fact.ack.at, "sender": me, "kind": kind}
    if kind != "message":
        keys["target"] = fields["seq"]
    for key in ("type", "body", "reply_to", "mentions", "emoji"):
        if key in fields:
            keys[key] = fields[key]
    if fields.get("remove"):
        keys["removed"] = True
    return Event(**keys)


def _fold(events: list[Event]) -> list[Line]:
    edits = {event.target: event for event in events if event.kind == "edit"}
    deleted = {event.target for event in events if event.kind == "delete"}
    reactions = _reactions(events)
    lines = []
    for event in events:
        if event.kind == "message":
            edit = edits.get(event.seq)
            text = "(deleted)" if event.seq in deleted else _text(edit.body if edit else event.body)
            marks = " ".join(part for part in ("(edited)" if edit else "", reactions.get(event.seq, "")) if part)
            lines.append(Line(event.seq, event.at, event.sender, text, "stored", marks))
        elif (notice := _notice(event)) is not None:
            lines.append(Line(event.seq, event.at, event.sender, notice, "notice"))
    return lines


def _reactions(events: list[Event]) -> dict[int, str]:
    given: dict[int, dict[tuple[str, str], None]] = {}
    for event in events:
        if event.kind == "reaction" and isinstance(event.target, int):
            on = given.setdefault(event.target, {})
            if event.removed is True:
                on.pop((event.sender, str(event.emoji)), None)
            else:
                on[event.sender, str(event.emoji)] = None
    return {target: " ".join(emoji for _, emoji in on) for target, on in given.items()}


def _notice(event: Event) -> str | None:
    user = event.user if isinstance(event.user, str) else ""
    match event.kind:
        case "created":
            return f"{event.sender} created {event.title if isinstance(event.title, str) else 'the conversation'}"
        case "joined":
            return f"{user} joined" if user == event.sender else f"{event.sender} added {user}"
        case "left":
            return f"{user} left" if user == event.sender else f"{event.sender} removed {user}"
        case "role":
            return f"{event.sender} made {user} {event.role}"
        case "renamed":
            return f"{event.sender} renamed this to {event.title}"
    return None


def _text(body: object) -> str:
    if isinstance(body, bytes):
        return f"({len(body)} bytes)"
    return body if isinstance(body, str) else ""
