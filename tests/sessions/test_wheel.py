"""The timing wheel: everybody in their turn, never late, and each as often as was said. Pure."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from chatd.sessions.wheel import TURNS, TimingWheel


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(-5, 3 * TURNS)), max_size=50))
def test_everybody_comes_in_their_turn(asked: list[tuple[int, float]]) -> None:
    """In the first turn that is not too early; who is due beyond the wheel's end comes at its end."""
    wheel, wanted = TimingWheel(), []
    came: dict[int, list[str]] = {}
    waiting = sorted((at, str(number), turns) for number, (at, turns) in enumerate(asked))
    for now in range(300):
        while waiting and waiting[0][0] == now:
            _, key, turns = waiting.pop(0)
            wheel.after(key, turns)
            wanted.append((now + min(max(1, ceil(turns)), TURNS - 1), key))
        came[now + 1], soon = wheel.turn()
        assert soon == []
    assert sorted((now, key) for now, keys in came.items() for key in keys) == sorted(wanted)


def test_soon_is_the_next_turn_and_once() -> None:
    """Beside what is known of the same key, which stays as it is."""
    wheel = TimingWheel()
    wheel.after("a", 3)
    wheel.soon("a")
    wheel.soon("a")
    assert [wheel.turn() for _ in range(4)] == [([], ["a"]), ([], []), (["a"], []), ([], [])]
