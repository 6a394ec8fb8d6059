"""What one connection may say, and for how long it may say nothing: each bound of a session, by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cbor2
import pytest
import trio
import trio.testing
from chatd_protocol import messages

from chatd.conversations.operations import Send
from chatd.conversations.rules import NOT_FOUND, REPLACED
from chatd.limits.bucket import TokenBucket
from chatd.sessions.actor import run_session
from chatd.sessions.allowance import Floods
from chatd.sessions.replay import STALL_SECONDS, wait_for_peer
from chatd.sessions.requests import answer
from chatd.sessions.session import FRAGMENT_SECONDS
from tests.client_frames import BINARY, PING, TEXT, frame
from tests.sessions.alone import Alone

HELLO = {"t": "hello", "token": "x", "device": "phone"}


def send(cseq: int) -> dict[str, Any]:
    return {"t": "send", "cseq": cseq, "to": "@bob", "body": "x"}


def request(number: int) -> dict[str, Any]:
    return {"t": "conversations", "id": number}


async def test_who_says_no_hello_is_told_so_and_closed(autojump_clock: trio.testing.MockClock) -> None:
    """After ``server.hello_seconds``, however often it pings."""
    alone = Alone()

    async def ping() -> None:
        while True:
            await trio.sleep(1)
            alone.session.data_received(frame(PING, b"x"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ping)
        began = trio.current_time()
        await run_session(alone.session, alone.node)
        assert trio.current_time() - began == pytest.approx(10)
        nursery.cancel_scope.cancel()
    assert alone.link.said[-2:] == [{"t": "bye", "code": 4202, "reason": "hello_expected"}, {"close": 4202}]


@pytest.mark.parametrize("said", [send(1), request(1), {"t": "heartbeat"}, {"t": "nonsense"}])
async def test_nothing_is_served_before_the_hello(said: dict[str, Any]) -> None:
    """Whatever is said instead ends the session, and nothing is asked of anybody for it."""
    alone = Alone()
    alone.say(said, send(1))
    assert alone.link.said[-1] == {"close": 4202}
    assert alone.asked == []


async def test_a_token_that_its_verifier_dies_of_is_a_bad_one() -> None:
    """Whatever a token makes the server raise, its sender learns that it is not good, and nothing else."""
    alone = Alone()

    def verify(token: str) -> Any:
        raise KeyError(token)

    alone.node.verify = verify
    alone.say(HELLO)
    await run_session(alone.session, alone.node)
    assert alone.link.said[-1] == {"close": 4200}


async def test_a_fault_in_a_session_ends_it_alone() -> None:
    """It is told ``internal_error``; nothing reaches the nursery of the others."""
    alone = Alone()

    async def fail() -> None:
        raise RuntimeError("planted")

    alone.node.pace.step = fail
    alone.say(HELLO)
    await run_session(alone.session, alone.node)
    assert alone.link.said[-1] == {"close": 4001}


async def test_frames_beyond_the_rate_end_the_session(mock_clock: trio.testing.MockClock) -> None:
    """Of whatever kind, ten times as many as messages; who keeps to it goes on."""
    alone = Alone(messages_per_second=1.0, messages_burst=1).live()
    ping = frame(PING)
    alone.session.data_received(ping * 10)
    assert alone.session.ended is None
    mock_clock.jump(1)
    alone.session.data_received(ping * 10)
    assert alone.session.ended is None
    alone.session.data_received(ping)
    assert alone.link.said[-1] == {"close": 4103}


async def test_fragments_are_frames() -> None:
    """A message in forty pieces counts as forty: it is as much work. (And as sixteen more, for it is none.)"""
    alone = Alone(messages_per_second=1.0, messages_burst=12).live()
    first, more, last = b"\x02\x81\0\0\0\0x", b"\x00\x81\0\0\0\0x" * 38, b"\x80\x81\0\0\0\0x"
    for _ in range(2):
        alone.session.data_received(first + more + last)
        assert alone.session.ended is None
    alone.session.data_received(first + more + last)
    assert alone.link.said[-1] == {"close": 4103}


async def test_a_flood_does_not_begin_anew_with_the_next_session(mock_clock: trio.testing.MockClock) -> None:
    """Of the same user, on whatever device: it is sent away, told until when, and nothing is asked of the store for it. Others
    are let in, and so is this one, as soon as it was told."""
    alone = Alone(messages_per_second=1.0, messages_burst=10).live()
    for _ in range(2):
        alone.session.data_received(frame(PING) * 60)
    alone.session.tell_flood()
    for said in (alone.link.said, await alone.comes("ann")):
        assert (said[-2]["code"], said[-2]["retry_after_ms"]) == (4103, 7000)
    assert alone.asked == []
    await alone.comes("bob")
    mock_clock.jump(6.1)
    await alone.comes("ann")
    assert [operation.user for operation in alone.asked] == ["bob", "ann"]  # type: ignore[union-attr]
    assert not len(alone.node.floods)


def _emptied(rate: float, burst: int) -> TokenBucket:
    bucket = TokenBucket(rate, burst)
    bucket.take(trio.current_time(), burst)
    return bucket


async def test_who_has_flooded_is_remembered_within_bounds() -> None:
    """The oldest is forgotten; who was no flood is not kept at all."""
    floods, now = Floods(most=2), trio.current_time()
    for number in range(4):
        floods.ended(f"user{number}", _emptied(1.0, 10 if number else 1), now)
    assert [floods.wait(f"user{number}", now) for number in range(4)] == [0, 0, 10, 10]


async def test_frames_before_the_hello_are_few() -> None:
    """One message is to come."""
    alone = Alone()
    alone.session.data_received(frame(PING) * 400)
    assert alone.session.ended is None
    alone.session.data_received(frame(PING))
    assert alone.link.said[-1] == {"close": 4103}


@pytest.mark.parametrize("costly", [list(range(2000)), "x" * 4000], ids=["2000 items", "one text"])
async def test_a_message_of_many_items_counts_as_many_frames(costly: object) -> None:
    """A burst of 50 messages is what 50 long texts are, and much less of what takes as long to read as thousands."""
    alone = Alone(messages_per_second=1.0, messages_burst=50).live()
    said = 0
    while alone.session.ended is None and said < 50:
        alone.say({"t": "typing", "conv": "c", "on": True, "x": costly})
        said += 1
    assert (alone.session.ended is None) is (said == 50) is isinstance(costly, str)


async def test_frames_of_the_other_kind_end_the_session() -> None:
    """A session of binary messages has no texts."""
    alone = Alone()
    alone.session.data_received(frame(TEXT, b"{}"))
    assert alone.link.said == [{"close": 1003}]


async def test_what_is_no_message_counts_as_many_frames(mock_clock: trio.testing.MockClock) -> None:
    """It is read the slow way, and answered; and counts against nothing else."""
    alone = Alone(messages_per_second=1.0, messages_burst=16).live()
    alone.say(*[{"t": "nothing of ours"}] * 9)
    assert alone.link.errors == ["unknown_type"] * 9
    assert not alone.link.ended
    alone.say({"t": "nothing of ours"})
    assert alone.link.said[-1] == {"close": 4103}


async def test_a_long_text_is_one_frame(mock_clock: trio.testing.MockClock) -> None:
    """In whatever script: it is only looked over."""
    alone = Alone().live()
    for number, body in enumerate(["a" * 60_000, "\u0440" * 30_000] * 50, 1):
        alone.say({"t": "send", "cseq": number, "to": "@ben", "body": body, "mentions": ["ben"]})
    assert len(alone.asked) == 100


async def test_messages_beyond_the_rate_are_refused() -> None:
    """Each is told when to come again, and none of them reaches the store."""
    alone = Alone(messages_burst=3).live()
    alone.say(*[send(number) for number in range(1, 6)])
    assert [operation.cseq for operation in alone.asked] == [1, 2, 3]  # type: ignore[union-attr]
    assert alone.link.errors == ["rate_limited"] * 2
    assert all(message["retry_after_ms"] > 0 for message in alone.link.said)


async def test_requests_beyond_the_rate_are_refused() -> None:
    """Also of who may write as much as they like."""
    alone = Alone(requests_burst=3).live()
    alone.say(*[request(number) for number in range(5)])
    assert [message["id"] for message in alone.link.said] == [3, 4]
    assert alone.link.errors == ["rate_limited"] * 2


async def test_signals_beyond_the_rate_are_refused() -> None:
    """Typing has no answer, but too much of it has."""
    alone = Alone().live()
    alone.say(*[{"t": "typing", "conv": "c", "on": True}] * 25)
    assert len(alone.typed) == 20
    assert alone.link.errors == ["rate_limited"] * 5


async def test_searches_beyond_the_rate_are_refused() -> None:
    """They cost the store more than other requests do."""
    alone = Alone(searches_burst=2).live()
    searched: list[Any] = []

    async def search(*words: Any, **more: Any) -> Any:
        searched.append(words)
        return [], None

    alone.node.store = SimpleNamespace(search=search)
    for number in range(4):
        await answer(alone.session, alone.node, messages.Search(id=number, query="word"))
    assert len(searched) == 2
    assert alone.link.errors == ["rate_limited"] * 2


async def test_who_has_too_much_under_way_is_not_read() -> None:
    """Sends that the store has not settled; the socket is read again when there is room."""
    alone = Alone(inflight_sends=2).live()
    alone.say(send(1))
    assert alone.link.reading
    alone.say(send(2))
    assert not alone.link.reading
    alone.session._send_settled(alone.asked[0], NOT_FOUND)
    assert alone.link.reading


async def test_what_was_read_waits_until_there_is_room() -> None:
    """All that came in one piece is not taken in at once; and when there is room, it is, in its order and all of it."""
    alone = Alone(inflight_sends=4).live()
    alone.say(*(send(cseq) for cseq in range(1, 11)))
    assert (len(alone.asked), alone.link.reading) == (4, False)
    settled = 0
    while settled < len(alone.asked):
        assert len(alone.asked) - settled <= 4
        alone.session._send_settled(alone.asked[settled], NOT_FOUND)
        settled += 1
    assert [operation.cseq for operation in alone.asked if isinstance(operation, Send)] == list(range(1, 11))
    assert alone.link.reading


@pytest.mark.parametrize(("share", "taken"), [(1.0, 8), (0.25, 2), (0.0, 1)])
async def test_when_much_waits_each_may_have_less_under_way(share: float, taken: int) -> None:
    """One at least: who has none under way would not be told that there is room again."""
    alone = Alone(inflight_sends=8).live()
    alone.node.writer.inflight_share = share
    alone.say(*(send(cseq) for cseq in range(1, 11)))
    assert (len(alone.asked), alone.link.reading) == (taken, False)
    for operation in alone.asked[:taken]:
        alone.session._send_settled(operation, NOT_FOUND)
    assert len(alone.asked) > taken
    assert alone.link.errors == ["not_found"] * taken


async def test_a_fault_in_what_had_waited_ends_its_session_alone() -> None:
    """It is the writer who calls then, and it serves everybody."""
    alone = Alone(inflight_sends=1).live()
    alone.say(send(1), {"t": "heartbeat", "active": False})

    def fail(_: str) -> None:
        raise RuntimeError("planted")

    alone.node.presence.stir = fail
    alone.session._send_settled(alone.asked[0], NOT_FOUND)
    assert alone.link.ended == "aborted"


async def test_who_asks_faster_than_is_answered_is_not_read() -> None:
    """Requests that wait; the socket is read again when one of them is taken."""
    alone = Alone(requests_waiting=2).live()
    alone.say(request(1))
    assert alone.link.reading
    alone.say(request(2))
    assert not alone.link.reading
    alone.session.take_job()
    assert alone.link.reading


async def test_a_full_writer_is_told() -> None:
    """``overloaded``, with the number, so that it is said again."""
    alone = Alone().live()
    alone.writer.close()
    alone.say(send(1))
    assert [(message["code"], message["cseq"]) for message in alone.link.said] == [("overloaded", 1)]


async def test_who_does_not_read_is_cut() -> None:
    """What waits is dropped, or the goodbye would wait behind it."""
    alone = Alone().live()
    alone.session.outbox_overflowed()
    assert alone.link.ended == "cut"
    assert alone.link.said[0]["reason"] == "slow_consumer"
    assert alone.node.metrics.slow_consumers == 1


async def test_who_stops_reading_a_replay_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    """Its actor waits for it alone, and not for ever."""
    alone = Alone().live()
    began = trio.current_time()
    await wait_for_peer(alone.session, alone.node)
    assert trio.current_time() - began == pytest.approx(STALL_SECONDS)
    assert (alone.link.ended, alone.link.said[0]["reason"]) == ("cut", "slow_consumer")


async def test_a_refusal_that_tells_of_a_newer_session_ends_this_one() -> None:
    """Another node's doing, of which the bus did not tell."""
    alone = Alone().live()
    alone.say(send(1))
    alone.session._send_settled(alone.asked[0], REPLACED)
    assert alone.link.said[-1] == {"close": 4203}


async def test_silence_ends_a_session(mock_clock: trio.testing.MockClock) -> None:
    """Two heartbeats of it; whatever is said counts."""
    alone = Alone().live()
    mock_clock.jump(59)
    alone.say({"t": "heartbeat"})
    mock_clock.jump(59)
    alone.session.expire(trio.current_time(), 0, 60.0)
    assert alone.session.ended is None
    mock_clock.jump(2)
    alone.session.expire(trio.current_time(), 0, 60.0)
    assert alone.link.said[-1] == {"close": 4002}


async def test_the_end_of_its_token_ends_a_session(mock_clock: trio.testing.MockClock) -> None:
    """To the ms, however busy it is."""
    alone = Alone().live()
    alone.session.expires_at = 5000
    alone.session.expire(trio.current_time(), 4999, 60.0)
    assert alone.session.ended is None
    alone.session.expire(trio.current_time(), 5000, 60.0)
    assert alone.link.said[-1] == {"close": 4201}


@pytest.mark.parametrize("between", [b"", frame(PING)], ids=["alone", "with pings"])
async def test_a_message_that_takes_too_long_ends_the_session(mock_clock: trio.testing.MockClock, between: bytes) -> None:
    """A byte, or an empty fragment, now and then is no silence, and holds a connection for nothing."""
    mock_clock.jump(100)
    alone = Alone().live()
    alone.session.data_received(frame(BINARY, cbor2.dumps(request(1)))[:3] if not between else frame(BINARY, fin=False))
    for _ in range(int(FRAGMENT_SECONDS)):
        mock_clock.jump(1)
        alone.session.data_received(between or b"\0")
        alone.session.expire(trio.current_time(), 0, 60.0)
        assert alone.session.ended is None
    mock_clock.jump(1)
    alone.session.expire(trio.current_time(), 0, 60.0)
    assert alone.link.said[-1] == {"close": 1008}
