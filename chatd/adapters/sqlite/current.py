"""Messages as they are now: the pages of threads and pins, with each message's latest body of those that the reader may see:
an edit that was made while they were not a member is none of theirs, as in the log (I8)."""

from __future__ import annotations

from typing import Any

import apsw
import cbor2

from chatd.adapters.sqlite.memberships import may_see, sees
from chatd.adapters.sqlite.payloads import fields_of, readable
from chatd.adapters.sqlite.reads import rows, visible
from chatd.conversations.operations import Event
from chatd.conversations.rules import MAX_PINS
from chatd.store.port import Page

THREAD_EVENTS = 5000
"""Of a thread that begins with a reply. One that begins with a message of its own is in an index, however long."""

_LATEST = f"""(
    SELECT max(d.seq) FROM edits d WHERE d.conv = ?1 AND d.target = x.seq AND {may_see("d.seq", "?1", "?6", "?7")})"""  # noqa: S608
_SIZED = f"""
    SELECT b.*, sum(b.size) OVER way AS total, row_number() OVER way AS place, count(*) OVER () AS found FROM (
        SELECT x.no, x.seq, l.no AS latest, coalesce(length(l.payload), length(x.payload)) + 100 AS size
        FROM ({{candidates}}) t CROSS JOIN events x ON x.conv = ?1 AND x.seq = t.seq
        LEFT JOIN events l ON l.conv = ?1 AND l.seq = {_LATEST}
        ORDER BY x.seq {{way}} LIMIT ?4 + 1) b
    WINDOW way AS (ORDER BY b.seq {{way}})
"""  # noqa: S608
# This module's own texts alone; values are always bound.
_PINNED = f"""
    SELECT t.target AS seq FROM pins t WHERE t.conv = ?1 AND t.target BETWEEN ?2 AND ?3
    AND {may_see("t.target", "?1", "?6", "?7")}
"""  # noqa: S608
_THREAD = f"""
    SELECT ?8 AS seq WHERE ?8 BETWEEN ?2 AND ?3
    UNION ALL
    SELECT r.seq FROM replies r WHERE r.conv = ?1 AND r.root = ?8 AND r.seq BETWEEN ?2 AND ?3
    AND {may_see("r.seq", "?1", "?6", "?7")}
    ORDER BY seq {{way}} LIMIT ?4 + 1
"""  # noqa: S608
# From each message to its first reply and to its next sibling: two rows a step, in order of seq, so that the bound bounds
# the work; all replies of each at once would be a million for a message that has so many. CROSS, for by itself SQLite goes
# through all replies of the conversation at each step: 4 s for a branch of 2500.
_BRANCH = f"""
    WITH RECURSIVE walk (seq, parent) AS (
        SELECT ?8, 0
        UNION ALL
        SELECT r.seq, r.parent FROM walk w CROSS JOIN replies r ON r.conv = ?1 AND r.parent = w.seq AND r.seq = (
            SELECT min(f.seq) FROM replies f WHERE f.conv = ?1 AND f.parent = w.seq)
        UNION ALL
        SELECT r.seq, r.parent FROM walk w CROSS JOIN replies r ON r.conv = ?1 AND r.parent = w.parent AND r.seq = (
            SELECT min(n.seq) FROM replies n WHERE n.conv = ?1 AND n.parent = w.parent AND n.seq > w.seq)
        ORDER BY 1 LIMIT {THREAD_EVENTS})
    SELECT seq FROM walk WHERE seq BETWEEN ?2 AND ?3 AND {may_see("walk.seq", "?1", "?6", "?7")}
"""  # noqa: S608


def thread(
    connection: apsw.Connection, user_no: int, conv: str, seq: int, after: int | None, before: int | None, limit: int,
    max_bytes: int,
) -> Page | None:  # fmt: skip
    seen = visible(connection, user_no, conv)
    if seen is None:
        return None
    no, earliest, first, last, _ = seen
    begun = rows(
        connection, "e.kind, r.seq",
        "FROM events e LEFT JOIN replies r ON r.conv = e.conv AND r.seq = e.seq WHERE e.conv = ?1 AND e.seq = ?2", no, seq,
    )  # fmt: skip
    if not begun or begun[0][0] != "message" or not sees(connection, no, user_no, seq, first):
        return None
    candidates = _THREAD if begun[0][1] is None else _BRANCH
    if after is not None:
        events, more = _page(connection, candidates, no, after + 1, last, "ASC", limit, max_bytes, user_no, first, seq)
        return Page(events, last, more, member=True)
    high = last if before is None else min(last, before - 1)
    events, more = _page(connection, candidates, no, earliest, high, "DESC", limit, max_bytes, user_no, first, seq)
    return Page(events[::-1], last, more, member=True)


def pins(connection: apsw.Connection, user_no: int, conv: str, after: int, max_bytes: int) -> Page | None:
    seen = visible(connection, user_no, conv)
    if seen is None:
        return None
    no, _, first, last, _ = seen
    events, more = _page(connection, _PINNED, no, after + 1, last, "ASC", MAX_PINS, max_bytes, user_no, first)
    return Page(events, last, more, member=True)


def _page(
    connection: apsw.Connection, candidates: str, no: int, low: int, high: int, way: str, limit: int, max_bytes: int,
    *more: object,
) -> tuple[list[Event], bool]:  # fmt: skip
    """Those of ``candidates``, at most ``limit`` and ``max_bytes`` of payload from that end, but at least one; and whether
    there are more. As in ``reads._events`` the sizes are summed before a payload is read."""
    sized = _SIZED.format(candidates=candidates.format(way=way), way=way)
    found = rows(
        connection,
        "c.id, e.seq, e.at, u.name, e.kind, hex(e.payload), e.device, e.cseq, l.seq, hex(l.payload), s.found",
        f"FROM ({sized}) s CROSS JOIN events e ON e.no = s.no LEFT JOIN events l ON l.no = s.latest"
        " JOIN conversations c ON c.no = e.conv JOIN users u ON u.no = e.sender"
        f" WHERE s.place = 1 OR s.place <= ?4 AND s.total <= ?5 ORDER BY e.seq {way}",
        no, low, high, limit, max_bytes, *more,
    )  # fmt: skip
    return [as_it_is(row) for row in found], bool(found) and len(found) < found[0][-1]


def as_it_is(row: list[Any]) -> Event:
    """Of an event's columns, then the ``seq`` and payload of the newest edit that may be seen, and one more."""
    conv, seq, at, sender, kind, payload, device, cseq, edited, latest, _ = row
    kind, said = readable(conv, seq, kind, bytes.fromhex(payload))
    if edited is not None and (edit := fields_of("edit", bytes.fromhex(latest))) is not None:
        said = cbor2.dumps(cbor2.loads(said) | {"body": edit["body"], "edited": edited})
    return Event(conv, seq, at, sender, kind, said, device, cseq)
