"""One device's session across connections: the actor of this library.

Owns the outbox, the positions, the marks and the open requests of one device. Waits for: a token, its ``Link``
(socket and disk), the next attempt. Ends when ``stopped`` is called, it is cancelled, or the server ends the session
for good; whatever waits for it is then told. Handling a message never waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio
from chatd_protocol import codes
from chatd_protocol.messages import (
    Ack,
    Bye,
    ClientMessage,
    Delivered,
    Error,
    Event,
    HeartbeatAnswer,
    Hello,
    Live,
    Ok,
    Read,
    ServerMessage,
    Typing,
    Watch,
    Welcome,
)
from msgspec.structs import replace

from chatd_client import wire
from chatd_client.backoff import Backoff
from chatd_client.errors import ClientError, Refused, SessionEnded, Withdrawn
from chatd_client.facts import ConnectionChanged, ConnectionState, Fact, Hole, SendRefused, Stored
from chatd_client.link import Ending, Link, ending_of_refusal
from chatd_client.passing import Passing
from chatd_client.requests import Requests
from chatd_client.stream import Admission, FactQueue, Positions

if TYPE_CHECKING:
    import random
    import ssl

    from chatd_client.api import Endpoint
    from chatd_client.outbox import Queued, Record
    from chatd_client.outbox_file import OutboxFile

WINDOW = 64
STEADY_S = 5.0
"""A session that lived this long makes the next first try quick again; one that died sooner counts as a failed
attempt.
"""
RETRY_MS = 1000
SAVE_EVERY_S = 2.0
Unanswered = Delivered | Read | Typing | Watch
CATCHING_UP = Ending("catching up", codes.DRAINING.code)

TokenSource = Callable[[], Awaitable[str]]
Outcome = Callable[[Ack | ClientError], None]


class Session:
    """See the module's docstring. ``run`` it in one task; nothing else here waits."""

    def __init__(
        self,
        at: Endpoint,
        tokens: TokenSource,
        *,
        renewable: bool,
        device: str,
        file: OutboxFile,
        encoding: wire.Encoding,
        rng: random.Random,
        ssl_context: ssl.SSLContext | None,
        agent: str,
    ) -> None:
        self._at, self._tokens, self._renewable = at, tokens, renewable
        self._device, self._file, self._outbox = device, file, file.outbox
        self._encoding, self._ssl_context, self._agent = encoding, ssl_context, agent
        self._backoff = Backoff(rng)
        self.requests = Requests()
        self.passing = Passing()
        self.facts = FactQueue()
        self.outcomes: dict[str, Outcome] = {}
        self.state: ConnectionState = "connecting"
        self.welcome: Welcome | None = None
        self.ended: SessionEnded | None = None
        self.changed = trio.Event()
        self.settled = trio.Event()
        self._over = trio.Event()
        self._seen, self._handled = Positions(file.positions), Positions(file.positions)
        self._unsaved, self._saved_at = False, 0.0
        self._lagging = self._stopping = self._renewed = False
        self._token: str | None = None
        self._given: Fact | None = None
        self._link: Link | None = None
        self._welcomed_at = self._hold_until = 0.0
        self._hurry = trio.Event()
        self.owed_since: float | None = None

    # --- asked for by the program -----------------------------------------------------------------

    def queue(self, item_key: str, fields: dict[str, object], at: int, size: int) -> Queued:
        """Put a message into the outbox. Raises OSError when it cannot be kept; then it is not queued."""
        item, records = self._outbox.queue(item_key, fields, at, size)
        try:
            self._file.append(records)
        except OSError:
            self._outbox.withdraw(item_key)
            raise
        self.wake()
        return item

    def withdraw(self, item: Queued) -> bool:
        """Take a message back from the outbox; False where it may be stored already."""
        records = self._outbox.withdraw(item.key)
        if records is None:
            return False
        self._file.keep(records)
        self._tell(item, Withdrawn("it was taken back"))
        self.wake()
        return True

    def wake(self) -> None:
        """There is something to write."""
        if self._link is not None:
            self._link.wake()

    def hurry(self) -> None:
        """Try to connect now instead of at the appointed time."""
        self._hurry.set()

    async def stopped(self) -> None:
        """Close the connection in good order, and wait until ``run`` has returned. Cancelling ends the waiting only."""
        self._stopping = True
        self._hurry.set()
        self._end_link(Ending("closed"))
        await self._over.wait()

    def mark(self, kind: type[Delivered | Read], conv: str, seq: int) -> None:
        """Remember an up-to mark; sent with the next tick, or on return."""
        self.passing.mark(kind, conv, seq)

    def set_active(self, active: bool) -> None:
        """Whether somebody is at the screen; told at once where it changes, and by every heartbeat."""
        if active != self.passing.active:
            self.passing.active = active
            self.beat()

    async def next_fact(self) -> Fact:
        """The next fact; the one given before counts as handled now. Raises SessionEnded. Cancelling is safe."""
        if self._given is not None:
            given, self._given = self._given, None
            self._handle(given)
        self._given = await self.facts.get()
        return self._given

    def _handle(self, fact: Fact) -> None:
        """The program is done with ``fact``: move its position, and say that it was delivered."""
        match fact:
            case Event(conv=conv, seq=seq) | Stored(ack=Ack(conv=conv, seq=seq, repeat=False)):
                self._handled.move(conv, seq)
                self._unsaved = True
                self.mark(Delivered, conv, seq)
        if self._lagging and self.facts.has_room():
            self._end_link(CATCHING_UP)

    def save_positions(self) -> None:
        """Write the handled positions. Raises OSError."""
        if self._unsaved:
            self._file.positions = self._handled.newest()
            self._file.save_positions()
            self._unsaved = False

    # --- the actor --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the device connected until ``stopped``, or until the server ends it. Cancelling closes the
        connection.
        """
        while not self._stopping:
            self._set_state("connecting")
            ending = await self._attempt()
            self._disconnected()
            if self._stopping or not self._may_return(ending):
                break
            # No failed attempts: a slow reader of a long log wishes this again and again; a token that is not taken any
            # more is replaced, once.
            at_once = ending is CATCHING_UP or not codes.may_reconnect(ending.code)
            delay = 0.0 if at_once else self._backoff.next_delay(ending.retry_after_ms)
            self._hurry = trio.Event()
            self._set_state("offline", trio.current_time() + delay, ending.reason)
            with trio.move_on_after(delay):
                await self._hurry.wait()
        self._end(SessionEnded(0, "closed") if self._stopping else SessionEnded(ending.code, ending.reason))

    async def _attempt(self) -> Ending:
        """One connection, from its token to its end."""
        link = self._link = Link(self, self._encoding)
        reason = ""
        try:
            if self._token is None:
                self._token = await self._tokens()
            positions = self._seen.newest()
            hello = Hello(token=self._token, device=self._device, positions=positions, agent=self._agent)
            await link.run(self._at, hello, self._ssl_context)
        except* Refused as group:
            link.ending = link.ending or ending_of_refusal(group)
            self._renewed = True
        except* wire.CONNECTION_ERRORS as errors:
            reason = wire.describe(errors)
        return link.ending or Ending(reason or "connection lost")

    def _may_return(self, ending: Ending) -> bool:
        if codes.may_reconnect(ending.code):
            return True
        expired = ending.code in {codes.BAD_TOKEN.code, codes.TOKEN_EXPIRED.code}
        if not (expired and self._renewable and not self._renewed):
            return False
        self._renewed, self._token = True, None
        return True

    def _disconnected(self) -> None:
        if self.welcome is not None and trio.current_time() - self._welcomed_at >= STEADY_S:
            self._backoff.reset()
        self.welcome = self._link = self.owed_since = None
        self._lagging = False
        self.passing.disconnected()
        self._outbox.disconnected()
        self.requests.disconnected()

    def _end_link(self, ending: Ending) -> None:
        if self._link is not None:
            self._link.end(ending)

    def _end(self, error: SessionEnded) -> None:
        self.ended = error
        self._set_state("ended", reason=error.reason)
        self.requests.end(error)
        for outcome in list(self.outcomes.values()):
            outcome(error)
        self.facts.end(error)
        self._over.set()
        self._settle()

    def _set_state(self, state: ConnectionState, retry_at: float | None = None, reason: str = "") -> None:
        self.state = state
        self.facts.put_state(ConnectionChanged(state, retry_at, reason))
        self.changed.set()
        self.changed = trio.Event()

    # --- the link's other side --------------------------------------------------------------------

    def take(self) -> tuple[Sequence[ClientMessage], float]:
        """What to write now: first what is small and late, then questions, then the outbox as far as the window
        goes.
        """
        if self.welcome is None:
            return [], trio.current_time() + 3600
        now = trio.current_time()
        passing, again = self.passing.take(now)
        messages = [*passing, *self.requests.take_unsent()]
        again = now + 3600 if again is None else again
        held = now < self._hold_until
        if not held:
            batch, records = self._outbox.next_batch(WINDOW)
            self._file.keep(records)
            messages += [wire.numbered(item.fields, item.cseq) for item in batch]
        if self.owed_since is None and any(not isinstance(message, Unanswered) for message in messages):
            self.owed_since = now
        return messages, min(again, self._hold_until) if held else again

    async def flush(self) -> None:
        """A number is on the disk before it is on the wire, or a power cut could give it to another message."""
        self._file.compact()
        if self._file.dirty:
            await trio.to_thread.run_sync(self._file.sync)

    def tick(self) -> None:
        """Send the marks collected since the last tick, and save positions every SAVE_EVERY_S."""
        if self.welcome is not None and self.passing.tick(trio.current_time()):
            self.wake()
        if trio.current_time() - self._saved_at >= SAVE_EVERY_S:
            self._saved_at = trio.current_time()
            self.save_positions()

    def beat(self) -> None:
        """Sent in both states: the server must not take a long replay for silence."""
        if self.welcome is not None:
            self.passing.beat()
            self.wake()

    def received(self, message: ServerMessage, size: int) -> None:
        """One message of the server."""
        self.owed_since = None
        match message:
            case Welcome():
                self._welcomed(message)
            case Event():
                begins = message.kind == "joined" and self.welcome is not None and message.user == self.welcome.user
                self._logged(message.conv, message.seq, message, size, begins=begins or message.kind == "created")
            case Ack():
                self._acked(message, size)
            case Error():
                self._refused(message)
            case Ok():
                self.requests.answered(message)
            case Live():
                self._set_state("live")
                self._lagging = not self.facts.put(message, size) or self._lagging
            case Bye():
                self._end_link(Ending(message.reason, message.code, _given(message.retry_after_ms)))
            case HeartbeatAnswer():
                return
            case _:
                self.facts.put(message, size)

    def _welcomed(self, welcome: Welcome) -> None:
        if self._outbox.user not in {None, welcome.user}:
            # Sending it would put one person's words into another's mouth.
            self._end_link(Ending(f"this device's outbox belongs to {self._outbox.user}", codes.BAD_TOKEN.code))
            self._renewed = True
            return
        self.welcome, self._welcomed_at = welcome, trio.current_time()
        self._renewed = False
        self._hold_until = 0.0
        if self._link is not None:
            self._link.heartbeat_s = min(max(welcome.heartbeat_ms / 1000, 0.5), 300.0)
        self._file.keep(self._outbox.welcome(welcome.user, welcome.cseq))
        self._set_state("replaying")
        self.passing.welcomed()
        self.wake()

    def _logged(self, conv: str, seq: int, fact: Event | Stored | None, size: int, *, begins: bool = False) -> bool:
        """An entry of a log, in its place; False when it was not taken there. ``fact`` None: its content is not known
        here, so that it is part of a hole.

        While lagging none is taken: positions stand still, and the log brings it again.
        """
        admission = self._seen.judge(conv, seq, begins=begins)
        if self._lagging or admission is Admission.REPEAT:
            return False
        if admission is Admission.AFTER_HOLE or fact is None:
            after = self._seen.last(conv) if admission is Admission.AFTER_HOLE else seq - 1
            self._lagging = not self.facts.put(Hole(conv, after or 0, seq if fact else seq + 1), 0)
        if fact is not None and not self._lagging:
            self._lagging = not self.facts.put(fact, size)
        if not self._lagging:
            self._seen.move(conv, seq)
        return not self._lagging

    def _acked(self, ack: Ack, size: int) -> None:
        item, records = self._outbox.acked(ack.cseq)
        self._file.keep(records)
        if item is None:
            if not ack.repeat:
                self._logged(ack.conv, ack.seq, None, 0)
        else:
            told = self._tell(item, ack)
            size += item.size
            if ack.repeat or not self._logged(ack.conv, ack.seq, Stored(item, ack), size):
                # Beside the stream, as a repeat is: handling it must not move the position over what was let go.
                self._put_outcome(Stored(item, replace(ack, repeat=True)), size, told=told)
        self.wake()

    def _refused(self, error: Error) -> None:
        if isinstance(error.id, int):
            self.requests.refused(error)
        elif not isinstance(error.cseq, int):
            if error.code in codes.RETRYABLE:
                self.passing.refused(trio.current_time(), (_given(error.retry_after_ms) or RETRY_MS) / 1000)
            self.facts.put(error, 0)
        elif error.code in codes.RETRYABLE or error.code == codes.ErrorCode.CSEQ_GAP:
            self._put_off(error, error.cseq)
        else:
            item, records = self._outbox.refused(error.cseq, taken=error.code == codes.ErrorCode.CSEQ_REUSED)
            self._file.keep(records)
            if item is not None:
                told = self._tell(item, Refused(error.code, error.message))
                self._put_outcome(SendRefused(item, error.code, error.message), item.size, told=told)
            self.wake()

    def _put_off(self, error: Error, cseq: int) -> None:
        if error.code != codes.ErrorCode.CSEQ_GAP:
            wait = _given(error.retry_after_ms) or RETRY_MS
            self._hold_until = max(self._hold_until, trio.current_time() + wait / 1000)
        records: list[Record] = self._outbox.put_off(cseq, _given(error.expected))
        self._file.keep(records)
        self.wake()

    def _settle(self) -> None:
        self.settled.set()
        self.settled = trio.Event()

    def _tell(self, item: Queued, outcome: Ack | ClientError) -> bool:
        """Tell who waits in ``send`` for this outcome; False: nobody does."""
        self._settle()
        waiter = self.outcomes.pop(item.key, None)
        if waiter is not None:
            waiter(outcome)
        return waiter is not None

    def _put_outcome(self, fact: Stored | SendRefused, size: int, *, told: bool) -> None:
        """Into the queue even when that is full, unless somebody was ``told`` already."""
        if told:
            self.facts.put(fact, size)
        else:
            self.facts.put_outcome(fact, size)


def _given(value: object) -> int | None:
    return value if isinstance(value, int) else None
