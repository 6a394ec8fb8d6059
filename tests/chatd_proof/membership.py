"""Who may see which part of one conversation's log, by the log itself. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable

from chatd_proof.history import LIMIT, Stored

ENDLESS = LIMIT


class Membership:
    """``known``: whether anything tells who is in it. ``always_in``: who is in it for ever; nobody, where members change."""

    def __init__(self, *, known: bool, everything: bool = False) -> None:
        self.known = known
        self.always_in: frozenset[str] = frozenset()
        self._everything = everything
        self._stays: dict[str, list[list[int]]] = {}

    @classmethod
    def always(cls, members: Collection[str]) -> Membership:
        """A conversation of the same members from its beginning on."""
        made = cls(known=True)
        made.always_in = frozenset(members)
        made._stays = {user: [[1, ENDLESS]] for user in members}
        return made

    @classmethod
    def of_log(cls, entries: Iterable[Stored]) -> Membership:
        """By ``created``, ``joined`` and ``left``, in the order of ``seq``."""
        ordered = sorted(entries, key=_seq_of)
        created = next((entry for entry in ordered if entry.kind == "created"), None)
        made = cls(known=created is not None, everything=created is not None and created.everything)
        for entry in ordered:
            for user in entry.users:
                stays = made._stays.setdefault(user, [])
                if entry.kind == "left" and stays:
                    stays[-1][1] = entry.seq
                elif entry.kind in ("created", "joined") and (not stays or stays[-1][1] < ENDLESS):
                    stays.append([entry.seq, ENDLESS])
        return made

    def is_in(self, user: str) -> bool:
        """At the end of the log."""
        return self.was_in(user, ENDLESS)

    def was_in(self, user: str, seq: int) -> bool:
        """When ``seq`` was appended."""
        return any(first <= seq <= last for first, last in self._stays.get(user, ()))

    def first_in(self, user: str, at_least: int) -> int:
        """The first ``seq`` from there on with which the user was in it."""
        return min((max(first, at_least) for first, last in self._stays.get(user, ()) if last >= at_least), default=ENDLESS)

    def _visible(self, user: str) -> list[list[int]]:
        stays = self._stays.get(user, [])
        return [[1, stays[-1][1]]] if stays and self._everything else stays

    def next_visible(self, user: str, after: int) -> int:
        """The first ``seq`` beyond ``after`` that the user may see, by what is in the log."""
        stays = self._visible(user)
        at = bisect_right(stays, after + 1, key=_first_of) - 1
        if at >= 0 and after + 1 <= stays[at][1]:
            return after + 1
        return stays[at + 1][0] if at + 1 < len(stays) else ENDLESS

    def hidden(self, user: str, first: int, last: int) -> list[int]:
        """Which of ``first`` to ``last`` the user may not see; the first twenty. Nobody's, where nothing is known."""
        if not self.known:
            return []
        found: list[int] = []
        seq = first
        while seq <= last and len(found) < 20:
            visible = self.next_visible(user, seq - 1)
            found += range(seq, min(visible, last + 1, seq + 20 - len(found)))
            if visible > last:
                break
            end = next(stay[1] for stay in self._visible(user) if stay[0] <= visible <= stay[1])
            seq = end + 1
        return found


def _seq_of(entry: Stored) -> int:
    return entry.seq


def _first_of(stay: list[int]) -> int:
    return stay[0]
