"""The checker is tried on a sound history, and on the same with each fault planted: that one is found, by its own name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chatd_proof.checker import check
from chatd_proof.cli import main
from chatd_proof.history import (
    Acked,
    Answered,
    Asked,
    Closed,
    Delivered,
    Described,
    Opened,
    Record,
    Refused,
    Sent,
    Settled,
    Stored,
    WentLive,
    content_of,
    write_history,
)
from chatd_proof.verdict import QUESTIONS, readable
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

USERS = ("ann", "ben", "cyd")


@dataclass
class Recording:
    """A group as it should be: what is said is acknowledged, and received by all who are in it and have a session.
    ``by_cursor``: nobody tells what they have."""

    records: list[Record] = field(default_factory=list)
    log: list[Stored] = field(default_factory=list)
    members: list[str] = field(default_factory=lambda: list(USERS))
    sessions: dict[str, str] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    cseqs: dict[str, int] = field(default_factory=dict)
    now: float = 0.0
    by_cursor: bool = False

    def tick(self) -> float:
        self.now += 1
        return self.now

    def note(self, record: Record) -> None:
        self.records.append(record)

    def append(self, kind: str, sender: str, content: str, users: tuple[str, ...] = ()) -> int:
        self.log.append(Stored("g", len(self.log) + 1, kind, sender, content, list(users)))
        return len(self.log)

    def open(self, user: str, number: int = 1) -> None:
        """With what it has already, so that it receives the rest."""
        session = self.sessions[user] = f"{user}{number}"
        have = self.heads.get(user, 0)
        self.note(Opened(self.tick(), session, user, "d", self.cseqs.get(user, 0), {} if self.by_cursor else {"g": have}))
        for entry in self.log[have:]:
            self.receive(user, entry)
        self.note(WentLive(self.tick(), session))

    def receive(self, user: str, entry: Stored) -> None:
        self.note(Delivered(self.tick(), self.sessions[user], "g", entry.seq, entry.content))
        self.heads[user] = entry.seq

    def close(self, user: str) -> None:
        self.note(Closed(self.tick(), self.sessions.pop(user), 1000))

    def say(self, user: str, *, fails: bool = False) -> None:
        """Once, or refused at first and said again."""
        cseq = self.cseqs[user] = self.cseqs.get(user, 0) + 1
        content = f"{user}-{cseq}"
        if fails:
            self.note(Sent(self.tick(), self.sessions[user], cseq, "g", content))
            self.note(Refused(self.tick(), self.sessions[user], cseq, "overloaded"))
        self.note(Sent(self.tick(), self.sessions[user], cseq, "g", content))
        seq = self.append("message", user, content)
        self.note(Acked(self.tick(), self.sessions[user], cseq, "g", seq))
        self.heads[user] = seq
        self.tell_others(user)

    def delete(self, user: str) -> None:
        """Their first message that is still there."""
        target = next(entry for entry in self.log if (entry.kind, entry.sender) == ("message", user) and entry.content)
        cseq = self.cseqs[user] = self.cseqs.get(user, 0) + 1
        content = f"without {target.seq}"
        self.note(Sent(self.tick(), self.sessions[user], cseq, "g", content, "delete"))
        seq = self.append("delete", user, content)
        self.log[target.seq - 1] = replace(target, content="")
        self.log[seq - 1] = replace(self.log[seq - 1], target=target.seq)
        self.note(Acked(self.tick(), self.sessions[user], cseq, "g", seq))
        self.heads[user] = seq
        self.tell_others(user)

    def tell_others(self, *but: str) -> None:
        for other in self.members:
            if other in self.sessions and other not in but:
                self.receive(other, self.log[-1])

    def move(self, what: str, user: str) -> None:
        """``add`` or ``remove`` by ann."""
        self.note(Asked(self.tick(), self.sessions["ann"], len(self.log), what, "g", [user]))
        if what == "add":
            self.members.append(user)
        number = len(self.log)
        self.append("joined" if what == "add" else "left", "ann", f"{what}-{len(self.log)}", (user,))
        self.tell_others()
        self.note(Answered(self.tick(), self.sessions["ann"], number))
        if what == "remove":
            self.members.remove(user)

    def end(self) -> list[Record]:
        self.note(Settled(self.tick()))
        return [*self.records, *self.log]


def sound() -> list[Record]:
    """Everything that may happen, as it should be."""
    recording = Recording()
    recording.append("created", "ann", "made", USERS)
    for user in USERS:
        recording.open(user)
    recording.say("ann")
    recording.say("ben", fails=True)
    recording.close("cyd")
    recording.say("ben")
    recording.open("cyd", 2)
    recording.move("remove", "cyd")
    recording.say("ann")
    recording.say("ben")
    recording.heads["cyd"] = 7  # what was said meanwhile is not theirs
    recording.move("add", "cyd")
    recording.say("cyd")
    recording.say("ann")
    return recording.end()


def returning() -> list[Record]:
    """Who tells no positions, comes and goes; something is deleted, and something is said to one alone."""
    members = (*USERS, "dan")
    recording = Recording(members=list(members), by_cursor=True)
    recording.append("created", "ann", "made", members)
    for user in members:
        recording.open(user)
    recording.say("ann")
    recording.say("ben")
    recording.close("ben")
    recording.say("ann")
    recording.delete("ann")
    recording.open("ben", 2)
    recording.say("ben")
    recording.say("cyd")
    recording.close("ann")
    recording.open("ann", 2)
    recording.say("ann")
    recording.close("cyd")
    recording.say("ann")
    recording.open("cyd", 2)
    recording.note(Sent(recording.tick(), "ann2", 6, "@ben", "psst"))
    recording.note(Acked(recording.tick(), "ann2", 6, "d", 1))
    recording.note(Delivered(recording.tick(), "ben2", "d", 1, "psst"))
    return [*recording.end(), Stored("d", 1, "message", "ann", "psst"), Described("d", ["ann", "ben"])]


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


def test_a_sound_history_holds() -> None:
    away = check(returning())
    assert away.proven, readable(away)
    verdict = check(sound())
    assert verdict.proven, readable(verdict)
    assert readable(verdict).endswith("\nholds")
    assert [kind for kind in QUESTIONS if not verdict.looked_at[kind]] == [], "every question is asked of something"


@pytest.mark.parametrize("planted", ALL_PLANTED)
def test_a_planted_fault_is_found(planted: str) -> None:
    """One that takes numbers far away, too: the work goes by the records, and not by what stands in them."""
    history, kind, plant = ALL_PLANTED[planted]
    verdict = check(plant(history()))
    assert verdict.counts[kind], readable(verdict)
    assert verdict.broken
    assert not verdict.proven


def test_who_leaves_after_the_end_was_there() -> None:
    """A run is settled, judged by who is there then, and taken down; a history in which nobody was is no proof."""
    leaving = [Closed(99.0, name, 1000) for name in ("ann1", "ben1", "cyd2")]
    assert check([*sound(), *leaving]).proven
    without = drop(sound(), Delivered, session="ben1", seq=10)
    assert check([*without, *leaving]).counts["unseen"]
    at = of(sound(), Settled)
    before: Records = [*sound()[:at], *leaving, *sound()[at:]]
    assert "somebody who was there" in readable(check(before))


def test_every_question_has_its_planted_fault() -> None:
    assert {kind for _, kind, _ in ALL_PLANTED.values()} == set(QUESTIONS)


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Stored, "the log at the end"), (Settled, "everything has settled"), (Delivered, "a delivery"), (Opened, "was opened")],
)
def test_a_history_that_does_not_tell_all_proves_nothing(kind: type[Any], told: str) -> None:
    verdict = check([record for record in sound() if not isinstance(record, kind)])
    assert not verdict.proven
    assert told in readable(verdict)


def test_what_a_delete_took_has_to_be_told() -> None:
    verdict = check(change(returning(), Stored, {"target": 0}, seq=5))
    assert not verdict.broken
    assert "which messages were deleted by g:5" in readable(verdict)


def test_what_is_not_known_may_be_either() -> None:
    """Never answered, or refused as ``unavailable``: stored once or not at all, both are right."""
    attempt = Sent(50.0, "ben1", 4, "g", "perhaps")
    refused = Refused(51.0, "ben1", 4, "unavailable")
    at = of(sound(), Settled)
    for asked in ([attempt], [attempt, refused]):
        records: Records = [*sound()[:at], *asked, *sound()[at:]]
        assert check(records).proven
        others = [Delivered(60.0, f"{u}{n}", "g", 11, "perhaps") for u, n in (("ann", 1), ("ben", 1), ("cyd", 2))]
        stored = [*sound()[:at], *asked, *others, *sound()[at:], Stored("g", 11, "message", "ben", "perhaps")]
        assert check(stored).proven, readable(check(stored))


@given(st.lists(st.sampled_from(["ann", "ben", "cyd", "fails", "away", "move", "delete"]), max_size=40), st.booleans())
def test_whatever_happens_as_it_should_holds(steps: list[str], by_cursor: bool) -> None:
    """No false alarm: random histories of a right server."""
    recording = Recording(by_cursor=by_cursor)
    recording.append("created", "ann", "made", USERS)
    for user in USERS:
        recording.open(user)
    recording.say("ann")
    for number, step in enumerate(steps, 2):
        if step == "away" and "cyd" in recording.sessions:
            recording.close("cyd")
        elif step == "away" and "cyd" in recording.members:
            recording.open("cyd", number)
        elif step == "move" and "cyd" in recording.sessions:
            recording.move("remove" if "cyd" in recording.members else "add", "cyd")
        elif step == "delete" and any((e.kind, e.sender) == ("message", "ann") and e.content for e in recording.log):
            recording.delete("ann")
        elif step == "fails":
            recording.say("ben", fails=True)
        elif step in recording.sessions and step in recording.members:
            recording.say(step)
    verdict = check(recording.end())
    assert verdict.proven, readable(verdict)


def test_no_record_can_be_left_out_unnoticed() -> None:
    """Of what is in the log and what was received: without any one of them, something is wrong. But the last that a session got
    before it was closed may have been lost with it."""
    records = sound()
    held = [at for at, r in enumerate(records) if isinstance(r, Stored) or (isinstance(r, Delivered) and r.session != "cyd1")]
    assert [at for at in held if not check([*records[:at], *records[at + 1 :]]).broken] == []


def test_contents_are_the_same_wherever_they_stand() -> None:
    said = content_of({"t": "send", "cseq": 7, "to": "g", "body": "hello", "mentions": []})
    event = {"t": "event", "conv": "g", "seq": 3, "at": 1, "from": "ann", "kind": "message", "type": "text", "body": "hello"}
    assert said == content_of(event)
    assert said != content_of({"t": "send", "cseq": 7, "to": "g", "body": "hello!"})
    edited = content_of({"t": "edit", "cseq": 8, "conv": "g", "target": 3, "body": "hello"})
    assert edited != said


def test_the_command_reads_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, 1 and 2, and the reason in words."""
    good, bad, other = (tmp_path / name for name in ("good.jsonl", "bad.jsonl", "other.jsonl"))
    write_history(good, sound(), "by hand")
    write_history(bad, PLANTED["the last message is gone"][1](sound()))
    other.write_text('{"some": "json"}\n')
    assert main(["check", str(good)]) == 0
    assert capsys.readouterr().out.startswith("by hand: ")
    assert main(["check", str(good), str(bad)]) == 1
    assert "BROKEN" in capsys.readouterr().out
    assert main(["check", str(other)]) == 2
    assert "other.jsonl, line 1" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none")]) == 2
