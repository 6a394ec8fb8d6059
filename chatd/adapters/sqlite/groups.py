"""Groups and their members, and the making of 1:1 conversations. Part of a transaction (``commit.Commit``)."""

from __future__ import annotations

import secrets
from typing import cast

import apsw
import cbor2

from chatd.adapters.sqlite.cache import CommitCache, Conversation
from chatd.adapters.sqlite.changes import Append
from chatd.adapters.sqlite.memberships import keep
from chatd.conversations import rules
from chatd.conversations.operations import (
    AddMembers,
    Appended,
    Author,
    CreateGroup,
    Done,
    Event,
    Mute,
    Outcome,
    Refused,
    RemoveMembers,
    Rename,
    Role,
    SetRole,
)
from chatd.store.query import by_words

ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ID_CHARACTERS = 16
"""80 bits: never guessed, and never met twice."""


class Groups:
    """Serves one batch. ``append`` adds an event to it."""

    def __init__(self, connection: apsw.Connection, cache: CommitCache, append: Append, *, max_members: int) -> None:
        self._connection = connection
        self._cache = cache
        self._append = append
        self._max_members = max_members

    def create(self, create: CreateGroup) -> Outcome:
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

    def add(self, add: AddMembers) -> Outcome:
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
            keep(self._connection, conversation.no, user)
            self._enter(conversation, user, "member", event.seq, first)
            events.append(event)
        return Appended(conversation.id, tuple(events), joined=tuple(new)) if events else Done(conversation.id)

    def remove(self, remove: RemoveMembers) -> Outcome:
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

    def set_role(self, change: SetRole) -> Outcome:
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

    def rename(self, rename: Rename) -> Outcome:
        conversation = self._cache.conversation(rename.conv)
        role = conversation.role(rename.author.user_no) if conversation else None
        if conversation is None or (refusal := rules.may_steward(role, conversation.kind, "rename")) is not None:
            return rules.NOT_FOUND if conversation is None else cast("Refused", refusal)
        if conversation.title == rename.title:
            return Done(conversation.id)
        conversation.title = rename.title
        self._connection.execute(
            "UPDATE conversations SET words = ? WHERE no = ?", (by_words(rename.title), conversation.no)
        )
        event = self._append(conversation, rename.author, "renamed", cbor2.dumps({"title": rename.title}))
        return Appended(conversation.id, (event,))

    def mute(self, mute: Mute) -> Outcome:
        conversation = self._cache.conversation(mute.conv)
        if conversation is None or conversation.role(mute.author.user_no) is None:
            return rules.NOT_FOUND
        self._connection.execute(
            "UPDATE members SET muted = ? WHERE conv = ? AND user = ?", (mute.until, conversation.no, mute.author.user_no)
        )
        return Done(conversation.id)

    # --- what both kinds are made of --------------------------------------------------------------

    def make_dm(self, author: Author, other: int) -> Conversation:
        pair = (min(author.user_no, other), max(author.user_no, other))
        conversation = self._make("dm", "", "all", *pair)
        for user in dict.fromkeys(pair):
            self._enter(conversation, user, "member", 1, 1)
        conversation.dm = tuple(sorted(self._cache.name(user) for user in conversation.members))
        return conversation

    def _make(self, kind: str, title: str, history: str, low: int | None = None, high: int | None = None) -> Conversation:
        id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARACTERS))
        self._connection.execute(
            "INSERT INTO conversations (id, kind, title, words, history, dm_low, dm_high, head, newest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)",
            (id, kind, title, by_words(title), history, low, high),
        )
        no = self._connection.last_insert_rowid()
        return self._cache.remember(Conversation(no, id, kind, title, history, 0, 0))

    def _enter(self, conversation: Conversation, user: int, role: Role, joined: int, first: int) -> None:
        self._connection.execute(
            "INSERT INTO members (conv, user, role, joined, first, read, delivered, began)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?4 - 1, ?4 - 1, (SELECT coalesce(max(no), 0) FROM events))"
            " ON CONFLICT (conv, user) DO UPDATE SET role = ?3, joined = ?4, first = ?5, left = NULL,"
            " began = excluded.began",
            (conversation.no, user, role, joined, first),
        )
        conversation.members[user] = (role, joined)
