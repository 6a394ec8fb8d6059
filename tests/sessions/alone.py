"""A session by itself: its link notes what is said, and each service of its node is as large as a test needs it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import cbor2
import trio
import trio.testing
from chatd_protocol.codec import Encoding
from chatd_protocol.transitions import State

from chatd.conversations.operations import Author, Operation
from chatd.limits.limiter import Limiter
from chatd.limits.rules import Tiers
from chatd.ops.metrics import Metrics
from chatd.options import Limits
from chatd.sessions.actor import run_session
from chatd.sessions.allowance import Floods
from chatd.sessions.node import page_bytes
from chatd.sessions.session import Session
from chatd.sessions.wheel import TimingWheel
from chatd.store.writer import Writer
from tests.client_frames import BINARY, CLOSE, frame


def said_in(data: bytes) -> list[dict[str, Any]]:
    """The messages of a server's frames, and a close frame as its ``close``."""
    messages: list[dict[str, Any]] = []
    while data:
        head = 2 if data[1] < 126 else 4
        size = data[1] if data[1] < 126 else int.from_bytes(data[2:4], "big")
        payload, opcode = data[head : head + size], data[0] & 0x0F
        if opcode == BINARY:
            messages.append(cbor2.loads(payload))
        elif opcode == CLOSE:
            messages.append({"close": int.from_bytes(payload[:2], "big")})
        data = data[head + size :]
    return messages


class Link:
    """``said`` holds all messages; ``ended`` how the link was ended, and ``reading`` whether it is read."""

    waiting_bytes = 0

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.ended = ""
        self.reading = True

    @property
    def errors(self) -> list[str]:
        return [message["code"] for message in self.said if message.get("t") == "error"]

    def write(self, frame: bytes) -> None:
        if not self.ended:
            self.said += said_in(frame)

    def finish(self, farewell: bytes) -> None:
        self.write(farewell)
        self.ended = self.ended or "finished"

    def cut(self, farewell: bytes) -> None:
        self.write(farewell)
        self.ended = self.ended or "cut"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def wait_drained(self, below: int) -> None:
        """The peer reads nothing."""
        await trio.sleep_forever()


def _nothing(*_: Any) -> None: ...


async def _at_once(*_: Any) -> None:
    await trio.lowlevel.checkpoint()


class Alone:
    """``session`` and its ``link``; its ``writer`` takes in what is asked for, and nobody stores it."""

    def __init__(self, **limits: Any) -> None:
        bounds = Limits(**limits)
        self.typed: list[str] = []
        nowhere: Any = None
        self.writer = Writer(nowhere, _nothing, Metrics(), nullcontext(), max_items=1000, max_bytes=1 << 30, batch=10)
        self.limiter = Limiter(Tiers(bounds), Metrics(), clock=lambda: 0.0)
        self.node: Any = SimpleNamespace(
            limits=bounds, metrics=Metrics(), wheel=TimingWheel(), hello_seconds=10.0, pages=page_bytes(bounds.outbox_bytes),
            limiter=self.limiter, writer=self.writer, pace=SimpleNamespace(step=_at_once), floods=Floods(),
            presence=SimpleNamespace(stir=_nothing, leave=_nothing, watch=_nothing), mark_moved=_nothing,
            signals=SimpleNamespace(ended=_nothing, ask_typing=lambda session, conv, on: self.typed.append(conv)),
            roll=SimpleNamespace(session_over=_nothing, node=b"here"),
        )  # fmt: skip
        self.session = self._made(self.node)
        self.link = Link()
        self.session.link = self.link  # type: ignore[assignment]

    @staticmethod
    def _made(node: Any) -> Session:
        return Session(node, Encoding.CBOR, "192.0.2.1", "session")

    @property
    def asked(self) -> list[Operation]:
        """What waits for the store."""
        return [operation for operation, _, _ in self.writer._mailbox]

    def live(self) -> Alone:
        """As after the hello and the replay."""
        self.session.opened(Author(1, "ann", 1, 1), "phone", 0)
        self.session.admitted(self.limiter.enter("ann", ""))
        self.session._machine.state = State.LIVE
        return self

    async def comes(self, user: str) -> list[dict[str, Any]]:
        """Another session of this node says hello; what it is told, until somebody else would have to do something."""
        self.session = self._made(self.node)
        self.session.link = self.link = Link()  # type: ignore[assignment]
        self.node.verify = lambda _: SimpleNamespace(
            user=user, outside=True, token_id=b"", expires_at_ms=0, generation=0, issued_at_ms=0
        )
        self.say({"t": "hello", "token": "x", "device": "phone"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_session, self.session, self.node)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return self.link.said

    def say(self, *messages: dict[str, Any]) -> None:
        self.session.data_received(b"".join(frame(BINARY, cbor2.dumps(message)) for message in messages))
