"""Which numbers of a log are known, as disjoint runs without a gap. Pure."""

from __future__ import annotations

from bisect import bisect_right


class Runs:
    """A set of positive integers, kept as runs: a log mostly consists of one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, seq: int) -> None:
        """Put ``seq`` in; nothing happens where it is already."""
        at = bisect_right(self._starts, seq)
        if at and seq <= self._ends[at - 1]:
            return
        joins_before = at > 0 and self._ends[at - 1] == seq - 1
        joins_after = at < len(self._starts) and self._starts[at] == seq + 1
        if joins_before and joins_after:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif joins_before:
            self._ends[at - 1] = seq
        elif joins_after:
            self._starts[at] = seq
        else:
            self._starts.insert(at, seq)
            self._ends.insert(at, seq)

    def around(self, seq: int) -> range | None:
        """The run that holds ``seq``, None where it is not known."""
        at = bisect_right(self._starts, seq) - 1
        if at < 0 or seq > self._ends[at]:
            return None
        return range(self._starts[at], self._ends[at] + 1)

    def drop_below(self, seq: int) -> None:
        """Forget all numbers below ``seq``."""
        while self._ends and self._ends[0] < seq:
            del self._starts[0], self._ends[0]
        if self._starts and self._starts[0] < seq:
            self._starts[0] = seq
