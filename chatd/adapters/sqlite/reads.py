"""What is read, each a function of a read-only connection; they run in reader threads.

Every query returns its rows as one JSON text, built by SQLite, in one step: each step of a statement gives up the
interpreter's lock and must win it back from a busy Trio thread, up to 5 ms a time; 200 rows would be a second.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, cast

import apsw

from chatd.conversations.operations import Event
from chatd.store.port import Account, Changes, Item, Member, Page, Standing

CHANGED_EVENTS = 10_000

_EVENT = "c.id, e.seq, e.at, u.name, e.kind, hex(e.payload), e.device, e.cseq"
_FROM_EVENTS = "FROM events e JOIN conversations c ON c.no = e.conv JOIN users u ON u.no = e.sender"
_VISIBLE = """
    SELECT c.no, c.id, c.kind, c.title, c.newest, m.left IS NULL AS member, m.first, m.joined,
           coalesce(m.left, c.head) AS last, m.read, m.delivered, m.user
    FROM members m JOIN conversations c ON c.no = m.conv WHERE m.user = ?1
"""


def rows(connection: apsw.Connection, columns: str, source: str, *values: object) -> list[list[Any]]:
    """All rows of ``SELECT columns source`` in one step."""
    names = [f"c{number}" for number in range(_count(columns))]
    inner = f"SELECT {columns} {source}"
    listed = ", ".join(names)
    # Made of this module's own texts alone; values are always bound.
    sql = f"WITH q({listed}) AS MATERIALIZED ({inner}) SELECT json_group_array(json_array({listed})) FROM q"  # noqa: S608
    found = connection.execute(sql, cast("Any", values)).fetchone()
    assert found is not None, "an aggregate always has a row"
    return cast("list[list[Any]]", json.loads(cast("str", found[0])))


def _count(columns: str) -> int:
    depth, count = 0, 1
    for character in columns:
        depth += {"(": 1, ")": -1}.get(character, 0)
        count += character == "," and depth == 0
    return count


def _event(row: list[Any]) -> Event:
    conv, seq, at, sender, kind, payload, device, cseq = row
    return Event(conv, seq, at, sender, kind, bytes.fromhex(payload), device, cseq)


def standings(connection: apsw.Connection, user_no: int, device_no: int) -> list[Standing]:
    found = rows(
        connection, "v.id, v.kind, v.member, v.first, v.last, coalesce(p.seq, v.joined - 1)",
        f"FROM ({_VISIBLE}) v LEFT JOIN cursors p ON p.device = ?2 AND p.conv = v.no ORDER BY v.newest DESC, v.no DESC",
        user_no, device_no,
    )  # fmt: skip
    return [Standing(conv, kind, bool(member), first, last, cursor) for conv, kind, member, first, last, cursor in found]


def page(
    connection: apsw.Connection, user_no: int, conv: str, after: int | None, before: int | None, limit: int, max_bytes: int,
    former: bool,
) -> Page | None:  # fmt: skip
    seen = rows(connection, "v.no, v.member, v.first, v.last", f"FROM ({_VISIBLE}) v WHERE v.id = ?2", user_no, conv)
    if not seen or not (seen[0][1] or former):
        return None
    no, _, first, last = seen[0]
    if after is not None:
        low, high, direction = max(first, after + 1), last, "ASC"
    else:
        low, high, direction = first, last if before is None else min(last, before - 1), "DESC"
    found = rows(
        connection, _EVENT,
        f"{_FROM_EVENTS} WHERE e.conv = ?1 AND e.seq BETWEEN ?2 AND ?3 ORDER BY e.seq {direction} LIMIT ?4",
        no, low, high, limit,
    )  # fmt: skip
    events: list[Event] = []
    room = max_bytes
    for row in found:
        event = _event(row)
        room -= len(event.payload) + 100
        if room < 0 and events:
            break
        events.append(event)
    if direction == "DESC":
        events.reverse()
        return Page(events, last, bool(events) and events[0].seq > low)
    return Page(events, last, bool(events) and events[-1].seq < high)


def log(connection: apsw.Connection, conv: str, after: int, limit: int) -> list[Event]:
    source = f"{_FROM_EVENTS} WHERE c.id = ?1 AND e.seq > ?2 ORDER BY e.seq LIMIT ?3"
    return [_event(row) for row in rows(connection, _EVENT, source, conv, after, limit)]


def changes(connection: apsw.Connection, token: int | None) -> Changes:
    newest = cast("int", rows(connection, "coalesce(max(no), 0)", "FROM events")[0][0])
    if token is None:
        return Changes({}, [], newest, False)
    upto = min(newest, token + CHANGED_EVENTS)
    heads = rows(
        connection, "c.id, max(e.seq)",
        "FROM events e JOIN conversations c ON c.no = e.conv WHERE e.no > ?1 AND e.no <= ?2 GROUP BY e.conv", token, upto,
    )  # fmt: skip
    # A membership is written in the same transaction as its event but numbered by what was there before it.
    joined = rows(
        connection, "u.name, c.id",
        "FROM members m JOIN users u ON u.no = m.user JOIN conversations c ON c.no = m.conv"
        " WHERE m.began >= ?1 AND m.began <= ?2 AND m.left IS NULL",
        token, upto,
    )  # fmt: skip
    return Changes(dict(heads), [(user, conv) for user, conv in joined], upto, upto < newest)


def conversations(
    connection: apsw.Connection, user_no: int, cursor: str | None, limit: int
) -> tuple[list[Item], str | None]:
    newest, no = _parse_cursor(cursor)
    found = rows(
        connection, "v.no, v.id, v.kind, v.title, v.newest, v.first, v.last, v.read, v.delivered",
        f"FROM ({_VISIBLE}) v WHERE v.member AND (v.newest, v.no) < (?2, ?3) ORDER BY v.newest DESC, v.no DESC LIMIT ?4",
        user_no, newest, no, limit + 1,
    )  # fmt: skip
    items = [_item(connection, user_no, row) for row in found[:limit]]
    following = f"{found[limit - 1][4]}.{found[limit - 1][0]}" if len(found) > limit else None
    return items, following


def _parse_cursor(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return 2**62, 2**62
    newest, dot, no = cursor.partition(".")
    if not (dot and newest.isascii() and newest.isdigit() and no.isascii() and no.isdigit()):
        raise ValueError("not a cursor")
    return min(int(newest), 2**62), min(int(no), 2**62)


def _item(connection: apsw.Connection, user_no: int, row: list[Any]) -> Item:
    no, conv, kind, title, _, first, last, read, delivered = row
    unread = rows(
        connection, "count(*)",
        "FROM events WHERE conv = ?1 AND seq > ?2 AND seq <= ?3 AND kind = 'message' AND sender <> ?4 AND NOT deleted",
        no, max(read, first - 1), last, user_no,
    )[0][0]  # fmt: skip
    newest = rows(connection, _EVENT, f"{_FROM_EVENTS} WHERE e.conv = ?1 AND e.seq = ?2", no, last)
    names: list[str] = []
    if kind == "dm":
        names = [
            row[0]
            for row in rows(
                connection, "u.name", "FROM members m JOIN users u ON u.no = m.user WHERE m.conv = ?1 ORDER BY u.name", no
            )
        ]
    event = _event(newest[0]) if newest else None
    return Item(conv, kind, title, names, last, event, read, delivered, unread)


def members(connection: apsw.Connection, user_no: int, conv: str) -> list[Member] | None:
    seen = rows(connection, "v.no", f"FROM ({_VISIBLE}) v WHERE v.id = ?2 AND v.member", user_no, conv)
    if not seen:
        return None
    found = rows(
        connection, "u.name, m.role, m.joined",
        "FROM members m JOIN users u ON u.no = m.user WHERE m.conv = ?1 AND m.left IS NULL ORDER BY u.name", seen[0][0],
    )  # fmt: skip
    return [Member(user, role, joined) for user, role, joined in found]


def blocked(connection: apsw.Connection, user_no: int) -> list[str]:
    source = "FROM blocks b JOIN users u ON u.no = b.blocked WHERE b.blocker = ?1 ORDER BY u.name"
    return [row[0] for row in rows(connection, "u.name", source, user_no)]


def account(connection: apsw.Connection, name: str) -> Account | None:
    found = rows(connection, "no, password_hash", "FROM users WHERE name = ?1", name)
    return Account(found[0][0], found[0][1]) if found else None


def online_members(connection: apsw.Connection, conv: str, users: Collection[str]) -> list[str]:
    found = rows(
        connection, "u.name",
        "FROM members m JOIN users u ON u.no = m.user JOIN conversations c ON c.no = m.conv"
        " WHERE c.id = ?1 AND m.left IS NULL AND u.name IN (SELECT value FROM json_each(?2)) ORDER BY u.name",
        conv, json.dumps(list(users)),
    )  # fmt: skip
    return [row[0] for row in found]
