"""XMPP over a WebSocket (RFC 7395): for ejabberd and Prosody. One stanza in each text frame.

1:1 messages go to the full address of the other one (``chat``), groups are rooms of XEP-0045. A room sends each message to
all its occupants, its sender too (``echoes``), so in groups the sender's own copy is the sign that the server has it, and with
an archive that it has been written to it. In 1:1 there is no ack here: what XEP-0198 offers would cost the peers another stanza
for each message, and a queue of unacknowledged ones in the other direction; so their figures are without the work that chatd
does for its acks, and the closed loop counts a message as done when it has come to its recipient.

Users log in with PLAIN and a password, and send initial presence. Rooms do not tell of presence (see the servers), so a join
is answered with the joiner's own presence and the subject: N members are N joins, and not N x N presences.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from chatd_bench.dialects.dialect import Channel, Delivery, Dialect, Field, Incoming, Program, Session, Talk, User
from chatd_bench.faults import RunFailed

RESOURCE = "b"
_CLIENT = "{jabber:client}"
_ID_SLACK = 8
"""Digits of a message's id, which comes back in the delivery."""


class Xmpp(Dialect):
    """``credentials``: ``domain``, ``rooms`` (the MUC service's domain), ``path`` and everybody's ``password``."""

    name = "xmpp"
    subprotocol = "xmpp"

    def __init__(self, credentials: Mapping[str, str]) -> None:
        super().__init__(credentials)
        self.domain = credentials["domain"]
        self.open = f'<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="{self.domain}" version="1.0"/>'.encode()

    def target(self, user: User) -> str:
        """Where the server has its WebSocket."""
        return self.credentials["path"]

    def address_of(self, user: User) -> str:
        """The full JID of a user's only connection."""
        return f"{user.name}@{self.domain}/{RESOURCE}"

    def login(self, session: Session) -> Talk[None]:
        """Stream, PLAIN, stream, resource, presence."""
        yield from self._stream(session)
        secret = base64.b64encode(f"\0{session.user.name}\0{self.credentials['password']}".encode())
        session.send(b'<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">%b</auth>' % secret)
        yield from _until(session, b"<success")
        yield from self._stream(session)
        session.send(
            b'<iq type="set" id="bind" xmlns="jabber:client"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind">'
            b"<resource>%b</resource></bind></iq>" % RESOURCE.encode()
        )
        yield from _until(session, b"<jid>")
        session.send(b'<presence xmlns="jabber:client"/>')
        yield from _until(session, b"<presence")

    def _stream(self, session: Session) -> Talk[None]:
        session.send(self.open)
        yield from _until(session, b"<stream:features")

    def found(self, session: Session, channel: Channel) -> Talk[str]:
        """Who enters first makes the room, from the server's defaults."""
        if channel.kind == "pair":
            return channel.name
        room = f"{channel.name}@{self.credentials['rooms']}"
        yield from self._enter(session, room)
        return room

    def join(self, session: Session, channel: Channel, address: str) -> Talk[int]:
        """Enter the room, without its history."""
        if channel.kind == "group" and session.user != channel.members[0]:
            yield from self._enter(session, address)
        return 0

    def _enter(self, session: Session, room: str) -> Talk[None]:
        session.send(
            f'<presence xmlns="jabber:client" to="{room}/{session.user.name}"><x xmlns="http://jabber.org/protocol/muc">'
            '<history maxstanzas="0"/></x></presence>'.encode()
        )
        # The subject is the last that a room sends to somebody who enters (XEP-0045, 7.1).
        yield from _until(session, b"<subject")

    def send_program(self, session: Session, channel: Channel, address: str, body_bytes: int) -> Program:
        """A message with an id, as all clients give one."""
        pair = channel.kind == "pair"
        kind, to = ("chat", self.address_of(channel.other(session.user))) if pair else ("groupchat", address)
        head = f'<message xmlns="jabber:client" type="{kind}" to="{to}" id="'.encode()
        return (head, Field.CSEQ_DECIMAL, b'"><body>', Field.BODY, b"</body></message>")

    def incoming(self) -> Incoming:
        """Deliveries, and nothing else."""
        return Incoming(None, None, length_slack=_ID_SLACK)

    def echoes(self, channel: Channel) -> bool:
        """A room writes to all occupants."""
        return channel.kind == "group"

    def judge(self, message: bytes, delivery: Delivery) -> str | None:
        """Kind, sender and recipient, and body."""
        stanza = ET.fromstring(message)  # noqa: S314 - from the server that was started here
        pair = delivery.channel.kind == "pair"
        sender = self.address_of(delivery.sender) if pair else f"{delivery.address}/{delivery.sender.name}"
        got = (stanza.tag, stanza.get("type"), stanza.get("from"), stanza.get("to"), stanza.findtext(f"{_CLIENT}body"))
        kind = "chat" if pair else "groupchat"
        expected = (f"{_CLIENT}message", kind, sender, self.address_of(delivery.recipient), delivery.body)
        return None if got == expected else f"{got!r}, not {expected!r}"


def _until(session: Session, sign: bytes) -> Talk[bytes]:
    """Wait for a message with ``sign`` in it; others mean nothing."""
    while sign not in (message := (yield)):
        if message.startswith((b"<failure", b"<close", b"<stream:error")) or b'type="error"' in message.replace(b"'", b'"'):
            raise RunFailed(f"{session.user.name}: waited for {sign.decode()} and was told {message!r}")
    return message
