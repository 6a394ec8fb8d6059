"""What every implementation of ``chatd.bus.port`` does. A test module subclasses BusConformance and gives it a bed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from chatd.bus.port import Bus, OnLost, OnMessage

DEADLINE_SECONDS = 60.0
"""Against hanging for ever on a busy machine; no test measures by it."""


class Bed(Protocol):
    """One server, the buses on it, and its faults. Buses run until the test ends."""

    def open(self, on_message: OnMessage, on_lost: OnLost) -> Bus:
        """Make a bus and run it; it need not be up yet."""

    async def sever(self) -> None:
        """Cut the connection of every subscribed link, once."""

    async def stop(self) -> None:
        """Kill the server, and return when it is gone. It stays away until ``start``."""

    async def start(self) -> None:
        """Start the server again, empty, at the same address; return when it answers."""


class Node:
    """A bus with everything that it was called back with."""

    def __init__(self, bed: Bed) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.lost = 0
        self._called = trio.lowlevel.ParkingLot()
        self.bus = bed.open(self._take, self._lose)

    def _take(self, channel: bytes, payload: bytes) -> None:
        self.messages.append((channel, payload))
        self._called.unpark_all()

    def _lose(self) -> None:
        self.lost += 1
        self._called.unpark_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what the bus has called back with fits; it is asked after each call."""
        with guarded():
            while not condition():
                await self._called.park()

    def payloads(self, channel: bytes) -> list[bytes]:
        """What came on one channel, in order."""
        return [payload for of, payload in self.messages if of == channel]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a bus does not announce: ``up``. For states that last and counters that grow, or it is missed."""
    with guarded():
        while not condition():
            await trio.sleep(0.005)


async def opened(bed: Bed) -> Node:
    """A node whose bus is up."""
    node = Node(bed)
    await until(lambda: node.bus.up)
    return node


async def heard(speaker: Node, listener: Node, channel: bytes, payload: bytes) -> None:
    """Both come up, one says it, and the other hears it."""
    await until(lambda: speaker.bus.up and listener.bus.up)
    speaker.bus.publish([(channel, payload)])
    await listener.until(lambda: payload in listener.payloads(channel))


@contextmanager
def guarded() -> Iterator[None]:
    """A deadline for the whole block."""
    with trio.fail_after(DEADLINE_SECONDS):
        yield


class BusConformance:
    """The tests. ``bed`` is a fixture of the subclass's module."""

    async def test_keeps_the_order_of_each_publisher(self, bed: Bed) -> None:
        """Two publishers interleave, and each one's messages arrive in its order, none missing and none twice."""
        first, second, reader = await opened(bed), await opened(bed), await opened(bed)
        await reader.bus.subscribe([b"room"])
        for start in range(0, 2000, 40):
            for name, node in ((b"a", first), (b"b", second)):
                node.bus.publish([(b"room", b"%b%d" % (name, n)) for n in range(start, start + 40)])
            await trio.lowlevel.checkpoint()
        await reader.until(lambda: len(reader.messages) >= 4000)
        for name in (b"a", b"b"):
            mine = [payload for payload in reader.payloads(b"room") if payload.startswith(name)]
            assert mine == [b"%b%d" % (name, n) for n in range(2000)]

    async def test_subscribe_returns_when_the_server_has_confirmed(self, bed: Bed) -> None:
        """What another node publishes after subscribe has returned arrives, for each of fifty channels."""
        speaker, reader = await opened(bed), await opened(bed)
        channels = [b"c%d" % n for n in range(50)]
        for channel in channels:
            with guarded():
                await reader.bus.subscribe([channel])
            speaker.bus.publish([(channel, b"now")])
        await reader.until(lambda: len(reader.messages) >= 50)
        assert [channel for channel, _ in reader.messages] == channels

    async def test_hears_only_what_it_is_subscribed_to(self, bed: Bed) -> None:
        """After unsubscribe nothing more comes on that channel; other channels are not touched."""
        speaker, reader = await opened(bed), await opened(bed)
        await reader.bus.subscribe([b"kept", b"left"])
        reader.bus.unsubscribe([b"left", b"never-there"])
        await reader.bus.subscribe([b"barrier"])
        speaker.bus.publish([(b"left", b"1"), (b"strange", b"2"), (b"kept", b"3")])
        await reader.until(lambda: bool(reader.payloads(b"kept")))
        assert reader.messages == [(b"kept", b"3")]

    async def test_a_repeated_subscribe_does_no_harm(self, bed: Bed) -> None:
        """Subscribed twice, a message comes once, and one unsubscribe ends it."""
        speaker, reader = await opened(bed), await opened(bed)
        await reader.bus.subscribe([b"room", b"room"])
        await reader.bus.subscribe([b"room", b"end"])
        speaker.bus.publish([(b"room", b"1"), (b"end", b"1")])
        await reader.until(lambda: bool(reader.payloads(b"end")))
        reader.bus.unsubscribe([b"room"])
        await reader.bus.subscribe([b"end"])
        speaker.bus.publish([(b"room", b"2"), (b"end", b"2")])
        await reader.until(lambda: len(reader.payloads(b"end")) >= 2)
        assert reader.payloads(b"room") == [b"1"]

    async def test_payloads_are_any_bytes(self, bed: Bed) -> None:
        """Empty, with line ends, zeros and 1 MiB: all arrive as they were."""
        node = await opened(bed)
        payloads = [b"", b"\r\n$3\r\n", bytes(range(256)), b"x" * 1024 * 1024]
        await node.bus.subscribe([b"\x00\r\n\xff"])
        node.bus.publish([(b"\x00\r\n\xff", payload) for payload in payloads])
        await node.until(lambda: len(node.messages) >= len(payloads))
        assert node.payloads(b"\x00\r\n\xff") == payloads

    async def test_nothing_is_published_by_an_empty_batch(self, bed: Bed) -> None:
        """An empty batch and an empty subscription are allowed, and the bus works after them."""
        node = await opened(bed)
        node.bus.publish([])
        await node.bus.subscribe([])
        node.bus.unsubscribe([])
        await node.bus.subscribe([b"room"])
        node.bus.publish([(b"room", b"1")])
        await node.until(lambda: bool(node.messages))
        assert node.messages == [(b"room", b"1")]

    async def test_a_cut_subscriber_says_so_and_comes_back(self, bed: Bed) -> None:
        """After its connection is cut a node calls OnLost, and hears all its channels again, 2500 of them too."""
        speaker, reader = await opened(bed), await opened(bed)
        channels = [b"c%d" % n for n in range(2500)]
        await reader.bus.subscribe(channels)
        reader.bus.unsubscribe(channels[:1])
        await bed.sever()
        await reader.until(lambda: reader.lost >= 2)
        await until(lambda: reader.bus.up and speaker.bus.up)
        speaker.bus.publish([(channel, b"again") for channel in channels])
        await reader.until(lambda: len(reader.messages) >= 2499)
        assert [channel for channel, _ in reader.messages] == channels[1:]

    async def test_lost_is_said_after_the_channels_are_back(self, bed: Bed) -> None:
        """What is published from the last OnLost on arrives: a repair that starts there misses nothing."""
        speaker = await opened(bed)

        class Repairing(Node):
            def _lose(self) -> None:
                super()._lose()
                if self.bus.up:
                    speaker.bus.publish([(b"room", b"since")])

        reader = Repairing(bed)
        await until(lambda: reader.bus.up)
        await reader.bus.subscribe([b"room"])
        await bed.sever()
        await reader.until(lambda: bool(reader.messages))
        assert reader.messages == [(b"room", b"since")]

    async def test_survives_a_crash_of_the_server(self, bed: Bed) -> None:
        """The server is killed: publishing raises nothing, OnLost comes, and when it is back all is heard again."""
        speaker, reader = await opened(bed), await opened(bed)
        await reader.bus.subscribe([b"room"])
        await bed.stop()
        await reader.until(lambda: reader.lost >= 1)
        await until(lambda: not speaker.bus.up)
        speaker.bus.publish([(b"room", b"into the void")] * 100)
        await bed.start()
        await reader.until(lambda: reader.lost >= 2)
        await heard(speaker, reader, b"room", b"back")
        assert reader.payloads(b"room") == [b"back"]

    async def test_wishes_of_the_time_without_a_link_are_kept(self, bed: Bed) -> None:
        """Subscribe returns at once while the link is down; it and unsubscribe hold when the link is back."""
        speaker, reader = await opened(bed), await opened(bed)
        await reader.bus.subscribe([b"old"])
        await bed.stop()
        await reader.until(lambda: reader.lost >= 1)
        await until(lambda: not speaker.bus.up)
        with guarded():
            await reader.bus.subscribe([b"new"])
        reader.bus.unsubscribe([b"old"])
        assert not reader.bus.up
        await bed.start()
        await reader.until(lambda: reader.lost >= 2)
        await until(lambda: speaker.bus.up)
        speaker.bus.publish([(b"old", b"1"), (b"new", b"2")])
        await reader.until(lambda: bool(reader.messages))
        assert reader.messages == [(b"new", b"2")]

    async def test_a_cancelled_subscribe_leaves_the_bus_sound(self, bed: Bed) -> None:
        """Subscriptions are cancelled while under way; the next ones are still confirmed in their own turn."""
        speaker, reader = await opened(bed), await opened(bed)
        for n in range(20):
            with trio.CancelScope() as scope:
                scope.cancel()
                await reader.bus.subscribe([b"cancelled%d" % n])
            assert scope.cancelled_caught
            await reader.bus.subscribe([b"room%d" % n])
            speaker.bus.publish([(b"room%d" % n, b"1")])
        await reader.until(lambda: len(reader.messages) >= 20)
        assert reader.lost == 0
