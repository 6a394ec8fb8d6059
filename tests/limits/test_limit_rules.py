"""Tiers, rules and states: what stands in the configuration is what is in force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.limits.port import Rule
from chatd.limits.rules import ADDRESS_OPERATIONS, USER_OPERATIONS, Operation, Tiers, state_of
from chatd.options import Limits, Tier


def test_a_tier_is_the_defaults_but_for_what_it_names() -> None:
    """What a tier does not name is as in [limits]; a name that is no tier is the default one."""
    tiers = Tiers(Limits(messages_burst=7, tiers={"premium": Tier(messages_per_second=500.0)}))
    assert tiers.of("premium")[Operation.MESSAGES] == Rule(500.0, 7)
    assert tiers.of("premium")[Operation.REQUESTS] == tiers.of("free")[Operation.REQUESTS]
    assert tiers.of("") is tiers.of("free") is tiers.of("no-such-tier")
    assert (tiers.names, tiers.knows("premium"), tiers.knows("gold")) == (["free", "premium"], True, False)


def test_free_can_be_named() -> None:
    """The default tier has what the file says of it."""
    assert Tiers(Limits(tiers={"free": Tier(searches_burst=3)})).of("")[Operation.SEARCH].burst == 3


def test_every_operation_has_a_rule() -> None:
    """Each operation is the user's or the address's, never both, and has a rule."""
    tiers = Tiers(Limits())
    assert {*tiers.of(""), *tiers.address} == set(Operation)
    assert set(tiers.of("")) == set(USER_OPERATIONS)
    assert set(tiers.address) == set(ADDRESS_OPERATIONS)


def test_the_promised_bursts_get_through() -> None:
    """An office behind one address: 300 connections, 60 sign-ins and 30 accounts a minute, at once."""
    rules = Tiers(Limits()).address
    for operation, promised in ((Operation.CONNECTIONS, 300), (Operation.SIGN_IN, 60), (Operation.ACCOUNTS, 30)):
        assert rules[operation].burst >= promised
        assert rules[operation].window_ms == pytest.approx(60_000, abs=1)


@given(st.floats(0.1, 1e6), st.integers(1, 1_000_000), st.floats(-1e7, 1e7))
def test_a_state_is_within_its_bounds(rate: float, burst: int, tokens: float) -> None:
    """Whatever a bucket is said to hold, the wire gets naturals: 0 to the limit, and no reset when it is full."""
    state = state_of(Operation.MESSAGES, Rule(rate, burst), tokens)
    assert 0 <= state.remaining <= state.limit == burst
    assert state.reset_ms >= 0
    assert (state.reset_ms == 0) == (tokens >= burst)
