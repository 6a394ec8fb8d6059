"""Forged, changed, cut and replayed messages on the bus of two live nodes, by somebody who has got hold of Redis.

Nothing reaches a client that is not in the store, each forgery is counted, and what is genuine goes on arriving in order.
"""

from __future__ import annotations

from random import Random
from typing import Any

import cbor2
import pytest

from chatd.accounts.signing_key import FILE_NAME, load_key
from chatd.accounts.tokens import Tokens
from chatd.conversations.operations import Event
from chatd.delivery.envelope import NODE_BYTES, Envelope, Sealer, group_channel, user_channel
from tests.e2e.cluster import Cluster, Peer, metric
from tests.hostile.raw_redis import RawRedis, raw_redis

pytestmark = pytest.mark.usefixtures("no_stream_left")
Captured = tuple[bytes, bytes]
OTHER_NODE = 1
"""Where the victims are. What is captured was published by node 0, which takes no notice of what bears its own name."""


async def captured(cluster: Cluster, talker: Peer, conv: str, body: str) -> Captured:
    """Say something, and take it off the bus."""
    async with raw_redis(cluster) as spy:
        await spy.listen()
        assert (await talker.say(conv, body))["t"] == "ack"
        while True:
            channel, payload = await spy.heard()
            if body.encode() in payload:
                return channel, payload


async def in_store(peer: Peer, conv: str) -> list[dict[str, Any]]:
    """The log, as ``history`` has it."""
    answer = await peer.ask("history", conv=conv, after=0, limit=200)
    return [_content(event) for event in answer["events"]]


def seen_in(peer: Peer, conv: str) -> list[dict[str, Any]]:
    return [_content(m) for m in peer.seen if m["t"] == "event" and m["conv"] == conv]


def _content(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "t"}


async def publish(redis: RawRedis, channel: bytes, payload: bytes) -> None:
    """Somebody listens there, or it proves nothing."""
    assert await redis.command(b"PUBLISH", channel, payload)


def _variants(payload: bytes, random: Random) -> list[bytes]:
    """A captured message with a bit flipped in each byte, cut at each byte, and with bytes behind it."""
    flipped = [payload[:at] + bytes([payload[at] ^ 1 << random.randrange(8)]) + payload[at + 1 :] for at in range(len(payload))]
    cut = [payload[:at] for at in range(len(payload))]
    return [*flipped, *cut, payload + b"\0", payload + payload]


async def test_what_no_node_sealed_reaches_nobody(pair: Cluster) -> None:
    """Noise, damaged and misdirected messages on every channel that a node follows: counted, dropped, and the node goes on."""
    random = Random(46)
    ann, bob = await Peer.open(pair, 0, "ann"), await Peer.open(pair, OTHER_NODE, "bob")
    conv = (await ann.ask("create", title="g", members=["bob"]))["conv"]
    other = (await ann.ask("create", title="other", members=["bob"]))["conv"]
    await bob.event(other, 1)
    channel, payload = await captured(pair, ann, conv, "genuine one")
    await bob.event(conv, 2)
    assert channel == group_channel(conv)
    await ann.send({"t": "watch", "users": ["bob"]})
    await ann.until(lambda m: m["t"] == "presence")
    forged = [(channel, variant) for variant in _variants(payload, random)]
    forged += [(to, payload) for to in (group_channel(other), user_channel("bob"))]
    forged += [(to, random.randbytes(size)) for to in (channel, user_channel("bob")) for size in (1, 7, 8, 24, 25, 500, 70_000)]
    before = metric(pair.server(OTHER_NODE), "chatd_bus_forged_total")
    async with raw_redis(pair) as attacker:
        for to, what in forged:
            await publish(attacker, to, what)
        followed = await attacker.command(b"PUBSUB", b"CHANNELS")
        assert isinstance(followed, list)
        assert b"chatd:p:bob" in followed
        for to in followed:
            if to.startswith(b"chatd:p:"):  # leases, which are no envelopes
                for what in (b"", b"1:2:3", b"a:1:9:1", b"x:" + b"9" * 60 + b":2:0", random.randbytes(50)):
                    await publish(attacker, to, what)
        assert await attacker.command(b"PUBLISH", group_channel("nobodyfollowsit"), payload) == 0
    assert (await ann.say(conv, "genuine two"))["t"] == "ack"
    await bob.event(conv, 3)  # behind all of them: the bus keeps the order
    assert metric(pair.server(OTHER_NODE), "chatd_bus_forged_total") - before == len(forged)
    assert bob.stream(conv) == [1, 2, 3]
    assert seen_in(bob, conv) == await in_store(bob, conv)
    assert bob.stream(other) == [1]
    assert all(server.process.poll() is None for server in pair.servers)


async def test_what_is_replayed_changes_nothing(pair: Cluster) -> None:
    """A day of two users, said again as it was, all of it and at once: no event comes twice, nobody is ended, nobody is let in
    again."""
    async with raw_redis(pair) as spy:
        await spy.listen()
        ann, bob = await Peer.open(pair, 0, "ann"), await Peer.open(pair, OTHER_NODE, "bob")
        lost = await Peer.open(pair, OTHER_NODE, "bob", "lost")
        older = await Peer.open(pair, OTHER_NODE, "bob", "replaced")
        newer = await Peer.open(pair, 0, "bob", "replaced")
        assert await older.closed() == 4203
        conv = (await ann.ask("create", title="g", members=["bob"]))["conv"]
        for number in range(5):
            await ann.say(conv, f"message {number}")
        await ann.say("@bob", "to you")
        await bob.event(conv, 6)
        gone = (await ann.ask("create", title="left", members=["bob"]))["conv"]
        await ann.say(gone, "you may read this")
        await ann.ask("remove", conv=gone, users=["bob"])
        await bob.event(gone, 3)
        assert (await newer.ask("sign_out", device="lost"))["t"] == "ok"
        assert await lost.closed() == 4206
        back = await Peer.open(pair, OTHER_NODE, "bob", "lost")
        await newer.close()
        again = await Peer.open(pair, OTHER_NODE, "bob", "replaced")
        assert (await ann.say(conv, "the last word"))["t"] == "ack"
        heard = await _until(spy, b"the last word")
    await bob.event(conv, 7)
    before = metric(pair.server(OTHER_NODE), "chatd_bus_forged_total")
    sealed = [(channel, payload) for channel, payload in heard if channel.startswith((b"chatd:g:", b"chatd:u:"))]
    assert len(sealed) >= 12
    async with raw_redis(pair) as attacker:
        for channel, payload in [*sealed, *sealed, *reversed(sealed)]:
            await attacker.command(b"PUBLISH", channel, payload)
    assert (await ann.say(gone, "you may not"))["t"] == "ack"
    assert (await ann.say(conv, "after all that"))["t"] == "ack"
    for peer in (bob, back, again):
        await peer.event(conv, 8)
        assert peer.stream(conv) == list(range(1, 9))
        assert seen_in(peer, conv) == await in_store(peer, conv)
        assert "you may not" not in [m.get("body") for m in seen_in(peer, gone)]
        assert (await peer.ask("history", conv=gone))["code"] == "not_found"
        assert peer.seen[-1]["t"] != "bye"
    assert metric(pair.server(OTHER_NODE), "chatd_bus_forged_total") == before, "each was sealed by a node"


async def _until(spy: RawRedis, body: bytes) -> list[Captured]:
    heard: list[Captured] = []
    while not heard or body not in heard[-1][1]:
        heard.append(await spy.heard())
    return heard


async def test_the_seal_is_what_keeps_them_out(pair: Cluster) -> None:
    """Who has the nodes' key puts words into a conversation: the tests above would see it if the seal were not looked at."""
    ann, bob = await Peer.open(pair, 0, "ann"), await Peer.open(pair, OTHER_NODE, "bob")
    conv = (await ann.ask("create", title="g", members=["bob"]))["conv"]
    await bob.event(conv, 1)
    key = Tokens("chatd", "chatd", load_key(pair.data / FILE_NAME), 3600).bus_key
    lie = Event(conv, 2, 1, "ann", "message", cbor2.dumps({"type": "text", "body": "never said"}), 0, 0)
    for sealer in (Sealer(b"a guess", b"x" * NODE_BYTES), Sealer(key, b"x" * NODE_BYTES)):
        payload = sealer.seal(Envelope([lie]), group_channel(conv))
        async with raw_redis(pair) as attacker:
            await publish(attacker, group_channel(conv), payload)
    assert (await bob.event(conv, 2))["body"] == "never said"
    assert len(await in_store(bob, conv)) == 1
    assert metric(pair.server(OTHER_NODE), "chatd_bus_forged_total") == 1
