"""What is read, each a function of a read-only connection; they run in reader threads.

Every query returns its rows as one JSON text, built by SQLite, in one step: each step of a statement gives up the
interpreter's lock and must win it back from a busy Trio thread, up to 5 ms a time; 200 rows would be a second.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import apsw

from chatd.adapters.sqlite.memberships import entered, may_see, stretch_from, stretch_to
from chatd.adapters.sqlite.payloads import readable
from chatd.conversations.operations import Event
from chatd.store.port import (
    LISTED_DEVICES,
    Account,
    Committed,
    DeviceEntry,
    Endings,
    Item,
    Member,
    Page,
    Standing,
)

CHANGED_EVENTS = 10_000
ENDINGS_AT_ONCE = 1000

_EVENT = "c.id, e.seq, e.at, u.name, e.kind, hex(e.payload), e.device, e.cseq, e.epoch"
_FOR_EVER = 2**62
_SEEN = f"""
    c.no, c.id, c.kind, c.title, c.newest, m.left IS NULL AS member, m.first,
    {entered("m.conv", "m.user", "m.joined")} AS entered,
    coalesce(m.left, c.head) AS last, m.read, m.delivered, m.muted, m.user
"""
_VISIBLE = f"SELECT {_SEEN} FROM members m JOIN conversations c ON c.no = m.conv WHERE m.user = ?1"  # noqa: S608
# Of this program's own texts alone, here and below; values are always bound.
MAY_SEE = f"m.left IS NULL AND {may_see('e.seq', 'e.conv', 'm.user', 'm.first')}"
"""Of an event e and the row m that makes a user a member of its conversation: where ``visible`` cannot be asked."""
_STANDING = "v.id, v.kind, v.member, min(v.first, v.entered), v.last, coalesce(p.seq, v.entered - 1)"
_FROM_STANDINGS_OF = f"""
    FROM (SELECT {_SEEN}, a.key AS place, a.value ->> 1 AS device FROM json_each(?1) a
          CROSS JOIN members m ON m.user = a.value ->> 0 JOIN conversations c ON c.no = m.conv) v
    LEFT JOIN cursors p ON p.device = v.device AND p.conv = v.no
"""  # noqa: S608
_FROM_STANDINGS = f"FROM ({_VISIBLE}) v LEFT JOIN cursors p ON p.device = ?2 AND p.conv = v.no"
STANDINGS_ROWS = 2000
"""Of several devices in one answer: some 2 ms of parsing, for which the Trio thread waits."""
_SIZED = """
    SELECT b.no, b.size, sum(b.size) OVER (ORDER BY b.seq {0}) AS total FROM (
        SELECT x.no, x.seq, length(x.payload) + 100 AS size FROM events x
        WHERE x.conv = (SELECT no FROM conversations WHERE id = ?1) AND x.seq BETWEEN ?2 AND ?3
        ORDER BY x.seq {0} LIMIT ?4) b
"""
# This module's own texts alone; values are always bound.
_LISTED = f"""
    SELECT l.*, row_number() OVER latest AS place, sum(l.size) OVER latest AS total, count(*) OVER () AS rows FROM (
        SELECT v.*, coalesce(length(n.payload), 0) + 4 * length(v.title) + 300 AS size
        FROM (SELECT * FROM ({_VISIBLE}) WHERE member AND (newest, no) < (?2, ?3)
              ORDER BY newest DESC, no DESC LIMIT ?4 + 1) v
        LEFT JOIN events n ON n.conv = v.no AND n.seq = v.last) l
    WINDOW latest AS (ORDER BY l.newest DESC, l.no DESC)
"""  # noqa: S608
_COUNTS = "x.kind = 'message' AND x.sender <> ?1 AND NOT x.deleted"
_UNREAD = f"""(
    SELECT count(*) FROM events x WHERE x.conv = w.no AND x.seq > max(w.read, w.first - 1) AND x.seq <= w.last
    AND {_COUNTS}) + (
    SELECT count(*) FROM past_memberships p CROSS JOIN events x
    ON x.conv = w.no AND x.seq >= max(p.joined, w.read + 1) AND x.seq <= p.left
    WHERE p.conv = w.no AND p.user = ?1 AND p.left > w.read AND p.left < w.first AND {_COUNTS})"""  # noqa: S608
_MENTIONS = """(
    SELECT count(*) FROM mentions x WHERE x.user = ?1 AND x.conv = w.no AND x.seq > w.read AND x.seq <= w.last)"""
NAMES = """(
    SELECT json_group_array(o.name) FROM members m JOIN users o ON o.no = m.user WHERE w.kind = 'dm' AND m.conv = w.no)"""
_NEWEST = "w.id, e.seq, e.at, u.name, e.kind, hex(e.payload), e.device, e.cseq, e.epoch"


def blocks(one: str, other: str) -> str:
    """The condition, of two columns, that one of two users blocks the other."""
    return (
        f"EXISTS (SELECT 1 FROM blocks k WHERE k.blocker = {one} AND k.blocked = {other}"  # noqa: S608
        f" OR k.blocker = {other} AND k.blocked = {one})"
    )


class Visible(NamedTuple):
    """The number of a conversation, and the ``seq`` between which a user may read it: from ``first`` on without a hole, from
    ``earliest`` on with those of ``memberships``."""

    no: int
    earliest: int
    first: int
    last: int
    member: int


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
    conv, seq, at, sender, kind, payload, device, cseq, epoch = row
    kind, said = readable(conv, seq, kind, bytes.fromhex(payload))
    return Event(conv, seq, at, sender, kind, said, device, cseq, epoch)


def _events(
    connection: apsw.Connection, conv: str, low: int, high: int, direction: str, limit: int, max_bytes: int
) -> list[Event]:
    """Those of ``low`` to ``high``, at most ``limit`` and ``max_bytes`` of payload from that end, but at least one.

    The sizes are summed first, for which SQLite reads no payload: 200 events of 64 kB, of which 4 were wanted, cost
    115 ms, and 28 ms of the Trio thread, which waits for the interpreter's lock while the JSON is parsed.
    """
    found = rows(
        connection, _EVENT,
        f"FROM ({_SIZED.format(direction)}) s CROSS JOIN events e ON e.no = s.no"
        " JOIN conversations c ON c.no = e.conv JOIN users u ON u.no = e.sender"
        f" WHERE s.total <= ?5 OR s.total = s.size ORDER BY e.seq {direction}",
        conv, low, high, limit, max_bytes,
    )  # fmt: skip
    return [_event(row) for row in found]


def visible(connection: apsw.Connection, user_no: int, conv: str, *, former: bool = False) -> Visible | None:
    """What a user may read of a conversation: reads decide that here (I8). None to those who are no member, and with
    ``former`` never were."""
    found = rows(
        connection, "v.no, min(v.first, v.entered), v.first, v.last, v.member",
        f"FROM ({_VISIBLE}) v WHERE v.id = ?2 AND (v.member OR ?3)",
        user_no, conv, former,
    )  # fmt: skip
    return Visible(*found[0]) if found else None


def standings(connection: apsw.Connection, user_no: int, device_no: int) -> list[Standing]:
    found = rows(connection, _STANDING, f"{_FROM_STANDINGS} ORDER BY v.newest DESC, v.no DESC", user_no, device_no)
    return [_standing(row) for row in found]


def standings_of(connection: apsw.Connection, asked: Sequence[tuple[int, int]]) -> list[list[Standing]]:
    """``standings`` of several (user_no, device_no), in one step: of the first of them, at least one, as many as have
    STANDINGS_ROWS together."""
    found = rows(
        connection, f"v.place, {_STANDING}", f"{_FROM_STANDINGS_OF} ORDER BY v.place, v.newest DESC, v.no DESC LIMIT ?2",
        json.dumps(asked), STANDINGS_ROWS + 1,
    )  # fmt: skip
    whole = len(asked) if len(found) <= STANDINGS_ROWS else cast("int", found[-1][0])
    if not whole:
        return [standings(connection, *asked[0])]
    stand: list[list[Standing]] = [[] for _ in range(whole)]
    for place, *row in found:
        if place < whole:
            stand[place].append(_standing(row))
    return stand


def standing(connection: apsw.Connection, user_no: int, device_no: int, conv: str) -> Standing | None:
    found = rows(connection, _STANDING, f"{_FROM_STANDINGS} WHERE v.id = ?3", user_no, device_no, conv)
    return _standing(found[0]) if found else None


def _standing(row: list[Any]) -> Standing:
    conv, kind, member, first, last, cursor = row
    return Standing(conv, kind, bool(member), first, last, cursor)


def page(
    connection: apsw.Connection, user_no: int, conv: str, after: int | None, before: int | None, limit: int, max_bytes: int,
    former: bool,
) -> Page | None:  # fmt: skip
    seen = visible(connection, user_no, conv, former=former)
    if seen is None:
        return None
    no, earliest, first, last, member = seen
    if after is not None:
        low, high = stretch_from(connection, no, user_no, after + 1, first, last)
        events = _events(connection, conv, low, high, "ASC", limit, max_bytes)
        return Page(events, last, bool(events) and events[-1].seq < last, bool(member))
    low, high = stretch_to(connection, no, user_no, last if before is None else before - 1, first, last)
    events = _events(connection, conv, low, high, "DESC", limit, max_bytes)[::-1]
    return Page(events, last, bool(events) and events[0].seq > earliest, bool(member))


def log(connection: apsw.Connection, conv: str, after: int, limit: int, max_bytes: int) -> list[Event]:
    return _events(connection, conv, after + 1, 2**62, "ASC", limit, max_bytes)


def logs(connection: apsw.Connection, wanted: Sequence[tuple[str, int]], limit: int, max_bytes: int) -> list[list[Event]]:
    found: list[list[Event]] = []
    for conv, after in wanted:
        events = log(connection, conv, after, limit, max_bytes)
        max_bytes -= sum(len(event.payload) for event in events)
        if found and max_bytes < 0:
            break
        found.append(events)
    return found


def committed(connection: apsw.Connection, token: int | None) -> Committed:
    newest = cast("int", rows(connection, "coalesce(max(no), 0)", "FROM events")[0][0])
    if token is None:
        return Committed({}, [], newest, False)
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
    return Committed(dict(heads), [(user, conv) for user, conv in joined], upto, upto < newest)


def conversations(
    connection: apsw.Connection, user_no: int, after: tuple[int, int], limit: int, max_bytes: int
) -> tuple[list[Item], str | None]:
    """``after``: of ``parse_cursor``. One statement, and not three for each item: on a busy node those were 0.6 s."""
    found = rows(
        connection, f"w.no, w.newest, w.rows, w.kind, w.title, w.last, w.read, w.delivered, {_UNREAD}, {_MENTIONS},"
        f" w.muted, {NAMES}, {_NEWEST}",
        f"FROM ({_LISTED}) w LEFT JOIN events e ON e.conv = w.no AND e.seq = w.last LEFT JOIN users u ON u.no = e.sender"
        " WHERE w.place = 1 OR w.place <= ?4 AND w.total <= ?5 ORDER BY w.place",
        user_no, *after, limit, max_bytes,
    )  # fmt: skip
    more = bool(found) and len(found) < found[0][2]
    return [_item(row) for row in found], f"{found[-1][1]}.{found[-1][0]}" if more else None


def parse_cursor(cursor: str | None) -> tuple[int, int]:
    """The (newest, no) of the item before the page. Raises ValueError."""
    if cursor is None:
        return _FOR_EVER, _FOR_EVER
    newest, no = numbers(cursor, 2)
    return newest, no


def numbers(cursor: str, count: int) -> list[int]:
    """Those that a cursor is made of, none beyond what SQLite takes. Raises ValueError."""
    parts = cursor.split(".")
    if len(parts) != count or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError("not a cursor")
    return [min(int(part), _FOR_EVER) for part in parts]


def _item(row: list[Any]) -> Item:
    _, _, _, kind, title, last, read, delivered, unread, mentions, muted, names, *newest = row
    event = None if newest[1] is None else _event(newest)
    return Item(newest[0], kind, title, sorted(json.loads(names)), last, event, read, delivered, unread, mentions, muted)


def members(connection: apsw.Connection, user_no: int, conv: str) -> list[Member] | None:
    seen = visible(connection, user_no, conv)
    if seen is None:
        return None
    hidden = f"c.kind = 'dm' AND {blocks('m.user', '?2')}"
    found = rows(
        connection, f"u.name, m.role, m.joined, iif({hidden}, NULL, m.delivered), iif({hidden}, NULL, m.read)",
        "FROM members m JOIN users u ON u.no = m.user JOIN conversations c ON c.no = m.conv"
        " WHERE m.conv = ?1 AND m.left IS NULL ORDER BY u.name",
        seen.no, user_no,
    )  # fmt: skip
    return [Member(*row) for row in found]


def blocked(connection: apsw.Connection, user_no: int) -> list[str]:
    source = "FROM blocks b JOIN users u ON u.no = b.blocked WHERE b.blocker = ?1 ORDER BY u.name"
    return [row[0] for row in rows(connection, "u.name", source, user_no)]


def account(connection: apsw.Connection, name: str) -> Account | None:
    found = rows(connection, "no, password_hash, generation, tier, tokens_after", "FROM users WHERE name = ?1", name)
    return Account(*found[0]) if found else None


def revoked(connection: apsw.Connection, token: bytes) -> bool:
    return bool(rows(connection, "1", "FROM revoked WHERE token = ?1", token))


def devices(connection: apsw.Connection, user_no: int, now: int) -> list[DeviceEntry]:
    found = rows(
        connection, "d.name, d.agent, d.used, n.until IS NOT NULL",
        "FROM devices d LEFT JOIN nodes n ON n.id = d.node AND n.until > ?2"
        " WHERE d.user = ?1 AND NOT d.gone ORDER BY d.used DESC, d.no DESC LIMIT ?3",
        user_no, now, LISTED_DEVICES,
    )  # fmt: skip
    return [DeviceEntry(name, agent, used, bool(online)) for name, agent, used, online in found]


def endings(connection: apsw.Connection, token: int) -> Endings:
    found = rows(
        connection, "e.no, u.name, e.device, e.epoch",
        "FROM endings e JOIN devices d ON d.no = e.device JOIN users u ON u.no = d.user WHERE e.no > ?1"
        " ORDER BY e.no LIMIT ?2",
        token, ENDINGS_AT_ONCE,
    )  # fmt: skip
    ended = [(user, device, epoch) for _, user, device, epoch in found]
    return Endings(ended, found[-1][0] if found else token, len(found) == ENDINGS_AT_ONCE)
