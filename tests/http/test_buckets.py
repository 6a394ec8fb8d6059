"""Token buckets: the rate, the burst, clocks that jump, and a table that does not grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.limits.bucket import Buckets, TokenBucket, address_key


def test_burst_then_rate() -> None:
    """A full bucket lets its burst through at once, then one each 1/rate; the wait told is the wait needed."""
    bucket = TokenBucket(1.0, 60)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    wait = bucket.take(0.0)
    assert wait == pytest.approx(1.0)
    assert bucket.take(wait) == 0.0
    assert bucket.take(wait) > 0


def test_remaining_and_reset() -> None:
    """What is left, and when it is full again."""
    bucket = TokenBucket(2.0, 10)
    bucket.take(5.0, 4)
    assert bucket.remaining(5.0) == 6
    assert bucket.full_in(5.0) == pytest.approx(2.0)
    assert bucket.remaining(100.0) == 10


def test_more_than_the_burst_can_be_had() -> None:
    """A request larger than the bucket waits for a full one, rather than for ever."""
    bucket = TokenBucket(1.0, 5)
    assert bucket.take(0.0, 100) == 0.0
    assert bucket.take(0.0, 100) == pytest.approx(5.0)


def test_clock_going_back_gives_nothing() -> None:
    """A clock that jumps back neither fills the bucket nor empties it."""
    bucket = TokenBucket(1.0, 2)
    bucket.take(100.0, 2)
    assert bucket.take(0.0) > 0
    assert bucket.take(1.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5)), max_size=60))
def test_never_more_than_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    """Over any time, what was allowed is at most the burst and the rate times that time."""
    bucket, now, allowed = TokenBucket(3.0, 10), 0.0, 0
    for pause, n in steps:
        now += pause
        if bucket.take(now, n) == 0.0:
            allowed += n
    assert allowed <= 10 + 3.0 * now + 1e-6


def test_table_is_bounded_and_forgets_the_oldest() -> None:
    """Beyond its bound the table drops whoever was seen longest ago."""
    buckets = Buckets(1.0, 1, max_keys=3)
    for key in "abc":
        assert buckets.take(key, 0.0) == 0.0
    assert buckets.take("a", 0.0) > 0
    buckets.take("d", 0.0)
    assert len(buckets) == 3
    assert buckets.take("a", 0.0) > 0
    assert buckets.take("b", 0.0) == 0.0


def test_address_keys() -> None:
    """An IPv6 /64 is one party, IPv4 in IPv6 is the IPv4 address, a zone is dropped, and a key is its own key."""
    assert address_key("2001:db8:1:2:3:4:5:6") == address_key("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert address_key("2001:db8:1:3::") != address_key("2001:db8:1:2::")
    assert address_key("::ffff:192.0.2.7") == address_key("192.0.2.7") == "192.0.2.7"
    assert address_key("fe80::1%eth0") == "fe80::/64"
    assert address_key("local") == "local"
    assert address_key(address_key("2001:db8::1")) == address_key("2001:db8::1")


def test_a_pause_gives_no_more_than_the_burst() -> None:
    """However long it was."""
    bucket = TokenBucket(1.0, 5)
    assert bucket.take(0.0, 3) == 0.0
    assert bucket.take(1000.0, 5) == 0.0
    assert bucket.take(1000.0) > 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_senseless_limits(rate: float, burst: float) -> None:
    """A bucket that could never give is refused when it is made."""
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, burst)
