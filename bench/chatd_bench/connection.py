"""Raw non-blocking sockets behind one epoll: the generator's connections, and the loop that turns them.

Owns the sockets. Waits for readiness only; ends with its process. A connection that the server closes, or an error that
it answers with, ends the whole run: a server that refuses is set up wrongly, not slow.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cbor2

from chatd_bench import websocket
from chatd_bench.faults import RunFailed
from chatd_bench.websocket import HandshakeRefused, find_frame
from chatd_bench.wire import message_frame

RECEIVE_BYTES = 256 * 1024
OPENING_AT_ONCE = 64
"""Handshakes in flight: enough to keep a server busy, and far from its ten seconds for the hello."""
HEARTBEATS_PER_INTERVAL = 3
ADDRESS_SHARE = 5000
"""Connections from one loopback address, of the 28 k ports that Linux gives out."""


__all__ = ["Connection", "Loop", "RunFailed"]


class Connection:
    """One user's connection, from its handshake to its end. A scenario derives from it and says what messages mean."""

    __slots__ = ("_pending", "_socket", "answers", "beats", "data", "fd", "heartbeat_s", "key", "live", "loop", "name",
                 "out", "upgraded")  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = websocket.random_key()
        self.data = b""
        self.out: list[bytes] = []
        self._pending = b""
        self.upgraded = False
        self.live = False
        self.beats = self.answers = 0
        self.heartbeat_s = 10.0
        self.loop: Loop
        self._socket: socket.socket
        self.fd = -1

    def connect(self, loop: Loop, host: str, port: int, number: int, token: str) -> None:
        """Begin the handshake, with the hello right behind it. Blocks for as long as the TCP handshake takes."""
        self.loop = loop
        source = None
        if host.startswith("127."):
            source = (f"127.0.0.{1 + number // ADDRESS_SHARE}", 0)
        try:
            self._socket = socket.create_connection((host, port), timeout=20, source_address=source)
        except OSError as fault:
            raise RunFailed(f"{self.name}: cannot connect: {fault}") from fault
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self._socket.fileno()
        loop.add(self)
        self.out.append(websocket.upgrade_request(host, port))
        self.tell({"t": "hello", "token": token, "device": "bench", "agent": "chatd_bench"})
        self.flush()

    def close(self) -> None:
        """Let go of the socket, without a goodbye."""
        self._socket.close()

    # --- what the loop calls --------------------------------------------------------------------

    def readable(self) -> None:
        """Read once, take what is complete, and write what that led to."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as fault:
            raise RunFailed(f"{self.name}: connection lost: {fault}") from fault
        if not data:
            raise RunFailed(f"{self.name}: the server closed the connection")
        now = time.monotonic_ns() // 1000
        if self.data:
            data = self.data + data
        at = self.feed(data, now) if self.upgraded else self._feed_handshake(data, now)
        self.data = data[at:] if at < len(data) else b""
        if self.out:
            self.flush()

    def writable(self) -> None:
        """The kernel takes more of what a full buffer had refused."""
        self._write(self._pending)

    def flush(self) -> None:
        """Write everything in ``out`` at once; what the kernel does not take follows when it does."""
        data = b"".join(self.out)
        self.out.clear()
        if self._pending:
            self._pending += data
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        waited = bool(self._pending)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as fault:
            raise RunFailed(f"{self.name}: connection lost: {fault}") from fault
        self._pending = data[sent:]
        if bool(self._pending) != waited:
            self.loop.watch_writable(self, bool(self._pending))

    # --- messages -------------------------------------------------------------------------------

    def tell(self, fields: dict[str, Any]) -> None:
        """Queue a message; it is written with the next ``flush``."""
        self.out.append(message_frame(fields, self.key))

    def beat(self) -> None:
        """Send a heartbeat."""
        self.beats += 1
        self.tell({"t": "heartbeat"})
        self.flush()

    def _feed_handshake(self, data: bytes, now: int) -> int:
        try:
            end = websocket.answer_end(data)
        except HandshakeRefused as fault:
            raise RunFailed(f"{self.name}: handshake refused: {fault}") from fault
        if not end:
            return 0
        self.upgraded = True
        return end + self.feed(data[end:], now)

    def feed(self, data: bytes, now: int) -> int:
        """Take the complete frames at the beginning of ``data``; return where the incomplete one begins.

        ``now`` is the time of arrival in microseconds of the monotonic clock.
        """
        at = 0
        while (found := find_frame(data, at)) is not None:
            self.frame(data, at, *found, now)
            at = found[1]
        return at

    def frame(self, data: bytes, at: int, start: int, stop: int, now: int) -> None:
        """Take one whole frame of any kind, by decoding it."""
        opcode = data[at]
        payload = data[start:stop]
        if opcode == websocket.BINARY:
            self._message(cbor2.loads(payload), now)
        elif opcode == websocket.PING:
            self.out.append(websocket.client_frame(payload, self.key, websocket.PONG))
        else:
            raise RunFailed(f"{self.name}: frame {opcode:#x}, {payload[:2].hex()} {payload[2:100]!r}")

    def _message(self, message: dict[str, Any], now: int) -> None:
        match message["t"]:
            case "event":
                self.event(message, now)
            case "ack":
                self.ack(message, now)
            case "ok":
                self.answer(message)
            case "heartbeat":
                self.answers += 1
            case "welcome":
                self.heartbeat_s = message["heartbeat_ms"] / 1000 / HEARTBEATS_PER_INTERVAL
            case "live":
                self.live = True
            case "receipt" | "presence" | "typing":
                self.loop.others += 1
            case kind:
                raise RunFailed(f"{self.name}: the server said {kind}: {message}")

    def event(self, message: dict[str, Any], now: int) -> None:
        """An event, decoded."""
        raise RunFailed(f"{self.name}: an event that nobody sent: {message}")

    def ack(self, message: dict[str, Any], now: int) -> None:
        """An ack, decoded."""
        raise RunFailed(f"{self.name}: an ack of nothing: {message}")

    def answer(self, message: dict[str, Any]) -> None:
        """The answer to a request of the scenario's."""
        raise RunFailed(f"{self.name}: an answer to nothing: {message}")


class Loop:
    """All connections of one generator. ``others`` counts what no scenario measures: receipts, presence, typing."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._beats: deque[tuple[float, Connection]] = deque()
        self.others = 0

    def add(self, connection: Connection) -> None:
        """Watch a connection from now on."""
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def drop(self, connection: Connection) -> None:
        """Close a connection, without a goodbye; the others go on."""
        self._epoll.unregister(connection.fd)
        del self._connections[connection.fd]
        self._beats = deque(beat for beat in self._beats if beat[1] is not connection)
        connection.close()

    def watch_writable(self, connection: Connection, on: bool) -> None:
        """Whether the connection waits for room in the kernel's buffer."""
        self._epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if on else 0))

    def turn(self, timeout_s: float) -> None:
        """Wait for at most so long, then serve whoever is ready, and the heartbeats that are due. Raises RunFailed."""
        if self._beats:
            timeout_s = max(0.0, min(timeout_s, self._beats[0][0] - time.monotonic()))
        connections = self._connections
        for fd, events in self._epoll.poll(timeout_s):
            connection = connections.get(fd)
            if connection is None:
                continue  # dropped in this very turn
            if events & select.EPOLLOUT:
                connection.writable()
            if events & ~select.EPOLLOUT:
                connection.readable()
        if self._beats:
            self._beat(time.monotonic())

    def _beat(self, now: float) -> None:
        while self._beats and self._beats[0][0] <= now:
            due, connection = self._beats.popleft()
            connection.beat()
            self._beats.append((due + connection.heartbeat_s, connection))

    def turn_until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Turn until ``done``. Raises RunFailed when that takes longer than ``seconds``."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise RunFailed(f"{what}: not within {seconds:.0f} s")
            self.turn(0.05)

    def open(self, connections: Iterable[Connection], connect: Callable[[Connection], None], seconds: float) -> None:
        """Bring connections to ``live``, a bounded number at once, and keep them with heartbeats. Raises RunFailed."""
        waiting: Iterator[Connection] = iter(connections)
        opening: list[Connection] = []
        end = time.monotonic() + seconds
        more = True
        while more or opening:
            while more and len(opening) < OPENING_AT_ONCE:
                connection = next(waiting, None)
                if connection is None:
                    more = False
                else:
                    connect(connection)
                    opening.append(connection)
            self.turn(0.05)
            for connection in (connection for connection in opening if connection.live):
                # Due one after another, as they came: the queue stays sorted, all intervals being the same.
                self._beats.append((time.monotonic() + connection.heartbeat_s, connection))
            opening = [connection for connection in opening if not connection.live]
            if time.monotonic() > end:
                raise RunFailed(f"{len(opening)} connections not live within {seconds:.0f} s")

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.close()
        self._epoll.close()
