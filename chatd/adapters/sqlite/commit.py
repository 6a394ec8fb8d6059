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

from chatd.adapters.sqlite.cache import CommitCache, Conversation, Device
from chatd.conversations import rules
from chatd.conversations.operations import (
    AddMembers,
    Appended,
    Author,
    CreateAccount,
    CreateGroup,
    DeviceOpened,
    Done,
    Event,
    Mark,
    OpenDevice,
    Operation,
    Outcome,
    Refused,
    RemoveMembers,
    Rename,
    Repeated,
    Role,
    Send,
    SetBlock,
    SetRole,
)

ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ID_CHARACTERS = 16
"""80 bits: never guessed, and never met twice."""


class Commit:
    """One batch. ``apply`` each operation, then ``flush``; the owner begins and commits."""

    def __init__(
        self, connection: apsw.Connection, cache: CommitCache, now: int, *, max_members: int, max_devices: int,
        new_device_events: int,
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._now = now
        self._max_members = max_members
        self._max_devices = max_devices
        self._new_device_events = new_device_events
        self._rows: list[tuple[object, ...]] = []
        self._sends: dict[tuple[int, int], tuple[bytes, Event]] = {}
        self._moved: dict[int, Conversation] = {}
        self._devices: dict[int, Device] = {}

    def apply(self, operation: Operation) -> Outcome:
        """Carry out one operation, or refuse it and change nothing."""
        kind = type(operation)
        if kind is Send:
            return self._send(cast("Send", operation))
        return cast("Outcome", _APPLY[kind](self, operation))

    def flush(self) -> None:
        """Write what was gathered."""
        if self._rows:
            self._connection.executemany(
                "INSERT INTO events (conv, seq, at, sender, device, cseq, kind, digest, payload)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                cast("Any", self._rows),
            )
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
        if send.cseq <= device.cseq:
            return self._repeat(send)
        if author.epoch != device.epoch:
            return rules.REPLACED
        if send.cseq > device.cseq + 1:
            return Refused(ErrorCode.CSEQ_GAP, f"cseq: the next is {device.cseq + 1}", device.cseq + 1)
        found = self._addressed(send)
        if isinstance(found, Refused):
            return found
        if send.reply_to > found.head:
            return rules.NO_SUCH_EVENT
        event = self._append(found, author, "message", send.payload, cseq=send.cseq, digest=send.digest)
        self._sends[author.device_no, send.cseq] = (send.digest, event)
        device.cseq = send.cseq
        self._devices[device.no] = device
        return Appended(found.id, (event,), found.dm)

    def _repeat(self, send: Send) -> Outcome:
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
        if digest != send.digest:
            return Refused(ErrorCode.CSEQ_REUSED, "cseq: stored before with other content")
        return Repeated(send.cseq, conv, seq, at)

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

    # --- marks, blocks, devices, accounts -------------------------------------------------------

    def _mark(self, mark: Mark) -> Outcome:
        conversation = self._cache.conversation(mark.conv)
        author = mark.author
        place = None if conversation is None else self._place(conversation, author.user_no)
        if conversation is None or place is None:
            return Done()
        joined, last = place
        read = min(mark.read, last)
        delivered = min(max(mark.delivered, mark.read), last)
        self._connection.execute(
            "INSERT INTO cursors (device, conv, seq) VALUES (?1, ?2, max(?3, ?4 - 1))"
            " ON CONFLICT (device, conv) DO UPDATE SET seq = max(seq, ?3)",
            (author.device_no, conversation.no, delivered, joined),
        )
        self._connection.execute(
            "UPDATE members SET read = max(read, ?1), delivered = max(delivered, ?2) WHERE conv = ?3 AND user = ?4",
            (read, delivered, conversation.no, author.user_no),
        )
        return Done(conversation.id)

    def _place(self, conversation: Conversation, user: int) -> tuple[int, int] | None:
        """Where a user's own part of the log begins and ends: a former member's at their ``left`` event, which their
        devices confirm, too; without that it would be replayed at every hello."""
        if (entry := conversation.members.get(user)) is not None:
            return entry[1], conversation.head
        row = self._cache.one("SELECT joined, left FROM members WHERE conv = ? AND user = ?", conversation.no, user)
        return None if row is None else (row[0], row[1])

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

    def _open_device(self, opening: OpenDevice) -> Outcome:
        user = self._cache.user(opening.user)
        if user is None:
            if not opening.create_user:
                return Refused(ErrorCode.UNAUTHENTICATED, "no such user")
            self._connection.execute("INSERT INTO users (name, password_hash) VALUES (?, '')", (opening.user,))
            user = self._connection.last_insert_rowid()
        row = self._cache.one("SELECT no FROM devices WHERE user = ? AND name = ?", user, opening.device)
        if row is not None:
            return self._opened(user, opening.user, row[0])
        if self._cache.one("SELECT count(*) FROM devices WHERE user = ?", user)[0] >= self._max_devices:
            return Refused(ErrorCode.TOO_MANY_DEVICES, f"devices: at most {self._max_devices} a user")
        return self._opened(user, opening.user, self._make_device(user, opening.device))

    def _opened(self, user: int, name: str, no: int) -> DeviceOpened:
        device = self._cache.device(no)
        device.epoch += 1
        self._devices[no] = device
        return DeviceOpened(Author(user, name, no, device.epoch), device.cseq)

    def _make_device(self, user: int, name: str) -> int:
        self._connection.execute("INSERT INTO devices (user, name) VALUES (?, ?)", (user, name))
        device = self._connection.last_insert_rowid()
        heads = {c.no: c.head for c in self._moved.values()}  # not written yet, and this batch may have moved them
        rows = self._connection.execute(
            "SELECT m.conv, m.read, m.first, coalesce(m.left, c.head) FROM members m"
            " JOIN conversations c ON c.no = m.conv WHERE m.user = ?",
            (user,),
        ).fetchall()
        self._connection.executemany(
            "INSERT INTO cursors (device, conv, seq) VALUES (?, ?, ?)",
            [
                (device, conv, max(read, max(last, heads.get(conv, 0)) - self._new_device_events, first - 1))
                for conv, read, first, last in cast("list[tuple[int, int, int, int]]", rows)
            ],
        )
        return device

    def _create_account(self, create: CreateAccount) -> Outcome:
        if self._cache.user(create.user) is not None:
            return Refused(ErrorCode.NAME_TAKEN, "name: taken")
        self._connection.execute(
            "INSERT INTO users (name, password_hash) VALUES (?, ?)", (create.user, create.password_hash)
        )
        return Done()


_APPLY: dict[type, Any] = {
    CreateGroup: Commit._create_group,
    AddMembers: Commit._add,
    RemoveMembers: Commit._remove,
    SetRole: Commit._set_role,
    Rename: Commit._rename,
    Mark: Commit._mark,
    SetBlock: Commit._set_block,
    OpenDevice: Commit._open_device,
    CreateAccount: Commit._create_account,
}
