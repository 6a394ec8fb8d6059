"""The listener: one port for HTTP and WebSocket, one task per connection, and a failure boundary around each.

Owns: the count of connections, in all and per address. Waits for: each peer's first bytes, with a deadline, the limiter
(0.5 s), and its turn (``pace``). Whatever goes wrong with one connection ends there (``_guard``, ``_carry``): RFC-breaking
heads, a library that raises, our own bugs. ``accepting`` takes the connections off the listening socket.

A plain socket that has become a WebSocket goes on in a task of its own (``_carry``), and the one that accepted it ends: a
task keeps all that is on its stack, and what an idle connection keeps is what bounds how many there can be. It was 12
coroutines deep, with the head, the library's stream and the verdict on the address; it is 5.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import sys
from collections import Counter

import structlog
import trio
from chatd_protocol.codec import Encoding
from chatd_protocol.codes import ErrorCode

from chatd.limits.addresses import Verdict
from chatd.limits.bucket import TokenBucket, address_key
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
FAREWELLS_PER_SECOND = 20.0
FAREWELLS_BURST = 100
"""Of all who are turned away, so many are told why. Who comes beyond that, from an address of which it is known that it may not,
is closed as soon as it is accepted: no task, no answer, no wait for it to be read."""
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
        self._telling = TokenBucket(FAREWELLS_PER_SECOND, FAREWELLS_BURST)
        self._per_address: Counter[str] = Counter()
        self.connections = 0

    def admit(self, peer: object) -> bool:
        """Whether a connection from this socket address is to be served, if only to be told why it may not be. Asks nobody."""
        address = _key_of(peer)
        if not self._full(address) and not self._node.limiter.exhausted(Operation.CONNECTIONS, address):
            return True
        if self._tls is None and not self._telling.take(trio.current_time()):
            return True
        self._metrics.connections_refused += 1
        return False

    def _full(self, address: str) -> bool:
        return self.connections >= self._max_connections or self._per_address[address] >= self._max_per_address

    async def serve(self, sessions: trio.Nursery, stream: trio.SocketStream) -> None:
        """Serve one accepted connection to its end, or until it goes on in ``sessions``. Raises nothing but cancellation."""
        try:
            peer = stream.socket.getpeername()
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        address = sys.intern(_key_of(peer))
        if self._full(address):
            self._metrics.connections_refused += 1
            await self._turn_away(stream, _FULL)
            return
        self.connections += 1
        self._per_address[address] += 1
        self._metrics.connections_accepted += 1
        carried = False
        try:
            carried = await self._guard(stream, address, sessions)
        finally:
            if not carried:
                self._left(address)

    def _left(self, address: str) -> None:
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

    async def _guard(self, stream: trio.SocketStream, address: str, sessions: trio.Nursery) -> bool:
        """Whether the connection goes on in a task of its own."""
        carried = False
        try:
            carried = await self._tell_apart(stream, address, sessions)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as fault:
            log.debug("connection.lost", reason=type(fault).__name__)
        except Exception:
            self._metrics.connection_faults += 1
            log.exception("connection.failed")
        finally:
            if not carried:
                await trio.aclose_forcefully(stream)
        return carried

    async def _tell_apart(self, tcp: trio.SocketStream, address: str, sessions: trio.Nursery) -> bool:
        verdict = await self._node.limiter.count(Operation.CONNECTIONS, address)
        if verdict.wait_s > 0:
            self._metrics.connections_refused += 1
            await self._turn_away(tcp, _too_often(verdict))
            return False
        await self._node.pace.begin()
        stream: trio.abc.Stream = tcp
        if self._tls is not None:
            stream = trio.SSLStream(tcp, self._tls, server_side=True, https_compatible=True)
            with trio.fail_after(self._handshake_seconds):
                await stream.do_handshake()
        upgrade = await serve_http(stream, b"", self._respond, address=address, deadlines=self._deadlines)
        if upgrade is None:
            return False
        try:
            encoding = self._judge(upgrade.head)
        except BadUpgrade as refusal:
            await send_refusal(stream, refusal)
            return False
        answer = switching_protocols(upgrade.head.only(b"sec-websocket-key") or b"", encoding.subprotocol)
        session = Session(self._node, encoding, address, secrets.token_hex(8))
        if stream is not tcp:
            link = StreamLink(stream, session, max_bytes=self._outbox_bytes, max_frames=self._outbox_frames)
            await run_on_stream(self._node, session, link, answer=answer, rest=upgrade.rest)
            return False
        self._hand_over(tcp, session, answer, upgrade.rest, sessions)
        return True

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

    def _hand_over(
        self, tcp: trio.SocketStream, session: Session, answer: bytes, rest: bytes, sessions: trio.Nursery
    ) -> None:
        # From here on Trio does not know the socket: the poller's nested epoll does.
        sock = socket.socket(fileno=tcp.socket.detach())
        try:
            sock.setblocking(False)
            session.link = SocketLink(
                sock, session, self._poller, self._poller.cork, max_bytes=self._outbox_bytes, max_frames=self._outbox_frames
            )
        except BaseException:
            sock.close()
            raise
        self._node.add(session)
        sessions.start_soon(self._carry, session, name="session")  # begins in any case, also when cancelled
        try:
            session.link.write(answer)
            if rest:
                session.data_received(rest)  # here and not in that task: the poller may have newer bytes before it begins
        except Exception:
            self._metrics.connection_faults += 1
            log.exception("connection.failed")
            session.link.abort()

    async def _carry(self, session: Session) -> None:
        """Serve one session on a plain socket to its end. Raises nothing but cancellation."""
        try:
            await run_session(session, self._node)
            await session.link.wait_ended()
        except Exception:
            self._metrics.connection_faults += 1
            log.exception("connection.failed")
        finally:
            session.link.abort()
            del self._node.sessions[session.session_id]
            self._left(session.address)


async def run_on_stream(node: Node, session: Session, link: StreamLink, *, answer: bytes = b"", rest: bytes = b"") -> None:
    """Serve one session on a Trio stream to its end. ``answer``: what ends the handshake; ``rest``: what came behind it."""
    session.link = link
    node.add(session)
    try:
        if answer:
            link.write(answer)
        if rest:
            session.data_received(rest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            try:
                await run_session(session, node)
                await link.wait_ended()
            finally:
                link.abort()
    finally:
        del node.sessions[session.session_id]


def _key_of(peer: object) -> str:
    return address_key(str(peer[0]) if isinstance(peer, tuple) else "local")


def _too_often(verdict: Verdict) -> BadUpgrade:
    message = "too many connections from this address; see Retry-After"
    return BadUpgrade(429, ErrorCode.RATE_LIMITED, message, refusal_headers(verdict))
