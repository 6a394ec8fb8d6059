"""The checks of the scenarios: what is right passes however it arrives, and each thing that is wrong ends the run."""

from __future__ import annotations

import pytest
from chatd_bench import dm, group
from chatd_bench.connection import RunFailed
from chatd_bench.dm import DmLoad
from chatd_bench.group import GroupLoad


@pytest.fixture
def pair(plan):
    """Two halves of a pair, the first with two messages sent; their conversation has begun."""
    load = DmLoad(plan("dm", connections=2))
    load.tally.measuring = True
    for peer in load.peers:
        peer.upgraded = True
        peer._begin_conversation("c")
    for _ in range(2):
        load.peers[0].send_next()
    return load


def event(body, seq: int, cseq: int, **changed):
    fields = {"t": "event", "conv": "c", "seq": seq, "at": 1795000000000, "from": "r-0b", "kind": "message",
              "type": "text", "body": body(cseq)}  # fmt: skip
    return fields | changed


def ack(seq: int, cseq: int, **changed):
    return {"t": "ack", "cseq": cseq, "conv": "c", "seq": seq, "at": 1795000000000} | changed


def stream(body, turned: bool = False):
    """Seq 1 to 4 as the first half of the pair sees them; ``turned``: with the keys of the maps the other way round."""
    messages = [event(body, 1, 1), ack(2, 1), event(body, 3, 2), ack(4, 2)]
    return [dict(reversed(message.items())) for message in messages] if turned else messages


@pytest.mark.parametrize("turned", [False, True], ids=["as-chatd", "other-order"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_dm_takes_a_right_stream_in_any_pieces(pair, framed, body, turned: bool, step: int) -> None:
    """Fed whole or byte by byte, in chatd's order of keys or another, the stream counts the same."""
    peer = pair.peers[0]
    data = b"".join(map(framed, stream(body, turned)))
    kept = b""
    for at in range(0, len(data), step):
        kept += data[at : at + step]
        kept = kept[peer.feed(kept, 25) :]
    assert kept == b""
    assert (peer.seq, peer.received, peer.acked) == (4, 2, 2)
    assert (pair.tally.delivered, pair.tally.acked) == (2, 2)
    assert pair.tally.delivery_latency.pairs() == [(2, 2)]


def test_dm_decodes_only_what_it_must(pair, framed, body, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of chatd's own bytes, only every 64th frame is decoded; the rest is compared."""
    peer = pair.peers[0]
    decoded = []
    plain = dm.Peer.event
    monkeypatch.setattr(dm.Peer, "event", lambda self, message, now: (decoded.append(1), plain(self, message, now)))
    peer.feed(b"".join(framed(event(body, n, n)) for n in range(1, 129)), 25)
    assert (peer.received, len(decoded)) == (128, 2)


WRONG = {
    "gap in seq": lambda body: event(body, 2, 1),
    "cseq left out": lambda body: event(body, 1, 2),
    "other body": lambda body: event(body, 1, 1) | {"body": "y" * 40},
    "stamp of no digits": lambda body: event(body, 1, 1) | {"body": "x" * 40},
    "other sender": lambda body: event(body, 1, 1, **{"from": "mallory"}),
    "other conversation": lambda body: event(body, 1, 1, conv="d"),
    "other kind": lambda body: event(body, 1, 1, kind="edit"),
    "ack before its time": lambda body: ack(1, 2),
    "ack with a gap": lambda body: ack(2, 1),
    "ack of a repeat": lambda body: ack(1, 1, repeat=True),
    "refusal": lambda body: {"t": "error", "cseq": 1, "code": "overloaded", "message": "busy"},
    "goodbye": lambda body: {"t": "bye", "code": 4100, "reason": "slow_consumer"},
}


@pytest.mark.parametrize("name", WRONG)
def test_dm_fails_at_what_is_wrong(pair, framed, body, name: str) -> None:
    """Each fault of a server in a pair's stream ends the run."""
    with pytest.raises(RunFailed):
        pair.peers[0].feed(framed(WRONG[name](body)), 25)


def test_dm_fails_at_a_repeat(pair, framed, body) -> None:
    """A delivery that comes twice ends the run."""
    peer = pair.peers[0]
    peer.feed(framed(event(body, 1, 1)), 25)
    with pytest.raises(RunFailed):
        peer.feed(framed(event(body, 1, 1)), 25)


def test_dm_fails_when_an_acked_message_is_never_delivered(pair, framed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ack without its delivery is a lost message, though both streams are without a gap."""
    monkeypatch.setattr(dm, "DRAIN_SECONDS", 0.05)
    pair.peers[0].feed(framed(ack(1, 1)), 25)
    with pytest.raises(RunFailed, match="deliveries of what was acked"):
        pair.check()


def test_dm_fails_when_the_two_see_different_seqs(pair, framed, body) -> None:
    """Both have everything, without gaps, but not under the same numbers: two orders of one log (I4)."""
    one, other = pair.peers
    for _ in range(2):
        other.send_next()
    mine = {"from": "r-0a"}
    one.feed(b"".join(map(framed, [ack(1, 1), ack(2, 2), event(body, 3, 1), event(body, 4, 2)])), 25)
    other.feed(
        b"".join(map(framed, [ack(1, 1), event(body, 2, 1, **mine), ack(3, 2), event(body, 4, 2, **mine)])), 25
    )
    with pytest.raises(RunFailed, match="different seqs"):
        pair.check()


def test_dm_marks_what_it_got_in_twenties(pair, framed, body) -> None:
    """One ``delivered`` covers twenty messages."""
    peer = pair.peers[0]
    peer.out.clear()
    peer.feed(b"".join(framed(event(body, n, n)) for n in range(1, 46)), 25)
    assert len(peer.out) == 2


@pytest.fixture
def members(plan):
    """Three members of a group that has its first event; the first one has sent one message."""
    load = GroupLoad(plan("group", members=3, senders=1))
    load.conv = "c"
    load.tally.measuring = True
    for member in load.members:
        member.upgraded = True
        member.seq = 1
    load.members[0].send_next()
    return load


def of_group(body, seq: int, cseq: int, **changed):
    return event(body, seq, cseq, **{"from": "r-0"}, **changed)


def test_group_counts_every_copy(members, framed, body) -> None:
    """The first copy is decoded, the others compared, a sender has its ack instead; all stand at the same seq."""
    copy = framed(of_group(body, 2, 1))
    one, two, three = members.members
    one.feed(framed(ack(2, 1)), 25)
    for member in (two, three):
        assert member.feed(copy + copy[:5], 25) == len(copy)
    assert members.tally.delivered == 2
    assert members.check(1) == {"messages_checked": 1, "deliveries_checked": 2}


def test_group_takes_copies_in_another_encoding(members, framed, body) -> None:
    """Copies that differ in their bytes and not in their meaning are alike."""
    _, two, three = members.members
    two.feed(framed(of_group(body, 2, 1)), 25)
    three.feed(framed(dict(reversed(of_group(body, 2, 1).items()))), 25)
    assert three.seq == 2


@pytest.mark.parametrize("changed", [{"at": 1795000000001}, {"seq": 3}, {"conv": "d"}], ids=str)
def test_group_fails_at_copies_that_differ(members, framed, body, changed: dict[str, object]) -> None:
    """Two members who got different events under one seq end the run."""
    _, two, three = members.members
    two.feed(framed(of_group(body, 2, 1)), 25)
    with pytest.raises(RunFailed):
        three.feed(framed(of_group(body, 2, 1) | changed), 25)


def test_group_fails_at_a_message_left_out(members, framed, body) -> None:
    """The seqs may be contiguous: a sender's cseq that is missing is a lost message, or a late one."""
    with pytest.raises(RunFailed, match="cseq 2"):
        members.members[1].feed(framed(of_group(body, 2, 2)), 25)


def test_group_fails_when_a_member_stays_behind(members, framed, body, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last delivery of all, lost to one member, is noticed."""
    monkeypatch.setattr(group, "DRAIN_SECONDS", 0.05)
    one, two, _ = members.members
    one.feed(framed(ack(2, 1)), 25)
    two.feed(framed(of_group(body, 2, 1)), 25)
    with pytest.raises(RunFailed, match="last deliveries"):
        members.check(1)


def test_group_fails_when_more_is_delivered_than_was_acked(members, framed, body) -> None:
    """A member that got what nobody has an ack for ends the run."""
    for member in members.members[1:]:
        member.feed(framed(of_group(body, 2, 1)), 25)
    with pytest.raises(RunFailed, match="stands at seq"):
        members.check(0)
