"""What is on screen, as a pure value: conversations, their lines, what is unread, who is there and who types.

Everything arrives in any order (live events, replays, pages of history scrolled in, answers that raced with them);
each conversation's log sorts it out (``chatd_client.log``). Knows no widget, no socket and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd_client import ConnectionChanged, Fact, Hole, SendRefused, Stored, change
from chatd_client.changes import Began, Departed, Joined, Posted, Renamed
from chatd_protocol.messages import MAX_WATCHED, Event, Live, Presence, Receipt, TypingNotice

from chatd_terminal.chat import Chat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chatd_client import ConversationItem, Member, MessageNow, Page, Queued


class Model:
    """All that one user sees. Each method is one fact. ``thread``: the root of the thread that is open, if any.
    ``silent_s``: for so long the server has owed an answer.
    """

    def __init__(self, me: str) -> None:
        self.me = me
        self.conversations: dict[str, Chat] = {}
        self.open: str | None = None
        self.thread: int | None = None
        self.connection = ConnectionChanged("connecting")
        self.silent_s = 0.0
        self.presence: dict[str, Presence] = {}
        self.typing: dict[str, dict[str, None]] = {}

    # --- what is asked ----------------------------------------------------------------------------

    def ordered(self) -> list[Chat]:
        """Latest first."""
        shown = [chat for chat in self.conversations.values() if not chat.left or chat.conv == self.open]
        return sorted(shown, key=lambda chat: (-chat.at, chat.conv))

    def current(self) -> Chat | None:
        """The open one."""
        return self.conversations.get(self.open) if self.open is not None else None

    def unread_elsewhere(self) -> int:
        """What is unread in the conversations that are not open and not muted."""
        return sum(chat.unread() for chat in self.ordered() if chat.conv != self.open and not chat.muted)

    def waiting(self) -> int:
        """What of one's own is not stored yet."""
        return sum(len(chat.waiting) for chat in self.conversations.values())

    def watched(self) -> list[str]:
        """Whose presence is worth knowing: the members of the open conversation, then the 1:1s, latest first."""
        names: dict[str, None] = {}
        current = self.current()
        for chat in [*([current] if current else []), *(chat for chat in self.ordered() if chat.kind == "dm")]:
            names.update(dict.fromkeys(chat.others()[:MAX_WATCHED]))
        return list(names)[:MAX_WATCHED]

    def status(self, user: str) -> str:
        """``online``, ``away``, ``offline``, or nothing where it is not known."""
        known = self.presence.get(user)
        return known.status if known is not None else ""

    def typists(self, conv: str | None) -> list[str]:
        """Who types there."""
        return list(self.typing.get(conv, ())) if conv is not None else []

    def names(self) -> list[str]:
        """Every name that is known here, for completion."""
        names: dict[str, None] = {}
        for chat in self.ordered():
            names.update(dict.fromkeys(chat.others()))
        return list(names)

    # --- facts ------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        """A fact of the client."""
        match fact:
            case Event():
                self._event(fact)
            case Stored():
                self._stored(fact)
            case SendRefused(item=item):
                self._refused(item, f"{fact.code}: {fact.message}")
            case Receipt(conv=conv):
                self._chat(conv).receipt(fact)
            case Presence(user=user):
                self.presence[user] = fact
            case TypingNotice():
                self._typing(fact)
            case ConnectionChanged():
                self._connected(fact)
            case Hole(conv=conv, before=before):
                chat = self._chat(conv)
                chat.log.last = max(chat.log.last, before - 1)
                chat.version += 1
            case Live():
                self._connected(ConnectionChanged("live"))

    def remember(self, names: Iterable[tuple[str, str, str, str]]) -> None:
        """What conversations were called in an earlier run, latest first."""
        for place, (conv, kind, title, user) in enumerate(names):
            chat = self._chat(conv)
            chat.kind, chat.title, chat.remembered = kind, title, True
            chat.members = tuple(dict.fromkeys((self.me, user))) if kind == "dm" else ()
            chat.at = -place

    def forget_unlisted(self) -> None:
        """The list is complete: what is only remembered is not there any more."""
        for chat in list(self.conversations.values()):
            if chat.remembered and not (chat.waiting or chat.refused or chat.conv == self.open):
                del self.conversations[chat.conv]

    def listed(self, items: Iterable[ConversationItem]) -> None:
        """A page of the list."""
        for item in items:
            chat = self._chat(item.conv)
            chat.listed(item)
            if item.event is not None:
                self._event(item.event)
            self._adopt(chat)

    def paged(self, page: Page, *, back: bool = True) -> None:
        """A page of history; one backwards without ``more`` says that nothing older is there."""
        chat = self._chat(page.conv)
        chat.log.last = max(chat.log.last, page.last)
        for event in page.events:
            chat.keep(event)
        end = chat.log.end()
        whole = back and not page.more and chat.anchor is None
        chat.complete = chat.complete or whole or (end is not None and end[0] == 1)
        if chat.anchor is not None and end is not None and chat.anchor in end:
            chat.anchor = None
        chat.version += 1

    def found(self, messages: Iterable[MessageNow]) -> None:
        """Messages as they are now: of a search, a thread, the pins."""
        for now in messages:
            chat = self._chat(now.event.conv)
            chat.log.apply_now(now)
            chat.version += 1

    def joined_by(self, conv: str, members: Iterable[Member]) -> None:
        """Who is in a conversation, and how far each has it."""
        chat = self._chat(conv)
        known = list(members)
        chat.members = tuple(member.user for member in known)
        for member in known:
            if member.user != self.me and member.delivered is not None and member.read is not None:
                chat.mark(member.user, member.delivered, member.read)
        chat.version += 1

    def queued(self, item: Queued) -> None:
        """Something of one's own that is not stored."""
        to = item.fields["to"] if item.fields["t"] == "send" else item.fields["conv"]
        chat = self._for(str(to))
        chat.waiting[item.key] = item
        chat.at = max(chat.at, item.at if item.fields["t"] == "send" else 0)
        chat.version += 1

    def forget(self, item: Queued) -> None:
        """It was taken back before it was sent, or is given up after it was refused."""
        self._settled(item)
        for chat in self.conversations.values():
            if chat.refused.pop(item.key, None) is not None:
                chat.version += 1

    def reconcile(self, waiting: Iterable[Queued], stored: int) -> None:
        """What still waits; what else seems to do so was stored while this screen could not follow.

        So were those up to the welcome's ``cseq``, ``stored``: they come as events, and would stand there twice.
        """
        keys = {item.key for item in waiting if not 0 < item.cseq <= stored}
        for chat in self.conversations.values():
            gone = chat.waiting.keys() - keys
            for key in gone:
                del chat.waiting[key]
            chat.version += bool(gone)

    def read(self, conv: str, seq: int) -> None:
        """Move a read mark; it never moves back."""
        self._chat(conv).move_read(seq)

    def show(self, conv: str) -> None:
        """Open a conversation, at its end."""
        before, chat = self.current(), self._chat(conv)
        if before is not None and before is not chat:
            before.anchor = None
            before.trim()
        self.thread = None
        if self.open != conv:
            chat.divider = chat.read if chat.unread() else 0
            self.open = conv
        chat.version += 1

    def dm(self, name: str) -> Chat:
        """The 1:1 with ``name``: the known one, or a place for one that begins with its first message."""
        return self._for(f"@{name}")

    def group(self, conv: str, title: str) -> Chat:
        """A group just made, which its first event may not have reached yet."""
        chat = self._chat(conv)
        chat.title = chat.title or title
        return chat

    # --- inside -----------------------------------------------------------------------------------

    def _for(self, to: str) -> Chat:
        if to.startswith("@"):
            for chat in self.conversations.values():
                if chat.kind == "dm" and not chat.conv.startswith("@") and self._other(chat) == to[1:]:
                    return chat
        chat = self._chat(to)
        if to.startswith("@"):
            chat.kind, chat.members = "dm", (self.me, to[1:])
        return chat

    def _other(self, chat: Chat) -> str | None:
        others = chat.others()
        return others[0] if others else (self.me if chat.members else None)

    def _chat(self, conv: str) -> Chat:
        if conv not in self.conversations:
            self.conversations[conv] = Chat(conv, self.me)
        return self.conversations[conv]

    def _adopt(self, chat: Chat) -> None:
        """A 1:1 has got its id: what was written to ``@name`` belongs to it."""
        other = self._other(chat)
        if chat.kind != "dm" or other is None or chat.conv.startswith("@"):
            return
        if (early := self.conversations.pop(f"@{other}", None)) is not None:
            chat.waiting = {**early.waiting, **chat.waiting}
            chat.refused = {**early.refused, **chat.refused}
            chat.at = max(chat.at, early.at)
            if self.open == early.conv:
                self.open = chat.conv

    def _stored(self, fact: Stored) -> None:
        fields, ack = fact.item.fields, fact.ack
        if str(fields.get("to", "")).startswith("@") and ack.conv not in self.conversations:
            chat = self._chat(ack.conv)
            chat.kind, chat.members = "dm", (self.me, str(fields["to"])[1:])
        self._settled(fact.item)
        self._adopt(self._chat(ack.conv))
        self._event(fact.event(self.me))

    def _settled(self, item: Queued) -> None:
        for chat in self.conversations.values():
            if chat.waiting.pop(item.key, None) is not None:
                chat.version += 1

    def _refused(self, item: Queued, why: str) -> None:
        self._settled(item)
        if item.fields["t"] == "send":
            chat = self._for(str(item.fields["to"]))
            chat.refused[item.key] = item, why
            chat.version += 1

    def _event(self, event: Event) -> None:
        chat = self._chat(event.conv)
        newest = event.seq >= chat.last
        chat.at = max(chat.at, event.at)
        chat.keep(event)
        if chat.conv != self.open:
            chat.trim()
        if newest:
            self._membership(chat, event)

    def _membership(self, chat: Chat, event: Event) -> None:
        match change(event):
            case Posted(sender=sender):
                self.typing.get(chat.conv, {}).pop(sender, None)
            case Began(title=title, members=members):
                chat.title, chat.kind = title or chat.title, "group"
                chat.members = members or chat.members
            case Renamed(title=title):
                chat.title, chat.kind = title, "group"
            case Joined(user=user):
                chat.members = tuple(dict.fromkeys([*chat.members, user]))
                chat.left = chat.left and user != self.me
            case Departed(user=user):
                chat.members = tuple(member for member in chat.members if member != user)
                chat.marks.pop(user, None)
                chat.left = chat.left or user == self.me

    def _typing(self, notice: TypingNotice) -> None:
        typists = self.typing.setdefault(notice.conv, {})
        if notice.on and notice.user != self.me:
            typists[notice.user] = None
        else:
            typists.pop(notice.user, None)

    def _connected(self, state: ConnectionChanged) -> None:
        """Who was there and who typed is not known any more once the connection is gone."""
        self.connection = state
        if state.state not in {"live", "replaying"}:
            self.presence.clear()
            self.typing.clear()
