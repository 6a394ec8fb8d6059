"""Limits hold over connections, nodes and devices, for each address and each user; ``allowed`` / limit is told.

That all of an IPv6 /64 is one address, and the next /64 another, is in ``tests/limits/test_limiter.py``, on two nodes that share
a Valkey; here the addresses are real ones, of the loopback interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import Cluster, Peer
from tests.e2e.http_client import Answer, get, other_addresses, post

pytestmark = pytest.mark.usefixtures("no_stream_left")
Attempt = Callable[[int, str, int], Awaitable[Answer]]
LIMIT = 20
MOST = 1.1
SETTINGS = f"""
[auth]
argon2_time_cost = 1
argon2_memory_kib = 1024
[limits]
sign_ins_per_minute = {LIMIT}
accounts_per_minute = {LIMIT}
api_per_minute = {LIMIT}
requests_per_second = 0.1
requests_burst = {LIMIT}
searches_per_second = 0.1
searches_burst = {LIMIT}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes whose limits are soon reached."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), 2, SETTINGS)
    yield made
    made.stop()


def _get(cluster: Cluster) -> Attempt:
    async def attempt(node: int, source: str, number: int) -> Answer:
        return await get(cluster.server(node), "/v1/rate-limit", source=source)

    return attempt


def _posted(cluster: Cluster, path: str, **more: str) -> Attempt:
    async def attempt(node: int, source: str, number: int) -> Answer:
        name = f"{source}.{number}"
        return await post(cluster.server(node), path, source, name=name, password="correct horse", **more)

    return attempt


async def allowed_of(attempt: Attempt, source: str, tries: int) -> tuple[int, float]:
    """How many of them were let through, eight at a time over both nodes, each on a connection of its own; and in how long."""
    counted = [0]
    began, numbers = trio.current_time(), iter(range(tries))

    async def one_of_eight() -> None:
        for number in numbers:
            answer = await attempt(number, source, number)
            counted[0] += answer.status != 429
            if answer.status == 429:
                assert answer.json["error"]["code"] == "rate_limited"
                assert int(answer.headers["retry-after"]) > 0

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one_of_eight)
    return counted[0], trio.current_time() - began


@pytest.mark.parametrize("what", ["sign-ins", "passwords", "accounts", "api"])
async def test_an_address_has_one_limit(cluster: Cluster, report_figures: ReportFigures, what: str) -> None:
    """Over both nodes, with a new connection for each attempt and another name each time; the next address has its own."""
    attempt = {
        "sign-ins": _posted(cluster, "/v1/tokens"), "passwords": _posted(cluster, "/v1/password", new_password="battery staple"),
        "accounts": _posted(cluster, "/v1/accounts"), "api": _get(cluster),
    }[what]  # fmt: skip
    first, second = other_addresses(8)[["sign-ins", "passwords", "accounts", "api"].index(what) * 2 :][:2]
    counted, seconds = await allowed_of(attempt, first, 3 * LIMIT)
    limit = LIMIT * (1 + seconds / 60)
    assert LIMIT <= counted <= MOST * limit
    assert (await attempt(0, second, 0)).status != 429
    assert (await attempt(1, second, 1)).status != 429
    report_figures(f"{what}: {counted} of a limit of {limit:.0f}: {counted / limit:.2f}")


async def test_sign_ins_and_passwords_are_one_limit(cluster: Cluster) -> None:
    """Who may guess no more by the one way may not by the other."""
    (source,) = other_addresses(9)[-1:]
    await allowed_of(_posted(cluster, "/v1/tokens"), source, 2 * LIMIT)
    for node in (0, 1):
        assert (await _posted(cluster, "/v1/password", new_password="battery staple")(node, source, node)).status == 429


@pytest.mark.long
@pytest.mark.parametrize("what", ["conversations", "search"])
async def test_a_user_has_one_limit(cluster: Cluster, report_figures: ReportFigures, what: str) -> None:
    """Requests, and searches, of four devices on two nodes, reconnecting in between: together within the limit; another user has
    their own."""
    fields = {"query": "x"} if what == "search" else {}
    counted, began = 0, trio.current_time()
    for turn in range(3):
        peers = [await Peer.open(cluster, number, f"user.{what}", f"d{number}") for number in range(4)]
        for peer in peers:
            answers = [await peer.ask(what, **fields) for _ in range(LIMIT)]
            counted += sum(answer["t"] == "ok" for answer in answers)
            assert {answer["code"] for answer in answers if answer["t"] == "error"} <= {"rate_limited"}
        assert counted, f"turn {turn}"
        for peer in peers:
            await peer.close()
    limit = LIMIT + 0.1 * (trio.current_time() - began)
    assert LIMIT * 0.6 <= counted <= MOST * limit
    other = await Peer.open(cluster, 1, f"other.{what}")
    assert (await other.ask(what, **fields))["t"] == "ok"
    await other.close()
    report_figures(f"{what}: {counted} of a limit of {limit:.0f}: {counted / limit:.2f}")


@pytest.mark.long
async def test_without_a_limit_more_comes_through(tmp_path: Path) -> None:
    """The attempts above are such that a server which counts no address would have let them all through."""
    (source,) = other_addresses(1)
    made = Cluster(tmp_path, 2, SETTINGS.replace(f"api_per_minute = {LIMIT}", "api_per_minute = 100000"))
    try:
        counted, _ = await allowed_of(_get(made), source, 3 * LIMIT)
    finally:
        made.stop()
    assert counted == 3 * LIMIT
