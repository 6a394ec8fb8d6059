"""The checker: does a history keep chatd's promises? Pure; it knows no server and no clock.

The server names the order (``seq``), so nothing has to be searched for: every question is one pass over what was recorded,
as in Jepsen's workload for logs (``jepsen/tests/kafka.clj``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from chatd_proof.history import Record, Stored
from chatd_proof.membership import Membership
from chatd_proof.observed import Attempt, Observed, Place, Send, Session, name_of, place_of
from chatd_proof.verdict import Verdict

NUMBERED = frozenset({"message", "edit", "delete", "reaction"})
"""Kinds of events that come of a change with a ``cseq``."""


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

    def judge(self) -> Verdict:
        """Everything that is wrong with the history, and what it does not tell; once."""
        verdict = self._observed.verdict
        for conv, log in self._observed.log.items():
            if conv not in self._observed.memberships:
                self._observed.memberships[conv] = Membership.of_log(log.values())
        self._judge_log()
        self._judge_acks()
        self._judge_membership_changes()
        self._judge_real_time()
        had: dict[tuple[str, str, str], int] = {}
        for name, session in self._observed.sessions.items():
            self._judge_session(name, session, had)
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
        unknown = sorted(conv for conv, membership in self._observed.memberships.items() if not membership.known)
        if unknown:
            missing.append(f"who is in {', '.join(unknown[:5])} (no `created` event, no `described` record)")

    def _judge_log(self) -> None:
        """Holes, what is stored twice, what nobody sent, and the order of each sender."""
        by_content: dict[str, list[Send]] = defaultdict(list)
        for send in self._observed.attempts:
            by_content[send[3]].append(send)
        stored: dict[Send, Place] = {}
        for conv, log in self._observed.log.items():
            missing = [seq for seq in range(1, self._heads[conv] + 1) if seq not in log]
            if missing:
                self._observed.fault("holes", f"{conv} ends with {self._heads[conv]} and has no {_few(missing)}")
            self._judge_entries(conv, [log[seq] for seq in sorted(log)], by_content, stored)

    def _judge_entries(
        self, conv: str, entries: list[Stored], by_content: dict[str, list[Send]], stored: dict[Send, Place]
    ) -> None:
        last: dict[tuple[str, str], tuple[int, int]] = {}
        for entry in entries:
            self._observed.observe((conv, entry.seq), entry.content, "the log")
            self._judge_writer(entry)
            send = self._send_of(entry, by_content)
            if send is None:
                continue
            self._observed.verdict.looked_at["twice"] += 1
            if send in stored:
                self._observed.fault("twice", f"{name_of(send)} is stored at {place_of(stored[send])} and at {conv}:{entry.seq}")
            stored[send] = conv, entry.seq
            self._observed.verdict.looked_at["senders"] += 1
            before, where = last.get(send[:2], (0, 0))
            if send[2] < before:
                text = f"{send[0]}/{send[1]} sent cseq {send[2]} before {before}; {conv} has them at {entry.seq} and {where}"
                self._observed.fault("senders", text)
            last[send[:2]] = (send[2], entry.seq)

    def _judge_writer(self, entry: Stored) -> None:
        membership = self._observed.memberships[entry.conv]
        if entry.kind in NUMBERED and membership.known:
            self._observed.verdict.looked_at["intruders"] += 1
            if not membership.was_in(entry.sender, entry.seq):
                self._observed.fault("intruders", f"{entry.conv}:{entry.seq} is by {entry.sender}, who was not in it")

    def _send_of(self, entry: Stored, by_content: dict[str, list[Send]]) -> Send | None:
        """Which change this entry is; None where it is none that carries a number, or cannot be known any more."""
        if entry.kind not in NUMBERED or not entry.content:
            return None
        self._observed.verdict.looked_at["unasked"] += 1
        candidates = [send for send in by_content.get(entry.content, ()) if send[0] == entry.sender]
        place = (entry.conv, entry.seq)
        for send in candidates:
            if self._observed.attempts[send].acked == place:
                return send
        for send in candidates:
            attempt = self._observed.attempts[send]
            if attempt.open > 0 and attempt.acked is None:
                return send
        if candidates and any(self._observed.attempts[send].acked is not None for send in candidates):
            return candidates[0]  # acknowledged elsewhere: `twice`
        why = "was refused for good" if candidates else "nobody sent"
        self._observed.fault("unasked", f"{place_of(place)} holds what {why}: {entry.content}, from {entry.sender}")
        return None

    def _judge_acks(self) -> None:
        """Acknowledged and lost; seen and not stored."""
        for send, attempt in self._observed.attempts.items():
            if attempt.acked is not None:
                entry = self._entry(attempt.acked)
                if entry is None or entry.content not in ("", send[3]):
                    text = f"{name_of(send)} was acknowledged at {place_of(attempt.acked)}, and is not there"
                    self._observed.fault("lost", text)
        places: dict[str, list[int]] = defaultdict(list)
        for conv, seq in self._observed.seen:
            if self._entry((conv, seq)) is None:
                places[conv].append(seq)
        for conv, seqs in places.items():
            self._observed.fault("unstored", f"{conv} {_few(sorted(seqs))} was seen, and is not in the log")

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
        """What was acknowledged before another one was sent at all stands before it."""
        places = {a.acked: a for a in self._observed.attempts.values() if a.acked is not None}
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

    def _judge_session(self, name: str, session: Session, had: dict[tuple[str, str, str], int]) -> None:
        for conv, ranges in session.streams.items():
            membership = self._observed.memberships.get(conv)
            if membership is None:
                continue  # nothing of it is stored: told already
            device = (session.user, session.device, conv)
            self._judge_order(name, conv, ranges, membership, session, had.get(device))
            for first, last in ranges:
                self._observed.verdict.looked_at["non_member"] += last - first + 1
                if strange := membership.hidden(session.user, first, last):
                    self._observed.fault("non_member", f"session {name} of {session.user} received {conv} {_few(strange)}")
            had[device] = max(had.get(device, 0), ranges[-1][1])
        if name in self._observed.at_end:
            self._judge_end(name, session)

    def _judge_order(
        self, name: str, conv: str, ranges: list[list[int]], membership: Membership, session: Session, had: int | None
    ) -> None:
        """Each range begins with what this user may see next after the one before."""
        before = session.positions.get(conv, had)
        if before is not None and before > self._heads[conv]:
            before = None  # beyond the end: wherever the end was when the session began
        at_most = conv not in session.positions  # a cursor may lag behind what the device had
        for first, last in ranges:
            self._observed.verdict.looked_at["order"] += last - first + 1
            if before is not None:
                expected = membership.next_visible(session.user, before)
                if first > expected or (first < expected and not at_most):
                    what = "skipped to" if first > expected else "went back to"
                    self._observed.fault("order", f"session {name} {what} {conv}:{first}, {expected} was next")
            before, at_most = last, False

    def _judge_end(self, name: str, session: Session) -> None:
        for conv, membership in self._observed.memberships.items():
            if conv not in self._heads or not membership.is_in(session.user):
                continue
            ranges = session.streams.get(conv)
            if ranges is None and conv not in session.positions:
                continue  # where it began is the server's to know
            self._observed.verdict.looked_at["unseen"] += 1
            last, head = ranges[-1][1] if ranges else session.positions[conv], self._heads[conv]
            if last < head:
                text = f"session {name} of {session.user} was live at the end, and has {conv} to {last} of {head}"
                self._observed.fault("unseen", text)


def _by_seq(entry: tuple[int, Attempt]) -> int:
    return entry[0]


def _few(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown if len(numbers) <= 5 else f"{shown} and {len(numbers) - 5} more"
