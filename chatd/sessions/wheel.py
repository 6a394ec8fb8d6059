"""Whom to look at when, to the turn: a timing wheel of session ids. Pure; what a turn is, its owner says.

A look at each session at each turn was a fifth of the CPU time that an idle connection costs. It holds ids and not sessions,
so that one that has ended is not kept, and each once, or twice where it is to be looked at sooner.
"""

from __future__ import annotations

from math import ceil
from typing import Final

TURNS: Final = 64
"""Who is due later is looked at once meanwhile."""


class TimingWheel:
    """``TURNS`` lists, of which each turn takes the next one."""

    __slots__ = ("_at", "_slots", "_soon")

    def __init__(self) -> None:
        self._at = 0
        self._slots: list[list[str]] = [[] for _ in range(TURNS)]
        self._soon: dict[str, None] = {}

    def after(self, key: str, turns: float) -> None:
        """Due in so many turns: in the first one at or after it, and in TURNS - 1 at the latest."""
        number = max(1, ceil(min(turns, TURNS - 1)))
        self._slots[(self._at + number) % TURNS].append(key)

    def soon(self, key: str) -> None:
        """Due at the next turn, beside whatever is known of it; to be said again there, as long as it is so."""
        self._soon[key] = None

    def turn(self) -> tuple[list[str], list[str]]:
        """Go on by one turn: who is due, and of whom it was said that it is ``soon``."""
        self._at = (self._at + 1) % TURNS
        due, self._slots[self._at] = self._slots[self._at], []
        soon, self._soon = list(self._soon), {}
        return due, soon
