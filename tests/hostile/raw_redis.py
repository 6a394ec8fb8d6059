"""The embedded Valkey for somebody who has got hold of its socket: any command, all that passes, all that is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import trio

from tests.e2e.cluster import Cluster

DEADLINE_SECONDS = 30.0


class RawRedis:
    """One connection. Commands and replies are bytes, as they are; for one task at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader()

    async def command(self, *words: bytes) -> object:
        """One command and its reply; an error is a value."""
        with trio.fail_after(DEADLINE_SECONDS):
            await self._stream.send_all(hiredis.pack_command(words))  # type: ignore[arg-type]  # the stub wants one word
            return await self.reply()

    async def reply(self) -> object:
        """The next reply, or what is pushed, whenever it comes."""
        while (reply := self._reader.gets()) is False:
            data = await self._stream.receive_some(65536)
            assert data, "Valkey has closed the connection"
            self._reader.feed(bytes(data))
        return reply

    async def listen(self) -> None:
        """Subscribe to everything."""
        assert await self.command(b"PSUBSCRIBE", b"*") == [b"psubscribe", b"*", 1]

    async def heard(self) -> tuple[bytes, bytes]:
        """After ``listen``: the next message on any channel."""
        with trio.fail_after(DEADLINE_SECONDS):
            message = await self.reply()
        assert isinstance(message, list)
        assert message[0] == b"pmessage", message
        return message[2], message[3]

    async def kept(self) -> dict[bytes, object]:
        """Every key with its whole value, whatever its type."""
        found: dict[bytes, object] = {}
        cursor = b"0"
        while True:
            page = await self.command(b"SCAN", cursor, b"COUNT", b"1000")
            assert isinstance(page, list)
            cursor = page[0]
            for key in page[1]:
                found[key] = await self._value(key)
            if cursor == b"0":
                return found

    async def _value(self, key: bytes) -> object:
        reads = {
            b"string": (b"GET", key), b"hash": (b"HGETALL", key), b"list": (b"LRANGE", key, b"0", b"-1"),
            b"set": (b"SMEMBERS", key), b"zset": (b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"),
            b"stream": (b"XRANGE", key, b"-", b"+"), b"none": (b"GET", key),
        }  # fmt: skip
        kind = await self.command(b"TYPE", key)
        assert isinstance(kind, bytes)
        return await self.command(*reads[kind])


@asynccontextmanager
async def raw_redis(cluster: Cluster) -> AsyncIterator[RawRedis]:
    """A connection to the cluster's Valkey."""
    path = next(iter(cluster.data.rglob("*.sock")))
    async with await trio.open_unix_socket(path) as stream:
        yield RawRedis(stream)
