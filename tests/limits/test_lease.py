"""Leases against a model of the shared bucket: in no time do all nodes together let more through than the limit says.

The model does what the port promises, in plain words; ``test_redis_limits`` holds the real one to the same bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.limits.lease import Lease
from chatd.limits.port import LEASE_SECONDS, Grant, Report, Rule

GRANT_SHARE = 0.75


@dataclass
class Bucket:
    """The shared bucket of one key."""

    rule: Rule
    x: float
    at: float = 0.0
    records: dict[str, tuple[int, float]] = field(default_factory=dict)

    def lease(self, node: str, report: Report, now: float) -> Grant:
        lent = sum(tokens for tokens, _ in self.records.values())
        self.x = min(self.rule.burst - lent, self.x + (now - self.at) * self.rule.rate_per_s)
        self.at = now
        self.records = {name: record for name, record in self.records.items() if record[1] > now}
        record = self.records.pop(node, None)
        balance, give = (report.balance, report.give) if record is not None else (0, 0)
        self.x += give
        granted = min(report.want, max(1, int(self.x * GRANT_SHARE))) if self.x >= 1 else 0
        self.x -= granted
        if not report.release:
            self.records[node] = (balance + granted, now + LEASE_SECONDS)
        return Grant(record is not None, granted, self.x, len(self.records) or 1)


class World:
    """Some nodes with a lease each on one bucket, and what they let through."""

    def __init__(self, rule: Rule, nodes: int) -> None:
        self.rule = rule
        self.bucket = Bucket(rule, rule.burst)
        self.now = 0.0
        self.leases = [self.fresh() for _ in range(nodes)]
        self.under_way: list[Report | None] = [None] * nodes
        self.passed: list[float] = []
        for node in range(nodes):
            self.send(node)
            self.answer(node)

    def fresh(self) -> Lease:
        return Lease("k", self.rule, lambda _lease: None)

    def take(self, node: int, times: int) -> None:
        for _ in range(times):
            if self.leases[node].take(self.now) == 0.0:
                self.passed.append(self.now)

    def send(self, node: int) -> None:
        """The report leaves the node, and what was on its way before is lost."""
        self.under_way[node] = self.leases[node].report(self.now)

    def answer(self, node: int) -> None:
        """Redis carries it out, and the answer arrives."""
        report = self.under_way[node]
        if report is not None:
            self.leases[node].granted(self.bucket.lease(str(node), report, self.now), self.now)
        self.under_way[node] = None

    def swallow(self, node: int) -> None:
        """Redis carries it out, and the answer is lost."""
        report = self.under_way[node]
        if report is not None:
            self.bucket.lease(str(node), report, self.now)
        self.under_way[node] = None

    def return_all(self, node: int) -> None:
        """The user's last session there ends, and another one begins."""
        self.bucket.lease(str(node), self.leases[node].report(self.now, release=True), self.now)
        self.leases[node] = self.fresh()
        self.under_way[node] = None
        self.send(node)
        self.answer(node)

    def worst(self) -> float:
        """The most that was let through above burst + rate x time, over every window there is."""
        worst = 0.0
        for first, since in enumerate(self.passed):
            for last in range(first, len(self.passed)):
                allowed = self.rule.burst + self.rule.rate_per_s * (self.passed[last] - since)
                worst = max(worst, last - first + 1 - allowed)
        return worst


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["take", "take", "take", "send", "answer", "answer", "swallow", "return", "wait", "sleep"]),
        st.integers(1, 12),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([(1.0, 1), (5.0, 3), (2.0, 10), (20.0, 40)]))
def test_no_more_than_the_limit_over_all_nodes(steps: list[tuple[int, str, int]], limit: tuple[float, int]) -> None:
    """Reports that come late, are carried out without an answer, or never leave; leases that expire; nodes that give
    all back: over every window there is, all together stay within burst + rate x time."""
    world = World(Rule(*limit), 3)
    for node, step, n in steps:
        match step:
            case "take":
                world.take(node, n)
            case "wait":
                world.now += n / 10
            case "sleep":
                world.now += n * 7.0
            case "return":
                world.return_all(node)
            case _:
                getattr(world, step)(node)
    assert world.worst() <= 1e-6


def settle(world: World, seconds: float, each: float = 0.05, demand: int = 50) -> None:
    """Everybody wants more than there is, and reports twenty times a second."""
    for _ in range(round(seconds / each)):
        for node in range(len(world.leases)):
            world.take(node, demand)
            world.send(node)
            world.answer(node)
        world.now += each


def test_the_limit_is_not_only_kept_but_reached() -> None:
    """Two busy nodes get what the limit says, to the last twentieth, and each of them its part."""
    world = World(Rule(100.0, 400), 2)
    settle(world, 20.0)
    allowed = 400 + 100 * world.now
    assert 0.95 * allowed <= len(world.passed) <= allowed


def test_a_lone_node_has_its_burst_at_once() -> None:
    """Three quarters of the burst without a word to anybody, and most of the rest after the next report."""
    world = World(Rule(100.0, 400), 1)
    world.take(0, 1000)
    assert len(world.passed) == 300
    for _ in range(4):
        world.send(0)
        world.answer(0)
        world.take(0, 1000)
    assert len(world.passed) > 395


def test_a_node_that_comes_later_gets_its_share() -> None:
    """The newcomer can act at once, and after the others' next reports all hold the same."""
    world = World(Rule(10.0, 400), 3)
    assert world.leases[2].balance > 0
    for _ in range(3):
        for node in range(3):
            world.send(node)
            world.answer(node)
    assert [lease.balance for lease in world.leases] == [100, 100, 100]


def test_a_tiny_burst_is_not_held_by_who_does_not_use_it() -> None:
    """A single token goes to the node that wants it once the idle one has reported twice."""
    world = World(Rule(0.1, 1), 2)
    for _ in range(2):
        for node in range(2):
            world.send(node)
            world.answer(node)
    world.take(1, 1)
    world.send(1)
    world.answer(1)
    world.take(1, 1)
    assert len(world.passed) == 1


def test_a_refusal_says_when() -> None:
    """The wait that is told is never nothing, and not longer than it takes to gain a token."""
    world = World(Rule(2.0, 4), 1)
    world.take(0, 100)
    for _ in range(3):
        world.send(0)
        world.answer(0)
        world.take(0, 100)
    wait = world.leases[0].take(world.now)
    assert 0 < wait <= 0.5
    world.now += wait
    world.send(0)
    world.answer(0)
    assert world.leases[0].take(world.now) == 0.0


def test_without_redis_it_is_a_plain_bucket() -> None:
    """Before the first answer, and after a loss, the limit holds on this node; what was held is kept, and no more."""
    lease = Lease("k", Rule(10.0, 20), lambda _lease: None)
    assert [lease.take(0.0) for _ in range(20)] == [0.0] * 20
    assert lease.take(0.0) > 0
    world = World(Rule(10.0, 20), 1)
    world.take(0, 10)
    world.leases[0].lost(0.0)
    world.take(0, 100)
    assert len(world.passed) == 15
    world.now = 1.0
    world.take(0, 100)
    assert len(world.passed) == 25


def test_a_lease_that_has_expired_is_not_spent() -> None:
    """A node that could not report for a minute stops before the others are given what it had."""
    world = World(Rule(10.0, 40), 2)
    for _ in range(13):
        world.now += 5.0
        world.send(0)
        world.answer(0)
    assert list(world.bucket.records) == ["0"]
    settled = world.worst()
    for _ in range(10):
        world.take(0, 100)
        world.send(0)
        world.answer(0)
    world.take(1, 100)
    assert (settled, world.worst()) == (0.0, 0.0)
    assert world.leases[1].balance == 0


def test_what_redis_has_forgotten_is_void() -> None:
    """After a flush the balance is what is lent anew, less what was spent while the question was on its way."""
    world = World(Rule(0.001, 40), 1)
    assert world.leases[0].balance == 30
    world.bucket = Bucket(world.rule, 8)
    world.send(0)
    world.take(0, 1)
    world.answer(0)
    assert world.leases[0].balance == 0
    world.send(0)
    world.answer(0)
    assert world.leases[0].balance == 6


def test_another_tier_takes_effect() -> None:
    """A larger burst is asked for with the next report, a smaller one hands back what is too much."""
    world = World(Rule(1.0, 100), 1)
    world.leases[0].change_rule(Rule(1.0, 40), 0.0)
    report = world.leases[0].report(0.0)
    assert (report.rule.burst, report.balance, report.give) == (40, 30, 45)


def test_it_asks_once_and_in_time() -> None:
    """At half of its aim it asks, and not again before the answer."""
    asked: list[Lease] = []
    lease = Lease("k", Rule(1.0, 40), asked.append)
    bucket = Bucket(Rule(1.0, 40), 40)
    lease.granted(bucket.lease("n", lease.report(0.0), 0.0), 0.0)
    for _ in range(15):
        lease.take(0.0)
    assert asked == []
    for _ in range(20):
        lease.take(0.0)
    assert asked == [lease]
