"""RFC 6455 over a real socket: every vector whole and a byte at a time, in both encodings; the node survives them all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import cbor2
import pytest
import trio

from tests.client_frames import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.e2e.cluster import FREELY, Cluster
from tests.faults.load import upgraded
from tests.hostile.catalogue import Vector, vectors

DEADLINE_SECONDS = 60.0
CHOPPED_BYTES = 700
NUMBERS = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), 1, FREELY)
    yield made
    assert made.servers[0].process.poll() is None, "the node survives"
    made.stop()


class Raw:
    """A session at the level of frames, after its hello."""

    def __init__(self, stream: trio.SocketStream, *, text: bool) -> None:
        self.stream = stream
        self._text = text
        self._buffer = b""

    @classmethod
    async def open(cls, cluster: Cluster, *, text: bool) -> Raw:
        stream, rest = await upgraded(cluster.server(0).port, "json" if text else "cbor")
        raw = cls(stream, text=text)
        raw._buffer = rest
        await raw.stream.send_all(raw.framed({"t": "hello", "token": cluster.token(f"u{next(NUMBERS)}"), "device": "d"}))
        while (await raw.message())["t"] != "live":
            pass
        return raw

    def framed(self, message: dict[str, Any]) -> bytes:
        return frame(TEXT, json.dumps(message).encode()) if self._text else frame(BINARY, cbor2.dumps(message))

    async def frame(self) -> tuple[int, bytes]:
        """The next one of the server's."""
        head = await self._take(2)
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
        return head[0] & 0x0F, await self._take(size)

    async def message(self) -> dict[str, Any]:
        while True:
            opcode, payload = await self.frame()
            if opcode in (TEXT, BINARY):
                made: dict[str, Any] = json.loads(payload) if self._text else cbor2.loads(payload)
                return made

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self.stream.receive_some(65536)
            assert data, "the connection ended without a close frame"
            self._buffer += bytes(data)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


async def try_out(cluster: Cluster, vector: Vector, step: int) -> None:
    """Send it in pieces of ``step`` bytes; what comes back is what should."""
    raw = await Raw.open(cluster, text=vector.text)
    after = () if vector.close else (raw.framed({"t": "heartbeat"}),)
    data, beats, pongs, close = b"".join([vector.data, *after]), 0, [], 0
    async with raw.stream, trio.open_nursery() as nursery:
        nursery.start_soon(_send, raw.stream, data, step)
        with trio.fail_after(DEADLINE_SECONDS):
            while not close and (vector.close or beats <= vector.beats):
                opcode, payload = await raw.frame()
                if opcode == PONG:
                    pongs.append(payload)
                elif opcode == CLOSE:
                    close = int.from_bytes(payload[:2], "big")
                elif b"heartbeat" in payload:
                    beats += 1
        nursery.cancel_scope.cancel()
    assert (close, tuple(pongs)) == (vector.close, vector.pongs), vector.name
    # What came in one piece with a broken frame is lost with it: the catalogue's NON-STRICT.
    assert beats == vector.beats + len(after) or (vector.close and beats < vector.beats), vector.name


async def _send(stream: trio.SocketStream, data: bytes, step: int) -> None:
    try:
        for at in range(0, len(data), step):
            await stream.send_all(data[at : at + step])
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # it was refused before it was whole


@pytest.mark.parametrize("encoding", ["cbor", "json"])
async def test_every_vector(cluster: Cluster, encoding: str) -> None:
    """Whole, and those that are short a byte at a time as well."""
    tried = 0
    for vector in vectors(text=encoding == "json"):
        await try_out(cluster, vector, 10**9)
        if len(vector.data) <= CHOPPED_BYTES:
            await try_out(cluster, vector, 1)
        tried += 1
    assert tried > (180 if encoding == "json" else 90)
    print(f"{tried} vectors")


async def test_stray_bytes(cluster: Cluster) -> None:
    """Any byte between two messages ends the connection with a code, or waits for more; the node does not mind."""
    for stray in range(256):
        raw = await Raw.open(cluster, text=False)
        async with raw.stream:
            await raw.stream.send_all(bytes([stray]) + raw.framed({"t": "heartbeat"}))
            with trio.fail_after(DEADLINE_SECONDS), suppress(trio.BrokenResourceError):
                await raw.stream.send_eof()
                while await raw.stream.receive_some(65536):
                    pass
    last = await Raw.open(cluster, text=False)
    async with last.stream:
        await last.stream.send_all(frame(PING, b"well"))
        assert await last.frame() == (PONG, b"well")
