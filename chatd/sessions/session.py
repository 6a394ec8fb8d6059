"""A session: what one connection may say, and what is done with it at once. Synchronous, driven by its link.

The message path begins here: ``data_received`` cuts frames, decodes and checks each message, and either acts on it (a
send goes to the store writer's mailbox, a mark is merged, a heartbeat answered) or queues it for the session's actor
(``actor.run_session``), which alone waits for the store. Bounds: sends in flight and requests waiting are counted, and
beyond them the socket is not read (I9): TCP then slows the client down, and nobody else.

One class, and long: ending, pacing and expiring each touch the parser, the link, the mailbox and the marks, and objects in
between would be paid for by every idle connection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from time import time_ns
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio
from chatd_protocol import codes, messages
from chatd_protocol.codec import (
    MAX_CLIENT_BYTES,
    Encoding,
    Malformed,
    decode_common,
    decode_weighed,
    encode,
    encode_beat,
    weight_of,
)
from chatd_protocol.codes import Close, ErrorCode
from chatd_protocol.transitions import OutOfPlace, State
from chatd_protocol.transitions import Session as Machine

from chatd.conversations.operations import (
    Appended,
    Author,
    Mark,
    Marked,
    Operation,
    Outcome,
    Refused,
    Repeated,
    Sequenced,
)
from chatd.conversations.rules import REPLACED, SIGNED_OUT
from chatd.delivery.hub import frame_of
from chatd.limits.bucket import TokenBucket
from chatd.limits.rules import Operation as Limited
from chatd.sessions import answers
from chatd.sessions.allowance import (
    ITEMS_A_FRAME,
    MALFORMED_FRAMES,
    frames_bucket,
    greeting_bucket,
    signal_cost,
    signals_bucket,
)
from chatd.sessions.changes import NUMBERED, Change, change_operation, send_operation
from chatd.sessions.mailbox import Mailbox
from chatd.sessions.marks import Marks
from chatd.wire import frames
from chatd.wire.frames import FrameError, FrameParser

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from chatd.limits.limiter import UserLimits
    from chatd.sessions.node import Node
    from chatd.wire.link import Link

FRAGMENT_SECONDS: Final = 10.0
"""How long one message may take to arrive; a peer that sends a byte now and then is cut by ``expire``."""

RESUME_SHARE: Final = 0.75
"""A paused session is resumed when three quarters of its bound are under way: so it takes several messages in at once, and not
one for each that is done."""

log = structlog.get_logger()


class Session:
    """One connection. Created by the listener after the handshake; ``link`` is set right after."""

    __slots__ = (
        "_ended", "_flood", "_in_flight", "_machine", "_mailbox", "_node", "_opcode", "_parser", "_partial_since", "_paused",
        "_signals", "_topics", "_unhandled", "address", "author", "device", "device_no", "encoding", "epoch", "expires_at",
        "first_cseq", "former", "idle", "inactive", "last_active", "last_heard", "limits", "link", "marks", "session_id", "user",
    )  # fmt: skip

    def __init__(self, node: Node, encoding: Encoding, address: str, session_id: str) -> None:
        now = trio.current_time()
        self._node = node
        self.encoding = encoding
        self._opcode = frames.BINARY if encoding.binary else frames.TEXT
        self.address = address
        self.session_id = session_id
        self.link: Link
        self._parser = FrameParser(MAX_CLIENT_BYTES)
        self._machine = Machine()
        self._flood = greeting_bucket()
        self._in_flight = 0
        self._mailbox = Mailbox(node.limits.requests_waiting)
        self._ended: Close | None = None
        self._partial_since = 0.0
        self._paused = False
        self._unhandled: Sequence[tuple[int, bytes]] = ()
        self.last_heard = self.last_active = now
        self.idle = self.inactive = False
        self._signals: TokenBucket | None = None
        self.expires_at = 0
        self.user = self.device = ""
        self.author: Author | None = None
        self.device_no = -1
        self.epoch = self.first_cseq = 0
        self.marks: Marks | None = None
        self._topics: set[str] | None = None
        self.former: dict[str, int] | None = None
        self.limits: UserLimits | None = None

    @property
    def topics(self) -> set[str]:
        """The conversations that it follows. Made when first asked for: who is in none has no set."""
        if self._topics is None:
            self._topics = set()
        return self._topics

    @property
    def followed(self) -> Collection[str]:
        """The same, to be looked at only."""
        return self._topics or ()

    # --- what the link calls --------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.last_heard = trio.current_time()
        try:
            received = self._parser.feed(data)
            if not self._charge(len(received) + self._parser.pieces):
                return
            self._handle_frames(received)
        except FrameError as fault:
            self._close_frame(fault.code, fault.reason)
        if self._ended is not None:
            return
        if not self._parser.partial:
            self._partial_since = 0.0
        elif not self._partial_since or any(opcode < frames.CLOSE for opcode, _ in received):
            self._partial_since = self.last_heard  # another message has begun; a control frame within one begins none
            self._node.wheel.soon(self.session_id)

    def _handle_frames(self, received: Sequence[tuple[int, bytes]]) -> None:
        """As many as there is room for; the rest of what was read from the socket waits in ``_unhandled``, which is empty before:
        a paused link is not read, and ``_resume`` takes all of it out first."""
        for place, (opcode, payload) in enumerate(received):
            if self._paused:
                self._unhandled = received[place:]
                return
            self._frame_received(opcode, payload)
            if self._ended is not None:
                return

    def outbox_overflowed(self) -> None:
        self._node.metrics.slow_consumers += 1
        self.end(codes.SLOW_CONSUMER, retry_after_ms=1000, cut=True)

    def link_closed(self) -> None:
        if self._ended is None:
            self._ended = Close(1006, "connection_lost")
        self._mailbox.wake()

    # --- frames and messages --------------------------------------------------------------------

    def _frame_received(self, opcode: int, payload: bytes) -> None:
        if opcode == self._opcode:
            self._message_received(payload)
        elif opcode == frames.PING:
            self.link.write(frames.encode_frame(frames.PONG, payload))
        elif opcode == frames.CLOSE:
            code, _ = frames.parse_close(payload)
            self._close_frame(frames.NORMAL if code == 1005 else code, "")
        elif opcode != frames.PONG:
            self._close_frame(frames.UNSUPPORTED_DATA, f"{self.encoding.subprotocol} has no frames of this kind")

    def _message_received(self, payload: bytes) -> None:
        try:
            message = decode_common(self.encoding, payload) or self._weighed(payload)
        except Malformed as fault:
            self.refuse(fault.code, fault.message, id=fault.id, cseq=fault.cseq)
            if self._machine.state is State.CONNECTED:
                self.end(codes.HELLO_EXPECTED)
            else:
                self._charge(MALFORMED_FRAMES)
            return
        if message is None:
            return
        try:
            self._machine.advance("client", messages.name_of(message))
        except OutOfPlace as misplaced:
            if self._machine.state is State.CONNECTED:
                self.end(codes.HELLO_EXPECTED)
            else:
                self._refuse_message(message, ErrorCode.OUT_OF_PLACE, str(misplaced))
            return
        self._act(message, len(payload))

    def _charge(self, cost: int) -> bool:
        """So many frames more; False where they are not to be had, and the session is ended."""
        wait = self._flood.take(self.last_heard, cost)
        if wait:
            self.end_flood(wait)
        return not wait

    def _weighed(self, payload: bytes) -> messages.ClientMessage | None:
        """What is not in its usual form: it costs as many frames as it takes the time of. None where that was too many, and the
        session has ended. Raises Malformed."""
        weight = weight_of(self.encoding, payload)
        if weight > ITEMS_A_FRAME and not self._charge(weight // ITEMS_A_FRAME):
            return None
        return decode_weighed(self.encoding, payload, weight)

    def _act(self, message: messages.ClientMessage, size: int) -> None:
        kind = type(message)
        if kind is not messages.Heartbeat and kind is not messages.Delivered:
            self.last_active = self.last_heard
            if self.idle:
                self.idle = False
                self._node.presence.stir(self.user)
        if kind in NUMBERED:
            self._send(message)  # type: ignore[arg-type]
        elif kind is messages.Delivered or kind is messages.Read:
            self._mark(message)  # type: ignore[arg-type]
        elif kind is messages.Heartbeat:
            self._heartbeat(message)  # type: ignore[arg-type]
        elif kind is messages.Typing or kind is messages.Watch:
            self._signal(message)  # type: ignore[arg-type]
        else:
            self._queue(message, size)

    def _send(self, message: messages.Send | Change) -> None:
        """What takes a number: straight to the store writer, in the order in which it came."""
        assert self.author is not None, "the state machine lets no send through before the hello"
        assert self.limits is not None, "the same"
        if wait := self.limits.messages.take(self.last_heard):
            self._node.limiter.refused(Limited.MESSAGES)
            self._refuse_message(message, ErrorCode.RATE_LIMITED, "too many messages", retry_after=wait)
            return
        operation: Sequenced
        if type(message) is messages.Send:
            operation = send_operation(self.author, message)
        else:
            operation = change_operation(self.author, message)  # type: ignore[arg-type]
        if not self._node.writer.submit(operation, self._send_settled):
            self._refuse_message(message, ErrorCode.OVERLOADED, "the server is busy", retry_after=0.5)
            return
        self._in_flight += 1
        if self._in_flight >= self._most_sends():
            self._pace()

    def _most_sends(self) -> float:
        """How many sends may be under way now."""
        return self._node.limits.inflight_sends * self._node.writer.inflight_share

    def _pace(self) -> None:
        """Read the socket only while there is room: in the store writer's share, and in the actor's mailbox."""
        most = self._most_sends() * (RESUME_SHARE if self._paused else 1.0)
        full = (self._in_flight > 0 and self._in_flight >= most) or self._mailbox.full  # with none under way nobody would wake it
        if full == self._paused:
            return
        self._paused = full
        if full:
            self.link.pause_reading()
        else:
            # What lies unread in the socket since then is not the peer's silence, nor its slowness.
            self.last_heard = trio.current_time()
            self._partial_since = self.last_heard if self._parser.partial else 0.0
            self._resume()

    def _resume(self) -> None:
        """First what was read already, then the socket. The writer and the actor call it: a fault ends this connection alone."""
        unhandled, self._unhandled = self._unhandled, ()
        if self._ended is not None:
            return
        try:
            self._handle_frames(unhandled)
        except FrameError as fault:
            self._close_frame(fault.code, fault.reason)
        except Exception:
            log.exception("session.failed")
            self.link.abort()
            return
        if not self._paused and self._ended is None:
            self.link.resume_reading()

    def _send_settled(self, operation: Operation, outcome: Outcome) -> None:
        self._in_flight -= 1
        if self._paused:
            self._pace()
        if type(outcome) is Appended:
            return  # acknowledged by the hub, in the event's place
        if isinstance(outcome, Repeated):
            self.tell(messages.Ack(cseq=outcome.cseq, conv=outcome.conv, seq=outcome.seq, at=outcome.at, repeat=True))
            self._node.metrics.repeats += 1
        elif isinstance(outcome, Refused) and isinstance(operation, Sequenced):
            retry_ms = 1000 if outcome.code in codes.RETRYABLE else None
            self.refuse(
                outcome.code, outcome.message, cseq=operation.cseq, expected=outcome.expected or None, retry_ms=retry_ms
            )
            self.end_if_fenced(outcome)

    def _heartbeat(self, message: messages.Heartbeat) -> None:
        self.link.write(frame_of(self.encoding, encode_beat(self.encoding, time_ns() // 1_000_000)))
        if message.active is not msgspec.UNSET and message.active is self.inactive:
            self.inactive = not message.active
            if message.active:
                # Somebody is at the screen again. One that says so all the time says nothing of anybody.
                self.last_active = self.last_heard
                self.idle = False
            self._node.presence.stir(self.user)

    def _signal(self, message: messages.Typing | messages.Watch) -> None:
        """What is stored nowhere and has no answer."""
        self._node.metrics.requests += 1
        if self._signals is None:
            self._signals = signals_bucket()
        if wait := self._signals.take(self.last_heard, signal_cost(message)):
            self._refuse_message(message, ErrorCode.RATE_LIMITED, "typing, watch: too often", retry_after=wait)
        elif isinstance(message, messages.Typing):
            self._node.signals.ask_typing(self, message.conv, message.on)
        else:
            self._node.presence.watch(self, message.users)

    def _mark(self, message: messages.Delivered | messages.Read) -> None:
        self._move_mark(message.conv, message.seq, message.seq if isinstance(message, messages.Read) else 0)

    def _move_mark(self, conv: str, delivered: int, read: int) -> None:
        if self.marks is None:
            self.marks = Marks()
        if not self.marks:
            self._node.mark_moved(self)
        if not self.marks.move(conv, delivered, read):
            # Marks of 5000 conversations wait: this device may see some of the oldest again, and loses nothing.
            self._node.metrics.marks_dropped += 1

    def _queue(self, request: messages.ClientMessage, size: int) -> None:
        if self.limits is not None and (wait := self.limits.requests.take(self.last_heard)):
            self._node.limiter.refused(Limited.REQUESTS)
            self._refuse_message(request, ErrorCode.RATE_LIMITED, "too many requests", retry_after=wait)
            return
        self._node.metrics.requests += 1
        self._mailbox.put(request, size)
        self._pace()

    # --- what the hub calls ---------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        self.link.write(frame)

    def conversation_began(self, conv: str) -> None:
        if self._ended is None:
            self._mailbox.conversation_began(conv)

    def detached(self, conv: str, position: int) -> None:
        self.topics.discard(conv)
        if self.former is None:
            self.former = {}
        self.former[conv] = position
        self._node.presence.conversations_moved(self)

    def replace(self) -> None:
        self.end(codes.REPLACED)

    def sign_out(self) -> None:
        if self._ended is None:
            self._node.metrics.signed_out += 1
        self.end(codes.SIGNED_OUT)

    def end_if_fenced(self, refused: Refused) -> None:
        """End where the store refuses because the session is over: another node's doing, of which the bus did not tell."""
        if refused is REPLACED:
            self.end(codes.REPLACED)
        elif refused is SIGNED_OUT:
            self.sign_out()

    # --- answers --------------------------------------------------------------------------------

    def tell(self, message: msgspec.Struct) -> None:
        """Write one message of the server's; it may cut the link, it never waits."""
        self.link.write(frame_of(self.encoding, encode(self.encoding, message)))

    def refuse(
        self, code: str, text: str, *, id: int | None = None, cseq: int | None = None, expected: int | None = None,
        retry_ms: int | None = None,
    ) -> None:  # fmt: skip
        """Answer with an error; it changes nothing."""
        self._node.metrics.count_refused(code)
        self.tell(answers.error(code, text, id=id, cseq=cseq, expected=expected, retry_ms=retry_ms))

    def _refuse_message(
        self, message: messages.ClientMessage, code: str, text: str, *, retry_after: float | None = None
    ) -> None:
        retry_ms = None if retry_after is None else int(retry_after * 1000) + 1
        self.refuse(code, text, id=getattr(message, "id", None), cseq=getattr(message, "cseq", None), retry_ms=retry_ms)

    # --- the end --------------------------------------------------------------------------------

    @property
    def ended(self) -> Close | None:
        """Why it is over, or None."""
        return self._ended

    def end(self, close: Close, *, retry_after_ms: int | None = None, cut: bool = False) -> None:
        """Say ``bye`` and close; with ``cut``, what waits in the outbox is dropped first. A second call does nothing."""
        if self._ended is not None:
            return
        bye = encode(self.encoding, answers.bye(close, retry_after_ms))
        farewell = frame_of(self.encoding, bye) + frames.encode_close(close.code, close.reason)
        self._finish(close, farewell, cut=cut)

    def end_flood(self, wait: float) -> None:
        """End, for it has said more than it may; it may come back when it could say something again, and a burst of it."""
        full = max(wait, self._flood.full_in(self.last_heard)) if self.limits is not None else wait
        self.end(codes.RATE_LIMITED, retry_after_ms=int(full * 1000) + 1000)

    def _close_frame(self, code: int, reason: str) -> None:
        if self._ended is None:
            self._finish(Close(code, reason), frames.encode_close(code, reason), cut=False)

    def _finish(self, close: Close, farewell: bytes, *, cut: bool) -> None:
        self._ended = close
        self.flush_marks()
        if cut:
            self.link.cut(farewell)
        else:
            self.link.finish(farewell)
        self._mailbox.wake()

    def flush_marks(self) -> None:
        """Hand the merged marks to the store writer. What it does not take, or the store refuses, is tried again by the next
        flush, while the session lasts."""
        if self.marks and self.author is not None:
            for mark in self.marks.take(self.author):
                if not self._node.writer.submit(mark, self._mark_settled):
                    self._mark_settled(mark, _NOT_TAKEN)

    def _mark_settled(self, operation: Operation, outcome: Outcome) -> None:
        if type(outcome) is Marked:
            assert self.author is not None, "no mark comes before the hello"
            self._node.signals.moved(self.author, outcome)
            return
        if isinstance(outcome, Refused) and isinstance(operation, Mark) and self._ended is None:
            self._move_mark(operation.conv, operation.delivered, operation.read)

    def expire(self, now: float, now_ms: int, silence: float) -> float:
        """Called by the sweep: end what is silent for ``silence`` s, too slow with a message, or past its token. In how many
        seconds it may be so at the earliest."""
        if self._partial_since and not self._paused and now - self._partial_since > FRAGMENT_SECONDS:
            self._close_frame(frames.POLICY_VIOLATION, "message took too long")
        elif now - self.last_heard > silence and not self._paused:
            self.end(codes.HEARTBEAT_MISSED)
        elif self.expires_at and now_ms >= self.expires_at:
            self.end(codes.TOKEN_EXPIRED)
        if self.author is None or self._paused or self._partial_since:
            return 0.0  # at each turn: what it will be is not known yet
        silent_in = self.last_heard + silence - now
        return min(silent_in, (self.expires_at - now_ms) / 1000) if self.expires_at else silent_in

    # --- what the actor calls -------------------------------------------------------------------

    def opened(self, author: Author, device: str, cseq: int) -> None:
        """The hello was good: from here on the session speaks for a device."""
        self.author, self.user, self.device = author, author.user, device
        self.device_no, self.epoch, self.first_cseq = author.device_no, author.epoch, cseq

    def admitted(self, limits: UserLimits) -> None:
        """By these limits it is measured from here on; a tier that allows more has a wider bound on frames, too."""
        self.limits = limits
        rule, least = limits.messages.rule, self._node.limits
        if rule.rate_per_s > least.messages_per_second:
            self._flood = frames_bucket(rule.rate_per_s, rule.burst)
        else:
            self._flood = frames_bucket(least.messages_per_second, least.messages_burst)

    def tell_flood(self) -> None:
        """It is over; if it was a flood, the user's next session has to wait."""
        if self.limits is not None:
            self._node.floods.ended(self.user, self._flood, trio.current_time())

    def advance(self, name: str) -> None:
        """The server's side of the state machine: ``welcome`` or ``live`` is about to be written."""
        self._machine.advance("server", name)

    def take_job(self) -> messages.ClientMessage | str | None:
        """The next thing for the actor, if there is one: the id of a conversation that began (EVERYTHING: look which did),
        or a request."""
        job = self._mailbox.take()
        if job is not None:
            self._pace()
        return job

    def job_waits(self) -> Coroutine[object, object, None]:
        """Wait until there may be another job, or the session has ended. Cancelling is safe."""
        return self._mailbox.changed()  # not awaited here: one coroutine less in each idle connection


_NOT_TAKEN = Refused(ErrorCode.OVERLOADED, "")
