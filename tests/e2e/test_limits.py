"""Rate limits over the wire and over HTTP, on one node and on two that share them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

from tests.e2e.cluster import Cluster, Peer
from tests.e2e.http_client import Answer, get

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


async def standing(cluster: Cluster, token: str = "") -> Answer:
    """What node 0 says to who asks how they stand by HTTP, with a token and without."""
    return await get(cluster.server(0), "/v1/rate-limit", *([f"Authorization: Bearer {token}".encode()] if token else []))


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
    by_http = await standing(limited, limited.token("curious"))
    assert by_http.status == 200
    assert {entry["scope"] for entry in by_http.json["limits"]} == set(by_wire)
    assert int(by_http.headers["x-ratelimit-remaining"]) < int(by_http.headers["x-ratelimit-limit"]) == 600
    by_http = await standing(limited)
    assert [entry["scope"] for entry in by_http.json["limits"]] == ["connections", "sign_in", "accounts", "api"]
    assert by_http.json["limits"][3]["remaining"] == 598
    by_http = await standing(limited, "a.b.c")
    assert (by_http.status, by_http.json["error"]["code"]) == (401, "unauthenticated")
    assert "www-authenticate" in by_http.headers


async def test_a_token_that_was_taken_back_tells_nothing(limited: Cluster) -> None:
    """``GET /v1/rate-limit`` with the token of a device that was signed out: as at the hello."""
    token = limited.token("leaver")
    peer = await Peer.bare(limited.server(0))
    await peer.send({"t": "hello", "token": token, "device": "d1"})
    await peer.until(lambda m: m["t"] == "live")
    assert (await standing(limited, token)).status == 200
    assert (await peer.ask("sign_out", device="d1"))["t"] == "ok"
    assert (await standing(limited, token)).status == 401


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
    for number in range(201):
        answer = await get(limited.server(number), "/nothing")
        if answer.status == 429:
            break
    assert (answer.status, answer.json["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= 63
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("200", "0")
