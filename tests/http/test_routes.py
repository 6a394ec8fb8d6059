"""The API over real sockets: accounts, tokens, health, limits, CORS and the operators' pages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from argon2 import PasswordHasher
from chatd_protocol.codes import ErrorCode

from chatd.accounts.passwords import Passwords
from chatd.accounts.service import Accounts
from chatd.accounts.tokens import Tokens
from chatd.conversations.operations import CreateAccount, Done, Operation, Outcome, Refused
from chatd.limits.limiter import Limiter
from chatd.limits.rules import Tiers
from chatd.listener.routes import Api, OpsPages
from chatd.ops.health import Readiness
from chatd.ops.metrics import Metrics
from chatd.options import Limits
from chatd.store.port import Account, Unavailable

Connect = Callable[[], Awaitable[trio.SocketStream]]
Served = Callable[..., AbstractAsyncContextManager[Connect]]
Answer = tuple[int, dict[str, str], bytes]

NOW = 1_800_000_000_000
TOKENS = Tokens("chatd", "chatd", bytes(32), 3600)
ANN = {"name": "ann", "password": "correct horse"}
APP = "https://app.example"


class Ledger:
    """Accounts in memory behind the store's port."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.broken = False

    async def account(self, name: str) -> Account | None:
        if self.broken:
            raise Unavailable("disk full")
        return self.accounts.get(name)

    async def revoked(self, token: bytes) -> bool:
        return False

    async def submit(self, operation: Operation) -> Outcome:
        assert isinstance(operation, CreateAccount)
        if operation.user in self.accounts:
            return Refused(ErrorCode.NAME_TAKEN, "name: taken")
        self.accounts[operation.user] = Account(1, operation.password_hash)
        return Done()


class World:
    """One API with everything behind it, and a clock that stands until it is moved."""

    def __init__(
        self, *, open_registration: bool = True, limits: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self.ledger = Ledger()
        self.readiness = Readiness()
        self.now = 0.0
        hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        self.accounts = Accounts(
            self.ledger, self.ledger.submit, Passwords(hasher=hasher), TOKENS, open_registration=open_registration,
            wall_ms=lambda: NOW,
        )
        self.limiter = Limiter(Tiers(Limits(**limits or {})), Metrics(), clock=lambda: self.now)
        self.api = Api(self.accounts, self.readiness, self.limiter, **settings)


async def ask(connect: Connect, method: str, path: str, body: object = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "x", "Connection": "close", "Content-Type": "application/json", "Content-Length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    async with await connect() as stream:
        await stream.send_all("\r\n".join(head).encode() + data)
        answer = b"".join([bytes(piece) async for piece in stream])
    top, _, content = answer.partition(b"\r\n\r\n")
    line, *rest = top.decode().split("\r\n")
    return int(line.split()[1]), {k.lower(): v for k, v in (field.split(": ", 1) for field in rest)}, content


def error_of(answer: Answer) -> str:
    return str(json.loads(answer[2])["error"]["code"])


async def test_account_and_token(served: Served) -> None:
    """An account is made with 201 and its name, and its token is the one that the server verifies."""
    async with served(World().api.respond) as connect:
        status, headers, body = await ask(connect, "POST", "/v1/accounts", {**ANN, "unknown": 1})
        assert (status, json.loads(body)) == (201, {"name": "ann"})
        assert headers["content-type"] == "application/json"
        status, headers, body = await ask(connect, "POST", "/v1/tokens", ANN)
        assert status == 200
        signed = json.loads(body)
        assert signed.keys() == {"token", "expires_at"}
        claims = TOKENS.verify(signed["token"], NOW)
        assert (claims.user, claims.expires_at_ms) == ("ann", signed["expires_at"])


async def test_unknown_user_and_wrong_password_look_the_same(served: Served) -> None:
    """The two answers are the same, byte for byte, but for the limits' counters and the date."""
    async with served(World().api.respond) as connect:
        await ask(connect, "POST", "/v1/accounts", ANN)
        seen = []
        for credentials in ({**ANN, "password": "wrong horse"}, {**ANN, "name": "bob"}, {"name": "", "password": ""}):
            status, headers, body = await ask(connect, "POST", "/v1/tokens", credentials)
            kept = {k: v for k, v in headers.items() if not k.startswith(("x-ratelimit", "date"))}
            seen.append((status, kept, body))
        assert seen[0][0] == 401
        assert seen[0] == seen[1] == seen[2]


async def test_taken_name(served: Served) -> None:
    """The second account of a name is refused with 409."""
    async with served(World().api.respond) as connect:
        await ask(connect, "POST", "/v1/accounts", ANN)
        answer = await ask(connect, "POST", "/v1/accounts", ANN)
    assert (answer[0], error_of(answer)) == (409, "name_taken")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", "JSON"), (b"{", "JSON"), (b"\xff", "JSON"), (b'{"name":"\xff","password":"x"}', "JSON"),
        (b"[]", "object"),
        (b'{"name":"\\ud800","password":"correct horse"}', "JSON"), (b'{"x":' + b"[" * 16000, "at most 4096 items"),
        (b'{"name":"ann","name":"ben","password":"correct horse"}', "a key stands twice"),
        ({}, "`name`"), ({"name": "ann"}, "`password`"), ({"name": 1, "password": "correct horse"}, "$.name"),
        ({"name": "ann", "password": None}, "$.password"), ({**ANN, "name": "Ann"}, "name: 1-32 characters"),
        ({**ANN, "password": "short"}, "password: 8-256 characters"), ({**ANN, "name": "a" * 33}, "name: 1-32"),
        ({**ANN, "password": "x" * 257}, "password: 8-256"),
    ],
)
async def test_bad_bodies(served: Served, body: object, names: str) -> None:
    """A bad body is a 400 that names the field and the limit, and never repeats the password."""
    async with served(World().api.respond) as connect:
        answer = await ask(connect, "POST", "/v1/accounts", body)
    assert (answer[0], error_of(answer)) == (400, "bad_message")
    assert names in json.loads(answer[2])["error"]["message"]
    assert b"horse" not in answer[2]


async def test_content_type(served: Served) -> None:
    """Only JSON is read (so a page of another origin cannot post without a preflight); parameters are no matter."""
    async with served(World().api.respond) as connect:
        for media_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
            assert (await ask(connect, "POST", "/v1/accounts", ANN, Content_Type=media_type))[0] == 415
        good = await ask(connect, "POST", "/v1/accounts", ANN, Content_Type="Application/JSON; charset=utf-8")
        assert good[0] == 201


async def test_closed_registration(served: Served) -> None:
    """With registration closed an account is refused with 403."""
    async with served(World(open_registration=False).api.respond) as connect:
        answer = await ask(connect, "POST", "/v1/accounts", ANN)
    assert (answer[0], error_of(answer)) == (403, "forbidden")


async def test_store_down(served: Served) -> None:
    """A store that cannot answer is a 503 with Retry-After, for both posts."""
    world = World()
    world.ledger.broken = True
    async with served(world.api.respond) as connect:
        for path in ("/v1/accounts", "/v1/tokens"):
            answer = await ask(connect, "POST", path, ANN)
            assert (answer[0], error_of(answer)) == (503, "unavailable")
            assert int(answer[1]["retry-after"]) > 0


@pytest.mark.parametrize(("path", "burst"), [("/v1/tokens", 60), ("/v1/accounts", 30)])
async def test_limits_per_address(served: Served, path: str, burst: int) -> None:
    """The burst promised is let through, the next is a 429 that says when, and then it is let through again."""
    world = World()
    async with served(world.api.respond) as connect:
        for left in range(burst - 1, -1, -1):
            status, headers, _ = await ask(connect, "POST", path, b"{}")
            assert (status, headers["x-ratelimit-remaining"]) == (400, str(left))
        answer = await ask(connect, "POST", path, ANN)
        assert (answer[0], error_of(answer)) == (429, "rate_limited")
        assert answer[1]["x-ratelimit-limit"] == str(burst)
        assert answer[1]["x-ratelimit-remaining"] == "0"
        assert answer[1]["x-ratelimit-reset"] == "60"
        world.now += int(answer[1]["retry-after"])
        assert (await ask(connect, "POST", path, ANN))[0] in (201, 401)


async def test_health(served: Served) -> None:
    """Healthy while it answers at all; ready while it may be sent new connections, with every check named."""
    world = World()
    world.readiness.add("store", lambda: True)
    async with served(world.api.respond) as connect:
        assert (await ask(connect, "GET", "/healthz"))[::2] == (200, b"ok\n")
        status, _, body = await ask(connect, "GET", "/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "checks": {"store": True, "serving": True}})
        world.readiness.draining = True
        status, headers, body = await ask(connect, "GET", "/readyz")
        assert (status, json.loads(body)["checks"]["serving"]) == (503, False)
        assert "retry-after" in headers
        assert (await ask(connect, "GET", "/healthz"))[0] == 200


async def test_paths_and_methods(served: Served) -> None:
    """Unknown paths are 404, other methods 405 with Allow, and /ws without an upgrade says what it wants."""
    async with served(World().api.respond) as connect:
        assert b"chatd" in (await ask(connect, "GET", "/"))[2]
        assert (await ask(connect, "HEAD", "/"))[::2] == (200, b"")
        for path in ("/nothing", "/v1/tokens/", "//", "/metrics", "/%2e%2e/healthz"):
            answer = await ask(connect, "GET", path)
            assert (answer[0], error_of(answer)) == (404, "not_found")
        answer = await ask(connect, "DELETE", "/v1/tokens")
        assert (answer[0], error_of(answer), answer[1]["allow"]) == (405, "method_not_allowed", "POST, OPTIONS")
        assert (await ask(connect, "GET", "/v1/accounts"))[0] == 405
        assert (await ask(connect, "POST", "/healthz"))[1]["allow"] == "GET, HEAD, OPTIONS"
        status, headers, _ = await ask(connect, "GET", "/ws")
        assert (status, headers["upgrade"]) == (426, "websocket")


async def test_cors(served: Served) -> None:
    """A listed origin may read the answers, its preflight is granted; any other gets not a word of CORS."""
    async with served(World(origins=[APP]).api.respond) as connect:
        status, headers, _ = await ask(connect, "OPTIONS", "/v1/tokens", Origin=APP)
        assert (status, headers["access-control-allow-origin"]) == (204, APP)
        assert headers["access-control-allow-headers"] == "Authorization, Content-Type"
        assert headers["vary"] == "Origin"
        assert "content-length" not in headers
        status, headers, _ = await ask(connect, "POST", "/v1/accounts", ANN, Origin=APP)
        assert (status, headers["access-control-allow-origin"]) == (201, APP)
        for origin in ("null", APP + ".evil", APP + ":8443", "http://app.example", "\u00e9"):
            for method in ("OPTIONS", "POST"):
                _, headers, _ = await ask(connect, method, "/v1/tokens", ANN, Origin=origin)
                assert not [name for name in headers if name.startswith("access-control")]
        assert (await ask(connect, "OPTIONS", "/nothing", Origin=APP))[0] == 404


async def test_operators_pages(served: Served) -> None:
    """The operators' port has the metrics and the health, and nothing of the API."""
    metrics = Metrics()
    metrics.stored += 7
    async with served(OpsPages(metrics.exposition, Readiness()).respond) as connect:
        status, headers, body = await ask(connect, "GET", "/metrics")
        assert (status, b"chatd_stored_total 7.0\n" in body) == (200, True)
        assert headers["content-type"].startswith("text/plain; version=")
        assert (await ask(connect, "GET", "/healthz"))[0] == 200
        assert (await ask(connect, "GET", "/readyz"))[0] == 200
        assert (await ask(connect, "POST", "/v1/tokens", ANN))[0] == 404
        assert (await ask(connect, "POST", "/metrics"))[0] == 405


async def test_how_one_stands(served: Served) -> None:
    """The limits of the token's user, or of the address; a bad token is a 401; the question has a limit itself."""
    world = World(limits={"api_per_minute": 5, "messages_burst": 9})
    async with served(world.api.respond) as connect:
        await ask(connect, "POST", "/v1/accounts", ANN)
        token = json.loads((await ask(connect, "POST", "/v1/tokens", ANN))[2])["token"]
        for scheme in ("Bearer", "bearer"):
            status, headers, body = await ask(connect, "GET", "/v1/rate-limit", Authorization=f"{scheme} {token}")
            assert (status, headers["x-ratelimit-limit"]) == (200, "5")
            assert json.loads(body)["limits"][0] == {"scope": "messages", "limit": 9, "remaining": 9, "reset_ms": 0}
        _, _, body = await ask(connect, "GET", "/v1/rate-limit")
        stands = {entry["scope"]: entry["remaining"] for entry in json.loads(body)["limits"]}
        assert stands == {"connections": 6000, "sign_in": 59, "accounts": 29, "api": 2}
        for wrong in (f"Basic {token}", "Bearer"):
            answer = await ask(connect, "GET", "/v1/rate-limit", Authorization=wrong)
            assert (answer[0], error_of(answer)) == (401, "unauthenticated")
        answer = await ask(connect, "GET", "/v1/rate-limit")
        assert (answer[0], error_of(answer)) == (429, "rate_limited")
        assert int(answer[1]["retry-after"]) > 0
