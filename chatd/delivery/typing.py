"""Who types where, and until when: leases of 6 s, merged over the devices that somebody types on. Pure.

``source`` is the device on this node, or ELSEWHERE for all of those on other nodes. A lease ends when it is not renewed,
when it is given up, and when the user has spoken. Bounded in leases and in what was asked for; beyond it nobody begins.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from chatd.timers import Timers

LEASE_SECONDS = 6.0
TELL_AGAIN_SECONDS = 2.0
"""A renewal is told again after so long: for those who came meanwhile, and against what was lost on the way."""
MAX_LEASES = 20_000
MAX_ASKED = 10_000
ELSEWHERE = -1

Lease = tuple[str, str, int]
"""(conv, user, source)"""

W = TypeVar("W")


class Asked(Generic[W]):
    """What was said since the last tick, the last word of each device in each conversation. ``W``: whoever says it."""

    def __init__(self, bound: int = MAX_ASKED) -> None:
        self._bound = bound
        self._count = 0
        self.convs: dict[str, dict[int, tuple[W, bool]]] = {}

    def __len__(self) -> int:
        return self._count

    def put(self, conv: str, source: int, who: W, on: bool) -> bool:
        """Keep it. False: there is no room for another."""
        asked = self.convs.get(conv)
        if asked is None or source not in asked:
            if self._count >= self._bound:
                return False
            self._count += 1
            asked = self.convs.setdefault(conv, {})
        asked[source] = (who, on)
        return True

    def drop(self, conv: str, source: int) -> None:
        """The device has spoken there."""
        asked = self.convs.get(conv)
        if asked is not None and asked.pop(source, None) is not None:
            self._count -= 1
            if not asked:
                del self.convs[conv]

    def take(self, conv: str) -> list[tuple[W, bool]]:
        """Take out what was said in one conversation."""
        asked = self.convs.pop(conv, {})
        self._count -= len(asked)
        return list(asked.values())


class Typists:
    """``convs``: how many leases there are in a conversation, for a quick look."""

    def __init__(self, bound: int = MAX_LEASES) -> None:
        self.convs: dict[str, int] = {}
        self._bound = bound
        self._timers: Timers[Lease] = Timers()
        self._sources: dict[tuple[str, str], dict[int, None]] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._of_source: dict[int, dict[tuple[str, str], None]] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def renew(self, conv: str, user: str, source: int, now: float) -> bool | None:
        """Begin or renew a lease. Whether it is to be told now; None when there is no room."""
        key, lease = (conv, user), (conv, user, source)
        if lease not in self._timers:
            if len(self._timers) >= self._bound:
                return None
            self._sources.setdefault(key, {})[source] = None
            self._of_source.setdefault(source, {})[key] = None
            self.convs[conv] = self.convs.get(conv, 0) + 1
        self._timers.set(lease, now + LEASE_SECONDS)
        told = self._told.get(key)
        if told is not None and now - told < TELL_AGAIN_SECONDS:
            return False
        self._told[key] = now
        return True

    def end(self, conv: str, user: str, source: int) -> bool:
        """Give a lease up. Whether the user types there on no other device."""
        lease = (conv, user, source)
        if lease not in self._timers:
            return False
        self._timers.cancel(lease)
        return self._forget(lease)

    def types(self, conv: str, user: str, source: int) -> bool:
        """Whether that lease is held."""
        return (conv, user, source) in self._timers

    def types_here(self, conv: str, user: str) -> bool:
        """Whether the user types there on a device of this node."""
        return any(source != ELSEWHERE for source in self._sources.get((conv, user), ()))

    def sources(self, conv: str, user: str) -> list[int]:
        """Where the user types there."""
        return list(self._sources.get((conv, user), ()))

    def of_source(self, source: int) -> list[tuple[str, str]]:
        """(conv, user) of all that a device types."""
        return list(self._of_source.get(source, ()))

    def expired(self, now: float) -> list[tuple[Lease, bool]]:
        """Take out the leases that have run out; with each whether it was the user's last there."""
        return [(lease, self._forget(lease)) for lease in self._timers.due(now)]

    def _forget(self, lease: Lease) -> bool:
        conv, user, source = lease
        key = (conv, user)
        of_source = self._of_source[source]
        del of_source[key]
        if not of_source:
            del self._of_source[source]
        self.convs[conv] -= 1
        if not self.convs[conv]:
            del self.convs[conv]
        sources = self._sources[key]
        del sources[source]
        if sources:
            return False
        del self._sources[key]
        del self._told[key]
        return True
