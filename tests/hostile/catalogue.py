"""The Autobahn catalogue's sections 1-7, 9 and 10 as vectors for a server that is no echo server.

What the catalogue sends as a text or a message to be echoed is a heartbeat here, which is answered with one; its length is
made up with a key that nobody knows, which is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import cbor2

from tests.client_frames import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, frame

LIMIT = 64 * 1024


@dataclass(frozen=True)
class Vector:
    """``parts`` are sent; then come ``beats`` heartbeats and the ``pongs``, in their order, and, with ``close``, that code. A
    vector without one leaves the connection as it was."""

    name: str
    parts: tuple[bytes, ...]
    beats: int = 0
    pongs: tuple[bytes, ...] = ()
    close: int = 0
    text: bool = field(default=False, kw_only=True)

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)


def beat(size: int, *, text: bool) -> bytes:
    """A heartbeat of so many bytes, or of its least."""
    least = _encoded({"t": "heartbeat", "x": ""}, text)
    for missing in range(max(0, size - len(least)), -1, -1):
        made = _encoded({"t": "heartbeat", "x": "*" * missing}, text)
        if len(made) <= max(size, len(least)):
            return made
    return least


def _encoded(message: dict[str, str], text: bool) -> bytes:
    return json.dumps(message).encode() if text else cbor2.dumps(message)


def vectors(*, text: bool) -> Iterator[Vector]:
    """All of them, for one of the two encodings."""
    opcode, other = (TEXT, BINARY) if text else (BINARY, TEXT)
    small = beat(0, text=text)
    for number, made in enumerate(_sections(opcode, other, small, text=text)):
        yield Vector(f"{made.name} #{number}", made.parts, made.beats, made.pongs, made.close, text=text)


def _sections(opcode: int, other: int, small: bytes, *, text: bool) -> Iterator[Vector]:
    for size in (0, 125, 126, 127, 128, 65535, LIMIT):
        yield Vector(f"1 a message of {size} bytes", (frame(opcode, beat(size, text=text)),), beats=1)
    yield Vector("1 the other kind of message", (frame(other, b"hello"),), close=1003)
    yield from _pings(opcode, small)
    yield from _reserved(opcode, small)
    yield from _fragments(opcode, small)
    if text:
        yield from _utf8()
    yield from _closes()
    yield from _sizes(opcode, text=text)


def _pings(opcode: int, small: bytes) -> Iterator[Vector]:
    for payload in (b"", b"hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        yield Vector(f"2 a ping of {len(payload)} bytes", (frame(PING, payload),), pongs=(payload,))
    yield Vector("2.5 a ping of 126 bytes", (frame(PING, b"\xfe" * 126),), close=1002)
    yield Vector("2.7 a pong that nobody asked for", (frame(PONG), frame(opcode, small)), beats=1)
    yield Vector("2.8 the same with a payload", (frame(PONG, b"unsolicited"), frame(opcode, small)), beats=1)
    yield Vector("2.9 and then a ping", (frame(PONG, b"x"), frame(PING, b"y")), pongs=(b"y",))
    many = tuple(b"payload-%d" % number for number in range(10))
    yield Vector("2.10 ten pings", tuple(frame(PING, payload) for payload in many), pongs=many)


def _reserved(opcode: int, small: bytes) -> Iterator[Vector]:
    for rsv in range(1, 8):
        yield Vector(f"3 reserved bits {rsv}", (frame(opcode, small, rsv=rsv),), close=1002)
        after = (frame(opcode, small), frame(opcode, small, rsv=rsv))
        yield Vector(f"3 reserved bits {rsv} after a message", after, 1, close=1002)
        yield Vector(f"3 reserved bits {rsv} on a ping", (frame(PING, b"x", rsv=rsv),), close=1002)
        yield Vector(f"3 reserved bits {rsv} on a close", (frame(CLOSE, b"\x03\xe8", rsv=rsv),), close=1002)
    for unknown in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield Vector(f"4 opcode {unknown}", (frame(unknown),), close=1002)
        yield Vector(f"4 opcode {unknown} with a payload", (frame(opcode, small), frame(unknown, b"x")), 1, close=1002)


def _fragments(opcode: int, small: bytes) -> Iterator[Vector]:
    first, second = frame(opcode, small[:3], fin=False), frame(CONTINUATION, small[3:])
    yield Vector("5.1 a ping in fragments", (frame(PING, b"a", fin=False), frame(CONTINUATION, b"b")), close=1002)
    yield Vector("5.2 a pong in fragments", (frame(PONG, b"a", fin=False), frame(CONTINUATION, b"b")), close=1002)
    yield Vector("5.3 a message in two", (first, second), beats=1)
    yield Vector("5.6 with a ping in between", (first, frame(PING, b"in"), second), 1, (b"in",))
    empty = (frame(opcode, b"", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, small))
    yield Vector("6.1 with empty fragments", empty, beats=1)
    yield Vector("5.9 a continuation of nothing", (frame(CONTINUATION, b"x", fin=False),), close=1002)
    yield Vector("5.10 the last continuation of nothing", (frame(CONTINUATION, b"x"),), close=1002)
    yield Vector("5.12 of nothing, then a message", (frame(CONTINUATION, b"x", fin=False), frame(opcode, small)), close=1002)
    yield Vector("5.15 one too many", (first, second, frame(CONTINUATION, b"x", fin=False)), 1, close=1002)
    yield Vector("5.18 a message in a message", (first, frame(opcode, small)), close=1002)
    pieces = [small[at : at + 1] for at in range(len(small))]
    yield Vector(
        "5.19 a byte in each, with pings",
        (
            frame(opcode, pieces[0], fin=False), *(frame(CONTINUATION, piece, fin=False) for piece in pieces[1:5]),
            frame(PING, b"one"), *(frame(CONTINUATION, piece, fin=False) for piece in pieces[5:-1]), frame(PING, b"two"),
            frame(CONTINUATION, pieces[-1]),
        ), 1, (b"one", b"two"),
    )  # fmt: skip
    yield Vector("65 fragments", (first, *(frame(CONTINUATION, b"", fin=False) for _ in range(64))), close=1008)


VALID = (
    "κόσμε", "\u0080", "\u0800", "\U00010000", "\u007f", "\u07ff", "\uffff", "\ud7ff", "\ue000", "\ufffd", "\U0010ffff",
)  # fmt: skip
INVALID = (
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\x80", b"\xbf", b"\x80\xbf", b"\xc0", b"\xc1", b"\xf5",
    b"\xff", b"\xfe", b"\xfe\xfe\xff\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf",
    b"\xfc\x80\x80\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xc0\x80",
    b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3",
)  # fmt: skip


def _utf8() -> Iterator[Vector]:
    for text in VALID:
        said = json.dumps({"t": "heartbeat", "x": text}, ensure_ascii=False).encode()
        yield Vector(f"6 valid {text!a}", (frame(TEXT, said),), beats=1)
        yield Vector(f"6 valid {text!a}, cut", tuple(_cut(TEXT, said)), beats=1)
    for data in INVALID:
        said = b'{"t":"heartbeat","x":"%b"}' % data
        yield Vector(f"6 invalid {data.hex()}", (frame(TEXT, said),), close=1007)
        yield Vector(f"6 invalid {data.hex()}, cut", tuple(_cut(TEXT, said)), close=1007)


def _cut(opcode: int, payload: bytes) -> Iterator[bytes]:
    """In fragments of a byte each, at most fifty of them."""
    yield frame(opcode, payload[:-40], fin=False)
    rest = payload[-40:]
    for at in range(len(rest)):
        yield frame(CONTINUATION, rest[at : at + 1], fin=at == len(rest) - 1)


def _closes() -> Iterator[Vector]:
    yield Vector("7.1 a close", (frame(CLOSE, b"\x03\xe8"),), close=1000)
    yield Vector("7.1.2 two closes", (frame(CLOSE, b"\x03\xe8"), frame(CLOSE, b"\x03\xe8")), close=1000)
    yield Vector("7.1.3 a close, then a ping", (frame(CLOSE, b"\x03\xe8"), frame(PING, b"x")), close=1000)
    yield Vector("7.3.1 no code", (frame(CLOSE),), close=1000)
    yield Vector("7.3.2 half a code", (frame(CLOSE, b"\x03"),), close=1002)
    yield Vector("7.3.5 the longest reason", (frame(CLOSE, b"\x03\xe8" + b"*" * 123),), close=1000)
    yield Vector("7.3.6 a longer one", (frame(CLOSE, b"\x03\xe8" + b"*" * 124),), close=1002)
    yield Vector("7.5.1 a reason that is not UTF-8", (frame(CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80"),), close=1007)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield Vector(f"7.7 code {code}", (frame(CLOSE, code.to_bytes(2, "big")),), close=code)
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield Vector(f"7.9 code {code}", (frame(CLOSE, code.to_bytes(2, "big")),), close=1002)


def _sizes(opcode: int, *, text: bool) -> Iterator[Vector]:
    whole = beat(LIMIT, text=text)
    yield Vector("9 one byte above the limit", (frame(opcode, whole + b" "),), close=1009)
    yield Vector("9 2**62 bytes", (bytes([0x80 | opcode, 0xFF]) + (2**62).to_bytes(8, "big") + KEY,), close=1009)
    yield Vector("9 the highest bit of a length", (bytes([0x80 | opcode, 0xFF]) + (2**63).to_bytes(8, "big") + KEY,), close=1002)
    for piece in (1300, 4096, 16384):
        parts = [whole[at : at + piece] for at in range(0, len(whole), piece)]
        kinds = [CONTINUATION if at else opcode for at in range(len(parts) + 1)]
        last = len(parts) - 1
        fitting = tuple(frame(kinds[at], part, fin=at == last) for at, part in enumerate(parts))
        yield Vector(f"10 the longest message in frames of {piece}", fitting, beats=1)
        over = tuple(frame(kinds[at], part, fin=False) for at, part in enumerate([*parts, b"x" * piece]))
        yield Vector(f"10 and a frame of {piece} more", over, close=1009)
