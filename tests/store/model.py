"""One group as a plain Python model: what the contract says, with lists and loops, and nothing of the store's own ways."""

from __future__ import annotations

from dataclasses import dataclass, field

WINDOW_MS = 1000


@dataclass
class Entry:
    """One event of the log; ``said`` and what follows it are a message's."""

    kind: str
    by: str
    at: int
    said: str = ""
    mentions: tuple[str, ...] = ()
    deleted: bool = False
    edits: int = 0
    reactions: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class Group:
    """``owner`` and ``members`` made it; each method tells the code of a refusal, ``event`` or ``done``."""

    owner: str
    members: tuple[str, ...]
    everything: bool
    log: list[Entry] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    stays: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._append("created", self.owner, 0)
        for name in {self.owner, *self.members}:
            self._enter(name)
        self.roles[self.owner] = "owner"

    def _append(self, kind: str, by: str, at: int, said: str = "", mentions: tuple[str, ...] = ()) -> str:
        self.log.append(Entry(kind, by, at, said, mentions))
        return "event"

    def _enter(self, name: str) -> None:
        self.roles[name] = "member"
        self.stays.setdefault(name, []).append((len(self.log), 2**53))
        self.read.setdefault(name, len(self.log) - 1)

    def sees(self, name: str) -> list[int]:
        """I8: the log of all one's memberships, each from ``joined`` to ``left``; or all up to the last."""
        stays = self.stays.get(name, [])
        if self.everything and stays:
            stays = [(1, stays[-1][1])]
        return [seq for seq in range(1, len(self.log) + 1) if any(first <= seq <= last for first, last in stays)]

    def _message(self, name: str, seq: int) -> Entry | None:
        if seq not in self.sees(name):
            return None
        entry = self.log[seq - 1]
        return entry if entry.kind == "message" and not entry.deleted else None

    def send(self, by: str, at: int, said: str, mentions: tuple[str, ...]) -> str:
        return self._append("message", by, at, said, mentions) if by in self.roles else "not_found"

    def edit(self, by: str, at: int, seq: int, said: str) -> str:
        if by not in self.roles or (entry := self._message(by, seq)) is None:
            return "not_found"
        if entry.by != by:
            return "forbidden"
        if at - entry.at >= WINDOW_MS:
            return "too_late"
        entry.edits += 1
        return self._append("edit", by, at, said)

    def delete(self, by: str, at: int, seq: int) -> str:
        if by not in self.roles or (entry := self._message(by, seq)) is None:
            return "not_found"
        if self.roles[by] == "member":
            if entry.by != by:
                return "forbidden"
            if at - entry.at >= WINDOW_MS:
                return "too_late"
        entry.deleted = True
        return self._append("delete", by, at)

    def react(self, by: str, at: int, seq: int, emoji: str, *, remove: bool) -> str:
        if by not in self.roles or (entry := self._message(by, seq)) is None:
            return "not_found"
        if remove and (emoji, by) not in entry.reactions:
            return "not_found"
        if remove:
            entry.reactions.remove((emoji, by))
        else:
            entry.reactions.add((emoji, by))
        return self._append("reaction", by, at)

    def join(self, by: str, at: int, name: str) -> str:
        if by not in self.roles:
            return "not_found"
        if self.roles[by] == "member":
            return "forbidden"
        if name in self.roles:
            return "done"
        self._append("joined", by, at)
        self._enter(name)
        return "event"

    def leave(self, by: str, at: int) -> str:
        if by not in self.roles:
            return "not_found"
        del self.roles[by]
        self._append("left", by, at)
        self.left[by] = len(self.log)
        self.stays[by][-1] = (self.stays[by][-1][0], len(self.log))
        return "event"

    def give_role(self, at: int, name: str, role: str) -> str:
        if name not in self.roles:
            return "not_found"
        if self.roles[name] == role:
            return "done"
        self.roles[name] = role
        return self._append("role", self.owner, at)

    def mark(self, by: str, seq: int) -> str:
        if by in self.read:
            self.read[by] = max(self.read[by], min(seq, len(self.log) if by in self.roles else self.left[by]))
        return "done"

    def unread(self, name: str) -> list[Entry]:
        """What ``name`` has not read (I10): messages after the mark, of others, that are not deleted."""
        after = [self.log[seq - 1] for seq in self.sees(name) if seq > self.read[name]]
        return [e for e in after if e.kind == "message" and e.by != name and not e.deleted]

    def mentions(self, name: str) -> int:
        return sum(name in entry.mentions for entry in self.unread(name))
