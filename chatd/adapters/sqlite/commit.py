"""One transaction: operations in, outcomes out. Judged inline on the Trio thread, after BEGIN; written in another, with COMMIT.

Each operation is judged whole before it changes anything, so a refused one needs no undoing. Event rows, heads and
cseqs are gathered and written by ``flush``, a few statements for the whole batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import apsw
from chatd_protocol.codec import content_digest
from chatd_protocol.codes import ErrorCode

from chatd.adapters.sqlite.access import Access
from chatd.adapters.sqlite.bulk import execute_rows
from chatd.adapters.sqlite.cache import CommitCache, Conversation, Device
from chatd.adapters.sqlite.changes import Changes
from chatd.adapters.sqlite.filing import FILE_MENTIONS
from chatd.adapters.sqlite.groups import Groups
from chatd.adapters.sqlite.memberships import sees
from chatd.adapters.sqlite.signals import Signals
from chatd.conversations import rules
from chatd.conversations.operations import (
    AddMembers,
    Appended,
    Author,
    CreateAccount,
    CreateGroup,
    Delete,
    Done,
    Edit,
    Event,
    Mark,
    Mute,
    NoteSeen,
    OpenDevice,
    Operation,
    Outcome,
    Pin,
    React,
    Refused,
    Rehash,
    RemoveMembers,
    Rename,
    Repeated,
    RollCall,
    Send,
    Sequenced,
    SetBlock,
    SetPassword,
    SetPrivacy,
    SetRole,
    SetTier,
    SignOut,
)

Act = Callable[[Any], Outcome]
Change = Callable[[Any], tuple[Conversation, Event] | Done | Refused]

_NUMBERED: frozenset[type] = frozenset({Send, Edit, Delete, React})
"""The types of ``Sequenced``."""


_EVENTS = (
    "INSERT INTO events (conv, seq, at, sender, device, cseq, kind, digest, payload, epoch) SELECT * FROM",
    "WHERE column1 NOT NULL",
)
_EVENT_COLUMNS = 10
_MOVE = "UPDATE conversations SET head = column2, newest = column3, title = column4 FROM", "WHERE conversations.no = column1"
_COUNT = "UPDATE devices SET cseq = column2, epoch = column3 FROM", "WHERE devices.no = column1"
_REUSED = "cseq: stored before with other content"


class NewEvents:
    """What one batch appends: rows to be written, and the conversations that moved by them. Apart from ``Commit``, so that those
    who append for it need not know it."""

    def __init__(self, now: int) -> None:
        self._now = now
        self.rows: list[object] = []
        self.moved: dict[int, Conversation] = {}

    def append(
        self, conversation: Conversation, author: Author, kind: str, payload: bytes, *, cseq: int = 0, digest: bytes = b""
    ) -> Event:
        """The next event of a conversation."""
        conversation.head += 1
        conversation.newest = max(conversation.newest, self._now)
        device, epoch = (author.device_no, author.epoch) if cseq else (0, 0)
        event = Event(
            conversation.id, conversation.head, conversation.newest, author.user, kind, payload, device, cseq, epoch
        )
        self.rows.extend(
            (conversation.no, event.seq, event.at, author.user_no, device, cseq, kind, digest, payload, epoch)
        )
        self.moved[conversation.no] = conversation
        return event


class Commit:
    """One batch. ``apply`` each operation, then ``flush``, and ``close`` in any case; the owner begins and commits.

    ``redacted`` afterwards: whether it has taken something out of the store that must not be found in its file either.
    """

    def __init__(
        self, connection: apsw.Connection, cache: CommitCache, now: int, *, max_members: int, max_devices: int,
        new_device_events: int, window_ms: int,
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._new = NewEvents(now)
        self.redacted = False
        self._replies: list[tuple[int, int, int, int]] = []
        self._roots: dict[tuple[int, int], int] = {}
        self._mentions: list[tuple[int, int, int, str]] = []
        self._devices: dict[int, Device] = {}
        self._groups = Groups(connection, cache, self._new.append, max_members=max_members)
        self._changes = Changes(connection, cache, self._new.append, now, window_ms=window_ms)
        access = Access(
            connection, cache, now, self._devices, self._new.moved, max_devices=max_devices, new_device_events=new_device_events
        )
        self._acts = self._table(access, Signals(connection, cache))

    def _table(self, access: Access, signals: Signals) -> dict[type, Act]:
        """Who carries out what."""
        groups, changes = self._groups, self._changes
        return {
            Send: self._send, Edit: partial(self._change, changes.edit), Delete: self._delete,
            React: partial(self._change, changes.react), Pin: partial(self._change, changes.pin),
            CreateGroup: groups.create, AddMembers: groups.add, RemoveMembers: groups.remove, SetRole: groups.set_role,
            Rename: groups.rename, Mute: groups.mute, SetBlock: self._set_block,
            Mark: signals.mark, SetPrivacy: signals.set_privacy, NoteSeen: signals.note_seen,
            OpenDevice: access.open, SignOut: access.sign_out, SetPassword: access.set_password,
            CreateAccount: access.create_account, SetTier: access.set_tier, Rehash: access.rehash, RollCall: access.roll_call,
        }  # fmt: skip

    def apply(self, operation: Operation) -> Outcome:
        """Carry out one operation, or refuse it and change nothing.

        Here, and nowhere else, older sessions of a device are fenced off, whatever they ask. But what was stored before is
        answered as a repeat; and a session that was replaced, not signed out, still tells what its device holds.
        """
        kind = type(operation)
        act = self._acts[kind]
        author: Author | None = getattr(operation, "author", None)
        if author is None:
            return act(operation)
        device = self._cache.device(author.device_no)
        numbered = kind in _NUMBERED
        if numbered and operation.cseq <= device.cseq:  # type: ignore[union-attr]
            return self._repeat(cast("Sequenced", operation))
        if author.epoch != device.epoch:
            if author.epoch < device.ended:
                return rules.SIGNED_OUT
            if kind is not Mark:
                return rules.REPLACED
        return self._numbered(cast("Sequenced", operation), device, act) if numbered else act(operation)

    def _numbered(self, sent: Sequenced, device: Device, act: Act) -> Outcome:
        """What takes the next number of its device, and only if it is not refused."""
        if sent.cseq != device.cseq + 1:
            return Refused(ErrorCode.CSEQ_GAP, f"cseq: the next is {device.cseq + 1}", device.cseq + 1)
        outcome = act(sent)
        if type(outcome) is Appended:
            device.cseq = sent.cseq
            self._devices[device.no] = device
        return outcome

    def flush(self) -> None:
        """Write what was gathered. In whatever thread, while nobody else touches the connection and the cache."""
        self._write_events()
        if self._new.moved:
            moved = [value for c in self._new.moved.values() for value in (c.no, c.head, c.newest, c.title)]
            execute_rows(self._connection, _MOVE[0], 4, moved, _MOVE[1])
        if self._devices:
            devices = [value for device in self._devices.values() for value in (device.no, device.cseq, device.epoch)]
            execute_rows(self._connection, _COUNT[0], 3, devices, _COUNT[1])

    def close(self) -> None:
        """Let go of those of the acts that know it, too: as a ring all of a batch would be left to the collector."""
        self._acts.clear()

    def _write_events(self) -> None:
        if self._new.rows:
            execute_rows(self._connection, _EVENTS[0], _EVENT_COLUMNS, self._new.rows, _EVENTS[1])
            self._new.rows.clear()
        if self._replies:
            self._connection.executemany(
                "INSERT INTO replies (conv, seq, parent, root) VALUES (?, ?, ?, ?)", self._replies
            )
            self._replies.clear()
        if self._mentions:
            self._connection.executemany(FILE_MENTIONS, self._mentions)
            self._mentions.clear()

    # --- events ---------------------------------------------------------------------------------

    def _send(self, send: Send) -> Outcome:
        found = self._addressed(send)
        if isinstance(found, Refused):
            return found
        if send.reply_to and not self._may_reply(found, send):
            return rules.NO_SUCH_EVENT
        event = self._new.append(found, send.author, "message", send.payload, cseq=send.cseq)
        if send.reply_to:
            self._file_reply(found.no, event.seq, send.reply_to)
        if send.mentions:
            self._mentions.append((found.no, event.seq, send.author.user_no, json.dumps(send.mentions)))
        return Appended(found.id, (event,), found.dm)

    def _may_reply(self, conversation: Conversation, send: Send) -> bool:
        """To a message that one may see; to what is left of one, too."""
        self._write_events()
        me, no = send.author.user_no, conversation.no
        row = self._cache.one("SELECT kind FROM events WHERE conv = ? AND seq = ?", no, send.reply_to)
        return row is not None and row[0] == "message" and sees(
            self._connection, no, me, send.reply_to, conversation.first(me)
        )

    def _change(self, change: Change, operation: Operation) -> Outcome:
        """One of ``changes.Changes``: of a message that this very batch may have appended."""
        self._write_events()
        made = change(operation)
        if isinstance(made, Done | Refused):
            return made
        conversation, event = made
        return Appended(conversation.id, (event,), conversation.dm)

    def _delete(self, delete: Delete) -> Outcome:
        outcome = self._change(self._changes.delete, delete)
        if type(outcome) is Appended:
            self.redacted = True
        return outcome

    def _repeat(self, sent: Sequenced) -> Outcome:
        """What was stored before, perhaps in this very batch: its place again, if it says the same."""
        self._write_events()
        row = self._cache.one(
            "SELECT e.digest, e.kind, e.payload, e.deleted, c.id, e.seq, e.at FROM events e JOIN conversations c ON c.no = e.conv"
            " WHERE e.device = ? AND e.cseq = ? AND e.cseq > 0",  # without the last term the partial index is not used
            sent.author.device_no, sent.cseq,
        )  # fmt: skip
        digest, kind, payload, deleted, conv, seq, at = row
        if digest:
            same = digest == (content_digest(sent.to, sent.payload) if type(sent) is Send else sent.digest)  # type: ignore[union-attr]
        elif kind == "message" and not deleted:
            same = type(sent) is Send and payload == sent.payload and self._goes_to(sent, conv)
        else:
            same = True  # deleted since, and nobody knows any more what it said
        return Repeated(sent.cseq, conv, seq, at) if same else Refused(ErrorCode.CSEQ_REUSED, _REUSED)

    def _goes_to(self, send: Send, conv: str) -> bool:
        """Whether ``to`` means the conversation of that id."""
        if not send.to.startswith("@"):
            return send.to == conv
        other = self._cache.user(send.to[1:])
        found = None if other is None else self._cache.dm(send.author.user_no, other)
        return found is not None and found.id == conv

    def _file_reply(self, conv: int, seq: int, parent: int) -> None:
        """So that its thread is found by what the thread began with, and by what it replies to."""
        root = self._roots.get((conv, parent))
        if root is None:
            row = self._cache.one("SELECT root FROM replies WHERE conv = ? AND seq = ?", conv, parent)
            root = parent if row is None else cast("int", row[0])
        self._roots[conv, seq] = root
        self._replies.append((conv, seq, parent, root))

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
        return found or self._groups.make_dm(author, other)

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
        dm = self._cache.dm(*pair)
        return Done() if dm is None else Done(dm.id)
