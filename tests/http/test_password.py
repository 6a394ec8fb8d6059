"""``POST /v1/password`` over real sockets, on a real store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from argon2 import PasswordHasher

from chatd.accounts.passwords import Passwords
from chatd.accounts.service import Accounts
from chatd.accounts.tokens import Tokens
from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.conversations.operations import OpenDevice, Operation, Outcome, Refused, SessionsEnded
from chatd.limits.limiter import Limiter
from chatd.limits.rules import Tiers
from chatd.listener.routes import Api
from chatd.ops.health import Readiness
from chatd.ops.metrics import Metrics
from chatd.options import Limits

Connect = Callable[[], Awaitable[trio.SocketStream]]
Served = Callable[..., AbstractAsyncContextManager[Connect]]
Answer = tuple[int, dict[str, str], dict[str, Any]]

NOW = 1_800_000_000_000
TOKENS = Tokens("chatd", "chatd", bytes(32), 3600)
CHANGE = {"name": "ann", "password": "correct horse", "new_password": "battery staple"}


class World:
    """The API on a store, and what it said of sessions that ended."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.ended: list[SessionsEnded] = []
        hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        self.accounts = Accounts(
            store, self.submit, Passwords(hasher=hasher), TOKENS, open_registration=True, wall_ms=lambda: NOW,
            on_ended=self.ended.append,
        )  # fmt: skip
        self.api = self.api_with(Limits())

    def api_with(self, limits: Limits) -> Api:
        return Api(self.accounts, Readiness(), Limiter(Tiers(limits), Metrics(), clock=lambda: 0.0))

    async def submit(self, operation: Operation) -> Outcome:
        return (await self.store.commit([operation], NOW))[0]

    async def hello(self, token: str, device: str) -> Outcome:
        claims = TOKENS.verify(token, NOW)
        opening = OpenDevice(user=claims.user, device=device, token=claims.token_id, generation=claims.generation)
        return await self.submit(opening)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_store(tmp_path / "chatd.db") as store:
        made = World(store)
        await made.accounts.register("ann", "correct horse")
        yield made


async def post(connect: Connect, path: str, body: object) -> Answer:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    async with await connect() as stream:
        await stream.send_all(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = b"".join([bytes(piece) async for piece in stream])
    top, _, content = answer.partition(b"\r\n\r\n")
    line, *rest = top.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (field.split(": ", 1) for field in rest)}
    return int(line.split()[1]), headers, json.loads(content)


async def test_another_password(served: Served, world: World) -> None:
    """The answer is a token, the only one that is still good; all sessions but those of ``device`` are ended."""
    old = (await world.accounts.sign_in("ann", "correct horse")).token
    phone, desk = [await world.hello(old, device) for device in ("phone", "desk")]
    async with served(world.api.respond) as connect:
        status, headers, answer = await post(connect, "/v1/password", {**CHANGE, "device": "phone"})
        assert (status, answer.keys()) == (200, {"token", "expires_at"})
        assert headers["x-ratelimit-limit"] == "60"
        assert (await post(connect, "/v1/tokens", {"name": "ann", "password": "correct horse"}))[0] == 401
        assert (await post(connect, "/v1/tokens", {"name": "ann", "password": "battery staple"}))[0] == 200
    ((ended, epoch),) = world.ended[0].devices
    assert (ended, epoch) == (desk.author.device_no, desk.author.epoch + 1)  # type: ignore[union-attr]
    assert isinstance(await world.hello(old, "phone"), Refused)
    again = await world.hello(answer["token"], "phone")
    assert again.author.epoch == phone.author.epoch + 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "status", "code", "said"),
    [
        ({"password": "wrong horse"}, 401, "unauthenticated", "name or password is wrong"),
        ({"name": "bob"}, 401, "unauthenticated", "name or password is wrong"),
        ({"new_password": "short"}, 400, "bad_message", "new_password: 8-256"),
        ({"new_password": 5}, 400, "bad_message", "$.new_password"),
        ({"device": "x" * 65}, 400, "bad_message", "$.device"),
    ],
)
async def test_refusals(
    served: Served, world: World, changed: dict[str, object], status: int, code: str, said: str
) -> None:
    """Each names the field and the limit, changes nothing, and ends nobody's session."""
    async with served(world.api.respond) as connect:
        answer = await post(connect, "/v1/password", CHANGE | changed)
        assert (answer[0], answer[2]["error"]["code"]) == (status, code)
        assert said in answer[2]["error"]["message"]
        assert (await post(connect, "/v1/tokens", {"name": "ann", "password": "correct horse"}))[0] == 200
    assert world.ended == []


async def test_guesses_are_limited_together(served: Served, world: World) -> None:
    """Sign-ins and changes of a password draw from one allowance: both say whether a password is right."""
    async with served(world.api_with(Limits(sign_ins_per_minute=2)).respond) as connect:
        wrong = CHANGE | {"password": "wrong horse"}
        answers = [(await post(connect, path, wrong))[0] for path in ("/v1/tokens", "/v1/password", "/v1/password")]
        assert answers == [401, 401, 429]
