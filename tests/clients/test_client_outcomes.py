"""What became of each message, told to the program: full queues, lost acks, crashes, failing disks."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import trio
from chatd_client import Hole, OutboxFull, SendRefused, Stored
from chatd_client.stream import MAX_FACTS
from chatd_protocol.messages import Ack, Error, Event, Live, Send

from tests.clients.connected import connected, take

if TYPE_CHECKING:
    from pathlib import Path


async def flood(server: Any, events: int) -> None:
    """Somebody else writes more than the queue takes."""
    for number in range(events):
        server.append("g", "bob", str(number))
    for event in server.logs["g"]:
        await server.tell(server.live[0], event)


async def test_outcomes_enter_a_full_queue(server: Any) -> None:
    """While events are let go, what became of a posted message is told all the same; no event is skipped for it."""
    server.refuse["bad"] = Error(code="forbidden", message="no")
    async with connected(server) as client:
        await client.wait_for("live")
        await flood(server, MAX_FACTS + 500)
        stored, refused = client.post("g", "good").key, client.post("g", "bad").key
        await client.drained()
        last = len(server.logs["g"])
        facts = await take(client, lambda fact: isinstance(fact, Event) and fact.seq == last)
    outcomes = [fact for fact in facts if isinstance(fact, Stored | SendRefused)]
    assert [fact.item.key for fact in outcomes] == [stored, refused]
    assert (outcomes[0].ack.conv, outcomes[0].ack.seq, outcomes[0].ack.repeat) == ("g", last, True)
    assert [fact.seq for fact in facts if isinstance(fact, Event)] == list(range(1, last + 1))


async def test_unread_outcomes_take_room_in_the_outbox(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that posts and never reads learns it from OutboxFull, and not from its memory; reading makes room."""
    monkeypatch.setattr("chatd_client.outbox.MAX_ITEMS", 3)
    async with connected(server) as client:
        for _ in range(3):
            client.post("g", "x")
            await client.drained()
        with pytest.raises(OutboxFull):
            client.post("g", "one too many")
        await take(client, lambda fact: isinstance(fact, Stored))
        client.post("g", "y")
        await client.drained()
    assert server.bodies("g") == ["x", "x", "x", "y"]


async def test_an_ack_nobody_waits_for_moves_no_position_while_events_are_let_go(server: Any) -> None:
    """An ack between events that did not fit must not hide them: the next hello asks for them."""
    async with connected(server) as client:
        await client.wait_for("live")
        for number in range(MAX_FACTS + 500):
            server.append("g", "bob", str(number))
        for event in server.logs["g"][:-1]:
            await server.tell(server.live[0], event)
        last = server.logs["g"][-1]
        await server.tell(server.live[0], Ack(cseq=1, conv="g", seq=last.seq, at=last.at))
        await client.history("g")
        facts = await take(client, lambda fact: isinstance(fact, Event) and fact.seq == last.seq)
    assert [fact.seq for fact in facts if isinstance(fact, Event)] == list(range(1, last.seq + 1))


async def test_an_ack_nobody_waits_for_is_a_hole(server: Any) -> None:
    """Its place in the log is taken, its content unknown: Hole says so, with what lies before it where that is
    missing too.
    """
    async with connected(server) as client:
        await client.wait_for("live")
        await server.say("g", "bob", "1")
        await server.tell(server.live[0], Ack(cseq=1, conv="g", seq=2, at=1))
        await server.tell(server.live[0], Ack(cseq=2, conv="g", seq=5, at=1))
        await server.tell(server.live[0], Ack(cseq=2, conv="g", seq=5, at=1))
        for event in [Event(conv="g", seq=seq, at=1, sender="bob", kind="message", body="x") for seq in (5, 6)]:
            await server.tell(server.live[0], event)
        facts = await take(client, lambda fact: isinstance(fact, Event) and fact.seq == 6)
    assert [fact for fact in facts if isinstance(fact, Hole)] == [Hole("g", 1, 3), Hole("g", 2, 6)]
    assert [fact.seq for fact in facts if isinstance(fact, Event)] == [1, 6]


async def test_a_send_whose_ack_was_lost_gets_its_place(server: Any) -> None:
    """The connection goes between commit and ack: the event comes by replay, as one's own and without a cseq; the
    repeat tells the awaiting sender, and the program, which seq that is. Stored once.
    """
    lost: list[Any] = []

    def swallow(message: Any) -> bool:
        if isinstance(message, Send) and not lost:
            lost.append(server.store(message))
            return True
        return False

    server.append("dm-bob", "bob", "before")
    server.swallow = swallow
    acks: list[Any] = []

    async def send() -> None:
        acks.append(await client.send("@bob", "mine"))

    async with connected(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await server.until(lambda: lost)
        server.append("dm-bob", "bob", "after")
        await server.cut()
        facts = await take(client, lambda fact: isinstance(fact, Stored))
        if not any(isinstance(fact, Event) and fact.seq == 3 for fact in facts):
            facts += await take(client, lambda fact: isinstance(fact, Event) and fact.seq == 3)
    stored = [fact for fact in facts if isinstance(fact, Stored)]
    assert [(ack.conv, ack.seq, ack.repeat) for ack in acks] == [("dm-bob", 2, True)]
    assert [fact.ack for fact in stored] == acks
    assert [fact.seq for fact in facts if isinstance(fact, Event)] == [1, 2, 3]
    assert server.bodies("dm-bob") == ["before", "mine", "after"]


async def test_a_crash_between_ack_and_outbox_write(server: Any, tmp_path: Path) -> None:
    """The ack came, its record was lost with the power, the positions were not: the next start repeats the message,
    which is stored once, told once with its place, and comes as an event only where it was not seen.
    """
    async with connected(server, state_dir=tmp_path / "a") as client:
        await client.wait_for("live")
        server.swallow = lambda message: isinstance(message, Send)
        key = client.post("g", "mine").key
        await server.until(lambda: any(isinstance(message, Send) for message in server.arrived))
        shutil.copytree(tmp_path / "a", tmp_path / "unseen")
        server.swallow = lambda message: False
        await server.cut()
        await take(client, lambda fact: isinstance(fact, Stored))
        await server.say("g", "bob", "later")
        await take(client, lambda fact: isinstance(fact, Event))
    shutil.copytree(tmp_path / "unseen", tmp_path / "seen")
    for positions in (tmp_path / "a").glob("*.positions"):
        shutil.copy(positions, tmp_path / "seen")
    for state, expected in (("seen", [2]), ("unseen", [1, 2])):
        async with connected(server, state_dir=tmp_path / state) as client:
            facts = await take(client, lambda fact: isinstance(fact, Live))
            while not any(isinstance(fact, Stored) for fact in facts):
                facts += await take(client, lambda fact: isinstance(fact, Stored))
            await client.drained()
        stored = [fact for fact in facts if isinstance(fact, Stored)]
        assert [(fact.item.key, fact.ack.conv, fact.ack.seq) for fact in stored] == [(key, "g", 1)]
        assert [fact.seq for fact in facts if isinstance(fact, Event)] == expected
    assert server.bodies("g") == ["mine", "later"]


async def test_a_number_is_never_on_the_wire_unsynced(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync fails once: the connection goes, and the next one sends only what a new file, synced whole, holds. A second
    fsync of the same file proves nothing: Linux calls it a success.
    """
    real = os.fsync
    failed: set[int] = set()
    synced: set[int] = set()
    on_disk: list[bool] = []

    def fsync(fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if not failed:
            failed.add(inode)
            raise OSError("the disk is gone")
        real(fd)
        synced.add(inode)

    def arrived(message: Any) -> bool:
        if isinstance(message, Send):
            inode = next(tmp_path.glob("*.outbox")).stat().st_ino
            on_disk.append(inode in synced and inode not in failed)
        return False

    async with connected(server, state_dir=tmp_path) as client:
        await client.wait_for("live")
        server.swallow = arrived
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            await client.send("g", "mine")
    assert on_disk == [True]
    assert len(server.hellos) == 2
