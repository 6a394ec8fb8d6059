"""CBOR (RFC 8949) as chatd takes it, sans-IO: the strict reading, and the writing of single items.

Knows nothing of messages. Reading raises ValueError and nothing else, whatever the bytes.
"""

from __future__ import annotations

from functools import lru_cache, partial
from io import BytesIO
from math import isfinite
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import cbor2

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH: Final = 8
"""Maps and arrays within one another, the message itself counted. The deepest message of ours has 5."""

MAX_ITEMS: Final = 4096
"""Of one message: keys, values, maps and arrays. A hello with all its positions has 4011."""
MAX_CONTAINERS: Final = 128
"""Maps and arrays of one message, itself counted. None of ours has more than 3; one of 64 KiB may be 65,000 empty ones, which
take 20 to 40 ms to read."""

_PLAIN: Final = frozenset({str, bytes, int, bool, type(None)})
_TEXT: Final = frozenset({str})
_CONTAINERS: Final = frozenset({dict, list})


def _refuse_tag(*_: Any) -> Any:
    raise cbor2.CBORDecodeError("tags are not allowed")


# cbor2 decodes these by itself, before a tag_hook is asked: among them bignums (2, 3), references that build cyclic
# values (28, 29) and regular expressions (35), which it compiles. All other tags do come to the hook.
_BUILT_IN_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_STRICT: dict[str, Any] = {
    "semantic_decoders": dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag),
    "tag_hook": _refuse_tag,
    "allow_indefinite": False,
    "allow_duplicate_keys": False,
    "strict_hashable_types": True,
}
_load_strictly: Callable[[bytes], Any] = partial(cbor2.loads, max_depth=MAX_DEPTH + 1, **_STRICT)
_FAULTS = (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, RecursionError)


_SEAL: Final = b"end of a message"
_SEALED: Final = b"\x50" + _SEAL  # a byte string of 16


def load_map(data: bytes) -> dict[str, Any]:
    """The one map that ``data`` is. Raises ValueError, which says what was not as it has to be."""
    # cbor2.loads is twice as quick as a decoder that can tell where it stopped, but does not mind what follows. So the
    # message is read as the first of two items, the second a seal: found where it was put, the message was whole and
    # the last thing there. It cannot be found earlier: with none of it in ``data`` it would have to begin there and end
    # in the seal, across the 0x50, which the seal itself does not hold.
    try:
        value, end = _load_strictly(b"\x82" + data + _SEALED)
    except _FAULTS:
        end = None
    if end != _SEAL or _SEAL in data:
        value = _load_exactly(data)
    if type(value) is not dict:
        raise ValueError("a message is a map")
    if not _PLAIN.issuperset(map(type, value.values())):
        check_values(value, 1)
    return value


def count_items(data: bytes) -> int:
    """What reading ``data`` would cost, by the heads of its items alone, which is a tenth of it; more than MAX_ITEMS where there
    are too many of them, or of containers. What is behind a head that is none is not counted, for reading ends there."""
    at, end, items, containers = 0, len(data), 0, 0
    while at < end and items <= MAX_ITEMS:
        first = data[at]
        items, at, argument = items + 1, at + 1, first & 0x1F
        if argument >= 28:  # of indefinite length, or reserved
            return items
        if argument >= 24:
            width = 1 << argument - 24
            argument, at = int.from_bytes(data[at : at + width], "big"), at + width
        kind = first >> 5
        if kind == 2 or kind == 3:  # noqa: PLR1714 - a string; compiled, this is two integers compared, and no set made
            at += argument
        elif kind == 4 or kind == 5:  # noqa: PLR1714 - an array, a map
            containers += 1
            if containers > MAX_CONTAINERS:
                return MAX_ITEMS + 1
    return items


def _load_exactly(data: bytes) -> object:
    """The slow way, which knows what is wrong with ``data``."""
    source = BytesIO(data)
    try:
        value: object = cbor2.CBORDecoder(source, max_depth=MAX_DEPTH, **_STRICT).decode()
    except _FAULTS as fault:
        raise ValueError(f"not CBOR as chatd takes it: {str(fault)[:200]}") from None
    if source.tell() != len(data):
        raise ValueError(f"{len(data) - source.tell()} bytes after the message")
    return value


def check_values(value: Any, depth: int) -> None:
    """Refuse what no message holds, also under keys that nobody knows, and what is nested deeper than MAX_DEPTH.

    ``depth`` is that of ``value``, 1 for the message itself. Raises ValueError.
    """
    kind = type(value)
    if kind in _CONTAINERS:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if kind is dict:
            if not _TEXT.issuperset(map(type, value)):
                raise ValueError("keys are text")
            value = value.values()
        if not _PLAIN.issuperset(map(type, value)):
            _check_parts(value, depth + 1)
    elif kind is float:
        if not isfinite(value):
            raise ValueError("a number is finite")
    elif kind not in _PLAIN:
        raise ValueError("simple values are true, false and null")


def _check_parts(values: Any, depth: int) -> None:
    for part in values:
        if type(part) not in _PLAIN:
            check_values(part, depth)


# --- writing: the pieces of a map with few keys, which is not worth cbor2's 2 microseconds -------------


def head(major: int, argument: int) -> bytes:
    """The head of an item, in its shortest form: the major type, in the upper three bits, and the argument."""
    if argument < 24:
        return bytes((major | argument,))
    if argument < 1 << 8:
        return bytes((major | 24, argument))
    if argument < 1 << 16:
        return bytes((major | 25,)) + argument.to_bytes(2, "big")
    if argument < 1 << 32:
        return bytes((major | 26,)) + argument.to_bytes(4, "big")
    return bytes((major | 27,)) + argument.to_bytes(8, "big")


_TEXT_HEADS: Final = tuple(head(0x60, size) for size in range(256))
_NUMBERS: Final = tuple(head(0x00, value) for value in range(256))
_pack_16_bits, _pack_32_bits, _pack_64_bits = Struct(">BH").pack, Struct(">BI").pack, Struct(">BQ").pack


def number(value: int) -> bytes:
    """An unsigned integer."""
    if value < 256:
        return _NUMBERS[value]
    if value < 65536:
        return _pack_16_bits(0x19, value)
    if value < 1 << 32:
        return _pack_32_bits(0x1A, value)
    return _pack_64_bits(0x1B, value)


def text(value: str) -> bytes:
    """A text string."""
    data = value.encode()
    size = len(data)
    return (_TEXT_HEADS[size] if size < 256 else head(0x60, size)) + data


name = lru_cache(maxsize=16_384)(text)
"""As ``text``, for what comes again and again: names of users and of conversations, at most 64 characters each."""


def map_entries(data: bytes) -> tuple[int, int]:
    """How many entries the map at the start of ``data`` has, and where the first one begins. Raises ValueError."""
    first = data[0] if data else 0
    if 0xA0 <= first <= 0xB7:
        return first - 0xA0, 1
    if first == 0xB8 and len(data) > 1:
        return data[1], 2
    if first == 0xB9 and len(data) > 2:
        return int.from_bytes(data[1:3], "big"), 3
    raise ValueError("not a map of at most 65535 entries")
