"""``presence``: users who are online, each watching some others, while some of them leave their screens and return.

Groups of ``watch`` + 1 members, so that everybody may know of everybody whom they watch; each group is one generator's. A
real socket for each user. What is sent is what a client sends when nobody writes: heartbeats, one per ``heartbeat_ms``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from chatd_bench.connection import Connection
from chatd_bench.load import DRAIN_SECONDS, Load, Plan

OPEN_SECONDS = 900.0
GROUPS_AT_ONCE = 10
SETTLE_SECONDS = 300.0
BEAT_SHARE = 0.9
"""Of ``heartbeat_ms``: a client has to be a little early."""


class Watcher(Connection):
    """One user."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.made = False
        self.active = True

    def _message(self, message: dict[str, Any], now: int) -> None:
        super()._message(message, now)
        if message["t"] == "welcome":
            self.heartbeat_s = message["heartbeat_ms"] / 1000 * BEAT_SHARE

    def event(self, message: dict[str, Any], now: int) -> None:
        """That its group began."""

    def answer(self, message: dict[str, Any]) -> None:
        self.made = True

    def leave_or_return(self) -> None:
        """The other one of: somebody is at the screen, nobody is."""
        self.active = not self.active
        self.beats += 1
        self.tell({"t": "heartbeat", "active": self.active})
        self.flush()


class PresenceLoad(Load):
    """This generator's groups."""

    def __init__(self, plan: Plan, progress: Callable[[int], None]) -> None:
        super().__init__(plan)
        self.groups: list[list[Watcher]] = []
        self.expected = 0

    def open(self) -> None:
        """Connect everybody."""
        users, size = self.plan.parameters["users"], self.plan.parameters["watch"] + 1
        fresh: dict[Connection, int] = {}
        for group, first in enumerate(range(0, users, size)):
            if group % self.plan.generators == self.plan.generator:
                numbers = range(first, min(first + size, users))
                self.groups.append([Watcher(f"{self.plan.run_id}-{number}") for number in numbers])
                fresh.update(zip(self.groups[-1], numbers, strict=True))
        self.loop.open(list(fresh), lambda connection: self.connect(connection, fresh[connection]), OPEN_SECONDS)

    def acquaint(self) -> None:
        """Make the groups."""
        for at in range(0, len(self.groups), GROUPS_AT_ONCE):
            owners = []
            for owner, *others in self.groups[at : at + GROUPS_AT_ONCE]:
                owner.tell({"t": "create", "id": 1, "title": "presence", "members": [other.name for other in others]})
                owner.flush()
                owners.append(owner)
            self.loop.turn_until(partial(_all_made, owners), SETTLE_SECONDS, "groups")

    def watch(self) -> dict[str, float]:
        """Everybody watches the rest of the group, at once; how long it takes until all have been told of all."""
        began = time.monotonic()
        for group in self.groups:
            names = [member.name for member in group]
            for member in group:
                member.tell({"t": "watch", "users": [name for name in names if name != member.name]})
                member.flush()
            self.expected += len(group) * (len(group) - 1)
            self.loop.turn(0)
        self.loop.turn_until(lambda: self.loop.others >= self.expected, SETTLE_SECONDS, "who is there")
        return {"seconds": time.monotonic() - began}

    def hold(self, seconds: float, changes_per_s: float) -> dict[str, float]:
        """Be there; now and then one leaves the screen, or returns."""
        self.expected = self.loop.others
        turns = range(len(self.groups[0]))
        everyone = [member for turn in turns for group in self.groups for member in group[turn : turn + 1]]
        start, cpu, before = time.monotonic(), time.process_time(), self.loop.others
        beats = sum(member.beats for member in everyone)
        changes = 0
        while (now := time.monotonic()) < start + seconds:
            while changes < (now - start) * changes_per_s:
                member = everyone[changes % len(everyone)]
                member.leave_or_return()
                changes += 1
            self.loop.turn(min(1 / max(changes_per_s, 1.0), start + seconds - now))
        sizes = {member: len(group) for group in self.groups for member in group}
        self.expected += sum(sizes[everyone[number % len(everyone)]] - 1 for number in range(changes))
        return {
            "seconds": time.monotonic() - start, "cpu_s": time.process_time() - cpu, "changes": changes,
            "presences": self.loop.others - before, "heartbeats": sum(member.beats for member in everyone) - beats,
        }  # fmt: skip

    def check(self) -> dict[str, int]:
        """Wait until every change has been told to everybody who watches, and every heartbeat is answered."""
        everyone = [member for group in self.groups for member in group]
        self.loop.turn_until(lambda: self.loop.others >= self.expected, DRAIN_SECONDS, "changes")
        answered = lambda: all(member.answers == member.beats for member in everyone)  # noqa: E731
        self.loop.turn_until(answered, DRAIN_SECONDS, "answers to heartbeats")
        more = self.loop.others - self.expected
        return {"users_online": len(everyone), "presences_received": self.loop.others, "more_than_changed": more}


def _all_made(owners: list[Watcher]) -> bool:
    return all(owner.made for owner in owners)
