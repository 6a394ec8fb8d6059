"""A client of the proof: it says what it has to say, keeps what it hears, comes back when it is cut, and notes it all.

Written by the contract alone, with nothing of chatd's own code: it numbers its changes, repeats what was not acknowledged, and
trusts nothing but acks. Over a stream that is a WebSocket already, of memory or of a socket; ``wsproto`` frames what it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any

import cbor2
import trio
from wsproto.frame_protocol import FrameProtocol, Opcode

from chatd_proof.history import (
    Acked,
    Answered,
    Asked,
    Closed,
    Delivered,
    Opened,
    Record,
    Refused,
    Sent,
    WentLive,
    content_of,
    digest_of_message,
)

Connect = Callable[[], Awaitable[tuple[trio.abc.Stream, bytes] | None]]
"""A stream after the opening handshake, with what came after it; None where nobody is there. May raise OSError."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
WINDOW = 8
BEAT_SECONDS = 15.0
ANSWER_SECONDS = 20.0
LOOK_SECONDS = 0.25
LISTENING_SECONDS = 0.5
"""Between two looks, of one who has nothing to say."""
MARKED_EVERY = 20
"""Events."""
BACK_SECONDS = 0.5
"""At most, before it connects again."""
FINAL = frozenset({"forbidden", "not_found", "too_late"})
"""Refusals that mean never: the change is given up, and its number is free."""
RETRIED = frozenset({"unavailable", "overloaded", "rate_limited", "cseq_gap", "out_of_place"})
"""Refusals after which the same is said again."""


@dataclass
class Plan:
    """What a client does of itself. ``by_positions``: it tells the server what it has; else the server's cursors decide.
    ``pause``: seconds between two changes, ``stays``: of a session, both on average. ``vanishes``: how often it leaves without
    its end being noticed, as one whose network is gone."""

    say: deque[dict[str, Any]]
    by_positions: bool
    pause: float
    stays: float
    vanishes: float = 0.0


@dataclass
class Client:
    """One device. It is ``done`` when all it had to say is settled. ``latency``: seconds that what arrives is under way, at most.
    Once ``settling`` is set it leaves no more of itself."""

    user: str
    device: str
    plan: Plan
    random: Random
    connect: Connect
    token: Callable[[], str]
    note: Callable[[Record], None]
    settling: trio.Event
    latency: float = 0.0
    have: dict[str, int] = field(default_factory=dict)
    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By number: what may have been stored under it, and was not acknowledged."""
    own: list[tuple[str, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sessions: int = 0
    live: bool = False
    _asked: int = 0
    _unmarked: int = 0
    _session: str = ""
    _stream: Any = None
    _frames: Any = None
    _saying: trio.Lock = field(default_factory=trio.Lock)
    _moved: trio.Event = field(default_factory=trio.Event)
    _next: int = 1
    _in_flight: int = 0
    _refused: bool = False
    _again: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether nothing is left to be said, or to be known of."""
        return not self.plan.say and not self.said

    async def run(self) -> None:
        """Connect, for ever. Cancelling is the end of it."""
        while True:
            try:
                connection = await self.connect()
            except (OSError, *GONE):
                connection = None
            if connection is not None:
                await self._serve(*connection)
            await trio.sleep(self.random.random() ** 3 * BACK_SECONDS)  # mostly at once

    async def _serve(self, stream: trio.abc.Stream, rest: bytes) -> None:
        self._stream, self._frames = stream, FrameProtocol(client=True, extensions=[])
        self.sessions += 1
        self._session = f"{self.user}/{self.device}/{self.sessions}"
        self._moved, self._refused, self._in_flight = trio.Event(), False, 0
        opened = False
        try:
            hello: dict[str, Any] = {"t": "hello", "token": self.token(), "device": self.device}
            if self.plan.by_positions:
                hello["positions"] = dict(self.have)
            await self._say(hello)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leave_some_day, nursery.cancel_scope)
                async with aclosing(self._messages(rest)) as messages:
                    async for message in messages:
                        if message["t"] == "welcome":
                            opened = True
                            self._welcomed(message, nursery)
                        elif message["t"] == "bye":
                            break
                        elif opened:
                            self._heard(message)
                            await self._mark_now_and_then(message)
                nursery.cancel_scope.cancel()
        except* GONE:
            pass
        finally:
            self.live = False
            if opened:
                self.note(Closed(trio.current_time(), self._session))
            if self.random.random() >= self.plan.vanishes:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)

    async def _leave_some_day(self, scope: trio.CancelScope) -> None:
        with trio.move_on_after(self.random.expovariate(1 / self.plan.stays)):
            await self.settling.wait()
            await trio.sleep_forever()
        if not self.settling.is_set():
            scope.cancel()

    async def _say(self, message: dict[str, Any]) -> None:
        async with self._saying:
            await self._stream.send_all(self._frames.send_data(cbor2.dumps(message), fin=True))

    async def _messages(self, data: bytes) -> AsyncGenerator[dict[str, Any], None]:
        part = b""
        while True:
            data = data or await self._stream.receive_some(65536)
            if not data:
                return
            if self.latency:
                await trio.sleep(self.random.random() * self.latency)
            self._frames.receive_bytes(bytes(data))
            for frame in self._frames.received_frames():
                if frame.opcode is Opcode.CLOSE:
                    return
                if frame.opcode in (Opcode.BINARY, Opcode.CONTINUATION):
                    part += bytes(frame.payload)
                    if frame.message_finished:
                        whole, part = part, b""
                        yield cbor2.loads(whole)
            data = b""

    # --- what is heard --------------------------------------------------------------------------

    def _welcomed(self, welcome: dict[str, Any], nursery: trio.Nursery) -> None:
        now, stored = trio.current_time(), welcome["cseq"]
        positions = dict(self.have) if self.plan.by_positions else {}
        self.note(Opened(now, self._session, self.user, self.device, stored, positions))
        unknown = sorted(self.said)
        lost = [number for number in unknown if number > stored]
        again = [self.said.pop(number) for number in lost]  # fenced off with the session before: it will never be stored
        if self.random.random() < 0.5:
            self.random.shuffle(again)  # and so its numbers may be used for something else
        self.plan.say.extendleft(reversed(again))
        self._next = stored + 1
        self._again = [number for number in unknown if number <= stored]
        nursery.start_soon(self._talk, nursery.cancel_scope)
        nursery.start_soon(self._beat)

    def _heard(self, message: dict[str, Any]) -> None:
        now, kind = trio.current_time(), message["t"]
        if kind == "event":
            self.note(Delivered(now, self._session, message["conv"], message["seq"], digest_of_message(message)))
            self.have[message["conv"]] = message["seq"]
        elif kind == "ack":
            self._acknowledged(message, now)
        elif kind == "live":
            self.live = True
            self.note(WentLive(now, self._session))
        elif kind == "error" and "cseq" in message:
            self._denied(message, now)
        elif kind in ("ok", "error") and "id" in message:
            self.note(Answered(now, self._session, message["id"], "" if kind == "ok" else message["code"]))
        self._moved.set()

    def _acknowledged(self, ack: dict[str, Any], now: float) -> None:
        repeat = bool(ack.get("repeat"))
        self.note(Acked(now, self._session, ack["cseq"], ack["conv"], ack["seq"], repeat))
        if not repeat:
            self.have[ack["conv"]] = ack["seq"]
        self._in_flight -= 1
        message = self.said.pop(ack["cseq"], None)
        if message is not None and message["t"] == "send":
            self.own.append((ack["conv"], ack["seq"]))

    def _denied(self, error: dict[str, Any], now: float) -> None:
        self.note(Refused(now, self._session, error["cseq"], error["code"]))
        self._in_flight -= 1
        self._refused = True
        if error["code"] in FINAL:
            self.said.pop(error["cseq"], None)
        elif error["code"] not in RETRIED:
            self.faults.append(f"{self._session} got {error}")

    # --- what is said ---------------------------------------------------------------------------

    async def _talk(self, session: trio.CancelScope) -> None:
        for number in self._again:
            await self._change(number, self.said[number])
        while True:
            pause = self.plan.pause if self.plan.say else max(self.plan.pause, LISTENING_SECONDS)
            await trio.sleep(self.random.expovariate(1 / pause))
            if self._refused:
                await self._begin_again()
                return
            if self.plan.say and self._in_flight < WINDOW:
                message = self.plan.say.popleft()
                if (ready := self._ready(message)) is not None:
                    self.said[self._next] = ready
                    self._next += 1
                    await self._change(self._next - 1, ready)
                    if self.random.random() < self.plan.vanishes / 5 and not self.settling.is_set():
                        session.cancel()  # in the middle of what it says: that may be stored after the next session has begun
            elif self.random.random() < 0.2 and self.have:
                await self.mark(self.random.choice(list(self.have)))

    async def _begin_again(self) -> None:
        """After a refusal all that followed is refused too. When every answer is here, a new session is begun, which says what is
        stored."""
        with trio.move_on_after(ANSWER_SECONDS):
            while self._in_flight > 0:
                self._moved = trio.Event()
                await self._moved.wait()
        await trio.aclose_forcefully(self._stream)

    def _ready(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """An edit or a delete is of one of one's own messages; None where there is none."""
        if message["t"] == "send":
            return message
        if not self.own:
            return None
        place = self.random.randrange(len(self.own))
        conv, seq = self.own.pop(place) if message["t"] == "delete" else self.own[place]
        return {**message, "conv": conv, "seq": seq}

    async def _change(self, number: int, message: dict[str, Any]) -> None:
        self._in_flight += 1
        said = {key: value for key, value in message.items() if key != "seq"}
        if "seq" in message:
            said["target"] = message["seq"]
        said.pop("t")
        kind = {"send": "message", "react": "reaction"}.get(message["t"], message["t"])
        to = message.get("to") or message["conv"]
        self.note(Sent(trio.current_time(), self._session, number, to, content_of(said), kind))
        await self._say({**message, "cseq": number})

    async def _mark_now_and_then(self, heard: dict[str, Any]) -> None:
        """Who tells no positions, and is cut off in each replay, would never get further."""
        if heard["t"] == "event":
            self._unmarked += 1
            if self._unmarked >= MARKED_EVERY and not self.plan.by_positions:
                self._unmarked = 0
                await self.mark(heard["conv"])

    async def mark(self, conv: str) -> None:
        """Say how far one has it. Raises BrokenResourceError, ClosedResourceError where the session is over."""
        await self._say({"t": "delivered", "conv": conv, "seq": self.have[conv]})

    async def cut(self) -> None:
        """Be cut off, without a goodbye, where it is connected."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    async def ask(self, what: str, conv: str, users: list[str]) -> bool:
        """A change of members, if there is a session now."""
        if not self.live:
            return False
        self._asked += 1
        self.note(Asked(trio.current_time(), self._session, self._asked, what, conv, users))
        try:
            await self._say({"t": what, "id": self._asked, "conv": conv, "users": users})
        except GONE:
            return False
        return True

    async def _beat(self) -> None:
        while True:
            await trio.sleep(BEAT_SECONDS)
            await self._say({"t": "heartbeat"})


async def settle(clients: Sequence[Client], seconds: float, quiet: float) -> list[str]:
    """Wait until everybody has said everything and nothing new has come to anybody for ``quiet`` seconds; who has not come to
    rest within ``seconds`` is told."""
    with trio.move_on_after(seconds):
        while not all(client.done and client.live for client in clients):
            await trio.sleep(LOOK_SECONDS)
        heads, since = _heads(clients), trio.current_time()
        while trio.current_time() - since < quiet:
            await trio.sleep(LOOK_SECONDS)
            if (now := _heads(clients)) != heads:
                heads, since = now, trio.current_time()
        return []
    return [
        f"{c.user}/{c.device} has not come to rest: live {c.live}, to say {len(c.plan.say)}, unknown {len(c.said)}"
        for c in clients if not (c.done and c.live)
    ]  # fmt: skip


def _heads(clients: Sequence[Client]) -> list[int]:
    return [sum(client.have.values()) for client in clients]
