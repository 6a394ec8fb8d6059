"""Real servers as subprocesses, and an independent client written against the contract alone.

The client uses the ``websockets`` library and plain ``cbor2`` or ``json``: nothing of chatd's own code, so that an error
on both sides cannot hide. Every message the server sends is validated against the CDDL.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cbor2
import jwt
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect

from tests.cddl_check import validate

ANSWER_SECONDS = 20
"""A guard against hanging for ever, not a measure of speed."""


class Server:
    """One ``chatd serve`` process; ``port`` and ``ops`` are known once it has printed them."""

    def __init__(self, data: Path, config: Path, environ: dict[str, str]) -> None:
        self.log = (data / f"server-{os.urandom(4).hex()}.log").open("wb")
        command = [sys.executable, "-m", "chatd", "serve", "--config", str(config), "--data", str(data)]
        command += ["--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **environ}, text=True
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if "listening on http://" not in first:
            self.process.kill()
            raise AssertionError(f"no server: {first!r}\n{Path(self.log.name).read_text()}")
        self.url = first.split("listening on ")[1].split()[0]
        self.ops = first.split("operators: ")[1].split(")")[0]
        self.port = int(self.url.rsplit(":", 1)[1])

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


class Cluster:
    """Some servers on one data directory, with an outside issuer that the tests hold the key of."""

    def __init__(self, directory: Path, nodes: int, settings: str = "", environ: dict[str, str] | None = None) -> None:
        self.data = directory / "data"
        self.data.mkdir()
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
        for _ in range(nodes):
            self.start()

    def start(self) -> Server:
        server = Server(self.data, self.config, self.environ)
        self.servers.append(server)
        return server

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def token(self, user: str, lifetime: int = 3600) -> str:
        now = int(time.time())
        claims = {"iss": "tests", "aud": "chatd", "sub": user, "iat": now, "exp": now + lifetime}
        return jwt.encode(claims, self.key, algorithm="EdDSA")

    def server(self, number: int) -> Server:
        """Node ``number``, counted round: on one node all are the same."""
        running = [server for server in self.servers if server.process.poll() is None]
        if not running:
            raise ConnectionRefusedError("no node is running just now")
        return running[number % len(running)]


class Peer:
    """One connection, by the contract alone. Use ``Peer.open``; every message that came is kept in ``seen``."""

    def __init__(self, socket: Any, encoding: str) -> None:
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
        positions: dict[str, int] | None = None, live: bool = True,
    ) -> Peer:
        """Connect, say hello, and (``live``) read on until the replay is over."""
        peer = await cls.bare(cluster.server(node), encoding)
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
    async def bare(cls, server: Server, encoding: str = "cbor") -> Peer:
        """Only the WebSocket."""
        socket = await connect(
            f"ws://127.0.0.1:{server.port}/ws", subprotocols=[f"chatd.v1.{encoding}"], compression=None, proxy=None,  # type: ignore[list-item]
            ping_interval=None, close_timeout=1,
        )
        return cls(socket, encoding)

    async def send(self, message: dict[str, Any]) -> None:
        if self.encoding == "cbor":
            await self.socket.send(cbor2.dumps(message))
        else:
            await self.socket.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        """The next message; it is validated against the schema. Raises ConnectionClosed."""
        with trio.fail_after(ANSWER_SECONDS):
            data = await self.socket.recv()
        if self.encoding == "cbor":
            assert isinstance(data, bytes)
            validate("server", data)
            message: dict[str, Any] = cbor2.loads(data)
        else:
            assert isinstance(data, str)
            message = json.loads(data, object_hook=_bytes_of)
            validate("server", cbor2.dumps(message))
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
        self.cseq += 1
        cseq = self.cseq
        await self.send({"t": "send", "cseq": cseq, "to": to, "body": body, **fields})
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

    async def closed(self) -> int:
        """Read to the end; the close code."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed:
            code = self.socket.close_code
            return -1 if code is None else int(code)

    async def close(self) -> None:
        with trio.move_on_after(2):
            await self.socket.aclose()

    async def vanish(self) -> None:
        """Be gone without a close frame, as a cut line is."""
        await trio.aclose_forcefully(self.socket.stream)


def _bytes_of(value: dict[str, Any]) -> Any:
    if list(value) == ["b64"]:
        return base64.urlsafe_b64decode(value["b64"] + "=" * (-len(value["b64"]) % 4))
    return value


def bodies(messages: Sequence[dict[str, Any]], conv: str) -> list[Any]:
    """The bodies of the ``message`` events of one conversation, in order."""
    return [m["body"] for m in messages if m["t"] == "event" and m["conv"] == conv and m["kind"] == "message"]
