"""The link: order, cancellation, refusals, bounds, and servers that lie, stall or talk nonsense."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from chatd.adapters.redis import link as link_module
from chatd.adapters.redis.address import Address
from chatd.adapters.redis.link import CommandRefused, Link, LinkDown, Refusal, Reply
from chatd.adapters.valkey import EmbeddedValkey

DEADLINE_SECONDS = 60.0
"""Against hanging for ever on a busy machine; no test measures by it."""
HELLO_REPLY = b"%1\r\n$5\r\nproto\r\n:3\r\n"
MakeLink = Callable[..., Link]
Conversation = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def up(link: Link) -> AsyncIterator[Link]:
    """Run the link beside the block, which begins when it is up."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await until(lambda: link.up)
        yield link
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a link does not announce. For states that last and counters that grow: others may be missed."""
    with trio.fail_after(DEADLINE_SECONDS):
        while not condition():
            await trio.sleep(0.005)


@asynccontextmanager
async def impostor(conversation: Conversation) -> AsyncIterator[str]:
    """A TCP server in the place of Redis; yields its URL."""

    async def serve(stream: trio.SocketStream) -> None:
        # The link under test gives up as it likes; with bytes unread that is a reset, not an end.
        with suppress(trio.BrokenResourceError):
            await conversation(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        yield f"redis://localhost:{port}"
        nursery.cancel_scope.cancel()


async def test_replies_go_to_their_callers_in_order(server: EmbeddedValkey, make_link: MakeLink) -> None:
    """A thousand concurrent calls, mixed with posts, each get the reply to their own command."""
    replies: dict[int, Reply] = {}

    async def ask(number: int) -> None:
        link.post("SET", "noise", number)
        replies[number] = await link.call("ECHO", number)

    async with up(make_link(server.url)) as link:
        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(ask, number)
    assert replies == {number: b"%d" % number for number in range(1000)}


async def test_a_cancelled_caller_leaves_its_place_in_the_queue(server: EmbeddedValkey, make_link: MakeLink) -> None:
    """Every other call is cancelled once it is in the outbox; the rest still get their own replies."""
    replies: list[tuple[int, Reply]] = []

    async def ask(number: int) -> None:
        replies.append((number, await link.call("ECHO", number)))

    async with up(make_link(server.url)) as link:
        with trio.fail_after(DEADLINE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(ask, number)
                    with trio.CancelScope() as gone:
                        gone.cancel()
                        await link.call("ECHO", f"not {number}")
            assert await link.call("ECHO", "last") == b"last"
    assert sorted(replies) == [(number, b"%d" % number) for number in range(100)]


async def test_refusals_are_a_closed_set_without_the_servers_text(server: EmbeddedValkey, make_link: MakeLink) -> None:
    """Errors come as CommandRefused with a reason from the set; the next call works."""
    async with up(make_link(server.url)) as link:
        await link.call("SET", "text", "x")
        for command, refusal in (
            (("NO-SUCH-COMMAND", "secret"), Refusal.OTHER),
            (("LPUSH", "text", "1"), Refusal.WRONG_TYPE),
            (("EVALSHA", "0" * 40, 0), Refusal.NO_SCRIPT),
        ):
            with pytest.raises(CommandRefused) as refused:
                await link.call(*command)
            assert refused.value.refusal is refusal
            assert "secret" not in str(refused.value)
        link.post("NO-SUCH-COMMAND")
        assert await link.call("PING") == b"PONG"
        assert link.refused == 1


async def test_signs_in_and_selects_the_database(server: EmbeddedValkey, make_link: MakeLink) -> None:
    """User, password and database of the URL are used; with a wrong password the link never comes up."""
    async with up(make_link(server.url)) as admin:
        await admin.call("ACL", "SETUSER", "ann", "on", ">s3cret", "+@all", "~*", "&*")
        bare = server.url.removeprefix("unix://")
        async with up(make_link(f"unix://ann:s3cret@{bare}?db=3")) as link:
            assert await link.call("ACL", "WHOAMI") == b"ann"
            assert b" db=3 " in bytes_of(await link.call("CLIENT", "INFO"))
        wrong = make_link(f"unix://ann:wrong@{bare}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wrong.run)
            await until(lambda: wrong._reason == "refused: denied")
            assert not wrong.up
            nursery.cancel_scope.cancel()


def bytes_of(reply: Reply) -> bytes:
    """The reply, which is a byte string."""
    assert isinstance(reply, bytes)
    return reply


async def test_a_lost_connection_fails_its_callers_and_comes_back(server: EmbeddedValkey, make_link: MakeLink) -> None:
    """kill -9 of the server: who waits gets LinkDown, who calls while it is down too, and then it works again."""
    down = trio.Event()
    async with up(make_link(server.url, on_down=down.set)) as link:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(LinkDown), trio.fail_after(DEADLINE_SECONDS):
            await link.call("BLPOP", "never", 0)
        # The event, not a look now and then: between two looks on a busy machine the link might be back.
        with trio.fail_after(DEADLINE_SECONDS):
            await down.wait()
        assert not link.post("PING")
        with pytest.raises(LinkDown):
            await link.call("PING")
        await until(lambda: link.up)
        assert await link.call("PING") == b"PONG"
        assert link.opened == 2


async def test_bounds_refuse_and_do_not_block(
    server: EmbeddedValkey, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At either bound call is refused and post returns False; the link itself stays up and drains."""
    async with up(make_link(server.url)) as link:
        monkeypatch.setattr(link_module, "OUTBOX_LIMIT", 1000)
        assert not link.post("ECHO", b"x" * 1000)
        with pytest.raises(CommandRefused) as refused:
            await link.call("ECHO", b"x" * 1000)
        assert refused.value.refusal is Refusal.FULL
        monkeypatch.undo()
        monkeypatch.setattr(link_module, "WAITING_LIMIT", 0)
        with pytest.raises(CommandRefused):
            await link.call("PING")
        monkeypatch.undo()
        assert await link.call("PING") == b"PONG"


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*4294967295\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"$-7\r\n",
        b"\x00" * 100_000,
        b">1\r\n$9\r\nsubscribe\r\n",
        b":1\r\n:2\r\n",
        b"*1\r\n" * 50,
        b"",
    ],
)
@pytest.mark.parametrize("greeting", [b"", HELLO_REPLY])
async def test_nonsense_is_a_lost_link_never_a_crash(greeting: bytes, garbage: bytes, make_link: MakeLink) -> None:
    """A server that greets (or not) and then sends garbage or hangs up is left, and tried again later."""
    visits = 0

    async def talk(stream: trio.SocketStream) -> None:
        nonlocal visits
        visits += 1
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(greeting + garbage)

    with trio.fail_after(DEADLINE_SECONDS):
        async with impostor(talk) as url, trio.open_nursery() as nursery:
            link = make_link(url)
            nursery.start_soon(link.run)
            await until(lambda: visits >= 3)
            nursery.cancel_scope.cancel()
    assert not link.up


async def test_odd_push_frames_reach_the_owner_or_end_the_link(make_link: MakeLink) -> None:
    """Empty and unknown push frames are the owner's to ignore; they cost nothing."""
    pushes: list[list[Reply]] = []

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(HELLO_REPLY + b">0\r\n>1\r\n*0\r\n>2\r\n+invalidate\r\n_\r\n")
        while await stream.receive_some(4096):
            continue

    async with impostor(talk) as url, up(make_link(url, on_push=pushes.append)):
        await until(lambda: len(pushes) >= 3)
    assert pushes == [[], [[]], [b"invalidate", None]]


async def test_an_endless_reply_is_cut_off(make_link: MakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that never ends is dropped at its bound rather than kept in memory."""
    monkeypatch.setattr(link_module, "REPLY_LIMIT", 100_000)
    sent = 0

    async def talk(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.receive_some(4096)
        try:
            await stream.send_all(HELLO_REPLY + b"$4000000000\r\n")
            while True:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        except trio.BrokenResourceError:
            await stream.aclose()

    down = trio.Event()
    async with impostor(talk) as url, trio.open_nursery() as nursery:
        nursery.start_soon(make_link(url, on_down=down.set).run)
        with trio.fail_after(DEADLINE_SECONDS):
            await down.wait()
        nursery.cancel_scope.cancel()
    assert sent < 20 * 1024 * 1024


@pytest.mark.parametrize("greeting", [b"", HELLO_REPLY])
async def test_a_silent_server_is_found_out(
    greeting: bytes, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """One that never answers the handshake, or nothing after it, is left within the deadlines; waiters get LinkDown."""
    # In memory: a clock that runs ahead of a real socket finds a server silent which the kernel has yet to run.
    arrived, arrivals = trio.open_memory_channel[trio.abc.Stream](10)

    async def connect(_address: Address) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        await arrived.send(theirs)
        return ours

    monkeypatch.setattr(link_module, "connect", connect)
    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            link = make_link("redis://nowhere")
            nursery.start_soon(link.run)
            stream = await arrivals.receive()
            began = trio.current_time()
            assert b"HELLO" in await stream.receive_some(4096)
            await stream.send_all(greeting or b"%")
            if greeting:
                while not link.up:
                    await trio.lowlevel.checkpoint()
                with pytest.raises(LinkDown):
                    await link.call("PING")
            await arrivals.receive()
            deadline = 2 * link_module.PING_EVERY if greeting else link_module.CONNECT_DEADLINE
            assert deadline <= trio.current_time() - began <= deadline + link_module.PAUSE_LONGEST
            nursery.cancel_scope.cancel()
