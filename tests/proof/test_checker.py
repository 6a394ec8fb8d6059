"""The checker is tried on sound histories, and on the same with each fault planted: that one is found, by its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chatd_proof.checker import check
from chatd_proof.cli import main
from chatd_proof.history import Closed, Delivered, Opened, Refused, Sent, Settled, Stored, content_of, write_history
from chatd_proof.verdict import QUESTIONS, readable
from hypothesis import given
from hypothesis import strategies as st

from tests.proof.planted import ALL_PLANTED, PLANTED, Records, change, drop, of
from tests.proof.recording import USERS, Recording, returning, sound


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
    before it was closed may have been lost with it, and where a device begins that was never seen is the server's to know."""
    for records, closed, first in ((sound(), ("cyd1",), 0), (returning(), ("ann1", "ben1", "cyd1"), 1)):
        held = [
            at for at, r in enumerate(records)
            if isinstance(r, Stored) or (isinstance(r, Delivered) and r.session not in closed and (r.conv, r.seq) != ("g", first))
        ]  # fmt: skip
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
