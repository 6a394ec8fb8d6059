"""A lease of which nothing is spent is lent for longer, and not trusted for longer than it was lent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from chatd.limits.lease import Lease
from chatd.limits.limiter import Limiter
from chatd.limits.port import LEASE_SECONDS, REST_SECONDS, Counted, Grant, Report, Rule
from chatd.limits.rules import Tiers
from chatd.ops.metrics import Metrics
from chatd.options import Limits


def answered(lease: Lease, now: float) -> Report:
    """Report, and be given what was asked for, for as long as was asked."""
    report = lease.report(now)
    lease.granted(Grant(report.balance > 0, report.want, 100.0, 1, report.seconds), now)
    return report


def fresh() -> Lease:
    return Lease("k", Rule(1.0, 100), lambda _lease: None)


def test_only_what_nobody_spends_is_lent_for_longer() -> None:
    """The first time, and after each report between which something was spent, it is the short time."""
    lease = fresh()
    assert answered(lease, 0.0).seconds == LEASE_SECONDS
    assert answered(lease, 20.0).seconds == REST_SECONDS
    assert lease.take(21.0) == 0.0
    assert answered(lease, 22.0).seconds == LEASE_SECONDS
    assert answered(lease, 42.0).seconds == REST_SECONDS


def test_it_is_trusted_for_nine_tenths_of_what_it_was_lent_for() -> None:
    """Counted from the question, and by what the answer says."""
    for seconds in (LEASE_SECONDS, REST_SECONDS):
        lease = fresh()
        answered(lease, 0.0)
        lease.report(20.0)
        lease.granted(Grant(True, 0, 100.0, 1, seconds), 25.0)
        assert lease.take(20.0 + 0.9 * seconds - 1) == 0.0
        assert lease.take(20.0 + 0.9 * seconds) > 0


def test_what_expired_asks_for_the_short_time() -> None:
    """What is left of it is void, and the node begins anew."""
    lease = fresh()
    answered(lease, 0.0)
    report = lease.report(LEASE_SECONDS)
    assert (report.balance, report.seconds) == (0, LEASE_SECONDS)


class Lender:
    """Lends what is asked for, for as long as was asked."""

    up = True

    async def lease(self, node: str, number: int, reports: Sequence[Report]) -> list[Grant]:
        await trio.lowlevel.checkpoint()
        return [Grant(report.balance > 0, report.want, 100.0, 1, report.seconds) for report in reports]

    async def count(self, key: str, rule: Rule, n: int) -> Counted:
        raise NotImplementedError

    async def peek(self, buckets: Sequence[tuple[str, Rule]]) -> list[float]:
        raise NotImplementedError


@pytest.mark.parametrize("broken", [False, True], ids=["a burst", "a broken link"])
async def test_what_is_lent_for_less_after_a_rest_is_renewed_in_time(autojump_clock: MockClock, broken: bool) -> None:
    """Without a look at it before the long rest would have ended, the next message was refused."""
    limiter = Limiter(Tiers(Limits(messages_per_second=1, messages_burst=100)), Metrics())
    limiter.connect(Lender())
    limiter.link_up()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.run)
        limits = limiter.enter("ann", "")
        await limiter.ready(limits)
        await trio.sleep(LEASE_SECONDS)
        assert limits.messages.seconds == limits.requests.seconds == REST_SECONDS
        if broken:
            limiter.link_down()
            limiter.link_up()
        else:
            assert all(limits.messages.take(trio.current_time()) == 0.0 for _ in range(50))
        await trio.sleep(1)
        assert limits.messages.seconds == LEASE_SECONDS
        await trio.sleep(LEASE_SECONDS)
        assert limits.messages.take(trio.current_time()) == 0.0
        nursery.cancel_scope.cancel()
