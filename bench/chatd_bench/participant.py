"""One connection of ``outage``: chats, types, marks what it got, watches others, and checks every message that comes.

Judged at once: the next ``seq`` of the conversation, the same event under it as everybody else got, the body as sent, acks of
what was sent and once each, nobody shown as gone who is there, typing that lasts too long. Who shares a conversation is in
one generator process, so what they saw is compared directly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from chatd_bench import wire
from chatd_bench.connection import Connection, RunFailed
from chatd_bench.histogram import Histogram

MARK_EVERY = 4
"""Events of a conversation that one mark covers: ``delivered`` and ``read`` take turns."""
TYPING_SECONDS = 20.0
"""How long one may be shown as typing who said so once: a lease of 6 s, the 2 s in which a renewal is not told again, and a
busy machine."""


class Part(Enum):
    """What somebody does beside being there."""

    CHATS = "chats"
    LEFT = "left"  # before the outage, so that the server takes them for gone in the middle of it
    LEAVES = "leaves"  # in the middle of the outage
    GOES_AWAY = "goes away"  # from the screen, in the outage
    RETURNS = "returns"  # to the screen, in the outage


class Phase:
    """What happened to the messages that were due from ``since`` on, in microseconds of the monotonic clock."""

    def __init__(self, name: str, since: int) -> None:
        self.name = name
        self.since = since
        self.sent = self.acked = self.delivered = 0
        self.last_arrival = since
        self.ack_latency, self.delivery_latency = Histogram(), Histogram()

    def arrived(self, latency: Histogram, due: int, now: int) -> None:
        """An ack, or a delivery."""
        latency.record(now - due)
        self.last_arrival = max(self.last_arrival, now)


@dataclass
class Conversation:
    """A conversation as all its members saw it. ``log``: sender and cseq by seq; ``head`` the greatest of them.

    ``base``: events that are nobody's message, a group's ``created``.
    """

    base: int
    conv: str = ""
    head: int = 0
    acked: int = 0
    members: list[Participant] = field(default_factory=list)
    log: dict[int, tuple[str, int]] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)

    def saw(self, who: str, seq: int, sender: str, cseq: int) -> None:
        """Somebody was given this message. Raises RunFailed when it is not what others were given."""
        known = self.log.get(seq)
        if known is None:
            if cseq <= self.newest.get(sender, 0):
                raise RunFailed(f"{who}: {sender}'s cseq {cseq} comes as seq {seq}, after a later one")
            self.newest[sender] = cseq
            self.log[seq] = (sender, cseq)
            self.head = max(self.head, seq)
        elif known != (sender, cseq):
            raise RunFailed(f"{who}: seq {seq} is {sender}'s cseq {cseq}, for others {known[0]}'s {known[1]}")


class Room:
    """What all participants of a generator share."""

    def __init__(self, body_bytes: int) -> None:
        self.body_bytes = body_bytes
        self.phases: list[Phase] = []
        self.groups: dict[str, Conversation] = {}
        self.acked: list[tuple[str, int]] | None = None
        self.strict = False
        self.typing = self.longest_typing = 0.0
        self.presence_moved = 0.0
        self.presences = 0

    def phase_of(self, due: int) -> Phase:
        """Where a message belongs: by when it was due, not by when it arrived."""
        return next(phase for phase in reversed(self.phases) if phase.since <= due)


class Participant(Connection):
    """One user, in a group and in a 1:1 conversation. ``status``: what others must be shown, as far as it is settled."""

    def __init__(self, name: str, part: Part, group: Conversation, dm: Conversation, room: Room) -> None:
        super().__init__(name)
        self.part = part
        self.group, self.dm = group, dm
        self.room = room
        self.status: str | None = "online"
        self.open = True
        self.cseq = 0
        self.position: dict[str, int] = {}
        self.sent: dict[int, tuple[int, Conversation]] = {}
        self.shown: dict[str, str] = {}
        self.typists: dict[tuple[str, str], float] = {}
        group.members.append(self)
        dm.members.append(self)

    # --- what it says ---------------------------------------------------------------------------

    def speak(self, conversation: Conversation, due: int) -> None:
        """Send a message that was due at this moment, in microseconds: what it waited since then is its latency, too."""
        self.cseq += 1
        self.sent[self.cseq] = (due, conversation)
        self.room.phase_of(due).sent += 1
        body = wire.stamped(self.room.body_bytes, self.cseq, due)
        self.tell({"t": "send", "cseq": self.cseq, "to": conversation.conv or f"@{self.partner.name}", "body": body})
        self.flush()

    @property
    def partner(self) -> Participant:
        """The other one of the 1:1 conversation."""
        one, other = self.dm.members
        return other if one is self else one

    def type(self, conversation: Conversation) -> None:
        """Say that the user types there."""
        if conversation.conv:
            self.tell({"t": "typing", "conv": conversation.conv, "on": True})
            self.flush()

    def be_at_screen(self, active: bool) -> None:
        """Leave the screen, or return to it."""
        self.beats += 1
        self.tell({"t": "heartbeat", "active": active})
        self.flush()

    def watch(self) -> None:
        """All with whom it shares a conversation."""
        others = {member.name for conversation in (self.group, self.dm) for member in conversation.members}
        self.tell({"t": "watch", "users": sorted(others - {self.name})})
        self.flush()

    # --- what it is told ------------------------------------------------------------------------

    def _message(self, message: dict[str, Any], now: int) -> None:
        kind = message["t"]
        if kind == "presence":
            self._presence(message["user"], message["status"])
        elif kind == "typing":
            self._typing((message["conv"], message["user"]), on=message["on"])
        else:
            super()._message(message, now)

    def _presence(self, user: str, status: str) -> None:
        room = self.room
        room.presences += 1
        if self.shown.get(user) == status:
            return
        self.shown[user] = status
        room.presence_moved = time.monotonic()
        if room.strict and status != "online":
            shown = next(member for member in (*self.group.members, *self.dm.members) if member.name == user)
            if shown.part is Part.CHATS:
                raise RunFailed(f"{self.name}: was shown {user} as {status}, who was there all the time")

    def _typing(self, key: tuple[str, str], *, on: bool) -> None:
        if on:
            self.typists[key] = time.monotonic()
        elif key in self.typists:
            self.judge_typing(key, time.monotonic() - self.typists.pop(key))

    def judge_typing(self, key: tuple[str, str], seconds: float) -> None:
        """Somebody was, or is shown as typing for so long. Raises RunFailed."""
        self.room.longest_typing = max(self.room.longest_typing, seconds)
        if seconds > TYPING_SECONDS:
            raise RunFailed(f"{self.name}: {key[1]} was shown as typing for {seconds:.1f} s, at most {TYPING_SECONDS:.0f}")

    def event(self, message: dict[str, Any], now: int) -> None:
        if message["kind"] == "created":
            self.group.conv = message["conv"]
            self._advance(message["conv"], message["seq"])
            return
        stamp = wire.stamp_of(message.get("body"), self.room.body_bytes)
        if message["kind"] != "message" or stamp is None:
            raise RunFailed(f"{self.name}: not what was sent: {message}")
        conversation = self._conversation(message["conv"], message["from"])
        self._advance(message["conv"], message["seq"])
        conversation.saw(self.name, message["seq"], message["from"], stamp[0])
        phase = self.room.phase_of(stamp[1])
        phase.delivered += 1
        phase.arrived(phase.delivery_latency, stamp[1], now)
        self._mark(message["conv"], message["seq"])

    def _conversation(self, conv: str, sender: str) -> Conversation:
        if conv == self.group.conv:
            return self.group
        if sender != self.partner.name or self.dm.conv not in ("", conv):
            raise RunFailed(f"{self.name}: a message of {sender}'s in {conv}, where it is not")
        self.dm.conv = conv
        return self.dm

    def _advance(self, conv: str, seq: int) -> None:
        before = self.position.get(conv, 0)
        if seq != before + 1:
            raise RunFailed(f"{self.name}: got seq {seq} of {conv} after {before}")
        self.position[conv] = seq

    def _mark(self, conv: str, seq: int) -> None:
        if seq % MARK_EVERY == 0:
            self.tell({"t": "read" if seq % (2 * MARK_EVERY) else "delivered", "conv": conv, "seq": seq})

    def ack(self, message: dict[str, Any], now: int) -> None:
        cseq, conv, seq = message["cseq"], message["conv"], message["seq"]
        due, conversation = self.sent.pop(cseq, (0, self.dm))
        if not due or message.get("repeat") or conversation.conv not in ("", conv):
            raise RunFailed(f"{self.name}: an ack of what was not sent, or had its ack: {message}")
        conversation.conv = conv
        self._advance(conv, seq)
        conversation.saw(self.name, seq, self.name, cseq)
        conversation.acked += 1
        if self.room.acked is not None:
            self.room.acked.append((conv, seq))
        phase = self.room.phase_of(due)
        phase.acked += 1
        phase.arrived(phase.ack_latency, due, now)

    def answer(self, message: dict[str, Any]) -> None:
        self.group.conv = message["conv"]
