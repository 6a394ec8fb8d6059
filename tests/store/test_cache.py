"""What a commit remembers of the store: bounded, and never forgotten in the middle of a transaction."""

from __future__ import annotations

from chatd.adapters.sqlite.cache import Recent


def test_what_is_remembered_is_bounded() -> None:
    """I9: the older half goes when a transaction begins; within one nothing does, for it may not be written yet."""
    recent: Recent[int, int] = Recent(10)
    for number in range(1000):
        recent.put(number, number)
    assert recent.get(0) == 0
    recent.trim()
    assert [number for number in range(1000) if recent.get(number) is not None] == list(range(995, 1000))
    recent.trim()
    assert recent.get(995) == 995
