"""The presence board on a real Valkey: leases, what is told, and a server that forgets everything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import trio

from chatd.adapters.redis.presence import RedisBoard
from chatd.adapters.valkey import EmbeddedValkey
from chatd.presence.port import BoardDown, Entry, Lease


class Node:
    """One node's board, and what it was told."""

    def __init__(self, server: EmbeddedValkey, name: str, nursery: trio.Nursery, expiry: float = 60.0) -> None:
        self.told: list[tuple[str, Lease]] = []
        self.lost = 0
        self.changed = trio.Event()
        self.board = RedisBoard(server.url, name, self._told, self._lost, expiry=expiry)
        nursery.start_soon(self.board.run)

    def _told(self, user: str, lease: Lease) -> None:
        self.told.append((user, lease))
        self._change()

    def _lost(self) -> None:
        self.lost += 1
        self._change()

    def _change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not condition():
                await self.changed.wait()


@pytest.fixture
async def nodes(server: EmbeddedValkey, nursery: trio.Nursery) -> list[Node]:
    """Two nodes, both connected."""
    made = [Node(server, name, nursery) for name in ("aa", "bb")]
    for node in made:
        await node.until(lambda node=node: node.board.up)
    return made


def said(leases: list[list[Lease]]) -> list[list[tuple[str, int, int]]]:
    assert all(0 < lease.left <= 60 for found in leases for lease in found)
    return [[(lease.node, lease.status, lease.seen) for lease in found] for found in leases]


async def test_leases_are_there_for_the_others(nodes: list[Node]) -> None:
    """What one node puts another reads, in the order that was asked for, more than one batch of it; offline, too."""
    one, other = nodes
    await one.board.put([Entry(f"u{n}", 1 + n % 2, n) for n in range(250)], tell=False)
    await other.board.put([Entry("u1", 1, 0)], tell=False)
    names = [f"u{n}" for n in range(249, -1, -1)]
    assert said(await other.board.read([*names, "nobody"])) == [[("aa", 1 + n % 2, n)] for n in range(249, -1, -1)] + [[]]
    assert said(await one.board.read(["u1", "u2"])) == [[("bb", 1, 0)], []]
    await one.board.put([Entry("u3", 0, 9)], tell=False)
    assert said(await other.board.read(["u3", "u4"])) == [[("aa", 0, 9)], [("aa", 1, 4)]]


async def test_who_listens_is_told(nodes: list[Node]) -> None:
    """Changes, not renewals; of whom one listens for, and not what one said oneself."""
    one, other = nodes
    await one.board.listen(["ann"])
    await other.board.listen(["ann", "bob"])
    other.board.unlisten(["bob"])
    await one.board.put([Entry("ann", 1, 3), Entry("bob", 2, 4)], tell=False)
    await one.board.put([Entry("bob", 2, 4), Entry("ann", 2, 5), Entry("ann", 0, 6)], tell=True)
    await other.until(lambda: len(other.told) >= 2)
    assert other.told == [("ann", Lease("aa", 2, 5, 60.0)), ("ann", Lease("aa", 0, 6, 60.0))]
    assert one.told == []


async def test_a_lease_ends_by_itself(server: EmbeddedValkey, nodes: list[Node], nursery: trio.Nursery) -> None:
    """By the server's clock, though another node's lease keeps the user's hash."""
    dying = Node(server, "cc", nursery, expiry=0.2)
    await dying.until(lambda: dying.board.up)
    await dying.board.put([Entry("ann", 2, 1)], tell=False)
    await nodes[0].board.put([Entry("ann", 1, 1)], tell=False)
    with trio.fail_after(20):
        while said(await nodes[1].board.read(["ann"])) != [[("aa", 1, 1)]]:
            await trio.lowlevel.checkpoint()


async def test_a_flush_is_noticed(server: EmbeddedValkey, nodes: list[Node]) -> None:
    """Each node finds out with its next call, whatever that is, and is told so once."""
    for node in nodes:
        await node.board.put([Entry("ann", 2, 1)], tell=False)
    before = [node.lost for node in nodes]
    await nodes[0].board._link.call("FLUSHALL")
    await nodes[1].board.read(["ann"])
    await nodes[0].board.put([Entry("ann", 2, 1)], tell=False)
    await nodes[1].board.put([Entry("ann", 2, 1)], tell=False)
    await nodes[1].board.read(["ann"])
    assert [node.lost for node in nodes] == [before[0] + 1, before[1] + 1]


async def test_the_server_goes_and_comes(server: EmbeddedValkey, nodes: list[Node]) -> None:
    """While it is away every call says so at once; when it is back, who listened listens again, and the loss is told."""
    one, other = nodes
    await other.board.listen(["ann"])
    lost = other.lost
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    with trio.fail_after(20):
        while one.board.up:
            await trio.lowlevel.checkpoint()
    with pytest.raises(BoardDown):
        await one.board.put([Entry("ann", 2, 1)], tell=True)
    await other.until(lambda: other.board.up and other.lost > lost)
    with trio.fail_after(20):
        while not other.told:
            try:
                await one.board.put([Entry("ann", 2, 1)], tell=True)
            except BoardDown:
                await trio.lowlevel.checkpoint()
    assert other.told[0][0] == "ann"


async def test_what_is_not_ours_is_left_out(nodes: list[Node]) -> None:
    """Somebody else's values in Redis, of any shape, are neither leases nor a reason to fail."""
    one, other = nodes
    call = one.board._link.call
    await other.board.listen(["ann"])
    for value in ("", "x", "9" * 30 + ":3:1", "9999999999999:2:-1", "9999999999999:2:1:1", "9999999999999:1:5"):
        await call("HSET", "chatd:p:ann", f"node{len(value)}", value)
    for message in ("", "a:b", "zz:1000:7:1", "zz:1000:1:99999999999999999999", "zz:1000:1:5"):
        await call("PUBLISH", "chatd:p:ann", message)
    await other.until(lambda: bool(other.told))
    assert other.told == [("ann", Lease("zz", 1, 5, 1.0))]
    assert other.board.forged == 4
    assert [(lease.status, lease.seen) for lease in (await other.board.read(["ann"]))[0]] == [(1, 5)]
    await call("SET", "chatd:p:bob", "a string")
    with pytest.raises(BoardDown):
        await other.board.read(["bob"])
