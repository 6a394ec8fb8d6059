"""The least that a chat relay can understand: for the anchors, and for the relay on uWebSockets.

Text messages, numbers in decimal: ``l<user>`` to log in and ``j<group>`` to join, each answered with ``ok``;
``d<user>,<cseq>,<body>`` to one and ``g<group>,<cseq>,<body>`` to all other members, who get ``m<sender>,<body>``, and the
sender ``a<cseq>``.

The ack means that the server has written the message to the recipients' sockets, or keeps it until they take it. Nothing is
stored, nobody is checked, and who is away has lost it.
"""

from __future__ import annotations

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
    Session,
    Talk,
)


class Relay(Dialect):
    """Users and groups are named by their numbers in the run."""

    name = "relay"

    def login(self, session: Session) -> Talk[None]:
        """Say who it is."""
        session.send(b"l%d" % session.user.number)
        while (yield) != b"ok":
            pass

    def join(self, session: Session, channel: Channel, address: str) -> Talk[int]:
        """Only groups have members."""
        if channel.kind == "group":
            session.send(b"j%d" % channel.number)
            while (yield) != b"ok":
                pass
        return 0

    def send_program(self, session: Session, channel: Channel, address: str, body_bytes: int) -> Program:
        """To the other one of a pair, or to a group."""
        to = b"d%d," % channel.other(session.user).number if channel.kind == "pair" else b"g%d," % channel.number
        return (to, Field.CSEQ_DECIMAL, b",", Field.BODY)

    def incoming(self) -> Incoming:
        """Deliveries and acks. A sender's number has a digit more or less."""
        return Incoming(Ack(Match(b"a"), Number.DECIMAL), None, length_slack=6)

    def judge(self, message: bytes, delivery: Delivery) -> str | None:
        """Whose it is, and what."""
        expected = f"m{delivery.sender.number},{delivery.body}".encode()
        return None if message == expected else f"{message!r}, not {expected!r}"
