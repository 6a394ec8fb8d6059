"""What makes a run void, who is in it, and what a look at memory says."""

from __future__ import annotations

import pytest
from chatd_bench.cast import Cast, groups, joined, make_users, pairs
from chatd_bench.machine import Memory
from chatd_bench.scenarios.idle import slopes
from chatd_bench.scenarios.stage import void_reasons

QUIET = {"generator_load": 0.5, "others_s": 0.1, "stolen_s": 0.1}
ON_TIME = {"p50": 0.01, "p99": 0.4}


@pytest.mark.parametrize(
    ("cpu", "lag", "said"),
    [
        ({}, ON_TIME, None),
        ({"generator_load": 0.91}, ON_TIME, "the generator was the limit"),
        ({}, {"p50": 0.01, "p99": 1.2}, "sent too late"),
        ({}, None, None),
        ({"others_s": 0.95}, ON_TIME, "others used"),
        ({"stolen_s": 0.95}, ON_TIME, "the hypervisor"),
        ({"others_s": None}, ON_TIME, "the server's CPU time is not known (--pid)"),
    ],
)
def test_a_run_is_void_for_a_reason(cpu: dict[str, float | None], lag: dict[str, float] | None, said: str | None) -> None:
    """A generator at its limit, a send that was late in an open loop, somebody else's load: each alone is enough."""
    reasons = void_reasons({**QUIET, **cpu}, 10.0, lag)
    assert len(reasons) == (said is not None)
    assert said is None or said in reasons[0]


def test_pairs_are_in_one_process_and_on_two_nodes() -> None:
    """Without acks only who has both can count; with two nodes each message crosses from one to the other."""
    cast = pairs("r", 12, 3)
    for channel in cast.channels:
        one, other = channel.members
        assert cast.homes[one.number] == cast.homes[other.number]
        assert one.number % 2 != other.number % 2
        assert channel.other(one) == other
    assert set(cast.homes) == {0, 1, 2}
    assert len({len(user.name) for user in cast.users}) == 1


def test_groups_share_nobody() -> None:
    """A big one is spread over the processes, a small one is in one."""
    big, small = groups("r", [100], 10, 2), groups("r", [5, 5], 5, 2)
    assert set(big.homes) == {0, 1}
    assert big.writers == (big.users[:10],)
    assert small.homes == (0,) * 5 + (1,) * 5
    assert {user for channel in small.channels for user in channel.members} == set(small.users)


def test_two_casts_are_joined_under_new_numbers() -> None:
    """The first one keeps its numbers; members and writers of the second are those of the whole."""
    cast = joined(pairs("r", 4, 1), Cast(make_users("s", 3), homes=(1, 1, 1)))
    more = joined(cast, groups("t", [3], 1, 1))
    assert [user.number for user in more.users] == list(range(10))
    assert more.channels[-1].number == 2
    assert more.channels[-1].members == more.users[7:]
    assert more.writers[-1] == more.users[7:8]
    assert more.homes[4:7] == (1, 1, 1)


def test_memory_is_told_as_a_slope() -> None:
    """What the server has without connections is in no figure."""
    first, second = slopes([(100, Memory(50_000, 40_000)), (300, Memory(51_000, 42_000))])
    assert "rss_kib_per_connection" not in first
    assert (second["rss_kib_per_connection"], second["pss_kib_per_connection"]) == (5.0, 10.0)
