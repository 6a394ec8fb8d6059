"""Who knocks does not learn which names there are, and who is in does not learn what is not theirs: by the answer,
word for word, and by the time that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import Cluster, Peer
from tests.e2e.http_client import Answer, post, post_now

pytestmark = pytest.mark.usefixtures("no_stream_left")
RIGHT, WRONG, SHORT = "correct horse", "battery staple", "short"
TRIES = 200
CHEAP = """
[auth]
argon2_time_cost = 1
argon2_memory_kib = 1024
[limits]
sign_ins_per_minute = 100000
accounts_per_minute = 100000
connections_per_minute = 100000
"""
FULL_PRICE = CHEAP.replace("[auth]\nargon2_time_cost = 1\nargon2_memory_kib = 1024\n", "")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, on which names can be tried as often as one likes."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), 2, CHEAP)
    yield made
    made.stop()


async def test_a_refused_sign_in_is_one_answer(cluster: Cluster) -> None:
    """Status, headers and body, byte for byte: for names that are there and are not, that have no password, that cannot be; with
    passwords that are wrong and that cannot be; and where the password is to be changed, too."""
    server = cluster.server(0)
    assert (await post(server, "/v1/accounts", name="ann", password=RIGHT)).status == 201
    await (await Peer.open(cluster, 0, "outsider")).close()
    answers = {}
    for path in ("/v1/tokens", "/v1/password"):
        for name in ("ann", "nobody", "outsider", "Not A Name", "", "a" * 1000, "ann\n", "ANN"):
            for password in (WRONG, SHORT, "", "x" * 1000, RIGHT if name != "ann" else WRONG):
                answer = await post(server, path, name=name, password=password, new_password=WRONG)
                answers[path, name[:20], password[:20]] = answer.told
    assert {status for status, _, _ in answers.values()} == {401}
    first = next(iter(answers.values()))
    assert {key: answer for key, answer in answers.items() if answer != first} == {}
    assert (await post(server, "/v1/tokens", name="ann", password=RIGHT)).status == 200


ID = "x" * 16
"""As good an id as any, which no conversation has."""


def _asked(conv: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request about a conversation, with names that are there and are not."""
    for t in ("history", "members", "pins", "leave"):
        yield t, {"conv": conv}
    for where in ({"before": 5}, {"after": 0}, {"thread": 2}, {"thread": 99}):
        yield "history", {"conv": conv, **where}
    for name in ("owner", "member", "stranger", "nobody"):
        yield "add", {"conv": conv, "users": [name]}
        yield "remove", {"conv": conv, "users": [name]}
        yield "role", {"conv": conv, "user": name, "role": "admin"}
        yield "search", {"conv": conv, "query": "secret", "from": name}
    for t, more in (
        ("rename", {"title": "x"}), ("pin", {"seq": 2, "on": True}), ("mute", {"until": 0}), ("search", {"query": "secret"}),
        ("find", {"text": "o"}),
    ):  # fmt: skip
        yield t, {"conv": conv, **more}


def _changed(conv: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every change of a conversation."""
    yield "send", {"to": conv, "body": "x"}
    yield "send", {"to": conv, "body": "x", "reply_to": 2}
    yield "send", {"to": conv, "body": "x", "mentions": ["owner", "nobody"]}
    for seq in (1, 2, 99):
        yield "edit", {"conv": conv, "seq": seq, "body": "x"}
        yield "delete", {"conv": conv, "seq": seq}
        yield "react", {"conv": conv, "seq": seq, "emoji": "+"}


async def _answers(peer: Peer, conv: str) -> list[dict[str, Any]]:
    found = [(t, fields, await peer.ask(t, **fields)) for t, fields in _asked(conv)]
    found += [(t, fields, await peer.change(t, **fields)) for t, fields in _changed(conv)]
    return [
        {"asked": (t, fields | dict.fromkeys(set(fields) & {"conv", "to"}, "")), **answer, "id": 0} for t, fields, answer in found
    ]


@pytest.mark.parametrize("node", [0, pytest.param(1, marks=pytest.mark.long)])
async def test_what_is_not_yours_is_not_there(cluster: Cluster, node: int) -> None:
    """I8: a stranger is answered about a group, and about two users' conversation, as about none: word for word, whatever is
    asked, and whoever is named in it. So is a former member. Only a member is answered otherwise."""
    names = ("owner", "member", "stranger", "former")
    owner, member, stranger, former = [await Peer.open(cluster, number, name) for number, name in enumerate(names)]
    conv = (await owner.ask("create", title="secret", members=["member", "former"]))["conv"]
    await member.say(conv, "secret")
    await owner.ask("remove", conv=conv, users=["former"])
    private = (await owner.say("@member", "secret"))["conv"]
    eyes = [await Peer.open(cluster, node, user, "eyes") for user in ("stranger", "former")]
    for peer in eyes:
        nothing = await _answers(peer, ID)
        assert {answer["code"] for answer in nothing} == {"not_found"}
        for theirs in (private, conv):
            assert await _answers(peer, theirs) == nothing
    assert await _answers(member, conv) != nothing
    for peer in (owner, member, stranger, former, *eyes):
        await peer.close()


async def test_a_search_says_nothing_of_strangers(cluster: Cluster) -> None:
    """Of somebody with whom one shares nothing it says what it says of nobody. (Names alone are no secret among users: ``find``
    completes them, and one writes to ``@name``.)"""
    stranger, friend = await Peer.open(cluster, 0, "hermit.1"), await Peer.open(cluster, 1, "friend")
    await stranger.say("@friend", "a secret between us")
    for node in (0, 1):
        peer = await Peer.open(cluster, node, "seeker")
        there, nowhere = [await peer.ask("search", query="secret", **{"from": f"hermit.{number}"}) for number in (1, 2)]
        assert {**there, "id": 0} == {**nowhere, "id": 0}
        assert there["events"] == []
        await peer.close()
    await stranger.close()
    await friend.close()


# --- by the time ----------------------------------------------------------------------------------------------


def auc(some: Sequence[float], others: Sequence[float]) -> float:
    """How often the best guess by the time alone is right, for one of each: 0.5 says that it tells nothing, 1 everything."""
    won = sum((one > other) + (one == other) / 2 for one in some for other in others) / (len(some) * len(others))
    return max(won, 1 - won)


async def test_the_measure_tells_apart() -> None:
    """Equal times say nothing, times without an overlap everything."""
    random = Random(1)
    some, others = ([random.gauss(30, 3) for _ in range(TRIES)] for _ in range(2))
    assert auc(some, others) < 0.57
    assert auc(some, [time + 30 for time in others]) == 1


def _timed(ask: Callable[[], Answer]) -> float:
    began = time.perf_counter()
    assert ask().status == 401
    return time.perf_counter() - began


@pytest.mark.long
async def test_figures_of_sign_in_times(tmp_path: Path, report_figures: ReportFigures) -> None:
    """A figure, and no assertion: that a hash is computed in each case is asserted where it is (``tests/accounts``). What is told
    beside it, a password too short to be one, is refused without a hash: the clock does tell that apart."""
    cluster = Cluster(tmp_path, 1, FULL_PRICE)
    try:
        server, random = cluster.server(0), Random(39)
        assert (await post(server, "/v1/accounts", name="ann", password=RIGHT)).status == 201
        cases = {"there": ("ann", WRONG), "not": ("nobody", WRONG), "again": ("ann", WRONG), "short": ("ann", SHORT)}
        times: dict[str, list[float]] = {case: [] for case in cases}
        order = [case for case in cases for _ in range(TRIES)]
        random.shuffle(order)

        def try_all() -> None:
            for case in order:
                name, password = cases[case]
                times[case].append(_timed(lambda: post_now(server, "/v1/tokens", name=name, password=password)))  # noqa: B023

        await trio.to_thread.run_sync(try_all)
    finally:
        cluster.stop()
    report_figures(
        f"AUC of {TRIES} each: known and unknown name {auc(times['there'], times['not']):.3f}, a known one twice "
        f"{auc(times['there'], times['again']):.3f}, without a hash {auc(times['there'], times['short']):.3f}"
    )
