"""More than a server can take: pairs of users who write to each other by a plan, whatever the server makes of it.

Open loop: a message is due at a moment of its own, and its latency counts from then. Half of the senders are as client libraries
are: they have at most ``WINDOW`` under way, and what is due beyond that waits. The other half push whatever is due into their
sockets. Who is refused waits for the answers to all that is under way, then for ``retry_after_ms``, and goes on with what is due
by then; what is older than ``PATIENCE`` is given up, as people do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import cbor2
import trio
from chatd_proof.verdict import percentile

from tests.client_frames import BINARY, frame
from tests.e2e.cluster import Cluster, Server
from tests.faults.injections import worked_seconds
from tests.faults.load import upgraded

TICK = 0.02
PATIENCE = 2.0
DEADLINE_SECONDS = 300.0
WINDOW = 64
"""Messages under way for each sender, where nothing is planned, and always for one that is bounded."""
SETTLED = 2.0
"""It is as before again when in a second the p99 is at most so many times that of the span before."""
BODY = "x" * 120
LIVE = cbor2.dumps("live")


@dataclass
class Span:
    """What happened in a part of the run. ``latency``: seconds from when it was due to its ack. ``worked``: seconds of a
    processor that the node took."""

    name: str
    seconds: float
    offered: int = 0
    acked: int = 0
    refused: int = 0
    given_up: int = 0
    worked: float = 0.0
    latency: list[float] = field(default_factory=list, repr=False)

    @property
    def rate(self) -> float:
        """Acknowledged a second: the goodput."""
        return self.acked / self.seconds

    @property
    def rate_of_work(self) -> float:
        """Acknowledged for each second of a processor: the goodput of one who may have so much, and may have had less."""
        return self.acked / self.worked


@dataclass
class Sender:
    """One connection. ``bounded``: never more than ``WINDOW`` under way."""

    stream: trio.abc.Stream
    flood: Flood
    to: str
    bounded: bool
    due: list[float] = field(default_factory=list)
    under_way: dict[int, float] = field(default_factory=dict)
    next: int = 1
    pause: float | None = None
    acked: int = 0
    _moved: trio.Event = field(default_factory=trio.Event)

    async def say(self) -> None:
        """For ever: what is due, as far as the server takes it in."""
        planned = trio.current_time()
        while True:
            planned = self._plan(planned)
            if self.pause is not None and not self.under_way:
                await trio.sleep(self.pause)
                self.pause = None
            if self.pause is None and (frames := self._frames()):
                await self.stream.send_all(frames)
            self._moved = trio.Event()
            with trio.move_on_after(TICK):
                await self._moved.wait()

    def _plan(self, planned: float) -> float:
        now, rate, span = trio.current_time(), self.flood.rate, self.flood.span
        if rate is None:
            new = WINDOW - len(self.under_way) - len(self.due)
            self.due += [now] * new
            span.offered += max(0, new)
            return now
        while planned < now:
            self.due.append(planned)
            span.offered += 1
            planned += len(self.flood.senders) / rate
        stale = bisect_right(self.due, now - PATIENCE)
        span.given_up += stale
        del self.due[:stale]
        return planned

    def _frames(self) -> bytes:
        out = bytearray()
        room = max(0, WINDOW - len(self.under_way)) if self.bounded else len(self.due)
        now, self.due = self.due[:room], self.due[room:]
        for at in now:
            data = cbor2.dumps({"t": "send", "cseq": self.next, "to": self.to, "body": BODY})
            out += frame(BINARY, data)
            self.under_way[self.next] = at
            self.next += 1
        return bytes(out)

    async def hear(self) -> None:
        """Until the server closes."""
        data = bytearray()
        while more := await self.stream.receive_some(65536):
            data += more
            while (end := _frame_end(data)) is not None:
                begin, end = end
                if data[0] & 0x0F == BINARY:
                    self._heard(cbor2.loads(bytes(data[begin:end])))
                del data[:end]

    def _heard(self, message: dict[str, Any]) -> None:
        span = self.flood.span
        if message["t"] == "ack":
            span.acked += 1
            self.acked += 1
            now, due_at = trio.current_time(), self.under_way.pop(message["cseq"])
            span.latency.append(now - due_at)
            self.flood.acks[self.bounded].append((now, due_at))
            self.next = max(self.next, message["cseq"] + 1)
        elif message["t"] == "error":
            assert message["code"] in ("overloaded", "rate_limited", "unavailable", "cseq_gap"), message
            span.refused += 1
            del self.under_way[message["cseq"]]
            self.pause = max(self.pause or 0.0, message.get("retry_after_ms", 0) / 1000)
            if not self.under_way:
                self.next = self.acked + 1
        elif message["t"] == "bye":
            self.flood.byes.append(message["code"])
        self._moved.set()


def _frame_end(data: bytearray) -> tuple[int, int] | None:
    """Where the payload of the first frame begins and ends."""
    if len(data) < 2:
        return None
    size, begin = data[1], 2
    if size >= 126:
        begin = 4 if size == 126 else 10
        size = int.from_bytes(data[2:begin], "big")
    return (begin, begin + size) if len(data) >= begin + size else None


@dataclass
class Flood:
    """All senders to one node; ``rate``: messages a second of all together, or None for as many as ``WINDOW`` lets under way.
    ``acks``: when each came, and when what it is for was due; of those who are not bounded, and of those who are."""

    server: Server
    senders: list[Sender] = field(default_factory=list)
    rate: float | None = None
    byes: list[str] = field(default_factory=list)
    acks: tuple[list[tuple[float, float]], list[tuple[float, float]]] = field(default_factory=lambda: ([], []))
    span: Span = field(default_factory=lambda: Span("", 1))

    async def during(self, name: str, seconds: float, rate: float | None) -> Span:
        """So much of it."""
        self.rate, self.span = rate, Span(name, seconds)
        began = worked_seconds(self.server)
        await trio.sleep(seconds)
        self.span.worked = worked_seconds(self.server) - began
        return self.span

    async def rest(self, rate: float) -> None:
        """So much of it, until nothing is under way any more that was due before."""
        began = trio.current_time()
        self.rate, self.span = rate, Span("rest", 1)
        with trio.fail_after(DEADLINE_SECONDS):
            while any(due_at < began for sender in self.senders for due_at in sender.under_way.values()):
                await trio.sleep(TICK)

    def recovery(self, over: float, before: Span) -> str:
        """Figures of what came after the moment at which too much was ``over``."""
        blind, bounded = self.acks
        by_second: dict[int, Counter[float]] = defaultdict(Counter)
        for at, due_at in bounded:
            if at >= over:
                by_second[int(at - over)][at - due_at] += 1
        settled = SETTLED * percentile(Counter(before.latency), 0.99)
        after = next((second for second in sorted(by_second) if percentile(by_second[second], 0.99) <= settled), None)
        last = [max((at for at, due_at in acks if due_at < over), default=over) - over for acks in (bounded, blind)]
        words = "not recovered" if after is None else f"recovered after {after} s"
        return f"{words}; the last ack of what was due before, with a bound {last[0]:.1f} s, without {last[1]:.1f} s"


@asynccontextmanager
async def flood(cluster: Cluster, users: int) -> AsyncIterator[Flood]:
    """So many connected users, in pairs, who do nothing yet."""
    made = Flood(cluster.server(0), rate=0.0001)
    try:
        for number in range(users):
            stream = await entered(cluster, f"f{number}")
            made.senders.append(Sender(stream, made, f"@f{number ^ 1}", bounded=number % 4 < 2))
        async with trio.open_nursery() as everybody:
            for sender in made.senders:
                everybody.start_soon(sender.hear)
                everybody.start_soon(sender.say)
            yield made
            everybody.cancel_scope.cancel()
    finally:
        for sender in made.senders:
            await trio.aclose_forcefully(sender.stream)


async def entered(cluster: Cluster, user: str, device: str = "d") -> trio.SocketStream:
    """A session that is live. Raises OSError, ConnectionResetError."""
    stream, data = await upgraded(cluster.server(0).port)
    try:
        hello = cbor2.dumps({"t": "hello", "token": cluster.token(user), "device": device})
        await stream.send_all(frame(BINARY, hello))
        while LIVE not in data:
            part = await stream.receive_some(65536)
            if not part:
                raise ConnectionResetError(f"{user} was sent away: {data[-100:]!r}")
            data = data[-len(LIVE) :] + bytes(part)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def told_of(spans: Sequence[Span]) -> str:
    """One line for all of them."""
    return "; ".join(
        f"{span.name} {span.rate:,.0f}/s (p99 {percentile(Counter(span.latency), 0.99):.2f} s, {span.refused:,} refused, "
        f"{span.given_up:,} given up, {span.worked / span.seconds:.2f} processors)"
        for span in spans
    )
