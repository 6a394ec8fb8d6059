"""Messages to frames' payloads and back, sans-IO: strict on what comes in, in both encodings of the wire.

One function to read for each side of the wire. They raise Malformed and nothing else, whatever the bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, cast, get_args, get_type_hints

import cbor2
import msgspec
from msgspec import UNSET, Struct

from chatd_protocol import cbor, json_form, messages
from chatd_protocol.codes import ErrorCode
from chatd_protocol.encoding import Encoding as Encoding  # noqa: PLC0414 - one reads and writes by what it names
from chatd_protocol.messages import MAX_INTEGER, ClientMessage, ServerMessage
from chatd_protocol.plain_send import read_plain_send

MAX_CLIENT_BYTES: Final = 64 * 1024
MAX_SERVER_BYTES: Final = 1024 * 1024
LIGHT_BYTES: Final = 128
"""What is no longer need not be weighed, as marks and most requests: it cannot hold more than MAX_CONTAINERS."""
_CBOR: Final = Encoding.CBOR  # an Enum's member is found by its metaclass, which takes longer than all else here
_JSON: Final = Encoding.JSON


class Malformed(Exception):
    """Not a message. ``id`` and ``cseq`` are there when they could be read, so that the answer can carry them."""

    def __init__(self, code: ErrorCode, message: str, *, id: int | None = None, cseq: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id
        self.cseq = cseq


def _by_tag(union: object) -> dict[str, type[Struct]]:
    return {cast("str", kind.__struct_config__.tag): kind for kind in get_args(union)}


_CLIENT = _by_tag(ClientMessage)
_SERVER = _by_tag(ServerMessage)


# --- reading ----------------------------------------------------------------------------------

_BEATS = {
    True: {
        b"\xa1\x61t\x69heartbeat": messages.Heartbeat(),
        b"\xa2\x61t\x69heartbeat\x66active\xf4": messages.Heartbeat(active=False),
        b"\xa2\x61t\x69heartbeat\x66active\xf5": messages.Heartbeat(active=True),
    },
    False: {
        b'{"t":"heartbeat"}': messages.Heartbeat(),
        b'{"t":"heartbeat","active":false}': messages.Heartbeat(active=False),
        b'{"t":"heartbeat","active":true}': messages.Heartbeat(active=True),
    },
}
"""All that idle connections say, in its usual forms, for binary encodings and the others: known by its bytes."""
_LONGEST_BEAT = max(len(form) for forms in _BEATS.values() for form in forms)


def decode_client(encoding: Encoding, data: bytes) -> ClientMessage:
    """One message of a client's, at most MAX_CLIENT_BYTES. Raises Malformed."""
    if (message := decode_common(encoding, data)) is not None:
        return message
    return decode_weighed(encoding, data, weight_of(encoding, data))


def decode_common(encoding: Encoding, data: bytes) -> ClientMessage | None:
    """What comes all the time, in its usual form; None where it is something else, or may be wrong."""
    if len(data) <= _LONGEST_BEAT and (beat := _BEATS[encoding.binary].get(data)) is not None:
        return beat
    if encoding is _CBOR and len(data) <= MAX_CLIENT_BYTES:
        return read_plain_send(data)
    return None


def weight_of(encoding: Encoding, data: bytes) -> int:
    """How many items a message has, which is what reading it costs; more than MAX_ITEMS where it is not to be read."""
    if len(data) <= LIGHT_BYTES:
        return 1
    return cbor.count_items(data) if encoding is _CBOR else json_form.count_items(data)


def decode_weighed(encoding: Encoding, data: bytes, weight: int) -> ClientMessage:
    """Any message of a client's, with what ``weight_of`` says of it. Raises Malformed."""
    if weight > cbor.MAX_ITEMS:
        raise Malformed(ErrorCode.BAD_MESSAGE, f"message: at most {cbor.MAX_ITEMS} items, {cbor.MAX_CONTAINERS} maps and arrays")
    message: ClientMessage = _decode(encoding, data, _CLIENT, MAX_CLIENT_BYTES)
    return message


def decode_server(encoding: Encoding, data: bytes) -> ServerMessage:
    """One message of a server's, at most MAX_SERVER_BYTES. Raises Malformed."""
    message: ServerMessage = _decode(encoding, data, _SERVER, MAX_SERVER_BYTES)
    return message


def _decode(encoding: Encoding, data: bytes, kinds: dict[str, type[Struct]], bound: int) -> Any:
    if len(data) > bound:
        raise Malformed(ErrorCode.BAD_MESSAGE, f"message: at most {bound} bytes, not {len(data)}")
    try:
        fields = cbor.load_map(data) if encoding is _CBOR else json_form.load_object(data)
    except ValueError as fault:
        raise Malformed(ErrorCode.BAD_MESSAGE, str(fault)) from None
    name = fields.get("t")
    kind = kinds.get(name) if type(name) is str else None
    if kind is None:
        raise _nameless(fields, name)
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as invalid:
        raise _about(fields, ErrorCode.BAD_MESSAGE, f"{name}: {_readable(str(invalid), kind)[:300]}") from None


_NAME_REGEX = re.compile(r"`str` matching regex '\^\[a-z0-9_.-\]\+\S*'")
_SHOWN_REGEX = re.compile(r"`str` matching regex '.*\(\?=.*?'(?= - at|$)")
_CHOICE = re.compile(r"Invalid enum value .* - at `\$\.(\w+)`$", re.DOTALL)


def _readable(text: str, kind: type[Struct]) -> str:
    """A fault of msgspec's in the words of the specification."""
    if (choice := _CHOICE.match(text)) is not None:
        allowed = ", ".join(f"`{value}`" for value in get_args(get_type_hints(kind)[choice[1]]))
        return f"Expected one of {allowed} - at `$.{choice[1]}`"
    text = _SHOWN_REGEX.sub("`str` without control characters and not of white space alone", text)
    return _NAME_REGEX.sub("1 to 32 of `a-z 0-9 _ . -`", text)


def _nameless(fields: dict[str, Any], name: object) -> Malformed:
    if type(name) is not str:
        return _about(fields, ErrorCode.BAD_MESSAGE, "t: the name of the message, a text, is missing")
    return _about(fields, ErrorCode.UNKNOWN_TYPE, f"t: no message is called {name[:40]!r}")


def _about(fields: dict[str, Any], code: ErrorCode, text: str) -> Malformed:
    def number(key: str, least: int) -> int | None:
        value = fields.get(key)
        return value if type(value) is int and least <= value <= MAX_INTEGER else None

    return Malformed(code, text, id=number("id", 0), cseq=number("cseq", 1))


# --- writing ----------------------------------------------------------------------------------

_WITH_BYTES = (messages.Event, messages.Ok, messages.Send, messages.Edit)


def encode(encoding: Encoding, message: Struct) -> bytes:
    """One message; ``t`` comes first, what is unset or at its default is left out."""
    if encoding is _JSON and not isinstance(message, _WITH_BYTES):
        return json_form.dump_without_bytes(message)
    return _dump(encoding, msgspec.to_builtins(message, builtin_types=(bytes,)))


def encode_beat(encoding: Encoding, time: int) -> bytes:
    """The ``HeartbeatAnswer`` of a moment, equal to ``encode`` of it."""
    if encoding is _JSON:
        return b'{"t":"heartbeat","time":%d}' % time
    return b"\xa2\x61t\x69heartbeat\x64time" + cbor.number(time)


def _dump(encoding: Encoding, fields: dict[str, Any]) -> bytes:
    return cbor2.dumps(fields) if encoding is _CBOR else json_form.dump_object(fields)


def encode_ack(encoding: Encoding, cseq: int, conv: str, seq: int, at: int) -> bytes:
    """The ``Ack`` of a first ``cseq``, equal to ``encode`` of it: one for each message sent, so it is put together."""
    if encoding is _JSON:
        return encode(encoding, messages.Ack(cseq=cseq, conv=conv, seq=seq, at=at))
    return b"\xa5\x61t\x63ack\x64cseq" + cbor.number(cseq) + _ack_conv(conv) + cbor.number(seq) + _ack_at(at)


# The pieces that many acks and events have in common: a conversation's, a sender's, and the time, which is that of a commit.


@lru_cache(maxsize=16_384)
def _ack_conv(conv: str) -> bytes:
    return b"\x64conv" + cbor.text(conv) + b"\x63seq"


@lru_cache(maxsize=64)
def _ack_at(at: int) -> bytes:
    return b"\x62at" + cbor.number(at)


# --- events: encoded when they are stored, decoded where somebody reads JSON or a page of history --------------


_HEAD_ENTRIES: Final = 6
"""t, conv, seq, at, from, kind: what every event has."""


@lru_cache(maxsize=16_384)
def _event_start(entries: int, conv: str) -> bytes:
    return cbor.head(0xA0, _HEAD_ENTRIES + entries) + b"\x61t\x65event\x64conv" + cbor.text(conv) + b"\x63seq"


@lru_cache(maxsize=64)
def _event_at(at: int) -> bytes:
    return b"\x62at" + cbor.number(at) + b"\x64from"


@lru_cache(maxsize=16_384)
def _event_sender(sender: str, kind: str) -> bytes:
    return cbor.text(sender) + b"\x64kind" + cbor.text(kind)


def encode_payload(fields: dict[str, Any]) -> bytes:
    """The CBOR map of an event's own keys, as it is stored and travels between nodes.

    Give the keys in the order that they have in ``messages.Event``: equal content has equal bytes then.
    """
    return cbor2.dumps(fields)


def message_payload(send: messages.Send) -> bytes:
    """The payload of the ``message`` event that ``send`` becomes, as ``encode_payload`` of its keys."""
    if send.reply_to is UNSET and not send.mentions and type(send.body) is str:
        return b"\xa2\x64type%b\x64body%b" % (cbor.name(send.type), cbor.text(send.body))
    fields: dict[str, Any] = {"type": send.type, "body": send.body}
    if send.reply_to is not UNSET:
        fields["reply_to"] = send.reply_to
    if send.mentions:
        fields["mentions"] = send.mentions
    return encode_payload(fields)


def content_digest(to: str, payload: bytes) -> bytes:
    """16 bytes that tell whether a repeated ``cseq`` carries the same content, in rows of former versions, which hold it."""
    return blake2b(cbor.name(to) + payload, digest_size=16).digest()


def change_payload(change: messages.Edit | messages.Delete | messages.React) -> bytes:
    """The payload of the event that ``change`` becomes, as ``encode_payload`` of its keys."""
    match change:
        case messages.Edit():
            return encode_payload({"body": change.body, "target": change.seq})
        case messages.Delete():
            return encode_payload({"target": change.seq})
        case messages.React():
            fields: dict[str, Any] = {"target": change.seq, "emoji": change.emoji}
            return encode_payload(fields | {"removed": True} if change.remove else fields)


def change_digest(t: str, conv: str, payload: bytes) -> bytes:
    """As ``content_digest``, for the message named ``t``. What a send's is made of never begins with a zero."""
    return blake2b(b"\0" + cbor.name(t) + cbor.name(conv) + payload, digest_size=16).digest()


def event_map(conv: str, seq: int, at: int, sender: str, kind: str, payload: bytes) -> dict[str, Any]:
    """An event as a map, for ``Ok.events`` and ``Ok.items``; ``at`` in milliseconds since the epoch."""
    head = {"conv": conv, "seq": seq, "at": at, "from": sender, "kind": kind}
    return head | cast("dict[str, Any]", cbor2.loads(payload))


def encode_event(encoding: Encoding, conv: str, seq: int, at: int, sender: str, kind: str, payload: bytes) -> bytes:
    """An event message, equal to ``encode`` of the same ``messages.Event``.

    In CBOR the payload is not decoded: its entries follow those that every event has, under a new map head.
    Raises ValueError for a payload that is no map, which no store that ``encode_payload`` wrote can hold.
    """
    if encoding is _JSON:
        return json_form.dump_object({"t": "event"} | event_map(conv, seq, at, sender, kind, payload))
    entries, start = cbor.map_entries(payload)
    return (
        _event_start(entries, conv) + cbor.number(seq) + _event_at(at) + _event_sender(sender, kind) + payload[start:]
    )
