"""A lease of which nothing is spent is lent for longer, and not trusted for longer than it was lent. Pure."""

from __future__ import annotations

from chatd.limits.lease import Lease
from chatd.limits.port import LEASE_SECONDS, REST_SECONDS, Grant, Report, Rule


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
