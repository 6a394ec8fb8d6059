"""Searching and completing: what is read, each a function of a read-only connection (see ``reads``).

The index (``search_index``), attached as ``search``, proposes messages; the log, in the same snapshot, decides. Whether the
user is a member now, may see that ``seq``, and that of the edit whose words they are, whether it is deleted, or edited since
it was indexed: all are asked for each message, so that an index that lags, or is wrong, can leave out and never tell.

Who may see what is also in the question to the index, as the conversations' numbers: a common word is in half of all
messages, and FTS5 steps over those that are in none of the user's. What it still steps over is bounded by time: a search
that has worked for half a second looks through the newest part alone, and gives a cursor to go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, thread_time
from typing import Any, NamedTuple

import apsw

from chatd.adapters.sqlite.current import as_it_is
from chatd.adapters.sqlite.memberships import entered, may_see
from chatd.adapters.sqlite.reads import MAY_SEE, NAMES, numbers, rows, visible
from chatd.adapters.sqlite.search_index import BUCKET
from chatd.conversations.operations import Event
from chatd.store.port import RANKED, Matches, Place, SearchTerms, Unavailable
from chatd.store.query import Term, by_words, fold

SEARCH_SECONDS = 0.5
"""Of a processor: on a busy machine a search takes longer, and is not refused for that."""
PATIENCE_SECONDS = 3.0
"""By the clock, for a slow disk. Each holds for a look, of which a search has two at most."""
RECENT = 16 * BUCKET
STEPS_BETWEEN_LOOKS = 100_000
"""Of SQLite's machine, some 10 ms: each look at the clock must win the interpreter's lock from a busy Trio thread."""
RANKED_BYTES = 2048
"""Of a body whose hits are counted for its rank, 0.2 s for RANKED of them at worst. A longer one ranks by its length."""
NAMED_PLACES = 2000
"""FTS5 takes 6 ms to read a question with so many, 25 with twice, and 4 s with sixteen times as many."""

_FOR_EVER = 2**62
_PLACES = f"""
    SELECT m.conv, iif(m.first < m.joined OR {entered("m.conv", "m.user", "m.joined")} < m.joined, 0, m.began + 1) AS oldest
    FROM members m
    WHERE m.user = ?1 AND m.left IS NULL LIMIT {NAMED_PLACES} + 1
"""  # noqa: S608
# Buckets that hold nothing of that time are not looked at.
_WHEN = f"""
    (SELECT max(no) FROM events),
    (SELECT coalesce(max(bucket), -1) * {BUCKET} + {BUCKET - 1} FROM search.moments WHERE low < ?1),
    (SELECT coalesce(min(bucket) * {BUCKET}, {_FOR_EVER}) FROM search.moments WHERE high > ?2)
"""  # noqa: S608
_SEES_EDIT = f"(l.seq IS NULL OR {may_see('l.seq', 'e.conv', 'm.user', 'm.first')})"
"""The index has the newest wording alone: to whom that is not shown, the message is not found."""
_HITS = f"""
    SELECT e.no, {{score}} AS score, l.no AS latest, length(coalesce(l.payload, e.payload)) + 100 AS size
    FROM search.found
    CROSS JOIN events e ON e.no = found.rowid
    CROSS JOIN members m ON m.conv = e.conv AND m.user = ?1
    LEFT JOIN events l ON l.conv = e.conv
        AND l.seq = (SELECT max(d.seq) FROM edits d WHERE d.conv = e.conv AND d.target = e.seq)
    LEFT JOIN search.edited x ON x.no = e.no
    WHERE found MATCH ?2 AND found.rowid >= ?3 AND found.rowid <= ?4
    AND e.kind = 'message' AND NOT e.deleted AND {MAY_SEE} AND {_SEES_EDIT}
    AND coalesce(x.seq, 0) = coalesce(l.seq, 0) AND e.at < ?5 AND e.at > ?6
    ORDER BY found.rowid DESC LIMIT ?7
"""  # noqa: S608
_PAGE = f"""
    SELECT h.*, sum(h.size) OVER way AS total, row_number() OVER way AS place, count(*) OVER () AS found FROM (
        SELECT * FROM (SELECT *, count(*) OVER () AS hits FROM ({_HITS})) WHERE (score, -no) > (?9, -?11)
        ORDER BY score, no DESC LIMIT ?8 + 1) h
    WINDOW way AS (ORDER BY h.score, h.no DESC)
"""  # noqa: S608
# This module's own texts alone; values are always bound.
_HIT_COUNT = f"""max(1, iif(octet_length(found.body) <= {RANKED_BYTES},
    octet_length(highlight(found, 1, char(1), '')) - octet_length(found.body), 1))"""
_DULL = "(0.3 + 0.015 * octet_length(found.body))"
_SCORE = f"CAST(1000000 * {_DULL} / ({_HIT_COUNT} + {_DULL}) AS INTEGER)"
"""The lower the better, and more than 0: as bm25 weighs hits against length, with 60 bytes as the average. Of the text alone:
what bm25 takes from the whole index, how many messages have the word and how long they are, moves with each message that
anybody writes, and a page that goes on behind a score of before would leave out and repeat."""
_COLUMNS = (
    "c.id, e.seq, e.at, u.name, e.kind, hex(e.payload), e.device, e.cseq, l.seq, hex(l.payload), s.found, s.no, s.hits, s.score"
)
_OTHER = "iif(c.dm_low = ?1, c.dm_high, c.dm_low)"


def attach(connection: apsw.Connection, index: str) -> apsw.Connection:
    """The same connection, now with the index at that path, which is there."""
    connection.execute("ATTACH ? AS search", (index,))
    return connection


class Begin(NamedTuple):
    """Up to which event; from which on, or 0; and behind which of those, in the order of rank."""

    upto: int = _FOR_EVER
    since: int = 0
    score: int = 0
    no: int = 0


def parse_cursor(cursor: str | None, *, ranked: bool) -> Begin:
    """Raises ValueError."""
    if cursor is None:
        return Begin()
    return Begin(*numbers(cursor, 4 if ranked else 1))


def search(
    connection: apsw.Connection, user_no: int, wanted: SearchTerms, begin: Begin, limit: int, max_bytes: int
) -> tuple[list[Event], str | None] | None:
    """``begin``: of ``parse_cursor``. Raises Unavailable where there was no time for the newest part either."""
    upto, since, *behind = begin
    conv = None
    if wanted.conv is not None:
        place = visible(connection, user_no, wanted.conv)
        if place is None:
            return None
        conv = (place.no, place.earliest)
    question = _question(connection, user_no, wanted, conv)
    if question is None:
        return [], None
    match, oldest = question
    times = _FOR_EVER if wanted.before is None else wanted.before, -1 if wanted.after is None else wanted.after
    ((newest, high, low),) = rows(connection, _WHEN, "", *times)
    upto, oldest = min(upto, high, newest or 0), max(oldest, low, 1)
    looked = RANKED if wanted.ranked else limit + 1
    score = _SCORE if wanted.ranked else "1"

    def look(since: int) -> list[list[Any]]:
        return rows(
            connection, _COLUMNS,
            f"FROM ({_PAGE.format(score=score)}) s CROSS JOIN events e ON e.no = s.no"
            " LEFT JOIN events l ON l.no = s.latest JOIN conversations c ON c.no = e.conv JOIN users u ON u.no = e.sender"
            " WHERE s.place = 1 OR s.place <= ?8 AND s.total <= ?10 ORDER BY s.place",
            user_no, match, since, upto, *times, looked, limit, behind[0], max_bytes, behind[1],
        )  # fmt: skip

    found, reached = _look_back(connection, look, upto, max(oldest, since), at_once=since > 0)
    events = [as_it_is(row[:11]) for row in found]
    if found and len(found) < found[0][10]:
        _, no, _, score_of_last = found[-1][10:]
        return events, f"{upto}.{reached}.{score_of_last}.{no}" if wanted.ranked else str(no - 1)
    if reached <= oldest or (found and found[0][12] >= looked):
        return events, None
    return events, f"{reached - 1}.0.0.0" if wanted.ranked else str(reached - 1)


def _question(
    connection: apsw.Connection, user_no: int, wanted: SearchTerms, conv: tuple[int, int] | None
) -> tuple[str, int] | None:
    """In FTS5's language, and the oldest event that the answer may hold. None where nothing can be found.

    ``conv``: the number of the only conversation, and the first ``seq`` in it. A member who does not see what was before the
    own time sees nothing older than the membership (``began``); of one
    who was one before, the log decides alone.
    """
    if conv is not None:
        places = [[conv[0], _first(connection, *conv)]]
    else:
        places = rows(connection, "p.conv, p.oldest", f"FROM ({_PLACES}) p", user_no)
    if not places:
        return None
    named, oldest = "", 0
    if len(places) <= NAMED_PLACES:
        named = f"place : ({' OR '.join(f'c{no}' for no, _ in places)}) AND "
        oldest = min(first for _, first in places)
    if wanted.sender is not None:
        sender = rows(connection, "no", "FROM users WHERE name = ?1", wanted.sender)
        if not sender:
            return None
        named += f"place : u{sender[0][0]} AND "
    return f"{named}body : ({' AND '.join(map(_phrase, wanted.terms))})", oldest


def _first(connection: apsw.Connection, conv: int, first: int) -> int:
    found = rows(connection, "no", "FROM events WHERE conv = ?1 AND seq = ?2", conv, first)
    return int(found[0][0]) if found else 0


def _look_back(
    connection: apsw.Connection, look: Callable[[int], list[list[Any]]], upto: int, oldest: int, *, at_once: bool
) -> tuple[list[list[Any]], int]:
    """What there is since an event, and that event: the oldest, or where there is no time for that, one less far back.

    ``at_once``: the oldest or nothing. The shorter look comes second and not first, for most searches are done long before
    their time, and what a prefix costs FTS5 before it gives anything is the same for both.
    """
    recent = max(oldest, upto + 1 - RECENT)
    for since in (oldest,) if at_once or recent == oldest else (oldest, recent):
        with suppress(apsw.InterruptError), _bounded(connection):
            return look(since), since
    raise Unavailable("the search took too long; narrow it, or try again")


@contextmanager
def _bounded(connection: apsw.Connection) -> Iterator[None]:
    """What runs on the connection in this thread is interrupted when it has worked, or taken, too long."""
    worked, passed = thread_time() + SEARCH_SECONDS, monotonic() + PATIENCE_SECONDS
    connection.set_progress_handler(lambda: thread_time() > worked or monotonic() > passed, STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        connection.set_progress_handler(None)


def _phrase(term: Term) -> str:
    """A string of FTS5's language: nothing in it means anything but a quotation mark, which is doubled."""
    text = term.text.replace('"', '""').replace("\0", " ")
    return f'"{text}"*' if term.prefix else f'"{text}"'


def find(connection: apsw.Connection, user_no: int, text: str, conv: str | None, limit: int) -> Matches | None:
    begin = fold(text).strip()
    names = (begin, f"{begin}\x7f")  # beyond every character of a name
    place = None if conv is None else visible(connection, user_no, conv)
    if conv is not None and place is None:
        return None
    if not begin:  # of accents alone; everybody's name begins with nothing
        return Matches([], [])
    if place is not None:
        members = rows(
            connection, "u.name",
            "FROM members m CROSS JOIN users u ON u.no = m.user"
            " WHERE m.conv = ?1 AND m.left IS NULL AND u.name >= ?2 AND u.name < ?3 ORDER BY u.name LIMIT ?4",
            place.no, *names, limit,
        )  # fmt: skip
        return Matches([name for (name,) in members], [])
    users = rows(connection, "name", "FROM users WHERE name >= ?1 AND name < ?2 ORDER BY name LIMIT ?3", *names, limit)
    places = rows(
        connection, f"w.id, w.kind, w.title, {NAMES}",
        f"FROM (SELECT c.* FROM members m JOIN conversations c ON c.no = m.conv"  # noqa: S608
        f" LEFT JOIN users o ON c.kind = 'dm' AND o.no = {_OTHER} WHERE m.user = ?1 AND m.left IS NULL"
        " AND (c.kind = 'group' AND instr(c.words, ?5) OR o.name >= ?2 AND o.name < ?3)"
        " ORDER BY c.newest DESC, c.no DESC LIMIT ?4) w ORDER BY w.newest DESC, w.no DESC",
        user_no, *names, limit, by_words(begin),
    )  # fmt: skip
    return Matches(
        [name for (name,) in users],
        [Place(id, kind, title, sorted(json.loads(members))) for id, kind, title, members in places],
    )
