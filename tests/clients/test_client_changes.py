"""Changes, questions and signals of the library, against the scripted server over real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from chatd_client import (
    FOR_GOOD,
    ConversationLog,
    Device,
    Disconnected,
    Limit,
    Refused,
    SendRefused,
    Stored,
    Visibility,
)
from chatd_protocol.messages import (
    Delete,
    Edit,
    Error,
    Event,
    Heartbeat,
    Mute,
    Pin,
    Presence,
    React,
    Read,
    Receipt,
    Search,
    Send,
    SignOut,
    Typing,
    TypingNotice,
    Watch,
)
from msgspec import UNSET

from tests.clients.connected import connected, take

if TYPE_CHECKING:
    from pathlib import Path


async def test_changes_share_the_numbers_of_messages(server: Any) -> None:
    """Send, edit, react and delete take one number after the other, and each waits for its own ack."""
    async with connected(server) as client:
        sent = await client.send("g", "first")
        edited = await client.edit("g", sent.seq, "second")
        reacted = await client.react("g", sent.seq, "+")
        taken = await client.react("g", sent.seq, "+", remove=True)
        deleted = await client.delete("g", sent.seq)
    assert [ack.cseq for ack in (sent, edited, reacted, taken, deleted)] == [1, 2, 3, 4, 5]
    numbered = [message for message in server.arrived if hasattr(message, "cseq")]
    assert [type(message) for message in numbered] == [Send, Edit, React, React, Delete]
    assert numbered[3].remove


async def test_a_refused_change_takes_no_number_and_is_told(server: Any) -> None:
    """The awaiting caller gets the code; what was queued behind it moves up and is stored."""
    server.refuse["late"] = Error(code="too_late", message="24 hours are over")
    async with connected(server) as client:
        await client.send("g", "first")
        with pytest.raises(Refused, match="too_late"):
            await client.edit("g", 1, "late")
        client.post_edit("g", 1, "late")
        client.post_reaction("g", 1, "+")
        facts = await take(client, lambda fact: isinstance(fact, Stored) and fact.item.fields["t"] == "react")
    refused = [fact for fact in facts if isinstance(fact, SendRefused)]
    assert [(fact.item.fields["t"], fact.code) for fact in refused] == [("edit", "too_late")] * 2
    assert facts[-1].ack.cseq == 2


async def test_changes_survive_the_program(server: Any, tmp_path: Path) -> None:
    """Queued while the server is deaf, kept on the disk, and done by the next start, once and in order."""
    server.append("g", "alice", "text")
    async with connected(server, state_dir=tmp_path) as client:
        await client.wait_for("live")
        server.swallow = lambda message: hasattr(message, "cseq")
        client.post_edit("g", 1, "mended")
        client.post_reaction("g", 1, "+")
        client.post_delete("g", 1)
        await server.until(lambda: any(isinstance(message, Delete) for message in server.arrived))
    server.swallow = lambda message: False
    async with connected(server, state_dir=tmp_path) as client:
        assert [item.fields["t"] for item in client.pending()] == ["edit", "react", "delete"]
        await client.drained()
    assert [event.kind for event in server.logs["g"]] == ["message", "edit", "reaction", "delete"]


async def test_acks_and_events_make_one_log(server: Any) -> None:
    """What this device does and what others do, applied as it comes, is what the server's log makes of it."""
    log, whole = ConversationLog("g"), ConversationLog("g")
    async with connected(server) as client:
        await client.wait_for("live")
        client.post("g", "mine")
        await take(client, lambda fact: isinstance(fact, Stored))
        log.apply(server.logs["g"][0])
        client.post_edit("g", 1, "mine, mended")
        await server.until(lambda: len(server.logs["g"]) == 2)
        await server.change("g", "bob", "reaction", target=1, emoji="+")
        client.post_reaction("g", 1, "+")
        client.post("g", "reply", reply_to=1)
        for fact in await take(client, lambda fact: isinstance(fact, Stored) and fact.ack.seq == 5):
            if isinstance(fact, Event | Stored):
                log.apply(fact.event("alice") if isinstance(fact, Stored) else fact)
    for event in server.logs["g"]:
        whole.apply(event)
    assert [log.message(seq) for seq in range(1, 6)] == [whole.message(seq) for seq in range(1, 6)]
    message = log.message(1)
    assert message is not None
    assert (message.body, message.edited, message.reactions[0].users) == ("mine, mended", 2, ("bob", "alice"))


async def test_questions_have_typed_answers(server: Any) -> None:
    """Search, find, pins, threads, devices, privacy and limits."""
    server.append("g", "bob", "a needle")
    server.append("g", "alice", "an answer", reply_to=1)
    server.append("g", "bob", kind="edit", target=1, body="a better needle")
    async with connected(server) as client:
        await client.pin("g", 1)
        hits = await client.search("needle", conv="g", sender="bob", after=0, order="ranked")
        assert [(hit.event.seq, hit.event.body, hit.edited) for hit in hits.messages] == [(1, "a better needle", 3)]
        assert [now.event.body for now in await client.pins("g")] == ["a better needle"]
        thread = await client.thread("g", 1)
        assert ([now.event.seq for now in thread.messages], thread.more) == ([1, 2], False)
        assert (await client.find("bo")).users == ("bob", "bobby")
        assert await client.devices() == (Device("phone", 1_700_000_000_000, True, "app"),)
        assert await client.privacy(presence=False) == Visibility(presence=False, last_seen=True)
        assert await client.rate_limit() == (Limit("messages", 60, 59, 1000),)
        await client.mute("g")
        await client.mute("g", 0)
        await client.sign_out("phone")
    asked = {type(message): message for message in server.arrived}
    assert (asked[Pin].on, asked[Mute].until, asked[SignOut].device) == (True, 0, "phone")
    assert FOR_GOOD == 2**53 - 1


async def test_an_empty_page_that_has_more_is_followed(server: Any) -> None:
    """What the server has not come to yet is asked for at once; only what is nowhere is answered as nothing."""
    server.append("g", "bob", "a far needle")
    async with connected(server) as client:
        assert [hit.event.body for hit in (await client.search("far needle")).messages] == ["a far needle"]
        assert (await client.search("far away")).messages == ()
    assert [message.cursor for message in server.arrived if isinstance(message, Search)] == [UNSET, "0"] * 2


async def test_reads_are_asked_again_and_changes_are_not(server: Any) -> None:
    """When the connection goes between question and answer: the search is answered by the next one, the pin is not."""
    server.append("g", "bob", "a needle")
    server.swallow = lambda message: hasattr(message, "id")
    outcomes: list[Any] = []

    async def pin() -> None:
        with pytest.raises(Disconnected):
            await client.pin("g", 1)
        outcomes.append("lost")

    async def search() -> None:
        outcomes.append(len((await client.search("needle")).messages))

    async with connected(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(pin)
        nursery.start_soon(search)
        await server.until(lambda: sum(hasattr(message, "id") for message in server.arrived) == 2)
        server.swallow = lambda message: False
        await server.cut()
    assert sorted(map(str, outcomes)) == ["1", "lost"]
    assert sum(isinstance(message, Pin) for message in server.arrived) == 1


async def test_signals_come_as_facts_and_are_watched_again(server: Any) -> None:
    """Presence, typing and receipts in between; what is watched is said in every session, typing only while there is
    one.
    """
    server.presence = {"bob": Presence(user="bob", status="online")}
    async with connected(server) as client:
        client.watch(["bob", "carol"])
        client.typing("g", True)
        await take(client, lambda fact: fact == server.presence["bob"])
        client.typing("g", True)
        await server.until(lambda: server.typings == [Typing(conv="g", on=True)])
        for signal in (TypingNotice(conv="g", user="bob", on=True), Receipt(conv="g", user="bob", delivered=2, read=1)):
            await server.tell_all(signal)
            await take(client, lambda fact, signal=signal: fact == signal)
        await server.cut()
        await take(client, lambda fact: fact == server.presence["bob"])
        with pytest.raises(ValueError, match="500"):
            client.watch([f"user{number}" for number in range(501)])
    watched = [message for message in server.arrived if isinstance(message, Watch)]
    assert watched == [Watch(users=["bob", "carol"])] * 2


async def test_a_mark_that_was_refused_is_said_again(server: Any) -> None:
    """An error without ``id`` does not say which: marks of the last moment and what is watched are repeated."""
    async with connected(server) as client:
        await client.wait_for("live")
        client.watch(["bob"])
        client.read("g", 7)
        await server.until(lambda: Read(conv="g", seq=7) in server.marks)
        await server.tell_all(Error(code="rate_limited", message="slower", retry_after_ms=1))
        await server.until(lambda: server.marks.count(Read(conv="g", seq=7)) == 2)
        await server.until(lambda: server.arrived.count(Watch(users=["bob"])) == 2)


async def test_nobody_at_the_screen_is_told_at_once(server: Any) -> None:
    """And by every heartbeat, in every session, until somebody is there again."""
    async with connected(server) as client:
        await client.wait_for("live")
        client.set_active(False)
        await server.until(lambda: Heartbeat(active=False) in server.arrived)
        client.set_active(False)
        client.set_active(True)
        await server.until(lambda: Heartbeat() in server.arrived)
    assert server.arrived.count(Heartbeat(active=False)) == 1
