"""What a history holds, gathered for judgement: the attempts, the sessions and what they received, the log. Pure.

What is wrong as soon as it is seen (two contents at one place, two acks for one change) is a fault at once; the rest is
``checker``'s, who knows the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from sys import maxsize
from typing import NamedTuple

from chatd_proof.history import (
    LIMIT,
    UNKNOWN_CODES,
    Acked,
    Answered,
    Asked,
    Began,
    Closed,
    Delivered,
    Described,
    Happened,
    Opened,
    Record,
    Refused,
    Sent,
    Settled,
    Stored,
    WentLive,
)
from chatd_proof.membership import Membership
from chatd_proof.verdict import Fault, Verdict

Place = tuple[str, int]
"""A conversation and a ``seq`` in it."""
Device = tuple[str, str]
"""A user, and the name of one of their devices."""


class Send(NamedTuple):
    """One change, however often it was asked for."""

    user: str
    device: str
    cseq: int
    content: str
    to: str
    kind: str

    @property
    def sender(self) -> Device:
        """The device that said it."""
        return self.user, self.device


class Welcome(NamedTuple):
    """What a device was told to be stored of it, and in which session. ``moment``: the number of the record."""

    moment: int
    cseq: int
    session: str


@dataclass
class Session:
    """``over``: the number of the record that closed it."""

    user: str
    device: str
    positions: dict[str, int]
    opened_at: float = 0.0
    streams: dict[str, list[list[int]]] = field(default_factory=dict)
    """By conversation: the ranges [first, last] that it received, in the order of receiving, each without a hole."""
    asked: dict[int, Send] = field(default_factory=dict)
    live_at: float = float("inf")
    closed_at: float = -1.0
    over: int = maxsize


@dataclass
class Attempt:
    """What became of one change. ``asked``: the number of the record that asked for it first; ``last_in``: the session that did
    so last. ``open``: times that it was asked for, without a definite no. ``known``: the number of the record that acknowledged
    it."""

    first_at: float
    asked: int
    last_in: Session
    open: int = 0
    acked: Place | None = None
    acked_at: float = float("inf")
    known: int = maxsize


class Observed:
    """Give it every record, in order (``feed``). Memory: the changes and the log, and for each session and conversation the
    ranges that it received; not the deliveries."""

    def __init__(self) -> None:
        self.verdict = Verdict()
        self.sessions: dict[str, Session] = {}
        self.attempts: dict[Send, Attempt] = {}
        self.seen: dict[Place, str] = {}
        self.log: dict[str, dict[int, Stored]] = defaultdict(dict)
        self.member_requests: dict[tuple[str, int], Asked] = {}
        self.memberships: dict[str, Membership] = {}
        self.described: dict[str, Membership] = {}
        self.welcomes: dict[Device, list[Welcome]] = defaultdict(list)
        self.first_opened: dict[Device, float] = {}
        self.emptied: dict[Place, str] = {}
        """Who saw it without a body."""
        self.out_at: dict[Place, float] = {}
        """When the first of all received it."""
        self._gone: dict[Device, float] = {}
        self._records = 0
        self.settled = False
        self.at_end: set[str] = set()
        self._first_at: float | None = None
        self._last_at = 0.0

    @property
    def seconds(self) -> float:
        """From the first record to the last."""
        return self._last_at - (self._first_at or 0.0)

    # --- what was recorded ----------------------------------------------------------------------

    def feed(self, record: Record) -> None:
        """Take one record in."""
        self._records += 1
        match record:
            case Stored():
                self._stored(record)
            case Described():
                self.described[record.conv] = Membership.always(record.members)
            case Began():
                self.verdict.source = record.source
            case _:
                self._first_at = record.at if self._first_at is None else self._first_at
                self._last_at = record.at
                self._happened(record)

    def _happened(self, record: Happened) -> None:
        match record:
            case Delivered():
                self._delivered(record)
            case Sent():
                self._sent(record)
            case Acked():
                self._acked(record)
            case Refused():
                self._refused(record)
            case Opened() | WentLive() | Closed():
                self._came_or_went(record)
            case Asked():
                self.member_requests[record.session, record.id] = record
            case Answered():
                self._answered(record)
            case Settled():
                self.settled = True
                self.at_end = {name for name, one in self.sessions.items() if one.live_at <= record.at and one.closed_at < 0}

    def _came_or_went(self, record: Opened | WentLive | Closed) -> None:
        match record:
            case Opened():
                self._opened(record)
            case WentLive():
                self._went_live(record)
            case Closed():
                self._closed(record)

    def _opened(self, record: Opened) -> None:
        if record.session in self.sessions:
            self.verdict.not_told.append(f"which session {record.session} is: two were opened under this name")
        device = (record.user, record.device)
        self.sessions[record.session] = Session(*device, record.positions, record.at)
        self.welcomes[device].append(Welcome(self._records, record.cseq, record.session))
        self.first_opened.setdefault(device, record.at)

    def _session(self, name: str) -> Session:
        session = self.sessions.get(name)
        if session is None:
            self.verdict.not_told.append(f"session {name} did something before it was opened")
            session = self.sessions[name] = Session("", "", {})
        return session

    def _sent(self, record: Sent) -> None:
        session = self._session(record.session)
        send = Send(session.user, session.device, record.cseq, record.content, record.to, record.kind)
        attempt = self.attempts.get(send)
        if attempt is None:
            attempt = self.attempts[send] = Attempt(record.at, self._records, session)
            self.verdict.figures["changes"] += 1
        attempt.open += 1
        attempt.last_in = session
        session.asked[record.cseq] = send

    def _acked(self, record: Acked) -> None:
        self.verdict.looked_at["lost"] += 1
        session, place = self._session(record.session), (record.conv, record.seq)
        if not self._is_place(*place, f"session {record.session}"):
            return
        send = session.asked.get(record.cseq)
        if not record.repeat:
            self._received(session, record)
        if send is None:
            if not record.repeat:
                self.fault("unasked", f"{record.session} got an ack of cseq {record.cseq}, which it never sent")
            return
        attempt = self.attempts[send]
        if attempt.acked not in (None, place):
            self.fault("twice", f"{name_of(send)} is acknowledged at {place_of(place)} and at {place_of(attempt.acked)}")
        attempt.acked = place
        attempt.acked_at = min(attempt.acked_at, record.at)
        attempt.known = min(attempt.known, self._records)
        self.observe(place, send.content, f"the ack of {name_of(send)}")

    def _refused(self, record: Refused) -> None:
        self.verdict.figures["refused"] += 1
        self.verdict.refusals[record.code] += 1
        send = self._session(record.session).asked.get(record.cseq)
        if send is not None and record.code not in UNKNOWN_CODES:
            self.attempts[send].open -= 1

    def _delivered(self, record: Delivered) -> None:
        self.verdict.looked_at["unstored"] += 1
        session, place = self._session(record.session), (record.conv, record.seq)
        if self._is_place(*place, f"session {record.session}"):
            self._received(session, record)
            self.observe(place, record.content, f"session {record.session}")
            if not record.content:
                self.emptied.setdefault(place, f"session {record.session}")

    def _received(self, session: Session, record: Delivered | Acked) -> None:
        conv, seq, at = record.conv, record.seq, record.at
        if session.closed_at >= 0:
            self.fault("order", f"session {record.session} received {conv}:{seq} after it was closed")
        out_at = self.out_at[conv, seq] = min(at, self.out_at.get((conv, seq), at))
        if session.live_at < out_at:
            self.verdict.behind_ms[round((at - out_at) * 1000)] += 1
        ranges = session.streams.setdefault(conv, [])
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1][1] = seq
        else:
            ranges.append([seq, seq])

    def observe(self, place: Place, content: str, who: str) -> None:
        """Somebody saw this content there; all have to see the same."""
        self.verdict.looked_at["contents"] += 1
        known = self.seen.setdefault(place, content)
        if content and known != content:
            if known:
                self.fault("contents", f"{place_of(place)} is {content} for {who}, and was {known} for another one")
            else:
                self.seen[place] = content

    def _went_live(self, record: WentLive) -> None:
        session = self._session(record.session)
        session.live_at = record.at
        gone = self._gone.pop((session.user, session.device), None)
        if gone is not None:
            self.verdict.away_seconds.append(record.at - gone)

    def _closed(self, record: Closed) -> None:
        session = self._session(record.session)
        session.closed_at, session.asked, session.over = record.at, {}, self._records
        if session.live_at <= record.at:
            self._gone[session.user, session.device] = record.at

    def _answered(self, record: Answered) -> None:
        asked = self.member_requests.get((record.session, record.id))
        if asked is None:
            self.verdict.not_told.append(f"session {record.session} got an answer to {record.id}, which it never asked")
        elif record.code:
            del self.member_requests[record.session, record.id]
        else:
            self.verdict.looked_at["members"] += 1
            self.verdict.done.append(asked)

    def _stored(self, record: Stored) -> None:
        self.verdict.looked_at["holes"] += 1
        if not self._is_place(record.conv, record.seq, "the log"):
            return
        of_conv = self.log[record.conv]
        known = of_conv.get(record.seq)
        if known is None:
            of_conv[record.seq] = record
        elif (known.kind, known.sender, known.content) != (record.kind, record.sender, record.content):
            self.fault(
                "contents", f"{record.conv}:{record.seq} is {record.content or record.kind} for the reader {record.reader}, and "
                f"{known.content or known.kind} for the reader {known.reader}",
            )  # fmt: skip

    def _is_place(self, conv: str, seq: int, who: str) -> bool:
        if not 0 < seq < LIMIT:
            self.fault("holes", f"{who} has {conv}:{seq}, and a log has no such place")
        return 0 < seq < LIMIT

    def fault(self, kind: str, text: str) -> None:
        self.verdict.add(Fault(kind, text))


def name_of(send: Send) -> str:
    """A change, for people."""
    return f"{send.user}/{send.device} cseq {send.cseq} ({send.content})"


def place_of(place: Place | None) -> str:
    return "nowhere" if place is None else f"{place[0]}:{place[1]}"


def few(ranges: Iterable[tuple[int, int]]) -> str:
    """Numbers for people, given as ranges [first, last]; the first five of the ranges."""
    told = [str(first) if first == last else f"{first} to {last}" for first, last in ranges]
    return ", ".join(told[:5]) + (f" and {len(told) - 5} more" if len(told) > 5 else "")


def gaps(numbers: Iterable[int], after: int = 0) -> list[tuple[int, int]]:
    """What is missing between ``after`` and the last of the numbers, as ranges [first, last]."""
    found = []
    for number in sorted(numbers):
        if number > after + 1:
            found.append((after + 1, number - 1))
        after = max(after, number)
    return found
