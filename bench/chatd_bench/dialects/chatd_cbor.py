"""chatd's own clients, with binary messages: ``chatd.v1.cbor``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import cbor2
import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chatd_bench.dialects.dialect import (
    Ack,
    Channel,
    Counted,
    Delivery,
    Dialect,
    Event,
    Field,
    Heartbeat,
    Incoming,
    Mark,
    Match,
    Number,
    Position,
    Program,
    Session,
    Talk,
    User,
)
from chatd_bench.faults import RunFailed

TOKEN_SECONDS = 24 * 3600
MARK_EVERY = 20
"""Deliveries that one ``delivered`` covers."""
BEAT_SHARE = 0.9
"""Of ``heartbeat_ms``, at least once in which a client says that it is there: a little early."""
COUNTED = {"heartbeat": b"\x69", "receipt": b"\x67", "presence": b"\x68", "typing": b"\x66", "live": b"\x64"}
"""What a server says beside messages, with the head of its name."""


class ChatdCbor(Dialect):
    """Users sign in with tokens of an outside issuer, whose key the run has made."""

    name = "chatd-cbor"
    subprotocol = "chatd.v1.cbor"
    text = False
    event = Match(b"\x61t\x65event", at=1)

    def __init__(self, credentials: Mapping[str, str]) -> None:
        super().__init__(credentials)
        self._key: Any = load_pem_private_key(credentials["private_key"].encode(), None)
        self._tokens: dict[str, str] = {}

    def target(self, user: User) -> str:
        return "/ws"

    def encode(self, message: dict[str, Any]) -> bytes:
        """One message, as this encoding has it."""
        return cbor2.dumps(message)

    def decode(self, message: bytes) -> dict[str, Any]:
        """The other way."""
        decoded: dict[str, Any] = cbor2.loads(message)
        return decoded

    # --- set-up -----------------------------------------------------------------------------------

    def login(self, session: Session) -> Talk[None]:
        self._say_hello(session)
        while (message := self._heard(session, (yield)))["t"] != "live":
            self._welcomed(session, message)

    def _say_hello(self, session: Session) -> None:
        hello = {"t": "hello", "token": self.token(session.user.name), "device": "bench", "agent": "chatd_bench"}
        session.send(self.encode(hello))

    def token(self, user: str) -> str:
        """Made at the first hello, and kept for the others, as clients do."""
        token = self._tokens.get(user)
        if token is None:
            expires = int(time.time()) + TOKEN_SECONDS
            claims = {"iss": self.credentials["issuer"], "aud": self.credentials["audience"], "sub": user, "exp": expires}
            token = self._tokens[user] = jwt.encode(claims, self._key, algorithm="EdDSA")
        return token

    def _welcomed(self, session: Session, message: dict[str, Any]) -> None:
        if message["t"] == "welcome":
            session.cseq = message["cseq"]
            session.facts["heartbeat_ms"] = str(message["heartbeat_ms"])

    def _heard(self, session: Session, message: bytes) -> dict[str, Any]:
        """Decoded; where an event or ack says how far a channel's log is, that is noted. Raises RunFailed at refusals."""
        decoded = self.decode(message)
        if decoded["t"] in ("bye", "error"):
            raise RunFailed(f"{session.user.name}: the server said {decoded}")
        if decoded["t"] in ("event", "ack"):
            session.facts[f"at {decoded['conv']}"] = str(decoded["seq"])
        return decoded

    def found(self, session: Session, channel: Channel) -> Talk[str]:
        """A pair begins with a first message to ``@name``; from there on it is addressed by its id, as by clients."""
        if channel.kind == "pair":
            session.cseq += 1
            other = channel.other(session.user).name
            session.send(self.encode({"t": "send", "cseq": session.cseq, "to": f"@{other}", "body": "hello"}))
            while (message := self._heard(session, (yield)))["t"] != "ack":
                pass
            return str(message["conv"])
        names = [user.name for user in channel.members[1:]]
        session.send(self.encode({"t": "create", "id": 1, "title": channel.name, "members": names}))
        while (message := self._heard(session, (yield)))["t"] != "ok":
            pass
        return str(message["conv"])

    def join(self, session: Session, channel: Channel, address: str) -> Talk[int]:
        """The first event of the channel has come, or its ack."""
        while f"at {address}" not in session.facts:
            self._heard(session, (yield))
        return int(session.facts[f"at {address}"])

    # --- the timed run ----------------------------------------------------------------------------

    def send_program(self, session: Session, channel: Channel, address: str, body_bytes: int) -> Program:
        # The keys in the order of the specification, as chatd's own client sends them.
        head = cbor2.dumps("x" * body_bytes)[:-body_bytes]
        to = b"\x62to" + cbor2.dumps(address) + b"\x64body" + head
        return b"\xa4\x61t\x64send\x64cseq", Field.CSEQ_CBOR, to, Field.BODY

    def mark(self, session: Session, channel: Channel, address: str) -> Mark | None:
        program = (b"\xa3\x61t\x69delivered\x64conv" + cbor2.dumps(address) + b"\x63seq", Field.POSITION_CBOR)
        return Mark(MARK_EVERY, program)

    def heartbeat(self, session: Session) -> Heartbeat:
        interval = int(session.facts["heartbeat_ms"]) / 1000 * BEAT_SHARE
        return Heartbeat(interval, self.encode({"t": "heartbeat"}), "heartbeat")

    def incoming(self) -> Incoming:
        counted = tuple(Counted(name, Match(b"\x61t" + head + name.encode(), at=1)) for name, head in COUNTED.items())
        ack = Ack(Match(b"\xa5\x61t\x63ack\x64cseq"), Number.CBOR, position=True)
        return Incoming(ack=ack, position=Position(b"\x63seq", Number.CBOR), counted=counted)

    def judge(self, message: bytes, delivery: Delivery) -> str | None:
        try:
            event = self.decode(message)
        except ValueError as fault:
            return f"cannot be decoded: {fault}"
        wanted = {"t": "event", "conv": delivery.address, "from": delivery.sender.name, "kind": "message", "type": "text",
                  "body": delivery.body}  # fmt: skip
        wrong = [key for key, value in wanted.items() if event.get(key) != value]
        if set(event) != {*wanted, "seq", "at"}:
            wrong.append("its keys")
        return f"not what was sent: {', '.join(wrong)}" if wrong else None

    # --- history ----------------------------------------------------------------------------------

    def catch_up(self, session: Session, channel: Channel, address: str) -> Talk[list[bytes]]:
        self._say_hello(session)
        missed: list[bytes] = []
        while True:
            message = yield
            if message.startswith(self.event.prefix, self.event.at):
                # Decoded later, by who checks it: that time is not the server's.
                missed.append(message)
                continue
            decoded = self._heard(session, message)
            if decoded["t"] == "live":
                return missed
            self._welcomed(session, decoded)

    def position_of(self, message: bytes) -> int:
        try:
            position = self.decode(message).get("seq")
        except ValueError as fault:
            raise RunFailed(f"{message!r} cannot be decoded: {fault}") from fault
        if not isinstance(position, int):
            raise RunFailed(f"{message!r} has no seq")
        return position

    def page(self, session: Session, address: str, before: int | None, limit: int) -> Talk[dict[str, Any]]:
        asked = {"t": "history", "id": 2, "conv": address, "limit": limit}
        session.send(self.encode(asked if before is None else {**asked, "before": before}))
        while (message := self._heard(session, (yield)))["t"] != "ok":
            pass
        return message

    def events(self, answer: dict[str, Any]) -> list[Event]:
        return [
            Event(event["conv"], event["seq"], event["from"], event["kind"], event.get("body")) for event in answer["events"]
        ]
