"""Changes of a message that is there: edit, delete, react, pin. Part of a transaction (``commit.Commit``), which has
written the event rows of its batch before it comes here: what is changed may have been sent in the same batch.

What a message is now is kept beside the log, in small tables by (conversation, message): its edits, reactions, pins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

import apsw
import cbor2
from chatd_protocol.messages import DELETED_TYPE

from chatd.adapters.sqlite.cache import CommitCache, Conversation
from chatd.adapters.sqlite.filing import UNFILE_MENTIONS
from chatd.adapters.sqlite.memberships import sees
from chatd.adapters.sqlite.payloads import fields_of
from chatd.conversations import rules
from chatd.conversations.operations import Author, Delete, Done, Edit, Event, Pin, React, Refused, Role

Append = Callable[..., Event]

# From each kind to the next: the reactions of one message may be 50,000 rows, of 1000 members.
_KINDS = f"""
    WITH RECURSIVE kinds (emoji) AS (
        SELECT min(emoji) FROM reactions WHERE conv = ?1 AND target = ?2
        UNION ALL
        SELECT (SELECT min(r.emoji) FROM reactions r WHERE r.conv = ?1 AND r.target = ?2 AND r.emoji > k.emoji)
        FROM kinds k WHERE k.emoji IS NOT NULL LIMIT {rules.MAX_REACTION_KINDS})
    SELECT count(emoji) FROM kinds
"""  # noqa: S608 - a number of this program's


class Changes:
    """Serves one batch. ``append`` adds an event to it; ``window_ms``: for how long one may edit and delete one's own."""

    def __init__(
        self, connection: apsw.Connection, cache: CommitCache, append: Append, now: int, *, window_ms: int
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._append = append
        self._now = now
        self._window_ms = window_ms

    def edit(self, edit: Edit) -> tuple[Conversation, Event] | Refused:
        facts = self._facts(edit.author, edit.conv, edit.seq)
        if facts is None:
            return rules.NOT_FOUND
        conversation, role, target, blocked = facts
        key = (conversation.no, edit.seq)
        edits = self._count("SELECT count(*) FROM edits WHERE conv = ? AND target = ?", *key)
        refusal = rules.may_edit(role, target, blocked=blocked, window_ms=self._window_ms, edits=edits)
        if refusal is not None:
            return refusal
        event = self._append(conversation, edit.author, "edit", edit.payload, cseq=edit.cseq, digest=edit.digest)
        self._connection.execute("INSERT INTO edits (conv, target, seq) VALUES (?, ?, ?)", (*key, event.seq))
        return conversation, event

    def delete(self, delete: Delete) -> tuple[Conversation, Event] | Refused:
        facts = self._facts(delete.author, delete.conv, delete.seq)
        if facts is None:
            return rules.NOT_FOUND
        conversation, role, target, _ = facts
        if (refusal := rules.may_delete(role, conversation.kind, target, window_ms=self._window_ms)) is not None:
            return refusal
        self._redact(conversation.no, delete.seq)
        event = self._append(conversation, delete.author, "delete", delete.payload, cseq=delete.cseq, digest=delete.digest)
        return conversation, event

    def _redact(self, conv: int, seq: int) -> None:
        """Leave of a message only that it was there. Without its digest, too, which would tell who guesses right."""
        row = self._cache.one("SELECT payload FROM events WHERE conv = ? AND seq = ?", conv, seq)
        said = fields_of("message", row[0]) or {}
        left = {"type": DELETED_TYPE, "body": ""} | {key: said[key] for key in said if key == "reply_to"}
        execute = self._connection.execute
        execute(
            "UPDATE events SET payload = ?, digest = x'', deleted = 1 WHERE conv = ? AND seq = ?",
            (cbor2.dumps(left), conv, seq),
        )
        execute(
            "UPDATE events SET payload = ?1, digest = x'' WHERE conv = ?2"
            " AND seq IN (SELECT seq FROM edits WHERE conv = ?2 AND target = ?3)",
            (cbor2.dumps({"body": "", "target": seq}), conv, seq),
        )
        for table in ("edits", "reactions", "pins"):
            execute(f"DELETE FROM {table} WHERE conv = ? AND target = ?", (conv, seq))  # noqa: S608 - of the line above
        if names := said.get("mentions"):
            execute(UNFILE_MENTIONS, (conv, seq, json.dumps(names)))

    def react(self, react: React) -> tuple[Conversation, Event] | Refused:
        facts = self._facts(react.author, react.conv, react.seq)
        if facts is None:
            return rules.NOT_FOUND
        conversation, role, target, blocked = facts
        kind = (conversation.no, react.seq, react.emoji)
        mine = self._cache.one(
            "SELECT 1 FROM reactions WHERE conv = ? AND target = ? AND emoji = ? AND user = ?", *kind, react.author.user_no
        )
        refusal = rules.may_react(
            role, target, blocked=blocked, mine=mine is not None, kinds=self._kinds_with(*kind), remove=react.remove
        )
        if refusal is not None:
            return refusal
        change = (
            "DELETE FROM reactions WHERE conv = ? AND target = ? AND emoji = ? AND user = ?" if react.remove
            else "INSERT OR IGNORE INTO reactions (conv, target, emoji, user) VALUES (?, ?, ?, ?)"
        )  # fmt: skip
        self._connection.execute(change, (*kind, react.author.user_no))
        event = self._append(conversation, react.author, "reaction", react.payload, cseq=react.cseq, digest=react.digest)
        return conversation, event

    def _kinds_with(self, conv: int, seq: int, emoji: str) -> int:
        known = self._cache.one("SELECT 1 FROM reactions WHERE conv = ? AND target = ? AND emoji = ? LIMIT 1", conv, seq, emoji)
        if known is not None:
            return 0
        return 1 + self._count(_KINDS, conv, seq)

    def pin(self, pin: Pin) -> tuple[Conversation, Event] | Done | Refused:
        facts = self._facts(pin.author, pin.conv, pin.seq)
        if facts is None:
            return rules.NOT_FOUND
        conversation, role, target, blocked = facts
        key = (conversation.no, pin.seq)
        pinned = self._cache.one("SELECT 1 FROM pins WHERE conv = ? AND target = ?", *key) is not None
        pins = self._count("SELECT count(*) FROM pins WHERE conv = ?", conversation.no) + (pin.on and not pinned)
        refusal = rules.may_pin(role, conversation.kind, target, blocked=blocked, pins=pins)
        if refusal is not None:
            return refusal
        if pinned == pin.on:
            return Done(conversation.id)
        change = (
            "INSERT INTO pins (conv, target) VALUES (?, ?)" if pin.on else "DELETE FROM pins WHERE conv = ? AND target = ?"
        )
        self._connection.execute(change, key)
        fields = {"target": pin.seq} | ({} if pin.on else {"removed": True})
        return conversation, self._append(conversation, pin.author, "pinned", cbor2.dumps(fields))

    def _facts(
        self, author: Author, conv: str, seq: int
    ) -> tuple[Conversation, Role, rules.Target | None, bool] | None:
        """What the rules judge: the conversation, the author's role, the message if it may be seen and is not deleted, and
        whether the other one of a 1:1 conversation blocks the author. None to those who are no member."""
        conversation = self._cache.conversation(conv)
        me = author.user_no
        role = conversation.role(me) if conversation is not None else None
        if conversation is None or role is None:
            return None
        row = sees(self._connection, conversation.no, me, seq, conversation.first(me)) and self._cache.one(
            "SELECT sender, at FROM events WHERE conv = ? AND seq = ? AND kind = 'message' AND NOT deleted", conversation.no, seq
        )
        target = rules.Target(row[0] == me, self._now - row[1]) if row else None
        blocked = conversation.kind == "dm" and self._cache.blocks(conversation.other(me), me)
        return conversation, role, target, blocked

    def _count(self, sql: str, *values: object) -> int:
        return cast("int", self._cache.one(sql, *values)[0])
