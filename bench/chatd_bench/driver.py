"""Set-up: connects, upgrades and carries on the dialects' talks, thousands at once, until the engine takes over.

Owns the sockets, also while the engine uses them. Waits for readiness only. Above frames it knows nothing but what the
dialect says; between talks nothing is read, so that what comes early waits for whoever it is meant for.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from chatd_bench import websocket
from chatd_bench.dialects.dialect import Dialect, Heartbeat, Reply, Session, Talk
from chatd_bench.faults import RunFailed
from chatd_bench.servers.server import Endpoint
from chatd_bench.websocket import HandshakeRefused, find_frame

RECEIVE_BYTES = 256 * 1024
ADDRESS_SHARE = 5000
"""Connections from one loopback address, of the 28 k ports that Linux gives out."""
AT_ONCE = 64
"""Talks under way: enough to keep a server busy, and far from its patience."""
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A

Progress = Callable[[int], None]


class Line:
    """One user's connection during set-up."""

    __slots__ = ("_data", "_dialect", "_key", "_replies", "_talk", "_unsent", "began", "done", "ended", "fd", "result", "session",
                 "sock", "upgraded")  # fmt: skip

    def __init__(self, dialect: Dialect, replies: tuple[Reply, ...], session: Session) -> None:
        self._dialect = dialect
        self._replies = replies
        self.session = session
        self.sock: socket.socket
        self.fd = -1
        self._data = b""
        self._unsent = b""
        self._key = websocket.random_key()
        self._talk: Talk[Any] | None = None
        self.upgraded = False
        self.done = False
        self.result: Any = None
        self.began = self.ended = 0.0

    def connect(self, endpoint: Endpoint) -> None:
        """Begin to; the upgrade request goes out when the kernel is there."""
        number = self.session.user.number
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.host.startswith("127."):
            # The port is chosen when it connects, by the whole address: ports of one source are scarce.
            self.sock.setsockopt(socket.SOL_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            self.sock.bind((f"127.0.0.{1 + number // ADDRESS_SHARE}", 0))
        self.fd = self.sock.fileno()
        self.began = time.monotonic()
        error = self.sock.connect_ex((endpoint.host, endpoint.port))
        if error not in (0, 115):  # EINPROGRESS
            raise RunFailed(f"{self.session.user.name}: cannot connect: error {error}")
        target = self._dialect.target(self.session.user)
        self._unsent = websocket.upgrade_request(endpoint.host, endpoint.port, target, self._dialect.subprotocol)

    def begin(self, talk: Talk[Any]) -> None:
        """Carry on a talk; ``done`` when it has ended, with its ``result``."""
        self._talk, self.done = talk, False
        if self.upgraded:
            self.began = time.monotonic()
            self._step(None)
            self._take()

    def readable(self) -> None:
        """Read once, and take what is complete."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as fault:
            raise RunFailed(f"{self.session.user.name}: connection lost: {fault}") from fault
        if not data:
            raise RunFailed(f"{self.session.user.name}: the server closed the connection. It said {self._data[:300]!r}")
        self._data += data
        if not self.upgraded and not self._upgrade():
            return
        self._take()

    def writable(self) -> None:
        """The kernel takes more."""
        self.write(b"")

    def write(self, data: bytes) -> None:
        """Bytes to the server."""
        self._unsent += data
        try:
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError as fault:
            raise RunFailed(f"{self.session.user.name}: connection lost: {fault}") from fault

    @property
    def waits_to_write(self) -> bool:
        """Whether something is left."""
        return bool(self._unsent)

    def release(self) -> tuple[int, bytes]:
        """The descriptor, and what was read from it and belongs to nobody yet. From now on it is the engine's."""
        if self._unsent:
            raise RunFailed(f"{self.session.user.name}: the server takes nothing")
        data, self._data = self._data, b""
        return self.fd, data

    def tell(self, message: bytes) -> None:
        """One message."""
        self.write(websocket.client_frame(message, self._key, TEXT if self._dialect.text else BINARY))

    def _upgrade(self) -> bool:
        try:
            end = websocket.answer_end(self._data)
        except HandshakeRefused as fault:
            raise RunFailed(f"{self.session.user.name}: handshake refused: {fault}") from fault
        if end:
            self.upgraded = True
            self._data = self._data[end:]
            self._step(None)
        return bool(end)

    def _take(self) -> None:
        at = 0
        while not self.done and (found := find_frame(self._data, at)) is not None:
            start, stop = found
            opcode, payload = self._data[at], self._data[start:stop]
            at = stop
            if opcode == PING:
                self.write(websocket.client_frame(payload, self._key, PONG))
            elif opcode == (TEXT if self._dialect.text else BINARY):
                self._message(payload)
            elif opcode != PONG:
                raise RunFailed(f"{self.session.user.name}: frame {opcode:#x}, {payload[:200]!r}")
        self._data = self._data[at:]

    def _message(self, payload: bytes) -> None:
        for reply in self._replies:
            if payload.startswith(reply.match.prefix, reply.match.at):
                self.tell(reply.answer)
                return
        self._step(payload)

    def _step(self, message: bytes | None) -> None:
        if self._talk is None:
            return
        try:
            if message is None:
                next(self._talk)
            else:
                self._talk.send(message)
        except StopIteration as end:
            self.done, self.result, self._talk = True, end.value, None
            self.ended = time.monotonic()
        out = self.session.out
        if out:
            for message_out in out:
                self.tell(message_out)
            out.clear()


class Driver:
    """All lines of one generator process, before the engine has them."""

    def __init__(self, dialect: Dialect, endpoints: Sequence[Endpoint], meanwhile: Callable[[], None]) -> None:
        """``meanwhile`` is called again and again while talks go on, for those that are handed over already."""
        self._dialect = dialect
        self._meanwhile = meanwhile
        self._replies = dialect.incoming().replies
        self._endpoints = endpoints
        self._epoll = select.epoll()
        self._watched: dict[int, Line] = {}
        self._resting: deque[tuple[float, Line, Heartbeat]] = deque()

    def open(
        self, sessions: Iterable[Session], seconds: float, progress: Progress, at_once: int = AT_ONCE,
        talk: Callable[[Session], Talk[Any]] | None = None,
    ) -> list[Line]:
        """Connect and log in, or what ``talk`` does instead. Raises RunFailed where it takes longer than ``seconds``."""

        def opening(session: Session) -> Line:
            line = Line(self._dialect, self._replies, session)
            line.connect(self._endpoints[session.user.number % len(self._endpoints)])
            line.begin((talk or self._dialect.login)(session))
            return line

        return self._all(map(opening, sessions), seconds, progress, at_once, "logins", self._rest_from_now)

    def _rest_from_now(self, line: Line) -> None:
        if (beat := self._dialect.heartbeat(line.session)) is not None:
            self._resting.append((time.monotonic() + beat.seconds, line, beat))

    def talk(self, talks: Iterable[tuple[Line, Talk[Any]]], seconds: float, progress: Progress, what: str) -> list[Any]:
        """Carry on one talk on each of these lines; their results. Raises RunFailed."""

        def beginning(line: Line, talk: Talk[Any]) -> Line:
            line.begin(talk)
            return line

        lines = self._all((beginning(*each) for each in talks), seconds, progress, AT_ONCE, what)
        return [line.result for line in lines]

    def _all(
        self, starting: Iterator[Line], seconds: float, progress: Progress, at_once: int, what: str,
        then: Callable[[Line], None] = lambda _: None,
    ) -> list[Line]:
        begun: list[Line] = []
        busy: set[Line] = set()
        end = time.monotonic() + seconds
        line: Line | None
        more = True
        while more or busy:
            while more and len(busy) < at_once:
                line = next(starting, None)
                if line is None:
                    more = False
                    break
                begun.append(line)
                busy.add(line)
                self._watch(line)
                self._finish(line, busy, then)
            for line in self._turn(0.05):
                self._finish(line, busy, then)
            progress(len(begun) - len(busy))
            self.rest()
            self._meanwhile()
            if time.monotonic() > end:
                raise RunFailed(f"{what}: {len(busy)} not done within {seconds:.0f} s")
        return begun

    def _finish(self, line: Line, busy: set[Line], then: Callable[[Line], None]) -> None:
        """What is to be done with a line whose talk has ended, and all of whose words are out."""
        if line.done and not line.waits_to_write and line in busy:
            busy.discard(line)
            self._unwatch(line)
            then(line)

    def _watch(self, line: Line) -> None:
        self._watched[line.fd] = line
        self._epoll.register(line.fd, select.EPOLLIN | (select.EPOLLOUT if line.waits_to_write else 0))

    def _unwatch(self, line: Line) -> None:
        self._epoll.unregister(line.fd)
        del self._watched[line.fd]

    def _turn(self, timeout_s: float) -> list[Line]:
        if not self._watched:
            return []
        turned = []
        for fd, events in self._epoll.poll(timeout_s):
            line = self._watched[fd]
            waited = line.waits_to_write
            if events & select.EPOLLOUT:
                line.writable()
            if events & ~select.EPOLLOUT:
                line.readable()
            if line.waits_to_write != waited:
                self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if line.waits_to_write else 0))
            turned.append(line)
        return turned

    def rest(self) -> None:
        """Signs of life from those who wait for the others: due one after another, all intervals being the same."""
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            _, line, beat = self._resting.popleft()
            line.tell(beat.message)
            self._resting.append((now + beat.seconds, line, beat))

    def handed_over(self) -> None:
        """From now on the engine gives signs of life."""
        self._resting.clear()
