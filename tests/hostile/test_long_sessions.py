"""A session that has lasted is over on its node when another node says so, and gets nothing that was said after."""

from __future__ import annotations

import time

import jwt
import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import Cluster, Peer
from tests.e2e.http_client import post

pytestmark = pytest.mark.usefixtures("no_stream_left")
DEADLINE_SECONDS = 60.0
OLD, NEW = "correct horse", "battery staple"
SAID, PAUSE = 30, 0.005


class Talk:
    """Somebody on node 0 who goes on writing; ``late``: what was begun when the end had been confirmed to who asked for it."""

    def __init__(self, talker: Peer, conv: str) -> None:
        self._talker, self._conv = talker, conv
        self.begun, self.ended = trio.Event(), trio.Event()
        self.early: list[int] = []
        self.late: list[int] = []

    async def run(self) -> None:
        while len(self.late) < SAID:
            said = self.late if self.ended.is_set() else self.early
            answer = await self._talker.say(self._conv, "x")
            assert answer["t"] == "ack", answer
            said.append(answer["seq"])
            if len(self.early) >= SAID:
                self.begun.set()
            await trio.sleep(PAUSE)


async def hello(cluster: Cluster, node: int, token: str, device: str) -> Peer:
    peer = await Peer.bare(cluster.server(node))
    await peer.send({"t": "hello", "token": token, "device": device})
    await peer.until(lambda m: m["t"] == "live")
    return peer


@pytest.mark.parametrize("how", ["signed out", "another password"])
async def test_nothing_comes_after_the_end(pair: Cluster, report_figures: ReportFigures, how: str) -> None:
    """Signed out, or the password changed, on the other node, while a conversation goes on: from the answer to that on, nothing
    of it reaches the session, which ends with 4206; a device of the same user that stays gets all of it."""
    assert (await post(pair.server(0), "/v1/accounts", name="ann", password=OLD)).status == 201
    kept, victim = [await hello(pair, node, await signed_in(pair), name) for node, name in ((0, "kept"), (1, "victim"))]
    talker = await Peer.open(pair, 0, "talker")
    conv = (await talker.ask("create", title="g", members=["ann"]))["conv"]
    await victim.event(conv, 1)
    talk, ends = Talk(talker, conv), []

    async def wait_for_the_end() -> None:
        assert await victim.closed() == 4206
        ends.append(time.monotonic())

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.run)
            nursery.start_soon(wait_for_the_end)
            await talk.begun.wait()
            if how == "signed out":
                assert (await kept.ask("sign_out", device="victim"))["t"] == "ok"
            else:
                done = await post(pair.server(0), "/v1/password", name="ann", password=OLD, new_password=NEW, device="kept")
                assert done.status == 200
            talk.ended.set()
            answered = time.monotonic()
    got = victim.stream(conv)
    assert got == list(range(1, len(got) + 1))
    assert len(got) > SAID // 2, "it was there until then"
    assert not set(talk.late) & set(got)
    await kept.event(conv, talk.late[-1])
    assert kept.stream(conv) == list(range(1, talk.late[-1] + 1))
    over_ms = max(0.0, ends[0] - answered) * 1000
    report_figures(f"{how}: seen to be over {over_ms:.0f} ms after the answer; 0 of {SAID} later messages came")


async def signed_in(cluster: Cluster) -> str:
    answer = await post(cluster.server(0), "/v1/tokens", name="ann", password=OLD)
    token: str = answer.json["token"]
    return token


@pytest.mark.long
async def test_a_token_that_ends_takes_its_session_along(pair: Cluster, report_figures: ReportFigures) -> None:
    """On each node, in the middle of a conversation; how long after its ``exp`` something still came is told."""
    talker = await Peer.open(pair, 0, "talker")
    tokens = [pair.token(f"mortal{node}", 2) for node in (0, 1)]
    mortals = [await hello(pair, node, token, "d") for node, token in enumerate(tokens)]
    conv = (await talker.ask("create", title="g", members=["mortal0", "mortal1"]))["conv"]
    for mortal in mortals:
        await mortal.event(conv, 1)
    talk = Talk(talker, conv)
    over: list[float] = []

    async def wait_for(mortal: Peer, token: str) -> None:
        assert await mortal.closed() == 4201
        ends = jwt.decode(token, options={"verify_signature": False})["exp"] * 1000
        over.append(max(0.0, max(m["at"] for m in mortal.seen if m["t"] == "event") - ends) / 1000)

    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.run)
            async with trio.open_nursery() as waiting:
                for mortal, token in zip(mortals, tokens, strict=True):
                    waiting.start_soon(wait_for, mortal, token)
            talk.ended.set()
    for mortal in mortals:
        assert not set(talk.late) & set(mortal.stream(conv))
    report_figures(f"the last message came {max(over):.1f} s after the token's end, of which 5 s are for clocks that differ")
