"""Searching and completing: what is read, each a function of a read-only connection (see ``reads``).

The index (``search_index``), attached as ``search``, proposes messages; the log, in the same snapshot, decides. Whether the
user is a member now, may see that ``seq``, whether it is deleted, or edited since it was indexed: all are asked for each
message, so that an index that lags, or is wrong, can leave out and never tell.

Who may see what is also in the question to the index, as the conversations' numbers: a common word is in half of all
messages, and FTS5 steps over those that are in none of the user's.
"""

from __future__ import annotations

import json

import apsw

from chatd.adapters.sqlite.current import as_it_is
from chatd.adapters.sqlite.reads import rows
from chatd.adapters.sqlite.search_index import BUCKET
from chatd.conversations.operations import Event
from chatd.store.port import RANKED, Matches, Place, Search
from chatd.store.query import Term, begins_a_word, fold

_FOR_EVER = 2**62
_MEMBER = "FROM members m JOIN conversations c ON c.no = m.conv WHERE m.user = ?1 AND c.id = ?2 AND m.left IS NULL"
# An unknown sender, and a user without conversations, make it NULL: the empty string of FTS5's language finds nothing.
_MATCH = """coalesce(
    'place : ((' || (SELECT group_concat('c' || m.conv, ' OR ') FROM members m
        WHERE m.user = ?1 AND m.left IS NULL AND m.conv = coalesce(?3, m.conv)) || ')'
    || iif(?4 IS NULL, '', ' AND u' || (SELECT no FROM users WHERE name = ?4)) || ') AND body : (' || ?2 || ')', '""')
"""
_HITS = f"""
    SELECT e.no, {{score}} AS score, l.no AS latest, length(coalesce(l.payload, e.payload)) + 100 AS size
    FROM search.found
    CROSS JOIN events e ON e.no = found.rowid
    CROSS JOIN members m ON m.conv = e.conv AND m.user = ?1
    LEFT JOIN events l ON l.conv = e.conv
        AND l.seq = (SELECT max(d.seq) FROM edits d WHERE d.conv = e.conv AND d.target = e.seq)
    LEFT JOIN search.edited x ON x.no = e.no
    WHERE found MATCH {_MATCH}
    AND found.rowid <= min(?7, (SELECT coalesce(max(bucket), -1) * {BUCKET} + {BUCKET - 1} FROM search.moments WHERE low < ?5))
    AND found.rowid >= (SELECT coalesce(min(bucket) * {BUCKET}, {_FOR_EVER}) FROM search.moments WHERE high > ?6)
    AND e.kind = 'message' AND NOT e.deleted AND m.left IS NULL AND e.seq >= m.first
    AND coalesce(x.seq, 0) = coalesce(l.seq, 0) AND e.at < ?5 AND e.at > ?6
    ORDER BY found.rowid DESC LIMIT ?8
"""  # noqa: S608
_PAGE = f"""
    SELECT h.*, sum(h.size) OVER way AS total, row_number() OVER way AS place, count(*) OVER () AS found FROM (
        SELECT * FROM ({_HITS}) ORDER BY score, no DESC LIMIT ?9 + 1 OFFSET ?10) h
    WINDOW way AS (ORDER BY h.score, h.no DESC)
"""  # noqa: S608
# This module's own texts alone; values are always bound. Scores are of the text: a word's weight as a place is none.
_BM25 = "bm25(found, 0.0, 1.0)"
_COLUMNS = (
    "c.id, e.seq, e.at, u.name, e.kind, hex(e.payload), e.device, e.cseq, l.seq, hex(l.payload), s.found, s.no,"
    " (SELECT max(no) FROM events)"
)
_OTHER = "iif(c.dm_low = ?1, c.dm_high, c.dm_low)"
_NAMES = """(
    SELECT json_group_array(o.name) FROM members m JOIN users o ON o.no = m.user WHERE w.kind = 'dm' AND m.conv = w.no)"""


def attach(connection: apsw.Connection, index: str) -> apsw.Connection:
    """The same connection, now with the index at that path, which is there."""
    connection.execute("ATTACH ? AS search", (index,))
    return connection


def parse_cursor(cursor: str | None, *, ranked: bool) -> tuple[int, int]:
    """Up to which event, and after how many of those in the order of rank. Raises ValueError."""
    if cursor is None:
        return _FOR_EVER, 0
    upto, dot, offset = cursor.partition(".")
    if bool(dot) != ranked or not all(part.isascii() and part.isdigit() for part in (upto, offset or "0")):
        raise ValueError("not a cursor")
    return min(int(upto), _FOR_EVER), min(int(offset or 0), RANKED)


def search(
    connection: apsw.Connection, user_no: int, wanted: Search, upto: int, offset: int, limit: int, max_bytes: int
) -> tuple[list[Event], str | None] | None:
    """``upto`` and ``offset``: of ``parse_cursor``."""
    conv = None
    if wanted.conv is not None:
        place = rows(connection, "c.no", _MEMBER, user_no, wanted.conv)
        if not place:
            return None
        conv = place[0][0]
    found = rows(
        connection, _COLUMNS,
        f"FROM ({_PAGE.format(score=_BM25 if wanted.ranked else '0.0')}) s CROSS JOIN events e ON e.no = s.no"
        " LEFT JOIN events l ON l.no = s.latest JOIN conversations c ON c.no = e.conv JOIN users u ON u.no = e.sender"
        " WHERE s.place = 1 OR s.place <= ?9 AND s.total <= ?11 ORDER BY s.place",
        user_no, " AND ".join(map(_phrase, wanted.terms)), conv, wanted.sender,
        _FOR_EVER if wanted.before is None else wanted.before, -1 if wanted.after is None else wanted.after,
        upto, RANKED if wanted.ranked else limit + 1, limit, offset, max_bytes,
    )  # fmt: skip
    events = [as_it_is(row[:11]) for row in found]
    if not found or len(found) == found[0][10]:
        return events, None
    if wanted.ranked:
        return events, f"{min(upto, found[0][12])}.{offset + len(found)}"
    return events, str(found[-1][11] - 1)


def _phrase(term: Term) -> str:
    """A string of FTS5's language: nothing in it means anything but a quotation mark, which is doubled."""
    text = term.text.replace('"', '""').replace("\0", " ")
    return f'"{text}"*' if term.prefix else f'"{text}"'


def find(connection: apsw.Connection, user_no: int, text: str, conv: str | None, limit: int) -> Matches | None:
    begin = fold(text).strip()
    names = (begin, f"{begin}\x7f")  # beyond every character of a name
    place = [] if conv is None else rows(connection, "c.no", _MEMBER, user_no, conv)
    if conv is not None and not place:
        return None
    if not begin:  # of accents alone; everybody's name begins with nothing
        return Matches([], [])
    if conv is not None:
        members = rows(
            connection, "u.name",
            "FROM members m CROSS JOIN users u ON u.no = m.user"
            " WHERE m.conv = ?1 AND m.left IS NULL AND u.name >= ?2 AND u.name < ?3 ORDER BY u.name LIMIT ?4",
            place[0][0], *names, limit,
        )  # fmt: skip
        return Matches([name for (name,) in members], [])
    users = rows(connection, "name", "FROM users WHERE name >= ?1 AND name < ?2 ORDER BY name LIMIT ?3", *names, limit)
    # Of groups all titles, for SQLite cannot fold them; of dms those whose other one is named so.
    places = rows(
        connection, f"w.id, w.kind, w.title, {_NAMES}",
        f"FROM (SELECT c.* FROM members m JOIN conversations c ON c.no = m.conv"  # noqa: S608
        f" LEFT JOIN users o ON c.kind = 'dm' AND o.no = {_OTHER}"
        " WHERE m.user = ?1 AND m.left IS NULL AND (c.kind = 'group' OR o.name >= ?2 AND o.name < ?3)"
        " ORDER BY c.newest DESC, c.no DESC) w ORDER BY w.newest DESC, w.no DESC",
        user_no, *names,
    )  # fmt: skip
    matching = [row for row in places if row[1] == "dm" or begins_a_word(begin, row[2])]
    return Matches(
        [name for (name,) in users],
        [Place(id, kind, title, sorted(json.loads(members))) for id, kind, title, members in matching[:limit]],
    )
