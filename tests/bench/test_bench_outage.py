"""``outage``: that it runs and its checks hold, and that each check fails where it has to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatd_bench.cli import main
from chatd_bench.connection import RunFailed
from chatd_bench.generator import Generators
from chatd_bench.load import Plan
from chatd_bench.outage import OutageLoad
from chatd_bench.outage_memory import Line, fitted, judge
from chatd_bench.participant import TYPING_SECONDS, Part, Participant
from chatd_bench.wire import stamped

Frame = Callable[[dict[str, Any]], bytes]
BODY_BYTES = 40


def test_two_nodes_lose_redis_and_get_it_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiny: everything that was acknowledged comes once and in order, everybody is shown right, nothing is left over."""
    sizes = ("--connections", "24", "--rate", "10", "--away", "1", "--renew", "4", "--memory-mib", "64")
    timing = ("--warmup", "0.3", "--control", "1", "--settle", "0.2", "--how", "kill")
    status = main(["outage", *sizes, *timing, "--save", "--results", str(tmp_path)])
    assert status == 0, capsys.readouterr().err
    (saved,) = (json.loads(file.read_text())["result"] for file in tmp_path.iterdir())
    assert saved["stored_while_away"] > 0
    assert saved["checks"]["deliveries"] > saved["checks"]["messages_acked"] > 0
    assert saved["phases"]["during"]["sent"] == saved["phases"]["during"]["acked"] > 0
    assert saved["left_over"]["held_bytes"] == [0, 0]
    assert f"all {saved['stored_while_away']} messages" in capsys.readouterr().out


@pytest.fixture
def load(plan: Callable[..., Plan]) -> OutageLoad:
    """One group of eight, with everybody's part, who are connected to nothing; it has begun."""
    made = OutageLoad(plan("outage", connections=8, group_size=8, rate=1, body_bytes=BODY_BYTES), lambda _: None)
    made.phase("before", 0.0)
    made._room.strict = True
    for member in made._groups[0]:
        member.group.conv, member.dm.conv = "g", f"dm{id(member.dm)}"
        member.position["g"] = 1
        member.shown = {other.name: "online" for other in made._groups[0]}
    return made


def by_part(load: OutageLoad, part: Part) -> list[Participant]:
    return [member for member in load._groups[0] if member.part is part]


def message(sender: Participant, seq: int, body: str) -> dict[str, Any]:
    return {"t": "event", "conv": "g", "seq": seq, "at": 1, "from": sender.name, "kind": "message", "type": "text",
            "body": body}  # fmt: skip


@pytest.mark.parametrize(
    ("seqs", "said"),
    [((2, 2), "got seq 2 of g after 2"), ((2, 4), "got seq 4 of g after 2"), ((3,), "got seq 3 of g after 1")],
    ids=["twice", "a gap", "out of order"],
)
def test_what_is_doubled_lost_or_out_of_order_is_told(
    load: OutageLoad, framed: Frame, seqs: tuple[int, ...], said: str
) -> None:
    """Each connection's stream of a conversation is 1, 2, 3, ..."""
    sender, reader, *_ = by_part(load, Part.CHATS)
    stream = b"".join(framed(message(sender, seq, stamped(BODY_BYTES, cseq, 5))) for cseq, seq in enumerate(seqs, 1))
    with pytest.raises(RunFailed, match=said):
        reader.feed(stream, 9)


def test_two_who_see_different_messages_are_told(load: OutageLoad, framed: Frame) -> None:
    """One seq is one message, for all."""
    sender, reader, other, *_ = by_part(load, Part.CHATS)
    reader.feed(framed(message(sender, 2, stamped(BODY_BYTES, 1, 5))), 9)
    with pytest.raises(RunFailed, match="seq 2 is"):
        other.feed(framed(message(sender, 2, stamped(BODY_BYTES, 2, 5))), 9)


def test_what_was_acked_and_not_delivered_is_told(load: OutageLoad, framed: Frame) -> None:
    """The sender has its ack, one reader the event; the others are named."""
    sender, reader, other, *_ = by_part(load, Part.CHATS)
    sender.sent[1] = (5, sender.group)
    sender.feed(framed({"t": "ack", "cseq": 1, "conv": "g", "seq": 2, "at": 1}), 9)
    reader.feed(framed(message(sender, 2, stamped(BODY_BYTES, 1, 5))), 9)
    with pytest.raises(RunFailed, match=f"{other.name} has g up to 1 of 2"):
        load.check()


def test_a_message_without_an_ack_is_told(load: OutageLoad, framed: Frame) -> None:
    """All have it, and its sender was never told so."""
    sender = by_part(load, Part.CHATS)[0]
    for member in load._groups[0]:
        member.feed(framed(message(sender, 2, stamped(BODY_BYTES, 1, 5))), 9)
    with pytest.raises(RunFailed, match="0 acks, 1 messages seen"):
        load.check()


def test_a_second_ack_is_told(load: OutageLoad, framed: Frame) -> None:
    """Each message has one."""
    sender = by_part(load, Part.CHATS)[0]
    sender.sent[1] = (5, sender.group)
    sender.feed(framed({"t": "ack", "cseq": 1, "conv": "g", "seq": 2, "at": 1}), 9)
    with pytest.raises(RunFailed, match="had its ack"):
        sender.feed(framed({"t": "ack", "cseq": 1, "conv": "g", "seq": 3, "at": 1}), 9)


def test_who_is_there_is_never_shown_as_gone(load: OutageLoad, framed: Frame) -> None:
    """At once, and not only at the end; of who really leaves it is right."""
    watcher, other, *_ = by_part(load, Part.CHATS)
    (leaves,) = by_part(load, Part.LEAVES)
    watcher.feed(framed({"t": "presence", "user": leaves.name, "status": "offline"}), 9)
    with pytest.raises(RunFailed, match="was there all the time"):
        watcher.feed(framed({"t": "presence", "user": other.name, "status": "offline"}), 9)


def test_who_is_shown_wrongly_too_long_is_told(load: OutageLoad) -> None:
    """Somebody has gone, and is still shown as there when the heartbeat is over."""
    (left,) = by_part(load, Part.LEFT)
    left.open = False
    load.gone(Part.LEFT.value)
    with pytest.raises(RunFailed, match=rf"7 times shown wrongly .* {left.name} \(left\) as online, not offline"):
        load.presence_right(time.monotonic() - 5.0, 5.0)


def test_typing_that_sticks_is_told(load: OutageLoad) -> None:
    """Beyond the lease somebody was shown as typing."""
    reader, other, *_ = by_part(load, Part.CHATS)
    reader.judge_typing(("g", other.name), TYPING_SECONDS)
    with pytest.raises(RunFailed, match="was shown as typing for"):
        reader.judge_typing(("g", other.name), TYPING_SECONDS + 1)


def test_a_generator_that_fails_between_two_commands_says_why(plan: Callable[..., Plan]) -> None:
    """Its own words come as the answer to the next command."""
    with Generators(OutageLoad, [plan("outage", connections=8, group_size=8, rate=1, body_bytes=BODY_BYTES)]) as running:
        running.start("open")  # nobody listens there
        running._processes[0].join(60)
        with pytest.raises(RunFailed, match="cannot connect"):
            running.call("check")


def test_memory_is_judged_by_what_the_control_did() -> None:
    """What grows without an outage may grow; a step, or growth afterwards, beyond the noise is a failure."""
    steady = fitted([(float(second), 1000.0 + 10 * second) for second in range(11)])
    assert steady == Line(1000.0, 1100.0, 0.0)
    assert judge("n", steady, Line(1150.0, 1250.0, 0.0), 0.5, 20.0)["step_kib"] == 50
    with pytest.raises(RunFailed, match="before the outage"):
        judge("n", steady, Line(1180.0, 1280.0, 0.0), 0.5, 20.0)
    with pytest.raises(RunFailed, match="growth afterwards"):
        judge("n", steady, Line(1150.0, 1280.0, 0.0), 0.5, 20.0)
    with pytest.raises(RunFailed, match="growth afterwards"):
        judge("n", Line(1100.0, 1000.0, 0.0), Line(1000.0, 1030.0, 0.0), 0.5, 20.0)
