"""Presence, receipts and typing of running servers, on one node and on two, by the contract alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import trio

from tests.e2e.cluster import Cluster, Peer

SETTINGS = """
[presence]
renew_seconds = 0.5
expiry_seconds = 1.5
away_seconds = 3600
[limits]
connections_per_address = 2000
"""


@pytest.fixture(scope="module", params=[1, 2], ids=["one-node", "two-nodes"])
def quick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Servers whose leases are short; the tests of this module share them, with users of their own."""
    made = Cluster(tmp_path_factory.mktemp("presence"), request.param, SETTINGS)
    yield made
    made.stop()


def operate(data: Path, *command: str) -> object:
    """One command of the operator's to the embedded Valkey."""
    reader = hiredis.Reader()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(data / "valkey.sock"))
        connection.sendall(hiredis.pack_command(command))
        while (reply := reader.gets()) is False:
            reader.feed(connection.recv(65536))
    return reply


def told(peer: Peer, user: str) -> list[str]:
    """Every status of somebody that this session was told, in order."""
    return [message["status"] for message in peer.seen if message["t"] == "presence" and message["user"] == user]


def is_(user: str, status: str) -> Any:
    return lambda m: m["t"] == "presence" and (m["user"], m["status"]) == (user, status)


async def acquaint(cluster: Cluster, one: str, other: str) -> tuple[Peer, str]:
    """The first, live on node 0, and their 1:1 conversation; the second has been there and has left."""
    guest = await Peer.open(cluster, 1, other)
    host = await Peer.open(cluster, 0, one)
    conv = (await host.say(f"@{other}", "hello"))["conv"]
    await guest.event(conv, 1)
    await guest.close()
    return host, conv


async def test_online_away_offline(quick: Cluster) -> None:
    """As the other comes, leaves the screen, returns and goes; ``last_seen`` with all but online."""
    ann, _ = await acquaint(quick, "ann", "bob")
    await ann.send({"t": "watch", "users": ["bob"]})
    bob = await Peer.open(quick, 1, "bob")
    await ann.until(is_("bob", "online"))
    await bob.send({"t": "heartbeat", "active": False})
    away = await ann.until(is_("bob", "away"))
    await bob.send({"t": "heartbeat", "active": True})
    back = await ann.until(is_("bob", "online"))
    await bob.close()
    gone = await ann.until(is_("bob", "offline"))
    assert ann.welcome["time"] <= away["last_seen"] <= gone["last_seen"]
    assert "last_seen" not in back
    assert told(ann, "bob")[-4:] == ["online", "away", "online", "offline"]


async def test_several_devices_are_one_user(quick: Cluster) -> None:
    """The best of them counts; while one is used the others may come, sleep and go, and nobody is told."""
    ann, conv = await acquaint(quick, "ann2", "bob2")
    phone = await Peer.open(quick, 0, "bob2", "phone")
    await ann.send({"t": "watch", "users": ["bob2"]})
    await ann.until(is_("bob2", "online"))
    for number in range(3):
        tablet = await Peer.open(quick, 1, "bob2", f"tablet{number}")
        await tablet.send({"t": "heartbeat", "active": False})
        await tablet.ask("blocked")
        await tablet.close()
    await phone.send({"t": "heartbeat", "active": False})
    await ann.until(is_("bob2", "away"))
    assert told(ann, "bob2")[-2:] == ["online", "away"]
    assert told(ann, "bob2").count("away") == 1
    assert (await phone.say(conv, "still here"))["t"] == "ack"


async def test_a_stranger_is_told_nothing(quick: Cluster) -> None:
    """I8: no answer about who shares no conversation, as about who does not exist; one's own removal ends it."""
    eve, conv = await acquaint(quick, "eve", "friend")
    stranger = await Peer.open(quick, 1, "stranger")
    await eve.send({"t": "watch", "users": ["stranger", "nobody-at-all", "friend"]})
    await eve.until(is_("friend", "offline"))
    assert told(eve, "stranger") == []
    await stranger.send({"t": "heartbeat", "active": False})
    group = (await eve.ask("create", title="g", members=["stranger"]))["conv"]
    assert (await eve.until(is_("stranger", "away")))["t"] == "presence"
    assert told(eve, "stranger")[-1] == "away"
    assert told(eve, "nobody-at-all") == []
    await eve.ask("remove", conv=group, users=["stranger"])
    last = await eve.until(is_("stranger", "offline"))
    assert "last_seen" not in last
    heard = len(told(eve, "stranger"))
    await stranger.send({"t": "heartbeat", "active": True})
    await stranger.say("@friend", "x")
    await eve.send({"t": "watch", "users": ["friend", "stranger"]})
    await eve.until(is_("friend", "offline"))
    assert len(told(eve, "stranger")) == heard
    assert conv != group


async def test_hidden_presence(quick: Cluster) -> None:
    """Who hides is offline to everybody, without ``last_seen``, and back when they say so; one's settings are one's own."""
    ann, _ = await acquaint(quick, "ann3", "bob3")
    bob = await Peer.open(quick, 1, "bob3")
    await ann.send({"t": "watch", "users": ["bob3"]})
    await ann.until(is_("bob3", "online"))
    tablet = await Peer.open(quick, 0, "bob3", "tablet")
    assert (await tablet.ask("privacy", presence=False))["privacy"] == {"presence": False, "last_seen": True}
    assert "last_seen" not in await ann.until(is_("bob3", "offline"))
    await ann.send({"t": "watch", "users": ["bob3"]})
    assert "last_seen" not in await ann.until(is_("bob3", "offline"))
    assert (await bob.ask("privacy", presence=True, last_seen=False))["privacy"] == {"presence": True, "last_seen": False}
    await ann.until(is_("bob3", "online"))
    await bob.close()
    await tablet.close()
    assert "last_seen" not in await ann.until(is_("bob3", "offline"))


async def test_a_flush_is_healed(quick: Cluster) -> None:
    """FLUSHALL: nobody who is there goes offline, and changes are told afterwards."""
    ann, _ = await acquaint(quick, "ann4", "bob4")
    bob = await Peer.open(quick, 1, "bob4")
    await ann.send({"t": "watch", "users": ["bob4"]})
    await ann.until(is_("bob4", "online"))
    assert operate(quick.data, "FLUSHALL") == b"OK"
    with trio.fail_after(20):
        while not operate(quick.data, "EXISTS", "chatd:p:bob4"):
            await ann.ask("blocked")
    await bob.send({"t": "heartbeat", "active": False})
    await ann.until(is_("bob4", "away"))
    assert told(ann, "bob4")[-2:] == ["online", "away"]
    assert "offline" not in told(ann, "bob4")[told(ann, "bob4").index("online") :]


async def test_a_node_that_is_killed(tmp_path: Path) -> None:
    """kill -9: its users are offline within the expiry, and online again from where they come back."""
    cluster = Cluster(tmp_path, 2, SETTINGS)
    try:
        ann, _ = await acquaint(cluster, "ann", "bob")
        await Peer.open(cluster, 1, "bob")
        await ann.send({"t": "watch", "users": ["bob"]})
        await ann.until(is_("bob", "online"))
        cluster.servers[1].kill()
        assert "last_seen" in await ann.until(is_("bob", "offline"))
        await Peer.open(cluster, 0, "bob")
        await ann.until(is_("bob", "online"))
    finally:
        cluster.stop()


async def test_typing_is_ended_by_the_server(quick: Cluster) -> None:
    """With the message, with the session, and by itself; nobody hears of one's own, and a stranger of nothing."""
    ann, conv = await acquaint(quick, "ann5", "bob5")
    bob, eve = await Peer.open(quick, 1, "bob5"), await Peer.open(quick, 1, "eve5")
    await eve.send({"t": "typing", "conv": conv, "on": True})
    on = {"t": "typing", "conv": conv, "user": "bob5", "on": True}
    off = {**on, "on": False}
    await bob.send({"t": "typing", "conv": conv, "on": True})
    await ann.until(lambda m: m == on)
    await bob.say(conv, "said")
    await ann.until(lambda m: m == off)
    await bob.send({"t": "typing", "conv": conv, "on": True})
    await ann.until(lambda m: m == on)
    await bob.vanish()
    await ann.until(lambda m: m == off)
    bob = await Peer.open(quick, 1, "bob5")
    await bob.send({"t": "typing", "conv": conv, "on": True})
    await ann.until(lambda m: m == on)
    await ann.until(lambda m: m == off)
    assert {m["user"] for m in ann.seen if m["t"] == "typing"} == {"bob5"}
    assert [m for m in bob.seen + eve.seen if m["t"] == "typing"] == []


async def test_passing_things_that_come_too_often(quick: Cluster) -> None:
    """They are refused with an error that has no id; the session goes on."""
    ann, conv = await acquaint(quick, "ann6", "bob6")
    for _ in range(60):
        await ann.send({"t": "typing", "conv": conv, "on": True})
    error = await ann.until(lambda m: m["t"] == "error")
    assert error["code"] == "rate_limited"
    assert error["retry_after_ms"] > 0
    assert "id" not in error
    assert (await ann.say(conv, "x"))["t"] == "ack"


async def test_a_watch_of_many_counts_as_several(quick: Cluster) -> None:
    """One for each 50 users: of five with 400 each the third is refused at the latest."""
    ann = await Peer.open(quick, 0, "ann6b")
    for _ in range(5):
        await ann.send({"t": "watch", "users": [f"nobody{number}" for number in range(400)]})
    error = await ann.until(lambda m: m["t"] == "error")
    assert error["code"] == "rate_limited"


async def test_receipts_of_a_dm(quick: Cluster) -> None:
    """To the other one and to one's other devices; up-to marks that never move back, and stand in ``members``."""
    ann, conv = await acquaint(quick, "ann7", "bob7")
    await ann.say(conv, "two")
    bob, tablet = await Peer.open(quick, 1, "bob7"), await Peer.open(quick, 0, "bob7", "tablet")
    await bob.send({"t": "delivered", "conv": conv, "seq": 2})
    receipt = {"t": "receipt", "conv": conv, "user": "bob7", "delivered": 2, "read": 0}
    await ann.until(lambda m: m == receipt)
    await tablet.until(lambda m: m == receipt)
    await tablet.send({"t": "read", "conv": conv, "seq": 1})
    await bob.until(lambda m: m == {**receipt, "read": 1})
    await bob.send({"t": "read", "conv": conv, "seq": 99})
    await ann.until(lambda m: m == {**receipt, "read": 2})
    marks = {m["user"]: (m["delivered"], m["read"]) for m in (await ann.ask("members", conv=conv))["members"]}
    assert marks["bob7"] == (2, 2)
    assert not any(m["t"] == "receipt" and m["delivered"] > 2 for m in ann.seen + bob.seen + tablet.seen)
    assert [m["read"] for m in bob.seen if m["t"] == "receipt"] == [1]


async def _group(cluster: Cluster, name: str, size: int) -> tuple[Peer, Peer, str]:
    """Its owner, one of its members on the other node, and a group of ``size``."""
    users = [f"{name}-{number}" for number in range(size)]
    owner = await Peer.open(cluster, 0, users[0])
    for user in users[1:]:
        await (await Peer.open(cluster, 0, user, live=False)).vanish()
    conv = (await owner.ask("create", title="g", members=users[1:]))["conv"]
    return owner, await Peer.open(cluster, 1, users[1]), conv


async def test_receipts_of_a_group_of_51(quick: Cluster) -> None:
    """At most one a second for each member, and the last one is right."""
    owner, member, conv = await _group(quick, "mid", 51)
    for _ in range(30):
        await owner.say(conv, "x")
    await member.event(conv, 31)
    began = trio.current_time()
    for seq in range(2, 32):
        await member.send({"t": "read", "conv": conv, "seq": seq})
        await member.ask("blocked")
    await owner.until(lambda m: m["t"] == "receipt" and m["read"] == 31)
    receipts = [m for m in owner.seen if m["t"] == "receipt" and m["user"] == "mid-1"]
    assert len(receipts) <= trio.current_time() - began + 2
    assert [m["read"] for m in receipts] == sorted({m["read"] for m in receipts})
    assert all("seq" not in m for m in receipts)


async def test_receipts_of_a_group_of_201(quick: Cluster) -> None:
    """Only counts, only for the author, of the own latest message; ``members`` has no marks, and typing is not told."""
    owner, member, conv = await _group(quick, "big", 201)
    ack = await owner.say(conv, "x")
    other = await Peer.open(quick, 0, "big-2")
    for peer in (member, other):
        await peer.event(conv, ack["seq"])
        await peer.send({"t": "typing", "conv": conv, "on": True})
        await peer.send({"t": "delivered", "conv": conv, "seq": ack["seq"]})
    await member.send({"t": "read", "conv": conv, "seq": ack["seq"]})
    await owner.until(lambda m: m == {
        "t": "receipt", "conv": conv, "user": "big-0", "delivered": 2, "read": 1, "seq": ack["seq"]
    })  # fmt: skip
    assert not any({"delivered", "read"} & set(m) for m in (await owner.ask("members", conv=conv))["members"])
    await member.ask("blocked")
    assert [m for m in member.seen + other.seen if m["t"] in ("receipt", "typing")] == []
    assert [m for m in owner.seen if m["t"] == "typing"] == []


@pytest.mark.parametrize("blocker", ["who.watches", "who.is.watched"])
async def test_a_block_ends_what_the_two_hear_of_each_other(quick: Cluster, blocker: str) -> None:
    """Presence, typing and receipts of the 1:1 conversation, in both directions, on whatever nodes; and back again."""
    one, other = f"fay.{blocker}", f"gus.{blocker}"
    fay, conv = await acquaint(quick, one, other)
    gus = await Peer.open(quick, 1, other)
    for peer, them in ((fay, other), (gus, one)):
        await peer.send({"t": "watch", "users": [them]})
        await peer.until(is_(them, "online"))
    here, them = (fay, other) if blocker == "who.watches" else (gus, one)
    assert (await here.ask("block", user=them, on=True))["t"] == "ok"
    for peer, name in ((fay, other), (gus, one)):
        await peer.until(is_(name, "offline"))
        assert "last_seen" not in peer.seen[-1]
    side = await Peer.open(quick, 0, f"hal.{blocker}")
    for peer, name in ((fay, one), (gus, other)):
        marks = len(peer.seen)
        with_side = (await side.say(f"@{name}", "look"))["conv"]
        teller = gus if peer is fay else fay
        await teller.send({"t": "typing", "conv": conv, "on": True})
        await teller.send({"t": "read", "conv": conv, "seq": 1})
        await teller.ask("conversations")
        # The same by somebody else, behind it on the same way, is told.
        await side.send({"t": "typing", "conv": with_side, "on": True})
        await peer.until(lambda m, at=with_side: m["t"] == "typing" and m["conv"] == at)
        assert not [m for m in peer.seen[marks:] if m["t"] in ("typing", "receipt") and m["conv"] == conv]
        (marked,) = [m for m in (await peer.ask("members", conv=conv))["members"] if m["user"] != name]
        assert "read" not in marked
    assert (await here.ask("block", user=them, on=False))["t"] == "ok"
    for peer, name in ((fay, other), (gus, one)):
        await peer.until(is_(name, "online"))
    await gus.send({"t": "typing", "conv": conv, "on": True})
    await fay.until(lambda m: m["t"] == "typing" and m["conv"] == conv)
