"""The HTTP side: accounts and tokens, as small HTTP/1.1 requests with h11 on a Trio stream. One request, one
connection.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import h11
import trio

from chatd_client.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 15.0
NOT_FOUND = 404
MAX_ANSWER_BYTES = 64 * 1024
"""A token is at most 8 KiB; anything near this is not a chatd server."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; ``expires_at`` in the server's own form."""

    token: str
    expires_at: object = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, taken from any of its URLs (http, https, ws, wss; with or without ``/ws``)."""

    host: str
    port: int
    tls: bool
    prefix: str

    @property
    def websocket_url(self) -> str:
        """The one URL that names this server, whatever it was read from."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.resource}"

    @property
    def resource(self) -> str:
        """The path of the WebSocket."""
        return f"{self.prefix}/ws"

    @property
    def authority(self) -> str:
        """Host and port as they stand in ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def endpoint(url: str) -> Endpoint:
    """Read a server's URL. Raises ValueError for one that names no chatd server."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https", "ws", "wss"} or not parts.hostname:
        raise ValueError(f"not a server's URL: {url!r} (try http://127.0.0.1:8080)")
    tls = parts.scheme in {"https", "wss"}
    prefix = parts.path.rstrip("/").removesuffix("/ws")
    return Endpoint(parts.hostname, parts.port or (443 if tls else 80), tls, prefix)


async def sign_in(url: str, name: str, password: str, *, ssl_context: ssl.SSLContext | None = None) -> Token:
    """Get a token. Raises Refused (``unauthenticated``, ``rate_limited``, ...) or Unreachable; cancelling is safe."""
    answer = await _post(endpoint(url), "/v1/tokens", {"name": name, "password": password}, ssl_context)
    token = answer.get("token")
    if not isinstance(token, str):
        raise Unreachable("the answer to a sign-in has no token in it")
    return Token(token, answer.get("expires_at"))


async def register(url: str, name: str, password: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
    """Make an account. Raises Refused (``name_taken``, ``bad_message``, ...) or Unreachable; cancelled: made or not."""
    await _post(endpoint(url), "/v1/accounts", {"name": name, "password": password}, ssl_context)


async def change_password(
    url: str,
    name: str,
    password: str,
    new_password: str,
    *,
    device: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Token:
    """Change a password and get a new token; ends every session of the user but that of ``device``.

    Raises Refused (``unauthenticated``, ``bad_message``, ...) or Unreachable; cancelled: changed or not.
    """
    body = {"name": name, "password": password, "new_password": new_password}
    answer = await _post(endpoint(url), "/v1/password", body | ({"device": device} if device else {}), ssl_context)
    token = answer.get("token")
    if not isinstance(token, str):
        raise Unreachable("the answer to a change of the password has no token in it")
    return Token(token, answer.get("expires_at"))


async def _post(at: Endpoint, path: str, body: Mapping[str, str], context: ssl.SSLContext | None) -> dict[str, Any]:
    try:
        with trio.fail_after(TIMEOUT_S):
            stream = await connect(at, context)
            async with stream:
                status, retry_after, data = await _exchange(stream, at, at.prefix + path, json.dumps(body).encode())
    except trio.TooSlowError:
        raise Unreachable(f"no answer from {at.host}:{at.port} within {TIMEOUT_S:.0f} s") from None
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        raise Unreachable(f"{at.host}:{at.port}: {reason_of(error)}") from error
    return _read_answer(status, retry_after, data)


def reason_of(error: BaseException) -> str:
    """Why there is no connection, in words; never empty."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "the TLS handshake failed: no TLS there?"
    return str(error) or type(error).__name__


async def connect(at: Endpoint, context: ssl.SSLContext | None) -> trio.abc.Stream:
    """A stream to the server, with TLS where its URL says so. Raises OSError, trio.BrokenResourceError on its first
    use.
    """
    if not at.tls:
        return await trio.open_tcp_stream(at.host, at.port)
    return await trio.open_ssl_over_tcp_stream(at.host, at.port, https_compatible=True, ssl_context=context)


async def _exchange(stream: trio.abc.Stream, at: Endpoint, path: str, body: bytes) -> tuple[int, int | None, bytes]:
    connection = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=16 * 1024)
    headers = [
        ("host", at.authority),
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    request = connection.send(h11.Request(method="POST", target=path, headers=headers))
    await stream.send_all((request or b"") + (connection.send(h11.Data(data=body)) or b""))
    connection.send(h11.EndOfMessage())
    status, retry_after, data = 0, None, b""
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(16 * 1024)))
            case h11.Response() as response:
                status, retry_after = response.status_code, _retry_after_ms(response)
            case h11.Data() as chunk:
                data += bytes(chunk.data)
                if len(data) > MAX_ANSWER_BYTES:
                    raise Unreachable(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return status, retry_after, data


def _retry_after_ms(response: h11.Response) -> int | None:
    for name, value in response.headers:
        if name == b"retry-after" and value.isdigit():
            return int(value[:6]) * 1000
    return None


def _read_answer(status: int, retry_after_ms: int | None, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        answer = None
    if 200 <= status < 300 and isinstance(answer, dict):
        return answer
    if status == NOT_FOUND:  # of the address, and not of the account
        raise Unreachable("HTTP status 404: no chatd at this path")
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        message = str(error.get("message", ""))
        raise Refused(error["code"], message, retry_after_ms=retry_after_ms, status=status)
    raise Unreachable(f"HTTP status {status} without chatd's own answer: is this the right address?")
