"""Bytes that nobody meant, for each reader of what comes from outside: a kept corpus, its mutations, and what must hold.

A reader is given bytes in pieces, and says what came of them as a value that can be compared; whatever it raises beyond its
documented errors is a find. Finds are cut down to what is needed and told as a file to keep in ``corpus/``, where the next
run begins with it.
"""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from random import Random

from chatd_protocol.codec import MAX_CLIENT_BYTES, Encoding, Malformed, decode_client, decode_server, encode
from chatd_protocol.codes import ErrorCode

from chatd.listener import head as heads
from chatd.wire import frames

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 4096
"""A mutation is cut to it: faults hide in short inputs, and these are quick. Sizes have vectors of their own."""
Outcome = object
Pieces = Sequence[bytes]
FRAME_CODES = {1002, 1003, 1007, 1008, 1009}
OPCODES = {frames.TEXT, frames.BINARY, frames.CLOSE, frames.PING, frames.PONG}


@dataclass(frozen=True)
class Reader:
    """``read``: pieces of one input to what came of them. ``heap``: bytes that it may hold at once for each byte of input;
    ``least``: and besides, for what is no matter of the input's size (buffers, the parts of an error)."""

    name: str
    read: Callable[[Pieces], Outcome]
    heap: int
    least: int = 128 * 1024

    def corpus(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


# --- the readers ----------------------------------------------------------------------------------------------


def read_frames(pieces: Pieces) -> Outcome:
    """What a connection would have received. Of a refusal only the refusal: what stood before it in one piece is lost with it."""
    parser, received = frames.FrameParser(MAX_CLIENT_BYTES), []
    try:
        for piece in pieces:
            for opcode, payload in parser.feed(piece):
                assert opcode in OPCODES, f"opcode {opcode} got through"
                assert len(payload) <= MAX_CLIENT_BYTES
                if opcode == frames.TEXT:
                    payload.decode()
                received.append((opcode, payload, _closed(payload) if opcode == frames.CLOSE else None))
    except frames.FrameError as fault:
        assert fault.code in FRAME_CODES, fault
        return fault.code, fault.reason
    return received, parser.partial


def _closed(payload: bytes) -> Outcome:
    try:
        return frames.parse_close(payload)
    except frames.FrameError as fault:
        assert fault.code in FRAME_CODES, fault
        return fault.code, fault.reason


def _reads_messages(encoding: Encoding) -> Callable[[Pieces], Outcome]:
    def read(pieces: Pieces) -> Outcome:
        data = b"".join(pieces)
        outcomes: list[Outcome] = []
        for decode in (decode_client, decode_server):
            try:
                message = decode(encoding, data)
            except Malformed as fault:
                assert fault.code in {ErrorCode.BAD_MESSAGE, ErrorCode.UNKNOWN_TYPE}
                assert len(fault.message) < 400, "a refusal is short, whatever is refused"
                outcomes.append((fault.code, fault.message))
                continue
            if decode is decode_client:
                _is_itself_again(message)
            outcomes.append(repr(message))
        return outcomes

    return read


def _is_itself_again(message: object) -> None:
    """What one client said in one encoding reaches another in both, and means the same."""
    for encoding in Encoding:
        encoded = encode(encoding, message)  # type: ignore[arg-type]
        if len(encoded) <= MAX_CLIENT_BYTES:
            assert decode_client(encoding, encoded) == message


def read_head(pieces: Pieces) -> Outcome:
    """As ``listener.http`` reads and ``listener.listener`` judges it."""
    received, end = bytearray(), None
    try:
        for piece in pieces:
            searched = len(received)
            received += piece
            if end is None:
                end = heads.find_head_end(received, searched)
        if end is None:
            return "more"
        head = heads.parse_head(bytes(received[:end]))
        upgrade = heads.is_upgrade(head)
        heads.origin_allowed(head, ["https://a.example"], "chat.example")
    except heads.HeadRefused as refused:
        assert 400 <= refused.status < 600
        return refused.status, refused.code
    return head, upgrade, bytes(received[end:]), _judged(head)


def _judged(head: heads.RequestHead) -> Outcome:
    try:
        heads.check_upgrade(head)
    except heads.BadUpgrade as refused:
        assert 400 <= refused.status < 500
        return refused.status, refused.message
    assert all(name.isascii() and value.isascii() for name, value in head.headers), "libraries behind this one die of it"
    return heads.choose_subprotocol(head)


READERS = {
    reader.name: reader
    for reader in (
        Reader("frames", read_frames, heap=25, least=16 * 1024),
        Reader("cbor", _reads_messages(Encoding.CBOR), heap=100),
        Reader("json", _reads_messages(Encoding.JSON), heap=40),
        Reader("head", read_head, heap=10),
    )
}
"""What is small on the wire and not in memory sets these: an empty ping has 6 bytes there and is a tuple of 56 here, a container
a byte in CBOR and three in JSON, and 72 and more here. A message of 64 KiB can be 5 MiB so, for the moment in which it is
read; there is one such moment at a time."""


# --- what must hold -------------------------------------------------------------------------------------------


def fault_of(reader: Reader, data: bytes, cuts: Sequence[int] = ()) -> str:
    """What is wrong with how ``data`` is read, whole and cut there; "" where nothing is."""
    try:
        whole = reader.read([data])
    except Exception as fault:  # noqa: BLE001 - which is what is looked for
        return f"{type(fault).__name__}: {fault}"
    try:
        again = reader.read(pieces_of(data, cuts))
    except Exception as fault:  # noqa: BLE001
        return f"in pieces: {type(fault).__name__}: {fault}"
    return "" if whole == again else f"whole: {whole!r:.300}; cut at {list(cuts)}: {again!r:.300}"


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def heap_of(reader: Reader, data: bytes) -> int:
    """The most bytes that are held at once while ``data`` is read, ``data`` itself left out."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with suppress(Exception):
            reader.read([data])
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# --- mutations ------------------------------------------------------------------------------------------------

TELLING = (0x00, 0x01, 0x0A, 0x0D, 0x20, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0x82, 0x9F, 0xA0, 0xBF, 0xC0, 0xFE, 0xFF)
"""At the borders of what formats count by."""


class Mutator:
    """Makes inputs out of those of a corpus; the same seed makes the same ones."""

    def __init__(self, corpus: Sequence[bytes], seed: int) -> None:
        assert corpus, "there is nothing to begin with"
        self._corpus = corpus
        self._random = Random(seed)

    def next(self) -> tuple[bytes, list[int]]:
        """One input, and where to cut it."""
        random = self._random
        data = random.choice(self._corpus)[:LONGEST]
        for _ in range(random.choice((1, 1, 2, 4, 16))):
            data = self._mutated(data)[:LONGEST]
        cuts = [random.randint(0, len(data)) for _ in range(random.choice((1, 1, 2, 8)))]
        return data, cuts

    def _mutated(self, data: bytes) -> bytes:
        random = self._random
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice((1, 1, 2, 4, 8, 64)))
        part = data[start:end]
        match random.randrange(8):
            case 0:
                part = bytes(byte ^ 1 << random.randrange(8) for byte in part[:1]) + part[1:]
            case 1:
                part = bytes([random.choice(TELLING)]) + part[1:]
            case 2:
                part = random.randbytes(len(part))
            case 3:
                part = b""
            case 4:
                part *= random.choice((2, 3, 20))
            case 5:
                part = random.randbytes(random.randint(1, 4)) + part
            case 6:
                other = random.choice(self._corpus)
                at = random.randint(0, len(other))
                part = other[at : at + random.choice((4, 16, 256))]
            case 7:
                return data[:start]
        return data[:start] + part + data[end:]


def hunt(reader: Reader, seed: int, tries: int) -> str:
    """``tries`` mutations; what to keep of the first that is read wrongly, "" where none is."""
    mutator = Mutator(reader.corpus(), seed)
    for _ in range(tries):
        data, cuts = mutator.next()
        if fault := fault_of(reader, data, cuts):
            return _report(reader, *_shortened(reader, data, cuts), fault)
    return ""


def _shortened(reader: Reader, data: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    """The same find without what it does not need."""
    size = max(1, len(data) // 2)
    while size:
        at = 0
        while at < len(data):
            less = data[:at] + data[at + size :]
            moved = [cut if cut <= at else max(at, cut - size) for cut in cuts]
            if fault_of(reader, less, moved):
                data, cuts = less, moved
            else:
                at += size
        size //= 2
    return data, cuts


def _report(reader: Reader, data: bytes, cuts: list[int], fault: str) -> str:
    name = f"tests/hostile/corpus/{reader.name}/found-{sha256(data).hexdigest()[:8]}"
    return f"{fault}\ncut at {cuts}; keep it:\n  base64 -d > {name} <<< {base64.b64encode(data).decode()}"
