"""What a commit must know, read once and remembered: conversations, members, users, devices, blocks.

Valid while nobody else commits: ``PRAGMA data_version`` tells, inside the write lock, whether another connection has,
and then everything is forgotten. Bounded; what is forgotten is read again.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Generic, TypeVar, cast

import apsw

from chatd.conversations.operations import Role

K = TypeVar("K")
V = TypeVar("V")

MAX_CONVERSATIONS = 50_000
MAX_ENTRIES = 200_000


class Recent(Generic[K, V]):
    """A map that forgets its older half when it is above its bound, but only in ``trim``.

    Never within a transaction: what that has changed and not written yet would be read again as it was before. By age and
    not by last use: each send looks up five entries, and an OrderedDict's ``move_to_end`` made that 2 us.
    """

    __slots__ = ("_bound", "_entries", "get")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._entries: dict[K, V] = {}
        self.get = self._entries.get

    def put(self, key: K, value: V) -> V:
        self._entries[key] = value
        return value

    def trim(self) -> None:
        if len(self._entries) > self._bound:
            for old in list(islice(self._entries, len(self._entries) - self._bound // 2)):
                del self._entries[old]

    def clear(self) -> None:
        self._entries.clear()


class Conversation:
    """One conversation as the transaction sees it; ``members``: (role, joined) by user, in order of joining."""

    __slots__ = ("dm", "head", "history", "id", "kind", "members", "newest", "no", "title")

    def __init__(self, no: int, id: str, kind: str, title: str, history: str, head: int, newest: int) -> None:
        self.no = no
        self.id = id
        self.kind = kind
        self.title = title
        self.history = history
        self.head = head
        self.newest = newest
        self.members: dict[int, tuple[Role, int]] = {}
        self.dm: tuple[str, ...] = ()

    def role(self, user: int) -> Role | None:
        entry = self.members.get(user)
        return entry[0] if entry is not None else None

    def first(self, user: int) -> int:
        """The first event that a member may see of the membership that lasts."""
        return 1 if self.history == "all" else self.members[user][1]

    def other(self, user: int) -> int:
        """The other one of a 1:1 conversation; in one with oneself, oneself."""
        for member in self.members:
            if member != user:
                return member
        return user


class Device:
    """A device as the transaction sees it: the last cseq stored, and how often it was opened.

    ``ended``: sessions of a smaller epoch were signed out. ``gone``: signed out, and not back since. ``token``: the one
    that it used last.
    """

    __slots__ = ("cseq", "ended", "epoch", "gone", "no", "token")

    def __init__(self, no: int, cseq: int, epoch: int, ended: int, gone: int, token: bytes) -> None:
        self.no = no
        self.cseq = cseq
        self.epoch = epoch
        self.ended = ended
        self.gone = bool(gone)
        self.token = token


class CommitCache:
    """Reads through ``connection``, which must hold the write lock."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._version = -1
        self._conversations: Recent[str, Conversation] = Recent(MAX_CONVERSATIONS)
        self._pairs: Recent[tuple[int, int], str] = Recent(MAX_ENTRIES)
        self._users: Recent[str, int] = Recent(MAX_ENTRIES)
        self._names: Recent[int, str] = Recent(MAX_ENTRIES)
        self._devices: Recent[int, Device] = Recent(MAX_ENTRIES)
        self._blocks: Recent[tuple[int, int], tuple[bool]] = Recent(MAX_ENTRIES)
        self._tables: tuple[Recent[Any, Any], ...] = (
            self._conversations, self._pairs, self._users, self._names, self._devices, self._blocks
        )  # fmt: skip

    def begin(self) -> None:
        """Right after BEGIN IMMEDIATE: forget everything if another connection has committed since."""
        version: int = self._connection.pragma("data_version")
        if version != self._version:
            self.forget()
            self._version = version
        for table in self._tables:
            table.trim()

    def forget(self) -> None:
        for table in self._tables:
            table.clear()

    def one(self, sql: str, *values: object) -> Any:
        """The first row, or None."""
        return self._connection.execute(sql, cast("Any", values)).fetchone()

    def user(self, name: str) -> int | None:
        no = self._users.get(name)
        if no is None and (row := self.one("SELECT no FROM users WHERE name = ?", name)) is not None:
            no = self._users.put(name, row[0])
        return no

    def name(self, no: int) -> str:
        name = self._names.get(no)
        if name is None:
            name = self._names.put(no, self.one("SELECT name FROM users WHERE no = ?", no)[0])
        return name

    def device(self, no: int) -> Device:
        """A device that exists."""
        device = self._devices.get(no)
        if device is None:
            row = self.one("SELECT no, cseq, epoch, ended, gone, token FROM devices WHERE no = ?", no)
            device = self._devices.put(no, Device(*row))
        return device

    def blocks(self, blocker: int, blocked: int) -> bool:
        entry = self._blocks.get((blocker, blocked))
        if entry is None:
            row = self.one("SELECT 1 FROM blocks WHERE blocker = ? AND blocked = ?", blocker, blocked)
            entry = self._blocks.put((blocker, blocked), (row is not None,))
        return entry[0]

    def set_block(self, blocker: int, blocked: int, on: bool) -> None:
        self._blocks.put((blocker, blocked), (on,))

    def conversation(self, id: str) -> Conversation | None:
        found = self._conversations.get(id)
        if found is None:
            row = self.one("SELECT no, id, kind, title, history, head, newest FROM conversations WHERE id = ?", id)
            if row is None:
                return None
            found = self.remember(Conversation(*row))
            for user, role, joined in self._connection.execute(
                "SELECT user, role, joined FROM members WHERE conv = ? AND left IS NULL ORDER BY joined, no", (found.no,)
            ):
                found.members[cast("int", user)] = (cast("Role", role), cast("int", joined))
            if found.kind == "dm":
                found.dm = tuple(sorted(self.name(user) for user in found.members))
        return found

    def remember(self, conversation: Conversation) -> Conversation:
        return self._conversations.put(conversation.id, conversation)

    def dm(self, one: int, other: int) -> Conversation | None:
        """The 1:1 conversation of two users."""
        pair = (min(one, other), max(one, other))
        id = self._pairs.get(pair)
        if id is None:
            row = self.one("SELECT id FROM conversations WHERE kind = 'dm' AND dm_low = ? AND dm_high = ?", *pair)
            if row is None:
                return None
            id = self._pairs.put(pair, row[0])
        return self.conversation(id)
