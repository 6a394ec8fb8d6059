"""The limits of this node: who may do what now, decided here, and settled with the other nodes in the background.

Owns the leases of the users who have sessions here (``lease.Lease``: most checks are an integer less, and ask nobody);
what is known of addresses is in ``addresses``. ``run`` reports leases in batches: those that are low, those that are
due, and those that were given up. Nothing on the way of a message waits for it. A new session waits for its user's first
answer, an address's attempt for the shared counter, each at most ASK_SECONDS.

Mailbox: leases that want to report, each at most once, so as many as there are users with sessions, with three for each;
given-up balances MAX_RELEASES, beyond which they expire by themselves. Ends when cancelled.

Redis away: users' leases go on alone and addresses are counted here, both bounded by the same rules on this node: what a
user's last session here leaves is what the next one begins with, for the last ``max_keys`` leases. Logged once; after 5
failures Redis is left alone for 30 s (``breaker``), or until its link is made anew.
"""

from __future__ import annotations

import heapq
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import count, islice
from typing import TypeVar

import structlog
import trio

from chatd.limits.addresses import AddressLimits, Verdict
from chatd.limits.breaker import OPEN_SECONDS, Breaker
from chatd.limits.bucket import DEFAULT_MAX_KEYS, address_key
from chatd.limits.lease import Lease
from chatd.limits.port import LEASE_SECONDS, Grant, Report, Rule, SharedDown, SharedLimits
from chatd.limits.rules import ADDRESS_OPERATIONS, USER_OPERATIONS, Operation, State, Tiers, state_of
from chatd.ops.metrics import Metrics

ASK_SECONDS = 0.5
BATCH = 100
"""Buckets in one call: some 0.5 ms of the server's only thread, which everybody else waits for."""
RENEW_SECONDS = LEASE_SECONDS / 3
"""A lease that lasts longer, as long in proportion."""
SWEEP_SECONDS = 5.0
RETRY_SECONDS = 0.2
"""From a failure to the next try."""
MAX_RELEASES = 20_000
MAX_UNKNOWN_TIERS = 100

log = structlog.get_logger()
T = TypeVar("T")


class UserLimits:
    """One user's limits on this node, shared by the user's sessions here. Made by ``Limiter.enter``. ``seldom``: the leases
    of what is asked seldom, made when it is. ``look_at``: before then no lease is due."""

    __slots__ = ("look_at", "messages", "requests", "seldom", "sessions", "tier", "user")

    def __init__(self, user: str, tier: str, messages: Lease, requests: Lease) -> None:
        self.user = user
        self.tier = tier
        self.sessions = 0
        self.messages = messages
        self.requests = requests
        self.seldom: dict[Operation, Lease] | None = None
        self.look_at = 0.0

    @property
    def leases(self) -> dict[Operation, Lease]:
        """All that there are now."""
        return {Operation.MESSAGES: self.messages, Operation.REQUESTS: self.requests, **(self.seldom or {})}


class Limiter:
    """One node's. Without ``connect`` everything is decided here, as by the only node. ``clock`` is in seconds."""

    def __init__(
        self, tiers: Tiers, metrics: Metrics, *, clock: Callable[[], float] = trio.current_time,
        max_keys: int = DEFAULT_MAX_KEYS,
    ) -> None:  # fmt: skip
        self.tiers = tiers
        self._metrics = metrics
        self._shared: SharedLimits | None = None
        self._clock = clock
        self._node = secrets.token_hex(8)
        self._number = count(1)
        self._breaker = Breaker()
        self._away = True  # until the link is up, nobody waits for it
        self._flying: list[Lease] = []
        self._users: dict[str, UserLimits] = {}
        self._low: dict[Lease, None] = {}
        self._later: list[tuple[float, int, Lease, bool]] = []
        self._order = count()
        self._releases: list[Report] = []
        self._first: dict[Lease, trio.Event] = {}
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._max_left = max_keys
        self._bell = trio.Event()
        self._need_report = self._need  # one for all leases
        self._addresses = AddressLimits(
            tiers.address, clock, self._ask, lambda: self._breaker.wait(clock()), max_keys=max_keys
        )
        self._unknown_tiers: set[str] = set()
        self.failures = 0
        self.reports = 0

    def connect(self, shared: SharedLimits) -> None:
        """Share the limits from now on: before ``run``, once. ``shared`` tells ``link_up`` and ``link_down``."""
        self._shared = shared

    # --- users ----------------------------------------------------------------------------------

    @property
    def leases(self) -> int:
        """How many there are."""
        return sum(len(limits.leases) for limits in self._users.values())

    @property
    def skipping(self) -> bool:
        """Whether the breaker keeps Redis out."""
        return self._breaker.opened

    def enter(self, user: str, tier: str) -> UserLimits:
        """A session of the user begins: its limits, by the newest session's tier. Give them back with ``leave``."""
        if not self.tiers.knows(tier) and tier:
            self._tell_unknown(tier)
        rules = self.tiers.of(tier)
        limits = self._users.get(user)
        if limits is None:
            messages, requests = (self._lease(op, user, rules[op]) for op in (Operation.MESSAGES, Operation.REQUESTS))
            limits = self._users[user] = UserLimits(user, tier, messages, requests)
            self._need(messages)
            self._need(requests)
        elif limits.tier != tier:
            limits.tier = tier
            for operation, lease in limits.leases.items():
                lease.change_rule(rules[operation], self._clock())
        limits.sessions += 1
        return limits

    def leave(self, limits: UserLimits) -> None:
        """The session has ended. With the user's last one here, what is left goes back to the other nodes."""
        limits.sessions -= 1
        if limits.sessions:
            return
        del self._users[limits.user]
        for lease in limits.leases.values():
            lease.closed = True
            self._low.pop(lease, None)
            if (waiting := self._first.pop(lease, None)) is not None:
                waiting.set()
            if not lease.shared:
                self._keep(lease)
            elif lease not in self._flying:
                self._release(lease)

    def _keep(self, lease: Lease) -> None:
        """No other node knows what was spent of it: a user who comes back must not begin with a full bucket."""
        now = self._clock()
        self._left[lease.key] = (lease.remaining(now), now)
        if len(self._left) > self._max_left:
            self._left.popitem(last=False)

    async def ready(self, limits: UserLimits) -> None:
        """Wait until the limits are those of all nodes; no longer than ASK_SECONDS, and not at all while Redis is away.
        Cancelling is safe."""
        with trio.move_on_after(ASK_SECONDS):
            for lease in limits.leases.values():
                await self._answered(lease)

    async def take(self, limits: UserLimits, operation: Operation) -> float:
        """``Lease.take`` for what is asked seldom, and by who may wait: its lease is made with the first call."""
        lease = limits.leases.get(operation)
        if lease is None:
            lease = self._lease(operation, limits.user, self.tiers.of(limits.tier)[operation])
            limits.seldom = {**(limits.seldom or {}), operation: lease}
            limits.look_at = 0.0
            self._need(lease)
        with trio.move_on_after(ASK_SECONDS):
            await self._answered(lease)
        wait = lease.take(self._clock())
        if wait:
            self.refused(operation)
        return wait

    def refused(self, operation: Operation) -> None:
        """Count a refusal."""
        limited = self._metrics.limited
        limited[operation.value] = limited.get(operation.value, 0) + 1

    async def user_states(self, user: str, tier: str) -> list[State]:
        """How the limits of a user stand, over all nodes as far as they have reported. Cancelling is safe."""
        limits = self._users.get(user)
        rules = self.tiers.of(limits.tier if limits is not None else tier)
        leases: Mapping[Operation, Lease] = {} if limits is None else limits.leases
        asked = [(_key(operation, user), rules[operation]) for operation in USER_OPERATIONS]
        shared = self._shared
        found = None if shared is None else await self._ask(lambda: shared.peek(asked))
        now, states = self._clock(), []
        for place, operation in enumerate(USER_OPERATIONS):
            lease = leases.get(operation)
            if found is not None:
                tokens = found[place] - (lease.unreported if lease is not None else 0)
            else:
                tokens = lease.remaining(now) if lease is not None else rules[operation].burst
            states.append(state_of(operation, rules[operation], tokens))
        return states

    def _lease(self, operation: Operation, user: str, rule: Rule) -> Lease:
        lease = Lease(_key(operation, user), rule, self._need_report)
        if (left := self._left.pop(lease.key, None)) is not None:
            tokens, at = left
            now = self._clock()
            lease.begin_with(tokens + max(0.0, now - at) * rule.rate_per_s, now)
        return lease

    def _tell_unknown(self, tier: str) -> None:
        if len(self._unknown_tiers) < MAX_UNKNOWN_TIERS and tier not in self._unknown_tiers:
            self._unknown_tiers.add(tier)
            log.warning("limits.tier_unknown", tier=tier)

    async def _answered(self, lease: Lease) -> None:
        while not lease.shared and not self._away and not lease.closed:
            event = self._first.get(lease)
            if event is None:
                event = self._first[lease] = trio.Event()
            await event.wait()

    # --- addresses ------------------------------------------------------------------------------

    async def count(self, operation: Operation, address: str) -> Verdict:
        """Count one attempt of an address, whatever comes of it. Waits for Redis, at most ASK_SECONDS. Cancelling leaves
        it unknown whether it was counted."""
        verdict = await self._addresses.count(operation, address_key(address), self._shared)
        if verdict.wait_s > 0:
            self.refused(operation)
        return verdict

    def exhausted(self, operation: Operation, address: str) -> bool:
        """Whether it is known here, asking nobody, that ``count`` would refuse the next attempt. Nothing is counted."""
        return self._addresses.exhausted(operation, address)

    async def address_states(self, address: str) -> list[State]:
        """How the limits of an address stand; nothing is counted. Cancelling is safe."""
        key = address_key(address)
        return [await self._addresses.state(operation, key, self._shared) for operation in ADDRESS_OPERATIONS]

    # --- Redis ----------------------------------------------------------------------------------

    def link_up(self) -> None:
        """The link is up and the functions are loaded: Redis may be asked again, whatever was before."""
        self._breaker.probe(self._clock())
        self._rejoin()
        self._low.update((lease, None) for lease in self._all_leases())
        self._bell.set()

    def link_down(self) -> None:
        """The link has broken."""
        self._go_alone("the link has broken")

    async def run(self) -> None:
        """Report what is due, until cancelled."""
        sweep_at = self._clock() + SWEEP_SECONDS
        while self._shared is not None:
            now = self._clock()
            if now >= sweep_at:
                sweep_at = now + SWEEP_SECONDS
                self._low.update((lease, None) for lease in self._due(now))
            while self._later and self._later[0][0] <= now:
                _, _, lease, top_up = heapq.heappop(self._later)
                if top_up:
                    lease.topping_up = False
                self._put(lease)
            pause = sweep_at - now
            if self._low or self._releases:
                if not (wait := self._breaker.wait(now)):
                    await self._report(now)
                    continue
                pause = min(pause, wait)
            elif self._later:
                pause = min(pause, self._later[0][0] - now)
            self._bell = trio.Event()
            with trio.move_on_after(pause):
                await self._bell.wait()

    def _all_leases(self) -> Iterator[Lease]:
        for limits in self._users.values():
            yield from limits.leases.values()

    def _due(self, now: float) -> Iterator[Lease]:
        for limits in self._users.values():
            if limits.look_at <= now:
                leases = limits.leases.values()
                for lease in leases:
                    if now >= _renew_at(lease):
                        yield lease
                limits.look_at = min(map(_renew_at, leases))

    def _need(self, lease: Lease) -> None:
        """A lease wants to report: now, or when it may."""
        if self._shared is None:
            return
        if lease.not_before > self._clock():
            heapq.heappush(self._later, (lease.not_before, next(self._order), lease, False))
        else:
            self._put(lease)
        self._bell.set()

    def _put(self, lease: Lease) -> None:
        if not lease.closed:
            self._low[lease] = None

    def _release(self, lease: Lease) -> None:
        if len(self._releases) < MAX_RELEASES:
            self._releases.append(lease.report(self._clock(), release=True))
            self._bell.set()

    async def _report(self, now: float) -> None:
        """One call, for the first of those who want."""
        shared = self._shared
        assert shared is not None, "asked by the caller"
        releases, self._releases = self._releases[:BATCH], self._releases[BATCH:]
        self._flying = list(islice(self._low, BATCH - len(releases)))
        for lease in self._flying:
            del self._low[lease]
        # What is given up goes first: its user may be back already, with a lease that must not be deleted by it.
        reports = releases + [lease.report(now) for lease in self._flying]
        grants = await self._ask(lambda: shared.lease(self._node, next(self._number), reports))
        flown, self._flying = self._flying, []
        if grants is None:
            self._low.update((lease, None) for lease in flown if not lease.closed)
            await trio.sleep(RETRY_SECONDS)
            return
        self.reports += len(reports)
        self._settle(flown, grants[len(releases) :])

    def _settle(self, leases: list[Lease], grants: list[Grant]) -> None:
        now = self._clock()
        for lease, grant in zip(leases, grants, strict=True):
            lease.granted(grant, now)
            if (owner := self._users.get(_user_of(lease.key))) is not None:
                owner.look_at = min(owner.look_at, _renew_at(lease))  # what had rested may now be lent for less
            if (event := self._first.pop(lease, None)) is not None:
                event.set()
            if lease.closed:
                self._release(lease)
            elif not lease.topping_up and (when := lease.top_up_at(now)) is not None:
                lease.topping_up = True
                heapq.heappush(self._later, (when, next(self._order), lease, True))

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """What Redis answers, or None when it does not, or is not to be asked."""
        began = self._clock()
        if not self._breaker.allows(began):
            return None
        try:
            answer = await call()
        except SharedDown as fault:
            self.failures += 1
            self._go_alone(str(fault))
            if self._breaker.failed(self._clock()):
                log.warning("limits.redis_skipped", seconds=OPEN_SECONDS)
            return None
        self._metrics.limit_seconds.observe(self._clock() - began)
        self._breaker.succeeded()
        self._rejoin()
        return answer

    def _go_alone(self, reason: str) -> None:
        """Go on alone. Every lease, those in flight too: what was asked for them is not known to come."""
        if self._away:
            return
        self._away = True
        log.warning("limits.redis_away", reason=reason)
        now = self._clock()
        self._later.clear()
        for lease in self._all_leases():
            lease.lost(now)
            self._low[lease] = None
        waiting, self._first = self._first, {}
        for event in waiting.values():
            event.set()
        self._bell.set()

    def _rejoin(self) -> None:
        if self._away:
            self._away = False
            self._left.clear()
            self._addresses.redis_back()
            log.info("limits.redis_back")
            self._bell.set()


def _renew_at(lease: Lease) -> float:
    """When to report at the latest."""
    return lease.reported_at + RENEW_SECONDS * (lease.seconds / LEASE_SECONDS) if lease.shared else 0.0


def _key(operation: Operation, user: str) -> str:
    return f"{operation.value}:{user}"


def _user_of(key: str) -> str:
    return key.partition(":")[2]
