"""What is told beside the log: marks for receipts, who may know of whom, when a user was last there.

``Signals`` is the part of a transaction (``commit.Commit``) that appends no event; the functions are reads, as in ``reads``.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence

import apsw

from chatd.adapters.sqlite.cache import CommitCache, Conversation
from chatd.adapters.sqlite.memberships import entered
from chatd.adapters.sqlite.reads import blocks, rows
from chatd.conversations.operations import (
    Done,
    Mark,
    Marked,
    NoteSeen,
    Outcome,
    PrivacySet,
    SetPrivacy,
)
from chatd.store.port import Acquaintance, Audience, Privacy, Tally

TALLIED_EVENTS = 1000
"""Whose latest message lies further back than this is told no more counts."""
_OWN = "(SELECT count(*) FROM members WHERE user = ?1)"
_TOGETHER = f"(NOT {blocks('u.no', '?1')} OR (SELECT kind FROM conversations WHERE no = a.conv) = 'group')"  # noqa: S608
"""Two of whom one blocks the other know of each other by a group alone."""


class Signals:
    """Serves one batch."""

    def __init__(self, connection: apsw.Connection, cache: CommitCache) -> None:
        self._connection = connection
        self._cache = cache

    def mark(self, mark: Mark) -> Outcome:
        """Cursor of the device, marks of the user: forward only."""
        conversation = self._cache.conversation(mark.conv)
        author = mark.author
        if conversation is None:
            return Done()
        row = self._cache.one(
            f"SELECT {entered('m.conv', 'm.user', 'm.joined')}, m.left, m.delivered, m.read FROM members m"  # noqa: S608
            " WHERE m.conv = ? AND m.user = ?",
            conversation.no, author.user_no,
        )
        if row is None:
            return Done()
        began, left, had_delivered, had_read = row
        # A former member's part of the log ends at the ``left`` event, which their devices confirm, too; without that it
        # would be replayed at every hello.
        last = conversation.head if author.user_no in conversation.members else left
        read = max(had_read, min(mark.read, last))
        confirmed = min(max(mark.delivered, mark.read), last)
        delivered = max(had_delivered, confirmed)
        self._connection.execute(
            "INSERT INTO cursors (device, conv, seq) VALUES (?1, ?2, max(?3, ?4 - 1))"
            " ON CONFLICT (device, conv) DO UPDATE SET seq = max(seq, ?3)",
            (author.device_no, conversation.no, confirmed, began),
        )
        if (delivered, read) != (had_delivered, had_read):
            self._connection.execute(
                "UPDATE members SET read = ?, delivered = ? WHERE conv = ? AND user = ?",
                (read, delivered, conversation.no, author.user_no),
            )
        return self._marked(conversation, author.user_no, delivered, read, had_delivered, had_read)

    def _marked(
        self, conversation: Conversation, user: int, delivered: int, read: int, had_delivered: int, had_read: int
    ) -> Outcome:
        if user not in conversation.members:
            return Done(conversation.id)  # nobody there is told of somebody who has left
        told = conversation.dm
        if told and (delivered, read) != (had_delivered, had_read) and self._is_blocked(conversation, user):
            told = (self._cache.name(user),)
        return Marked(conversation.id, delivered, read, had_delivered, had_read, told, len(conversation.members))

    def _is_blocked(self, conversation: Conversation, user: int) -> bool:
        other = conversation.other(user)
        return self._cache.blocks(user, other) or self._cache.blocks(other, user)

    def set_privacy(self, change: SetPrivacy) -> Outcome:
        user = change.author.user_no
        self._connection.execute(
            "UPDATE users SET show_presence = coalesce(?, show_presence), show_last_seen = coalesce(?, show_last_seen)"
            " WHERE no = ?",
            (change.presence, change.last_seen, user),
        )
        presence, last_seen = self._cache.one("SELECT show_presence, show_last_seen FROM users WHERE no = ?", user)
        return PrivacySet(bool(presence), bool(last_seen))

    def note_seen(self, note: NoteSeen) -> Outcome:
        self._connection.executemany(
            "UPDATE users SET last_seen = max(last_seen, ?2) WHERE name = ?1", note.seen
        )
        return Done()


def audiences(connection: apsw.Connection, convs: Sequence[str]) -> dict[str, Audience]:
    found = rows(
        connection,
        "c.id, (SELECT count(*) FROM members m WHERE m.conv = c.no AND m.left IS NULL),"  # noqa: S608
        " (SELECT json_group_array(u.name) FROM members m JOIN users u ON u.no = m.user"
        f" WHERE c.kind = 'dm' AND m.conv = c.no), c.kind = 'dm' AND {blocks('c.dm_low', 'c.dm_high')}",
        "FROM json_each(?1) w JOIN conversations c ON c.id = w.value", json.dumps(convs),
    )  # fmt: skip
    return {
        conv: Audience(tuple(sorted(json.loads(names))), members, bool(silent)) for conv, members, names, silent in found
    }


def tallies(connection: apsw.Connection, conv: str, low: int, high: int) -> list[Tally]:
    authors = rows(
        connection, "u.name, max(e.seq)",
        "FROM conversations c JOIN events e ON e.conv = c.no JOIN users u ON u.no = e.sender"
        " WHERE c.id = ?1 AND e.seq > max(?2, c.head - ?4) AND e.kind = 'message' GROUP BY e.sender"
        " HAVING max(e.seq) <= ?3",
        conv, low, high, TALLIED_EVENTS,
    )  # fmt: skip
    marks = rows(
        connection, "u.name, m.delivered, m.read",
        "FROM conversations c JOIN members m ON m.conv = c.no JOIN users u ON u.no = m.user"
        " WHERE c.id = ?1 AND m.left IS NULL",
        conv,
    ) if authors else []  # fmt: skip
    delivered, read = sorted(mark[1] for mark in marks), sorted(mark[2] for mark in marks)
    own = {user: (mine, seen) for user, mine, seen in marks}
    return [
        Tally(
            user, seq, len(marks) - bisect_left(delivered, seq) - (own[user][0] >= seq),
            len(marks) - bisect_left(read, seq) - (own[user][1] >= seq),
        )
        for user, seq in authors if user in own
    ]  # fmt: skip


def acquainted(connection: apsw.Connection, user_no: int, names: Sequence[str]) -> list[Acquaintance]:
    found = rows(
        connection, "u.name, CASE WHEN u.show_presence AND u.show_last_seen THEN u.last_seen ELSE 0 END",
        # From the side that has fewer conversations: who has thousands costs as much as those who are asked about have.
        f"FROM json_each(?2) w JOIN users u ON u.name = w.value WHERE CASE WHEN"  # noqa: S608
        f" (SELECT count(*) FROM (SELECT 1 FROM members WHERE user = u.no LIMIT {_OWN})) < {_OWN}"
        " THEN EXISTS (SELECT 1 FROM members b CROSS JOIN members a ON a.conv = b.conv AND a.user = ?1"
        f" WHERE b.user = u.no AND a.left IS NULL AND b.left IS NULL AND {_TOGETHER})"
        " ELSE EXISTS (SELECT 1 FROM members a CROSS JOIN members b ON b.conv = a.conv AND b.user = u.no"
        f" WHERE a.user = ?1 AND a.left IS NULL AND b.left IS NULL AND {_TOGETHER}) END",
        user_no, json.dumps(names),
    )  # fmt: skip
    return [Acquaintance(user, last_seen) for user, last_seen in found]


def privacies(connection: apsw.Connection, names: Sequence[str]) -> dict[str, Privacy]:
    found = rows(
        connection, "u.name, u.show_presence, u.show_last_seen",
        "FROM json_each(?1) w JOIN users u ON u.name = w.value", json.dumps(names),
    )  # fmt: skip
    return {user: Privacy(bool(presence), bool(last_seen)) for user, presence, last_seen in found}
