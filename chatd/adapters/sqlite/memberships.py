"""Which part of a log a user may see: the events of their memberships, each from its ``joined`` to its ``left``.

The membership that lasts, or was the last, is the user's row in ``members``; it reaches from ``first`` on, which is its
``joined``, or 1 where the group shows all. Those before it, of somebody who was added again, stand in
``past_memberships``; where ``first`` is 1 they add nothing. Few ever have one, and nobody else pays for them.
"""

from __future__ import annotations

import apsw

_PAST = "FROM past_memberships p WHERE p.conv = ?1 AND p.user = ?2"


def may_see(seq: str, conv: str, user: str, first: str) -> str:
    """The condition, of four columns, that a member may see an event; asks for one row, and only of what is before ``first``."""
    return f"""({seq} >= {first} OR {seq} <= (
        SELECT p.left FROM past_memberships p WHERE p.conv = {conv} AND p.user = {user} AND p.joined <= {seq}
        ORDER BY p.joined DESC LIMIT 1))"""  # noqa: S608 - of this program's own texts alone


def entered(conv: str, user: str, joined: str) -> str:
    """The ``seq`` with which a user was in a conversation for the first time."""
    return (
        f"coalesce((SELECT min(p.joined) FROM past_memberships p WHERE p.conv = {conv} AND p.user = {user}), {joined})"  # noqa: S608
    )


def keep(connection: apsw.Connection, conv: int, user: int) -> None:
    """Before the row in ``members`` is written anew: what it said of a membership that has ended stays known."""
    connection.execute(
        "INSERT INTO past_memberships (conv, user, joined, left)"
        " SELECT conv, user, joined, left FROM members WHERE conv = ? AND user = ? AND left IS NOT NULL",
        (conv, user),
    )


def sees(connection: apsw.Connection, conv: int, user: int, seq: int, first: int) -> bool:
    """As ``may_see``, of one event."""
    if seq >= first:
        return True
    condition = may_see("?3", "?1", "?2", "?4")
    row = connection.execute(f"SELECT {condition}", (conv, user, seq, first)).fetchone()
    return row is not None and bool(row[0])


def stretch_from(connection: apsw.Connection, conv: int, user: int, low: int, first: int, last: int) -> tuple[int, int]:
    """The next run of events without a hole that may be seen from ``low`` on. ``first``, ``last``: of the last membership."""
    if low < first:
        row = connection.execute(
            f"SELECT p.joined, p.left {_PAST} AND p.left >= ?3"  # noqa: S608
            " AND p.joined >= (SELECT coalesce(max(b.joined), 0) FROM past_memberships b"
            " WHERE b.conv = ?1 AND b.user = ?2 AND b.joined <= ?3) ORDER BY p.joined LIMIT 1",
            (conv, user, low),
        ).fetchone()
        if row is not None:
            return max(low, row[0]), row[1]
    return max(low, first), last


def stretch_to(connection: apsw.Connection, conv: int, user: int, high: int, first: int, last: int) -> tuple[int, int]:
    """The same backwards: the run that ends at ``high``, or before it."""
    if high >= first:
        return first, min(high, last)
    row = connection.execute(
        f"SELECT p.joined, p.left {_PAST} AND p.joined <= ?3 ORDER BY p.joined DESC LIMIT 1",
        (conv, user, high),
    ).fetchone()
    return (1, 0) if row is None else (row[0], min(high, row[1]))
