"""Rate limits over the wire and over HTTP, on one node and on two that share them."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

from tests.e2e.cluster import Cluster, Peer

SETTINGS = """
[limits]
messages_per_second = 0.5
messages_burst = 60
searches_per_second = 0.1
searches_burst = 4
connections_per_minute = 200
[limits.tiers.premium]
messages_burst = 4000
"""


@pytest.fixture(params=[1, 2], ids=["one-node", "two-nodes"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Servers whose limits can be reached."""
    made = Cluster(tmp_path, request.param, SETTINGS)
    yield made
    made.stop()


def http(cluster: Cluster, node: int, path: str, *lines: str) -> tuple[int, dict[str, str], Any]:
    """One GET on a connection of its own."""
    head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", cluster.server(node).port), timeout=20) as sock:
        sock.sendall(head.encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    top, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = top.decode().split("\r\n")
    headers = {key.lower(): value for key, value in (field.split(": ", 1) for field in fields)}
    return int(status.split()[1]), headers, json.loads(body)


async def flood(peer: Peer, to: str, tries: int) -> tuple[int, list[dict[str, Any]]]:
    """Messages one after another, whatever comes of them; how many were stored, and the refusals."""
    answers = [await peer.say(to, f"message {number}") for number in range(tries)]
    refused = [answer for answer in answers if answer["t"] == "error"]
    assert {answer["code"] for answer in refused} <= {"rate_limited"}
    return tries - len(refused), refused


async def test_a_user_has_one_limit_on_all_nodes(limited: Cluster) -> None:
    """Two devices on two nodes: together at most 5 % above the limit, and a refusal says when to come again."""
    began = time.monotonic()
    peers = [await Peer.open(limited, node, "busy", f"d{node}") for node in range(2)]
    stored = 0
    for peer in (*peers, *peers):
        passed, refused = await flood(peer, "@busy", 50)
        stored += passed
    allowed = 60 + 0.5 * (time.monotonic() - began)
    assert 40 <= stored <= 1.05 * allowed
    assert all(0 < answer["retry_after_ms"] <= 2100 for answer in refused)
    other = await Peer.open(limited, 1, "calm")
    assert (await flood(other, "@busy", 5))[0] == 5


async def test_one_can_ask_how_one_stands(limited: Cluster) -> None:
    """By the wire, and by HTTP with a token: what was sent is missing from what remains; without one it is the address."""
    peer = await Peer.open(limited, 0, "curious")
    await flood(peer, "@curious", 10)
    answer = await peer.ask("rate_limit")
    by_wire = {entry["scope"]: entry for entry in answer["limits"]}
    assert set(by_wire) == {"messages", "requests", "search"}
    assert by_wire["messages"]["limit"] == 60
    assert 50 <= by_wire["messages"]["remaining"] <= 60
    assert by_wire["messages"]["remaining"] < 60
    status, headers, body = await trio.to_thread.run_sync(
        http, limited, 0, "/v1/rate-limit", f"Authorization: Bearer {limited.token('curious')}"
    )
    assert status == 200
    assert {entry["scope"] for entry in body["limits"]} == set(by_wire)
    assert int(headers["x-ratelimit-remaining"]) < int(headers["x-ratelimit-limit"]) == 600
    status, _, body = await trio.to_thread.run_sync(http, limited, 0, "/v1/rate-limit")
    assert [entry["scope"] for entry in body["limits"]] == ["connections", "sign_in", "accounts", "api"]
    assert body["limits"][3]["remaining"] == 598
    status, headers, body = await trio.to_thread.run_sync(
        http, limited, 0, "/v1/rate-limit", "Authorization: Bearer a.b.c"
    )
    assert (status, body["error"]["code"], "www-authenticate" in headers) == (401, "unauthenticated", True)


async def test_a_token_that_was_taken_back_tells_nothing(limited: Cluster) -> None:
    """``GET /v1/rate-limit`` with the token of a device that was signed out: as at the hello."""
    token = limited.token("leaver")
    peer = await Peer.bare(limited.server(0))
    await peer.send({"t": "hello", "token": token, "device": "d1"})
    await peer.until(lambda m: m["t"] == "live")
    ask = partial(http, limited, 0, "/v1/rate-limit", f"Authorization: Bearer {token}")
    assert (await trio.to_thread.run_sync(ask))[0] == 200
    assert (await peer.ask("sign_out", device="d1"))["t"] == "ok"
    assert (await trio.to_thread.run_sync(ask))[0] == 401


async def test_a_tier_of_the_token_and_one_of_the_operator(limited: Cluster) -> None:
    """The issuer's claim counts at once, what the operator sets from the next connection on; an unknown one is the default."""
    now = int(time.time())

    async def burst(user: str, **claims: object) -> int:
        peer = await Peer.bare(limited.server(0))
        payload = {"iss": "tests", "aud": "chatd", "sub": user, "iat": now, "exp": now + 600, **claims}
        token = jwt.encode(payload, limited.key, algorithm="EdDSA")
        await peer.send({"t": "hello", "token": token, "device": "d1"})
        welcome = await peer.until(lambda m: m["t"] == "welcome")
        await peer.close()
        return int(welcome["limits"]["messages_burst"])

    assert await burst("rich", tier="premium") == 4000
    assert await burst("odd", tier="no-such-tier") == 60
    assert await burst("bad", tier=["premium"]) == 60
    assert await burst("poor") == 60
    command = [sys.executable, "-m", "chatd", "user", "tier", "poor"]
    options = ["--config", str(limited.config), "--data", str(limited.data)]
    done = await trio.run_process([*command, "premium", *options], capture_stdout=True)
    assert b"poor has the tier premium" in done.stdout
    assert await burst("poor") == 4000
    done = await trio.run_process([*command, "gold", *options], capture_stderr=True, check=False)
    assert done.returncode == 1
    assert b"no such tier; there are free, premium" in done.stderr


async def test_connections_of_an_address_are_counted(limited: Cluster) -> None:
    """Beyond the minute's worth, on all nodes together, a connection is answered with 429 and the time to wait."""

    def connect_often() -> tuple[int, dict[str, str], Any]:
        for number in range(200):
            status, headers, body = http(limited, number, "/nothing")
            if status == 429:
                return status, headers, body
        return http(limited, 0, "/nothing")

    status, headers, body = await trio.to_thread.run_sync(connect_often)
    assert (status, body["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(headers["retry-after"]) <= 63
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("200", "0")
