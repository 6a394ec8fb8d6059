"""A user who is watched by sessions of this node: what each node says of them, and what the watchers were told. Pure."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from chatd.presence.status import NOWHERE, PresenceState, Status, merge_states, public_part

W = TypeVar("W")


class Held(NamedTuple):
    """A lease as another node knows it: good until ``until``, in seconds of this node's clock."""

    state: PresenceState
    until: float


class Watched(Generic[W]):
    """``W`` is whatever stands for a session. ``seen``: the last that was heard of, 0 where it is hidden or not known.
    ``loaded``: what the other nodes say was read, and is kept up. ``heard``: how often one of them said something.
    ``announced``: what the watchers were told."""

    __slots__ = ("announced", "announced_at", "frames", "heard", "leases", "loaded", "seen", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[W, None] = {}
        self.loaded = False
        self.heard = 0
        self.leases: dict[str, Held] = {}
        self.seen = 0
        self.announced: PresenceState | None = None
        self.announced_at = float("-inf")
        self.frames: dict[object, bytes] = {}

    def hold(self, node: str, state: PresenceState, until: float) -> None:
        """What a node says; ``offline`` ends its lease."""
        self.seen = max(self.seen, state.seen) if state.seen else 0
        if state.status is Status.OFFLINE:
            self.leases.pop(node, None)
        else:
            self.leases[node] = Held(state, until)

    def expire(self, now: float, node: str) -> None:
        """Let go of the leases that have run out, but of this ``node``'s own."""
        for name in [name for name, held in self.leases.items() if held.until <= now and name != node]:
            del self.leases[name]

    def extend(self, until: float) -> None:
        """Nobody could renew meanwhile: no lease runs out earlier."""
        self.leases = {name: Held(held.state, max(held.until, until)) for name, held in self.leases.items()}

    def state(self) -> PresenceState:
        """What is to be told, all nodes together."""
        merged = merge_states(held.state for held in self.leases.values())
        if merged is NOWHERE:
            return PresenceState(Status.OFFLINE, self.seen)
        return public_part(merged)

    def look_at(self, now: float, interval: float) -> float:
        """When to read the leases again: after ``interval`` seconds, or when the first runs out."""
        return min([now + interval, *(max(held.until, now) for held in self.leases.values())])
