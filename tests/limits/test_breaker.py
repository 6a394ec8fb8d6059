"""The circuit breaker as a function of time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chatd.limits.breaker import FAILURES, OPEN_SECONDS, Breaker


def fail(breaker: Breaker, now: float, times: int = FAILURES) -> list[bool]:
    return [breaker.failed(now) for _ in range(times)]


def test_five_failures_in_a_row_open_it_for_thirty_seconds() -> None:
    """Four do not, nor five with a success between; the fifth says that it was the one."""
    assert (FAILURES, OPEN_SECONDS) == (5, 30.0)
    breaker = Breaker()
    fail(breaker, 0.0, 4)
    breaker.succeeded()
    assert fail(breaker, 1.0) == [False] * 4 + [True]
    assert not breaker.allows(30.9)
    assert breaker.wait(30.0) == 1.0
    assert breaker.allows(31.0)


def test_after_the_pause_one_may_try() -> None:
    """Its success closes the breaker, its failure opens it for another pause; the others wait meanwhile."""
    breaker = Breaker()
    fail(breaker, 0.0)
    assert breaker.allows(30.0)
    assert not breaker.allows(30.0)
    breaker.failed(30.5)
    assert not breaker.allows(59.9)
    assert breaker.allows(60.0)
    breaker.succeeded()
    assert breaker.allows(60.0)
    assert not breaker.opened


def test_news_of_the_server_let_one_try_at_once() -> None:
    """A link made anew need not wait for the pause to end, but is one try and no more."""
    breaker = Breaker()
    fail(breaker, 0.0)
    breaker.probe(1.0)
    assert breaker.allows(1.0)
    assert not breaker.allows(1.0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=100))
def test_a_dead_server_is_asked_once_a_pause(pauses: list[float]) -> None:
    """However often callers come, once it is open they ask at most once in 30 s."""
    breaker, now, asked = Breaker(), 0.0, []
    for pause in pauses:
        now += pause
        if breaker.allows(now):
            asked.append(now)
            breaker.failed(now)
    tries = asked[FAILURES - 1 :]
    assert all(later - earlier >= OPEN_SECONDS for earlier, later in pairwise(tries))
