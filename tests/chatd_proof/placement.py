"""Which change each entry of a log is: by its ack, else by what it says. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict

from chatd_proof.history import Stored
from chatd_proof.membership import ENDLESS
from chatd_proof.observed import Device, Observed, Place, Send

NUMBERED = frozenset({"message", "edit", "delete", "reaction"})
"""Kinds of events that come of a change with a ``cseq``."""


class Placement:
    """Give it the entries of each log in their order (``place``).

    ``sure``: the changes that are stored, and where. ``perhaps``: by device, the numbers under which other entries may have been
    sent: of those that several changes may have become, and of those whose body is gone and whose ack nobody saw.
    """

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._by_content: dict[tuple[str, str], list[Send]] = defaultdict(list)
        self._by_place: dict[Place, list[Send]] = defaultdict(list)
        self.sure: dict[Send, Place] = {}
        self.perhaps: dict[Device, set[int]] = defaultdict(set)
        self._nameless: dict[str, list[Stored]] = defaultdict(list)
        self._sent_by: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for send, attempt in observed.attempts.items():
            self._by_content[send.user, send.content].append(send)
            if attempt.acked is not None:
                self._by_place[attempt.acked].append(send)

    def candidates(self, entry: Stored) -> list[Send]:
        """The changes that this entry may be; of several, only those that were not acknowledged elsewhere."""
        acked = self._by_place.get((entry.conv, entry.seq), [])
        if not entry.content:
            return [send for send in acked if send.user == entry.sender][:1]
        sends = self._by_content.get((entry.sender, entry.content), [])
        if here := [send for send in acked if send in sends]:
            return here[:1]
        unknown = [send for send in sends if self._is_open(send)]
        if unknown:
            return [send for send in unknown if self.fits(send, entry)] or unknown
        return [send for send in sends if self._observed.attempts[send].acked is not None][:1]  # `twice`

    def was_refused(self, entry: Stored) -> bool:
        """Whether somebody asked for it at all."""
        return (entry.sender, entry.content) in self._by_content

    def place(self, entry: Stored, last: dict[Device, tuple[int, int]]) -> Send | None:
        """Which change this entry is; None where nothing tells. ``last``: by device, its last number in this log, and where."""
        found = self.candidates(entry)
        if not found:
            if not entry.content:
                self._nameless[entry.sender].append(entry)
            return None
        self._note_time(entry, min(self._observed.attempts[send].first_at for send in found))
        if len(found) == 1:
            return found[0]
        for send in found:
            self.perhaps[send.sender].add(send.cseq)
        return min(found, key=lambda send: (send.cseq <= last.get(send.sender, (0, 0))[0], send.cseq))

    def settle_the_rest(self) -> None:
        """After the last entry: what nobody knows the fate of may be what stood where a body is gone."""
        for send in self._observed.attempts:
            if self._is_open(send) and any(self.fits(send, entry) for entry in self._nameless.get(send.user, ())):
                self.perhaps[send.sender].add(send.cseq)

    def fits(self, send: Send, entry: Stored) -> bool:
        """Whether it went where it was sent to, as what it was sent. ``@name`` is the conversation with that user."""
        if send.kind != entry.kind:
            return False
        membership = self._observed.memberships[entry.conv]
        if not send.to.startswith("@") or not membership.known:
            return send.to.startswith("@") or send.to == entry.conv
        return membership.always_in == {send.user, send.to[1:]}

    def first_sent_after(self, conv: str, at: float) -> int:
        """The first ``seq`` of a conversation of which is known that it was sent, and so stored, after that moment."""
        seqs, latest = self._sent_by[conv]
        place = bisect_right(latest, at)
        return seqs[place] if place < len(seqs) else ENDLESS

    def _note_time(self, entry: Stored, sent_at: float) -> None:
        seqs, latest = self._sent_by[entry.conv]
        seqs.append(entry.seq)
        latest.append(max(sent_at, latest[-1] if latest else sent_at))

    def _is_open(self, send: Send) -> bool:
        attempt = self._observed.attempts[send]
        return attempt.open > 0 and attempt.acked is None
