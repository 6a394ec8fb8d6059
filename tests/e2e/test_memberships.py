"""Who leaves and comes back, over real sockets: the device that stayed and the one that was away have the same (I7, I8)."""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.e2e.cluster import Cluster, Peer


class Log:
    """One user's view of a group's log, as the contract says it: the events of all their memberships, or all of it."""

    def __init__(self, history: str) -> None:
        self.history = history
        self.head = 1
        self.member = True
        self.seen = [1]
        self._hidden: list[int] = []

    def grow(self, kind: str) -> int:
        """One more event; ``seq``."""
        self.head += 1
        was, self.member = self.member, (self.member or kind == "joined") and kind != "left"
        if not was and not self.member:
            self._hidden.append(self.head)
            return self.head
        if kind == "joined" and self.history == "all":
            self.seen += self._hidden
        self._hidden = [] if kind == "joined" else self._hidden
        self.seen.append(self.head)
        return self.head


def name(stem: str) -> str:
    """A user of this test's own, on a cluster that others use, too."""
    return f"{stem}.{os.urandom(4).hex()}"


@pytest.mark.parametrize(
    ("history", "seen"), [("since_join", [1, 2, 3, 4, 5, 6, 8, 9]), ("all", [1, 2, 3, 4, 5, 6, 7, 8, 9])]
)
async def test_who_was_away_gets_what_who_stayed_got(cluster: Cluster, history: str, seen: list[int]) -> None:
    """Removed and added again: live, by replay from the cursor, by replay from ``positions``, by ``history``: one log."""
    yan, xia = name("yan"), name("xia")
    live, away = await Peer.open(cluster, 0, xia, "live"), await Peer.open(cluster, 1, xia, "away")
    owner = await Peer.open(cluster, 1, yan)
    conv = (await owner.ask("create", title="g", members=[xia], history=history))["conv"]
    await owner.say(conv, "two")
    await away.event(conv, 2)
    await away.send({"t": "delivered", "conv": conv, "seq": 2})
    await away.ask("conversations")  # it waits until marks are stored
    await away.close()
    for word in ("three", "four", "five"):
        await owner.say(conv, word)
    await owner.ask("remove", conv=conv, users=[xia])
    await live.event(conv, 6)
    await owner.say(conv, "seven")
    await owner.ask("add", conv=conv, users=[xia])
    await owner.say(conv, "nine")
    await live.event(conv, 9)
    away = await Peer.open(cluster, 1, xia, "away")
    told = await Peer.open(cluster, 0, xia, "told", positions={conv: 4})
    await away.event(conv, 9)
    await told.event(conv, 9)
    assert live.stream(conv) == seen
    assert away.stream(conv) == seen[2:]
    assert told.stream(conv) == seen[4:]
    shown: list[int] = []
    more = True
    while more:
        page = await away.ask("history", conv=conv, **({"before": shown[0]} if shown else {}))
        shown, more = [event["seq"] for event in page["events"]] + shown, page["more"]
    assert shown == seen
    counts = [(await peer.ask("conversations"))["items"][0]["unread"] for peer in (live, away)]
    assert counts == [len([seq for seq in seen if seq in (2, 3, 4, 5, 7, 9)])] * 2


@pytest.mark.parametrize("history", ["since_join", "all"])
@pytest.mark.parametrize("seed", range(3))
async def test_random_memberships(cluster: Cluster, history: str, seed: int) -> None:
    """A device that is there all the time and one that comes and goes, on another node, against a plain model."""
    random, log = Random(seed), Log(history)
    yan, xia = name("yan"), name("xia")
    live, away = await Peer.open(cluster, 0, xia, "live"), await Peer.open(cluster, 1, xia, "away")
    owner = await Peer.open(cluster, seed, yan)
    conv = (await owner.ask("create", title="g", members=[xia], history=history))["conv"]
    await away.event(conv, 1)
    got: list[int] = []
    here = True
    for _ in range(60):
        step = random.choice(["say", "say", "move", "move", "away"])
        if step == "say":
            assert (await owner.say(conv, "x"))["seq"] == log.grow("message")
        elif step == "move":
            await owner.ask("remove" if log.member else "add", conv=conv, users=[xia])
            log.grow("left" if log.member else "joined")
        elif here:
            got += away.stream(conv)
            await away.close()
            here = False
        else:
            away = await Peer.open(cluster, 1, xia, "away", positions={conv: (got or [0])[-1]})
            here = True
    if not log.member:
        await owner.ask("add", conv=conv, users=[xia])
        log.grow("joined")
    if not here:
        away = await Peer.open(cluster, 1, xia, "away", positions={conv: (got or [0])[-1]})
    for peer in (live, away):
        await peer.event(conv, log.head)
    assert live.stream(conv) == log.seen
    assert got + away.stream(conv) == log.seen


async def test_added_again_while_the_bus_is_deaf(deaf_cluster: Cluster) -> None:
    """I6: a removal and the return, both lost by the bus, whatever of it is noticed first: the session goes on to be live."""
    owner, there = await Peer.open(deaf_cluster, 0, "yan"), await Peer.open(deaf_cluster, 1, "xia")
    conv = (await owner.ask("create", title="g", members=["xia"]))["conv"]
    await there.event(conv, 1)
    for seq in range(2, 14, 4):
        await owner.ask("remove", conv=conv, users=["xia"])
        await owner.say(conv, "not for xia")
        await owner.ask("add", conv=conv, users=["xia"])
        await owner.say(conv, "for xia")
        await there.event(conv, seq + 3)
    assert there.stream(conv) == [1, 2, 4, 5, 6, 8, 9, 10, 12, 13]
