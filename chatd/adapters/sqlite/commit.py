"""One transaction: operations in, outcomes out. Runs inline on the Trio thread, between BEGIN and COMMIT.

Each operation is judged whole before it changes anything, so a refused one needs no undoing. Event rows, heads and
cseqs are gathered and written by ``flush``, one statement each for the whole batch.
"""

from __future__ import annotations

import secrets
from typing import Any, cast

import apsw
import cbor2
from chatd_protocol.codes import ErrorCode

from chatd.adapters.sqlite.access import APPLY as APPLY_ACCESS
from chatd.adapters.sqlite.access import Access
from chatd.adapters.sqlite.cache import CommitCache, Conversation, Device
from chatd.adapters.sqlite.changes import Changes
from chatd.adapters.sqlite.signals import APPLY as APPLY_QUIET
from chatd.adapters.sqlite.signals import Quiet
from chatd.conversations import rules
from chatd.conversations.operations import (
    AddMembers,
    Appended,
    Author,
    CreateGroup,
    Delete,
    Done,
    Edit,
    Event,
    Mute,
    Operation,
    Outcome,
    Pin,
    React,
    Refused,
    RemoveMembers,
    Rename,
    Repeated,
    Role,
    Send,
    Sequenced,
    SetBlock,
    SetRole,
)

ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ID_CHARACTERS = 16
"""80 bits: never guessed, and never met twice."""


class Commit:
    """One batch. ``apply`` each operation, then ``flush``; the owner begins and commits.

    ``redacted`` afterwards: whether it has taken something out of the store that must not be found in its file either.
    """

    def __init__(
        self, connection: apsw.Connection, cache: CommitCache, now: int, *, max_members: int, max_devices: int,
        new_device_events: int, window_ms: int,
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._now = now
        self._max_members = max_members
        self._window_ms = window_ms
        self.redacted = False
        self._rows: list[tuple[object, ...]] = []
        self._replies: list[tuple[int, int, int, int]] = []
        self._roots: dict[tuple[int, int], int] = {}
        self._mentions: list[tuple[int, int, int]] = []
        self._sends: dict[tuple[int, int], tuple[bytes, Event]] = {}
        self._moved: dict[int, Conversation] = {}
        self._devices: dict[int, Device] = {}
        self._quiet = Quiet(connection, cache)
        self._access = Access(
            connection, cache, now, self._devices, self._moved, max_devices=max_devices, new_device_events=new_device_events
        )

    def apply(self, operation: Operation) -> Outcome:
        """Carry out one operation, or refuse it and change nothing."""
        kind = type(operation)
        if kind is Send:
            return self._send(cast("Send", operation))
        author: Author | None = getattr(operation, "author", None)
        if author is not None and author.epoch < self._cache.device(author.device_no).ended:
            return rules.SIGNED_OUT
        if (act := APPLY_ACCESS.get(kind)) is not None:
            return cast("Outcome", act(self._access, operation))
        if (act := APPLY_QUIET.get(kind)) is not None:
            return cast("Outcome", act(self._quiet, operation))
        return cast("Outcome", _APPLY[kind](self, operation))

    def flush(self) -> None:
        """Write what was gathered."""
        self._write_events()
        if self._moved:
            self._connection.executemany(
                "UPDATE conversations SET head = ?, newest = ?, title = ? WHERE no = ?",
                [(c.head, c.newest, c.title, c.no) for c in self._moved.values()],
            )
        if self._devices:
            self._connection.executemany(
                "UPDATE devices SET cseq = ?, epoch = ? WHERE no = ?",
                [(device.cseq, device.epoch, device.no) for device in self._devices.values()],
            )

    def _write_events(self) -> None:
        if self._rows:
            self._connection.executemany(
                "INSERT INTO events (conv, seq, at, sender, device, cseq, kind, digest, payload)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                cast("Any", self._rows),
            )
            self._rows.clear()
        if self._replies:
            self._connection.executemany(
                "INSERT INTO replies (conv, seq, parent, root) VALUES (?, ?, ?, ?)", self._replies
            )
            self._replies.clear()
        if self._mentions:
            self._connection.executemany("INSERT INTO mentions (user, conv, seq) VALUES (?, ?, ?)", self._mentions)
            self._mentions.clear()

    # --- events ---------------------------------------------------------------------------------

    def _append(
        self, conversation: Conversation, author: Author, kind: str, payload: bytes, *, cseq: int = 0, digest: bytes = b""
    ) -> Event:
        conversation.head += 1
        conversation.newest = max(conversation.newest, self._now)
        device = author.device_no if cseq else 0
        event = Event(
            conversation.id, conversation.head, conversation.newest, author.user, kind, payload, device, cseq
        )
        self._rows.append(
            (conversation.no, event.seq, event.at, author.user_no, device, cseq, kind, digest, payload)
        )
        self._moved[conversation.no] = conversation
        return event

    def _send(self, send: Send) -> Outcome:
        author = send.author
        device = self._cache.device(author.device_no)
        if send.cseq != device.cseq + 1 or author.epoch != device.epoch:
            return self._out_of_turn(send, device)
        found = self._addressed(send)
        if isinstance(found, Refused):
            return found
        if send.reply_to > found.head:
            return rules.NO_SUCH_EVENT
        event = self._append(found, author, "message", send.payload, cseq=send.cseq, digest=send.digest)
        if send.reply_to:
            self._file_reply(found.no, event.seq, send.reply_to)
        if send.mentions:
            self._file_mentions(found, event.seq, send)
        self._sends[author.device_no, send.cseq] = (send.digest, event)
        device.cseq = send.cseq
        self._devices[device.no] = device
        return Appended(found.id, (event,), found.dm)

    def _change(self, change: Edit | Delete | React) -> Outcome:
        """Numbered as a send is, and an event as that is."""
        author = change.author
        device = self._cache.device(author.device_no)
        if change.cseq != device.cseq + 1 or author.epoch != device.epoch:
            return self._out_of_turn(change, device)
        changes = self._changes()
        match change:
            case Edit():
                made = changes.edit(change)
            case Delete():
                made = changes.delete(change)
            case React():
                made = changes.react(change)
        if isinstance(made, Refused):
            return made
        conversation, event = made
        if isinstance(change, Delete):
            self.redacted = True
            self._sends.clear()  # some of their digests are gone from the rows, which are all written now
        self._sends[author.device_no, change.cseq] = (change.digest, event)
        device.cseq = change.cseq
        self._devices[device.no] = device
        return Appended(conversation.id, (event,), conversation.dm)

    def _changes(self) -> Changes:
        self._write_events()
        return Changes(self._connection, self._cache, self._append, self._now, window_ms=self._window_ms)

    def _out_of_turn(self, sent: Sequenced, device: Device) -> Outcome:
        """The answer to what does not carry the next number of a device's newest session."""
        if sent.cseq <= device.cseq:
            return self._repeat(sent)
        if sent.author.epoch != device.epoch:
            return rules.SIGNED_OUT if sent.author.epoch < device.ended else rules.REPLACED
        return Refused(ErrorCode.CSEQ_GAP, f"cseq: the next is {device.cseq + 1}", device.cseq + 1)

    def _repeat(self, send: Sequenced) -> Outcome:
        staged = self._sends.get((send.author.device_no, send.cseq))
        if staged is not None:
            digest, conv, seq, at = staged[0], staged[1].conv, staged[1].seq, staged[1].at
        else:
            row = self._cache.one(
                "SELECT e.digest, c.id, e.seq, e.at FROM events e JOIN conversations c ON c.no = e.conv"
                " WHERE e.device = ? AND e.cseq = ? AND e.cseq > 0",  # without the last term the partial index is not used
                send.author.device_no, send.cseq,
            )  # fmt: skip
            digest, conv, seq, at = row
        if digest and digest != send.digest:  # none: deleted since, and nobody knows any more what it said
            return Refused(ErrorCode.CSEQ_REUSED, "cseq: stored before with other content")
        return Repeated(send.cseq, conv, seq, at)

    def _file_reply(self, conv: int, seq: int, parent: int) -> None:
        """So that its thread is found by what the thread began with, and by what it replies to."""
        root = self._roots.get((conv, parent))
        if root is None:
            row = self._cache.one("SELECT root FROM replies WHERE conv = ? AND seq = ?", conv, parent)
            root = parent if row is None else cast("int", row[0])
        self._roots[conv, seq] = root
        self._replies.append((conv, seq, parent, root))

    def _file_mentions(self, conversation: Conversation, seq: int, send: Send) -> None:
        # Of members only: to others it never is unread, for who joins later begins to read at their ``joined``.
        users = {self._cache.user(name) for name in send.mentions} - {send.author.user_no}
        self._mentions += [(user, conversation.no, seq) for user in users if user in conversation.members]

    def _addressed(self, send: Send) -> Conversation | Refused:
        """The conversation that a send goes to, made if it is the first between two users."""
        author = send.author
        if not send.to.startswith("@"):
            conversation = self._cache.conversation(send.to)
            if conversation is None:
                return rules.NOT_FOUND
            blocked = conversation.kind == "dm" and self._cache.blocks(
                conversation.other(author.user_no), author.user_no
            )
            return rules.may_send(conversation.role(author.user_no), blocked=blocked) or conversation
        other = self._cache.user(send.to[1:])
        if other is None:
            return rules.no_such_user(send.to[1:])
        if (refusal := rules.may_send("member", blocked=self._cache.blocks(other, author.user_no))) is not None:
            return refusal
        found = self._cache.dm(author.user_no, other)
        if found is None and send.reply_to:
            return rules.NO_SUCH_EVENT
        return found or self._make_dm(author, other)

    def _make_dm(self, author: Author, other: int) -> Conversation:
        pair = (min(author.user_no, other), max(author.user_no, other))
        conversation = self._make("dm", "", "all", *pair)
        for user in dict.fromkeys(pair):
            self._enter(conversation, user, "member", 1, 1)
        conversation.dm = tuple(sorted(self._cache.name(user) for user in conversation.members))
        return conversation

    def _make(self, kind: str, title: str, history: str, low: int | None = None, high: int | None = None) -> Conversation:
        id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARACTERS))
        self._connection.execute(
            "INSERT INTO conversations (id, kind, title, history, dm_low, dm_high, head, newest)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
            (id, kind, title, history, low, high),
        )
        no = self._connection.last_insert_rowid()
        return self._cache.remember(Conversation(no, id, kind, title, history, 0, 0))

    def _enter(self, conversation: Conversation, user: int, role: Role, joined: int, first: int) -> None:
        self._connection.execute(
            "INSERT INTO members (conv, user, role, joined, first, read, delivered, began)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?4 - 1, ?4 - 1, (SELECT coalesce(max(no), 0) FROM events))"
            " ON CONFLICT (conv, user) DO UPDATE SET role = ?3, joined = ?4, first = ?5, left = NULL,"
            " read = max(read, ?4 - 1), delivered = max(delivered, ?4 - 1), began = excluded.began",
            (conversation.no, user, role, joined, first),
        )
        conversation.members[user] = (role, joined)

    # --- groups ---------------------------------------------------------------------------------

    def _create_group(self, create: CreateGroup) -> Outcome:
        names = sorted({create.author.user, *create.members})
        users = {name: self._cache.user(name) for name in names}
        for name, user in users.items():
            if user is None:
                return rules.no_such_user(name)
        if (refusal := rules.may_hold(len(names), self._max_members)) is not None:
            return refusal
        conversation = self._make("group", create.title, create.history)
        event = self._append(
            conversation, create.author, "created", cbor2.dumps({"title": create.title, "members": names})
        )
        for name in sorted(names, key=lambda name: name != create.author.user):
            self._enter(conversation, cast("int", users[name]), "owner" if name == create.author.user else "member", 1, 1)
        return Appended(conversation.id, (event,), joined=tuple(names))

    def _add(self, add: AddMembers) -> Outcome:
        conversation = self._cache.conversation(add.conv)
        role = conversation.role(add.author.user_no) if conversation else None
        if conversation is None or (refusal := rules.may_steward(role, conversation.kind, "add")) is not None:
            return rules.NOT_FOUND if conversation is None else cast("Refused", refusal)
        users = {name: self._cache.user(name) for name in dict.fromkeys(add.users)}
        for name, user in users.items():
            if user is None:
                return rules.no_such_user(name)
        new = {name: cast("int", user) for name, user in users.items() if user not in conversation.members}
        if (refusal := rules.may_hold(len(conversation.members) + len(new), self._max_members)) is not None:
            return refusal
        events = []
        for name, user in new.items():
            event = self._append(conversation, add.author, "joined", cbor2.dumps({"user": name}))
            first = 1 if conversation.history == "all" else event.seq
            self._enter(conversation, user, "member", event.seq, first)
            events.append(event)
        return Appended(conversation.id, tuple(events), joined=tuple(new)) if events else Done(conversation.id)

    def _remove(self, remove: RemoveMembers) -> Outcome:
        conversation = self._cache.conversation(remove.conv)
        if conversation is None:
            return rules.NOT_FOUND
        author = remove.author
        names = tuple(dict.fromkeys(remove.users))
        users = {name: self._cache.user(name) for name in names}
        targets = {name: None if user is None else conversation.role(user) for name, user in users.items()}
        role = conversation.role(author.user_no)
        if (refusal := rules.may_remove(role, conversation.kind, author.user, targets)) is not None:
            return refusal
        events = []
        for name in names:
            events += self._leave(conversation, author, name, cast("int", users[name]))
        return Appended(conversation.id, tuple(events), left=names)

    def _leave(self, conversation: Conversation, author: Author, name: str, user: int) -> list[Event]:
        events = []
        role, _ = conversation.members.pop(user)
        if role == "owner" and (heir := rules.heir(conversation.members)) is not None:
            events.append(self._give_role(conversation, author, heir, "owner"))
        left = self._append(conversation, author, "left", cbor2.dumps({"user": name}))
        self._connection.execute(
            "UPDATE members SET left = ? WHERE conv = ? AND user = ?", (left.seq, conversation.no, user)
        )
        return [*events, left]

    def _give_role(self, conversation: Conversation, author: Author, user: int, role: Role) -> Event:
        conversation.members[user] = (role, conversation.members[user][1])
        self._connection.execute(
            "UPDATE members SET role = ? WHERE conv = ? AND user = ?", (role, conversation.no, user)
        )
        payload = cbor2.dumps({"user": self._cache.name(user), "role": role})
        return self._append(conversation, author, "role", payload)

    def _set_role(self, change: SetRole) -> Outcome:
        conversation = self._cache.conversation(change.conv)
        if conversation is None:
            return rules.NOT_FOUND
        author, user = change.author, self._cache.user(change.user)
        target = None if user is None else conversation.role(user)
        mine = conversation.role(author.user_no)
        if (refusal := rules.may_set_role(mine, conversation.kind, author.user, change.user, target)) is not None:
            return refusal
        if target == change.role:
            return Done(conversation.id)
        events = [self._give_role(conversation, author, cast("int", user), change.role)]
        if change.role == "owner":
            events.append(self._give_role(conversation, author, author.user_no, "admin"))
        return Appended(conversation.id, tuple(events))

    def _rename(self, rename: Rename) -> Outcome:
        conversation = self._cache.conversation(rename.conv)
        role = conversation.role(rename.author.user_no) if conversation else None
        if conversation is None or (refusal := rules.may_steward(role, conversation.kind, "rename")) is not None:
            return rules.NOT_FOUND if conversation is None else cast("Refused", refusal)
        if conversation.title == rename.title:
            return Done(conversation.id)
        conversation.title = rename.title
        event = self._append(conversation, rename.author, "renamed", cbor2.dumps({"title": rename.title}))
        return Appended(conversation.id, (event,))

    def _pin(self, pin: Pin) -> Outcome:
        made = self._changes().pin(pin)
        if isinstance(made, Done | Refused):
            return made
        conversation, event = made
        return Appended(conversation.id, (event,), conversation.dm)

    def _mute(self, mute: Mute) -> Outcome:
        conversation = self._cache.conversation(mute.conv)
        if conversation is None or conversation.role(mute.author.user_no) is None:
            return rules.NOT_FOUND
        self._connection.execute(
            "UPDATE members SET muted = ? WHERE conv = ? AND user = ?", (mute.until, conversation.no, mute.author.user_no)
        )
        return Done(conversation.id)

    # --- blocks --------------------------------------------------------------------------

    def _set_block(self, block: SetBlock) -> Outcome:
        user = self._cache.user(block.user)
        if user is None:
            return rules.no_such_user(block.user)
        pair = (block.author.user_no, user)
        if block.on:
            self._connection.execute("INSERT OR IGNORE INTO blocks (blocker, blocked) VALUES (?, ?)", pair)
        else:
            self._connection.execute("DELETE FROM blocks WHERE blocker = ? AND blocked = ?", pair)
        self._cache.set_block(*pair, block.on)
        return Done()


_APPLY: dict[type, Any] = {
    Edit: Commit._change,
    Delete: Commit._change,
    React: Commit._change,
    Pin: Commit._pin,
    Mute: Commit._mute,
    CreateGroup: Commit._create_group,
    AddMembers: Commit._add,
    RemoveMembers: Commit._remove,
    SetRole: Commit._set_role,
    Rename: Commit._rename,
    SetBlock: Commit._set_block,
}
