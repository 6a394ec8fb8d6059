"""RFC 6455 frames of the server's side, sans-IO: bytes in, messages out; nothing here waits or reads a clock.

Own code, and not wsproto's, because it is on the message path: wsproto takes 5.6 us to decode a 100-byte message,
this 0.9 us. The mask (section 5.3) is taken off by websockets' C: 0.12 us for 160 bytes, as one big integer 1.0.
What is strict here is tested vector by vector in ``tests/wire/test_frames.py`` after the sections of the RFC named
beside each rule.
"""

from __future__ import annotations

import codecs
from struct import Struct
from typing import Final

try:
    from websockets.speedups import apply_mask as unmask
except ImportError:  # no wheel with its C for this platform
    from websockets.utils import apply_mask as unmask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_WHOLE_BINARY: Final = 0x82
"""FIN, no reserved bits, BINARY: nearly every frame, so that the parser's other rules need not be gone through."""

MAX_CONTROL_PAYLOAD: Final = 125  # section 5.5
MAX_FRAGMENTS: Final = 64
"""A message in more pieces is refused: empty fragments would otherwise grow a list without ever reaching the size."""

NORMAL, PROTOCOL_ERROR, UNSUPPORTED_DATA = 1000, 1002, 1003
INVALID_PAYLOAD, POLICY_VIOLATION, TOO_BIG = 1007, 1008, 1009
_SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class FrameError(Exception):
    """The peer broke RFC 6455 or a bound; the connection is to be closed with ``code``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


Frame = tuple[int, bytes]
"""Opcode and payload of a whole message (TEXT, BINARY) or a control frame; TEXT payloads are valid UTF-8."""


_head_7, _head_16, _head_64 = Struct("!BB").pack, Struct("!BBH").pack, Struct("!BBQ").pack


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """One final, unmasked frame: the same bytes serve every recipient, since no extension is ever negotiated."""
    size = len(payload)
    if size < 126:
        return _head_7(0x80 | opcode, size) + payload
    if size < 65536:
        return _head_16(0x80 | opcode, 126, size) + payload
    return _head_64(0x80 | opcode, 127, size) + payload


def encode_close(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to what a control frame holds, at a character's border."""
    text = reason.encode()[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + text)


class FrameParser:
    """Turns a client's byte stream into whole messages and control frames.

    Holds at most one incomplete frame and one incomplete message, together never above ``max_message`` bytes and a
    header: a declared length beyond the bound is refused before its payload is waited for. After a FrameError the
    parser must not be fed again.
    """

    __slots__ = ("_buffer", "_fragment_opcode", "_fragments", "_max_message", "pieces")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._buffer = b""
        self._fragments: list[bytes] | None = None
        self._fragment_opcode = 0
        self.pieces = 0
        """Fragments that the last ``feed`` took and that ended no message: each is as much work as a message."""

    @property
    def partial(self) -> bool:
        """Whether a frame or a fragmented message is begun and not ended (the owner sets its deadline by this)."""
        return bool(self._buffer) or self._fragments is not None

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; return what is complete now, in order.

        Raises FrameError; frames before the broken one are lost with it, which is right: nothing was acknowledged.
        """
        if self._buffer:
            data = self._buffer + data
        frames: list[Frame] = []
        self.pieces = 0
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            plain = first == _WHOLE_BINARY and second & 0x80 and self._fragments is None
            if not plain:
                self._check_head(first, second)
            size, head = second & 0x7F, 2
            if size >= 126:
                width = 2 if size == 126 else 8
                head = 2 + width
                if end - at < head:
                    break
                size = int.from_bytes(data[at + 2 : at + head], "big")
                self._check_length(size, width)
            if size > self._max_message:
                raise FrameError(TOO_BIG, f"message above {self._max_message} bytes")
            start = at + head + 4
            if end < start + size:
                break
            payload = unmask(data[start : start + size], data[start - 4 : start])
            at = start + size
            if plain:
                frames.append((BINARY, payload))
            elif (frame := self._accept(first, payload)) is not None:
                frames.append(frame)
            else:
                self.pieces += 1
        self._buffer = data[at:] if at else data
        return frames

    def _check_head(self, first: int, second: int) -> None:
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "reserved bits set, and no extension negotiated")  # 5.2
        opcode = first & 0x0F
        if opcode > PONG or 0x3 <= opcode <= 0x7:
            raise FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode}")  # 5.2
        if not second & 0x80:
            raise FrameError(PROTOCOL_ERROR, "client frame not masked")  # 5.1
        if opcode >= CLOSE:
            if not first & 0x80:
                raise FrameError(PROTOCOL_ERROR, "control frame fragmented")  # 5.5
            if second & 0x7F > MAX_CONTROL_PAYLOAD:
                raise FrameError(PROTOCOL_ERROR, "control frame above 125 bytes")  # 5.5
        elif opcode == CONTINUATION:
            if self._fragments is None:
                raise FrameError(PROTOCOL_ERROR, "continuation of no message")  # 5.4
        elif self._fragments is not None:
            raise FrameError(PROTOCOL_ERROR, "new message inside a fragmented one")  # 5.4

    @staticmethod
    def _check_length(size: int, width: int) -> None:
        if size < (126 if width == 2 else 65536):
            raise FrameError(PROTOCOL_ERROR, "length not in its shortest form")  # 5.2
        if size >> 63:
            raise FrameError(PROTOCOL_ERROR, "length with its highest bit set")  # 5.2

    def _accept(self, first: int, payload: bytes) -> Frame | None:
        opcode = first & 0x0F
        if opcode >= CLOSE:
            return opcode, payload
        if self._fragments is None:
            if first & 0x80:
                return _message(opcode, payload)
            self._fragments, self._fragment_opcode = [payload], opcode
            self._check_text_so_far()
            return None
        self._fragments.append(payload)
        if len(self._fragments) > MAX_FRAGMENTS:
            raise FrameError(POLICY_VIOLATION, f"message in more than {MAX_FRAGMENTS} fragments")
        if sum(map(len, self._fragments)) > self._max_message:
            raise FrameError(TOO_BIG, f"message above {self._max_message} bytes")
        if not first & 0x80:
            self._check_text_so_far()
            return None
        whole, self._fragments = b"".join(self._fragments), None
        return _message(self._fragment_opcode, whole)

    def _check_text_so_far(self) -> None:
        # A fragment may end inside a character, so the check is incremental (8.1); fail early, as peers expect.
        if self._fragment_opcode != TEXT or self._fragments is None:
            return
        try:
            codecs.getincrementaldecoder("utf-8")().decode(b"".join(self._fragments), final=False)
        except UnicodeDecodeError:
            raise FrameError(INVALID_PAYLOAD, "text is not UTF-8") from None


def _message(opcode: int, payload: bytes) -> Frame:
    if opcode == TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise FrameError(INVALID_PAYLOAD, "text is not UTF-8") from None  # 8.1
    return opcode, payload


def parse_close(payload: bytes) -> tuple[int, str]:
    """The code and reason of a client's close frame; 1005 stands for none (7.1.5). Raises FrameError (7.4, 8.1)."""
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if code not in _SENDABLE_CODES and not 3000 <= code <= 4999:
        raise FrameError(PROTOCOL_ERROR, f"close code {code} may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_PAYLOAD, "close reason is not UTF-8") from None
