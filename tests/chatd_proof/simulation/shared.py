"""What nodes share in Redis beside the bus, simulated: rate limits' leases, and presence's board. Both may go away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import Random

import trio

from chatd.limits.port import Counted, Grant, Report, Rule, SharedDown
from chatd.presence.port import BoardDown, Entry, Lease, OnHeard, OnLost

LATENCY_SECONDS = 0.002


@dataclass
class _Bucket:
    tokens: float
    at: float
    lent: dict[str, tuple[int, float, int]] = field(default_factory=dict)
    """By node: tokens, until when, the number of the report."""


class SimulatedRedis:
    """One for all nodes. ``away``: nothing is answered. ``lost``: of how many calls the answer is."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.away = False
        self.lost = 0.0
        self.buckets: dict[str, _Bucket] = {}
        self.board: dict[str, dict[str, tuple[int, int, float]]] = {}
        self.boards: list[SimulatedBoard] = []

    def forget(self) -> None:
        """FLUSHALL."""
        self.buckets.clear()
        self.board.clear()

    async def maybe_fail(self, down: type[Exception]) -> None:
        """On the way there, or back. Raises ``down`` where no answer comes."""
        await trio.sleep(self.random.random() * LATENCY_SECONDS)
        if self.away or (self.lost and self.random.random() < self.lost):
            raise down("the simulated Redis")


class SimulatedLimits:
    """``chatd.limits.port.SharedLimits``: as ``adapters/redis/limits.lua`` does it, in a few lines."""

    up = True

    def __init__(self, redis: SimulatedRedis) -> None:
        self._redis = redis

    async def lease(self, node: str, number: int, reports: Sequence[Report]) -> list[Grant]:
        """See the port."""
        await self._redis.maybe_fail(SharedDown)
        grants = [self._grant(node, number, report) for report in reports]
        await self._redis.maybe_fail(SharedDown)
        return grants

    def _grant(self, node: str, number: int, report: Report) -> Grant:
        now, bucket = trio.current_time(), self._bucket(report.key, report.rule)
        had, _, before = bucket.lent.get(node, (0, 0.0, 0))
        if before > number:
            return Grant(False, 0, bucket.tokens, len(bucket.lent), report.seconds)
        kept = node in bucket.lent
        balance = min(report.balance, had) if kept else 0
        if kept:
            bucket.tokens += min(report.give, max(0, had - report.balance))
        granted = min(report.want, max(1, int(bucket.tokens * 0.75))) if bucket.tokens >= 1 else 0
        bucket.tokens -= granted
        bucket.lent[node] = (balance + granted, now + report.seconds, number)
        if report.release:
            del bucket.lent[node]
        return Grant(kept, granted, bucket.tokens, len(bucket.lent), report.seconds)

    def _bucket(self, key: str, rule: Rule) -> _Bucket:
        now = trio.current_time()
        bucket = self._redis.buckets.setdefault(key, _Bucket(rule.burst, now))
        lent = sum(tokens for tokens, _, _ in bucket.lent.values())
        bucket.tokens = min(rule.burst - lent, bucket.tokens + (now - bucket.at) * rule.rate_per_s)
        bucket.at = now
        bucket.lent = {node: record for node, record in bucket.lent.items() if record[1] > now}
        return bucket

    async def count(self, key: str, rule: Rule, n: int) -> Counted:
        """See the port; nobody is refused: addresses are not what is simulated."""
        await self._redis.maybe_fail(SharedDown)
        return Counted(True, rule.burst, 0, 0)

    async def peek(self, buckets: Sequence[tuple[str, Rule]]) -> list[float]:
        """See the port."""
        await self._redis.maybe_fail(SharedDown)
        return [self._bucket(key, rule).tokens for key, rule in buckets]


class SimulatedBoard:
    """``chatd.presence.port.Board``."""

    def __init__(self, redis: SimulatedRedis, node: str, on_heard: OnHeard, on_lost: OnLost, expiry: float) -> None:
        self._redis = redis
        self._node = node
        self._on_heard = on_heard
        self.on_lost = on_lost
        self._expiry = expiry
        self._listens: set[str] = set()
        redis.boards.append(self)

    @property
    def up(self) -> bool:
        """See the port."""
        return not self._redis.away

    async def put(self, entries: Sequence[Entry], *, tell: bool) -> None:
        """See the port."""
        await self._redis.maybe_fail(BoardDown)
        until = trio.current_time() + self._expiry
        for user, status, seen in entries:
            self._redis.board.setdefault(user, {})[self._node] = (status, seen, until)
            for other in self._redis.boards if tell else ():
                if other is not self and user in other._listens:
                    other._on_heard(user, Lease(self._node, status, seen, self._expiry))

    async def read(self, users: Sequence[str]) -> list[list[Lease]]:
        """See the port."""
        await self._redis.maybe_fail(BoardDown)
        now = trio.current_time()
        return [
            [
                Lease(node, status, seen, until - now)
                for node, (status, seen, until) in self._redis.board.get(user, {}).items() if until > now and node != self._node
            ]
            for user in users
        ]  # fmt: skip

    async def listen(self, users: Collection[str]) -> None:
        """See the port."""
        self._listens.update(users)
        await trio.sleep(self._redis.random.random() * LATENCY_SECONDS)

    def unlisten(self, users: Collection[str]) -> None:
        """See the port."""
        self._listens.difference_update(users)

    def leave(self) -> None:
        """The node is gone."""
        self._redis.boards.remove(self)

    async def run(self) -> None:
        """See the port."""
        await trio.sleep_forever()
