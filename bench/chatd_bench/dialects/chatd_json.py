"""chatd's own clients, with text messages: ``chatd.v1.json``."""

from __future__ import annotations

import json
from typing import Any

from chatd_bench.dialects.chatd_cbor import COUNTED, MARK_EVERY, ChatdCbor
from chatd_bench.dialects.dialect import (
    Ack,
    Channel,
    Counted,
    Field,
    Incoming,
    Mark,
    Match,
    Number,
    Position,
    Program,
    Session,
)


class ChatdJson(ChatdCbor):
    """The same messages, as browsers have them."""

    name = "chatd-json"
    subprotocol = "chatd.v1.json"
    text = True
    event = Match(b'{"t":"event"')

    def encode(self, message: dict[str, Any]) -> bytes:
        return json.dumps(message, separators=(",", ":")).encode()

    def decode(self, message: bytes) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def send_program(self, session: Session, channel: Channel, address: str, body_bytes: int) -> Program:
        start = b'{"t":"send","to":' + json.dumps(address).encode() + b',"body":"'
        return (start, Field.BODY, b'","cseq":', Field.CSEQ_DECIMAL, b"}")

    def mark(self, session: Session, channel: Channel, address: str) -> Mark | None:
        start = b'{"t":"delivered","conv":' + json.dumps(address).encode() + b',"seq":'
        return Mark(MARK_EVERY, (start, Field.POSITION_DECIMAL, b"}"))

    def incoming(self) -> Incoming:
        counted = tuple(Counted(name, Match(b'{"t":"' + name.encode() + b'"')) for name in COUNTED)
        ack = Ack(Match(b'{"t":"ack","cseq":'), Number.DECIMAL, position=True)
        return Incoming(ack=ack, position=Position(b'"seq":', Number.DECIMAL), counted=counted)
