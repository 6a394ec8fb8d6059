"""Questions to the server and their answers, matched by ``id``; over as soon as each is answered, lost or given up.

Waits for nothing itself: ``Session`` puts them on the wire and brings the answers.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import trio
from msgspec import UNSET

from chatd_client.errors import Disconnected, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd_protocol.messages import ClientMessage, Error, Ok

MAX_OPEN = 256
"""More than any screen asks at once; a program in a loop learns early that it should wait for answers."""


class Call:
    """One question: on the wire or not yet, and its answer or error."""

    def __init__(self, message: ClientMessage, *, repeatable: bool) -> None:
        self.message = message
        self.repeatable = repeatable
        self.sent = False
        self.done = trio.Event()
        self.answer: Ok | None = None
        self.error: Exception | None = None

    def finish(self, outcome: Ok | Exception) -> None:
        """Wake the asker."""
        if isinstance(outcome, Exception):
            self.error = outcome
        else:
            self.answer = outcome
        self.done.set()


class Requests:
    """The open questions of one client, oldest first."""

    def __init__(self) -> None:
        self._open: dict[int, Call] = {}
        self._ids = count(1)

    def open(self, build: Callable[[int], ClientMessage], *, repeatable: bool) -> tuple[int, Call]:
        """A new question under a new id. Raises Refused (``overloaded``) when MAX_OPEN are open."""
        if len(self._open) >= MAX_OPEN:
            raise Refused("overloaded", f"{MAX_OPEN} requests are waiting for answers")
        number = next(self._ids)
        call = self._open[number] = Call(build(number), repeatable=repeatable)
        return number, call

    def forget(self, number: int) -> None:
        """The asker has its answer or has gone away; a late answer is ignored."""
        self._open.pop(number, None)

    def take_unsent(self) -> list[ClientMessage]:
        """What is to be put on the wire now."""
        unsent = [call for call in self._open.values() if not call.sent and not call.done.is_set()]
        for call in unsent:
            call.sent = True
        return [call.message for call in unsent]

    def answered(self, answer: Ok) -> None:
        """Bring an answer to its asker."""
        if call := self._open.get(answer.id):
            call.finish(answer)

    def refused(self, error: Error) -> None:
        """Bring a refusal to its asker; ``error`` carries an ``id``."""
        if isinstance(error.id, int) and (call := self._open.get(error.id)):
            wait = None if error.retry_after_ms is UNSET else error.retry_after_ms
            call.finish(Refused(error.code, error.message, retry_after_ms=wait))

    def disconnected(self) -> None:
        """Reads are asked again on the next connection; a change may have happened, and only its asker can tell."""
        for call in self._open.values():
            if call.sent and call.repeatable:
                call.sent = False
            elif call.sent and not call.done.is_set():
                call.finish(Disconnected("the connection was lost before the answer"))

    def end(self, error: Exception) -> None:
        """No answer will come any more."""
        for call in self._open.values():
            if not call.done.is_set():
                call.finish(error)
