"""What addresses may do before anybody knows who is there: sign in, sign up, connect, ask.

Each attempt is counted in Redis, in a window that all nodes share, and before that here: an address that is over the
limit on this node alone, or that Redis has refused a moment ago, costs Redis nothing. Owns what is known of addresses,
of the last DEFAULT_MAX_KEYS for each operation; the least recent is forgotten. Waits for Redis, as long as ``ask`` does.

Redis away: attempts go by the rate on this node, but sign-ins fail closed. One window's worth from an address, and then
none until Redis is back: a guesser must not gain by every node that cannot see the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from chatd.limits.bucket import Buckets, TokenBucket
from chatd.limits.port import Counted, Rule, SharedLimits
from chatd.limits.rules import Operation, State, state_of

T = TypeVar("T")

LEAST_WAIT = 1.0
"""Seconds that a sign-in is refused for while Redis does not answer, and is asked with every attempt."""


class Ask(Protocol):
    """Carries a call out, or gives None where Redis does not answer or is not to be asked."""

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T | None: ...


class Verdict:
    """What an address was told: ``wait_s`` is 0 if it may, else when to try again at the earliest; the rest is for its
    headers. ``reset_s``: when it may do all of ``limit`` again, never before it may do anything."""

    __slots__ = ("limit", "remaining", "reset_s", "wait_s")

    def __init__(self, wait_s: float, limit: int, remaining: int, reset_s: float) -> None:
        self.wait_s = wait_s
        self.limit = limit
        self.remaining = remaining
        self.reset_s = reset_s


class AddressLimits:
    """One node's. ``clock`` is in seconds; addresses are as ``bucket.address_key`` has them."""

    def __init__(
        self, rules: Mapping[Operation, Rule], clock: Callable[[], float], ask: Ask, wait: Callable[[], float], *,
        max_keys: int,
    ) -> None:  # fmt: skip
        """``wait``: seconds until Redis may be asked again."""
        self._rules = rules
        self._clock = clock
        self._ask = ask
        self._wait = wait
        self._max_keys = max_keys
        self._buckets = {
            operation: Buckets(rule.rate_per_s, rule.burst, max_keys=max_keys) for operation, rule in rules.items()
        }
        self._denied: OrderedDict[tuple[Operation, str], tuple[float, Counted]] = OrderedDict()
        self._closed: dict[str, int] = {}

    async def count(self, operation: Operation, address: str, shared: SharedLimits | None) -> Verdict:
        """Count one attempt. Without ``shared`` this is the only node. Cancelling: as the limiter's."""
        now, rule = self._clock(), self._rules[operation]
        bucket = self._buckets[operation].bucket(address)
        wait = bucket.take(now)
        if wait and shared is not None and operation is Operation.SIGN_IN and self._is_closed(address, rule):
            wait = max(wait, self._wait())
        if wait or shared is None:
            return _alone(wait, rule, bucket, now)
        if (known := self._denied_until(operation, address, now)) is not None:
            return known
        counted = await self._ask(lambda: shared.count(_key(operation, address), rule, 1))
        if counted is None:
            if operation is Operation.SIGN_IN and not self._one_more(address, rule):
                return _alone(max(LEAST_WAIT, self._wait()), rule, bucket, self._clock())
            return _alone(0.0, rule, bucket, self._clock())
        if counted.allowed:
            return Verdict(0.0, rule.burst, counted.remaining, counted.reset_ms / 1000)
        self._remember_denied(operation, address, counted)
        wait = max(1, counted.retry_ms) / 1000
        return Verdict(wait, rule.burst, counted.remaining, max(wait, counted.reset_ms / 1000))

    def exhausted(self, operation: Operation, address: str) -> bool:
        """Whether this node's own bucket is empty, or Redis has said no, and its time is not over."""
        now = self._clock()
        if self._buckets[operation].bucket(address).remaining(now) < 1:
            return True
        return self._denied_until(operation, address, now) is not None

    async def state(self, operation: Operation, address: str, shared: SharedLimits | None) -> State:
        """How the limit stands; nothing is counted. Cancelling is safe."""
        rule = self._rules[operation]
        if shared is not None:
            counted = await self._ask(lambda: shared.count(_key(operation, address), rule, 0))
            if counted is not None:
                return State(operation.value, rule.burst, counted.remaining, counted.reset_ms)
        bucket = self._buckets[operation].bucket(address)
        return state_of(operation, rule, bucket.remaining(self._clock()))

    def redis_back(self) -> None:
        """What was tried meanwhile is forgiven: from here on Redis counts."""
        self._closed.clear()

    def _denied_until(self, operation: Operation, address: str, now: float) -> Verdict | None:
        """What Redis has refused needs no second question before it would say anything else."""
        known = self._denied.get((operation, address))
        if known is None:
            return None
        at, counted = known
        wait, reset = at + counted.retry_ms / 1000 - now, at + counted.reset_ms / 1000 - now
        if wait <= 0:
            del self._denied[operation, address]
            return None
        return Verdict(wait, self._rules[operation].burst, 0, max(wait, reset))

    def _remember_denied(self, operation: Operation, address: str, counted: Counted) -> None:
        self._denied[operation, address] = (self._clock(), counted)
        self._denied.move_to_end((operation, address))
        if len(self._denied) > self._max_keys:
            self._denied.popitem(last=False)

    def _one_more(self, address: str, rule: Rule) -> bool:
        """Whether an address may try once more to sign in while nobody tells what it does at other nodes."""
        if self._is_closed(address, rule):
            return False
        self._closed[address] = self._closed.get(address, 0) + 1
        return True

    def _is_closed(self, address: str, rule: Rule) -> bool:
        tried = self._closed.get(address, 0)
        return tried >= rule.burst or (not tried and len(self._closed) >= self._max_keys)


def _key(operation: Operation, address: str) -> str:
    return f"{operation.value}:{address}"


def _alone(wait: float, rule: Rule, bucket: TokenBucket, now: float) -> Verdict:
    return Verdict(wait, rule.burst, 0 if wait else bucket.remaining(now), max(wait, bucket.full_in(now)))
