"""The bus on a real Valkey: the conformance suite, and what only Redis can do to it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis
import pytest
import trio

from chatd.adapters.redis.bus import RedisBus
from chatd.adapters.redis.link import OUTBOX_LIMIT
from chatd.adapters.valkey import EmbeddedValkey
from chatd.bus.port import Bus, OnLost, OnMessage
from tests.bus.conformance import BusConformance, Node, heard, opened, until


class RedisBed:
    """Buses on one embedded server, and a blocking connection of the operator's."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        """Make it without a server; ``start`` it."""
        self.server = EmbeddedValkey(directory)
        self._directory = directory
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def open(self, on_message: OnMessage, on_lost: OnLost) -> Bus:
        """Make a bus and run it."""
        bus = RedisBus(self.server.url, on_message, on_lost)
        self._nursery.start_soon(bus.run)
        return bus

    async def sever(self) -> None:
        """Have the server close all subscribed connections."""
        assert self.operate(["CLIENT", "KILL", "TYPE", "pubsub"]) != [0]

    async def start(self) -> None:
        """Start an embedded server; a new one each time, whose owner knows nothing of the last."""
        self.server = EmbeddedValkey(self._directory)
        await self._nursery.start(self._serve)

    async def stop(self) -> None:
        """kill -9, and its owner does not start it again."""
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGKILL)
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        with self._scope:
            async with self.server.running():
                task_status.started()
                await trio.sleep_forever()
        self._ended.set()

    def operate(self, *commands: list[str | bytes]) -> list[object]:
        """Carry out commands without letting any other task of this process run meanwhile."""
        reader = hiredis.Reader()
        replies: list[object] = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(self.server.url.removeprefix("unix://"))
            for command in commands:
                connection.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]  # the stub wants one
                while (reply := reader.gets()) is False:
                    reader.feed(connection.recv(65536))
                assert not isinstance(reply, hiredis.ReplyError), reply
                replies.append(reply)
        return replies


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[RedisBed]:
    """A bed on a server of this test's own."""
    async with trio.open_nursery() as nursery:
        made = RedisBed(tmp_path, nursery)
        await made.start()
        yield made
        nursery.cancel_scope.cancel()


class TestRedisBus(BusConformance):
    """Everything that the port promises."""


async def test_a_confirmed_channel_is_known_to_the_server(bed: RedisBed) -> None:
    """Once subscribe has returned the server counts the subscriber, with no help of this process's other tasks."""
    node = await opened(bed)
    await node.bus.subscribe([b"room"])
    assert bed.operate(["PUBSUB", "NUMSUB", "room"]) == [[b"room", 1]]


async def test_flushing_the_server_is_harmless(bed: RedisBed) -> None:
    """FLUSHALL loses no subscription and no message, and nobody is told of a loss."""
    node = await opened(bed)
    await node.bus.subscribe([b"room"])
    node.bus.publish([(b"room", b"1")])
    bed.operate(["FLUSHALL"])
    node.bus.publish([(b"room", b"2")])
    await node.until(lambda: len(node.messages) >= 2)
    assert node.payloads(b"room") == [b"1", b"2"]
    assert node.lost == 0


async def test_a_slow_subscriber_is_dropped_and_told(bed: RedisBed) -> None:
    """A node that does not read in time is thrown out at the server's output bound; it calls OnLost and comes back."""
    node = await opened(bed)
    await node.bus.subscribe([b"room"])
    flood: list[list[str | bytes]] = [["PUBLISH", "room", b"x" * 8192]] * 300
    bed.operate(["CONFIG", "SET", "client-output-buffer-limit", "pubsub 131072 0 0"], *flood)
    await node.until(lambda: node.lost >= 2)
    assert len(node.messages) < 300
    await heard(node, node, b"room", b"again")


async def test_the_publishing_link_comes_back(bed: RedisBed) -> None:
    """Only the publisher's connection is cut: nothing is raised, no loss is reported, publishing works again."""
    node = await opened(bed)
    bus = node.bus
    assert isinstance(bus, RedisBus)
    await bus.subscribe([b"room"])
    assert bed.operate(["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])[0] == 1
    # Not `not up`: that may last for less than a look now and then would notice.
    await until(lambda: bus.reconnects >= 1)
    await heard(node, node, b"room", b"again")
    assert node.lost == 0


async def test_what_does_not_fit_is_dropped_and_counted(bed: RedisBed) -> None:
    """Without a link, and beyond the outbox's bound, messages are counted as dropped, all or none of a batch."""
    node = await opened(bed)
    bus = node.bus
    assert isinstance(bus, RedisBus)
    half = b"x" * (OUTBOX_LIMIT // 2)
    bus.publish([(b"room", half), (b"room", half)])
    assert (bus.published, bus.dropped) == (0, 2)
    bus.publish([(b"room", b"small")])
    assert (bus.published, bus.dropped) == (1, 2)
    await bed.stop()

    def refuses() -> bool:
        before = bus.published
        bus.publish([(b"room", b"probe")])
        return bus.published == before

    await until(refuses)  # `not up` may be the subscribed link alone
    before = bus.dropped
    bus.publish([(b"room", b"1")] * 3)
    assert bus.dropped == before + 3
    await bed.start()
    await until(lambda: bus.up and bus.reconnects >= 2)


async def test_a_forbidden_channel_takes_the_link_down_not_the_bus(bed: RedisBed) -> None:
    """SUBSCRIBE is refused by an ACL: subscribe returns, the loss is reported, and once allowed all is heard."""
    node = await opened(bed)
    bed.operate(["ACL", "SETUSER", "default", "resetchannels", "&open"])
    await until(lambda: node.bus.up)
    await node.bus.subscribe([b"open", b"closed"])
    await node.until(lambda: node.lost >= 1)
    assert not node.bus.up
    bed.operate(["ACL", "SETUSER", "default", "allchannels"])
    await until(lambda: node.bus.up)
    await heard(node, node, b"closed", b"1")


async def test_a_bus_without_a_server_waits_for_one(tmp_path: Path) -> None:
    """Started before its server, a bus is not up and raises nothing; with the server there it works."""
    async with trio.open_nursery() as nursery:
        bed = RedisBed(tmp_path, nursery)
        node = Node(bed)
        await node.bus.subscribe([b"room"])
        node.bus.publish([(b"room", b"nobody")])
        assert not node.bus.up
        await bed.start()
        await heard(node, node, b"room", b"1")
        assert node.lost == 1
        nursery.cancel_scope.cancel()


async def test_a_silent_server_holds_nobody_up(bed: RedisBed) -> None:
    """While the server is stopped ``subscribe`` gives up waiting, before the link is taken for dead; what was published
    before the server confirmed after all is said to be lost, and what comes then is heard."""
    speaker, reader = await opened(bed), await opened(bed)
    assert isinstance(reader.bus, RedisBus)
    lost = reader.lost
    pid = bed.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with trio.fail_after(30):
            await reader.bus.subscribe([b"c%d" % n for n in range(1500)])
        assert reader.bus.up
        assert reader.lost == lost
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: reader.lost > lost)
    assert reader.bus.reconnects == 0
    await heard(speaker, reader, b"c1499", b"now")
