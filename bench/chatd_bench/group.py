"""``group``: one group with all its members connected, some of whom send with a window in flight.

The first copy of an event to arrive is decoded and checked: the next ``seq``, the sender's next ``cseq``, the body as
sent. Every other member must get the very same bytes, at the same place of its own stream. At the end all members stand
at the same ``seq``: the group's first event and every acknowledged message.
"""

from __future__ import annotations

from collections import deque
from time import monotonic_ns
from typing import Any, NamedTuple

import cbor2

from chatd_bench import websocket, wire
from chatd_bench.connection import Connection, RunFailed
from chatd_bench.dm import MARK_EVERY, OPEN_SECONDS
from chatd_bench.histogram import BUCKET_US, BUCKETS
from chatd_bench.load import DRAIN_SECONDS, Load, Plan

KEPT_EVENTS = 16384
"""Events that wait for the slowest member: twice what a server's outbox holds of them."""


class Copy(NamedTuple):
    """An event as its first recipient got it: the whole frame, and when its message was sent."""

    frame: bytes
    sent: int


class Member(Connection):
    """One member; a sender as well when ``window`` is not 0."""

    __slots__ = ("_copy", "_sent", "_template", "acked", "cseq", "load", "marked", "seq", "window")

    def __init__(self, name: str, window: int, load: GroupLoad) -> None:
        super().__init__(name)
        self.load = load
        self.window = window
        self.cseq = self.acked = self.seq = self.marked = 0
        self._sent: deque[int] = deque()
        self._copy = b""
        self._template: wire.SendTemplate | None = None

    def send_next(self) -> None:
        """Queue the next message to the group."""
        if self._template is None:
            self._template = wire.SendTemplate(self.load.conv, self.load.body_bytes, self.key)
        self.cseq += 1
        now = monotonic_ns() // 1000
        self._sent.append(now)
        self.out.append(self._template.frame(self.cseq, now))
        self.load.tally.sent_total += 1

    def feed(self, data: bytes, now: int) -> int:
        """Take complete frames: first as many copies of known events as follow each other, else one by decoding it."""
        at, copies, seq = 0, self.load.copies, self.seq
        while True:
            copy = copies.get(seq + 1)
            if copy is not None and data.startswith(copy[0], at):
                seq += 1
                at += len(copy[0])
                self._delivered(now - copy[1])
                continue
            self.seq = seq
            found = websocket.find_frame(data, at)
            if found is None:
                break
            self._copy = data[at : found[1]]
            self.frame(data, at, *found, now)
            at, seq = found[1], self.seq
        if seq - self.marked >= MARK_EVERY:
            self.marked = seq
            self.tell({"t": "delivered", "conv": self.load.conv, "seq": seq})
        return at

    def _delivered(self, age: int) -> None:
        tally = self.load.tally
        tally.delivered_total += 1
        if tally.measuring:
            tally.delivered += 1
            bucket = age // BUCKET_US
            tally.delivery_latency.counts[bucket if 0 <= bucket < BUCKETS else -1] += 1

    def event(self, message: dict[str, Any], now: int) -> None:
        """An event that is not a copy of a known one."""
        if message["seq"] != self.seq + 1:
            raise RunFailed(f"{self.name}: got seq {message['seq']} after {self.seq}")
        self.seq += 1
        load = self.load
        if message["kind"] != "message" and not load.conv:
            load.conv = message["conv"]
        elif message["kind"] == "message":
            self._delivered(now - load.judge(message, self._copy))

    def ack(self, message: dict[str, Any], now: int) -> None:
        """An ack; it stands in the place of the event."""
        seq, cseq = message["seq"], message["cseq"]
        if message["conv"] != self.load.conv or (seq, cseq) != (self.seq + 1, self.acked + 1) or message.get("repeat"):
            raise RunFailed(f"{self.name}: after seq {self.seq} and cseq {self.acked}: {message}")
        self.seq, self.acked = seq, cseq
        tally = self.load.tally
        tally.acked_total += 1
        sent = self._sent.popleft()
        if tally.measuring:
            tally.acked += 1
            tally.ack_latency.record(now - sent)
        if self.load.sending:
            self.send_next()

    def answer(self, message: dict[str, Any]) -> None:
        """The group is there."""
        self.load.conv = message["conv"]


class GroupLoad(Load):
    """This generator's members. Senders are spread over the generators; the owner is the first member of the first."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.body_bytes = plan.parameters["body_bytes"]
        self.conv = ""
        self.copies: dict[int, Copy] = {}
        self._cseqs: dict[str, int] = {}
        count, senders = plan.parameters["members"], plan.parameters["senders"]
        self.names = [f"{plan.run_id}-{number}" for number in range(count)]
        self._senders = frozenset(self.names[:senders])
        window = plan.parameters["window"]
        self.members = [
            Member(self.names[number], window if number < senders else 0, self)
            for number in range(plan.generator, count, plan.generators)
        ]

    def judge(self, message: dict[str, Any], frame: bytes) -> int:
        """Check a message event of the group against what its other recipients got; return when it was sent."""
        seq = message["seq"]
        stamp = wire.stamp_of(message.get("body"), self.body_bytes)
        said = (message["conv"], message.get("type"), message["from"] in self._senders)
        if stamp is None or said != (self.conv, "text", True):
            raise RunFailed(f"not what was sent: {message}")
        cseq, sent = stamp
        known = self.copies.get(seq)
        if known is not None:
            found = websocket.find_frame(known.frame, 0)
            assert found is not None, "only whole frames are kept"
            if cbor2.loads(known.frame[slice(*found)]) != message:
                raise RunFailed(f"two members got different events as seq {seq}: {message}")
            return sent
        before = self._cseqs.get(message["from"], 0)
        # Exactly the next: who gets this event first got all before it, unless they were its own, which these are not.
        if cseq != before + 1:
            raise RunFailed(f"cseq {cseq} of {message['from']} came after {before}, as seq {seq}")
        self._cseqs[message["from"]] = cseq
        self.copies[seq] = Copy(frame, sent)
        self.copies.pop(seq - KEPT_EVENTS, None)
        return sent

    def open(self) -> None:
        """Open all connections."""
        first = self.plan.generator
        numbers = {id(member): first + place * self.plan.generators for place, member in enumerate(self.members)}
        self.loop.open(self.members, lambda member: self.connect(member, numbers[id(member)]), OPEN_SECONDS)

    def create(self) -> str:
        """Make the group, once every generator's members have been connected and so exist; return its id."""
        owner = self.members[0]
        owner.tell({"t": "create", "id": 1, "title": self.plan.run_id, "members": self.names[1:]})
        owner.flush()
        self.loop.turn_until(lambda: bool(self.conv), OPEN_SECONDS, "creation of the group")
        return self.conv

    def join(self, conv: str) -> None:
        """Wait until every member here has the group's first event."""
        self.conv = conv
        self.loop.turn_until(lambda: all(member.seq == 1 for member in self.members), OPEN_SECONDS, "the first event")

    def begin(self) -> None:
        """Fill the senders' windows."""
        for member in self.members:
            for _ in range(member.window):
                member.send_next()
            if member.out:
                member.flush()

    def check(self, acked: int) -> dict[str, int]:
        """Wait until every member here has all that was acknowledged, to whichever generator; and nothing else."""
        last = 1 + acked
        self.loop.turn_until(lambda: all(m.seq >= last for m in self.members), DRAIN_SECONDS, "the last deliveries")
        self.loop.turn(0.2)  # for what may come too often
        for member in self.members:
            if member.seq != last:
                raise RunFailed(f"{member.name}: stands at seq {member.seq}, and {last} were stored")
        for name, cseq in self._cseqs.items():
            sender = next((member for member in self.members if member.name == name), None)
            if sender is not None and sender.acked != cseq:
                raise RunFailed(f"{name}: {sender.acked} acked, the others got cseq {cseq}")
        return {"messages_checked": self.tally.acked_total, "deliveries_checked": self.tally.delivered_total}
