"""Real servers as subprocesses, and an independent client written against the contract alone.

The client uses the ``websockets`` library and plain ``cbor2`` or ``json``: nothing of chatd's own code, so that an error
on both sides cannot hide. Every message the server sends is validated against the CDDL.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import socket as net
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import cbor2
import jwt
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from tests.cddl_check import validate

ANSWER_SECONDS = 60
START_SECONDS = 60
"""Guards against hanging for ever on a busy machine, not measures of speed."""

FREELY = """
[limits]
messages_per_second = 100000
messages_burst = 100000
connections_per_address = 10000
connections_per_minute = 1000000
"""
"""Settings, where rate limits are not what is tried."""

OPENED: list[trio.abc.Stream] = []
"""Every stream of the running test; ``close_opened`` is for the fixture at its end."""


async def close_opened() -> None:
    """All of them, without a word."""
    while OPENED:
        await trio.aclose_forcefully(OPENED.pop())


class Closed(Exception):
    """The server closed the connection, or it was lost."""


async def open_narrow_stream(host: str, port: int) -> trio.SocketStream:
    """A TCP stream for which the kernels keep some 50 KB of what is not read, rather than the usual 4 MB and more."""
    sock = trio.socket.socket()
    sock.setsockopt(net.SOL_SOCKET, net.SO_RCVBUF, 4096)
    # The sender's buffer is a multiple of the segment, and a segment of the loopback has 64 KB.
    sock.setsockopt(net.IPPROTO_TCP, net.TCP_MAXSEG, 500)
    await sock.connect((host, port))
    return trio.SocketStream(sock)


class Socket:
    """The ``websockets`` library's own protocol over a Trio stream; without its tasks, so that a test may hold many."""

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol) -> None:
        self.stream = stream
        self._protocol = protocol
        self._arrived: list[Any] = []

    @classmethod
    async def connect(
        cls, port: int, subprotocol: str, tls: ssl.SSLContext | None = None, *, narrow: bool = False,
        over: trio.abc.Stream | None = None,
    ) -> Socket:
        """The opening handshake, over TLS with a context that says whom to trust, and over a stream that is open already where
        one is given. Raises OSError, Closed."""
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/ws"), subprotocols=[subprotocol])  # type: ignore[list-item]
        stream = over or await (open_narrow_stream if narrow else trio.open_tcp_stream)("127.0.0.1", port)
        OPENED.append(stream)
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
        socket = cls(stream, protocol)
        protocol.send_request(protocol.connect())
        await socket._flush()
        answer = await socket._event()
        if not isinstance(answer, Response) or protocol.handshake_exc is not None:
            raise Closed(str(protocol.handshake_exc))
        return socket

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if not data:
                return  # the library's sign for the end of our side
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # what the server said before it closed is still to be read

    async def _event(self) -> Any:
        while not self._arrived:
            try:
                data = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as fault:
                raise Closed from fault
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            self._arrived += self._protocol.events_received()
            await self._flush()
            if not data and not self._arrived:
                raise Closed
        return self._arrived.pop(0)

    @property
    def close_code(self) -> int:
        """What the server's close frame said; 1006 without one."""
        received = self._protocol.close_rcvd
        return 1006 if received is None else int(received.code)

    async def send(self, data: bytes | str) -> None:
        """One message."""
        if self._protocol.state.name != "OPEN":
            raise Closed
        if isinstance(data, str):
            self._protocol.send_text(data.encode())
        else:
            self._protocol.send_binary(data)
        await self._flush()

    async def recv(self) -> bytes | str:
        """The next message. Raises Closed."""
        while True:
            frame = await self._event()
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.CLOSE:
                raise Closed
            if frame.opcode is Opcode.TEXT:
                return bytes(frame.data).decode()
            if frame.opcode is Opcode.BINARY:
                return bytes(frame.data)

    async def aclose(self) -> None:
        """A close frame, and the server's answer to it."""
        if self._protocol.state.name == "OPEN":
            self._protocol.send_close(1000)
            await self._flush()
        try:
            while True:
                await self._event()
        except Closed:
            await trio.aclose_forcefully(self.stream)


class Server:
    """One ``chatd serve`` process; ``port`` and ``ops`` are known once it has printed them."""

    def __init__(
        self, data: Path, config: Path, environ: dict[str, str], tls: ssl.SSLContext | None = None, scheme: str = "http",
        listen: str = "127.0.0.1",
    ) -> None:
        self.tls = tls
        self.log = (data / f"server-{os.urandom(4).hex()}.log").open("wb")
        command = [sys.executable, "-m", "chatd", "serve", "--config", str(config), "--data", str(data)]
        command += ["--listen", f"{listen}:0", "--ops", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **environ}
        )
        first = self._first_line()
        if f"listening on {scheme}://" not in first or "operators: " not in first:
            self.stop()
            raise AssertionError(
                f"no server within {START_SECONDS} s: exit {self.process.returncode}, it said {first!r}\n"
                f"{Path(self.log.name).read_text(errors='replace')}"
            )
        self.url = first.split("listening on ")[1].split()[0]
        self.ops = first.split("operators: ")[1].split(")")[0]
        self.port = int(self.url.rsplit(":", 1)[1])

    def _first_line(self) -> str:
        """What the server says first; what there is of it if it ends, or the time does."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        end = time.monotonic() + START_SECONDS
        said = b""
        # Not select(): a test that holds a thousand connections has file descriptors beyond what it takes.
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in said and selector.select(max(0.0, end - time.monotonic())):
                part = os.read(pipe, 4096)
                if not part:
                    break
                said += part
        return said.decode(errors="replace").partition("\n")[0]

    def kill(self) -> None:
        """kill -9: nothing is flushed, nobody is told."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()


def metric(server: Server, name: str) -> float:
    """One number of the operators' page, without labels. Raises KeyError where there is none."""
    with urlopen(f"{server.ops}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return float(dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))[name])


class Cluster:
    """Some servers on one data directory, with an outside issuer that the tests hold the key of."""

    def __init__(
        self, directory: Path, nodes: int, settings: str = "", environ: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None, listen: str = "127.0.0.1",
    ) -> None:
        """``tls``: what clients trust, where ``settings`` give the servers a certificate."""
        self.tls = tls
        self._listen = listen
        self.data = directory / "data"
        self.data.mkdir(exist_ok=True)
        self.key = Ed25519PrivateKey.generate()
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (directory / "issuer.pem").write_bytes(public)
        self.config = directory / "config.toml"
        self.config.write_text(
            f"{settings}\n[[auth.issuers]]\nissuer = 'tests'\naudience = 'chatd'\nalgorithm = 'EdDSA'\n"
            f"key_file = '{directory / 'issuer.pem'}'\n"
        )
        self.environ = environ or {}
        self.servers: list[Server] = []
        try:
            for _ in range(nodes):
                self.start()
        except BaseException:
            self.stop()
            raise

    def start(self) -> Server:
        server = Server(self.data, self.config, self.environ, self.tls, "https" if self.tls else "http", self._listen)
        self.servers.append(server)
        return server

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def token(self, user: str, lifetime: int = 3600) -> str:
        now = int(time.time())
        claims = {"iss": "tests", "aud": "chatd", "sub": user, "iat": now, "exp": now + lifetime, "jti": os.urandom(8).hex()}
        return jwt.encode(claims, self.key, algorithm="EdDSA")

    @property
    def running(self) -> list[Server]:
        """Those that have not ended, the oldest first."""
        return [server for server in self.servers if server.process.poll() is None]

    def server(self, number: int) -> Server:
        """Node ``number``, counted round: on one node all are the same."""
        running = self.running
        if not running:
            raise ConnectionRefusedError("no node is running just now")
        return running[number % len(running)]


SHAPES: Counter[tuple[Any, ...]] = Counter()
EVERY_ONE_OF_A_SHAPE, THEN_ONE_IN = 300, 100


def check_schema(message: dict[str, Any], data: bytes) -> None:
    """Against the CDDL: the first 300 of each shape (type, kind, keys and their types), then one in 100; a validation takes
    1.2 ms, and the workloads receive hundreds of thousands of messages that differ in their numbers alone."""
    shape = (message["t"], message.get("kind"), *((key, type(value).__name__) for key, value in message.items()))
    SHAPES[shape] += 1
    if SHAPES[shape] <= EVERY_ONE_OF_A_SHAPE or SHAPES[shape] % THEN_ONE_IN == 0:
        validate("server", data)


class Peer:
    """One connection, by the contract alone. Use ``Peer.open``; every message that came is kept in ``seen``."""

    def __init__(self, socket: Socket, encoding: str) -> None:
        self.socket = socket
        self.encoding = encoding
        self.seen: list[dict[str, Any]] = []
        self.welcome: dict[str, Any] = {}
        self.cseq = 0
        self._request = 0
        self._unread = 0

    @classmethod
    async def open(
        cls, cluster: Cluster, node: int, user: str, device: str = "d1", *, encoding: str = "cbor",
        positions: dict[str, int] | None = None, live: bool = True, narrow: bool = False,
    ) -> Peer:
        """Connect, say hello, and (``live``) read on until the replay is over. ``narrow``: the kernels buffer little."""
        peer = await cls.bare(cluster.server(node), encoding, narrow=narrow)
        hello: dict[str, Any] = {"t": "hello", "token": cluster.token(user), "device": device}
        if positions is not None:
            hello["positions"] = positions
        await peer.send(hello)
        peer.welcome = await peer.until(lambda m: m["t"] in ("welcome", "bye"))
        if peer.welcome["t"] == "welcome":
            peer.cseq = peer.welcome["cseq"]
            if live:
                await peer.until(lambda m: m["t"] == "live")
        return peer

    @classmethod
    async def bare(cls, server: Server, encoding: str = "cbor", *, narrow: bool = False) -> Peer:
        """Only the WebSocket."""
        socket = await Socket.connect(server.port, f"chatd.v1.{encoding}", server.tls, narrow=narrow)
        return cls(socket, encoding)

    async def send(self, message: dict[str, Any]) -> None:
        if self.encoding == "cbor":
            await self.socket.send(cbor2.dumps(message))
        else:
            await self.socket.send(json.dumps(message, default=_b64_of))

    async def receive(self) -> dict[str, Any]:
        """The next message; it is validated against the schema. Raises Closed."""
        with trio.fail_after(ANSWER_SECONDS):
            data = await self.socket.recv()
        if self.encoding == "cbor":
            assert isinstance(data, bytes)
            message: dict[str, Any] = cbor2.loads(data)
            check_schema(message, data)
        else:
            assert isinstance(data, str)
            message = json.loads(data, object_hook=_bytes_of)
            check_schema(message, cbor2.dumps(message))
        self.seen.append(message)
        return message

    async def until(self, wanted: Any) -> dict[str, Any]:
        """Read on to the first message that fits; what came before is in ``seen``."""
        while self._unread < len(self.seen):
            message = self.seen[self._unread]
            self._unread += 1
            if wanted(message):
                return message
        while True:
            message = await self.receive()
            self._unread = len(self.seen)
            if wanted(message):
                return message

    async def ask(self, t: str, **fields: Any) -> dict[str, Any]:
        """A request with an id, and its one answer (``ok`` or ``error``), wherever in the stream it comes."""
        self._request += 1
        request = self._request
        await self.send({"t": t, "id": request, **fields})
        return await self._answer(lambda m: m.get("id") == request)

    async def say(self, to: str, body: Any, **fields: Any) -> dict[str, Any]:
        """Send the next message and return its ack (or error)."""
        return await self.change("send", to=to, body=body, **fields)

    async def change(self, t: str, **fields: Any) -> dict[str, Any]:
        """``send``, ``edit``, ``delete`` or ``react``, with the next number; its ack (or error)."""
        self.cseq += 1
        cseq = self.cseq
        await self.send({"t": t, "cseq": cseq, **fields})
        answer = await self._answer(lambda m: m.get("cseq") == cseq and m["t"] in ("ack", "error"))
        if answer["t"] == "error":
            self.cseq -= 1
        return answer

    async def _answer(self, wanted: Any) -> dict[str, Any]:
        at = len(self.seen)
        while True:
            for message in self.seen[at:]:
                if wanted(message):
                    return message
            at = len(self.seen)
            await self.receive()

    async def event(self, conv: str, seq: int) -> dict[str, Any]:
        """The event (or the ack in its place) at this position, read on to if it has not come yet."""
        fits = lambda m: m["t"] in ("event", "ack") and m["conv"] == conv and m["seq"] == seq  # noqa: E731
        for message in self.seen:
            if fits(message):
                return message
        return await self._answer(fits)

    def stream(self, conv: str) -> list[int]:
        """The positions that this session was given, in the order in which it got them; repeats beside it left out."""
        return [m["seq"] for m in self.seen if m["t"] in ("event", "ack") and m["conv"] == conv and not m.get("repeat")]

    def seen_events(self) -> list[tuple[tuple[str, int], dict[str, Any]]]:
        """The events that this session was given, each by its place in its log."""
        return [((m["conv"], m["seq"]), m) for m in self.seen if m["t"] == "event"]

    async def closed(self) -> int:
        """Read to the end; the close code."""
        try:
            while True:
                await self.receive()
        except Closed:
            return self.socket.close_code

    async def close(self) -> None:
        with trio.move_on_after(2):
            await self.socket.aclose()

    async def vanish(self) -> None:
        """Be gone without a close frame, as a cut line is."""
        await trio.aclose_forcefully(self.socket.stream)


def _b64_of(value: bytes) -> dict[str, str]:
    return {"b64": base64.urlsafe_b64encode(value).decode().rstrip("=")}


def _bytes_of(value: dict[str, Any]) -> Any:
    if list(value) == ["b64"]:
        return base64.urlsafe_b64decode(value["b64"] + "=" * (-len(value["b64"]) % 4))
    return value


def bodies(messages: Sequence[dict[str, Any]], conv: str) -> list[Any]:
    """The bodies of the ``message`` events of one conversation, in order."""
    return [m["body"] for m in messages if m["t"] == "event" and m["conv"] == conv and m["kind"] == "message"]
