"""HTTP on real sockets: keep-alive, bounds, deadlines, and clients that do not mean well."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from random import Random

import h11
import pytest
import trio
import trio.testing

from chatd.listener.http import Deadlines, Limits, Request, Response, Upgrade, serve_http

Connect = Callable[[], Awaitable[trio.SocketStream]]
Served = Callable[..., AbstractAsyncContextManager[Connect]]

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(request: Request) -> Response:
    return Response(200, f"{request.head.method} {request.head.path} ".encode() + request.body)


def post(body: bytes, *more: bytes) -> bytes:
    lines = [b"POST /echo HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *more, b"", body]
    return b"\r\n".join(lines)


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


def answers(data: bytes, methods: list[bytes]) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Parse the answers as a client of h11 does: one per request sent."""
    found = []
    for method in methods:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        client.receive_data(b"")
        response, body = client.next_event(), b""
        while isinstance(response, h11.InformationalResponse):
            response = client.next_event()
        assert isinstance(response, h11.Response), response
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        found.append((response.status_code, dict(response.headers), body))
        data = client.trailing_data[0]
    assert data == b""
    return found


async def talk(connect: Connect, data: bytes) -> bytes:
    """Send everything, end our side, read everything."""
    async with await connect() as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return await read_all(stream)


async def test_get_and_its_headers(served: Served) -> None:
    """An answer has its length, its type and the headers that keep browsers from guessing and caches from keeping."""
    async with served(echo) as connect:
        [(status, headers, body)] = answers(await talk(connect, GET), [b"GET"])
    assert (status, body) == (200, b"GET /echo ")
    assert headers[b"content-length"] == b"10"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cache-control"] == b"no-store"
    assert b"date" in headers


async def test_head_has_no_body(served: Served) -> None:
    """HEAD tells the length and sends nothing; the next request on the connection is not disturbed."""
    async with served(echo) as connect:
        data = await talk(connect, b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
    first, second = answers(data, [b"HEAD", b"GET"])
    assert (first[0], first[1][b"content-length"], first[2]) == (200, b"11", b"")
    assert second[2] == b"GET /last "


async def test_pipelined_requests_in_order(served: Served) -> None:
    """Requests sent in one piece, with and without bodies, are answered in order."""
    chunked = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    async with served(echo) as connect:
        data = await talk(connect, GET + post(b"one") + chunked + post(b"") + LAST)
    bodies = [body for _, _, body in answers(data, [b"GET", b"POST", b"POST", b"POST", b"GET"])]
    assert bodies == [b"GET /echo ", b"POST /echo one", b"POST /c abcde", b"POST /echo ", b"GET /last "]


async def test_split_at_every_byte(served: Served) -> None:
    """Two requests cut in two at each place, and cut into single bytes, are answered the same."""
    conversation = post(b"one") + LAST

    async def cut(connect: Connect, place: int) -> None:
        async with await connect() as stream:
            await stream.send_all(conversation[:place])
            await trio.testing.wait_all_tasks_blocked(0.001)
            await stream.send_all(conversation[place:])
            bodies = [body for _, _, body in answers(await read_all(stream), [b"POST", b"GET"])]
        assert bodies == [b"POST /echo one", b"GET /last "]

    async with served(echo) as connect:
        for place in range(1, len(conversation)):
            await cut(connect, place)
        async with await connect() as stream:
            for at in range(len(conversation)):
                await stream.send_all(conversation[at:at + 1])
            assert len(answers(await read_all(stream), [b"POST", b"GET"])) == 2


async def test_cut_off_at_every_byte(served: Served) -> None:
    """A client that goes away at any place of its request costs nothing; the server goes on."""
    async with served(echo) as connect:
        for place in range(len(post(b"one"))):
            async with await connect() as stream:
                await stream.send_all(post(b"one")[:place])
            reset = await connect()
            await reset.send_all(post(b"one")[:place])
            reset.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: a reset, not an end
            await trio.aclose_forcefully(reset)
        assert answers(await talk(connect, GET), [b"GET"])[0][0] == 200


async def test_connection_ends_after_its_requests(served: Served) -> None:
    """The last request that a connection may make is answered with Connection: close."""
    async with served(echo, limits=Limits(requests=3)) as connect:
        found = answers(await talk(connect, GET * 3), [b"GET"] * 3)
        assert [b"connection" in headers for _, headers, _ in found] == [False, False, True]
        async with await connect() as stream:
            await stream.send_all(GET * 10)
            assert len(answers(await read_all(stream), [b"GET"] * 3)) == 3


async def test_http_1_0_ends_its_connection(served: Served) -> None:
    """A client of HTTP/1.0 gets its answer and the end."""
    async with served(echo) as connect, await connect() as stream:
        await stream.send_all(b"GET /old HTTP/1.0\r\n\r\n")
        assert (await read_all(stream)).endswith(b"\r\n\r\nGET /old ")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 16385\r\n\r\n" + b"x" * 16385, b"Content-Length: 99999999999999999\r\n\r\nx",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n" + b"4000\r\n" + b"x" * 200_000,
    ],
)
async def test_oversize_bodies(served: Served, body: bytes) -> None:
    """A body beyond the bound is refused with 413, and the client reads the answer although it was still sending."""
    async with served(echo) as connect, await connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\n" + body)
        [(status, headers, text)] = answers(await read_all(stream), [b"POST"])
    assert (status, headers[b"connection"]) == (413, b"close")
    assert json.loads(text) == {"error": {"code": "too_large", "message": "request body: at most 16384 bytes"}}


async def test_a_body_has_so_many_chunks(served: Served) -> None:
    """However small: 16,000 of a byte each would take a fifth of a second. What comes a byte at a time by its length is read."""
    head, end = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"
    async with served(echo) as connect:
        (status, _, _), _ = answers(await talk(connect, head + b"1\r\nx\r\n" * 256 + end + LAST), [b"POST", b"GET"])
        assert status == 200
        async with await connect() as stream:
            await stream.send_all(head + b"1\r\nx\r\n" * 16_000)
            [(status, headers, text)] = answers(await read_all(stream), [b"POST"])
        assert (status, headers[b"connection"]) == (413, b"close")
        assert json.loads(text)["error"]["message"] == "request body: at most 256 chunks"
        async with await connect() as stream:
            for at in range(len(whole := post(b"y" * 600))):
                await stream.send_all(whole[at : at + 1])
            await stream.send_all(LAST)
            assert b"y" * 600 in await read_all(stream)


async def test_who_is_refused_for_too_many_has_the_connection_closed(served: Served) -> None:
    """The next request on it would cost nearly as much as one that is answered."""

    async def refuse(_: Request) -> Response:
        return Response(429)

    async with served(refuse) as connect:
        [(status, headers, _)] = answers(await talk(connect, GET * 5), [b"GET"])
    assert (status, headers[b"connection"]) == (429, b"close")


async def test_body_at_the_bound(served: Served) -> None:
    """The largest body allowed is allowed."""
    async with served(echo) as connect:
        [(status, _, body)] = answers(await talk(connect, post(b"x" * 16384)), [b"POST"])
    assert (status, len(body)) == (200, 16384 + len(b"POST /echo "))


async def test_expect_continue(served: Served) -> None:
    """A client that asks first is told to go on; one whose body is too large is refused instead."""
    async with served(echo) as connect:
        async with await connect() as stream:
            await stream.send_all(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 3"))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"abc")
            assert (await stream.receive_some()).endswith(b"POST /echo abc")
        async with await connect() as stream:
            await stream.send_all(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 99999"))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 413 ")


HOSTILE = {
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "garbage": (400, bytes(range(256)) * 4),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "both lengths": (
        400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "gzip coding": (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "bad chunk": (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "CONNECT": (405, b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "endless chunk line": (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 70000),
    "bare LF": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "folded": (400, b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n d\r\n\r\n"),
    "NUL": (400, b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n"),
    "huge header": (431, b"GET / HTTP/1.1\r\nHost: a\r\nB: " + b"c" * 100_000),
    "many headers": (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"B: c\r\n" * 500 + b"\r\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_heads(served: Served, name: str) -> None:
    """Each is answered with its status and the connection ends; behind a good request as well as alone."""
    status, data = HOSTILE[name]
    async with served(echo) as connect:
        for before in (b"", GET):
            async with await connect() as stream:
                await stream.send_all(before + data)
                found = answers(await read_all(stream), [b"GET"] * (2 if before else 1))
            assert found[-1][0] == status
            assert found[-1][1][b"connection"] == b"close"
            assert set(json.loads(found[-1][2])["error"]) == {"code", "message"}
        assert answers(await talk(connect, GET), [b"GET"])[0][0] == 200


@pytest.mark.parametrize("seed", range(20))
async def test_random_bytes(seed: int) -> None:
    """Damaged conversations in random pieces end without an exception, whatever they held."""
    random = Random(seed)
    for _ in range(40):
        data = bytearray((GET + post(b"one") + UPGRADE) * 2)
        for _ in range(random.randint(0, 5)):
            data[random.randrange(len(data))] = random.randrange(256)
        server, client = trio.testing.memory_stream_pair()
        await client.send_all(bytes(data[:random.randrange(len(data))]))
        await client.send_eof()
        with trio.fail_after(10):
            await serve_http(server, b"", echo)


async def test_slow_head_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    """One byte a second does not hold a connection: at 5 s it is told 408, however busy it looks."""
    server, client = trio.testing.memory_stream_pair()

    async def drip() -> None:
        for byte in b"GET / HTTP/1.1\r\nHost: slow.example\r\n":
            await client.send_all(bytes([byte]))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        began = trio.current_time()
        assert await serve_http(server, b"", echo) is None
        assert trio.current_time() - began <= 5 + 2
        assert (await client.receive_some()).startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()


async def test_slow_body_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    """A body that does not come is told 408 after its deadline."""
    server, client = trio.testing.memory_stream_pair()
    await client.send_all(post(b"abc")[:-1])
    began = trio.current_time()
    assert await serve_http(server, b"", echo, deadlines=Deadlines(body=7)) is None
    assert trio.current_time() - began <= 7 + 2
    assert b"request body: must be complete within 7 s" in await client.receive_some()


async def test_silent_connections_end(autojump_clock: trio.testing.MockClock) -> None:
    """One that says nothing ends after 5 s, one that falls silent after a request ends 15 s later; neither is told."""
    for said, seconds in ((b"", 5), (GET, 15)):
        server, client = trio.testing.memory_stream_pair()
        if said:
            await client.send_all(said)
        began = trio.current_time()
        assert await serve_http(server, b"", echo) is None
        assert trio.current_time() - began == seconds
        await server.aclose()
        assert b"408" not in b"".join([bytes(data) async for data in client])


async def test_client_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    """An answer that is not taken is given up after its deadline."""
    server, client = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, GET)
        began = trio.current_time()
        assert await serve_http(server, b"", echo) is None
        assert trio.current_time() - began == 10


async def test_faults_of_ours_are_500(served: Served) -> None:
    """What ``respond`` raises is answered with 500 and tells nothing; the connection goes on."""

    async def fail(request: Request) -> Response:
        if request.head.path == "/last":
            return Response(200, b"fine")
        raise RuntimeError("secret detail")

    async with served(fail) as connect:
        data = await talk(connect, GET + LAST)
    found = answers(data, [b"GET", b"GET"])
    assert [status for status, _, _ in found] == [500, 200]
    assert b"secret" not in data
    assert json.loads(found[0][2])["error"]["code"] == "internal"


async def test_no_answer_in_time_is_503(autojump_clock: trio.testing.MockClock) -> None:
    """A route that hangs is given up, and the client told to come back."""

    async def hang(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    server, client = trio.testing.memory_stream_pair()
    await client.send_all(LAST)
    assert await serve_http(server, b"", hang) is None
    data = await client.receive_some()
    assert data.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 2" in data.lower()


async def test_upgrade_comes_back_whole(served: Served) -> None:
    """A WebSocket request, first or after others, is returned with its raw head and the bytes behind it."""
    for before in (b"", GET, post(b"one") + GET):
        upgrades: list[Upgrade] = []
        async with served(echo, upgrades=upgrades) as connect:
            await talk(connect, before + UPGRADE + b"\x81\x80abcd")
        assert [(u.rest, u.head.path) for u in upgrades] == [(b"\x81\x80abcd", "/ws")]


async def test_other_upgrades_are_plain_requests(served: Served) -> None:
    """An offer of HTTP/2 (as curl makes) is not taken up, and the connection goes on."""
    h2c = b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    async with served(echo) as connect:
        assert len(answers(await talk(connect, h2c + LAST), [b"GET", b"GET"])) == 2
