"""Receipts and typing on two nodes: a real store, a bus in memory that the test may cut, a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
from chatd_protocol.codec import Encoding
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.conversations.operations import (
    Appended,
    Author,
    CreateGroup,
    Mark,
    Marked,
    OpenDevice,
    RemoveMembers,
    Send,
    SetBlock,
)
from chatd.delivery.envelope import Sealer
from chatd.delivery.hub import Hub
from chatd.delivery.signals import Signals
from chatd.ops.metrics import Metrics
from chatd.store.port import Unavailable


class Listener:
    """A session as the hub sees it; ``heard`` is what was written to it, events left out, with the moment of each."""

    encoding = Encoding.CBOR

    def __init__(self, author: Author) -> None:
        self.user, self.device, self.device_no, self.epoch = author.user, "d", author.device_no, 1
        self.author = author
        self.said: list[dict[str, Any]] = []
        self.at: list[float] = []

    @property
    def heard(self) -> list[tuple[Any, ...]]:
        return [tuple(value for key, value in said.items() if key != "conv") for said in self.said]

    def write(self, frame: bytes) -> None:
        message = cbor2.loads(frame[frame.index(b"\x61t") - 1 :])
        if message["t"] not in ("event", "ack"):
            self.said.append(message)
            self.at.append(trio.current_time())

    def conversation_began(self, conv: str) -> None: ...

    def detached(self, conv: str, position: int) -> None: ...

    def replace(self) -> None: ...

    def sign_out(self) -> None: ...


class Node:
    """A hub with its signals."""

    def __init__(self, place: Place, name: bytes) -> None:
        self.place = place
        self.metrics = Metrics()
        self.hub = Hub(Sealer(b"key", name), self.metrics, held_events=100, held_bytes=1 << 20)
        self.hub.connect(self)  # type: ignore[arg-type]
        self.signals = Signals(self.hub, place.store, self.metrics, nullcontext())
        place.nursery.start_soon(self.signals.run)

    # the bus

    def publish(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        for node in self.place.nodes if self.place.bus_up else ():
            for channel, payload in messages:
                node.hub.bus_message(channel, payload)

    async def subscribe(self, channels: Any) -> None: ...

    def unsubscribe(self, channels: Any) -> None: ...

    async def live(self, author: Author, *convs: str, group: bool = True) -> Listener:
        listener = Listener(author)
        await self.hub.enter(listener)
        await self.hub.follow(listener, [(conv, group) for conv in convs])
        for conv in convs:
            await self._join(listener, conv)
        return listener

    async def follow(self, listener: Listener, conv: str) -> None:
        await self.hub.follow(listener, [(conv, True)])
        await self._join(listener, conv)

    async def _join(self, listener: Listener, conv: str) -> None:
        author = listener.author
        (last,) = [s.last for s in await self.place.store.standings(author.user_no, author.device_no) if s.conv == conv]
        assert self.hub.topics[conv].join(listener, last)

    async def do(self, *operations: Any) -> list[Any]:
        outcomes = await self.place.store.commit(operations, 1_700_000_000_000)
        self.hub.committed([outcome for outcome in outcomes if isinstance(outcome, Appended)])
        for operation, outcome in zip(operations, outcomes, strict=True):
            if isinstance(outcome, Marked):
                self.signals.moved(operation.author, outcome)
        return outcomes

    async def mark(self, author: Author, conv: str, read: int) -> None:
        await self.do(Mark(author=author, conv=conv, delivered=read, read=read))


class Place:
    """Two nodes of one server."""

    def __init__(self, store: SqliteStore, nursery: trio.Nursery, clock: MockClock) -> None:
        self.store, self.nursery, self.clock = store, nursery, clock
        self.bus_up = True
        self.nodes = [Node(self, name) for name in (b"11111111", b"22222222")]

    async def people(self, *names: str, device: str = "d") -> list[Author]:
        opened = await self.nodes[0].do(*[OpenDevice(user=name, device=device, create_user=True) for name in names])
        return [outcome.author for outcome in opened]

    async def group(self, owner: Author, *members: str) -> str:
        (made,) = await self.nodes[0].do(CreateGroup(author=owner, title="g", members=members, history="all"))
        conv: str = made.conv
        return conv

    async def go(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.clock.jump(0.1)
            await wait_all_tasks_blocked(0.004)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> float:
        passed = 0.0
        while not condition():
            assert passed < seconds, "it did not come about"
            await self.go(0.1)
            passed += 0.1
        return passed


@pytest.fixture
async def place(tmp_path: Path, mock_clock: MockClock) -> AsyncIterator[Place]:
    async with open_store(tmp_path / "chatd.db") as store, trio.open_nursery() as nursery:
        yield Place(store, nursery, mock_clock)
        nursery.cancel_scope.cancel()


def send(author: Author, cseq: int, to: str) -> Send:
    return Send(author=author, cseq=cseq, to=to, payload=cbor2.dumps({"type": "text", "body": "x"}))


ON, OFF = ("typing", "ann", True), ("typing", "ann", False)


async def two(place: Place) -> tuple[Node, Node, str, Listener, Listener, Listener]:
    """Ann on one node; bob, and ann's tablet, on the other; a group of the two."""
    one, other = place.nodes
    ann, bob = await place.people("ann", "bob")
    (tablet,) = await place.people("ann", device="tablet")
    conv = await place.group(ann, "bob")
    return one, other, conv, await one.live(ann, conv), await other.live(bob, conv), await other.live(tablet, conv)


async def test_typing_ends_by_itself(place: Place, mock_clock: MockClock) -> None:
    """A lease of 6 s from its last renewal, told to the other members and not to oneself."""
    one, _, conv, ann, bob, tablet = await two(place)
    one.signals.ask_typing(ann, conv, True)
    await place.until(lambda: bob.heard == [ON])
    await place.go(5)
    one.signals.ask_typing(ann, conv, True)
    await place.go(5)
    assert set(bob.heard) == {ON}
    assert one.signals.waiting > 0
    assert await place.until(lambda: bob.heard[-1] == OFF) < 1.5
    assert ann.heard == tablet.heard == []
    await place.go(0.5)
    assert [node.signals.waiting for node in place.nodes] == [0, 0]


async def test_typing_ends_with_the_message(place: Place, mock_clock: MockClock) -> None:
    """On both nodes, before anything else is written; also what was asked for and not told yet."""
    one, _, conv, ann, bob, _ = await two(place)
    one.signals.ask_typing(ann, conv, True)
    await place.until(lambda: bob.heard == [ON])
    await one.do(send(ann.author, 1, conv))
    assert bob.heard == [ON, OFF]
    one.signals.ask_typing(ann, conv, True)
    await one.do(send(ann.author, 2, conv))
    await place.go(10)
    assert bob.heard == [ON, OFF]


@pytest.mark.parametrize("how", ["off", "ended", "removed"])
async def test_typing_ends_with_the_session(place: Place, mock_clock: MockClock, how: str) -> None:
    """Given up, or with the session, or with the membership."""
    one, _, conv, ann, bob, _ = await two(place)
    one.signals.ask_typing(ann, conv, True)
    await place.until(lambda: bob.heard == [ON])
    if how == "off":
        one.signals.ask_typing(ann, conv, False)
    elif how == "ended":
        one.signals.ended(ann)
        one.hub.unfollow(ann, conv)
    else:
        await one.do(RemoveMembers(author=ann.author, conv=conv, users=("ann",)))
    await place.until(lambda: bob.heard == [ON, OFF], 0.3)


async def test_a_node_that_dies_ends_what_was_typed_there(place: Place, mock_clock: MockClock) -> None:
    """The others hold the lease, too: nobody types for ever because a node is gone."""
    one, _, conv, ann, bob, _ = await two(place)
    one.signals.ask_typing(ann, conv, True)
    await place.until(lambda: bob.heard == [ON])
    place.nodes.remove(one)
    place.bus_up = False
    assert 5 < await place.until(lambda: bob.heard == [ON, OFF]) < 6.5


async def test_who_is_not_live_there_types_for_nobody(place: Place, mock_clock: MockClock) -> None:
    """I8: judged where the topic is: not a member, no member any more, or not caught up yet."""
    one, _, conv, ann, bob, _ = await two(place)
    (eve,) = await place.people("eve")
    stranger = await one.live(eve)
    one.signals.ask_typing(stranger, conv, True)
    one.signals.ask_typing(stranger, "absent", True)
    one.signals.ask_typing(ann, conv, True)
    await one.do(RemoveMembers(author=ann.author, conv=conv, users=("ann",)))
    await place.go(1)
    assert bob.heard == []


@pytest.mark.parametrize("members", [200, 201])
async def test_typing_in_large_groups_is_not_told(place: Place, mock_clock: MockClock, members: int) -> None:
    """Up to 200 members it is."""
    one, other = place.nodes
    ann, bob, *_ = await place.people("ann", "bob", *[f"u{n}" for n in range(members - 2)])
    conv = await place.group(ann, "bob", *[f"u{n}" for n in range(members - 2)])
    typist, reader = await one.live(ann, conv), await other.live(bob, conv)
    one.signals.ask_typing(typist, conv, True)
    await place.go(1)
    assert reader.heard == ([ON] if members == 200 else [])


async def test_typing_is_not_told_where_one_blocks_the_other(place: Place, mock_clock: MockClock) -> None:
    """In their 1:1 conversation, to neither of them."""
    one, other = place.nodes
    ann, bob = await place.people("ann", "bob")
    (made,) = await one.do(send(ann, 1, "@bob"))
    blocked, blocker = await one.live(ann, made.conv, group=False), await other.live(bob, made.conv, group=False)
    await one.do(SetBlock(author=bob, user="ann", on=True))
    one.signals.ask_typing(blocked, made.conv, True)
    other.signals.ask_typing(blocker, made.conv, True)
    await place.go(1)
    assert blocked.heard == blocker.heard == []


async def test_receipts_of_a_dm(place: Place, mock_clock: MockClock) -> None:
    """To the other one and one's own other devices, once each, also where both are on one node; merged, and never back."""
    one, other = place.nodes
    ann, bob = await place.people("ann", "bob")
    (tablet,) = await place.people("bob", device="tablet")
    (made, *_) = await one.do(*[send(ann, n, "@bob") for n in range(1, 5)])
    conv = made.conv
    phone = await one.live(bob, conv, group=False)
    others = [await node.live(who, conv, group=False) for node, who in ((one, ann), (other, ann), (other, tablet))]
    await one.mark(bob, conv, 2)
    await one.mark(bob, conv, 3)
    await place.go(1)
    assert [listener.heard for listener in others] == [[("receipt", "bob", 3, 3)]] * 3
    await other.mark(tablet, conv, 1)
    await place.go(1)
    assert phone.heard == []
    await other.mark(tablet, conv, 4)
    await place.go(1)
    assert phone.heard == others[0].heard[1:] == [("receipt", "bob", 4, 4)]
    assert others[2].heard[1:] == []


@pytest.mark.parametrize("members", [50, 51])
async def test_receipts_of_a_group(place: Place, mock_clock: MockClock, members: int) -> None:
    """Up to 50 members as they come; beyond at most one a second for each member, and the last one is right."""
    one, other = place.nodes
    ann, bob, *_ = await place.people("ann", "bob", *[f"u{n}" for n in range(members - 2)])
    conv = await place.group(ann, "bob", *[f"u{n}" for n in range(members - 2)])
    await one.do(*[send(ann, n, conv) for n in range(1, 31)])
    near, far = await one.live(ann, conv), await other.live(ann, conv)
    for seq in range(2, 30):
        await one.mark(bob, conv, seq)
        await place.go(0.1)
    await place.go(2)
    for reader in (near, far):
        assert reader.heard[-1] == ("receipt", "bob", 29, 29)
        marks = [said["read"] for said in reader.said]
        assert marks == sorted(set(marks))
        gaps = [later - earlier for earlier, later in zip(reader.at, reader.at[1:], strict=False)]
        if members > 50:
            assert len(gaps) in (2, 3, 4)
            assert min(gaps) >= 0.999
        else:
            assert len(gaps) > 10


async def test_receipts_of_a_large_group_are_counts(place: Place, mock_clock: MockClock) -> None:
    """Over 200 members only the author hears, of the own latest message, how many others have it; at most once a second."""
    one, other = place.nodes
    ann, bob, *rest = await place.people("ann", "bob", *[f"u{n}" for n in range(199)])
    conv = await place.group(ann, "bob", *[author.user for author in rest])
    await one.do(send(ann, 1, conv), send(bob, 1, conv), send(ann, 2, conv))
    author, second, reader = await one.live(ann, conv), await other.live(bob, conv), await other.live(rest[0], conv)
    for number, who in enumerate(rest):
        await (one, other)[number % 2].mark(who, conv, 3 if number < 50 else 4)
        if number % 40 == 0:
            await place.go(0.1)
    await place.go(3)
    assert reader.heard == []
    assert author.heard[-1] == ("receipt", "ann", 149, 149, 4)
    assert second.heard[-1] == ("receipt", "bob", 199, 199, 3)
    assert all(later - earlier >= 0.999 for earlier, later in zip(author.at, author.at[1:], strict=False))
    assert len(author.heard) <= 3


async def test_a_store_that_cannot_be_asked_costs_the_signal_alone(place: Place, mock_clock: MockClock) -> None:
    """Dropped and counted; the next one is told."""
    one, _, conv, ann, bob, _ = await two(place)
    audiences = place.store.audiences

    async def fail(_: Any) -> Any:
        raise Unavailable("the disk")

    place.store.audiences = fail  # type: ignore[method-assign]
    one.signals.ask_typing(ann, conv, True)
    await place.go(1)
    assert bob.heard == []
    assert one.metrics.signals_dropped == 1
    place.store.audiences = audiences  # type: ignore[method-assign]
    one.signals.ask_typing(ann, conv, True)
    await place.until(lambda: bob.heard == [ON])


@pytest.mark.parametrize("read", ["tallies", "audiences"])
async def test_a_store_that_is_slow_holds_up_no_other_signal(place: Place, mock_clock: MockClock, read: str) -> None:
    """While it counts for one group, or looks how large it is, typing elsewhere is ended and receipts are told."""
    one, _, conv, ann, bob, _ = await two(place)
    crowd = await place.people(*[f"u{n}" for n in range(201)])
    large = await place.group(ann.author, *[author.user for author in crowd])
    await one.do(send(ann.author, 7, large))
    await one.follow(ann, large)
    one.signals.ask_typing(ann, conv, True)
    await place.until(lambda: bob.heard == [ON])

    async def hang(*_: Any) -> Any:
        await trio.sleep_forever()

    setattr(place.store, read, hang)
    await one.mark(crowd[0], large, 2)
    one.signals.ask_typing(ann, large, True)
    await place.go(0.5)
    await one.mark(ann.author, conv, 1)
    one.signals.ask_typing(ann, conv, False)
    await place.until(lambda: ("receipt", "ann", 1, 1) in bob.heard and OFF in bob.heard, 0.5)


async def test_an_idle_node_does_nothing(place: Place, mock_clock: MockClock) -> None:
    """After the last word the actor waits for its bell, and nothing is left of what was typed."""
    one, other, conv, ann, bob, _ = await two(place)
    one.signals.ask_typing(ann, conv, True)
    await one.mark(bob.author, conv, 1)
    await place.go(10)
    for node in (one, other):
        assert not node.signals._bell.is_set()
        assert node.signals.typing == set()
        assert not node.signals._reach
