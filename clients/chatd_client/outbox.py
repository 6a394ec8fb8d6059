"""What was typed and is not known to be stored: numbering, as a pure value.

Owns the queue of unacknowledged messages of one device and their ``cseq``. Knows no file, clock or socket: every
method that changes something returns the records which, appended to the outbox file, bring ``Outbox.replay`` to the
same state (``outbox_file`` keeps them).

Numbers: the server takes ``stored + 1`` next. An item whose number is above ``stored`` is not stored and may be
numbered anew; one at or below it can only be a repeat, and keeps its number for ever. That is why numbering anew is
done at two moments only, when ``stored`` is exact: at the welcome, and when every message in flight has been
answered. Doing it at once after a refusal would read the late answers to old numbers as answers to new ones.

Taken back can be what is certain not to be stored: what was never given out by ``next_batch``, and what the server has
put off. What an earlier run numbered may have been given out, so it is certain from the next welcome on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Record = dict[str, Any]

MAX_ITEMS = 10_000
MAX_BYTES = 8 * 1024 * 1024
"""A day of typing offline is well below both; a program in a loop meets them before memory or disk does."""


@dataclass(frozen=True, slots=True)
class Queued:
    """One message on its way. ``fields`` are the wire's own keys without ``cseq``; ``cseq`` 0: not numbered yet."""

    key: str
    cseq: int
    fields: Mapping[str, Any]
    at: int
    size: int


class Outbox:
    """The unacknowledged messages of one device, in the order in which they were typed."""

    def __init__(self) -> None:
        self.user: str | None = None
        self.stored: int | None = None
        self._items: dict[str, Queued] = {}
        self._in_flight: dict[int, str] = {}
        self._given_out: set[str] = set()
        self._bytes = 0
        self._paused = True

    @classmethod
    def replay(cls, records: Iterable[Record]) -> Outbox:
        """Build the state that wrote these records. Raises KeyError, TypeError or ValueError for one it never wrote."""
        outbox = cls()
        for record in records:
            outbox._apply(record)
        outbox._given_out = {item.key for item in outbox._items.values() if item.cseq}
        return outbox

    def snapshot(self) -> list[Record]:
        """The shortest records that ``replay`` to this state."""
        head: Record = {"r": "state", "user": self.user, "stored": self.stored}
        return [head, *(_queue_record(item) for item in self._items.values())]

    def items(self) -> list[Queued]:
        """Everything not yet known to be stored, oldest first."""
        return list(self._items.values())

    def is_full(self, size: int, *, unread_items: int = 0, unread_bytes: int = 0) -> bool:
        """Whether a message of ``size`` bytes is one too many, those counted in whose outcome nobody has read yet."""
        return len(self._items) + unread_items >= MAX_ITEMS or self._bytes + unread_bytes + size > MAX_BYTES

    def queue(self, key: str, fields: Mapping[str, Any], at: int, size: int) -> tuple[Queued, list[Record]]:
        """Append a message; numbered at once where the next number is certain, which saves a record later."""
        last = next(reversed(self._items.values())).cseq if self._items else self.stored
        certain = self.stored is not None and not self._paused and bool(last or not self._items)
        item = Queued(key, max(last or 0, self.stored or 0) + 1 if certain else 0, fields, at, size)
        record = _queue_record(item)
        self._apply(record)
        return item, [record]

    def withdraw(self, key: str) -> list[Record] | None:
        """Take back an item; later ones move up once all answers are in. None where it is not there, or may be stored."""
        if key not in self._items or key in self._given_out:
            return None
        record: Record = {"r": "drop", "key": key}
        self._apply(record)
        self._paused = self._paused or bool(self._in_flight)
        return [record]

    def welcome(self, user: str, stored: int) -> list[Record]:
        """A new session begins: nothing is in flight, and ``stored`` is the server's word. Lower than before too:
        then the server came back from a backup, and what it lost of ours cannot be sent again from here.
        """
        self._in_flight.clear()
        self._paused = False
        record: Record = {"r": "state", "user": user, "stored": stored}
        self._apply(record)
        self._given_out = {item.key for item in self._items.values() if 0 < item.cseq <= stored}
        return [record, *self._renumber()]

    def disconnected(self) -> None:
        """The session is over; what was in flight is unknown until the next welcome."""
        self._in_flight.clear()
        self._paused = True

    def next_batch(self, window: int) -> tuple[list[Queued], list[Record]]:
        """Items to put on the wire now, ascending, at most ``window`` in flight in all; they count as in flight from
        here on.

        Their records must be on disk before they are on the wire. Empty while answers must be waited for.
        """
        if self.stored is None or self._paused:
            return [], []
        records = self._renumber() if not self._in_flight else []
        flying = set(self._in_flight.values())
        room = window - len(flying)
        batch: list[Queued] = []
        last = self.stored
        for item in list(islice(self._items.values(), window)):
            if len(batch) < room and item.key not in flying:
                if not item.cseq:
                    record: Record = {"r": "number", "key": item.key, "cseq": last + 1}
                    self._apply(record)
                    records.append(record)
                batch.append(self._items[item.key])
            last = max(last, self._items[item.key].cseq)
        self._in_flight.update((item.cseq, item.key) for item in batch)
        self._given_out.update(item.key for item in batch)
        return batch, records

    def acked(self, cseq: int) -> tuple[Queued | None, list[Record]]:
        """``cseq`` is stored. Returns its item, None where it was not waited for."""
        key = self._in_flight.pop(cseq, None)
        item = self._items.get(key) if key is not None else None
        record: Record = {"r": "ack", "cseq": cseq, "key": key}
        self._apply(record)
        self._settle()
        return item, [record]

    def refused(self, cseq: int, *, taken: bool = False) -> tuple[Queued | None, list[Record]]:
        """Not stored, and never will be: the item is dropped, later ones move up once all answers are in.

        ``taken``: the number holds something else (``cseq_reused``), so no later item may move down to it.
        """
        key = self._in_flight.pop(cseq, None)
        if key is None:
            return None, []
        item = self._items[key]
        records: list[Record] = [{"r": "drop", "key": key}]
        if taken:
            records.append({"r": "state", "user": self.user, "stored": max(self.stored or 0, cseq)})
        for record in records:
            self._apply(record)
        self._pause()
        return item, records

    def put_off(self, cseq: int, expected: int | None = None) -> list[Record]:
        """Not stored now (a gap, or an error to retry): sent again once all answers are in. ``expected``: of a gap.

        A gap that expects less than was known to be stored means that the server lost its tail: its word counts.
        """
        key = self._in_flight.pop(cseq, None)
        if key is None:
            return []
        self._given_out.discard(key)
        records: list[Record] = []
        if expected is not None and self.stored is not None and expected <= self.stored:
            records = [{"r": "state", "user": self.user, "stored": expected - 1}]
            self._apply(records[0])
        self._pause()
        return records

    def _pause(self) -> None:
        self._paused = True
        self._settle()

    def _settle(self) -> None:
        if not self._in_flight:
            self._paused = False

    def _renumber(self) -> list[Record]:
        stored = self.stored or 0
        following = stored + 1
        records: list[Record] = []
        for item in self._items.values():
            if 0 < item.cseq <= stored:
                continue
            if item.cseq != following:
                records.append({"r": "number", "key": item.key, "cseq": following})
            following += 1
        for record in records:
            self._apply(record)
        return records

    def _apply(self, record: Record) -> None:
        match record["r"]:
            case "state":
                self.user, self.stored = record["user"], record["stored"]
            case "queue":
                item = Queued(record["key"], record["cseq"], record["fields"], record["at"], record["size"])
                self._items[item.key] = item
                self._bytes += item.size
            case "number":
                self._items[record["key"]] = replace(self._items[record["key"]], cseq=record["cseq"])
            case "ack":
                self.stored = max(self.stored or 0, record["cseq"])
                self._discard(record["key"])
            case "drop":
                self._discard(record["key"])
            case other:
                raise ValueError(f"an outbox record of unknown kind {other!r}")

    def _discard(self, key: str | None) -> None:
        item = self._items.pop(key, None) if key is not None else None
        self._given_out.discard(key or "")
        self._bytes -= item.size if item else 0


def _queue_record(item: Queued) -> Record:
    return {
        "r": "queue",
        "key": item.key,
        "cseq": item.cseq,
        "fields": dict(item.fields),
        "at": item.at,
        "size": item.size,
    }
