"""Faults, planted in sound histories: each with the question that has to find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chatd_proof.checker import check
from chatd_proof.history import Acked, Closed, Delivered, Described, Opened, Record, Refused, Sent, Settled, Stored
from msgspec.structs import replace

from tests.proof.recording import returning, sound

Records = list[Any]


def of(records: Records, kind: type[Any], **fields: Any) -> int:
    """Where the first such record is."""
    return next(
        at for at, r in enumerate(records)
        if isinstance(r, kind) and all(getattr(r, name) == value for name, value in fields.items())
    )  # fmt: skip


def change(records: Records, kind: type[Any], values: dict[str, Any], **fields: Any) -> Records:
    """The same, with other values in one record."""
    at = of(records, kind, **fields)
    return [*records[:at], replace(records[at], **values), *records[at + 1 :]]


def drop(records: Records, kind: type[Any], **fields: Any) -> Records:
    at = of(records, kind, **fields)
    return records[:at] + records[at + 1 :]


def insert(records: Records, record: Record, kind: type[Any], **fields: Any) -> Records:
    """Right after one."""
    at = of(records, kind, **fields) + 1
    return [*records[:at], record, *records[at:]]


def swap(records: Records, kind: type[Any], first: dict[str, Any], second: dict[str, Any]) -> Records:
    one, other = of(records, kind, **first), of(records, kind, **second)
    swapped = list(records)
    swapped[one], swapped[other] = records[other], records[one]
    return swapped


def rewritten(records: Records) -> Records:
    """Another message stands where one was acknowledged, and was received by all."""
    return [
        replace(r, content="ben-3") if getattr(r, "seq", 0) == 2 and isinstance(r, Stored | Delivered) else r for r in records
    ]


def renumbered(records: Records, session: str, cseq: int, becomes: int) -> Records:
    """A change has another number."""
    return [
        replace(r, cseq=becomes) if isinstance(r, Sent | Acked) and (r.session, r.cseq) == (session, cseq) else r for r in records
    ]


def one_more_that_cyd_misses(records: Records) -> Records:
    """They began at the end, wherever that was, and are there when the next is said."""
    said = [Sent(80, "ann2", 7, "g", "x"), Acked(81, "ann2", 7, "g", 10)]
    heard = [Delivered(82, session, "g", 10, "x") for session in ("ben2", "dan1")]
    began = change(drop(records, Delivered, session="cyd2"), Opened, {"positions": {"g": 10**9}}, session="cyd2")
    assert check(began).proven
    at = of(began, Settled)
    return [*began[:at], *said, *heard, *began[at:], Stored("g", 10, "message", "ann", "x")]


Plants = dict[str, tuple[str, Callable[[Records], Records]]]
"""By what is planted: the question that has to find it, and how it is planted."""
PLANTED: Plants = {
    "the last message is gone": ("lost", lambda r: drop(r, Stored, seq=10)),
    "another one stands in its place": ("lost", rewritten),
    "appended again": ("twice", lambda r: [*r, Stored("g", 11, "message", "ann", "ann-1")]),
    "appended to another conversation, too": (
        "twice", lambda r: [*r, Stored("h", 1, "message", "ann", "ann-1"), Described("h", ["ann"])],
    ),
    "acknowledged twice, at two places": (
        "twice", lambda r: insert(r, Acked(99, "ann1", 1, "g", 5, repeat=True), Acked, session="ann1", cseq=1),
    ),
    "two nodes have two logs": ("contents", lambda r: [*r, Stored("g", 3, "message", "ben", "other", reader="b")]),
    "a session saw something else": ("contents", lambda r: change(r, Delivered, {"content": "other"}, session="ben1", seq=2)),
    "a number is missing in the log": ("holes", lambda r: drop(r, Stored, seq=4)),
    "a session missed one": ("order", lambda r: drop(r, Delivered, session="ben1", seq=2)),
    "a session got one twice": (
        "order", lambda r: insert(r, Delivered(5, "ben1", "g", 2, "ann-1"), Delivered, session="ben1", seq=2),
    ),
    "a session got two the wrong way round": (
        "order", lambda r: swap(r, Delivered, {"session": "ann1", "seq": 3}, {"session": "ann1", "seq": 4}),
    ),
    "one who comes back misses the first": ("order", lambda r: drop(r, Delivered, session="cyd2", seq=4)),
    "one who comes back gets what they have": (
        "order", lambda r: insert(r, Delivered(20, "cyd2", "g", 3, "ben-1"), Opened, session="cyd2"),
    ),
    "something comes after the end": (
        "order", lambda r: insert(r, Delivered(20, "cyd1", "g", 4, "ben-2"), Closed, session="cyd1"),
    ),
    "two of one sender are exchanged": (
        "senders", lambda r: change(change(r, Stored, {"content": "ben-2"}, seq=3), Stored, {"content": "ben-1"}, seq=4),
    ),
    "one who was removed hears the next": (
        "non_member", lambda r: insert(r, Delivered(40, "cyd2", "g", 6, "ann-2"), Delivered, session="cyd2", seq=5),
    ),
    "a stranger listens": (
        "non_member",
        lambda r: insert(
            insert(r, Delivered(4, "eve1", "g", 2, "ann-1"), Acked, session="ann1", cseq=1), Opened(0, "eve1", "eve", "d"),
            Opened, session="ben1",
        ),
    ),
    "one who was removed goes on writing": ("intruders", lambda r: change(r, Stored, {"sender": "cyd"}, seq=7)),
    "seen, and gone from the log": (
        "unstored", lambda r: insert(r, Delivered(99, "ben1", "g", 11, "x"), Delivered, session="ben1", seq=10),
    ),
    "nobody said it": ("unasked", lambda r: [*r, Stored("g", 11, "message", "eve", "forged")]),
    "refused for good, and stored": (
        "unasked",
        lambda r: [
            *insert(
                insert(r, Refused(9, "ann1", 9, "forbidden"), Acked, session="ann1", cseq=1), Sent(8, "ann1", 9, "g", "no"),
                Acked, session="ann1", cseq=1,
            ), Stored("g", 11, "message", "ann", "no"),
        ],
    ),
    "an ack for nothing": ("unasked", lambda r: insert(r, Acked(9, "ben1", 77, "g", 11), Delivered, session="ben1", seq=10)),
    "a removal is lost": ("members", lambda r: change(r, Stored, {"users": []}, seq=5)),
    "what came later stands before": (
        "real_time",
        lambda r: change(change(r, Sent, {"at": 90.0}, session="ann1", cseq=1), Acked, {"at": 91.0}, session="ann1", cseq=1),
    ),
    "one who is there has not got the last": ("unseen", lambda r: drop(r, Delivered, session="ben1", seq=10)),
}  # fmt: skip
"""In ``sound``."""
PLANTED_RETURNING: Plants = {
    "one who comes back gets nothing": ("unseen", lambda r: drop(r, Delivered, session="cyd2", seq=9)),
    "one who was there from the beginning gets nothing": (
        "unseen", lambda r: [one for one in r if not (isinstance(one, Delivered) and one.session == "dan1")],
    ),
    "one who was there from the beginning misses the first": (
        "order",
        lambda r: [one for one in r if not (isinstance(one, Delivered) and one.session == "dan1" and one.seq <= 2)],
    ),
    "one who came back misses the first": ("order", lambda r: drop(r, Delivered, session="ben2", seq=4)),
    "who began at the end misses what came then": ("unseen", one_more_that_cyd_misses),
    "two under one number": ("numbers", lambda r: renumbered(r, "ann2", 5, 4)),
    "a number is passed over": ("numbers", lambda r: renumbered(r, "ann2", 6, 9)),
    "a number is passed over from the beginning": ("numbers", lambda r: renumbered(r, "cyd1", 1, 2**70)),
    "a welcome forgets what was acknowledged": ("welcome", lambda r: change(r, Opened, {"cseq": 2}, session="ann2")),
    "a welcome forgets what is stored later": (
        "welcome",
        lambda r: insert(
            insert(r, Sent(70, "cyd1", 2, "g", "late"), Acked, session="cyd1"), Stored("g", 10, "message", "cyd", "late"),
            Stored, seq=9,
        ),
    ),
    "a welcome claims what was not said": ("welcome", lambda r: change(r, Opened, {"cseq": 4}, session="ann2")),
    "a welcome claims what is lost": (
        "welcome",
        lambda r: insert(
            change(r, Opened, {"cseq": 2}, session="cyd2"), Sent(70, "cyd1", 2, "g", "gone"), Acked, session="cyd1",
        ),
    ),
    "stored in another group": ("elsewhere", lambda r: change(r, Sent, {"to": "h"}, session="ann2", cseq=4)),
    "stored in a group, and not between two": ("elsewhere", lambda r: change(r, Sent, {"to": "@ben"}, session="ann2", cseq=4)),
    "said to another one": ("elsewhere", lambda r: change(r, Sent, {"to": "@cyd"}, session="ann2", cseq=6)),
    "stored as another kind": ("elsewhere", lambda r: change(r, Stored, {"kind": "edit"}, seq=8)),
    "a body is gone": ("emptied", lambda r: change(r, Stored, {"content": ""}, seq=4)),
    "another one was deleted": ("emptied", lambda r: change(r, Stored, {"target": 3}, seq=5)),
    "one got no body": ("contents", lambda r: change(r, Delivered, {"content": ""}, session="dan1", seq=4)),
    "received before it was sent": ("real_time", lambda r: change(r, Delivered, {"at": 0.5}, session="dan1", seq=8)),
    "at the beginning of numbers": ("holes", lambda r: [*r, Stored("g", 0, "message", "ann", "x")]),
    "beyond all numbers": ("holes", lambda r: [*r, Stored("g", 2**70, "message", "ann", "x")]),
    "delivered beyond all numbers": (
        "holes", lambda r: insert(r, Delivered(60, "dan1", "g", 2**70, "x"), Delivered, session="dan1", seq=8),
    ),
    "stored far away": ("holes", lambda r: [*r, Stored("g", 2**52, "message", "ann", "x")]),
}  # fmt: skip
"""In ``returning``."""
ALL_PLANTED = {**{name: (sound, *how) for name, how in PLANTED.items()}, **{
    name: (returning, *how) for name, how in PLANTED_RETURNING.items()
}}  # fmt: skip
