"""One conversation as the screen knows it: the log, one's own marks and others', what waits, and what all that is as
lines. Knows no widget, no socket and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from chatd_client import ConversationLog, Message

from chatd_terminal.notices import notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd_client import ConversationItem, Queued
    from chatd_protocol.messages import Event, Receipt

LineState = Literal["received", "queued", "stored", "delivered", "read", "refused", "notice", "new"]

KEEP_EVENTS = 3000
"""Of one conversation: some 60 screens, and 3 MB at 1 KB each. Older ones are fetched again when scrolled to."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the message pane. Texts are as received: whoever prints them makes them plain.

    ``quote``: what it replies to. ``note``: why it was refused, or how many have it. ``seen``: who has read up to here.
    ``new``: the line between what was read before and what was not.
    """

    seq: int
    at: int
    sender: str
    text: str
    state: LineState
    key: str = ""
    quote: str = ""
    edited: bool = False
    pinned: bool = False
    mentioned: bool = False
    reactions: tuple[str, ...] = ()
    note: str = ""
    seen: tuple[str, ...] = ()


@dataclass(slots=True)
class Chat:
    """See the module's docstring. ``conv`` of a 1:1 that has no message yet is ``@name``.

    ``remembered``: known from an earlier run, and not yet from the server. ``marks``: how far each other member has it,
    ``(delivered, read)``. ``tally``: the same as counts for one message of one's own, in large groups. ``anchor``: the
    message around which the log is shown, None for its end. ``divider``: the read mark when it was opened.
    """

    conv: str
    me: str
    kind: str = "group"
    title: str = ""
    members: tuple[str, ...] = ()
    at: int = 0
    read: int = 0
    listed_last: int = 0
    listed_unread: int = 0
    listed_mentions: int = 0
    doubtful: bool = False
    muted: int = 0
    complete: bool = False
    left: bool = False
    remembered: bool = False
    anchor: int | None = None
    divider: int = 0
    version: int = 0
    log: ConversationLog = field(init=False)
    waiting: dict[str, Queued] = field(default_factory=dict)
    refused: dict[str, tuple[Queued, str]] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    tally: tuple[int, int, int] | None = None
    _counted: tuple[int, int, int] = (-1, 0, 0)

    def __post_init__(self) -> None:
        self.log = ConversationLog(self.conv)

    @property
    def last(self) -> int:
        """The head of the log as far as it is known."""
        return self.log.last

    def keep(self, event: Event) -> None:
        """Take in an event."""
        self.remembered = False
        if event.kind == "delete" and isinstance(event.target, int):
            self._uncount(event.target)
        self.log.apply(event)
        self.version += 1

    def trim(self) -> None:
        """Forget the oldest third where too much is known; not while it is on screen."""
        if len(self.log.events) > KEEP_EVENTS:
            self.log.drop_below(sorted(self.log.events)[KEEP_EVENTS // 3])
            self.complete, self.anchor = False, None
            self.version += 1

    def _uncount(self, target: int) -> None:
        """A message is deleted that the server's number may have counted. One that is not known here, nobody but the
        server can tell of.
        """
        if self.log.is_deleted(target) or not self.read < target <= self.listed_last:
            return
        event = self.log.events.get(target)
        if event is None:
            self.doubtful = True
        elif event.kind == "message" and event.sender != self.me:
            self.listed_unread -= 1
            self.listed_mentions -= self._mentions_me(target)

    def listed(self, item: ConversationItem) -> None:
        """What the server's list says of it."""
        self.kind, self.title = item.kind or self.kind, item.title or self.title
        self.remembered = False
        self.members = item.members or self.members
        self.muted = item.muted
        if item.last >= self.listed_last:
            self.listed_last, self.listed_unread, self.listed_mentions = item.last, item.unread, item.mentions
            self.doubtful = False
        self.log.last = max(self.log.last, item.last)
        self.read = max(self.read, item.read)
        self.version += 1

    def shown(self) -> range | None:
        """The events on screen: without a gap up to the head, or around the anchor."""
        return self.log.end() if self.anchor is None else self.log.around(self.anchor)

    def oldest(self) -> int | None:
        """The lowest ``seq`` on screen, where scrolling back goes on; None: nothing is known."""
        shown = self.shown()
        return shown[0] if shown else None

    def unread(self) -> int:
        """Messages after the read mark, not one's own, not deleted."""
        return self._counts()[0]

    def mentions(self) -> int:
        """How many of the unread name oneself."""
        return self._counts()[1]

    def _counts(self) -> tuple[int, int]:
        """Exact where all events after the mark are known; else the server's numbers for the part that it counted, moved
        on by what came after.
        """
        if self._counted[0] != self.version:
            end = self.log.end()
            whole = (end is not None and end[0] <= self.read + 1) or self.read >= self.listed_last
            known = self.log.unread(self.me, self.read if whole else self.listed_last)
            mentions = sum(self._mentions_me(seq) for seq in known)
            counted = (0, 0) if whole else (self.listed_unread, self.listed_mentions)
            self._counted = self.version, counted[0] + len(known), counted[1] + mentions
        return self._counted[1:]

    def _mentions_me(self, seq: int) -> bool:
        mentions = self.log.events[seq].mentions
        return isinstance(mentions, list) and self.me in mentions

    def receipt(self, receipt: Receipt) -> None:
        """Somebody has more of it; marks never move back."""
        if isinstance(receipt.seq, int):
            self.tally = receipt.seq, receipt.delivered, receipt.read
        elif receipt.user == self.me:
            self.move_read(receipt.read)
        else:
            self.mark(receipt.user, receipt.delivered, receipt.read)
        self.version += 1

    def mark(self, user: str, delivered: int, read: int) -> None:
        """How far another member has it."""
        before = self.marks.get(user, (0, 0))
        self.marks[user] = max(delivered, read, before[0]), max(read, before[1])
        self.version += 1

    def move_read(self, seq: int) -> None:
        """Move one's own read mark; it never moves back."""
        if seq > self.read:
            self.read = seq
            end = self.log.end()
            # The server's number was of what came after the old mark.
            self.doubtful = seq < self.listed_last and (end is None or end[0] > seq + 1)
            self.version += 1

    def is_known(self) -> bool:
        """Whether there is anything to call it by: a 1:1 that begins with another's message is a mere id at first."""
        return bool(self.title or self.members)

    def others(self) -> list[str]:
        """The other members."""
        return [member for member in self.members if member != self.me]

    def name(self) -> str:
        """What to call it in the list."""
        alone = f"{self.me} (you)" if self.kind == "dm" and self.members else ""
        return self.title or ", ".join(self.others()) or alone or self.conv.removeprefix("@")

    # --- lines ------------------------------------------------------------------------------------

    def lines(self, thread: int | None = None, newest: int | None = None) -> list[Line]:
        """What is on screen: the log, or one thread of it, then what waits to be stored or was refused.

        ``newest``: only so many events at the end, which is all that a screen shows that is not scrolled.
        """
        shown = self.log.thread(thread) if thread is not None else (self.shown() or range(0))
        shown = shown[-newest:] if newest is not None else shown
        overlay = self._overlay()
        seen = self._seen(shown)
        lines: list[Line] = []
        for seq in shown:
            message = self.log.message(seq)
            if message is not None:
                line = self._line(message, overlay.get(seq, []), seen.get(seq, ()))
            elif (text := notice(self.log.events[seq])) is not None:
                event = self.log.events[seq]
                line = Line(seq, event.at, event.sender, text, "notice")
            else:
                continue
            if self._begins_new(lines, seq, thread):
                lines.append(Line(seq, 0, "", "new", "new", key="new"))
            lines.append(line)
        if self.anchor is None:
            lines += self._unsent(thread)
        return lines

    def _begins_new(self, lines: list[Line], seq: int, thread: int | None) -> bool:
        return thread is None and 0 < self.divider < seq and bool(lines) and lines[-1].seq <= self.divider

    def _line(self, message: Message, changes: list[dict[str, Any]], seen: tuple[str, ...]) -> Line:
        text, state = message_text(message), self._state(message)
        reactions = [
            f"{one.emoji} {len(one.users)}" if len(one.users) > 1 else one.emoji for one in message.reactions
        ]
        for fields in changes:
            if message.sender == self.me and fields["t"] != "react":
                state, seen = "queued", ()  # the marks are about what the others have
            if fields["t"] == "edit":
                text = body_text(fields["body"])
            elif fields["t"] == "react":
                reactions.append(f"{'-' if fields.get('remove') else '+'}{fields['emoji']}…")
        if message.deleted or any(fields["t"] == "delete" for fields in changes):
            text = "(deleted)"
        note = ""
        if self.tally is not None and self.tally[0] == message.seq and message.sender == self.me:
            note = f"{self.tally[1]} have it, {self.tally[2]} read it"
        return Line(
            message.seq,
            message.at,
            message.sender,
            text,
            state,
            quote=self.quote(message.reply_to),
            edited=message.edited is not None,
            pinned=message.pinned,
            mentioned=self.me in message.mentions,
            reactions=tuple(reactions),
            note=note,
            seen=seen,
        )

    def _state(self, message: Message) -> LineState:
        if message.sender != self.me:
            return "received"
        others = self.others()
        marks = [self.marks[user] for user in others if user in self.marks]
        if not others or len(marks) < len(others):
            return "stored"
        if all(read >= message.seq for _, read in marks):
            return "read"
        return "delivered" if all(delivered >= message.seq for delivered, _ in marks) else "stored"

    def _seen(self, shown: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """For each other member the newest message of one's own that they have read."""
        own = [seq for seq in shown if (event := self.log.events[seq]).kind == "message" and event.sender == self.me]
        seen: dict[int, tuple[str, ...]] = {}
        for user, (_, read) in sorted(self.marks.items()):
            newest = max((seq for seq in own if seq <= read), default=None)
            if newest is not None and user in self.members:
                seen[newest] = (*seen.get(newest, ()), user)
        return seen

    def quote(self, seq: int | None) -> str:
        """What a reply shows of the message that it is about."""
        if seq is None:
            return ""
        message = self.log.message(seq)
        if message is None:
            return "(an earlier message)"
        return f"{message.sender}: {'(deleted)' if message.deleted else message_text(message)}"

    def quoted_unknown(self) -> list[int]:
        """What is quoted on screen and not known, to be fetched."""
        events = (self.log.events[seq] for seq in self.shown() or ())
        targets = {event.reply_to for event in events if isinstance(event.reply_to, int)}
        return sorted(target for target in targets if target not in self.log.events)

    def _overlay(self) -> dict[int, list[dict[str, Any]]]:
        overlay: dict[int, list[dict[str, Any]]] = {}
        for item in self.waiting.values():
            if item.fields["t"] != "send":
                overlay.setdefault(int(item.fields["seq"]), []).append(dict(item.fields))
        return overlay

    def _unsent(self, thread: int | None) -> list[Line]:
        lines = [self._unsent_line(item, "refused", f"not sent ({why})") for item, why in self.refused.values()]
        lines += [self._unsent_line(item, "queued", "") for item in self.waiting.values() if _in_thread(item, thread)]
        return sorted(lines, key=lambda line: line.at)

    def _unsent_line(self, item: Queued, state: LineState, note: str) -> Line:
        fields = item.fields
        quote = self.quote(fields.get("reply_to"))
        return Line(0, item.at, self.me, body_text(fields["body"]), state, key=item.key, quote=quote, note=note)


def _in_thread(item: Queued, thread: int | None) -> bool:
    return item.fields["t"] == "send" and (thread is None or item.fields.get("reply_to") == thread)


def message_text(message: Message) -> str:
    """A message as text; what is no text says what it is."""
    text = body_text(message.body)
    return text if message.type in {"text", "deleted"} else f"({message.type}) {text}"


def body_text(body: object) -> str:
    """A body as a line of text."""
    if isinstance(body, bytes):
        return f"({len(body)} bytes)"
    return body if isinstance(body, str) else ""
