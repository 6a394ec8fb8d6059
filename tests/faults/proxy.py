"""A TCP proxy that does wrong on purpose, as a process of its own: ``python -m tests.faults.proxy TARGET RULES``.

Prints its port. TARGET: a port of 127.0.0.1, or the path of a unix socket; or "@" and the path of a file in which one of these
stands, read for each connection, so that a server's place can be taken by another. RULES, as ``slice=1 delay=0.05 cut=1000``:
``slice``: bytes passed on at once; ``delay``: seconds before each, at most; ``cut``: bytes after which a connection is reset,
both directions together; ``drop``, ``swap``: of the pub/sub messages from a Redis, the share that is left out, and that is
exchanged with the next.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Rules:
    """See the module."""

    slice: int = 65536
    delay: float = 0.0
    cut: int = 0
    drop: float = 0.0
    swap: float = 0.0
    seed: int = 0


class Pushes:
    """Takes a RESP stream apart into replies, to leave out or exchange ``message`` pushes; the rest goes through as it is."""

    def __init__(self, rules: Rules, random: Random) -> None:
        self._rules = rules
        self._random = random
        self._waiting = b""
        self._kept = b""
        self.dropped = self.swapped = 0

    def feed(self, data: bytes) -> bytes:
        self._waiting += data
        out = []
        while (size := _reply_size(self._waiting, 0)) is not None:
            reply, self._waiting = self._waiting[:size], self._waiting[size:]
            if reply[:1] in b"*>" and b"\r\nmessage\r\n" in reply[:40]:
                reply = self._disturbed(reply)
            out.append(reply)
        return b"".join(out)

    def _disturbed(self, reply: bytes) -> bytes:
        if self._random.random() < self._rules.drop:
            self.dropped += 1
            return b""
        if not self._kept and self._random.random() < self._rules.swap:
            self._kept = reply
            return b""
        reply, self._kept = reply + self._kept, b""
        self.swapped += 1
        return reply


def _reply_size(data: bytes, at: int) -> int | None:
    """Where the reply that begins at ``at`` ends; None where it is not whole yet."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    kind, rest = data[at : at + 1], end + 2
    if kind in (b"+", b"-", b":", b"_", b"#", b",", b"("):
        return rest
    length = int(data[at + 1 : end])
    if kind in (b"$", b"=", b"!"):
        whole = rest + (length + 2 if length >= 0 else 0)
        return whole if whole <= len(data) else None
    for _ in range(max(0, length) * (2 if kind == b"%" else 1)):
        following = _reply_size(data, rest)
        if following is None:
            return None
        rest = following
    return rest


async def _carry(source: trio.SocketStream, target: trio.SocketStream, rules: Rules, random: Random, left: list[int],
                 pushes: Pushes | None) -> None:  # fmt: skip
    while data := await source.receive_some(65536):
        if pushes is not None:
            data = pushes.feed(bytes(data))
        while data:
            part, data = data[: rules.slice], data[rules.slice :]
            if rules.delay:
                await trio.sleep(random.random() * rules.delay)
            if rules.cut and left[0] <= len(part):
                await target.send_all(part[: left[0]])
                _reset(source)
                _reset(target)
                return
            left[0] -= len(part)
            await target.send_all(part)
    await target.send_eof()


def _reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def _serve(target: str, rules: Rules, client: trio.SocketStream) -> None:
    random = Random(rules.seed)
    try:
        if target.startswith("@"):
            target = Path(target[1:]).read_text()
        if target.isdigit():
            server = await trio.open_tcp_stream("127.0.0.1", int(target))
        else:
            server = await trio.open_unix_socket(target)
        left = [rules.cut]
        pushes = Pushes(rules, random) if rules.drop or rules.swap else None
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(_carry, client, server, rules, random, left, None)
            await _carry(server, client, rules, random, left, pushes)
            nursery.cancel_scope.cancel()
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def main(target: str, rules: Rules) -> None:
    """Serve until killed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)

    async def serve(client: trio.SocketStream) -> None:
        await _serve(target, rules, client)

    await trio.serve_listeners(serve, listeners)


@asynccontextmanager
async def proxied(target: int | str, **rules: float) -> AsyncIterator[int]:
    """A proxy before it, while this lasts; its port."""
    words = [f"{name}={value}" for name, value in rules.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.proxy", str(target), *words], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield int(await trio.to_thread.run_sync(process.stdout.readline))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _rules_of(words: list[str]) -> Rules:
    rules = Rules()
    for word in words:
        name, _, value = word.partition("=")
        setattr(rules, name, type(getattr(rules, name))(float(value)))
    return rules


if __name__ == "__main__":
    trio.run(main, sys.argv[1], _rules_of(sys.argv[2:]))
