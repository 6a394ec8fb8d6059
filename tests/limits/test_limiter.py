"""The limiter: two nodes on one Valkey, and on one that is away, hangs, forgets or comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
import structlog.testing
import trio
import trio.testing

from chatd.adapters.valkey import EmbeddedValkey
from chatd.limits.breaker import OPEN_SECONDS
from chatd.limits.limiter import ASK_SECONDS, Limiter, UserLimits
from chatd.limits.port import Counted, Grant, Report, Rule, SharedDown
from chatd.limits.rules import Operation, Tiers
from chatd.ops.metrics import Metrics
from chatd.options import Limits, Tier

DEADLINE_SECONDS = 30.0
Noded = Callable[..., AbstractAsyncContextManager[Limiter]]
SLOW = Limits(messages_per_second=0.1, messages_burst=100, sign_ins_per_minute=60)
"""Gains next to nothing while a test runs."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the clock is the guard, not the measure."""
    with trio.fail_after(DEADLINE_SECONDS):
        while not condition():
            await trio.sleep(0.005)


def spend(limits: UserLimits, times: int) -> int:
    """Try so often; how many got through."""
    now = trio.current_time()
    return sum(limits.messages.take(now) == 0.0 for _ in range(times))


async def entered(limiter: Limiter, user: str = "ann", tier: str = "") -> UserLimits:
    """A session's limits, settled with the other nodes."""
    limits = limiter.enter(user, tier)
    await limiter.ready(limits)
    return limits


class Unreachable:
    """A Redis that is called and does not answer; ``calls`` of it."""

    up = True

    def __init__(self) -> None:
        self.calls = 0
        self.well = False

    async def lease(self, node: str, number: int, reports: Sequence[Report]) -> list[Grant]:
        await self._called()
        return [Grant(False, report.want, 0.0, 1) for report in reports]

    async def count(self, key: str, rule: Rule, n: int) -> Counted:
        await self._called()
        return Counted(True, rule.burst - n, 0, 1000)

    async def peek(self, buckets: Sequence[tuple[str, Rule]]) -> list[float]:
        await self._called()
        return [0.0 for _ in buckets]

    async def _called(self) -> None:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        if not self.well:
            raise SharedDown("no answer in time")


async def test_two_nodes_share_a_users_limit(server: EmbeddedValkey, noded: Noded) -> None:
    """One user on two nodes, both wanting more than there is: together at most 5 % above the limit, and nearly all of it."""
    async with noded(server.url, SLOW) as one, noded(server.url, SLOW) as other:
        passed, began = 0, trio.current_time()
        both = [await entered(one), await entered(other)]
        shares = [spend(limits, 1000) for limits in both]
        assert all(shares)
        passed = sum(shares)
        with trio.fail_after(DEADLINE_SECONDS):
            while passed < 95:
                await trio.sleep(0.01)
                passed += sum(spend(limits, 10) for limits in both)
        for _ in range(20):
            await trio.sleep(0.01)
            passed += sum(spend(limits, 10) for limits in both)
        allowed = 100 + 0.1 * (trio.current_time() - began)
        assert passed <= 1.05 * allowed


async def test_the_first_message_meets_the_shared_limit(server: EmbeddedValkey, noded: Noded) -> None:
    """What one node has let through, a session that begins on the other does not get again."""
    async with noded(server.url, SLOW) as one, noded(server.url, SLOW) as other:
        limits = await entered(one)
        passed = 0
        with trio.fail_after(DEADLINE_SECONDS):
            while passed < 98:
                passed += spend(limits, 10)
                await trio.sleep(0.005)
        assert passed + spend(await entered(other), 1000) <= 105


async def test_who_pauses_after_a_burst_has_what_was_gained(
    server: EmbeddedValkey, noded: Noded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst empties the bucket, and the lease with it. What the bucket gains while the user is idle comes here by itself:
    the next burst is not refused for want of an answer."""
    monkeypatch.setattr("chatd.limits.limiter.RENEW_SECONDS", 1000.0)
    async with noded(server.url, Limits(messages_per_second=50, messages_burst=100)) as limiter:
        limits = await entered(limiter)
        while spend(limits, 1):
            await trio.sleep(0.001)  # the limiter's turn: it fetches the rest
        spent = limiter.reports
        await until(lambda: limits.messages.balance >= 30)
        assert limiter.reports <= spent + 6
        assert spend(limits, 30) == 30


async def test_what_a_session_leaves_goes_back(server: EmbeddedValkey, noded: Noded) -> None:
    """With the user's last session on a node its unspent part is the other node's; with one that stays it is not."""
    async with noded(server.url, SLOW) as one, noded(server.url, SLOW) as other:
        first, second = await entered(one), await entered(one)
        assert first is second
        one.leave(first)
        assert one.leases == 2
        one.leave(second)
        assert one.leases == 0
        await until(lambda: not one._releases and not one._flying)
        limits = await entered(other)
        assert spend(limits, 1000) >= 75


async def test_most_checks_ask_nobody(server: EmbeddedValkey, noded: Noded) -> None:
    """A thousand messages of one user take a handful of reports."""
    async with noded(server.url, Limits(messages_per_second=1000.0, messages_burst=4000)) as limiter:
        limits = await entered(limiter)
        assert spend(limits, 1000) == 1000
        await until(lambda: not limiter._low and not limiter._flying)
        assert limiter.reports < 10


async def test_tiers(server: EmbeddedValkey, noded: Noded) -> None:
    """A tier's users have its limits; an unknown one is the default, and told once."""
    options = Limits(messages_per_second=0.1, messages_burst=8, tiers={"premium": Tier(messages_burst=800)})
    async with noded(server.url, options) as limiter:
        assert spend(await entered(limiter, "ann", "premium"), 1000) >= 600
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                limits = limiter.enter("bob", "gold")
        assert [entry["event"] for entry in logs] == ["limits.tier_unknown"]
        assert limits.messages.rule.burst == 8


async def test_addresses_share_their_counters(server: EmbeddedValkey, noded: Noded) -> None:
    """Sixty sign-ins a minute from one /64, on both nodes together; the next is refused there without asking Redis."""
    async with noded(server.url, SLOW) as one, noded(server.url, SLOW) as other:
        verdicts = []
        for number in range(60):
            node = (one, other)[number % 2]
            verdicts.append(await node.count(Operation.SIGN_IN, f"2001:db8::{number + 1:x}"))
        assert all(verdict.wait_s == 0 for verdict in verdicts)
        assert [verdict.remaining for verdict in verdicts] == list(range(59, -1, -1))
        for node in (one, other):
            assert (await node.count(Operation.SIGN_IN, "2001:db8::1")).wait_s > 0
        calls = sum(one._metrics.limit_seconds.counts)
        refused = await one.count(Operation.SIGN_IN, "2001:db8::9")
        assert (refused.wait_s > 0, refused.limit, refused.remaining) == (True, 60, 0)
        assert sum(one._metrics.limit_seconds.counts) == calls
        assert (await one.count(Operation.SIGN_IN, "2001:db8:0:1::1")).wait_s == 0
        assert one._metrics.limited == {"sign_in": 2}


async def test_states_are_those_of_all_nodes(server: EmbeddedValkey, noded: Noded) -> None:
    """What one node has spent, reported or not, is missing where the other is asked, once it is reported."""
    async with noded(server.url, SLOW) as one, noded(server.url, SLOW) as other:
        limits = await entered(one)
        spend(limits, 10)
        (messages, *_) = await one.user_states("ann", "")
        assert (messages.scope, messages.limit, messages.remaining) == ("messages", 100, 90)
        spend(limits, 60)
        await until(lambda: limits.messages.unreported == 0)
        (messages, *_) = await other.user_states("ann", "")
        assert messages.remaining == 30
        assert messages.reset_ms == pytest.approx(700_000, rel=0.01)
        await one.count(Operation.SIGN_IN, "192.0.2.1")
        found = {state.scope: state.remaining for state in await other.address_states("192.0.2.1")}
        assert found == {"connections": 6000, "sign_in": 59, "accounts": 30, "api": 600}


async def test_redis_is_killed_and_comes_back(server: EmbeddedValkey, noded: Noded) -> None:
    """Without it users go on within their limit, on this node; then it is shared again. Each is logged once, but for answers
    that were only late."""
    with structlog.testing.capture_logs() as logs:
        async with noded(server.url, SLOW) as limiter:
            limits = await entered(limiter)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: not limits.messages.shared)
            assert 0 < spend(limits, 1000) <= 100
            late = await entered(limiter, "bob")
            assert spend(late, 1000) == 100
            await until(lambda: limits.messages.shared and late.messages.shared)
    events = [entry["event"] for entry in logs if entry["event"] in ("limits.redis_away", "limits.redis_back")]
    assert events == ["limits.redis_back", "limits.redis_away", "limits.redis_back"]


async def test_a_flushed_redis_heals(server: EmbeddedValkey, noded: Noded) -> None:
    """FLUSHALL takes the records: the next report is void and lends anew, at most one burst more than before."""
    async with noded(server.url, SLOW) as limiter:
        limits = await entered(limiter)
        passed = spend(limits, 30)
        await limiter._shared._link.call("FLUSHALL")  # type: ignore[union-attr]
        with trio.fail_after(DEADLINE_SECONDS):
            while passed < 100:
                passed += spend(limits, 10)
                await trio.sleep(0.005)
        for _ in range(30):
            passed += spend(limits, 10)
            await trio.sleep(0.005)
        assert passed <= 205
        assert limits.messages.shared


async def test_a_hung_redis_does_not_hold_a_session_up(server: EmbeddedValkey, noded: Noded) -> None:
    """SIGSTOP: a hello waits half a second at most and goes on alone, and so does a sign-in."""
    async with noded(server.url, SLOW) as limiter:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with trio.fail_after(DEADLINE_SECONDS):
                limits = await entered(limiter)
                assert spend(limits, 1000) == 100
                assert (await limiter.count(Operation.SIGN_IN, "192.0.2.1")).wait_s == 0
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await until(lambda: limits.messages.shared)


async def test_the_breaker_skips_redis(autojump_clock: trio.testing.MockClock) -> None:
    """Five calls that fail, then none for 30 s, one try, none for 30 s again; with its success all is as before."""
    shared = Unreachable()
    limiter = Limiter(Tiers(SLOW), Metrics())
    limiter.connect(shared)
    limiter.link_up()
    with structlog.testing.capture_logs() as logs:
        for _ in range(20):
            assert (await limiter.count(Operation.CONNECTIONS, "192.0.2.1")).wait_s == 0
        assert (shared.calls, limiter.skipping) == (5, True)
        await trio.sleep(OPEN_SECONDS - 0.1)
        await limiter.count(Operation.CONNECTIONS, "192.0.2.1")
        assert shared.calls == 5
        await trio.sleep(0.2)
        for _ in range(5):
            await limiter.count(Operation.CONNECTIONS, "192.0.2.1")
        assert shared.calls == 6
        shared.well = True
        await trio.sleep(OPEN_SECONDS)
        for _ in range(5):
            await limiter.count(Operation.CONNECTIONS, "192.0.2.1")
        assert (shared.calls, limiter.skipping) == (11, False)
    told = [entry["event"] for entry in logs]
    assert told == ["limits.redis_away", "limits.redis_skipped", "limits.redis_back"]


async def test_leases_leave_redis_alone_too(autojump_clock: trio.testing.MockClock) -> None:
    """A user who goes on alone costs no call while the breaker is open, and is shared again after the next try."""
    shared = Unreachable()
    limiter = Limiter(Tiers(SLOW), Metrics())
    limiter.connect(shared)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.run)
        limiter.link_up()
        began = trio.current_time()
        limits = await entered(limiter)
        assert trio.current_time() - began <= ASK_SECONDS
        assert spend(limits, 1000) == 100
        await trio.sleep(10)
        assert shared.calls == 5
        shared.well = True
        await trio.sleep(OPEN_SECONDS)
        assert limits.messages.shared
        nursery.cancel_scope.cancel()


class Hanging(Unreachable):
    """One that never answers."""

    async def _called(self) -> None:
        await trio.sleep_forever()


async def test_a_call_that_never_ends_holds_no_session_up(autojump_clock: trio.testing.MockClock) -> None:
    """Half a second, whatever the link's own deadlines are; then the user goes on alone."""
    limiter = Limiter(Tiers(SLOW), Metrics())
    limiter.connect(Hanging())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.run)
        limiter.link_up()
        began = trio.current_time()
        limits = await entered(limiter)
        assert trio.current_time() - began == pytest.approx(0.5)
        assert spend(limits, 1000) == 100
        nursery.cancel_scope.cancel()


async def test_sign_ins_fail_closed(autojump_clock: trio.testing.MockClock) -> None:
    """While Redis is away an address has one minute's worth of sign-ins, however long it lasts; other attempts have
    their rate, and everything is as before once it is back."""
    shared = Unreachable()
    limiter = Limiter(Tiers(SLOW), Metrics())
    limiter.connect(shared)
    limiter.link_up()
    through = 0
    for _ in range(10):
        for _ in range(60):
            through += (await limiter.count(Operation.SIGN_IN, "192.0.2.1")).wait_s == 0
        await trio.sleep(60)
    assert through == 60
    assert (await limiter.count(Operation.ACCOUNTS, "192.0.2.1")).wait_s == 0
    assert (await limiter.count(Operation.SIGN_IN, "192.0.2.2")).wait_s == 0
    shared.well = True
    limiter.link_up()
    assert (await limiter.count(Operation.SIGN_IN, "192.0.2.1")).wait_s == 0


async def test_when_a_closed_sign_in_is_worth_another_try(autojump_clock: trio.testing.MockClock) -> None:
    """When Redis is asked again, and not before; and it never says that all is well again sooner than that."""
    limiter = Limiter(Tiers(SLOW), Metrics())
    limiter.connect(Unreachable())
    limiter.link_up()
    for _ in range(60):
        assert (await limiter.count(Operation.SIGN_IN, "192.0.2.1")).wait_s == 0
    for pause in (0, 4, 10):
        await trio.sleep(pause)
        for _ in range(5):
            told = await limiter.count(Operation.SIGN_IN, "192.0.2.1")
            assert told.wait_s == pytest.approx(limiter._breaker.wait(trio.current_time()))
            assert 0 < told.wait_s <= told.reset_s
            assert told.remaining == 0
    assert (await limiter.count(Operation.SIGN_IN, "192.0.2.1")).wait_s == pytest.approx(16)


async def test_without_redis_at_all(autojump_clock: trio.testing.MockClock) -> None:
    """A limiter that has no Redis limits here, and waits for nobody."""
    limiter = Limiter(Tiers(SLOW), Metrics())
    limits = await entered(limiter)
    assert spend(limits, 1000) == 100
    assert [await limiter.take(limits, Operation.SEARCH) > 0 for _ in range(101)] == [False] * 100 + [True]
    await limiter.run()
    assert limiter._low == {}
    (messages, _, search) = await limiter.user_states("ann", "")
    assert (messages.remaining, search.remaining) == (0, 0)
    limiter.leave(limits)
    assert limiter.leases == 0


async def test_who_reconnects_without_redis_begins_with_what_was_left(autojump_clock: trio.testing.MockClock) -> None:
    """The last session's end gives nothing back, and time does: twenty reconnects let one burst through, not twenty."""
    limiter = Limiter(Tiers(SLOW), Metrics())
    passed = 0
    for _ in range(20):
        limits = limiter.enter("ann", "")
        passed += spend(limits, 2 * SLOW.messages_burst)
        limiter.leave(limits)
    assert passed == SLOW.messages_burst
    await trio.sleep(5 / SLOW.messages_per_second)
    assert spend(limiter.enter("ann", ""), 100) == 5


async def test_who_leaves_before_the_first_answer_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """A session that waits for Redis' first answer and ends meanwhile is told, and nothing of it stays."""
    limiter = Limiter(Tiers(SLOW), Metrics())
    limiter.connect(Unreachable())
    limiter.link_up()
    limits = limiter.enter("ann", "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.ready, limits)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        limiter.leave(limits)
    assert trio.current_time() == began
    assert not limiter._first
