"""The client against a scripted server over real sockets: reconnects, renumbering, repeats, restarts, endings."""

from __future__ import annotations

import inspect
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from chatd_client import (
    ConnectionChanged,
    Disconnected,
    Encoding,
    Hole,
    MessageRejected,
    Refused,
    SendRefused,
    SessionEnded,
    StateInUse,
    Stored,
    Unreachable,
    register,
    sign_in,
)
from chatd_protocol import codes
from chatd_protocol.messages import (
    Create,
    Delivered,
    Error,
    Event,
    Heartbeat,
    Hello,
    History,
    Live,
    Read,
    Send,
)

from tests.clients.connected import connected, take

if TYPE_CHECKING:
    from pathlib import Path


class Late(random.Random):
    """Chance that always says: in an hour."""

    def uniform(self, a: float, b: float) -> float:
        return 3600.0


async def test_a_message_is_stored_and_its_ack_returned(server: Any) -> None:
    """``send`` returns the ack, and the same fact stands among the events."""
    async with connected(server) as client:
        ack = await client.send("@bob", "hello")
        facts = await take(client, lambda fact: isinstance(fact, Stored))
    assert (ack.conv, ack.seq, ack.cseq) == ("dm-bob", 1, 1)
    assert facts[-1].ack == ack


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_text_and_bytes_in_both_encodings(server: Any, encoding: Encoding) -> None:
    """Bytes and non-ASCII text arrive as they were sent, over CBOR and over JSON."""
    async with connected(server, encoding=encoding) as client:
        await client.send("@bob", "grüße 漢字 🎉")
        await client.send("@bob", b"\x00\xff", type="file")
        page = await client.history("dm-bob")
    assert [event.body for event in page.events] == ["grüße 漢字 🎉", b"\x00\xff"]


async def test_messages_survive_a_cut_and_are_stored_once(server: Any) -> None:
    """An ack that is lost with the connection comes again as a repeat: the log holds the message once, in order."""
    lost: list[Any] = []

    def swallow(message: Any) -> bool:
        if isinstance(message, Send) and len(lost) < 3:
            lost.append(server.store(message))
            return True
        return False

    server.swallow = swallow
    async with connected(server) as client:
        items = [client.post("g", f"m{number}") for number in range(6)]
        await server.until(lambda: len(lost) == 3)
        await server.cut()
        await client.drained()
    assert server.bodies("g") == [f"m{number}" for number in range(6)]
    assert len(items) == 6


async def test_a_refusal_moves_later_messages_up(server: Any) -> None:
    """The refused message takes no number: those sent right after it, which got a gap, are stored in order."""
    server.refuse["bad"] = Error(code="forbidden", message="no")
    async with connected(server) as client:
        await client.wait_for("live")
        for body in ("a", "bad", "b", "c", "bad", "d"):
            client.post("g", body)
        await client.drained()
        facts = await take(client, lambda fact: isinstance(fact, Stored) and fact.item.fields["body"] == "d")
    assert server.bodies("g") == ["a", "b", "c", "d"]
    assert [fact.code for fact in facts if isinstance(fact, SendRefused)] == ["forbidden", "forbidden"]
    assert sorted(server.stored) == [1, 2, 3, 4]


async def test_send_raises_a_refusal_for_good(server: Any) -> None:
    """``send`` raises Refused with the server's code."""
    server.refuse["bad"] = Error(code="not_found", message="no such conversation")
    async with connected(server) as client:
        with pytest.raises(Refused) as caught:
            await client.send("g", "bad")
    assert caught.value.code == "not_found"


async def test_a_retryable_error_is_tried_again(server: Any) -> None:
    """``rate_limited`` keeps the message, and the order, until it is taken."""
    server.refuse["slow"] = Error(code="rate_limited", message="wait", retry_after_ms=1)
    refused: list[Any] = []

    def swallow(message: Any) -> bool:
        if isinstance(message, Send) and message.body == "slow":
            refused.append(message)
            if len(refused) == 3:
                server.refuse.clear()
        return False

    server.swallow = swallow
    async with connected(server) as client:
        client.post("g", "slow")
        client.post("g", "after")
        await client.drained()
    assert server.bodies("g") == ["slow", "after"]
    assert len(refused) >= 3


async def test_a_lost_outbox_goes_on_from_the_welcome(server: Any) -> None:
    """A known device without its file continues after the last number stored, not at 1."""
    for number in range(1, 8):
        server.store(Send(cseq=number, to="g", body=f"old {number}"))
    async with connected(server) as client:
        ack = await client.send("g", "new")
    assert ack.cseq == 8


async def test_a_server_back_from_a_backup_is_followed(server: Any, tmp_path: Path) -> None:
    """A lower ``welcome.cseq`` than before does not leave a gap for ever: numbers follow the server's word."""
    async with connected(server, state_dir=tmp_path) as client:
        for body in ("a", "b", "c"):
            await client.send("g", body)
    server.stored.pop(3)
    server.stored.pop(2)
    async with connected(server, state_dir=tmp_path) as client:
        ack = await client.send("g", "d")
    assert ack.cseq == 2


async def test_a_killed_program_leaves_its_messages_to_the_next(server: Any, tmp_path: Path) -> None:
    """SIGKILL after ``post``: the next program with this device sends what was typed, once."""
    program = (
        "import sys, trio\n"
        "from chatd_client import open_client\n"
        "async def main():\n"
        "    async with open_client(sys.argv[1], token='t', device='laptop', state_dir=sys.argv[2]) as client:\n"
        "        client.post('g', 'first'); client.post('g', 'second')\n"
        "        print('posted', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    server.swallow = lambda message: isinstance(message, Send)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", program, server.url, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    with trio.fail_after(20):
        assert (await process.stdout.receive_some()).startswith(b"posted")
        await server.until(lambda: sum(isinstance(message, Send) for message in server.arrived) == 2)
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    server.swallow = lambda message: False
    async with connected(server, state_dir=tmp_path) as client:
        assert [item.fields["body"] for item in client.pending()] == ["first", "second"]
        await client.drained()
    assert server.bodies("g") == ["first", "second"]


async def test_one_program_per_device(server: Any, tmp_path: Path) -> None:
    """A second client on the same device's files is turned away, one on another device is not."""
    async with connected(server, state_dir=tmp_path):
        with pytest.raises(StateInUse):
            async with connected(server, state_dir=tmp_path):
                raise AssertionError("two programs on one device")
        async with connected(server, state_dir=tmp_path, device="phone") as client:
            await client.wait_for("live")


async def test_an_outbox_is_never_sent_as_somebody_else(server: Any, tmp_path: Path) -> None:
    """State that belongs to alice does not speak for bob."""
    async with connected(server, state_dir=tmp_path) as client:
        await client.wait_for("live")
        server.swallow = lambda message: isinstance(message, Send)
        client.post("g", "alice's words")
        await server.until(lambda: any(isinstance(message, Send) for message in server.arrived))
    server.user, server.swallow = "bob", lambda message: False
    async with connected(server, state_dir=tmp_path) as client:
        with pytest.raises(SessionEnded):
            await client.drained()
    assert server.bodies("g") == []


async def test_events_come_in_order_without_repeats_across_a_cut(server: Any) -> None:
    """Positions in the hello ask for what is missing only, and what comes twice is dropped."""
    async with connected(server) as client:
        await client.wait_for("live")
        await server.say("g", "bob", "1")
        await take(client, lambda fact: isinstance(fact, Event) and fact.seq == 1)
        await server.cut()
        server.append("g", "bob", "2")
        await take(client, lambda fact: isinstance(fact, Event) and fact.seq == 2)
        await server.until(lambda: len(server.live) == 1)
        for event in [*server.logs["g"], server.append("g", "bob", "3")]:
            await server.tell(server.live[0], event)
        facts = await take(client, lambda fact: isinstance(fact, Event))
    assert facts[-1].seq == 3
    assert server.hellos[1].positions == {"g": 1}


async def test_a_hole_is_reported(server: Any) -> None:
    """A jump in ``seq`` becomes a Hole before the event; one's own ``joined`` begins anew without one."""
    async with connected(server) as client:
        await client.wait_for("live")
        socket = server.live[0]
        for seq in (1, 4):
            await server.tell(
                socket, Event(conv="g", seq=seq, at=1, sender="bob", kind="message", type="text", body="x")
            )
        await server.tell(socket, Event(conv="g", seq=9, at=1, sender="bob", kind="joined", user="alice"))
        facts = await take(client, lambda fact: isinstance(fact, Event) and fact.seq == 9)
    assert [fact for fact in facts if isinstance(fact, Hole)] == [Hole("g", 1, 4)]


async def test_positions_survive_a_restart(server: Any, tmp_path: Path) -> None:
    """What was handled is not asked for again; the event that was being handled at the end is."""
    for number in range(3):
        server.append("g", "bob", str(number))
    async with connected(server, state_dir=tmp_path) as client:
        await take(client, lambda fact: isinstance(fact, Event) and fact.seq == 3)
    async with connected(server, state_dir=tmp_path) as client:
        facts = await take(client, lambda fact: isinstance(fact, Live))
    assert [fact.seq for fact in facts if isinstance(fact, Event)] == [3]


async def test_delivered_and_read_marks_are_sent_coalesced(server: Any) -> None:
    """However many events are handled between two ticks, one mark of each kind is sent, the highest."""
    async with connected(server) as client:
        await client.wait_for("live")
        for number in range(1, 51):
            # Without a checkpoint in between no tick can fall into the middle.
            client._session.mark(Delivered, "g", number)
            client.read("g", number)
        client.read("g", 7)
        await server.until(lambda: len(server.marks) == 2)
        await server.say("g", "bob", "1")
        await take(client, lambda fact: isinstance(fact, Event))
        client.read("h", 1)
        await server.until(lambda: Read(conv="h", seq=1) in server.marks)
    assert server.marks == [Delivered(conv="g", seq=50), Read(conv="g", seq=50), Read(conv="h", seq=1)]


async def test_an_event_is_delivered_once_the_next_is_asked_for(server: Any) -> None:
    """Asking for the next event says that the one before is kept, and not earlier."""
    async with connected(server) as client:
        await client.wait_for("live")
        await server.say("g", "bob", "1")
        await take(client, lambda fact: isinstance(fact, Event))
        client.read("h", 1)
        await server.until(lambda: server.marks)
        await server.say("g", "bob", "2")
        await take(client, lambda fact: isinstance(fact, Event))
        await server.until(lambda: len(server.marks) == 2)
    assert server.marks == [Read(conv="h", seq=1), Delivered(conv="g", seq=1)]


async def test_a_program_that_never_reads_events_can_send(server: Any) -> None:
    """A full queue holds neither the acks nor the reader up."""
    async with connected(server) as client:
        await client.wait_for("live")
        for number in range(3000):
            server.append("g", "bob", str(number))
        for event in server.logs["g"]:
            await server.tell(server.live[0], event)
        ack = await client.send("h", "still here")
    assert ack.conv == "h"


async def test_a_slow_program_gets_every_event_once(server: Any) -> None:
    """What did not fit into the queue comes again from the log, in order, without repeats, and without a pause: to
    catch up is no failed attempt.
    """
    async with connected(server, rng=Late()) as client:
        await client.wait_for("live")
        for number in range(3000):
            server.append("g", "bob", str(number))
        for event in server.logs["g"]:
            await server.tell(server.live[0], event)
        await client.send("h", "after them")
        facts = await take(client, lambda fact: isinstance(fact, Event) and fact.conv == "g" and fact.seq == 3000)
    assert [fact.seq for fact in facts if isinstance(fact, Event) and fact.conv == "g"] == list(range(1, 3001))


async def test_events_can_be_left_and_taken_up_again(server: Any) -> None:
    """Leaving the loop in the middle leaves nothing open (no generator), and a new loop goes on where it stopped."""
    async with connected(server) as client:
        assert not inspect.isasyncgen(client.events())
        await client.wait_for("live")
        await server.say("g", "bob", "1")
        await server.say("g", "bob", "2")
        for expected in (1, 2):
            async for fact in client.events():
                if isinstance(fact, Event):
                    assert fact.seq == expected
                    break


async def test_reads_are_asked_again_and_changes_raise(server: Any) -> None:
    """After a cut a ``history`` answers on the next connection; a ``create`` whose answer was lost raises
    Disconnected.
    """
    server.append("g", "bob", "x")
    first: list[Any] = []

    def swallow(message: Any) -> bool:
        if isinstance(message, History | Create) and not any(type(message) is type(other) for other in first):
            first.append(message)
            return True
        return False

    server.swallow = swallow
    async with connected(server) as client:
        outcomes: list[Any] = []

        async def create() -> None:
            with pytest.raises(Disconnected):
                await client.create("title", ["bob"])
            outcomes.append("create")

        async def history() -> None:
            outcomes.append([event.body for event in (await client.history("g")).events])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create)
            nursery.start_soon(history)
            await server.until(lambda: len(first) == 2)
            await server.cut()
    assert sorted(outcomes, key=str) == [["x"], "create"]


async def test_a_takeover_ends_the_client(server: Any) -> None:
    """4203 means that another program is this device now: no reconnect, and everything that waits is told."""
    server.swallow = lambda message: isinstance(message, Send)
    async with connected(server) as client:
        await client.wait_for("live")
        client.post("g", "waits")
        await server.end(codes.REPLACED)
        with pytest.raises(SessionEnded) as caught:
            await take(client, lambda fact: False)
        with pytest.raises(SessionEnded):
            await client.send("g", "too late")
    assert caught.value.code == codes.REPLACED.code
    assert len(server.hellos) == 1


async def test_an_expired_token_is_fetched_once_more(server: Any) -> None:
    """With a token source 4201 leads to one new token; when that is refused too, the session ends."""
    fetched: list[str] = []

    async def source() -> str:
        fetched.append(f"token {len(fetched)}")
        return fetched[-1]

    server.close_hello = [codes.TOKEN_EXPIRED]
    async with connected(server, token=None, token_source=source) as client:
        await client.wait_for("live")
        assert [hello.token for hello in server.hellos] == ["token 0", "token 1"]
        server.close_hello = [codes.BAD_TOKEN, codes.BAD_TOKEN]
        await server.cut()
        with pytest.raises(SessionEnded):
            await take(client, lambda fact: False)
    assert fetched == ["token 0", "token 1", "token 2"]


async def test_the_wish_of_the_server_sets_the_wait(server: Any) -> None:
    """``retry_after_ms`` of a bye is waited for at least, and ``hurry`` goes before it."""
    async with connected(server) as client:
        await client.wait_for("live")
        await server.end(codes.OVERLOADED, 600_000)
        facts = await take(client, lambda fact: isinstance(fact, ConnectionChanged) and fact.state == "offline")
        assert facts[-1].retry_at - trio.current_time() > 590
        client.hurry()
        await client.wait_for("live")


async def test_a_silent_server_is_left(server: Any) -> None:
    """Nothing for two heartbeats means a dead connection: the client comes back on a new one."""
    silent: list[Any] = []

    def swallow(message: Any) -> bool:
        if isinstance(message, Hello):
            # Only the first connection is held to a short time: a stall of this machine must not end the second.
            server.heartbeat_ms = 500 if not server.hellos else 60_000
        elif len(server.hellos) == 1:
            silent.append(message)
            return True
        return False

    server.swallow = swallow
    async with connected(server) as client:
        await server.until(lambda: len(server.hellos) == 2)
        await client.wait_for("live")
    assert Heartbeat() in silent


async def test_what_the_server_would_not_read_is_not_queued(server: Any) -> None:
    """Oversize and mistyped messages are refused at once: queued, they would end every session to come."""
    async with connected(server) as client:
        for to, body, kind in (("g", "x" * 70_000, "text"), ("", "x", "text"), ("g", "x", "Not A Type")):
            with pytest.raises(MessageRejected):
                client.post(to, body, type=kind)
        assert client.pending() == []


async def test_an_unreachable_server_is_waited_for(server: Any) -> None:
    """Without a server the client queues, says offline with a time, and sends once it is there."""
    # Bound and not listening: connections are refused, and nobody else gets the port meanwhile.
    bound = trio.socket.socket()
    await bound.bind(("127.0.0.1", 0))
    server.port = bound.getsockname()[1]
    async with connected(server) as client:
        facts = await take(client, lambda fact: isinstance(fact, ConnectionChanged) and fact.state == "offline")
        assert facts[-1].retry_at is not None
        client.post("g", "typed offline")
        async with trio.open_nursery() as nursery:
            bound.listen()
            nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(bound)])
            await client.drained()
            nursery.cancel_scope.cancel()
    assert server.bodies("g") == ["typed offline"]


async def test_sign_in_and_register(server: Any) -> None:
    """Tokens and accounts over HTTP, with the server's code in the error."""
    assert (await sign_in(server.url, "alice", "secret")).token == "token-1"
    with pytest.raises(Refused) as caught:
        await sign_in(server.url, "alice", "wrong")
    assert (caught.value.code, caught.value.status) == ("unauthenticated", 401)
    await register(f"ws://127.0.0.1:{server.port}/ws", "bob", "pw")
    assert server.passwords["bob"] == "pw"
    with pytest.raises(ValueError, match="not a server's URL"):
        await sign_in("ftp://nowhere", "a", "b")
    with pytest.raises(Unreachable):
        await sign_in("http://127.0.0.1:1", "a", "b")
    with pytest.raises(Unreachable, match="no chatd at this path"):
        await sign_in(f"{server.url}/elsewhere", "alice", "secret")


async def test_tls_to_a_port_without_it_has_a_reason(nursery: trio.Nursery) -> None:
    """What answers in the clear is guessed at, and never nothing."""

    async def in_the_clear(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, in_the_clear, listeners)
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(Unreachable, match="no TLS there"):
        await sign_in(f"https://127.0.0.1:{port}", "a", "b")
