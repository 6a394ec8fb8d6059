"""A small server that speaks the real protocol over real sockets, and keeps a log in memory.

It is a script with a store: by itself it answers as chatd does; a test changes single answers through ``refuse`` and
``swallow``, cuts connections, lets others write, type and read, and looks at what came in. ``scripted_answers`` has what
it answers to questions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
from chatd_protocol import codec, codes
from chatd_protocol.messages import (
    Ack,
    Bye,
    Create,
    Delete,
    Delivered,
    Edit,
    Error,
    Event,
    Heartbeat,
    HeartbeatAnswer,
    Hello,
    Live,
    Presence,
    React,
    Read,
    Send,
    Typing,
    Watch,
    Welcome,
)
from msgspec import UNSET
from msgspec.structs import replace
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from tests.clients.scripted_answers import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd_protocol.codes import Close


class Replayed(trio.abc.Stream):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: trio.SocketStream) -> None:
        self._head, self._stream = head, stream
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        head, self._head = self._head, b""
        return head or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class Server:
    """One account book, one log, any number of connections."""

    port: int = 0
    encoding: codec.Encoding = codec.Encoding.CBOR
    passwords: dict[str, str] = field(default_factory=lambda: {"alice": "secret"})
    stored: dict[int, tuple[Any, Ack]] = field(default_factory=dict)
    logs: dict[str, list[Event]] = field(default_factory=dict)
    groups: dict[str, Create] = field(default_factory=dict)
    hellos: list[Hello] = field(default_factory=list)
    arrived: list[Any] = field(default_factory=list)
    marks: list[Delivered | Read] = field(default_factory=list)
    typings: list[Typing] = field(default_factory=list)
    presence: dict[str, Presence] = field(default_factory=dict)
    members: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    muted: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=lambda: ["alice", "bea", "bob", "bobby", "carol"])
    all: list[WebSocketConnection] = field(default_factory=list)
    live: list[WebSocketConnection] = field(default_factory=list)
    refuse: dict[str, Error] = field(default_factory=dict)
    swallow: Callable[[Any], bool] = lambda message: False
    close_hello: list[Close] = field(default_factory=list)
    heartbeat_ms: int = 30_000
    replays: int = 1_000_000
    user: str = "alice"
    tokens: int = 0
    revoked: set[str] = field(default_factory=set)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bodies(self, conv: str) -> list[str]:
        return [str(event.body) for event in self.logs.get(conv, []) if event.kind == "message"]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that came in makes this true."""
        with trio.fail_after(10):
            while not condition():
                await self.changed.wait()

    def append(self, conv: str, sender: str, body: Any = UNSET, *, kind: str = "message", **more: Any) -> Event:
        """The next event of a log; a delete takes the body out."""
        log = self.logs.setdefault(conv, [])
        seq, at = len(log) + 1, 1_700_000_000_000 + 1000 * len(log)
        type_ = "text" if kind == "message" else UNSET
        event = Event(conv=conv, seq=seq, at=at, sender=sender, kind=kind, type=type_, body=body, **more)
        if kind == "delete":
            target = log[more["target"] - 1]
            log[more["target"] - 1] = replace(target, type="deleted", body="", mentions=UNSET)
        log.append(event)
        return event

    async def say(self, conv: str, sender: str, body: str, **more: Any) -> None:
        """Somebody else writes: stored, then delivered to every connection."""
        await self.tell_all(self.append(conv, sender, body, **more))

    async def change(self, conv: str, sender: str, kind: str, **more: Any) -> None:
        """Somebody else changes something."""
        await self.tell_all(self.append(conv, sender, kind=kind, **more))

    async def tell_all(self, message: Any) -> None:
        """To every connection that is live."""
        for socket in list(self.live):
            await self.tell(socket, message)

    async def tell(self, socket: WebSocketConnection, message: Any) -> None:
        data = codec.encode(self.encoding, message)
        await socket.send_message(data if self.encoding.binary else data.decode())

    async def cut(self) -> None:
        """The network goes away under every connection."""
        for socket in list(self.all):
            await trio.aclose_forcefully(socket._stream)
        self.live.clear()

    async def end(self, close: Close, retry_after_ms: int | None = None) -> None:
        """Say goodbye to every connection with this code."""
        for socket in list(self.live):
            more = {} if retry_after_ms is None else {"retry_after_ms": retry_after_ms}
            await self.tell(socket, Bye(code=close.code, reason=close.reason, **more))
            with trio.move_on_after(1):
                await socket.aclose(close.code, close.reason)

    async def serve(self, stream: trio.SocketStream) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                more = await stream.receive_some(16384)
                if not more:
                    return
                head += more
            if b"upgrade: websocket" in head.lower():
                async with trio.open_nursery() as nursery:
                    request = await wrap_server_stream(nursery, Replayed(head, stream))
                    self.encoding = codec.Encoding(request.proposed_subprotocols[0])
                    await self.talk(await request.accept(subprotocol=self.encoding.subprotocol))
                    nursery.cancel_scope.cancel()
            else:
                await self.answer(head, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
            self.note(None)
        finally:
            await trio.aclose_forcefully(stream)

    async def answer(self, head: bytes, stream: trio.SocketStream) -> None:
        start, _, body = head.partition(b"\r\n\r\n")
        length = int(start.lower().split(b"content-length:")[1].split()[0])
        while len(body) < length:
            body += await stream.receive_some(16384)
        asked = json.loads(body)
        status, said = self.account(start.split()[1].decode(), asked)
        data = json.dumps(said).encode()
        await stream.send_all(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(data), data))

    def account(self, path: str, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        name, password = asked["name"], asked["password"]
        if not path.startswith("/v1/"):
            return 404, {"error": {"code": "not_found", "message": "no such page"}}
        if path == "/v1/accounts":
            if name in self.passwords:
                return 409, {"error": {"code": "name_taken", "message": "taken"}}
            self.passwords[name] = password
            return 201, {}
        if self.passwords.get(name) != password:
            return 401, {"error": {"code": "unauthenticated", "message": "wrong name or password"}}
        if path == "/v1/password":
            self.passwords[name] = asked["new_password"]
            self.revoked |= {f"token-{number}" for number in range(1, self.tokens + 1)}
        self.tokens += 1
        self.user = name
        return 200, {"token": f"token-{self.tokens}", "expires_at": 1}

    def note(self, message: Any) -> None:
        if message is not None:
            self.arrived.append(message)
        self.changed.set()
        self.changed = trio.Event()

    async def talk(self, socket: WebSocketConnection) -> None:
        self.all.append(socket)
        try:
            while True:
                frame = await socket.get_message()
                message = codec.decode_client(self.encoding, frame.encode() if isinstance(frame, str) else frame)
                await self.take(socket, message)
                self.note(message)
        finally:
            self.all.remove(socket)
            if socket in self.live:
                self.live.remove(socket)

    async def take(self, socket: WebSocketConnection, message: Any) -> None:
        if self.swallow(message):
            return
        match message:
            case Hello():
                await self.greet(socket, message)
            case Send() | Edit() | Delete() | React():
                await self.tell(socket, self.store(message))
            case Heartbeat():
                await self.tell(socket, HeartbeatAnswer(time=1))
            case Delivered() | Read():
                self.marks.append(message)
            case Typing():
                self.typings.append(message)
            case Watch():
                for user in sorted(set(message.users) & set(self.presence)):
                    await self.tell(socket, self.presence[user])
            case _:
                await self.tell(socket, answer(self, message))

    async def greet(self, socket: WebSocketConnection, hello: Hello) -> None:
        self.hellos.append(hello)
        if self.close_hello:
            close = self.close_hello.pop(0)
            await self.tell(socket, Bye(code=close.code, reason=close.reason))
            return
        if hello.token in self.revoked:
            await self.tell(socket, Bye(code=codes.BAD_TOKEN.code, reason=codes.BAD_TOKEN.reason))
            return
        await self.tell(
            socket,
            Welcome(
                user=self.user,
                device=hello.device,
                session="s",
                cseq=max(self.stored, default=0),
                time=1,
                heartbeat_ms=self.heartbeat_ms,
                limits={},
            ),
        )
        positions = hello.positions if isinstance(hello.positions, dict) else {}
        for conv, log in self.logs.items():
            for event in log[positions.get(conv, max(0, len(log) - self.replays)) :]:
                await self.tell(socket, event)
        self.live.append(socket)  # before it is told: who has read it may ask for the end at once
        await self.tell(socket, Live())

    def store(self, message: Send | Edit | Delete | React) -> Ack | Error:
        body = str(getattr(message, "body", ""))
        if (error := self.refuse.get(body)) is not None:
            return Error(code=error.code, message=error.message, cseq=message.cseq, retry_after_ms=error.retry_after_ms)
        if message.cseq in self.stored:
            before, ack = self.stored[message.cseq]
            if before != message:
                return Error(code="cseq_reused", message="other content", cseq=message.cseq)
            return Ack(cseq=ack.cseq, conv=ack.conv, seq=ack.seq, at=ack.at, repeat=True)
        expected = max(self.stored, default=0) + 1
        if message.cseq != expected:
            return Error(code="cseq_gap", message="gap", cseq=message.cseq, expected=expected)
        conv, keys = self.change_of(message)
        event = self.append(conv, self.user, **keys)
        ack = Ack(cseq=message.cseq, conv=conv, seq=event.seq, at=event.at)
        self.stored[message.cseq] = message, ack
        return ack

    def change_of(self, message: Send | Edit | Delete | React) -> tuple[str, dict[str, Any]]:
        match message:
            case Send(to=to, body=body):
                conv = f"dm-{to[1:]}" if to.startswith("@") else to
                return conv, {"body": body, "reply_to": message.reply_to, "mentions": message.mentions}
            case Edit(conv=conv, seq=seq, body=body):
                return conv, {"kind": "edit", "target": seq, "body": body}
            case Delete(conv=conv, seq=seq):
                return conv, {"kind": "delete", "target": seq}
            case React(conv=conv, seq=seq, emoji=emoji):
                return conv, {"kind": "reaction", "target": seq, "emoji": emoji, "removed": message.remove or UNSET}


def sent(server: Server, kind: type) -> list[Any]:
    """What clients have sent of one kind, in the order of arrival."""
    return [message for message in server.arrived if isinstance(message, kind)]
