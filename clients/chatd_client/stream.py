"""What has come in, in order and bounded: positions per conversation, and the queue towards the program.

``Positions`` is pure. ``FactQueue`` waits for nothing when it is put to, and never holds the session's reader up: a
program that awaits ``send`` inside its event loop needs that reader for the ack. When the queue is full, facts are
let go without moving the position (``Session`` then reconnects once there is room again, and the log brings them
back). The outcome of a queued message, which no log brings back, enters always; the outbox takes nothing more when
too many are unread.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import trio
from chatd_protocol.messages import MAX_POSITIONS

from chatd_client.facts import ConnectionChanged, Fact, SendRefused, Stored

MAX_FACTS = 2000
MAX_FACT_BYTES = 4 * 1024 * 1024
"""Two replays of a new device (1000 events each), and four of the largest messages a server may send."""


class Admission(Enum):
    """What an event's number says about it."""

    NEXT = "next"
    REPEAT = "repeat"
    AFTER_HOLE = "after hole"


class Positions:
    """The last ``seq`` seen of each conversation, the most recently active last."""

    def __init__(self, known: dict[str, int] | None = None) -> None:
        self._known = dict(known or {})

    def judge(self, conv: str, seq: int, *, begins: bool) -> Admission:
        """Place an event; ``begins``: one's own membership starts with it, so that what lies before is not missing."""
        last = self._known.get(conv)
        if last is None:
            return Admission.NEXT
        if seq <= last:
            return Admission.REPEAT
        return Admission.NEXT if begins or seq == last + 1 else Admission.AFTER_HOLE

    def move(self, conv: str, seq: int) -> None:
        """``seq`` is the last one seen now."""
        self._known[conv] = max(seq, self._known.pop(conv, 0))

    def last(self, conv: str) -> int | None:
        """The last one seen, None for a conversation never seen."""
        return self._known.get(conv)

    def newest(self) -> dict[str, int]:
        """What fits into a hello: the most recently active conversations; the server's cursors serve for the rest."""
        return dict(list(self._known.items())[-MAX_POSITIONS:])


class FactQueue:
    """A bounded queue for one consumer, in items and in bytes; when full, ``put`` refuses.

    ``outcomes`` and ``outcome_bytes``: how much of it are outcomes of queued messages.
    """

    def __init__(self) -> None:
        self._facts: deque[tuple[Fact, int]] = deque()
        self._bytes = 0
        self.outcomes = self.outcome_bytes = 0
        self._arrived = trio.Event()
        self._end: Exception | None = None

    def put(self, fact: Fact, size: int) -> bool:
        """Append; False, and nothing is queued, when there is no room."""
        if len(self._facts) >= MAX_FACTS or self._bytes + size > MAX_FACT_BYTES:
            return False
        self._append(fact, size)
        return True

    def put_outcome(self, fact: Stored | SendRefused, size: int) -> None:
        """Append even when full: nobody would ever be told otherwise."""
        self._append(fact, size)

    def put_state(self, fact: ConnectionChanged) -> None:
        """Append even when full: only the last of several in a row is kept, so they add one at most."""
        if self._facts and isinstance(self._facts[-1][0], ConnectionChanged):
            self._facts.pop()
        self._append(fact, 0)

    def has_room(self) -> bool:
        """Whether at most half is taken: the moment to fetch again what was let go."""
        return len(self._facts) <= MAX_FACTS // 2 and self._bytes <= MAX_FACT_BYTES // 2

    def end(self, error: Exception) -> None:
        """No more will come: ``get`` raises ``error`` when the queue is empty."""
        self._end = error
        self._arrived.set()

    async def get(self) -> Fact:
        """The next fact; waits for one. Raises what ``end`` was given. Cancelling is safe."""
        await trio.lowlevel.checkpoint()
        while not self._facts:
            if self._end is not None:
                raise self._end
            self._arrived = trio.Event()
            await self._arrived.wait()
        fact, size = self._facts.popleft()
        self._count(fact, -1, -size)
        return fact

    def _append(self, fact: Fact, size: int) -> None:
        self._facts.append((fact, size))
        self._count(fact, 1, size)
        self._arrived.set()

    def _count(self, fact: Fact, items: int, size: int) -> None:
        self._bytes += size
        if isinstance(fact, Stored | SendRefused):
            self.outcomes += items
            self.outcome_bytes += size
