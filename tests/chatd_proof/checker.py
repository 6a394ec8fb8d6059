"""The checker: does a history keep chatd's promises? Pure; it knows no server and no clock.

The server names the order (``seq``), so nothing has to be searched for: every question is one pass over what was recorded,
as in Jepsen's workload for logs (``jepsen/tests/kafka.clj``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from chatd_proof.history import Record, Stored
from chatd_proof.membership import Membership
from chatd_proof.numbers import judge_numbers
from chatd_proof.observed import Attempt, Device, Observed, Place, few, gaps, name_of, place_of
from chatd_proof.placement import NUMBERED, Placement
from chatd_proof.streams import Streams
from chatd_proof.verdict import Verdict


def check(records: Iterable[Record]) -> Verdict:
    """Judge a whole history."""
    observed = Observed()
    for record in records:
        observed.feed(record)
    return Checker(observed).judge()


class Checker:
    """Judges what was observed; see ``verdict.QUESTIONS``."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._heads = {conv: max(log) for conv, log in observed.log.items()}
        memberships = {conv: Membership.of_log(log.values()) for conv, log in observed.log.items()}
        groups = {conv: membership for conv, membership in memberships.items() if membership.known}
        observed.memberships = {**memberships, **observed.described, **groups}
        self._placement = Placement(observed)
        self._aimless: list[str] = []
        """Deletes of which nobody tells what they took."""

    def judge(self) -> Verdict:
        """Everything that is wrong with the history, and what it does not tell; once."""
        verdict = self._observed.verdict
        self._judge_log()
        self._placement.settle_the_rest()
        self._judge_acks()
        judge_numbers(self._observed, self._placement)
        self._judge_membership_changes()
        self._judge_real_time()
        Streams(self._observed, self._placement, self._heads).judge()
        figures = verdict.figures
        figures["acknowledged"] = sum(attempt.acked is not None for attempt in self._observed.attempts.values())
        figures["unknown"] = sum(attempt.acked is None and attempt.open > 0 for attempt in self._observed.attempts.values())
        figures["sessions"] = len(self._observed.sessions)
        figures["devices"] = len({(session.user, session.device) for session in self._observed.sessions.values()})
        figures["conversations"] = len(self._observed.log)
        verdict.seconds = self._observed.seconds
        self._note_what_is_missing()
        return verdict

    def _note_what_is_missing(self) -> None:
        missing = self._observed.verdict.not_told
        if not self._observed.log:
            missing.append("the log at the end (no `stored` record): nothing can be said of what was acknowledged")
        if not self._observed.settled:
            missing.append("that everything has settled (no `settled` record): whether everybody has everything is not judged")
        if not self._observed.verdict.figures["acknowledged"] or not self._observed.verdict.looked_at["unstored"]:
            missing.append("an acknowledgement, and a delivery: a history in which nothing happens proves nothing")
        if self._observed.settled and not self._observed.verdict.looked_at["unseen"]:
            missing.append("somebody who was there when everything had settled: whether everybody has everything is not judged")
        if self._aimless:
            missing.append(f"which messages were deleted by {', '.join(self._aimless[:5])} (no `target`)")
        unknown = sorted(conv for conv, membership in self._observed.memberships.items() if not membership.known)
        if unknown:
            missing.append(f"who is in {', '.join(unknown[:5])} (no `created` event, no `described` record)")

    def _judge_log(self) -> None:
        """Holes, what is stored twice or elsewhere, what nobody sent, what is gone, and the order of each sender."""
        for conv, log in self._observed.log.items():
            if missing := gaps(log):
                self._observed.fault("holes", f"{conv} ends with {self._heads[conv]} and has no {few(missing)}")
            entries = [log[seq] for seq in sorted(log)]
            self._judge_bodies(conv, entries)
            last: dict[Device, tuple[int, int]] = {}
            for entry in entries:
                self._observed.observe((conv, entry.seq), entry.content, "the log")
                self._judge_writer(entry)
                if entry.kind in NUMBERED:
                    self._judge_change(entry, last)

    def _judge_change(self, entry: Stored, last: dict[Device, tuple[int, int]]) -> None:
        """What carries a number."""
        looked_at, place = self._observed.verdict.looked_at, (entry.conv, entry.seq)
        looked_at["unasked"] += bool(entry.content)
        send = self._placement.place(entry, last)
        if send is None:
            if entry.content:
                why = "was refused for good" if self._placement.was_refused(entry) else "nobody sent"
                text = f"{place_of(place)} holds what {why}: {entry.content}, from {entry.sender}"
                self._observed.fault("unasked", text)
            return
        looked_at["twice"] += 1
        if (before := self._placement.sure.setdefault(send, place)) != place:
            self._observed.fault("twice", f"{name_of(send)} is stored at {place_of(before)} and at {place_of(place)}")
        looked_at["elsewhere"] += 1
        if not self._placement.fits(send, entry):
            text = f"{name_of(send)} was a {send.kind} to {send.to}, and is stored at {place_of(place)} as a {entry.kind}"
            self._observed.fault("elsewhere", text)
        looked_at["senders"] += 1
        number, where = last.get(send.sender, (0, 0))
        if send.cseq < number:
            text = f"{name_of(send)} was sent before cseq {number}; {entry.conv} has them at {entry.seq} and {where}"
            self._observed.fault("senders", text)
        last[send.sender] = (send.cseq, entry.seq)

    def _judge_bodies(self, conv: str, entries: list[Stored]) -> None:
        """Only a delete empties a message, and its edits; and what a session got empty is so in the log, too."""
        deletes = {entry.target: entry.seq for entry in entries if entry.kind == "delete"}
        if 0 in deletes:
            self._aimless.append(f"{conv}:{deletes[0]}")
        for entry in entries:
            if entry.content and (who := self._observed.emptied.get((conv, entry.seq))):
                self._observed.fault("contents", f"{conv}:{entry.seq} is {entry.content} in the log, and empty for {who}")
            if entry.kind not in ("message", "edit"):
                continue
            self._observed.verdict.looked_at["emptied"] += 1
            target = entry.seq if entry.kind == "message" else entry.target
            gone = max(deletes.get(target, 0), deletes.get(0, 0))
            if not entry.content and gone <= entry.seq:
                self._observed.fault("emptied", f"{conv}:{entry.seq} has no content any more, and no delete took it")

    def _judge_writer(self, entry: Stored) -> None:
        membership = self._observed.memberships[entry.conv]
        if entry.kind in NUMBERED and membership.known:
            self._observed.verdict.looked_at["intruders"] += 1
            if not membership.was_in(entry.sender, entry.seq):
                self._observed.fault("intruders", f"{entry.conv}:{entry.seq} is by {entry.sender}, who was not in it")

    def _judge_acks(self) -> None:
        """Acknowledged and lost; seen and not stored."""
        for send, attempt in self._observed.attempts.items():
            if attempt.acked is not None:
                entry = self._entry(attempt.acked)
                if entry is None or entry.content not in ("", send.content) or entry.sender != send.user:
                    text = f"{name_of(send)} was acknowledged at {place_of(attempt.acked)}, and is not there"
                    self._observed.fault("lost", text)
        places: dict[str, list[int]] = defaultdict(list)
        for conv, seq in self._observed.seen:
            if self._entry((conv, seq)) is None:
                places[conv].append(seq)
        for conv, seqs in places.items():
            self._observed.fault("unstored", f"{conv} {few((seq, seq) for seq in sorted(seqs))} was seen, and is not in the log")

    def _entry(self, place: Place) -> Stored | None:
        return self._observed.log[place[0]].get(place[1]) if place[0] in self._observed.log else None

    def _judge_membership_changes(self) -> None:
        """A change of members that was answered with yes is in the log, at least once."""
        wanted: Counter[tuple[str, str, str]] = Counter()
        for asked in self._observed.verdict.done:
            for user in asked.users:
                wanted[asked.conv, "joined" if asked.what == "add" else "left", user] += 1
        found = Counter(
            (conv, entry.kind, user) for conv, log in self._observed.log.items() for entry in log.values() for user in entry.users
        )
        for (conv, kind, user), times in wanted.items():
            # Who is added and is in already changes nothing, and is answered with yes: once is what can be asked for.
            if found[conv, kind, user] == 0 and not (kind == "joined" and found[conv, "created", user]):
                text = f"that {user} {kind} {conv} was answered with yes ({times}), and is not in the log"
                self._observed.fault("members", text)

    def _judge_real_time(self) -> None:
        """What was acknowledged before another one was sent at all stands before it; and nobody gets what is not sent yet."""
        places = {a.acked: a for a in self._observed.attempts.values() if a.acked is not None}
        for place, attempt in places.items():
            if self._observed.out_at.get(place, attempt.first_at) < attempt.first_at:
                self._observed.fault("real_time", f"{place_of(place)} was received before it was sent")
        by_conv: dict[str, list[tuple[int, Attempt]]] = defaultdict(list)
        for (conv, seq), attempt in places.items():
            by_conv[conv].append((seq, attempt))
        for conv, entries in by_conv.items():
            earliest, its_seq = float("inf"), 0
            for seq, attempt in sorted(entries, key=_by_seq, reverse=True):
                self._observed.verdict.looked_at["real_time"] += 1
                if earliest < attempt.first_at:
                    self._observed.fault("real_time", f"{conv}:{its_seq} was acknowledged before what is at {seq} was sent")
                if attempt.acked_at < earliest:
                    earliest, its_seq = attempt.acked_at, seq


def _by_seq(entry: tuple[int, Attempt]) -> int:
    return entry[0]
