"""Socket.IO 4's clients (Engine.IO 4 over a WebSocket, no polling): for Socket.IO on Node and for python-socketio.

Events of the two programs of ours (``servers/programs``): ``dm`` and ``group`` to write, ``join`` for a group. The ack is
Socket.IO's own, a callback: it means that the server has emitted the message to the recipients, and with Redis that it has
also handed it to Redis. Nothing is stored, and who is away has lost it.
"""

from __future__ import annotations

import json

from chatd_bench.dialects.dialect import (
    Ack,
    Channel,
    Delivery,
    Dialect,
    Field,
    Incoming,
    Match,
    Number,
    Program,
    Reply,
    Session,
    Talk,
    User,
)
from chatd_bench.faults import RunFailed


class EngineIo(Dialect):
    """Packets as text: ``0`` open, ``2`` ping, ``3`` pong, ``40`` connect, ``42`` event, ``43`` ack."""

    name = "engineio"

    def target(self, user: User) -> str:
        """Engine.IO 4, and no other transport."""
        return "/socket.io/?EIO=4&transport=websocket"

    def login(self, session: Session) -> Talk[None]:
        """The server opens; then the namespace is connected, with who it is."""
        while not (yield).startswith(b"0"):
            pass
        session.send(b'40{"user":"%b"}' % session.user.name.encode())
        while not (answer := (yield)).startswith(b"40"):
            if answer.startswith(b"44"):
                raise RunFailed(f"{session.user.name} may not connect: {answer!r}")
            _answer_ping(session, answer)

    def join(self, session: Session, channel: Channel, address: str) -> Talk[int]:
        """Only groups are joined; acked as everything else."""
        if channel.kind == "group":
            session.cseq += 1
            session.send(b'42%d["join","%b"]' % (session.cseq, address.encode()))
            while not (answer := (yield)).startswith(b"43%d[" % session.cseq):
                _answer_ping(session, answer)
        return 0

    def send_program(self, session: Session, channel: Channel, address: str, body_bytes: int) -> Program:
        """An event with an id, which asks for the ack."""
        pair = channel.kind == "pair"
        event, to = ("dm", channel.other(session.user).name) if pair else ("group", address)
        return (b"42", Field.CSEQ_DECIMAL, f'["{event}","{to}","'.encode(), Field.BODY, b'"]')

    def incoming(self) -> Incoming:
        """Deliveries, acks and pings."""
        return Incoming(Ack(Match(b"43"), Number.DECIMAL), None, replies=(Reply(Match(b"2"), b"3"),))

    def judge(self, message: bytes, delivery: Delivery) -> str | None:
        """Event, sender and body."""
        body = [delivery.sender.name, delivery.body]
        expected = ["dm", *body] if delivery.channel.kind == "pair" else ["group", delivery.address, *body]
        got = json.loads(message.removeprefix(b"42"))
        return None if got == expected else f"{got!r}, not {expected!r}"


def _answer_ping(session: Session, message: bytes) -> None:
    if message == b"2":
        session.send(b"3")
