"""The attacker's sockets: from one address, behind one epoll, and never waited for.

Owns them. A socket says ``first`` as soon as it is connected; what comes is thrown away, but for the sign that a hello was good.
Whether the server ends a connection is what an attack is about, so nothing of that is a fault: it is counted.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

RECEIVE_BYTES = 256 * 1024
NARROW_BYTES = 4096
"""Of the receive buffer of who does not read: the server's side is full the sooner."""
LIVE = b"\xa1\x61t\x64live"
"""The end of a replay: from here on a session may say what it likes."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: no port is kept in TIME_WAIT, of which one address has 28,000."""
EINPROGRESS = 115


@dataclass
class Tally:
    """What became of an attack. ``cut``: connections that the server ended, or did not take. Sizes in bytes."""

    attempts: int = 0
    connections: int = 0
    cut: int = 0
    sent: int = 0
    received: int = 0


class Socket:
    """One of them. ``live``: its hello was good. ``idle``: all that it was to say is with the kernel."""

    __slots__ = ("_tail", "deaf", "fd", "live", "open", "sock", "unsent")

    def __init__(self, source: str, first: bytes, *, deaf: bool) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.setsockopt(socket.SOL_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        if deaf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
        self.sock.bind((source, 0))
        self.fd = self.sock.fileno()
        self.unsent = first
        self.deaf = deaf
        self.open, self.live = True, False
        self._tail = b""

    @property
    def idle(self) -> bool:
        return self.open and not self.unsent

    def heard(self, data: bytes) -> None:
        """Look for the sign, wherever it was cut."""
        if not self.live:
            self._tail = self._tail[-len(LIVE) :] + data
            self.live = LIVE in self._tail


class Sockets:
    """All of them. Use as a context manager: it closes them."""

    def __init__(self, host: str, port: int, source: str) -> None:
        self._address = (host, port)
        self._source = source
        self._epoll = select.epoll()
        self._open: dict[int, Socket] = {}
        self.tally = Tally()

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Socket]:
        """The oldest first."""
        return iter(list(self._open.values()))

    @property
    def oldest(self) -> Socket:
        """Of those that are open; there is one."""
        return next(iter(self._open.values()))

    def connect(self, first: bytes, *, deaf: bool = False) -> Socket:
        """Begin to, and say ``first`` when it is there. ``deaf``: it will never read."""
        made = Socket(self._source, first, deaf=deaf)
        error = made.sock.connect_ex(self._address)
        if error not in (0, EINPROGRESS):  # as with no port left
            self.tally.cut += 1
            made.open = False
            made.sock.close()
            return made
        self.tally.connections += 1
        self._open[made.fd] = made
        self._epoll.register(made.fd, self._mask(made))
        return made

    def say(self, sock: Socket, data: bytes) -> None:
        """Of an open one, as much as the kernel takes now; the rest follows when it takes more."""
        waited = bool(sock.unsent)
        sock.unsent += data
        if not waited:
            self._write(sock)
            if sock.unsent and sock.open:
                self._epoll.modify(sock.fd, self._mask(sock))

    def close(self, sock: Socket) -> None:
        """With a reset, as a crowd does that has better to do than to say goodbye."""
        if sock.open:
            sock.open = False
            del self._open[sock.fd]
            self._epoll.unregister(sock.fd)
            sock.sock.close()

    def close_all(self) -> None:
        """Every one."""
        for sock in self:
            self.close(sock)

    def turn(self, timeout_s: float) -> None:
        """Wait for at most so long, then serve whoever is ready, once."""
        for fd, events in self._epoll.poll(timeout_s):
            sock = self._open[fd]
            if events & (select.EPOLLHUP | select.EPOLLERR):
                self._cut(sock)
                continue
            if events & select.EPOLLOUT:
                self._write(sock)
                if sock.open and not sock.unsent:
                    self._epoll.modify(fd, self._mask(sock))
            if sock.open and events & select.EPOLLIN:
                self._read(sock)

    def _mask(self, sock: Socket) -> int:
        return (0 if sock.deaf else select.EPOLLIN) | (select.EPOLLOUT if sock.unsent else 0)

    def _write(self, sock: Socket) -> None:
        try:
            sent = sock.sock.send(sock.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._cut(sock)
            return
        self.tally.sent += sent
        sock.unsent = sock.unsent[sent:]

    def _read(self, sock: Socket) -> None:
        try:
            data = sock.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.tally.received += len(data)
        if data:
            sock.heard(data)
        else:
            self._cut(sock)

    def _cut(self, sock: Socket) -> None:
        self.tally.cut += 1
        self.close(sock)
