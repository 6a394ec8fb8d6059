"""``Engine``: engine.c as a Python object. Owns nothing but the engine's memory; the sockets stay their lines'."""

from __future__ import annotations

import ctypes as c
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

from chatd_bench.dialects.dialect import STAMP_BYTES, Channel, Delivery, Dialect, Field, Program, Session, User
from chatd_bench.engine.build import library
from chatd_bench.engine.plan import Plan
from chatd_bench.faults import RunFailed
from chatd_bench.histogram import Counts

SAMPLE_EVERY = 64
SAMPLES = 4096
"""That are kept, the newest ones: decoding them all would take longer than the run."""
STAMP_FILLER = "x"
GOLDEN = 0.6180339887
"""Steps of so much, round a circle, spread evenly wherever one stops (the golden ratio)."""
SCRATCH_BYTES = 1 << 20
"""As engine_new in engine.c has it."""
NUMBER_BYTES = 20
"""At most, in decimal."""
Signature: TypeAlias = tuple[str, object, tuple[object, ...]]
"""Of a C function: its name, result and arguments."""


class Latency(IntEnum):
    """The engine's histograms: from the intended time to each recipient; to the ack; to the send itself."""

    DELIVERY = 0
    ACK = 1
    LAG = 2


class _Config(c.Structure):
    _fields_ = (
        *((name, c.c_int32) for name in (
            "users", "channels", "body_bytes", "text", "ack_number", "ack_cumulative", "ack_position", "position_number",
            "length_slack", "credit", "echoes", "sample_every", "sample_slots",
        )),
        ("heartbeat_us", c.c_int64),
    )  # fmt: skip


class _Operation(c.Structure):
    _fields_ = (("kind", c.c_int32), ("size", c.c_uint32), ("bytes", c.c_char_p))


@dataclass(frozen=True)
class Membership:
    """A user's place in a channel: where its log stands, and whether the user writes to it."""

    channel: Channel
    address: str
    position: int
    writes: bool


@dataclass(frozen=True)
class Seat:
    """What the engine calls ``index``: a membership of the connection ``line``."""

    index: int
    line: int
    user: User
    membership: Membership


@dataclass(frozen=True)
class Totals:
    """Since the engine began. ``beats``: heartbeats sent. ``sent_away``: slow readers whose connections the server ended."""

    sent: int
    acked: int
    delivered: int
    beats: int
    sent_away: int
    planned: int


class Engine:
    """The connections of one generator process, and the run. Every call that runs raises RunFailed at a fault."""

    def __init__(
        self, dialect: Dialect, users: Sequence[User], senders: Mapping[Channel, Sequence[User]], body_bytes: int
    ) -> None:
        if body_bytes < STAMP_BYTES:
            raise RunFailed(f"a body of {body_bytes} bytes cannot hold the stamp of {STAMP_BYTES}")
        self._library = _loaded()
        self._phase = 0.0
        self._dialect = dialect
        self._users = users
        self._body_bytes = body_bytes
        self._incoming = incoming = dialect.incoming()
        self._counters = list(dict.fromkeys([*(rule.name for rule in incoming.counted), "replies"]))
        echoes = any(map(dialect.echoes, senders))
        ack, position = incoming.ack, incoming.position
        self._config = _Config(
            users=len(users), channels=max((channel.number + 1 for channel in senders), default=0), body_bytes=body_bytes,
            text=dialect.text, ack_number=ack.number.value if ack else 0, ack_cumulative=bool(ack and ack.cumulative),
            ack_position=bool(ack and ack.position), position_number=position.number.value if position else 0,
            length_slack=incoming.length_slack, credit=0 if ack else 1 if echoes else 2, echoes=echoes,
            sample_every=SAMPLE_EVERY, sample_slots=SAMPLES, heartbeat_us=1,
        )  # fmt: skip
        self._engine: Any = None
        self._senders = senders
        self._plan: Plan | None = None
        self._plan_start = 0
        self._heartbeats = 0
        self.seats: list[Seat] = []

    # --- before it runs ---------------------------------------------------------------------------

    def _begin(self, heartbeat_s: float) -> None:
        """Heartbeats all have one interval: they wait in a queue."""
        self._config.heartbeat_us = int(heartbeat_s * 1e6)
        lib, incoming = self._library, self._incoming
        self._engine = engine = lib.engine_new(c.byref(self._config), time.monotonic_ns())
        if incoming.ack:
            lib.engine_ack(engine, incoming.ack.match.prefix, len(incoming.ack.match.prefix), incoming.ack.match.at)
        if incoming.position:
            lib.engine_position(engine, incoming.position.key, len(incoming.position.key))
        for reply in incoming.replies:
            self._rule(reply.match.prefix, reply.match.at, reply.answer, "replies")
        for counted in incoming.counted:
            self._rule(counted.match.prefix, counted.match.at, None, counted.name)
        for channel, senders in self._senders.items():
            numbers = (c.c_uint32 * len(senders))(*(user.number for user in senders))
            lib.engine_channel(engine, channel.number, numbers, len(senders))

    def _rule(self, prefix: bytes, at: int, answer: bytes | None, name: str) -> None:
        index = self._counters.index(name)
        if self._library.engine_rule(self._engine, prefix, len(prefix), at, answer, len(answer or b""), index):
            raise RunFailed(f"{self._dialect.name}: more rules than the engine takes")

    def add(self, descriptor: int, unread: bytes, session: Session, memberships: Sequence[Membership]) -> int:
        """Take over a connection that is live, with what was read from it already; returns what it is called here."""
        beat = self._dialect.heartbeat(session)
        if self._engine is None:
            self._begin(beat.seconds if beat else 1e6)
        lib, engine = self._library, self._engine
        number = session.user.number
        index: int = lib.engine_connection(
            engine, descriptor, number, session.cseq, session.ack_offset, unread, len(unread)
        )
        for membership in memberships:
            self._place(index, session, membership)
        if beat:
            # Who came at one moment would else beat at one moment, for ever, and a server that is sent all at once has it cheap.
            self._phase = (self._phase + GOLDEN) % 1
            first = _now_us() + int(beat.seconds * self._phase * 1e6)
            lib.engine_heartbeat(engine, index, beat.message, len(beat.message), first)
        return index

    def _place(self, line: int, session: Session, membership: Membership) -> None:
        channel, address = membership.channel, membership.address
        writes: Program = ()
        if membership.writes:
            writes = self._dialect.send_program(session, channel, address, self._body_bytes)
            self._must_fit(writes)
        mark = self._dialect.mark(session, channel, address)
        index = self._library.engine_place(
            self._engine, channel.number, membership.position, *_operations(writes),
            *_operations(mark.program if mark else ()), mark.every if mark else 0,
        )  # fmt: skip
        self.seats.append(Seat(index, line, session.user, membership))

    def _must_fit(self, program: Program) -> None:
        """The engine makes a message in its scratch memory, and does not look how much that is."""
        room = self._body_bytes + sum(NUMBER_BYTES if isinstance(part, Field) else len(part) for part in program)
        if room > SCRATCH_BYTES:
            raise RunFailed(f"a body of {self._body_bytes} bytes makes a message of {room}: the engine takes {SCRATCH_BYTES}")

    def window(self, start: float, end: float) -> int:
        """Measure what is intended (latencies), or happens (counts), between two moments; returns the window's number."""
        index: int = self._library.engine_window(self._engine, _us(start), _us(end))
        if index < 0:
            raise RunFailed("more windows than the engine takes")
        return index

    def follow(self, plan: Plan, start: float) -> None:
        """Open loop: send by ``plan``, which begins at the monotonic time ``start``."""
        self._plan = plan  # the engine reads from its memory
        self._plan_start = _us(start)
        due = (c.c_int64 * len(plan.due)).from_buffer(plan.due)
        places = (c.c_uint32 * len(plan.places)).from_buffer(plan.places)
        self._library.engine_plan(self._engine, due, places, len(plan.due), self._plan_start)

    def intended(self, seat: Seat) -> list[int]:
        """The times in the stamps of what this one sends by the plan, in us and in order."""
        assert self._plan is not None, "follow was called"
        pairs = zip(self._plan.due, self._plan.places, strict=True)
        return [self._plan_start + due for due, place in pairs if place == seat.index]

    def fill(self, in_flight: int, end: float) -> None:
        """Closed loop: each connection keeps so many sends in flight, from now until ``end``."""
        self._library.engine_fill(self._engine, in_flight, _us(end))

    def read_slowly(self, index: int, bytes_per_second: int, end: float) -> None:
        """From now until ``end`` this connection reads no more than that (0: nothing), and is not measured any more."""
        self._library.engine_slow(self._engine, index, bytes_per_second, _us(end))

    def drop(self, index: int) -> None:
        """Forget a connection, before its socket is closed."""
        self._library.engine_drop(self._engine, index)

    # --- running ----------------------------------------------------------------------------------

    def run(self, end: float) -> None:
        """Until the monotonic time ``end``; interrupts are heard meanwhile."""
        while self._engine is not None and (left := end - time.monotonic()) > 0:
            if self._library.engine_run(self._engine, _now_us() + int(min(left, 0.2) * 1e6)):
                raise RunFailed(self._library.engine_fault(self._engine).decode(errors="replace"))
        if self._engine is None:
            time.sleep(max(0.0, end - time.monotonic()))

    # --- what it saw ------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """All that happened."""
        if self._engine is None:
            return Totals(0, 0, 0, 0, 0, 0)
        numbers = (c.c_uint64 * 6)()
        self._library.engine_totals(self._engine, numbers)
        return Totals(*numbers)

    def counted(self) -> dict[str, int]:
        """How often each kind of message came that is only counted."""
        if self._engine is None:
            return {}
        count = self._library.engine_counter
        return {name: count(self._engine, index) for index, name in enumerate(self._counters)}

    def window_totals(self, window: int) -> dict[str, int]:
        """What happened in it."""
        numbers = (c.c_uint64 * 3)()
        self._library.engine_window_totals(self._engine, window, numbers)
        return dict(zip(("sent", "acked", "delivered"), numbers, strict=True))

    def latencies(self, window: int, which: Latency) -> Counts:
        """Of what was intended in it."""
        size = self._library.engine_buckets()
        pointer = self._library.engine_latencies(self._engine, window, which)
        return {bucket: count for bucket, count in enumerate(pointer[:size]) if count}

    def closed(self, index: int) -> bool:
        """Whether the server has ended this connection (only slow readers can say so)."""
        return bool(self._library.engine_closed(self._engine, index))

    def in_flight(self, index: int) -> int:
        """Sends of this connection that are not acknowledged."""
        count: int = self._library.engine_in_flight(self._engine, index)
        return count

    def sent(self, seat: Seat) -> int:
        """How many messages this one has sent to this channel."""
        count: int = self._library.engine_sent(self._engine, seat.index)
        return count

    def received(self, seat: Seat) -> list[int]:
        """How many came here, by sender of the channel, in their order."""
        pointer = self._library.engine_received(self._engine, seat.index)
        received: list[int] = pointer[: len(self._senders[seat.membership.channel])]
        return received

    def order(self, seat: Seat) -> int:
        """A sum of which message stood at which position; 0 without positions. Equal for all members at the end."""
        order: int = self._library.engine_order(self._engine, seat.index)
        return order

    def judge_samples(self) -> int:
        """Decode the samples; how many they are. Raises RunFailed with the first that is not what was sent."""
        if self._engine is None:
            return 0
        count: int = self._library.engine_sample_count(self._engine)
        for index in range(count):
            message, delivery = self._sample(index)
            if fault := self._dialect.judge(message, delivery):
                raise RunFailed(f"{delivery.recipient.name}: {fault}: {message!r}")
        return count

    def _sample(self, index: int) -> tuple[bytes, Delivery]:
        place, slot, size = c.c_uint32(), c.c_uint32(), c.c_size_t()
        pointer = self._library.engine_sample(self._engine, index, c.byref(place), c.byref(slot), c.byref(size))
        message = c.string_at(pointer, size.value)
        seat = self.seats[place.value]
        start = b"~%06d.%06d." % (slot.value, seat.membership.channel.number)
        stamp = message[message.index(start) :][:43].decode()
        body = stamp + STAMP_FILLER * (self._body_bytes - len(stamp))
        membership = seat.membership
        return message, Delivery(self._users[slot.value], seat.user, membership.channel, membership.address, body)


def _operations(program: Program) -> tuple[c.Array[_Operation], int]:
    made = (_Operation * max(len(program), 1))()
    for place, part in enumerate(program):
        if isinstance(part, Field):
            made[place] = _Operation(part.value, 0, None)
        else:
            made[place] = _Operation(0, len(part), part)
    return made, len(program)


def _us(moment: float) -> int:
    return int(moment * 1e6)


def _now_us() -> int:
    return time.monotonic_ns() // 1000


def _signatures() -> Iterator[Signature]:
    """Of what is told before a run, and of the run."""
    pointer, text = c.c_void_p, c.c_char_p
    operations = (c.POINTER(_Operation), c.c_int)
    yield "engine_new", pointer, (c.POINTER(_Config), c.c_uint64)
    yield "engine_ack", None, (pointer, text, c.c_size_t, c.c_size_t)
    yield "engine_position", None, (pointer, text, c.c_size_t)
    yield "engine_rule", c.c_int, (pointer, text, c.c_size_t, c.c_size_t, text, c.c_size_t, c.c_int)
    yield "engine_channel", None, (pointer, c.c_uint32, c.POINTER(c.c_uint32), c.c_uint32)
    numbers = (c.c_uint32, c.c_uint32, c.c_uint32)
    yield "engine_connection", c.c_uint32, (pointer, c.c_int, *numbers, text, c.c_size_t)
    yield "engine_place", c.c_uint32, (pointer, c.c_uint32, c.c_uint64, *operations, *operations, c.c_uint32)
    yield "engine_heartbeat", None, (pointer, c.c_uint32, text, c.c_size_t, c.c_int64)
    yield "engine_slow", None, (pointer, c.c_uint32, c.c_int64, c.c_int64)
    yield "engine_drop", None, (pointer, c.c_uint32)
    yield "engine_plan", None, (pointer, c.POINTER(c.c_int64), c.POINTER(c.c_uint32), c.c_uint64, c.c_int64)
    yield "engine_window", c.c_int, (pointer, c.c_int64, c.c_int64)
    yield "engine_fill", None, (pointer, c.c_uint32, c.c_int64)
    yield "engine_run", c.c_int, (pointer, c.c_int64)


def _questions() -> Iterator[Signature]:
    """Of what is asked after it."""
    pointer = c.c_void_p
    yield "engine_fault", c.c_char_p, (pointer,)
    yield "engine_totals", None, (pointer, c.POINTER(c.c_uint64))
    yield "engine_counter", c.c_uint64, (pointer, c.c_int)
    yield "engine_latencies", c.POINTER(c.c_uint64), (pointer, c.c_int, c.c_int)
    yield "engine_window_totals", None, (pointer, c.c_int, c.POINTER(c.c_uint64))
    yield "engine_buckets", c.c_int, ()
    yield "engine_closed", c.c_int, (pointer, c.c_uint32)
    yield "engine_in_flight", c.c_uint32, (pointer, c.c_uint32)
    yield "engine_sent", c.c_uint32, (pointer, c.c_uint32)
    yield "engine_received", c.POINTER(c.c_uint32), (pointer, c.c_uint32)
    yield "engine_order", c.c_uint64, (pointer, c.c_uint32)
    yield "engine_sample_count", c.c_uint64, (pointer,)
    sizes = (c.POINTER(c.c_uint32), c.POINTER(c.c_uint32), c.POINTER(c.c_size_t))
    yield "engine_sample", pointer, (pointer, c.c_uint64, *sizes)


@cache
def _loaded() -> Any:
    loaded = c.CDLL(str(library()))
    for name, result, arguments in chain(_signatures(), _questions()):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
