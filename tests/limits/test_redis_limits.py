"""The function library on a real Valkey: what the port promises, and functions that vanish."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random

import pytest
import trio

from chatd.adapters.redis.limits import PREFIX, RedisLimits
from chatd.adapters.valkey import EmbeddedValkey
from chatd.limits.port import Report, Rule, SharedDown

Shared = Callable[[str], AbstractAsyncContextManager[RedisLimits]]
SLOW = Rule(0.001, 100)
"""Gains nothing while a test runs."""


def report(balance: int = 0, give: int = 0, want: int = 0, *, rule: Rule = SLOW, release: bool = False) -> Report:
    return Report("k", rule, balance, give, want, release)


async def test_a_bucket_is_lent_and_handed_back(server: EmbeddedValkey, shared: Shared) -> None:
    """Three quarters of what there is to who asks, what is handed back is there again, and two are told that they are."""
    async with shared(server.url) as redis:
        (first,) = await redis.lease("a", 1, [report(want=1000)])
        assert (first.kept, first.granted, first.left, first.holders) == (False, 75, pytest.approx(25, abs=0.01), 1)
        (second,) = await redis.lease("b", 1, [report(want=1000)])
        assert (second.granted, second.holders) == (18, 2)
        (third,) = await redis.lease("a", 2, [report(balance=25, give=50)])
        assert (third.kept, third.granted, third.left) == (True, 0, pytest.approx(57, abs=0.01))
        assert (await redis.peek([("k", SLOW)]))[0] == pytest.approx(100, abs=0.01)


async def test_a_released_lease_is_gone(server: EmbeddedValkey, shared: Shared) -> None:
    """Who gives up hands everything back, and is counted no more; the next one has it all."""
    async with shared(server.url) as redis:
        await redis.lease("a", 1, [report(want=40)])
        await redis.lease("a", 2, [report(give=40, release=True)])
        (grant,) = await redis.lease("b", 1, [report(want=1000)])
        assert (grant.granted, grant.holders) == (75, 1)


async def test_tokens_without_a_record_are_void(server: EmbeddedValkey, shared: Shared) -> None:
    """A balance that Redis has not lent, handed back or claimed, makes no token; nor does more than was lent."""
    async with shared(server.url) as redis:
        (grant,) = await redis.lease("a", 1, [report(balance=500, give=500)])
        assert not grant.kept
        assert grant.left == pytest.approx(100, abs=0.01)
        await redis.lease("a", 2, [report(want=10)])
        (grant,) = await redis.lease("a", 3, [report(balance=10, give=500)])
        assert grant.left == pytest.approx(90, abs=0.01)


async def test_an_overtaken_report_changes_nothing(server: EmbeddedValkey, shared: Shared) -> None:
    """What a lost connection delivers late must not undo what came after it."""
    async with shared(server.url) as redis:
        await redis.lease("a", 5, [report(want=50)])
        (late,) = await redis.lease("a", 4, [report(balance=0, want=50)])
        assert (late.kept, late.granted) == (False, 0)
        (next_one,) = await redis.lease("a", 6, [report(balance=50)])
        assert next_one.kept


async def test_the_bucket_does_not_fill_above_what_is_lent(server: EmbeddedValkey, shared: Shared) -> None:
    """While 75 of 100 are lent and perhaps not spent, no refill makes more than 25 beside them."""
    fast = Rule(1_000_000.0, 100)
    async with shared(server.url) as redis:
        await redis.lease("a", 1, [report(want=1000, rule=fast)])
        (grant,) = await redis.lease("b", 1, [report(rule=fast)])
        assert grant.left == 25


async def test_many_nodes_on_one_bucket(server: EmbeddedValkey, shared: Shared) -> None:
    """Eight nodes that report, spend, give back and leave at random: what was spent never is above the burst."""
    chance = Random(7)
    spent, held, number = 0, dict.fromkeys("abcdefgh", 0), 0
    async with shared(server.url) as redis:
        for _ in range(400):
            node = chance.choice("abcdefgh")
            use = chance.randint(0, held[node])
            spent += use
            keep = chance.randint(0, held[node] - use)
            give = held[node] - use - keep
            release = chance.random() < 0.1
            number += 1
            (grant,) = await redis.lease(
                node, number, [report(0 if release else keep, give + keep * release, chance.randint(0, 60) * (not release),
                                      release=release)]
            )  # fmt: skip
            held[node] = 0 if release else grant.granted + keep * grant.kept
            assert spent + sum(held.values()) <= 100
    assert spent > 90


async def test_a_window_counts_to_its_limit(server: EmbeddedValkey, shared: Shared) -> None:
    """As many as the limit, then none, with the time at which the oldest leave; looking counts nothing."""
    rule = Rule(1.0, 60)
    async with shared(server.url) as redis:
        assert (await redis.count("w", rule, 0)).remaining == 60
        for left in range(59, -1, -1):
            counted = await redis.count("w", rule, 1)
            assert (counted.allowed, counted.remaining) == (True, left)
        refused = await redis.count("w", rule, 1)
        assert (refused.allowed, refused.remaining) == (False, 0)
        assert 50_000 < refused.retry_ms <= 63_000
        assert refused.retry_ms <= refused.reset_ms <= 66_000
        assert (await redis.count("other", rule, 1)).allowed


async def test_a_window_slides(server: EmbeddedValkey, shared: Shared) -> None:
    """After the time told one more is allowed; until then none is, however often one asks."""
    rule = Rule(5.0, 10)
    async with shared(server.url) as redis:
        for _ in range(10):
            assert (await redis.count("w", rule, 1)).allowed
        tries = 0
        with trio.fail_after(20):
            while not (counted := await redis.count("w", rule, 1)).allowed:
                tries += 1
                assert counted.retry_ms > 0
                await trio.sleep(counted.retry_ms / 1000)
        assert tries >= 1


async def test_everything_expires(server: EmbeddedValkey, shared: Shared) -> None:
    """No key stays for ever: neither a bucket nor a window, not even one that is full again."""
    async with shared(server.url) as redis:
        await redis.lease("a", 1, [report(want=10)])
        await redis.lease("a", 2, [report(give=10, release=True)])
        await redis.count("w", Rule(1.0, 60), 1)
        for key in ("k", "w"):
            left = await redis._link.call("PTTL", PREFIX + key)
            assert isinstance(left, int)
            assert left > 0


async def test_functions_that_vanish_are_loaded_again(server: EmbeddedValkey, shared: Shared) -> None:
    """FUNCTION FLUSH under a link that stays up costs nothing but a second question."""
    async with shared(server.url) as redis:
        await redis.count("w", SLOW, 1)
        await redis._link.call("FUNCTION", "FLUSH")
        assert (await redis.count("w", SLOW, 1)).remaining == 98
        assert redis.up


async def test_two_versions_live_beside_each_other(server: EmbeddedValkey, shared: Shared) -> None:
    """The names end with a digest of the text: a node of another version replaces nothing."""
    async with shared(server.url) as old, shared(server.url) as new:
        new._text = new._text.replace(new._digest, "ffff00000000")
        new._digest = "ffff00000000"
        assert (await new.count("w", SLOW, 1)).allowed
        assert (await old.count("w", SLOW, 1)).remaining == 98
        assert (await new.count("w", SLOW, 1)).remaining == 97


async def test_what_is_refused_is_told_as_down(server: EmbeddedValkey, shared: Shared) -> None:
    """A key of another type, or a form that is not ours, is an outage to the caller and not a crash."""
    async with shared(server.url) as redis:
        await redis._link.call("SET", PREFIX + "k", "x")
        with pytest.raises(SharedDown):
            await redis.lease("a", 1, [report()])
        redis._digest, digest = "0", redis._digest
        with pytest.raises(SharedDown):
            await redis.count("w", SLOW, 1)
        redis._digest = digest
        assert (await redis.count("w", SLOW, 1)).allowed
