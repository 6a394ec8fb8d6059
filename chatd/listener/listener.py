"""The listener: one port for HTTP and WebSocket, one task per connection, and a failure boundary around each.

Owns: the count of connections, in all and per address. Waits for: new connections, and for each peer's first bytes,
every wait with a deadline. Whatever goes wrong with one connection ends there (``_guard``): RFC-breaking heads, a
library that raises, our own bugs. Ends when cancelled; open connections are in the caller's nursery and stay.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from collections import Counter

import structlog
import trio
from chatd_protocol.codec import Encoding
from chatd_protocol.codes import ErrorCode

from chatd.limits.addresses import Verdict
from chatd.limits.bucket import address_key
from chatd.limits.rules import Operation
from chatd.listener.head import BadUpgrade, RequestHead, check_upgrade, choose_subprotocol, origin_allowed
from chatd.listener.http import Deadlines, Respond, send_refusal, serve_http
from chatd.listener.routes import refusal_headers
from chatd.ops.metrics import Metrics
from chatd.sessions.actor import run_session
from chatd.sessions.node import Node
from chatd.sessions.session import Session
from chatd.wire.handshake import switching_protocols
from chatd.wire.link import SocketLink
from chatd.wire.poller import Poller
from chatd.wire.stream_link import StreamLink

MAX_FAREWELLS = 50
_TURNED_AWAY = Deadlines(send=1, linger=1)
_FULL = BadUpgrade(
    503, ErrorCode.OVERLOADED, "too many connections from this address, or in all", ((b"Retry-After", b"5"),)
)

log = structlog.get_logger()


class Listener:
    """``handshake_seconds`` bounds TLS and the head, each; ``respond`` answers what is not a WebSocket."""

    def __init__(
        self, node: Node, poller: Poller, respond: Respond, metrics: Metrics, *, max_connections: int,
        max_per_address: int, handshake_seconds: float, outbox_bytes: int, outbox_frames: int,
        allowed_origins: list[str], tls: ssl.SSLContext | None,
    ) -> None:  # fmt: skip
        self._node = node
        self._poller = poller
        self._respond = respond
        self._metrics = metrics
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._handshake_seconds = handshake_seconds
        self._deadlines = Deadlines(head=handshake_seconds)
        self._outbox_bytes = outbox_bytes
        self._outbox_frames = outbox_frames
        self._allowed_origins = allowed_origins
        self._tls = tls
        self._farewells = 0
        self._per_address: Counter[str] = Counter()
        self.connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection to its end. Raises nothing but cancellation."""
        try:
            peer = stream.socket.getpeername()
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        address = address_key(peer[0] if isinstance(peer, tuple) else "local")
        if self.connections >= self._max_connections or self._per_address[address] >= self._max_per_address:
            self._metrics.connections_refused += 1
            await self._turn_away(stream, _FULL)
            return
        self.connections += 1
        self._per_address[address] += 1
        self._metrics.connections_accepted += 1
        try:
            await self._guard(stream, address)
        finally:
            self.connections -= 1
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]

    async def _turn_away(self, stream: trio.abc.Stream, refusal: BadUpgrade) -> None:
        """Say why, to a few at a time: each farewell holds a descriptor and a task, which is what the bound is about."""
        if self._tls is not None or self._farewells >= MAX_FAREWELLS:
            await trio.aclose_forcefully(stream)
            return
        self._farewells += 1
        try:
            await send_refusal(stream, refusal, _TURNED_AWAY)
        finally:
            self._farewells -= 1
            await trio.aclose_forcefully(stream)

    async def _guard(self, stream: trio.SocketStream, address: str) -> None:
        try:
            await self._tell_apart(stream, address)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as fault:
            log.debug("connection.lost", reason=type(fault).__name__)
        except Exception:
            self._metrics.connection_faults += 1
            log.exception("connection.failed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _tell_apart(self, tcp: trio.SocketStream, address: str) -> None:
        verdict = await self._node.limiter.count(Operation.CONNECTIONS, address)
        if verdict.wait_s > 0:
            self._metrics.connections_refused += 1
            await self._turn_away(tcp, _too_often(verdict))
            return
        await self._node.pace.begin()
        stream: trio.abc.Stream = tcp
        if self._tls is not None:
            stream = trio.SSLStream(tcp, self._tls, server_side=True, https_compatible=True)
            with trio.fail_after(self._handshake_seconds):
                await stream.do_handshake()
        upgrade = await serve_http(stream, b"", self._respond, address=address, deadlines=self._deadlines)
        if upgrade is None:
            return
        try:
            encoding = self._judge(upgrade.head)
        except BadUpgrade as refusal:
            await send_refusal(stream, refusal)
            return
        answer = switching_protocols(upgrade.head.only(b"sec-websocket-key") or b"", encoding.subprotocol)
        await self._run(tcp, stream, Session(self._node, encoding, address, secrets.token_hex(8)), answer, upgrade.rest)

    def _judge(self, head: RequestHead) -> Encoding:
        check_upgrade(head)
        host = (head.only(b"host") or b"").decode("ascii")
        if not origin_allowed(head, self._allowed_origins, host):
            raise BadUpgrade(403, ErrorCode.ORIGIN_REFUSED, "Origin: not one of server.allowed_origins")
        if self._node.draining:
            raise BadUpgrade(503, ErrorCode.OVERLOADED, "draining", ((b"Retry-After", b"1"),))
        encoding = Encoding.from_subprotocol(choose_subprotocol(head) or "")
        assert encoding is not None, "check_upgrade has seen one that we speak"
        return encoding

    async def _run(
        self, tcp: trio.SocketStream, stream: trio.abc.Stream, session: Session, answer: bytes, rest: bytes
    ) -> None:
        sessions = self._node.sessions
        sessions[session.session_id] = session
        try:
            if stream is tcp:
                await self._run_on_socket(tcp, session, answer, rest)
            else:
                await self._run_on_stream(stream, session, answer, rest)
        finally:
            del sessions[session.session_id]

    async def _run_on_socket(self, tcp: trio.SocketStream, session: Session, answer: bytes, rest: bytes) -> None:
        # From here on Trio does not know the socket: the poller's nested epoll does.
        raw = socket.socket(fileno=tcp.socket.detach())
        raw.setblocking(False)
        link = SocketLink(
            raw, session, self._poller, self._poller.cork, max_bytes=self._outbox_bytes, max_frames=self._outbox_frames
        )
        session.link = link
        try:
            link.write(answer)
            if rest:
                session.data_received(rest)
            await run_session(session, self._node)
            await link.wait_ended()
        finally:
            link.abort()

    async def _run_on_stream(self, stream: trio.abc.Stream, session: Session, answer: bytes, rest: bytes) -> None:
        link = StreamLink(stream, session, max_bytes=self._outbox_bytes, max_frames=self._outbox_frames)
        session.link = link
        link.write(answer)
        if rest:
            session.data_received(rest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            try:
                await run_session(session, self._node)
                await link.wait_ended()
            finally:
                link.abort()


def _too_often(verdict: Verdict) -> BadUpgrade:
    message = "too many connections from this address; see Retry-After"
    return BadUpgrade(429, ErrorCode.RATE_LIMITED, message, refusal_headers(verdict))
