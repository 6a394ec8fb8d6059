"""Whether a store's file is what the port promises: each question is a query that finds what breaks it.

Reads one snapshot, also beside servers that write; memory is SQLite's own, whatever the file's size. The whole of a file is
read some ten times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, cast

import apsw

from chatd.adapters.sqlite.database import check_version, translated, unreadable_is_unavailable

SHOWN: Final = 10
"""Violations that are told of one promise."""

COUNTED: Final = ("users", "devices", "conversations", "events")

PROMISES: Final[tuple[tuple[str, str], ...]] = (
    ("the file is whole", "SELECT * FROM pragma_integrity_check WHERE integrity_check != 'ok'"),
    (
        "what refers to a row finds it",
        "SELECT 'a row of ' || \"table\" || ' refers to none of ' || parent FROM pragma_foreign_key_check",
    ),
    (
        "every log is 1, 2, 3, ... to its head",
        (
            "SELECT c.id || ': head ' || c.head || ', ' || count(e.no) || ' events from ' || ifnull(min(e.seq), 0) || ' to '"
            " || ifnull(max(e.seq), 0) FROM conversations c LEFT JOIN events e ON e.conv = c.no GROUP BY c.no"
            " HAVING count(e.no) != c.head OR (c.head > 0 AND (min(e.seq) != 1 OR max(e.seq) != c.head))"
        ),
    ),
    (
        "every event is of a conversation",
        (
            "SELECT 'events of a conversation ' || conv || ' that is not there' FROM"
            " (SELECT DISTINCT conv FROM events) WHERE conv NOT IN (SELECT no FROM conversations)"
        ),
    ),
    (
        "every number of a device is stored once",
        (
            "SELECT u.name || '/' || d.name || ': cseq ' || d.cseq || ', ' || count(e.no) || ' stored, to '"
            " || ifnull(max(e.cseq), 0)"
            " FROM devices d JOIN users u ON u.no = d.user LEFT JOIN events e ON e.device = d.no AND e.cseq > 0"
            " GROUP BY d.no HAVING count(e.no) != d.cseq OR (d.cseq > 0 AND max(e.cseq) != d.cseq)"
        ),
    ),
    (
        "what a device said is in its order",
        (
            "SELECT conv || ':' || seq || ' has cseq ' || cseq || ' after ' || before FROM (SELECT conv, seq, cseq, lag(cseq)"
            " OVER (PARTITION BY conv, device ORDER BY seq) AS before FROM events WHERE cseq > 0) WHERE before >= cseq"
        ),
    ),
    (
        "time does not go back in a log",
        (
            "SELECT conv || ':' || seq || ' is of ' || at || ', the one before of ' || before FROM (SELECT conv, seq, at, lag(at)"
            " OVER (PARTITION BY conv ORDER BY seq) AS before FROM events) WHERE before > at"
        ),
    ),
    (
        "every cursor is within its log",
        (
            "SELECT u.name || '/' || d.name || ' has ' || c.id || ' to ' || x.seq || ' of ' || c.head FROM cursors x"
            " JOIN conversations c ON c.no = x.conv JOIN devices d ON d.no = x.device JOIN users u ON u.no = d.user"
            " WHERE x.seq > c.head OR x.seq < 0"
        ),
    ),
    (
        "every mark is within its log",
        (
            "SELECT u.name || ' has read ' || c.id || ' to ' || m.read || ', and it to ' || m.delivered || ', of ' || c.head"
            " FROM members m JOIN conversations c ON c.no = m.conv JOIN users u ON u.no = m.user"
            " WHERE m.read > c.head OR m.delivered > c.head OR m.read < 0"
        ),
    ),
    (
        "every membership begins and ends in the log",
        (
            "SELECT u.name || ' is in ' || c.id || ' from ' || m.joined || ' to ' || ifnull(m.left, 'now') FROM members m"
            " JOIN conversations c ON c.no = m.conv JOIN users u ON u.no = m.user"
            " LEFT JOIN events e ON e.conv = m.conv AND e.seq = m.left"
            " WHERE m.joined > c.head OR (m.left IS NOT NULL AND (m.left < m.joined OR e.kind IS NOT 'left'))"
        ),
    ),
    (
        "what is filed of an event has the event",
        (
            "SELECT 'a reply ' || conv || ':' || seq FROM replies r WHERE NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.conv = r.conv AND e.seq = r.seq)"
            " UNION ALL SELECT 'an edit ' || conv || ':' || seq FROM edits r WHERE NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.conv = r.conv AND e.seq = r.seq)"
            " UNION ALL SELECT 'a mention ' || conv || ':' || seq FROM mentions r WHERE NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.conv = r.conv AND e.seq = r.seq)"
        ),
    ),
)
"""Each with the query that finds what breaks it, in words."""


class Report(NamedTuple):
    """``counts``: rows by table. ``broken``: how many of PROMISES do not hold."""

    counts: dict[str, int]
    broken: int


def verify(path: Path, tell: Callable[[str, list[str]], None]) -> Report:
    """Ask everything of the file; ``tell`` gets each promise with what breaks it, as it is found, at most SHOWN. Changes nothing,
    not even the file's mode. Raises NewerSchema, and Unavailable, also where it is no database of this version."""
    with translated(), unreadable_is_unavailable(path), closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(5000)
        connection.execute("PRAGMA query_only = ON")
        check_version(connection, path, exactly=True)
        connection.execute("BEGIN")
        counts = {table: _first(connection, f"SELECT count(*) FROM {table}") for table in COUNTED}  # noqa: S608 - ours
        broken = 0
        for promise, query in PROMISES:
            found = [str(row[0]) for row in islice(connection.execute(query), SHOWN)]
            broken += bool(found)
            tell(promise, found)
        connection.execute("ROLLBACK")
    return Report(counts, broken)


def _first(connection: apsw.Connection, query: str) -> int:
    return cast("int", connection.execute(query).fetchall()[0][0])
