"""What somebody's presence is: of one device, of several, of several nodes. Pure.

The precedence is fixed, online before away before offline, so the order in which devices are heard of does not matter, and
two that differ never make it flip-flop.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

WireStatus = Literal["online", "away", "offline"]


class Status(IntEnum):
    """The greater one goes before."""

    OFFLINE = 0
    AWAY = 1
    ONLINE = 2

    @property
    def wire(self) -> WireStatus:
        """As clients read it."""
        return _WIRE[self]


_WIRE: dict[Status, WireStatus] = {Status.OFFLINE: "offline", Status.AWAY: "away", Status.ONLINE: "online"}


class PresenceState(NamedTuple):
    """``seen``: when the user was last active, ms since the Unix epoch; 0 where nobody is to know."""

    status: Status
    seen: int


NOWHERE = PresenceState(Status.OFFLINE, 0)


class Device(Protocol):
    """A session, as presence sees it. Times are of the monotonic clock, in seconds.

    ``last_active``: when it last sent something that a person causes. ``inactive``: its last heartbeat said so. ``idle``:
    set here; the next activity is news.
    """

    last_active: float
    inactive: bool
    idle: bool


def device_status(device: Device, now: float, away_seconds: float) -> Status:
    """Of a device that is connected."""
    if device.inactive or now - device.last_active >= away_seconds:
        return Status.AWAY
    return Status.ONLINE


def merge(statuses: Iterable[Status]) -> Status:
    """Of a user's devices."""
    return max(statuses, default=Status.OFFLINE)


def merge_states(states: Iterable[PresenceState]) -> PresenceState:
    """Of what several nodes say. Where one of them keeps ``seen`` back, nobody tells it: it has heard of that last."""
    found = list(states)
    if not found:
        return NOWHERE
    seen = [state.seen for state in found]
    return PresenceState(merge(state.status for state in found), 0 if 0 in seen else max(seen))


def public_part(state: PresenceState) -> PresenceState:
    """The part that is told: when somebody was last seen does not matter while they are there."""
    return PresenceState(state.status, 0) if state.status is Status.ONLINE else state
