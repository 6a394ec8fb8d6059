"""Request heads: strict, and safe for any bytes."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatd.listener.head import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    BadHead,
    BadUpgrade,
    HeadRefused,
    RequestHead,
    check_upgrade,
    choose_subprotocol,
    find_head_end,
    is_upgrade,
    offered_subprotocols,
    origin_allowed,
    parse_head,
)

UPGRADE = {
    "Host": b"chat.example:8080",
    "Upgrade": b"websocket",
    "Connection": b"keep-alive, Upgrade",
    "Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": b"13",
    "Sec-WebSocket-Protocol": b"other, chatd.v1.json, chatd.v1.cbor",
}


def raw(headers: list[tuple[str, bytes]], line: bytes = b"GET /ws HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *(name.encode() + b": " + value for name, value in headers), b"", b""])


def upgrade(
    line: bytes = b"GET /ws HTTP/1.1", more: list[tuple[str, bytes]] | None = None, **changes: bytes | None
) -> RequestHead:
    """The good handshake with some headers changed (``_`` for ``-``), left out (None) or added."""
    fields: dict[str, bytes | None] = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return parse_head(raw([(n, v) for n, v in fields.items() if v is not None] + (more or []), line))


def test_parts_of_a_head() -> None:
    """Method, path, query, version and headers come out as sent, names in lower case."""
    head = parse_head(b"POST /v1/tokens?a=b?c HTTP/1.1\r\nHost: x\r\nX-A:  1\r\nx-a: 2 \r\n\r\n")
    assert (head.method, head.path, head.query, head.version) == ("POST", "/v1/tokens", "a=b?c", "1.1")
    assert head.all(b"x-a") == [b"1", b"2"]
    assert head.only(b"x-a") is None
    assert head.only(b"host") == b"x"


def test_absolute_form() -> None:
    """A target in absolute form, as proxies send it, is its path."""
    assert parse_head(b"GET http://chat.example/ws?x HTTP/1.1\r\nHost: y\r\n\r\n").path == "/ws"
    assert parse_head(b"GET http://chat.example HTTP/1.1\r\nHost: y\r\n\r\n").path == "/"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nmore\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET relative HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\n\r\n", b"GET / HTTP/1.1\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\x00\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\x0b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHo\xffst: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_bad_heads(data: bytes) -> None:
    """Each malformed head is refused as BadHead with its status, and the text repeats none of its bytes."""
    with pytest.raises(BadHead) as refused:
        parse_head(data)
    assert refused.value.status in (400, 431, 501, 505)
    assert refused.value.message.isascii()


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n"], ids=["plain", "h11"])
def test_headers_are_counted_before_they_are_parsed(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are allowed are taken; one more is refused by its line alone: thousands of short ones were 55 times their size
    in memory before they were counted."""
    assert len(parse_head(line + b"Host: x\r\n" + b"A: b\r\n" * (MAX_HEADERS - 1) + b"\r\n").headers) == MAX_HEADERS
    monkeypatch.setattr("chatd.listener.head._plain_get", None)
    monkeypatch.setattr("chatd.listener.head._request", None)
    with pytest.raises(BadHead) as refused:
        parse_head(line + b"Host: x\r\n" + b"A: b\r\n" * MAX_HEADERS + b"\r\n")
    assert refused.value.status == 431


NAMES = st.sampled_from(["Host", "host", "Upgrade", "Content-Length", "Transfer-Encoding", "Cookie", "X-A", "x_b", "X:"])
VALUES = st.text(alphabet="ab1 ,:=\t\x00\xe9", max_size=6) | st.sampled_from(["chunked", "5", "websocket", "chat.example"])


@given(
    st.sampled_from(["GET", "POST", "get"]), st.sampled_from(["/ws", "/ws?a=b?c", "//", "*", "http://a/ws", "/\x7f", "/a b"]),
    st.sampled_from(["1.1", "1.0"]), st.lists(st.tuples(NAMES, st.sampled_from([": ", ":", " : ", ":  "]), VALUES), max_size=5),
)  # fmt: skip
@example("GET", "/ws?a=b?c", "1.1", [("Host", ": ", "chat.example"), ("X-A", ": ", "a, b")])
@example("GET", "/ws", "1.1", [("Host", ": ", "a"), ("host", ": ", "b")])
@example("GET", "/ws", "1.1", [("X-A", ": ", "a")])
@example("GET", "/ws", "1.1", [("Host", ": ", "a"), ("Transfer-Encoding", ": ", "chunked"), ("Content-Length", ": ", "5")])
def test_what_is_taken_is_what_h11_reads(
    method: str, target: str, version: str, fields: list[tuple[str, str, str]]
) -> None:
    """Whatever way a head is parsed, h11 takes it as well, with the same headers; it is what a second reader might be."""
    lines = [f"{method} {target} HTTP/{version}", *map("".join, fields), "", ""]
    data = "\r\n".join(lines).encode("latin-1")
    try:
        head = parse_head(data)
    except BadHead:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert head.headers == tuple((bytes(name), bytes(value)) for name, value in request.headers)
    assert (head.method.encode(), head.version.encode()) == (request.method, request.http_version)
    assert request.target.endswith((head.path + ("?" + head.query if head.query else "")).encode())


def test_bytes_beyond_ascii_are_no_fault_of_plain_http() -> None:
    """A browser of another locale may send them in some header; only a WebSocket handshake must be clean."""
    assert parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: \xe9\r\n\r\n").only(b"user-agent") == b"\xe9"


@given(st.binary(max_size=400).map(lambda data: data + b"\r\n\r\n") | st.binary(max_size=400))
@example(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: \xff\r\n\r\n")
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    """Whatever the bytes: a head, or HeadRefused."""
    try:
        check_upgrade(parse_head(data))
    except HeadRefused as refused:
        status = refused.status
    else:
        return
    assert 400 <= status < 600


@given(st.binary(max_size=60), st.sampled_from([*UPGRADE, "Origin", "Cookie", "Sec-WebSocket-Extensions"]))
@example(b"\xff", "Connection")
@example(b"\xff", "Sec-WebSocket-Protocol")
@example(b"\xff", "Sec-WebSocket-Extensions")
@example(b"\xff", "Host")
@example(b"xn--999999999", "Host")
def test_any_value_of_any_handshake_header(value: bytes, name: str) -> None:
    """A handshake with any bytes in one header is taken or refused, by every function that reads it."""
    fields = {**UPGRADE, name: value}
    try:
        head = parse_head(raw(list(fields.items())))
        is_upgrade(head)
        origin_allowed(head, ["https://a.example"], "chat.example")
        offered_subprotocols(head)
        check_upgrade(head)
    except HeadRefused:
        return
    assert all(value.isascii() for _, value in head.headers)


@pytest.mark.parametrize("size", range(1, 40))
def test_head_end_is_found_wherever_the_reads_fall(size: int) -> None:
    """Read in pieces of any size, the end is found at the same place, looking only at what is new."""
    data = raw(list(UPGRADE.items())) + b"\x81\x80rest\r\n\r\n"
    seen = bytearray()
    for start in range(0, len(data), size):
        searched = len(seen)
        seen += data[start:start + size]
        if (end := find_head_end(seen, searched)) is not None:
            break
    assert end == len(raw(list(UPGRADE.items())))


def test_head_end_bounds() -> None:
    """No end within the bound, or a first byte that begins no method, is refused as soon as it is seen."""
    assert find_head_end(b"G" * (MAX_HEAD_BYTES - 1)) is None
    with pytest.raises(BadHead) as refused:
        find_head_end(b"G" * MAX_HEAD_BYTES)
    assert refused.value.status == 431
    for first in (b"\x16", b"\r", b"g", b"\xff", b" "):
        with pytest.raises(BadHead):
            find_head_end(first)


def test_good_upgrades() -> None:
    """The handshakes of browsers and libraries pass; the client's first known subprotocol is chosen."""
    head = upgrade()
    assert is_upgrade(head)
    check_upgrade(head)
    assert choose_subprotocol(head) == "chatd.v1.json"
    for good in (
        upgrade(b"GET /ws?x=1 HTTP/1.1"), upgrade(Host=b"[::1]:8080"), upgrade(Host=b"xn--bcher-kva.example"),
        upgrade(Host=b"localhost"), upgrade(Host=b"127.0.0.1:1"), upgrade(Upgrade=b"WebSocket"),
        upgrade(Sec_WebSocket_Extensions=b"permessage-deflate; client_max_window_bits"),
        upgrade(Sec_WebSocket_Protocol=b"x", more=[("Sec-WebSocket-Protocol", b"chatd.v1.cbor")]),
    ):
        check_upgrade(good)


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (404, upgrade(b"GET / HTTP/1.1")), (404, upgrade(b"GET /ws/ HTTP/1.1")), (404, upgrade(b"GET /%77s HTTP/1.1")),
        (400, upgrade(b"POST /ws HTTP/1.1")), (400, upgrade(b"GET /ws HTTP/1.0")), (400, upgrade(Upgrade=b"h2c")),
        (400, upgrade(Upgrade=b"websocket, h2c")), (400, upgrade(Connection=b"keep-alive")),
        (400, upgrade(Connection=None)), (400, upgrade(more=[("Connection", b"close")])),
        (400, upgrade(Connection=b"Upgrade\xff")), (400, upgrade(Cookie=b"\xff")),
        (400, upgrade(Sec_WebSocket_Protocol=b"\xff")), (400, upgrade(Sec_WebSocket_Extensions=b"\xff")),
        (400, upgrade(Host=b"\xff")), (400, upgrade(Host=b"xn--999999999")), (400, upgrade(Host=b"a..b")),
        (400, upgrade(Host=b"a" * 64)), (400, upgrade(Host=b"")), (400, upgrade(Host=b"x/y")),
        (400, upgrade(Host=b"u@x")), (400, upgrade(Host=b"x:port")),
        (400, upgrade(Sec_WebSocket_Key=None)), (400, upgrade(Sec_WebSocket_Key=b"")),
        (400, upgrade(Sec_WebSocket_Key=b"c2hvcnQ=")), (400, upgrade(Sec_WebSocket_Key=b"!" * 24)),
        (400, upgrade(Sec_WebSocket_Key=b"dGhlIHNhbXBsZSBub25jZSE=")),
        (400, upgrade(more=[("Sec-WebSocket-Key", UPGRADE["Sec-WebSocket-Key"])])),
        (426, upgrade(Sec_WebSocket_Version=b"8")), (426, upgrade(Sec_WebSocket_Version=None)),
        (426, upgrade(more=[("Sec-WebSocket-Version", b"13")])),
        (400, upgrade(Sec_WebSocket_Protocol=None)), (400, upgrade(Sec_WebSocket_Protocol=b"chatd.v1")),
        (400, upgrade(Sec_WebSocket_Protocol=b"Chatd.v1.json")), (400, upgrade(more=[("Content-Length", b"1")])),
        (400, upgrade(more=[("Transfer-Encoding", b"chunked")])),
    ],
)
def test_bad_upgrades(status: int, head: RequestHead) -> None:
    """Each broken handshake is refused with its status; a wrong version is told the right one."""
    with pytest.raises(BadUpgrade) as refused:
        check_upgrade(head)
    assert refused.value.status == status
    if status == 426:
        assert (b"Sec-WebSocket-Version", b"13") in refused.value.headers


APP = "https://app.example.com"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True), (APP, True), ("http://app.example.com", False), (APP + ".evil", False), (APP + ":8443", False),
        (APP + "/", False), ("https://evil.app.example.com", False), ("https://APP.example.com", False),
        ("null", False), ("", False), ("*", False),
        ("https://chat.example:8080", True), ("http://chat.example:8080", True),
        ("https://chat.example", False), ("https://evilchat.example:8080", False),
    ],
)
def test_origins(origin: str | None, allowed: bool) -> None:
    """Origins match exactly or not at all; a missing one is no browser."""
    head = upgrade(Origin=None if origin is None else origin.encode())
    assert origin_allowed(head, [APP], "chat.example:8080") is allowed


def test_origins_that_are_listed_or_odd() -> None:
    """``null`` only where it is listed; two Origins, or one beyond ASCII, never; without own_host only the list."""
    assert origin_allowed(upgrade(Origin=b"null"), ["null"])
    assert not origin_allowed(upgrade(Origin=APP.encode(), more=[("Origin", APP.encode())]), [APP])
    assert not origin_allowed(upgrade(Origin=b"\xff"), [APP])
    assert not origin_allowed(upgrade(Origin=b"https://chat.example:8080"), [APP])
