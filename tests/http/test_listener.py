"""The listener: how many connections there may be, in all and from one address, how often, and how long one may say nothing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from chatd.limits.limiter import Limiter
from chatd.limits.rules import Operation, Tiers
from chatd.listener import listener as listener_module
from chatd.listener.http import Request, Response
from chatd.listener.listener import Listener
from chatd.ops.metrics import Metrics
from chatd.options import Limits
from chatd.sessions.pace import Pace

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chatd.v1.cbor\r\n%b\r\n"
)


class Door:
    """A listener to which ``knock`` connects, and its metrics."""

    def __init__(self, nursery: trio.Nursery, limits: Limits, tls: ssl.SSLContext | None = None, **bounds: int) -> None:
        self._nursery = nursery
        self.metrics = Metrics()
        pace = Pace()
        nursery.start_soon(pace.run)
        self.limiter = Limiter(Tiers(limits), Metrics(), clock=lambda: 0.0)
        self.node: Any = SimpleNamespace(limiter=self.limiter, pace=pace, draining=False)
        bounded = {"max_connections": 100, "max_per_address": 100} | bounds
        self.listener = self._made(self.node, None, tls, bounded)

    def _made(self, node: Any, nobody: Any, tls: ssl.SSLContext | None, bounds: dict[str, int]) -> Listener:
        return Listener(
            node, nobody, self._respond, self.metrics, handshake_seconds=5, outbox_bytes=1000, outbox_frames=10,
            allowed_origins=["https://app.example"], tls=tls, **bounds,
        )  # fmt: skip

    async def _respond(self, _: Request) -> Response:
        return Response(200, b"hello")

    async def knock(self) -> trio.SocketStream:
        """A connection that the listener has; over a unix socket, whose peers are one address."""
        ours, theirs = trio.socket.socketpair()
        self._nursery.start_soon(self.listener.serve, self._nursery, trio.SocketStream(ours))
        return trio.SocketStream(theirs)

    async def ask(self, data: bytes = GET) -> bytes:
        """All that is answered, until the listener closes."""
        async with await self.knock() as stream:
            with trio.fail_after(60):
                try:
                    await stream.send_all(data)
                    return b"".join([bytes(part) async for part in stream])
                except trio.BrokenResourceError:
                    return b""

    async def until(self, connections: int) -> None:
        with trio.fail_after(10):
            while self.listener.connections != connections:
                await trio.sleep(0.001)


@asynccontextmanager
async def _door(limits: Limits | None = None, **more: Any) -> AsyncIterator[Door]:
    async with trio.open_nursery() as nursery:
        yield Door(nursery, limits or Limits(), **more)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bound", ["max_connections", "max_per_address"])
async def test_there_are_so_many_connections(bound: str) -> None:
    """I9: one more is told so, and closed; who goes makes room."""
    bounds: dict[str, Any] = {bound: 2}
    async with _door(**bounds) as door:
        assert (await door.ask()).startswith(b"HTTP/1.1 200 ")
        await door.until(0)
        kept = [await door.knock() for _ in range(2)]
        await door.until(2)
        refused = await door.ask()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in refused.lower()
        assert (door.listener.connections, door.metrics.connections_refused) == (2, 1)
        await kept[0].aclose()
        await door.until(1)
        assert (await door.ask()).startswith(b"HTTP/1.1 200 ")
        await kept[1].aclose()
        await door.until(0)
        assert not door.listener._per_address


async def test_farewells_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a descriptor and a task, of which there are too many already: beyond the bound nothing is said."""
    monkeypatch.setattr(listener_module, "MAX_FAREWELLS", 1)
    async with _door(max_connections=0) as door:
        door.listener._farewells = 1
        assert await door.ask() == b""
        door.listener._farewells = 0
        assert (await door.ask()).startswith(b"HTTP/1.1 503 ")
        with trio.fail_after(10):
            while door.listener._farewells:  # until it has seen that we have gone
                await trio.sleep(0.001)


async def test_an_address_may_connect_so_often() -> None:
    """One after another, too: a handshake is not for nothing."""
    async with _door(Limits(connections_per_minute=2)) as door:
        answers = [await door.ask() for _ in range(3)]
        assert [answer[9:12] for answer in answers] == [b"200", b"200", b"429"]
        assert b"retry-after: 30" in answers[2].lower()


@pytest.mark.parametrize("why", ["too many", "too often"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_crowd_is_not_told_for_ever(mock_clock: trio.testing.MockClock, why: str, tls: bool) -> None:
    """Some a second are served with a refusal, as long as there is time for TLS or not at all; the others are not served. Other
    addresses are."""
    limits = Limits(connections_per_minute=1 if why == "too often" else 1000)
    bounds = {"max_per_address": 0} if why == "too many" else {}
    async with _door(limits, tls=ssl.create_default_context() if tls else None, **bounds) as door:
        crowd, other = ("192.0.2.1", 1), ("192.0.2.2", 1)
        if why == "too often":
            await door.limiter.count(Operation.CONNECTIONS, "192.0.2.1")
            assert door.listener.admit(other)
        told = 0 if tls else 100
        assert [door.listener.admit(crowd) for _ in range(150)] == [True] * told + [False] * (150 - told)
        assert door.metrics.connections_refused == 150 - told
        mock_clock.jump(1)
        assert sum(door.listener.admit(crowd) for _ in range(50)) == (0 if tls else 20)


async def test_a_fault_ends_one_connection_alone() -> None:
    """Whatever a connection makes the listener raise is counted, and the next one is served."""
    async with _door() as door:
        count = door.limiter.count

        async def fail(*_: Any) -> Any:
            raise RuntimeError("planted")

        door.node.limiter = SimpleNamespace(count=fail)
        assert await door.ask() == b""
        await door.until(0)
        assert door.metrics.connection_faults == 1
        door.node.limiter = SimpleNamespace(count=count)
        assert (await door.ask()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("origin", "status"), [("https://evil.example", 403), ("https://app.example", 503), ("", 503)])
async def test_whose_pages_may_connect(origin: str, status: int) -> None:
    """Those of listed origins; and while the node drains, nobody."""
    async with _door() as door:
        door.node.draining = True
        answer = await door.ask(UPGRADE % (b"Origin: %b\r\n" % origin.encode() if origin else b""))
        assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_who_says_nothing_is_closed(autojump_clock: trio.testing.MockClock, tls: bool) -> None:
    """After ``server.handshake_seconds``: a connection costs its peer next to nothing."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if tls else None
    async with _door(tls=context) as door:
        began = trio.current_time()
        stream = await door.knock()
        with trio.fail_after(60):
            assert await stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(5)
        await stream.aclose()


async def test_a_head_that_drips_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    """A byte a second does not hold a connection."""
    async with _door() as door:
        stream = await door.knock()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(_drip, stream))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
                nursery.cancel_scope.cancel()
        await stream.aclose()


async def _drip(stream: trio.SocketStream) -> None:
    for byte in GET:
        await stream.send_all(bytes([byte]))
        await trio.sleep(1)
