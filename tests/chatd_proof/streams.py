"""What each session received of each conversation, against what it had to receive. Pure.

Where a session begins in a conversation is the hello's ``positions``, else the device's cursor, which only the server knows.
But a cursor is never beyond what the device was given, nor, where it was given nothing, beyond what there was when the device
was first seen.
"""

from __future__ import annotations

from collections.abc import Mapping

from chatd_proof.membership import ENDLESS, Membership
from chatd_proof.observed import Observed, Session, few
from chatd_proof.placement import Placement

Ours = tuple[str, str, str]
"""A user's device, and a conversation."""


class Streams:
    """Judges the sessions, in the order in which they were opened. ``heads``: the last ``seq`` of each conversation."""

    def __init__(self, observed: Observed, placement: Placement, heads: Mapping[str, int]) -> None:
        self._observed = observed
        self._placement = placement
        self._heads = heads
        self._had: dict[Ours, int] = {}
        """The last that a device got of a conversation in a session that began at its cursor."""
        self._told: dict[Ours, int] = {}
        """The last that it had, by its own word."""

    def judge(self) -> None:
        for name, session in self._observed.sessions.items():
            self._judge_session(name, session)

    def _judge_session(self, name: str, session: Session) -> None:
        expected = {conv: self._expected(conv, session) for conv in session.streams if conv in self._heads}
        if name in self._observed.at_end:
            self._judge_end(name, session)
        for conv, first in expected.items():
            membership, ranges = self._observed.memberships[conv], session.streams[conv]
            self._judge_order(name, conv, membership, session, first)
            for begin, last in ranges:
                self._observed.verdict.looked_at["non_member"] += last - begin + 1
                if strange := membership.hidden(session.user, begin, last):
                    text = f"session {name} of {session.user} received {conv} {few((seq, seq) for seq in strange)}"
                    self._observed.fault("non_member", text)
            self._remember(conv, session, max(last for _, last in ranges))
        for conv, position in session.positions.items():
            self._remember(conv, session, min(position, self._heads.get(conv, 0)))

    def _remember(self, conv: str, session: Session, seq: int) -> None:
        known, ours = self._told if conv in session.positions else self._had, (session.user, session.device, conv)
        known[ours] = max(known.get(ours, 0), seq)

    def _expected(self, conv: str, session: Session) -> int:
        """With which ``seq`` this session begins at the latest; ENDLESS where it need not begin."""
        membership, user = self._observed.memberships[conv], session.user
        if conv in session.positions:
            position = session.positions[conv]
            if position <= self._heads[conv]:
                return membership.next_visible(user, position)
            return self._first_after(conv, user, session.opened_at)  # the end, wherever it was then
        ours = (user, session.device, conv)
        had, told = self._had.get(ours), self._told.get(ours, 0)
        if had is not None:
            return membership.next_visible(user, max(had, told))
        began = self._first_after(conv, user, self._observed.first_opened.get((user, session.device), float("inf")))
        return max(began, membership.next_visible(user, told)) if told else began

    def _first_after(self, conv: str, user: str, at: float) -> int:
        """The first that was sent after that moment while the user was in."""
        return self._observed.memberships[conv].first_in(user, self._placement.first_sent_after(conv, at))

    def _judge_order(self, name: str, conv: str, membership: Membership, session: Session, expected: int) -> None:
        """Each range begins with what this user may see next after the one before."""
        exactly = session.positions.get(conv, ENDLESS) <= self._heads[conv]  # a cursor may lag behind what the device had
        for first, last in session.streams[conv]:
            self._observed.verdict.looked_at["order"] += last - first + 1
            if first > expected or (first < expected and exactly):
                what = "skipped to" if first > expected else "went back to"
                self._observed.fault("order", f"session {name} {what} {conv}:{first}, {expected} was next")
            expected, exactly = membership.next_visible(session.user, last), True

    def _judge_end(self, name: str, session: Session) -> None:
        """Whoever is there when all has settled has everything."""
        for conv, head in self._heads.items():
            membership = self._observed.memberships[conv]
            if not membership.is_in(session.user):
                continue
            ranges = session.streams.get(conv)
            following = membership.next_visible(session.user, ranges[-1][1]) if ranges else self._expected(conv, session)
            if following == ENDLESS:
                continue  # it may have had everything
            self._observed.verdict.looked_at["unseen"] += 1
            if following <= head:
                text = f"session {name} of {session.user} was live at the end, and has not got {conv}:{following} of {head}"
                self._observed.fault("unseen", text)
