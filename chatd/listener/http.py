"""HTTP/1.1 on one connection: request after request, until a WebSocket begins or the connection ends.

Owns the bytes between the socket and the routes. Waits for the peer (each wait has a deadline) and for ``respond``.
Ends when the peer closes, breaks the rules or falls silent, after the last request allowed, or with an upgrade, which
goes back to the caller with all the bytes that belong to it.

h11 parses and frames; one h11 connection per request, because an upgrade must not go into one: what follows its head are
frames (20 µs a request, on a path that is no hot one).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus

import h11
import structlog
import trio
from chatd_protocol.codes import ErrorCode
from msgspec import Struct, structs

from chatd.listener.head import BadHead, Headers, HeadRefused, RequestHead, find_head_end, is_upgrade, parse_head

log = structlog.get_logger()

READ_BYTES = 16 * 1024
LINGER_BYTES = 256 * 1024
JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
COMMON_HEADERS: Headers = (
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"Referrer-Policy", b"no-referrer"),
)


class Deadlines(Struct, frozen=True):
    """Seconds. ``head``: from its first byte (the first request: from the accept) to its end."""

    head: float = 5
    idle: float = 15
    body: float = 10
    respond: float = 30
    send: float = 10
    linger: float = 2


class Limits(Struct, frozen=True):
    """Of one connection. ``chunks``: of one body; each takes as long to read as a kilobyte of it, however small it is."""

    body_bytes: int = 16 * 1024
    chunks: int = 256
    requests: int = 100


class Request(Struct, frozen=True):
    """One request with its body. ``address``: the peer's, as the limits count it."""

    head: RequestHead
    body: bytes
    address: str


class Response(Struct, frozen=True):
    status: int
    body: bytes = b""
    content_type: bytes = TEXT
    headers: Headers = ()


class Upgrade(Struct, frozen=True):
    """A request for a WebSocket: its head, and the bytes that came after it."""

    head: RequestHead
    rest: bytes


DEADLINES = Deadlines()
LIMITS = Limits()

Respond = Callable[[Request], Awaitable[Response]]


def error_response(status: int, code: ErrorCode, message: str, headers: Headers = ()) -> Response:
    """The one form of an HTTP error: ``{"error": {"code", "message"}}``."""
    return json_response(status, {"error": {"code": code.value, "message": message}}, headers)


def json_response(status: int, value: object, headers: Headers = ()) -> Response:
    """``value`` as a JSON body."""
    return Response(status, json.dumps(value).encode(), JSON, headers)


def refusal(fault: HeadRefused) -> Response:
    """The answer to a request that was refused by its head."""
    return error_response(fault.status, fault.code, fault.message, fault.headers)


async def serve_http(
    stream: trio.abc.Stream, received: bytes, respond: Respond, *, address: str = "",
    deadlines: Deadlines = DEADLINES, limits: Limits = LIMITS,
) -> Upgrade | None:
    """Serve requests until the connection has none left, or one asks for a WebSocket: that one is returned.

    ``received``: bytes already read from the stream. The caller closes the stream. Raises nothing of the peer's making,
    and nothing of ``respond``'s: what it raises is logged and answered with 500. Cancelling ends the connection.
    """
    try:
        return await _Exchanges(stream, bytearray(received), respond, address, deadlines, limits).run()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return None  # the peer is gone: nothing is left to tell it


async def send_refusal(stream: trio.abc.Stream, fault: HeadRefused, deadlines: Deadlines = DEADLINES) -> None:
    """Answer an upgrade that was refused, and end the sending side. Raises nothing; the caller closes the stream."""
    try:
        await _send_last(stream, refusal(fault), deadlines)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


class _Exchanges:
    def __init__(
        self, stream: trio.abc.Stream, buffer: bytearray, respond: Respond, address: str, deadlines: Deadlines,
        limits: Limits,
    ) -> None:
        self._stream = stream
        self._buffer = buffer
        self._respond = respond
        self._address = address
        self._deadlines = deadlines
        self._limits = limits

    async def run(self) -> Upgrade | None:
        for turn in range(self._limits.requests):
            try:
                raw = await self._read_head(first=turn == 0)
                if raw is None:
                    return None
                head = parse_head(raw)
                if is_upgrade(head):
                    return Upgrade(head, bytes(self._buffer))
                if not await self._exchange(head, raw, last=turn == self._limits.requests - 1):
                    return None
            except HeadRefused as fault:
                await _send_last(self._stream, refusal(fault), self._deadlines)
                return None
        return None

    async def _read_head(self, *, first: bool) -> bytes | None:
        """The raw head of the next request, or None when there is none. Raises BadHead, also for one too slow."""
        if not first and not self._buffer:
            with trio.move_on_after(self._deadlines.idle):
                self._buffer += await self._stream.receive_some(READ_BYTES)
            if not self._buffer:
                return None
        with trio.move_on_after(self._deadlines.head):
            return await self._read_until_blank_line()
        if not self._buffer:
            return None  # it never said a word, so there is nothing to answer
        raise _too_slow("request head", self._deadlines.head)

    async def _read_until_blank_line(self) -> bytes | None:
        searched = 0
        while (end := find_head_end(self._buffer, searched)) is None:
            searched = len(self._buffer)
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return None
            self._buffer += data
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        return raw

    async def _exchange(self, head: RequestHead, raw: bytes, *, last: bool) -> bool:
        """One request and its answer. Returns whether the connection may carry another."""
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(raw)
        connection.next_event()
        if self._buffer:
            connection.receive_data(bytes(self._buffer))
        body = await self._read_body(connection, head)
        response = await self._answer(Request(head, body, self._address))
        if last or response.status == HTTPStatus.TOO_MANY_REQUESTS:  # the next one costs nearly as much, and is refused as well
            response = _closing(response)
        with trio.move_on_after(self._deadlines.send):
            await self._stream.send_all(_frame(connection, response, head_only=head.method == "HEAD"))
            self._buffer = bytearray(connection.trailing_data[0])
            if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                return True
            await _linger(self._stream, self._deadlines)
        return False

    async def _read_body(self, connection: h11.Connection, head: RequestHead) -> bytes:
        """The whole body. Raises BadHead: too large, too slow, badly framed or cut short."""
        if int(head.only(b"content-length") or 0) > self._limits.body_bytes:
            raise self._too_large()
        with trio.move_on_after(self._deadlines.body):
            return await self._collect_body(connection)
        raise _too_slow("request body", self._deadlines.body)

    async def _collect_body(self, connection: h11.Connection) -> bytes:
        body, chunks = bytearray(), 0
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as fault:
                raise BadHead(400, ErrorCode.BAD_MESSAGE, "malformed request body") from fault
            if event is h11.NEED_DATA:
                if connection.client_is_waiting_for_100_continue:
                    await self._stream.send_all(_continue(connection))
                connection.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
            elif isinstance(event, h11.Data):
                body += event.data
                chunks += event.chunk_start
                if len(body) > self._limits.body_bytes:
                    raise self._too_large()
                if chunks > self._limits.chunks:
                    raise BadHead(413, ErrorCode.TOO_LARGE, f"request body: at most {self._limits.chunks} chunks")
            else:
                return bytes(body)

    def _too_large(self) -> BadHead:
        return BadHead(413, ErrorCode.TOO_LARGE, f"request body: at most {self._limits.body_bytes} bytes")

    async def _answer(self, request: Request) -> Response:
        """What ``respond`` says, within its deadline; a fault of ours is one request's fault, not the connection's."""
        try:
            with trio.move_on_after(self._deadlines.respond):
                return await self._respond(request)
        except Exception:
            log.exception("http.failed", method=request.head.method, path=request.head.path[:100])
            return error_response(500, ErrorCode.INTERNAL, "internal error")
        log.warning("http.timed_out", method=request.head.method, path=request.head.path[:100])
        return error_response(503, ErrorCode.UNAVAILABLE, "no answer in time; try again", ((b"Retry-After", b"2"),))


def _frame(connection: h11.Connection, response: Response, *, head_only: bool) -> bytes:
    """The whole answer in one piece, so that it leaves in one segment."""
    headers = [*_headers(response), *response.headers]
    parts = [
        connection.send(h11.Response(status_code=response.status, headers=headers, reason=_reason(response.status))),
        b"" if head_only else connection.send(h11.Data(data=response.body)),
        connection.send(h11.EndOfMessage()),
    ]
    return b"".join(part for part in parts if part)


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    date = (b"Date", formatdate(usegmt=True).encode())
    if response.status == HTTPStatus.NO_CONTENT:
        return [date, *COMMON_HEADERS]
    length = b"%d" % len(response.body)
    return [date, (b"Content-Type", response.content_type), (b"Content-Length", length), *COMMON_HEADERS]


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()


def _continue(connection: h11.Connection) -> bytes:
    return connection.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b""


def _closing(response: Response) -> Response:
    return structs.replace(response, headers=(*response.headers, (b"Connection", b"close")))


async def _send_last(stream: trio.abc.Stream, response: Response, deadlines: Deadlines) -> None:
    """Answer a request that h11 has not seen whole, and end the conversation."""
    with trio.move_on_after(deadlines.send):
        await stream.send_all(_frame(h11.Connection(h11.SERVER), _closing(response), head_only=False))
        await _linger(stream, deadlines)


async def _linger(stream: trio.abc.Stream, deadlines: Deadlines) -> None:
    """Let the answer arrive: closing with unread bytes in the kernel would send a reset, which can overtake it."""
    if not isinstance(stream, trio.abc.HalfCloseableStream):
        return
    with trio.move_on_after(deadlines.linger):
        await stream.send_eof()
        swallowed = 0
        while swallowed < LINGER_BYTES and (data := await stream.receive_some(READ_BYTES)):
            swallowed += len(data)


def _too_slow(what: str, seconds: float) -> BadHead:
    return BadHead(408, ErrorCode.BAD_MESSAGE, f"{what}: must be complete within {seconds:g} s")
