"""What a session says in passing: marks, typing, what is watched, heartbeats. None of it has an answer. Pure.

Only the newest of each kind and conversation counts, so a later one takes the place of an earlier one that still
waits: what is kept is bounded by the conversations, and by MAX_KEPT. Marks are held back until the next tick, and those
of the last RECENT_S are said again after a lost connection or a refusal, for a ``read`` that got lost would leave a
conversation unread on every other device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd_protocol.messages import ClientMessage, Delivered, Heartbeat, Read, Typing, Watch

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

MAX_KEPT = 2000
MAX_MARKS_A_TICK = 64
RECENT_S = 10.0

Mark = tuple[type[Delivered | Read], str]


class Passing:
    """See the module's docstring. Times are seconds on one clock."""

    def __init__(self) -> None:
        self.active = True
        self._ready: dict[Hashable, ClientMessage] = {}
        self._marks: dict[Mark, int] = {}
        self._said: dict[Mark, tuple[float, int]] = {}
        self._watched: Watch | None = None
        self._until = 0.0

    def mark(self, kind: type[Delivered | Read], conv: str, seq: int) -> None:
        """Everything up to ``seq`` is delivered, or read."""
        if (kind, conv) in self._marks or len(self._marks) < MAX_KEPT:
            self._marks[kind, conv] = max(seq, self._marks.get((kind, conv), 0))

    def typing(self, conv: str, on: bool) -> None:
        """Somebody types, or no longer. Worth nothing later."""
        if len(self._ready) < MAX_KEPT:
            self._ready["typing", conv] = Typing(conv=conv, on=on)

    def watch(self, users: Sequence[str]) -> None:
        """Whose presence is on screen; said again in every session."""
        self._watched = self._ready["watch"] = Watch(users=list(users))

    def beat(self) -> None:
        """A heartbeat is due."""
        self._ready["beat"] = Heartbeat() if self.active else Heartbeat(active=False)

    def tick(self, now: float) -> bool:
        """Let the marks out that have gathered. Returns whether there is something to say."""
        if now < self._until:
            return False
        for kind, conv in list(self._marks)[:MAX_MARKS_A_TICK]:
            seq = self._marks.pop((kind, conv))
            self._ready[kind, conv] = kind(conv=conv, seq=seq)
            self._said.pop((kind, conv), None)
            self._said[kind, conv] = now, seq
        for key in [key for key, (at, _) in self._said.items() if at < now - RECENT_S]:
            del self._said[key]
        return bool(self._ready)

    def take(self, now: float) -> tuple[list[ClientMessage], float | None]:
        """What is to be said now, and when there is more at the earliest where a refusal is waited out."""
        if now >= self._until:
            said = list(self._ready.values())
            self._ready.clear()
            return said, None
        beat = self._ready.pop("beat", None)
        return [beat] if beat is not None else [], self._until

    def refused(self, now: float, wait_s: float) -> None:
        """Too much was said, and it is not known which of it was heard."""
        self._until = now + wait_s
        self._again()
        if self._watched is not None:
            self._ready["watch"] = self._watched

    def welcomed(self) -> None:
        """A new session begins: it knows nothing of what is watched."""
        self._until = 0.0
        if self._watched is not None:
            self._ready["watch"] = self._watched

    def disconnected(self) -> None:
        """The connection is gone, and the last things said may have gone with it."""
        self._ready.clear()
        self._again()

    def _again(self) -> None:
        for (kind, conv), (_, seq) in self._said.items():
            self.mark(kind, conv, seq)
        self._said.clear()
