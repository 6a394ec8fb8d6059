"""Request heads, judged before anything else is done with them. Pure: bytes in, values or a refusal out.

Parsing is h11's, but for the plainest of heads, which most handshakes have. What h11 lets through and others die of is
refused here, for a proxy or a library behind this one may read it: one header byte beyond ASCII ended whole servers (wsproto
decodes names and hosts on the way). So a head that passes ``check_upgrade`` is plain ASCII, with each header of the
handshake exactly once and well formed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence

import h11
from chatd_protocol.codec import Encoding
from chatd_protocol.codes import ErrorCode
from msgspec import Struct

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
WEBSOCKET_PATH = "/ws"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
SUBPROTOCOLS = tuple(encoding.subprotocol for encoding in Encoding)
WEBSOCKET_VERSION = b"13"

Headers = tuple[tuple[bytes, bytes], ...]

_END = b"\r\n\r\n"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_FOLDED_LINE = re.compile(rb"\r\n[ \t]")
_HOST = re.compile(rb"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_METHOD_START = re.compile(rb"[A-Z]")
_PLAIN_GET = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z][A-Za-z0-9-]*: [!-~](?:[ -~]*[!-~])?\r\n)+)\r\n")
"""A GET as all clients write it: nothing in it could be read in two ways."""


class HeadRefused(Exception):
    """The request goes no further; it is answered with ``status`` and the error ``code`` and ``message``."""

    def __init__(self, status: int, code: ErrorCode, message: str, headers: Headers = ()) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


class BadHead(HeadRefused):
    """Not a request that this server reads; the connection cannot go on after it."""


class BadUpgrade(HeadRefused):
    """A request, but not a WebSocket handshake that this server takes."""


class RequestHead(Struct, frozen=True):
    """One request without its body. Header names are lower case; their values are bytes, and may hold any of them."""

    method: str
    path: str
    query: str
    version: str
    headers: Headers

    def all(self, name: bytes) -> list[bytes]:
        """The values of every header of this (lower-case) name, in order."""
        return [value for key, value in self.headers if key == name]

    def only(self, name: bytes) -> bytes | None:
        """The value of the header, or None when it is missing or there are several."""
        values = self.all(name)
        return values[0] if len(values) == 1 else None


def find_head_end(data: bytes | bytearray, searched: int = 0) -> int | None:
    """Where the first head in ``data`` ends (after its blank line), or None when more must be read.

    ``searched``: how many bytes were seen by an earlier call. Raises BadHead as soon as it can be no head, or one
    beyond MAX_HEAD_BYTES.
    """
    if data and not _METHOD_START.match(data):
        raise BadHead(400, ErrorCode.BAD_MESSAGE, "not an HTTP/1.1 request")
    at = data.find(_END, max(0, searched - len(_END) + 1), MAX_HEAD_BYTES)
    if at >= 0:
        return at + len(_END)
    if len(data) >= MAX_HEAD_BYTES:
        raise BadHead(431, ErrorCode.TOO_LARGE, f"request head: at most {MAX_HEAD_BYTES} bytes")
    return None


def parse_head(data: bytes) -> RequestHead:
    """The request in ``data``, which ends with its blank line. Raises BadHead, and nothing else, whatever the bytes.

    Stricter than h11: no bare CR or LF, no folded lines, no control characters. Two readers who disagree about where
    a line ends are how requests are smuggled past a proxy.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise BadHead(431, ErrorCode.TOO_LARGE, f"request head: at most {MAX_HEAD_BYTES} bytes")
    if data.find(_END) != len(data) - len(_END):
        raise _malformed("does not end with its blank line")
    if data.count(b"\r\n") > MAX_HEADERS + 2:  # by their lines, before each of 3000 is an object or four
        raise BadHead(431, ErrorCode.TOO_LARGE, f"request head: at most {MAX_HEADERS} headers")
    if (plain := _plain_get(data)) is not None:
        return plain
    if _BARE_LINE_END.search(data) or _FOLDED_LINE.search(data) or _CONTROL.search(data):
        raise _malformed("control character or folded line")
    request = _request(data)
    if request.http_version not in (b"1.0", b"1.1"):  # h11 takes any pair of digits
        raise BadHead(505, ErrorCode.BAD_MESSAGE, "HTTP/1.1 only")
    if request.method == b"CONNECT":  # h11 would take any 2xx of ours for a tunnel
        raise BadHead(405, ErrorCode.METHOD_NOT_ALLOWED, "no tunnels here", ((b"Allow", b"GET, HEAD, POST, OPTIONS"),))
    path, query = _split_target(request.target)
    headers = tuple((bytes(name), bytes(value)) for name, value in request.headers)
    head = RequestHead(request.method.decode(), path, query, request.http_version.decode(), headers)
    if head.all(b"content-length") and head.all(b"transfer-encoding"):
        raise _malformed("both Content-Length and Transfer-Encoding")
    return head


def is_upgrade(head: RequestHead) -> bool:
    """Whether the request asks to become a WebSocket; whether it may is ``check_upgrade``'s."""
    return any(b"websocket" in _tokens(value) for value in head.all(b"upgrade"))


def check_upgrade(head: RequestHead) -> None:
    """Judge a WebSocket handshake (RFC 6455, 4.2.1). Raises BadUpgrade. The Origin is judged by ``origin_allowed``."""
    if head.path != WEBSOCKET_PATH:
        raise BadUpgrade(404, ErrorCode.NOT_FOUND, f"WebSockets are served at {WEBSOCKET_PATH}")
    if any(not (name.isascii() and value.isascii()) for name, value in head.headers):
        raise _bad_upgrade("headers must be ASCII")
    if head.method != "GET" or head.version != "1.1":
        raise _bad_upgrade("must be a GET of HTTP/1.1")
    if head.all(b"content-length") or head.all(b"transfer-encoding"):
        raise _bad_upgrade("must have no body")
    _check_host(head.only(b"host"))
    _check_handshake(head)
    if choose_subprotocol(head) is None:
        raise _bad_upgrade(f"Sec-WebSocket-Protocol: offer one of {', '.join(SUBPROTOCOLS)}")


def offered_subprotocols(head: RequestHead) -> list[str]:
    """What the client offers, in its order of preference. Raises BadUpgrade for bytes that are not ASCII."""
    offered: list[str] = []
    for value in head.all(b"sec-websocket-protocol"):
        if not value.isascii():
            raise _bad_upgrade("Sec-WebSocket-Protocol must be ASCII")
        offered += [token.strip() for token in value.decode("ascii").split(",")]
    return [token for token in offered if token]


def choose_subprotocol(head: RequestHead) -> str | None:
    """The first of the client's offers that we speak. Raises BadUpgrade as ``offered_subprotocols`` does."""
    return next((offer for offer in offered_subprotocols(head) if offer in SUBPROTOCOLS), None)


def origin_allowed(head: RequestHead, allowed_origins: Collection[str], own_host: str | None = None) -> bool:
    """Whether a page of this origin may connect: by exact comparison, never by prefix or suffix.

    No Origin: not a browser, so nobody's page is acting behind its user's back. ``own_host`` (as in the Host header)
    allows the pages that this very host serves. ``null`` (a sandboxed frame, a local file) only where it is listed.
    """
    origins = head.all(b"origin")
    if not origins:
        return True
    if len(origins) != 1 or not origins[0].isascii():
        return False
    origin = origins[0].decode("ascii")
    if origin in allowed_origins:
        return True
    return own_host is not None and origin in (f"https://{own_host.lower()}", f"http://{own_host.lower()}")


def _plain_get(data: bytes) -> RequestHead | None:
    """What h11 makes of it, for 10 us and not 64; None for all that is not so plain, or that h11 is to refuse."""
    found = _PLAIN_GET.fullmatch(data)
    if found is None:
        return None
    lines = [line.partition(b": ") for line in found[2].split(b"\r\n")[:-1]]
    headers = tuple([(name.lower(), value) for name, _, value in lines])
    names = [name for name, _ in headers]
    if names.count(b"host") != 1 or not _FRAMING.isdisjoint(names):
        return None
    path, _, query = found[1].decode("ascii").partition("?")
    return RequestHead("GET", path, query, "1.1", headers)


def _request(data: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as fault:
        # h11's text may quote the peer's bytes; the status is all of it that is told.
        raise BadHead(fault.error_status_hint, ErrorCode.BAD_MESSAGE, "malformed request head") from fault
    if not isinstance(event, h11.Request):
        raise _malformed("incomplete")
    return event


def _split_target(target: bytes) -> tuple[str, str]:
    """The path and the query, as sent: routes are plain ASCII, so nothing needs to be decoded."""
    text = target.decode("ascii")  # h11 lets only visible ASCII through
    for scheme in ("http://", "https://"):
        if text.lower().startswith(scheme):  # absolute form, which RFC 9112 3.2.2 has every server accept
            _, slash, rest = text[len(scheme):].partition("/")
            text = slash + rest or "/"
    if not text.startswith("/") and text != "*":
        raise _malformed("target must begin with /")
    path, _, query = text.partition("?")
    return path, query


def _check_host(host: bytes | None) -> None:
    if host is None or not _HOST.fullmatch(host):
        raise _bad_upgrade("Host: one, a name or an address with an optional port")
    try:
        host.decode("idna")  # what others do with it, and do not survive for "xn--999999999"
    except UnicodeError:
        raise _bad_upgrade("Host: not a valid international name") from None


def _check_handshake(head: RequestHead) -> None:
    """Each header exactly once: of several one reader takes the last, and a proxy perhaps the first."""
    if (head.only(b"upgrade") or b"").lower() != b"websocket":
        raise _bad_upgrade("Upgrade: websocket")
    if b"upgrade" not in _tokens(head.only(b"connection") or b""):
        raise _bad_upgrade("Connection: Upgrade")
    if head.only(b"sec-websocket-version") != WEBSOCKET_VERSION:
        raise BadUpgrade(
            426, ErrorCode.BAD_UPGRADE, "Sec-WebSocket-Version: 13",
            ((b"Sec-WebSocket-Version", WEBSOCKET_VERSION), (b"Upgrade", b"websocket")),
        )
    if not _is_key(head.only(b"sec-websocket-key")):
        raise _bad_upgrade("Sec-WebSocket-Key: one, 16 bytes in base64")


def _is_key(value: bytes | None) -> bool:
    if value is None:
        return False
    try:
        return len(value) == 24 and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _tokens(value: bytes) -> Sequence[bytes]:
    return [token.strip().lower() for token in value.split(b",")]


def _malformed(why: str) -> BadHead:
    return BadHead(400, ErrorCode.BAD_MESSAGE, f"request head: {why}")


def _bad_upgrade(message: str) -> BadUpgrade:
    return BadUpgrade(400, ErrorCode.BAD_UPGRADE, message)
