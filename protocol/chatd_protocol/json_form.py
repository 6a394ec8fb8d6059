"""The JSON form (RFC 8259) as chatd takes it, sans-IO: a byte string stands as ``{"b64": "..."}``, in ``body`` only.

base64url without padding (RFC 4648, section 5). Reading raises ValueError and nothing else, whatever the bytes.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

from chatd_protocol.cbor import MAX_CONTAINERS, MAX_ITEMS, check_values

if TYPE_CHECKING:
    from collections.abc import Iterator


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")
    return fields


# msgspec reads JSON in a third of the time, and keeps the last of two equal keys without a word.
_decoder = json.JSONDecoder(object_pairs_hook=_object)
_encoder = msgspec.json.Encoder()

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
"""What begins as one ends as one, at the end of all at the latest: so each byte is looked at once."""


def load_object(data: bytes) -> dict[str, Any]:
    """The one object that ``data`` is. Raises ValueError, which says what was not as it has to be."""
    try:
        value = _decoder.decode(data.decode())
        if type(value) is not dict:
            raise ValueError("a message is an object")
        check_values(value, 1)  # NaN and Infinity too, which json reads though they are no JSON
        if b"\\u" in data:
            # Half of a surrogate pair, written as an escape: no character, and nothing that UTF-8 can carry on.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"not JSON as chatd takes it: {_reason(fault)}") from None
    for holder in _holders_of_bodies(value):
        body = holder.get("body")
        if type(body) is dict and list(body) == ["b64"]:
            # What is no base64url stays as it is, and is refused as a body that is neither text nor bytes.
            holder["body"] = _from_base64(body["b64"], otherwise=body)
    return value


def count_items(data: bytes) -> int:
    """As ``cbor.count_items``: by its punctuation, first with that in strings, and without only where it would be too much."""
    if (counted := _items(data)) <= MAX_ITEMS:
        return counted
    return _items(_STRINGS.sub(b"0", data, count=MAX_ITEMS))  # with more strings than that there is as much between them


def _items(data: bytes) -> int:
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        return MAX_ITEMS + 1
    return 1 + data.count(b",") + data.count(b":")


def _reason(fault: Exception) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deep"
    if isinstance(fault, UnicodeEncodeError):
        return "half of a surrogate pair"
    if isinstance(fault, UnicodeError):
        return "not UTF-8"
    if not isinstance(fault, json.JSONDecodeError) and "digits" in str(fault):
        return "a number with too many digits"  # and not the interpreter's advice on how to take more
    return str(fault)[:200]


def dump_object(fields: dict[str, Any]) -> bytes:
    """An object in the order of its keys. Byte strings in bodies are replaced in ``fields`` itself."""
    for holder in _holders_of_bodies(fields):
        body = holder.get("body")
        if type(body) is bytes:
            holder["body"] = {"b64": base64.urlsafe_b64encode(body).rstrip(b"=").decode()}
    return _encoder.encode(fields)


def dump_without_bytes(message: msgspec.Struct) -> bytes:
    """A message that has no place for a byte string: in a tenth of the time."""
    return _encoder.encode(message)


def _holders_of_bodies(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield message
    events, items = message.get("events"), message.get("items")
    if type(events) is list:
        yield from (event for event in events if type(event) is dict)
    if type(items) is list:
        yield from (item["event"] for item in items if type(item) is dict and type(item.get("event")) is dict)


def _from_base64(text: object, *, otherwise: object) -> object:
    if type(text) is not str:
        return otherwise
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return otherwise
    # b64decode skips what is not of its alphabet: only the one way to write these bytes is taken.
    return data if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text else otherwise
