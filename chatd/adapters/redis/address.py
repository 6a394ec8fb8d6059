"""Where a Redis server is, from its URL, and how to open a byte stream to it.

Owns no state. ``connect`` waits for the network; the caller brings the deadline.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import trio

_OPTIONS = frozenset({"host", "port", "path", "db", "username", "password", "ssl_ca_certs"})


class BadAddress(ValueError):
    """The URL names no server that chatd can talk to. The text says which part, and never repeats the password."""


@dataclass(frozen=True, slots=True)
class Address:
    """One server: a unix socket if ``path`` is set, else ``host`` and ``port``, with TLS if ``tls``."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Read ``redis://``, ``rediss://`` (TLS; option ``ssl_ca_certs``: a CA file) or ``unix://``. Raises BadAddress."""
    # Imported here: `import redis` takes 79 ms and brings asyncio, which only a process that opens a link should pay.
    from redis.connection import parse_url

    scheme = url.partition("://")[0]
    try:
        options = dict(parse_url(url))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as fault:
        message = f"redis.url: expected redis://, rediss:// or unix://, got a {scheme[:16]!r} URL that does not parse"
        raise BadAddress(message) from fault
    options.pop("connection_class", None)
    if unknown := sorted(set(options) - _OPTIONS):
        message = f"redis.url: option {unknown[0][:32]!r} is not known"
        raise BadAddress(message)
    if scheme == "unix" and not options.get("path"):
        message = "redis.url: a unix:// URL needs the path of the socket"
        raise BadAddress(message)
    return Address(
        host=str(options.get("host") or "localhost"),
        port=int(options.get("port") or 6379),
        path=options.get("path") if scheme == "unix" else None,
        db=int(options.get("db") or 0),
        username=options.get("username"),
        password=options.get("password"),
        tls=scheme == "rediss",
        ca_file=options.get("ssl_ca_certs"),
    )


async def connect(address: Address) -> trio.abc.Stream:
    """Open a stream to the server, for TLS with its handshake done. Cancelling closes it.

    Raises OSError (ssl.SSLError is one), trio.BrokenResourceError.
    """
    if address.path is not None:
        return await trio.open_unix_socket(address.path)
    plain = await trio.open_tcp_stream(address.host, address.port)
    if not address.tls:
        return plain
    context = ssl.create_default_context(cafile=address.ca_file)
    secured = trio.SSLStream(plain, context, server_hostname=address.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured
