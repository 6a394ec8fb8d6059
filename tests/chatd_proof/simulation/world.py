"""One run of the simulation: nodes, clients, what they have to say, and what goes wrong, all drawn from the seed.

For ACTIVE_SECONDS everything is said and everything goes wrong; then all is healed, and within SETTLE_SECONDS everybody has
to have everything. The judge is ``checker``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

import trio
from trio.testing import memory_stream_pair

from chatd.adapters.sqlite.store import open_store
from chatd.config import Config, load
from chatd.conversations.operations import Appended, CreateGroup, DeviceOpened, OpenDevice
from chatd.limits.limiter import Limiter
from chatd_proof.checker import check
from chatd_proof.client import Client, Plan, settle
from chatd_proof.history import Record, Settled
from chatd_proof.logs import read_logs
from chatd_proof.simulation.determinism import EPOCH_NS, run_seeded
from chatd_proof.simulation.disk import Disk
from chatd_proof.simulation.exchange import LATENCY_SECONDS, Exchange
from chatd_proof.simulation.node import SimulatedNode
from chatd_proof.simulation.shared import SimulatedRedis
from chatd_proof.verdict import Verdict

ACTIVE_SECONDS = 12.0
SETTLE_SECONDS = 90.0
QUIET_SECONDS = 5.0
"""Longer than repair takes."""
SCRATCH = "/dev/shm"

@dataclass
class Outcome:
    """What came of a seed. ``complaints``: who has not come to rest in time, and answers that no client expects."""

    seed: int
    verdict: Verdict
    records: list[Record]
    faults: Counter[str]
    complaints: list[str]

    @property
    def good(self) -> bool:
        """Whether every promise was kept, and shown to be."""
        return self.verdict.proven and not self.complaints


@dataclass
class World:
    """The state of one run."""

    random: Random
    path: Path
    config: Config
    records: list[Record] = field(default_factory=list)
    nodes: list[SimulatedNode] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    """By conversation: what new members see of it, `all` or `since_join`."""
    happened: Counter[str] = field(default_factory=Counter)
    settling: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.disk = Disk(self.random)
        self.exchange = Exchange(self.random)
        self.redis = SimulatedRedis(self.random)

    def alive(self) -> list[SimulatedNode]:
        return [node for node in self.nodes if node.alive]

    def limiters(self) -> list[Limiter]:
        return [node.core.limiter for node in self.alive() if node.core is not None]

    async def connect(self) -> tuple[trio.abc.Stream, bytes] | None:
        """To any node, as a load balancer does."""
        await trio.lowlevel.checkpoint()
        if not (alive := self.alive()):
            return None
        ours, theirs = memory_stream_pair()
        self.random.choice(alive).accept(theirs)
        return ours, b""

    async def start_node(self, nursery: trio.Nursery) -> None:
        node = SimulatedNode(self.config, self.path, self.disk, self.exchange, self.redis, self.random)
        self.nodes.append(node)
        await nursery.start(node.run)


# --- what goes wrong ------------------------------------------------------------------------------


async def _crash(world: World, nursery: trio.Nursery, seconds: float) -> None:
    if world.alive():
        node = world.random.choice(world.alive())
        node.kill()
        world.nodes.remove(node)
        await trio.sleep(seconds)
        await world.start_node(nursery)


async def _cut(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery, seconds
    streams = [stream for node in world.alive() for stream in node.streams]
    for stream in world.random.sample(streams, k=min(len(streams), world.random.randint(1, 4))):
        await trio.aclose_forcefully(stream)


async def _bus_loses(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    world.exchange.dropped = world.random.choice((0.05, 0.5, 1.0))
    await trio.sleep(seconds)
    world.exchange.dropped = 0.0


async def _bus_repeats(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    world.exchange.repeated = world.random.random()
    await trio.sleep(seconds)
    world.exchange.repeated = 0.0


async def _bus_reorders(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    world.exchange.late = world.random.random()
    await trio.sleep(seconds)
    world.exchange.late = 0.0


async def _bus_down(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    cut = [node.bus for node in world.alive() if node.bus is not None and node.bus.up]
    cut = world.random.sample(cut, k=world.random.randint(0, len(cut)))
    for bus in cut:
        bus.cut()
    await trio.sleep(seconds)
    for bus in cut:
        bus.mend()


async def _disk_fails(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    world.disk.failing = world.random.choice((0.1, 0.5, 1.0))
    await trio.sleep(seconds)
    world.disk.failing = 0.0


async def _disk_slow(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    world.disk.pause_seconds = world.random.choice((0.05, 0.5, 2.0))
    await trio.sleep(seconds)
    world.disk.pause_seconds = world.disk.usual_seconds


async def _redis_away(world: World, nursery: trio.Nursery, seconds: float) -> None:
    del nursery
    world.redis.away = True
    for limiter in world.limiters():
        limiter.link_down()
    await trio.sleep(seconds)
    world.redis.away = False
    for limiter in world.limiters():
        limiter.link_up()
    for board in world.redis.boards:
        board.on_lost()


async def _redis_forgets(world: World, nursery: trio.Nursery, seconds: float) -> None:
    """Flushed, and for a while the answers to some calls are lost: leases lapse, and are granted that nobody knows of."""
    del nursery
    world.redis.forget()
    world.redis.lost = world.random.random()
    await trio.sleep(seconds)
    world.redis.lost = 0.0


FAULTS = {
    "crash": _crash, "cut": _cut, "bus_loses": _bus_loses, "bus_repeats": _bus_repeats, "bus_reorders": _bus_reorders,
    "bus_down": _bus_down, "disk_fails": _disk_fails, "disk_slow": _disk_slow, "redis_away": _redis_away,
    "redis_forgets": _redis_forgets,
}  # fmt: skip


# --- what is done ---------------------------------------------------------------------------------


async def _prepare(world: World, users: Sequence[str]) -> None:
    """The users and their groups, in the store."""
    async with open_store(world.path) as store:
        now = EPOCH_NS // 10**6
        opened = await store.commit([OpenDevice(user=user, device="maker", create_user=True) for user in users], now)
        authors = [outcome.author for outcome in opened if isinstance(outcome, DeviceOpened)]
        for number in range(world.random.randint(1, 3)):
            members = [user for user in users if world.random.random() < 0.7]
            history: Literal["all", "since_join"] = "all" if world.random.random() < 0.5 else "since_join"
            (made,) = await store.commit(
                [CreateGroup(author=authors[0], title=str(number), members=tuple(members), history=history)], now
            )
            assert isinstance(made, Appended)
            world.groups[made.conv] = history


def _things_to_say(world: World, user: str, users: Sequence[str], number: int) -> deque[dict[str, Any]]:
    """To groups, also those that one is not in, and to others; each says something that nobody else does."""
    random = world.random
    say: deque[dict[str, Any]] = deque()
    for turn in range(random.randint(4, 25)):
        what = random.random()
        body = f"{user}.{number}.{turn}"
        if what < 0.65:
            say.append({"t": "send", "to": random.choice(list(world.groups)), "body": body})
        elif what < 0.85:
            say.append({"t": "send", "to": f"@{random.choice(users)}", "body": body})
        elif what < 0.95:
            say.append({"t": "edit", "body": body})
        else:
            say.append({"t": "delete"})
    return say


def _make_clients(world: World, users: Sequence[str]) -> None:
    random = world.random
    for user in users:
        for number in range(random.choice((1, 1, 2))):
            plan = Plan(
                _things_to_say(world, user, users, number), by_positions=random.random() < 0.6,
                pause=random.choice((0.01, 0.2, 1.0)), stays=random.choice((0.5, 5.0, 60.0)),
                vanishes=random.choice((0.0, 0.5)),
            )  # fmt: skip
            client = Client(
                user, f"d{number}", plan, random, world.connect, partial(str, user), world.records.append, world.settling,
                latency=LATENCY_SECONDS,
            )  # fmt: skip
            world.clients.append(client)


async def _move_members(world: World, users: Sequence[str]) -> None:
    """The owner's first device adds and removes others."""
    owner = world.clients[0]
    while True:
        await trio.sleep(world.random.expovariate(1.0))
        conv = world.random.choice(list(world.groups))
        others = [user for user in users if user != owner.user]
        await owner.ask(world.random.choice(("add", "remove")), conv, [world.random.choice(others)])


async def _disturb(world: World, faults: trio.Nursery, nodes: trio.Nursery) -> None:
    for _ in range(world.random.randint(0, 8)):
        await trio.sleep(world.random.random() * ACTIVE_SECONDS / 4)
        name = world.random.choice(list(FAULTS))
        world.happened[name] += 1
        faults.start_soon(FAULTS[name], world, nodes, world.random.random() * 4)


async def _run(world: World, random: Random) -> list[str]:
    """Everything but the judgement; the complaints."""
    users = [f"u{number}" for number in range(random.randint(2, 5))]
    await _prepare(world, users)
    _make_clients(world, users)
    async with trio.open_nursery() as nodes:
        for _ in range(random.randint(1, 3)):
            await world.start_node(nodes)
        async with trio.open_nursery() as clients:
            for client in world.clients:
                clients.start_soon(client.run)
            async with trio.open_nursery() as faults:  # their end is the end of all that was disturbed
                faults.start_soon(_disturb, world, faults, nodes)
                with trio.move_on_after(ACTIVE_SECONDS):
                    await _move_members(world, users)
            world.settling.set()
            complaints = await settle(world.clients, SETTLE_SECONDS, QUIET_SECONDS)
            world.records.append(Settled(trio.current_time()))
            clients.cancel_scope.cancel()
        for node in list(world.nodes):
            node.kill()
    world.records += [record async for record in read_logs(world.path, world.groups)]
    return complaints + [fault for client in world.clients for fault in client.faults]


def simulate(seed: int) -> Outcome:
    """One run, and its verdict. Raises what is raised in a node: a bug."""
    with TemporaryDirectory(dir=SCRATCH if Path(SCRATCH).is_dir() else None, prefix="chatd-simulation-") as scratch:
        config = load(None, {}, {})
        made: list[World] = []

        async def main(random: Random) -> list[str]:
            world = World(random, Path(scratch) / "chatd.db", config)
            made.append(world)
            return await _run(world, random)

        complaints = run_seeded(seed, main)
    world = made[0]
    verdict = check(world.records)
    verdict.source = f"seed {seed}"
    return Outcome(seed, verdict, world.records, world.happened, complaints)

