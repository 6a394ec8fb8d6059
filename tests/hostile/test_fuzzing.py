"""The frame parser, the codec and the HTTP head under a kept corpus and its mutations: only documented errors, bounded memory,
and the same outcome wherever the input is cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import SystemRandom
from types import SimpleNamespace
from typing import Any

import h11
import pytest
import trio
from chatd_protocol import cbor, json_form
from chatd_protocol.codec import MAX_CLIENT_BYTES

from chatd.listener import head as heads
from chatd.wire import frames
from tests.client_frames import BINARY, TEXT, frame
from tests.conftest import ReportFigures
from tests.e2e.cluster import FREELY, Cluster, metric
from tests.faults.load import upgraded
from tests.hostile.fuzzing import READERS, Reader, fault_of, heap_of, hunt
from tests.hostile.test_catalogue import Raw

DEADLINE_SECONDS = 60.0
TRIES, MANY = 3000, 100_000
EVERY_CUT = 400
"""Inputs up to so long are cut at each of their bytes."""


def test_the_corpus_is_there() -> None:
    """Each reader has inputs to begin with, which are not all the same."""
    for reader in READERS.values():
        assert len(set(reader.corpus())) >= 30, reader.name


@pytest.mark.parametrize("name", READERS)
def test_what_is_kept_is_read_as_it_should_be(name: str) -> None:
    """Whole, cut at each byte, and a byte at a time."""
    reader = READERS[name]
    for data in reader.corpus():
        cuts = range(len(data) if len(data) <= EVERY_CUT and name in ("frames", "head") else 1)
        for cut in cuts:
            assert not fault_of(reader, data, [cut])
        assert not fault_of(reader, data, range(1, len(data)))


@pytest.mark.parametrize("name", READERS)
def test_some_mutations(name: str) -> None:
    """The same ones in every run, and as many new ones."""
    seed = SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    for start in (1, seed):
        found = hunt(READERS[name], start, TRIES)
        assert not found, found


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_many_mutations(name: str, report_figures: ReportFigures) -> None:
    """New ones in every run."""
    seed = SystemRandom().randrange(2**32)
    found = hunt(READERS[name], seed, MANY)
    assert not found, found
    report_figures(f"{MANY:,} inputs, seed {seed}: no find")


def _pair_of_surrogates_let_through(patch: pytest.MonkeyPatch) -> None:
    careless = SimpleNamespace(dumps=lambda *_, **__: "", JSONDecodeError=json.JSONDecodeError)
    patch.setattr(json_form, "json", careless)


def _h11s_errors_let_through(patch: pytest.MonkeyPatch) -> None:
    def request(data: bytes) -> Any:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        return connection.next_event()

    patch.setattr(heads, "_request", request)


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "frames": lambda patch: patch.setattr(frames.FrameParser, "_check_head", lambda *_: None),
    "cbor": lambda patch: patch.setattr(cbor, "_FAULTS", ()),
    "json": _pair_of_surrogates_let_through,
    "head": _h11s_errors_let_through,
}


@pytest.mark.parametrize("name", READERS)
def test_the_hunt_finds_what_a_guard_was_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hunt is one: it finds what the guard was for, and tells it as a file that shows it again."""
    assert not hunt(READERS[name], 1, 300)
    GUARDS[name](monkeypatch)
    found = hunt(READERS[name], 1, TRIES)
    assert re.search(rf"base64 -d > tests/hostile/corpus/{name}/found-[0-9a-f]{{8}} <<< ", found)


def test_a_parser_that_minds_where_it_is_cut_is_found() -> None:
    """One that forgets what it was given before."""
    def forgetful(pieces: Any) -> object:
        return READERS["frames"].read([pieces[-1]])

    assert "cut at" in hunt(Reader("frames", forgetful, heap=10), 1, TRIES)


HEARTBEAT_AND = {"cbor": b"\xa2\x61t\x69heartbeat\x61x", "json": b'{"t":"heartbeat","x":'}


def _bombs(name: str) -> Iterator[bytes]:
    """As long as a message may be, and as large in memory as they can be made."""
    room = MAX_CLIENT_BYTES - 64
    if name == "cbor":
        for item in (b"\x80", b"\xa0", b"\x60", b"\x20", b"\x81\x80", b"\xa1\x60\x80"):
            count = room // len(item)
            yield HEARTBEAT_AND[name] + b"\x9a" + count.to_bytes(4, "big") + item * count
        yield HEARTBEAT_AND[name] + b"\xba" + (room // 4).to_bytes(4, "big") + b"".join(
            b"\x62%c%c\xf6" % (0x21 + number % 90, 0x21 + number // 90 % 90) for number in range(room // 4)
        )
    elif name == "json":
        for item in (b"[]", b"{}", b'""', b"-1", b"[[]]", b'{"":[]}', b"1e9"):
            yield HEARTBEAT_AND[name] + b"[" + b",".join([item] * (room // (len(item) + 1))) + b"]}"
        yield HEARTBEAT_AND[name] + b"{" + b",".join(b'"%d":0' % number for number in range(room // 9)) + b"}}"
    elif name == "frames":
        yield frame(BINARY, b"x" * MAX_CLIENT_BYTES)
        yield frame(TEXT, "κ".encode() * (MAX_CLIENT_BYTES // 2))
        yield frame(BINARY, b"", fin=False) + frame(0, b"x" * 1000, fin=False) * 63
        yield frame(frames.PING, b"") * 10_000
    else:
        yield b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 2000 + b"\r\n"
        yield b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        yield b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: " + b"," * 16_000 + b"\r\n\r\n"


@pytest.mark.parametrize("name", READERS)
def test_memory_is_bounded(name: str, report_figures: ReportFigures) -> None:
    """I9: whatever the bytes, what is held while they are read is a small multiple of them."""
    reader, worst, most = READERS[name], 0.0, 0
    for data in [*reader.corpus(), *_bombs(name)]:
        assert not fault_of(reader, data)
        heap = heap_of(reader, data)
        assert heap <= reader.heap * len(data) + reader.least, data[:100]
        most = max(most, heap)
        if len(data) >= LARGE:
            worst = max(worst, heap / len(data))
    report_figures(f"at most {most / 1024:,.0f} KiB, {worst:.1f} times the input where that is {LARGE // 1024} KiB or more")


LARGE = 8 * 1024


def test_the_measure_of_memory_measures() -> None:
    """A reader that keeps a kilobyte for each byte is seen to."""
    greedy = Reader("greedy", lambda pieces: [bytes(1024) for _ in pieces[0]], heap=100)
    assert heap_of(greedy, b"x" * LARGE) > greedy.heap * LARGE + greedy.least


# --- the corpus on a live node ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("node"), 1, FREELY)
    yield made
    made.stop()


async def _to_the_end(stream: trio.SocketStream, data: bytes) -> None:
    """Send it and our end, and read until the server's."""
    async with stream:
        with trio.fail_after(DEADLINE_SECONDS):
            try:
                await stream.send_all(data)
                await stream.send_eof()
                while await stream.receive_some(65536):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # it was refused before it was whole


async def test_a_node_survives_the_corpus(node: Cluster) -> None:
    """Heads as they are, frames and messages before and after the hello: nothing is a fault of the node's, and it goes on."""
    port = node.server(0).port
    for data in READERS["head"].corpus():
        await _to_the_end(await trio.open_tcp_stream("127.0.0.1", port), data)
    for data in READERS["frames"].corpus():
        await _to_the_end((await upgraded(port))[0], data)
        await _to_the_end((await Raw.open(node, text=False)).stream, data)
    for name, text in (("cbor", False), ("json", True)):
        messages = READERS[name].corpus()
        await _to_the_end((await upgraded(port, name))[0], frame(TEXT if text else BINARY, messages[0]))
        raw = await Raw.open(node, text=text)
        await _to_the_end(raw.stream, b"".join(frame(TEXT if text else BINARY, message) for message in messages))
    assert metric(node.server(0), "chatd_connection_faults_total") == 0
    last = await Raw.open(node, text=False)
    async with last.stream:
        await last.stream.send_all(frame(frames.PING, b"well"))
        assert await last.frame() == (frames.PONG, b"well")
    assert b'"level": "error"' not in Path(node.server(0).log.name).read_bytes()
