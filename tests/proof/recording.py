"""Histories as they should be, made by hand: a group, who comes and goes, and what a right server tells them."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatd_proof.history import (
    Acked,
    Answered,
    Asked,
    Closed,
    Delivered,
    Described,
    Opened,
    Record,
    Refused,
    Sent,
    Settled,
    Stored,
    WentLive,
)
from msgspec.structs import replace

USERS = ("ann", "ben", "cyd")


@dataclass
class Recording:
    """A group as it should be: what is said is acknowledged, and received by all who are in it and have a session.
    ``by_cursor``: nobody tells what they have."""

    records: list[Record] = field(default_factory=list)
    log: list[Stored] = field(default_factory=list)
    members: list[str] = field(default_factory=lambda: list(USERS))
    sessions: dict[str, str] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)
    cseqs: dict[str, int] = field(default_factory=dict)
    now: float = 0.0
    by_cursor: bool = False

    def tick(self) -> float:
        self.now += 1
        return self.now

    def note(self, record: Record) -> None:
        self.records.append(record)

    def append(self, kind: str, sender: str, content: str, users: tuple[str, ...] = ()) -> int:
        self.log.append(Stored("g", len(self.log) + 1, kind, sender, content, list(users)))
        return len(self.log)

    def open(self, user: str, number: int = 1) -> None:
        """With what it has already, so that it receives the rest."""
        session = self.sessions[user] = f"{user}{number}"
        have = self.heads.get(user, 0)
        self.note(Opened(self.tick(), session, user, "d", self.cseqs.get(user, 0), {} if self.by_cursor else {"g": have}))
        for entry in self.log[have:]:
            self.receive(user, entry)
        self.note(WentLive(self.tick(), session))

    def receive(self, user: str, entry: Stored) -> None:
        self.note(Delivered(self.tick(), self.sessions[user], "g", entry.seq, entry.content))
        self.heads[user] = entry.seq

    def close(self, user: str) -> None:
        self.note(Closed(self.tick(), self.sessions.pop(user), 1000))

    def say(self, user: str, *, fails: bool = False) -> None:
        """Once, or refused at first and said again."""
        cseq = self.cseqs[user] = self.cseqs.get(user, 0) + 1
        content = f"{user}-{cseq}"
        if fails:
            self.note(Sent(self.tick(), self.sessions[user], cseq, "g", content))
            self.note(Refused(self.tick(), self.sessions[user], cseq, "overloaded"))
        self.note(Sent(self.tick(), self.sessions[user], cseq, "g", content))
        seq = self.append("message", user, content)
        self.note(Acked(self.tick(), self.sessions[user], cseq, "g", seq))
        self.heads[user] = seq
        self.tell_others(user)

    def delete(self, user: str) -> None:
        """Their first message that is still there."""
        target = next(entry for entry in self.log if (entry.kind, entry.sender) == ("message", user) and entry.content)
        cseq = self.cseqs[user] = self.cseqs.get(user, 0) + 1
        content = f"without {target.seq}"
        self.note(Sent(self.tick(), self.sessions[user], cseq, "g", content, "delete"))
        seq = self.append("delete", user, content)
        self.log[target.seq - 1] = replace(target, content="")
        self.log[seq - 1] = replace(self.log[seq - 1], target=target.seq)
        self.note(Acked(self.tick(), self.sessions[user], cseq, "g", seq))
        self.heads[user] = seq
        self.tell_others(user)

    def tell_others(self, *but: str) -> None:
        for other in self.members:
            if other in self.sessions and other not in but:
                self.receive(other, self.log[-1])

    def move(self, what: str, user: str) -> None:
        """``add`` or ``remove`` by ann."""
        self.note(Asked(self.tick(), self.sessions["ann"], len(self.log), what, "g", [user]))
        if what == "add":
            self.members.append(user)
        number = len(self.log)
        self.append("joined" if what == "add" else "left", "ann", f"{what}-{len(self.log)}", (user,))
        self.tell_others()
        self.note(Answered(self.tick(), self.sessions["ann"], number))
        if what == "remove":
            self.members.remove(user)

    def end(self) -> list[Record]:
        self.note(Settled(self.tick()))
        return [*self.records, *self.log]


def sound() -> list[Record]:
    """Everything that may happen, as it should be."""
    recording = Recording()
    recording.append("created", "ann", "made", USERS)
    for user in USERS:
        recording.open(user)
    recording.say("ann")
    recording.say("ben", fails=True)
    recording.close("cyd")
    recording.say("ben")
    recording.open("cyd", 2)
    recording.move("remove", "cyd")
    recording.say("ann")
    recording.say("ben")
    recording.heads["cyd"] = 7  # what was said meanwhile is not theirs
    recording.move("add", "cyd")
    recording.say("cyd")
    recording.say("ann")
    return recording.end()


def returning() -> list[Record]:
    """Who tells no positions, comes and goes; something is deleted, and something is said to one alone."""
    members = (*USERS, "dan")
    recording = Recording(members=list(members), by_cursor=True)
    recording.append("created", "ann", "made", members)
    for user in members:
        recording.open(user)
    recording.say("ann")
    recording.say("ben")
    recording.close("ben")
    recording.say("ann")
    recording.delete("ann")
    recording.open("ben", 2)
    recording.say("ben")
    recording.say("cyd")
    recording.close("ann")
    recording.open("ann", 2)
    recording.say("ann")
    recording.close("cyd")
    recording.say("ann")
    recording.open("cyd", 2)
    recording.note(Sent(recording.tick(), "ann2", 6, "@ben", "psst"))
    recording.note(Acked(recording.tick(), "ann2", 6, "d", 1))
    recording.note(Delivered(recording.tick(), "ben2", "d", 1, "psst"))
    return [*recording.end(), Stored("d", 1, "message", "ann", "psst"), Described("d", ["ann", "ben"])]
