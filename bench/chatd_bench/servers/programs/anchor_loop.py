"""The same loop as ``anchor.c`` in CPython: what this language costs where nothing is done but read, frame and write.

One epoll, plain sockets, one ``send`` for each delivery. It trusts its clients. ``python anchor_loop.py PORT`` listens on
127.0.0.1 until it is killed. What it understands is in ``dialects/relay.py``.
"""

from __future__ import annotations

import hashlib
import resource
import select
import socket
import sys
from base64 import b64encode

READ_BYTES = 65536
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """An unmasked WebSocket frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload


class Connection:
    """A client: what is left of its last read, and what could not be written to it yet."""

    __slots__ = ("fd", "kept", "loop", "out", "sock", "upgraded", "user")

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.loop = loop
        self.kept = b""
        self.out = b""
        self.upgraded = False
        self.user = b""

    def give(self, data: bytes) -> None:
        """Write, and keep what the socket does not take."""
        if self.out:
            self.out += data
            return
        try:
            written = self.sock.send(data)
        except BlockingIOError:
            written = 0
        except OSError:
            return  # who has gone is noticed where it is read
        if written < len(data):
            self.out = data[written:]
            self.loop.epoll.modify(self.fd, select.EPOLLIN | select.EPOLLOUT)

    def give_rest(self) -> None:
        """Write what was kept."""
        self.out, rest = b"", self.out
        self.loop.epoll.modify(self.fd, select.EPOLLIN)
        self.give(rest)

    def read(self) -> bool:
        """Take one read's frames; False when the connection has ended."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        data = self.kept + data
        at = 0
        if not self.upgraded:
            at = self._upgrade(data)
        while used := self._frame(data, at):
            at += used
        self.kept = data[at:]
        return True

    def _upgrade(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        key = data.lower().find(b"sec-websocket-key:")
        accept = b64encode(hashlib.sha1(data[key + 18 : end].split(None, 1)[0] + GUID).digest())  # noqa: S324 - RFC 6455
        self.give(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\n\r\n"
        )  # fmt: skip
        self.upgraded = True
        return end + 4

    def _frame(self, data: bytes, at: int) -> int:
        """Take the frame at ``at``; its length, or 0 while it is not whole."""
        left = len(data) - at
        if not self.upgraded or left < 6:
            return 0
        size, begin = data[at + 1] & 127, at + 6
        if size == 126:
            size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
        end = begin + size
        if len(data) < end:
            return 0
        mask = data[begin - 4 : begin] * (size // 4 + 1)
        masked = int.from_bytes(data[begin:end], "big") ^ int.from_bytes(mask[:size], "big")
        payload = masked.to_bytes(size, "big")
        opcode = data[at] & 15
        if opcode == TEXT:
            self.loop.take(self, payload)
        elif opcode in (PING, CLOSE):
            self.give(frame(payload, PONG if opcode == PING else CLOSE))
        return end - at


class Loop:
    """All connections, users and groups."""

    def __init__(self, port: int) -> None:
        self.epoll = select.epoll()
        self.listening = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listening.setblocking(False)
        self.epoll.register(self.listening.fileno(), select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.users: dict[bytes, Connection] = {}
        self.groups: dict[bytes, list[Connection]] = {}

    def run(self) -> None:
        """For ever."""
        listening, connections = self.listening.fileno(), self.connections
        while True:
            for fd, event in self.epoll.poll():
                if fd == listening:
                    self._accept()
                    continue
                connection = connections[fd]
                if event & select.EPOLLOUT:
                    connection.give_rest()
                if event & ~select.EPOLLOUT and not connection.read():
                    self._leave(connection)

    def take(self, sender: Connection, payload: bytes) -> None:
        """What a client says: ``d`` and ``g`` go to others and are acked."""
        kind = payload[:1]
        if kind in {b"d", b"g"}:
            target, cseq, body = payload[1:].split(b",", 2)
            data = frame(b"m%b,%b" % (sender.user, body))
            if kind == b"d":
                if recipient := self.users.get(target):
                    recipient.give(data)
            else:
                for member in self.groups.get(target, ()):
                    if member is not sender:
                        member.give(data)
            sender.give(frame(b"a" + cseq))
        elif kind == b"l":
            sender.user = payload[1:]
            self.users[sender.user] = sender
            sender.give(frame(b"ok"))
        elif kind == b"j":
            self.groups.setdefault(payload[1:], []).append(sender)
            sender.give(frame(b"ok"))

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = Connection(sock, self)
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def _leave(self, connection: Connection) -> None:
        if self.users.get(connection.user) is connection:
            del self.users[connection.user]
        for members in self.groups.values():
            if connection in members:
                members.remove(connection)
        del self.connections[connection.fd]
        connection.sock.close()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Loop(int(sys.argv[1])).run()
