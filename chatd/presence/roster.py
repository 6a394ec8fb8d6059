"""Who is connected to this node, what that makes of them, and when to look again. Pure.

A user whose last session has ended stays as they were for ``expiry`` seconds: who comes back within it was never gone. What
others may know is decided here, where the user is: ``shown`` leaves out what the user hides, and before the node knows
what that is, everything.
"""

from __future__ import annotations

import sys

from chatd.presence.status import NOWHERE, Device, PresenceState, Status, device_status, merge
from chatd.timers import Timers


class Person:
    """One user on this node. ``shows``: (presence, last seen), None while that is not known."""

    __slots__ = (
        "announced", "announced_at", "devices", "gone_at", "last_active", "renew_at", "seen", "seen_of", "shows", "status",
        "stored",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.devices: list[Device] = []
        self.status = Status.OFFLINE
        self.last_active = now
        self.stored = 0.0
        self.seen, self.seen_of = 0, 0.0
        self.gone_at = 0.0
        self.renew_at = now
        self.shows: tuple[bool, bool] | None = None
        self.announced = NOWHERE
        self.announced_at = float("-inf")


class Roster:
    """``away``, ``renew`` and ``expiry`` in seconds."""

    def __init__(self, *, away: float, renew: float, expiry: float) -> None:
        self._away = away
        self._renew = renew
        self.expiry = expiry
        self._timers: Timers[str] = Timers()
        self.people: dict[str, Person] = {}

    def __len__(self) -> int:
        return len(self.people)

    def enter(self, user: str, device: Device, now: float) -> None:
        """A session begins."""
        person = self.people.get(user)
        if person is None:
            person = self.people[user] = Person(now)
        person.devices.append(device)
        self._timers.set(user, now)

    def leave(self, user: str, device: Device, now: float) -> None:
        """A session has ended; a repeat does no harm."""
        person = self.people.get(user)
        if person is None or device not in person.devices:
            return
        person.devices.remove(device)
        if device_status(device, now, self._away) is Status.ONLINE:
            person.last_active = now  # a reader was there to the end
        if not person.devices:
            person.gone_at = now + self.expiry
        self._timers.set(user, now)

    def look(self, user: str, now: float) -> None:
        """Something has changed: the user is due."""
        if user in self.people:
            self._timers.set(user, now)

    def renew_all(self, now: float) -> None:
        """The leases are lost: everybody is due."""
        for user, person in self.people.items():
            person.renew_at = now
            self._timers.set(user, now)

    def due(self, now: float, most: int = sys.maxsize) -> list[tuple[str, Person, bool]]:
        """Those who are due, as they are now, the first of them; with each whether the lease is to be renewed."""
        found = []
        for user in self._timers.due(now, most):
            person = self.people.get(user)
            if person is not None:
                self._refresh(person, now)
                renewed = person.renew_at <= now
                if renewed:
                    person.renew_at = now + self._renew
                self._schedule(user, person, now)
                found.append((user, person, renewed))
        return found

    def _refresh(self, person: Person, now: float) -> None:
        if not person.devices:
            if now >= person.gone_at:
                person.status = Status.OFFLINE
            return
        if len(person.devices) == 1:  # nearly everybody, every renew_seconds: a third of the time that what follows takes
            device = person.devices[0]
            person.status = device_status(device, now, self._away)
            device.idle = person.status is Status.AWAY
            if device.last_active > person.last_active:
                person.last_active = device.last_active
            return
        statuses = [device_status(device, now, self._away) for device in person.devices]
        for device, status in zip(person.devices, statuses, strict=True):
            device.idle = status is Status.AWAY
        person.status = merge(statuses)
        person.last_active = max(person.last_active, *(device.last_active for device in person.devices))

    def _schedule(self, user: str, person: Person, now: float) -> None:
        if person.devices:
            at = person.renew_at
            if person.status is Status.ONLINE:
                newest = max(device.last_active for device in person.devices if not device.inactive)
                at = min(at, newest + self._away)
            self._timers.set(user, max(at, now))
        elif person.status is not Status.OFFLINE:
            self._timers.set(user, min(person.renew_at, person.gone_at))

    def forget(self, user: str) -> None:
        """After the last word about somebody who has gone."""
        person = self.people.get(user)
        if person is not None and not person.devices and person.status is Status.OFFLINE:
            del self.people[user]
            self._timers.cancel(user)


def shown(person: Person, offset_ms: float) -> PresenceState:
    """What others may know. ``offset_ms``: of the wall clock to the monotonic one, in ms."""
    if person.shows is None or not person.shows[0]:
        return NOWHERE
    if person.seen_of != person.last_active:  # once: the two clocks drift, and nothing has happened
        person.seen, person.seen_of = int(person.last_active * 1000 + offset_ms), person.last_active
    return PresenceState(person.status, person.seen if person.shows[1] else 0)
