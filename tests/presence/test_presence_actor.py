"""Presence on one node and on several, with a real Valkey and store, under a clock that the test moves."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.conversations.operations import NoteSeen, RemoveMembers, SetPrivacy
from chatd.delivery.envelope import PrivacySignal
from chatd.presence.port import Lease
from chatd.presence.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from chatd.store.port import Acquaintance
    from tests.presence.conftest import Node, Place, Session

ONLINE, AWAY, OFFLINE = ("bob", "online"), ("bob", "away"), ("bob", "offline")


async def watcher(place: Place, node: Node, *users: str) -> Session:
    """Ann, who shares a group with bob, and watches."""
    ann, _ = await place.people("ann", "bob")
    await place.group(ann, "bob")
    session = node.enter(ann)
    node.presence.watch(session, list(users or ("bob",)))
    await place.until(lambda: bool(session.told))
    return session


@pytest.mark.parametrize("apart", [False, True], ids=["one-node", "two-nodes"])
async def test_online_away_offline(place: Place, mock_clock: MockClock, apart: bool) -> None:
    """Each change once: online at once, away after 5 minutes of silence, online with the next word, offline 60 s after."""
    here = await place.node("aa")
    there = await place.node("bb") if apart else here
    ann = await watcher(place, here)
    assert ann.told == [{"t": "presence", "user": "bob", "status": "offline"}]
    (author,) = await place.people("bob")
    bob = there.enter(author)
    await place.until(lambda: len(ann.told) == 2, 2)
    await place.until(lambda: len(ann.told) == 3, 301)
    assert ann.got == [OFFLINE, ONLINE, AWAY]
    assert ann.told[2]["last_seen"] - 10**12 == pytest.approx(bob.last_active * 1000, abs=2)
    assert bob.idle
    bob.last_active, bob.idle = place.clock.current_time(), False
    there.presence.stir("bob")
    await place.until(lambda: len(ann.told) == 4, 2)
    there.presence.leave(bob)
    left = place.clock.current_time()
    assert await place.until(lambda: len(ann.told) == 5, 62) >= 59
    assert ann.got[3:] == [ONLINE, OFFLINE]
    assert ann.told[4]["last_seen"] - 10**12 == pytest.approx(left * 1000, abs=2)
    await place.go(70)
    assert len(ann.told) == 5


async def test_who_has_just_come_is_online_at_once(place: Place, mock_clock: MockClock) -> None:
    """The first answer to a watch is right for a user of this node, though no round has been since; who hides stays hidden."""
    node = await place.node("aa")
    ann, bob, cid = await place.people("ann", "bob", "cid")
    await place.group(ann, "bob", "cid")
    await place.do(SetPrivacy(author=cid, presence=False))
    session = node.enter(ann)
    await place.go(1)
    for author in (bob, cid):
        node.enter(author)
    node.presence.watch(session, ["bob", "cid"])
    await place.until(lambda: len(session.told) == 2)
    assert sorted(session.got) == [ONLINE, ("cid", "offline")]


async def test_several_devices_never_flip_flop(place: Place, mock_clock: MockClock) -> None:
    """A tablet that sleeps and a phone that is used, on two nodes, in whatever order they renew: online, once."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    tablet, phone = there.enter(author), here.enter(author)
    tablet.inactive = True
    there.presence.stir("bob")
    await place.go(100)
    assert ann.got == [OFFLINE, ONLINE]
    phone.inactive = True
    here.presence.stir("bob")
    await place.until(lambda: len(ann.told) == 3, 2)
    tablet.inactive = False
    there.presence.stir("bob")
    await place.until(lambda: len(ann.told) == 4, 2)
    await place.go(65)
    assert ann.got == [OFFLINE, ONLINE, AWAY, ONLINE]


async def test_who_comes_and_goes_quickly_is_told_of_once(place: Place, mock_clock: MockClock) -> None:
    """Ten changes in a second are one or two, and the last of them is the one that holds."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    bob = there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    for number in range(11):
        bob.inactive = number % 2 == 0
        there.presence.stir("bob")
        await place.go(0.1)
    await place.go(3)
    assert len(ann.told) <= 4
    assert ann.got[-1] == AWAY


async def test_a_node_that_dies_takes_its_users_offline(place: Place, mock_clock: MockClock) -> None:
    """Nobody says so; who watches them finds it within the expiry of the last lease."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    there.kill()
    await place.go(1)
    await here.board._link.call("DEL", "chatd:p:bob")  # which Valkey does by its own clock, and that is not the test's
    assert await place.until(lambda: ann.got[-1] == OFFLINE, 61) > 20


async def test_a_flush_heals_and_nobody_sees_it(place: Place, mock_clock: MockClock) -> None:
    """FLUSHALL: within one heartbeat all leases are there again, and no watcher was told anything."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    await place.go(45)
    await here.board._link.call("FLUSHALL")
    await place.go(31)
    assert [len(leases) for leases in await here.board.read(["bob"])] == [1]
    await place.go(65)
    assert ann.got == [OFFLINE, ONLINE]


async def test_while_redis_is_away_what_is_known_holds(place: Place, mock_clock: MockClock) -> None:
    """Statuses freeze, own users go on to be right; when it is back, what changed meanwhile is told."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here, "bob", "ann")
    (author,) = await place.people("bob")
    bob = there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    assert place.server.pid is not None
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        await place.until(lambda: not here.board.up and not there.board.up, 20)
        bob.inactive = ann.inactive = True
        there.presence.stir("bob")
        here.presence.stir("ann")
        await place.until(lambda: ann.got[-1] == ("ann", "away"))
        await place.go(70)
        assert AWAY not in ann.got
        assert OFFLINE not in ann.got[2:]
    finally:
        os.kill(place.server.pid, signal.SIGCONT)
    await place.until(lambda: AWAY in ann.got, 30)
    await place.go(65)
    assert ann.got[-1] == AWAY


async def test_who_is_gone_while_redis_is_away_is_told_when_it_is_back(place: Place, mock_clock: MockClock) -> None:
    """Their lease on the board outlives them, and nobody renews it: the last word has to be said again."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    bob = there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    there.presence.leave(bob)
    await place.go(35)
    assert place.server.pid is not None
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        await place.until(lambda: not here.board.up and not there.board.up, 20)
        await place.until(lambda: there.presence.people == 0, 60)
        assert ann.got[-1] == ONLINE
    finally:
        os.kill(place.server.pid, signal.SIGCONT)
    await place.until(lambda: ann.got[-1] == OFFLINE, 10)


async def test_a_long_outage_hides_from_nobody_when_somebody_left(place: Place, mock_clock: MockClock) -> None:
    """Gone for longer than the expiry when Redis is back: the other node's watchers are told the true moment, too."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    cid_author, bob_author = await place.people("cid", "bob")
    await place.group(cid_author, "bob")
    cid = there.enter(cid_author)
    there.presence.watch(cid, ["bob"])
    bob = there.enter(bob_author)
    await place.until(lambda: ann.got[-1] == ONLINE and bool(cid.got) and cid.got[-1] == ONLINE)
    assert place.server.pid is not None
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        await place.until(lambda: not here.board.up and not there.board.up, 20)
        await place.go(20)
        there.presence.leave(bob)
        left = place.clock.current_time()
        await place.until(lambda: cid.got[-1] == OFFLINE, 70)
        await place.go(100)
    finally:
        os.kill(place.server.pid, signal.SIGCONT)
    await place.until(lambda: ann.got[-1] == OFFLINE, 20)
    assert ann.told[-1]["last_seen"] == cid.told[-1]["last_seen"]
    assert ann.told[-1]["last_seen"] - 10**12 == pytest.approx(left * 1000, abs=2)


async def test_a_last_word_that_was_not_heard_is_read(place: Place, mock_clock: MockClock) -> None:
    """Said before this node's link was back: it stands on the board, where a missing lease would hold for a heartbeat."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    bob = there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    here.board.unlisten(["bob"])
    there.presence.leave(bob)
    await place.until(lambda: there.presence.people == 0, 70)
    here.presence.board_lost()
    await place.until(lambda: ann.got[-1] == OFFLINE, 10)


async def test_who_is_back_before_redis_is_was_never_gone(place: Place, mock_clock: MockClock) -> None:
    """A last word that could not be said is not said of somebody who has come back."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    bob = there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    there.presence.leave(bob)
    assert place.server.pid is not None
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        await place.until(lambda: there.presence.people == 0, 90)
        there.enter(author)
        await place.until(lambda: not here.board.up and not there.board.up, 20)
    finally:
        os.kill(place.server.pid, signal.SIGCONT)
    await place.until(lambda: here.board.up and there.board.up, 20)
    await place.go(65)
    assert ann.got == [OFFLINE, ONLINE]


async def test_a_stranger_is_told_nothing(place: Place, mock_clock: MockClock) -> None:
    """I8: without a conversation in common there is no answer; it begins with one, and ends with it."""
    here, there = await place.node("aa"), await place.node("bb")
    eve_author, bob_author = await place.people("eve", "bob")
    eve = here.enter(eve_author)
    here.presence.watch(eve, ["bob", "nobody"])
    there.enter(bob_author)
    await place.go(40)
    assert eve.told == []
    conv = await place.group(eve_author, "bob")
    here.presence.conversations_moved(eve)
    await place.until(lambda: eve.got == [ONLINE])
    await place.do(RemoveMembers(author=eve_author, conv=conv, users=("bob",)))
    here.moved(conv, "bob", "left", eve)
    await place.until(lambda: eve.got == [ONLINE, OFFLINE])
    assert "last_seen" not in eve.told[-1]
    assert here.presence.watched == 0


@pytest.mark.parametrize("apart", [False, True], ids=["one-node", "two-nodes"])
async def test_what_is_hidden_stays_on_its_node(place: Place, mock_clock: MockClock, apart: bool) -> None:
    """Hidden presence is offline to everybody, hidden last seen is left out; neither leaves the node, nor the store."""
    here = await place.node("aa")
    there = await place.node("bb") if apart else here
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    await place.do(NoteSeen(seen=(("bob", 5),)), SetPrivacy(author=author, presence=False))
    bob = there.enter(author)
    await place.go(40)
    assert ann.got == [OFFLINE]
    assert await here.board._link.call("EXISTS", "chatd:p:bob") == 0
    here.presence.watch(ann, ["bob"])
    await place.until(lambda: len(ann.told) == 2)
    assert ann.told[1] == {"t": "presence", "user": "bob", "status": "offline"}
    there.presence.set_privacy("bob", presence=True, last_seen=False)
    await place.do(SetPrivacy(author=author, presence=True, last_seen=False))
    await place.until(lambda: ann.got[-1] == ONLINE)
    bob.inactive = True
    there.presence.stir("bob")
    await place.until(lambda: ann.got[-1] == AWAY)
    assert "last_seen" not in ann.told[-1]
    there.presence.set_privacy("bob", presence=False, last_seen=False)
    await place.until(lambda: ann.got[-1] == OFFLINE)
    assert "last_seen" not in ann.told[-1]


async def test_a_lost_word_on_privacy_is_found_within_a_heartbeat(place: Place, mock_clock: MockClock) -> None:
    """Another node stored it and its signal was lost: the next renewal reads it."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    await place.do(SetPrivacy(author=author, presence=False))
    await place.until(lambda: ann.got[-1] == OFFLINE, 33)


async def test_an_old_word_on_privacy_shows_nobody(place: Place, mock_clock: MockClock) -> None:
    """Who can repeat what nodes tell each other cannot undo it: what counts is what is stored."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    await place.do(SetPrivacy(author=author, presence=False))
    here.presence.set_privacy("bob", presence=False, last_seen=True)
    await place.until(lambda: ann.got[-1] == OFFLINE, 5)
    there.presence.heard(b"chatd:u:bob", [PrivacySignal("bob", presence=True, last_seen=True)])
    await place.go(5)
    assert ann.got[-1] == OFFLINE
    await place.do(SetPrivacy(author=author, presence=True))
    here.presence.set_privacy("bob", presence=True, last_seen=True)
    await place.until(lambda: ann.got[-1] == ONLINE, 5)


async def test_last_seen_survives_a_flush(place: Place, mock_clock: MockClock) -> None:
    """It is stored soon after somebody left, and now and then while they are there."""
    here = await place.node("aa")
    ann_author, bob_author = await place.people("ann", "bob")
    await place.group(ann_author, "bob")
    bob = here.enter(bob_author)
    await place.go(20)
    here.presence.leave(bob)
    left = place.clock.current_time()
    await place.go(70)
    await here.board._link.call("FLUSHALL")
    ann = here.enter(ann_author)
    here.presence.watch(ann, ["bob"])
    await place.until(lambda: bool(ann.told))
    assert ann.told[0]["last_seen"] - 10**12 == pytest.approx(left * 1000, abs=2)


async def test_above_the_budget_updates_coarsen(place: Place, mock_clock: MockClock) -> None:
    """Nothing fails and nothing piles up: changes wait, the metric says so, and the last one is told."""
    here = await place.node("aa", messages_per_second=2.0)
    names = [f"u{number}" for number in range(20)]
    ann, *others = await place.people("ann", *names)
    await place.group(ann, *names)
    session = here.enter(ann)
    here.presence.watch(session, names)
    await place.until(lambda: len(session.told) == 20)
    entered = [here.enter(author) for author in others]
    await place.go(4)
    assert len(session.told) <= 20 + 2 + 2 * 4
    assert here.metrics.presence_coarsened > 0
    for one in entered:
        one.inactive = True
        here.presence.stir(one.user)
    await place.go(60)
    last = {message["user"]: message["status"] for message in session.told}
    assert last == dict.fromkeys(names, "away")
    assert len(session.told) < 20 + 40


async def test_what_many_watch_is_told_within_the_budget(place: Place, mock_clock: MockClock) -> None:
    """A change is a message to each who watches: of two whom ten watch, and who come at once, the second one waits."""
    here = await place.node("aa", messages_per_second=10.0)
    bob, cid, *others = await place.people("bob", "cid", *[f"u{number}" for number in range(10)])
    await place.group(bob, "cid", *[author.user for author in others])
    sessions = [here.enter(author) for author in others]
    for session in sessions:
        here.presence.watch(session, ["bob", "cid"])
    await place.until(lambda: all(len(session.told) == 2 for session in sessions))
    await place.go(5)
    for author in (bob, cid):
        here.enter(author)
    await place.until(lambda: any(len(session.told) > 2 for session in sessions))
    assert sum(len(session.told) - 2 for session in sessions) == 10
    await place.until(lambda: all(len(session.told) == 4 for session in sessions))


async def test_the_node_watches_so_many(place: Place, mock_clock: MockClock) -> None:
    """Beyond the bound the session is told so, once; when it watches fewer there is room again."""
    here = await place.node("aa", watched_users=2)
    ann, *_ = await place.people("ann", "u1", "u2", "u3")
    await place.group(ann, "u1", "u2", "u3")
    session = here.enter(ann)
    here.presence.watch(session, ["u1", "u2", "u3"])
    await place.until(lambda: len(session.told) == 2)
    assert session.refused == ["overloaded"]
    here.presence.watch(session, ["u3"])
    await place.until(lambda: len(session.told) == 3)
    assert session.got[-1] == ("u3", "offline")
    here.presence.leave(session)
    assert here.presence.watched == 0


async def test_a_redis_that_hangs_stops_nothing_that_needs_none(place: Place, mock_clock: MockClock) -> None:
    """Before the link notices, one's own users are right for one's own sessions, and who begins to watch is answered."""
    here = await place.node("aa")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    bob = here.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    await place.go(1)
    assert place.server.pid is not None
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        bob.inactive = True
        here.presence.stir("bob")
        later = here.enter(ann.author)
        here.presence.watch(later, ["bob", "ann"])
        await place.until(lambda: ann.got[-1] == AWAY and AWAY in later.got and ("ann", "online") in later.got, 4)
        bob.inactive = False
        here.presence.stir("bob")
        await place.until(lambda: ann.got[-1] == later.got[-1] == ONLINE, 2)
        assert here.board.up
    finally:
        os.kill(place.server.pid, signal.SIGCONT)
    await place.go(40)
    assert ann.got == [OFFLINE, ONLINE, AWAY, ONLINE]


async def test_leases_that_are_over_do_not_outlive_the_own_word(place: Place, mock_clock: MockClock) -> None:
    """While somebody is online here, nobody reads what the others say; before less is told, it is read."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    bob, _ = here.enter(author), there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    there.kill()
    await place.go(70)
    await here.board._link.call("HDEL", "chatd:p:bob", "bb")  # which Valkey does by its own clock, and that is not the test's
    bob.inactive = True
    here.presence.stir("bob")
    await place.until(lambda: ann.got[-1] == AWAY, 3)


async def test_a_large_watch_holds_nobody_up(place: Place, mock_clock: MockClock) -> None:
    """The store is asked about a few at a time, one session after another; and each of the many is answered."""
    here = await place.node("aa")
    names = [f"u{number}" for number in range(200)]
    ann, bob, *_ = await place.people("ann", "bob", *names)
    await place.group(ann, "bob", *names)
    asked: list[tuple[int, int]] = []
    acquainted = place.store.acquainted

    async def count(user_no: int, users: Sequence[str]) -> list[Acquaintance]:
        asked.append((user_no, len(users)))
        return await acquainted(user_no, users)

    place.store.acquainted = count  # type: ignore[method-assign]
    many, one = here.enter(ann), here.enter(bob)
    here.presence.watch(many, names)
    here.presence.watch(one, ["ann"])
    await place.until(lambda: len(many.told) == 200 and len(one.told) == 1)
    assert asked == [(ann.user_no, 50), (bob.user_no, 1), *[(ann.user_no, 50)] * 3]


async def test_an_answer_that_is_out_of_date_grants_nothing(place: Place, mock_clock: MockClock) -> None:
    """I8: bob is removed while the store is read; the answer that still knew him is asked for once more."""
    here = await place.node("aa")
    eve_author, bob_author = await place.people("eve", "bob")
    conv = await place.group(eve_author, "bob")
    here.enter(bob_author)
    eve = here.enter(eve_author)
    read, go = trio.Event(), trio.Event()
    acquainted = place.store.acquainted

    async def slow(user_no: int, users: Sequence[str]) -> list[Acquaintance]:
        found = await acquainted(user_no, users)
        read.set()
        await go.wait()
        return found

    place.store.acquainted = slow  # type: ignore[method-assign]
    here.presence.watch(eve, ["bob"])
    await read.wait()
    await place.do(RemoveMembers(author=eve_author, conv=conv, users=("bob",)))
    here.moved(conv, "bob", "left", eve)
    go.set()
    await place.go(5)
    assert eve.told == []
    assert here.presence.watched == 0


async def test_what_was_heard_during_a_read_is_not_undone_by_it(place: Place, mock_clock: MockClock) -> None:
    """The answer was on its way when the other node said goodbye: it is read again, and nobody is told of the old word."""
    here, there = await place.node("aa"), await place.node("bb")
    ann = await watcher(place, here)
    (author,) = await place.people("bob")
    there.enter(author)
    await place.until(lambda: ann.got[-1] == ONLINE)
    read = here.board.read

    async def overtaken(users: Sequence[str]) -> list[list[Lease]]:
        found = await read(users)
        if "bob" in users:
            here.board.read = read  # type: ignore[method-assign]
            here.presence.heard_of("bob", Lease("bb", Status.AWAY, 7, 60.0))
            await here.board._link.call("HDEL", "chatd:p:bob", "bb")
        return found

    there.kill()
    here.board.read = overtaken  # type: ignore[method-assign]
    await place.until(lambda: here.board.read is read, 31)
    await place.go(2)
    assert ann.got == [OFFLINE, ONLINE, AWAY]
