"""Whether a store's file is what the port promises: each question is a query, or reads all rows, to find what breaks it.

Reads one snapshot, also beside servers that write. Memory is SQLite's own and one row's, whatever the file's size. The whole of
a file is read some ten times.
Measured with 200,000 messages of 120 bytes, on two cores with others at work: 88,000 rows a second, half of the time for their
payloads.

Of a file of an earlier version is asked what it can answer, so that one knows what one has before an upgrade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import apsw
from chatd_protocol.codec import change_digest, content_digest

from chatd.adapters.sqlite.database import check_file, check_version, schema_of, translated, unreadable_is_unavailable
from chatd.adapters.sqlite.payloads import fields_of
from chatd.store.port import Unavailable

SHOWN: Final = 10
"""Violations that are told of one promise."""

COUNTED: Final = ("users", "devices", "conversations", "events")

PARTICIPANTS: Final = 1024
"""1:1 conversations whose names are remembered while digests are compared."""

_CHANGES: Final = {"edit": "edit", "delete": "delete", "reaction": "react"}
"""Event kinds with the messages that they come of."""


class Promise(NamedTuple):
    """``broken``: a query of, or a function that finds, what breaks it, in words. ``since``: the schema that can be asked."""

    name: str
    broken: str | Callable[[apsw.Connection], Iterator[str]]
    since: int = 1


def _foreign(connection: apsw.Connection) -> Iterator[str]:
    """A trigger would do with every commit what nobody has asked for; without an index what is unique would be no more."""
    with closing(schema_of(connection.pragma("user_version"))) as made:
        ours, there = _objects(made), _objects(connection)
    for kind, name in sorted(ours.keys() | there.keys()):
        if (kind, name) not in ours:
            yield f"the {kind} {name} is not chatd's"
        elif (kind, name) not in there:
            yield f"the {kind} {name} is missing"
        elif ours[kind, name] != there[kind, name]:
            yield f"the {kind} {name} is not as chatd makes it"


def _objects(connection: apsw.Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """But for what ANALYZE leaves."""
    query = "SELECT type, name, tbl_name, ifnull(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_stat%' ESCAPE '!'"
    rows = cast("list[tuple[str, str, str, str]]", connection.execute(query).fetchall())
    return {(kind, name): (table, " ".join(sql.split())) for kind, name, table, sql in rows}


def _unreadable(connection: apsw.Connection) -> Iterator[str]:
    """The payloads are what readers are given whole, and the digests that are kept are theirs."""
    told = lru_cache(maxsize=PARTICIPANTS)(partial(_told, connection))
    query = "SELECT conv, seq, sender, kind, payload, digest FROM events"
    for conv, seq, sender, kind, payload, digest in cast("Iterator[tuple[Any, ...]]", connection.execute(query)):
        if fields_of(kind, payload) is None:
            yield f"{conv}:{seq}: what the {kind} event says cannot be read"
        elif digest and not _is_digest(digest, kind, payload, told(conv, sender)):
            yield f"{conv}:{seq}: what the {kind} event says is not what was stored"


def _told(connection: apsw.Connection, conv: int, sender: int) -> tuple[str, ...]:
    """How somebody can have named a conversation as the place that a message goes to."""
    query = (
        "SELECT c.id FROM conversations c WHERE c.no = ?1 UNION ALL SELECT '@' || u.name FROM conversations c"
        " JOIN users u ON u.no = iif(c.dm_low = ?2, c.dm_high, c.dm_low) WHERE c.no = ?1"
    )
    return tuple(str(row[0]) for row in connection.execute(query, (conv, sender)).fetchall())


def _is_digest(digest: bytes, kind: str, payload: bytes, places: tuple[str, ...]) -> bool:
    if (change := _CHANGES.get(kind)) is not None:
        return digest in [change_digest(change, place, payload) for place in places]
    return digest in [content_digest(place, payload) for place in places]


PROMISES: Final = (
    Promise("the file is whole", "SELECT * FROM pragma_integrity_check WHERE integrity_check != 'ok'"),
    Promise(
        "what refers to a row finds it",
        "SELECT 'a row of ' || \"table\" || ' refers to none of ' || parent FROM pragma_foreign_key_check",
    ),
    Promise(
        "every log is 1, 2, 3, ... to its head",
        (
            "SELECT c.id || ': head ' || c.head || ', ' || count(e.no) || ' events from ' || ifnull(min(e.seq), 0) || ' to '"
            " || ifnull(max(e.seq), 0) FROM conversations c LEFT JOIN events e ON e.conv = c.no GROUP BY c.no"
            " HAVING count(e.no) != c.head OR (c.head > 0 AND (min(e.seq) != 1 OR max(e.seq) != c.head))"
        ),
    ),
    Promise(
        "every event is of a conversation",
        (
            "SELECT 'events of a conversation ' || conv || ' that is not there' FROM"
            " (SELECT DISTINCT conv FROM events) WHERE conv NOT IN (SELECT no FROM conversations)"
        ),
    ),
    Promise(
        "every number of a device is stored once",
        (
            "SELECT u.name || '/' || d.name || ': cseq ' || d.cseq || ', ' || count(e.no) || ' stored, to '"
            " || ifnull(max(e.cseq), 0)"
            " FROM devices d JOIN users u ON u.no = d.user LEFT JOIN events e ON e.device = d.no AND e.cseq > 0"
            " GROUP BY d.no HAVING count(e.no) != d.cseq OR (d.cseq > 0 AND max(e.cseq) != d.cseq)"
        ),
    ),
    Promise(
        "what a device said is in its order",
        (
            "SELECT conv || ':' || seq || ' has cseq ' || cseq || ' after ' || before FROM (SELECT conv, seq, cseq, lag(cseq)"
            " OVER (PARTITION BY conv, device ORDER BY seq) AS before FROM events WHERE cseq > 0) WHERE before >= cseq"
        ),
    ),
    Promise(
        "time does not go back in a log",
        (
            "SELECT conv || ':' || seq || ' is of ' || at || ', the one before of ' || before FROM (SELECT conv, seq, at, lag(at)"
            " OVER (PARTITION BY conv ORDER BY seq) AS before FROM events) WHERE before > at"
        ),
    ),
    Promise(
        "every cursor is within its log",
        (
            "SELECT u.name || '/' || d.name || ' has ' || c.id || ' to ' || x.seq || ' of ' || c.head FROM cursors x"
            " JOIN conversations c ON c.no = x.conv JOIN devices d ON d.no = x.device JOIN users u ON u.no = d.user"
            " WHERE x.seq > c.head OR x.seq < 0"
        ),
    ),
    Promise(
        "every mark is within its log",
        (
            "SELECT u.name || ' has read ' || c.id || ' to ' || m.read || ', and it to ' || m.delivered || ', of ' || c.head"
            " FROM members m JOIN conversations c ON c.no = m.conv JOIN users u ON u.no = m.user"
            " WHERE m.read > c.head OR m.delivered > c.head OR m.read < 0"
        ),
    ),
    Promise(
        "every membership begins and ends in the log",
        (
            "SELECT u.name || ' is in ' || c.id || ' from ' || m.joined || ' to ' || ifnull(m.left, 'now') FROM members m"
            " JOIN conversations c ON c.no = m.conv JOIN users u ON u.no = m.user"
            " LEFT JOIN events e ON e.conv = m.conv AND e.seq = m.left"
            " WHERE m.joined > c.head OR (m.left IS NOT NULL AND (m.left < m.joined OR e.kind IS NOT 'left'))"
        ),
    ),
    Promise(
        "what is filed of an event has the event",
        (
            "SELECT 'a reply ' || conv || ':' || seq FROM replies r WHERE NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.conv = r.conv AND e.seq = r.seq)"
            " UNION ALL SELECT 'an edit ' || conv || ':' || seq FROM edits r WHERE NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.conv = r.conv AND e.seq = r.seq)"
            " UNION ALL SELECT 'a mention ' || conv || ':' || seq FROM mentions r WHERE NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.conv = r.conv AND e.seq = r.seq)"
        ),
        since=4,
    ),
    Promise("what every event says can be read", _unreadable),
    Promise("everything in the file is chatd's", _foreign),
)
"""In the order in which they are asked."""


class Report(NamedTuple):
    """``counts``: rows by table. ``broken``: how many of PROMISES do not hold."""

    counts: dict[str, int]
    broken: int


def verify(path: Path, tell: Callable[[str, list[str]], None]) -> Report:
    """Ask everything of the file; ``tell`` gets each promise with what breaks it, as it is found, at most SHOWN. Changes nothing,
    not even the file's mode. Raises NewerSchema, and Unavailable, also where it is no store of chatd."""
    check_file(path)
    with translated(), unreadable_is_unavailable(path), closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(5000)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("BEGIN")
        version = check_version(connection, path)
        if version < 1:
            raise Unavailable(f"{path}: no store of chatd")
        counts = {table: _first(connection, f"SELECT count(*) FROM {table}") for table in COUNTED}  # noqa: S608 - ours
        broken = 0
        for promise in PROMISES:
            if promise.since <= version:
                found = list(islice(_broken(connection, promise), SHOWN))
                broken += bool(found)
                tell(promise.name, found)
        connection.execute("ROLLBACK")
    return Report(counts, broken)


def _broken(connection: apsw.Connection, promise: Promise) -> Iterator[str]:
    if isinstance(promise.broken, str):
        return (str(row[0]) for row in connection.execute(promise.broken))
    return promise.broken(connection)


def _first(connection: apsw.Connection, query: str) -> int:
    return cast("int", connection.execute(query).fetchall()[0][0])
