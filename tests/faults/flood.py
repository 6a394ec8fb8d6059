"""More than a server can take: pairs of users who write to each other by a plan, whatever the server makes of it.

Open loop: a message is due at a moment of its own, and its latency counts from then. Who is refused waits for the answers to all
that is under way, then for ``retry_after_ms``, and goes on with what is due by then; what is older than ``PATIENCE`` is given up,
as people do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import cbor2
import trio
from chatd_proof.verdict import percentile

from tests.client_frames import BINARY, frame
from tests.e2e.cluster import Cluster
from tests.faults.load import upgraded

TICK = 0.02
PATIENCE = 2.0
WINDOW = 64
"""Messages under way for each sender, where nothing is planned."""
BODY = "x" * 120
LIVE = cbor2.dumps("live")


@dataclass
class Span:
    """What happened in a part of the run. ``latency``: seconds from when it was due to its ack."""

    name: str
    seconds: float
    offered: int = 0
    acked: int = 0
    refused: int = 0
    given_up: int = 0
    latency: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Acknowledged a second: the goodput."""
        return self.acked / self.seconds


@dataclass
class Sender:
    """One connection. ``rate``: messages a second that are due, or None for as many as ``WINDOW`` lets under way."""

    stream: trio.abc.Stream
    flood: Flood
    to: str
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
            if self.due and self.pause is None:
                await self.stream.send_all(self._frames())
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
        kept = [at for at in self.due if now - at < PATIENCE]
        span.given_up += len(self.due) - len(kept)
        self.due = kept
        return planned

    def _frames(self) -> bytes:
        out = bytearray()
        for at in self.due:
            data = cbor2.dumps({"t": "send", "cseq": self.next, "to": self.to, "body": BODY})
            out += frame(BINARY, data)
            self.under_way[self.next] = at
            self.next += 1
        self.due = []
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
            span.latency.append(trio.current_time() - self.under_way.pop(message["cseq"]))
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
    """All senders; ``rate``: messages a second of all together."""

    senders: list[Sender] = field(default_factory=list)
    rate: float | None = None
    byes: list[str] = field(default_factory=list)
    span: Span = field(default_factory=lambda: Span("", 1))

    async def during(self, name: str, seconds: float, rate: float | None) -> Span:
        """So much of it."""
        self.rate, self.span = rate, Span(name, seconds)
        await trio.sleep(seconds)
        return self.span


@asynccontextmanager
async def flood(cluster: Cluster, users: int) -> AsyncIterator[Flood]:
    """So many connected users, in pairs, who do nothing yet."""
    made = Flood(rate=0.0001)
    try:
        for number in range(users):
            stream = await entered(cluster, f"f{number}")
            made.senders.append(Sender(stream, made, f"@f{number ^ 1}"))
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
        f"{span.given_up:,} given up)"
        for span in spans
    )
