"""A topic: one conversation as this node's sessions see it. Pure; decides order, never writes.

The rules (I4, I6):

* Events are released in ``seq`` order, each once. ``head`` is the last one released.
* Every *live* subscriber has been given exactly what lies at or below ``head``.
* A subscriber that is still reading the store is *behind*; it joins when its position meets ``head``. One whose
  position is beyond ``head`` (the store was quicker than the bus) waits *ahead* and skips what it has.
* Nobody live yet: ``head`` is None, and events are only counted in ``seen``, for the store holds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from chatd.conversations.operations import Event

S = TypeVar("S")
_BEHIND = -1


class HeldBytes:
    """How many payload bytes all topics of a node may hold behind holes, and how many are left."""

    __slots__ = ("left",)

    def __init__(self, bound: int) -> None:
        self.left = bound


class Topic(Generic[S]):
    """State of one conversation on one node; ``S`` is whatever stands for a session."""

    __slots__ = ("_apart", "_held", "_held_bound", "_held_bytes", "conv", "group", "head", "live", "seen")

    def __init__(self, conv: str, *, group: bool, held_bound: int, held_bytes: HeldBytes) -> None:
        self.conv = conv
        self.group = group
        self.head: int | None = None
        self.seen = 0
        self.live: list[S] = []
        self._apart: dict[S, int] | None = None  # behind (-1), or ahead at that position
        self._held: dict[int, Event] | None = None
        self._held_bound = held_bound
        self._held_bytes = held_bytes

    @property
    def gapped(self) -> bool:
        """Whether something is known to be committed that could not be released yet."""
        return self.head is not None and self.seen > self.head

    @property
    def empty(self) -> bool:
        return not self.live and not self._apart

    def note(self, seq: int) -> None:
        """The store is known to hold events up to ``seq``."""
        if seq > self.seen:
            self.seen = seq

    def offer(self, event: Event) -> Iterable[Event]:
        """Take one committed event, from wherever; return those that may be released now, in order.

        A repeat is dropped; one beyond a hole is held (up to the bounds: the store still has what is not held).
        """
        seq, head = event.seq, self.head
        if seq > self.seen:
            self.seen = seq
        if head is None or seq <= head:
            return ()
        if seq == head + 1 and not self._held:
            self.head = seq
            return (event,)
        held = self._held = self._held if self._held is not None else {}
        if seq == head + 1 or (len(held) < self._held_bound and len(event.payload) <= self._held_bytes.left):
            self._hold(event)
        released = []
        while (following := held.pop(head + 1, None)) is not None:
            self._held_bytes.left += len(following.payload)
            released.append(following)
            head += 1
        self.head = head
        return released

    def _hold(self, event: Event) -> None:
        assert self._held is not None
        if event.seq not in self._held:
            self._held[event.seq] = event
            self._held_bytes.left -= len(event.payload)

    def follow(self, subscriber: S) -> None:
        """Begin as *behind*: from here on ``seen`` is kept, so that the subscriber can tell when it is done."""
        if self._apart is None:
            self._apart = {}
        self._apart[subscriber] = _BEHIND

    def in_step(self, position: int) -> bool:
        """Whether a subscriber that has everything up to ``position`` could join now."""
        return position >= (self.seen if self.head is None else self.head)

    def join(self, subscriber: S, position: int) -> bool:
        """Make a follower live if it is in step. False: read on from ``position`` and try again."""
        if self._apart is None or subscriber not in self._apart or not self.in_step(position):
            return False
        self.note(position)
        if self.head is None:
            self.head = position
        if position > self.head:
            self._apart[subscriber] = position
        else:
            del self._apart[subscriber]
            self.live.append(subscriber)
        return True

    def follows(self, subscriber: S) -> bool:
        return subscriber in self.live or (self._apart is not None and subscriber in self._apart)

    def admit_ahead(self, released: int) -> None:
        """After the release of ``released``, and before the next: those whose position it has reached become live.

        Not by ``head``: one arrival may release a whole run, and ``head`` is at its end when its first is written.
        """
        if self._apart:
            for subscriber in [s for s, at in self._apart.items() if at != _BEHIND and at <= released]:
                del self._apart[subscriber]
                self.live.append(subscriber)

    def leave(self, subscriber: S) -> None:
        if self._apart is not None and self._apart.pop(subscriber, None) is not None:
            return
        if subscriber in self.live:
            self.live.remove(subscriber)
        if not self.live and not self._apart:
            self.head = None
            self._held_bytes.left += sum(len(event.payload) for event in (self._held or {}).values())
            self._held = None

    def subscribers(self) -> list[S]:
        return [*self.live, *(self._apart or ())]
