"""Messages to frames' payloads and back, sans-IO: strict on what comes in, in CBOR (RFC 8949) and JSON (RFC 8259).

One pair of functions for each side of the wire. ``decode_*`` raises Malformed and nothing else, whatever the bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from io import BytesIO
from typing import Any, cast, get_args

import cbor2
import msgspec
from msgspec import Struct

from chatd_protocol import messages
from chatd_protocol.codes import ErrorCode
from chatd_protocol.messages import MAX_INTEGER, ClientMessage, ServerMessage

MAX_CLIENT_BYTES = 64 * 1024
MAX_SERVER_BYTES = 1024 * 1024
MAX_DEPTH = 8


class Encoding(Enum):
    """How messages stand in WebSocket frames; chosen by the subprotocol."""

    CBOR = "chatd.v1.cbor"
    JSON = "chatd.v1.json"

    def __init__(self, subprotocol: str) -> None:
        self.subprotocol = subprotocol
        self.binary = subprotocol.endswith("cbor")

    @classmethod
    def from_subprotocol(cls, name: str) -> Encoding | None:
        """The encoding of a subprotocol, None for one that is not chatd's."""
        return next((encoding for encoding in cls if encoding.subprotocol == name), None)


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


def decode_client(encoding: Encoding, data: bytes) -> ClientMessage:
    """One message of a client's. Raises Malformed."""
    return cast("ClientMessage", _decode(encoding, data, _CLIENT, MAX_CLIENT_BYTES))


def decode_server(encoding: Encoding, data: bytes) -> ServerMessage:
    """One message of a server's. Raises Malformed."""
    return cast("ServerMessage", _decode(encoding, data, _SERVER, MAX_SERVER_BYTES))


def _decode(encoding: Encoding, data: bytes, kinds: dict[str, type[Struct]], bound: int) -> Struct:
    if len(data) > bound:
        raise Malformed(ErrorCode.BAD_MESSAGE, f"message: at most {bound} bytes")
    fields = _load_cbor(data) if encoding is Encoding.CBOR else _load_json(data)
    name = fields.get("t")
    if type(name) is not str:
        raise _about(fields, ErrorCode.BAD_MESSAGE, "t: the type of the message, a text, is missing")
    kind = kinds.get(name)
    if kind is None:
        raise _about(fields, ErrorCode.UNKNOWN_TYPE, f"t: no message is called {name[:40]!r}")
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as fault:
        raise _about(fields, ErrorCode.BAD_MESSAGE, f"{name}: {fault}") from None


def _about(fields: dict[str, Any], code: ErrorCode, text: str) -> Malformed:
    def number(key: str, least: int) -> int | None:
        value = fields.get(key)
        return value if type(value) is int and least <= value <= MAX_INTEGER else None

    return Malformed(code, text, id=number("id", 0), cseq=number("cseq", 1))


# --- CBOR -------------------------------------------------------------------------------------


def _refuse_tag(*_: Any) -> Any:
    raise cbor2.CBORDecodeError("tags are not allowed")


_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_NO_TAGS: dict[int, Callable[..., Any]] = dict.fromkeys(_TAGS, _refuse_tag)


def _load_cbor(data: bytes) -> dict[str, Any]:
    source = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            source, semantic_decoders=_NO_TAGS, tag_hook=_refuse_tag, allow_indefinite=False, allow_duplicate_keys=False,
            max_depth=MAX_DEPTH,
        ).decode()  # fmt: skip
    except Exception as fault:
        raise Malformed(ErrorCode.BAD_MESSAGE, f"not CBOR as chatd takes it: {str(fault)[:200]}") from None
    if source.tell() != len(data):
        raise Malformed(ErrorCode.BAD_MESSAGE, "bytes after the message")
    if type(value) is not dict:
        raise Malformed(ErrorCode.BAD_MESSAGE, "a message is a map")
    return value


# --- JSON -------------------------------------------------------------------------------------


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")
    return fields


def _load_json(data: bytes) -> dict[str, Any]:
    try:
        _check_depth(data)
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
        if type(value) is not dict:
            raise ValueError("a message is an object")
        body = value.get("body")
        if type(body) is dict:
            value["body"] = _from_base64(body)
        for event in value.get("events") or ():
            if type(event) is dict and type(event.get("body")) is dict:
                event["body"] = _from_base64(event["body"])
        return value
    except (ValueError, RecursionError, TypeError) as fault:
        raise Malformed(ErrorCode.BAD_MESSAGE, f"not JSON as chatd takes it: {str(fault)[:200]}") from None


def _check_depth(data: bytes) -> None:
    """Count brackets outside of strings, before a recursive parser sees them."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth, inside, escaped = 0, False, False
    for byte in data:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
        elif byte in b"]}":
            depth -= 1


def _from_base64(value: dict[str, Any]) -> bytes:
    text = value.get("b64")
    if list(value) != ["b64"] or type(text) is not str or "=" in text:
        raise ValueError('body: text, or {"b64": ...} without padding')
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as fault:
        raise ValueError(f"body: {fault}") from None


def _to_base64(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.urlsafe_b64encode(value).rstrip(b"=").decode()}
    raise TypeError(type(value).__name__)


# --- encoding ---------------------------------------------------------------------------------


def encode(encoding: Encoding, message: Struct) -> bytes:
    """One message; ``t`` comes first, what is unset or at its default is left out."""
    return _dump(encoding, msgspec.to_builtins(message, builtin_types=(bytes,)))


def _dump(encoding: Encoding, fields: dict[str, Any]) -> bytes:
    if encoding is Encoding.CBOR:
        return cbor2.dumps(fields)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=_to_base64).encode()


def encode_payload(fields: dict[str, Any]) -> bytes:
    """The CBOR map of an event's own keys, as it is stored and travels between nodes."""
    return cbor2.dumps(fields)


def content_digest(to: str, payload: bytes) -> bytes:
    """16 bytes that tell whether a repeated ``cseq`` carries the same content."""
    return blake2b(to.encode() + b"\0" + payload, digest_size=16).digest()


def event_map(conv: str, seq: int, at: int, sender: str, kind: str, payload: bytes) -> dict[str, Any]:
    """An event as a map, for pages of history."""
    head = {"conv": conv, "seq": seq, "at": at, "from": sender, "kind": kind}
    return head | cast("dict[str, Any]", cbor2.loads(payload))


def encode_event(encoding: Encoding, conv: str, seq: int, at: int, sender: str, kind: str, payload: bytes) -> bytes:
    """An event message. In CBOR the stored payload is spliced in as it is: its map's entries follow ours."""
    if encoding is Encoding.JSON or not 0xA0 <= payload[0] <= 0xB7 - 6:
        return _dump(encoding, {"t": "event"} | event_map(conv, seq, at, sender, kind, payload))
    head = cbor2.dumps({"t": "event", "conv": conv, "seq": seq, "at": at, "from": sender, "kind": kind})
    return bytes((payload[0] + 6,)) + head[1:] + payload[1:]
