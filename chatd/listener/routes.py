"""What each HTTP request is answered with: the public API, and the operators' pages.

Owns the buckets that limit sign-ins and sign-ups per address. Waits for ``Accounts`` only.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection

import msgspec
import trio
from chatd_protocol.codes import ErrorCode
from msgspec import Struct

from chatd.accounts.service import AccountRefused, Accounts
from chatd.limits.bucket import Buckets, TokenBucket, address_key
from chatd.listener.head import WEBSOCKET_PATH, Headers
from chatd.listener.http import Request, Response, error_response, json_response
from chatd.ops.health import Readiness

RETRY_AFTER_S = 2
PREFLIGHT_SECONDS = 600
METRICS_TYPE = b"text/plain; version=1.0.0; charset=utf-8"

_STATUS = {
    ErrorCode.BAD_MESSAGE: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.NAME_TAKEN: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.UNAVAILABLE: 503,
}

Answer = Callable[[Request], Awaitable[Response]]
Routes = dict[str, dict[str, Answer]]


class Credentials(Struct, frozen=True):
    """The body of both POSTs; unknown keys are ignored, as everywhere on the wire."""

    name: str
    password: str


class Api:
    """The public port's HTTP. ``origins``: the web origins whose pages may read the answers (CORS), exact.

    ``clock``: seconds, for the limits alone. Bursts of ``sign_ins_per_minute`` and ``accounts_per_minute`` are let
    through at once, so that an office behind one address can start its day.
    """

    def __init__(
        self, accounts: Accounts, readiness: Readiness, *, origins: Collection[str] = (), sign_ins_per_minute: int = 60,
        accounts_per_minute: int = 30, clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._accounts = accounts
        self._origins = frozenset(origins)
        self._clock = clock
        self._sign_ins = Buckets(sign_ins_per_minute / 60, sign_ins_per_minute)
        self._sign_ups = Buckets(accounts_per_minute / 60, accounts_per_minute)
        self._routes: Routes = {
            "/": {"GET": _front_page},
            "/v1/accounts": {"POST": self._post_account},
            "/v1/tokens": {"POST": self._post_token},
            WEBSOCKET_PATH: {"GET": _upgrade_required},
            **_health_routes(readiness),
        }

    async def respond(self, request: Request) -> Response:
        """The answer to one request. Raises nothing of the client's making. Cancelling may leave an account made."""
        origin = _allowed_origin(request, self._origins)
        if request.head.method == "OPTIONS":
            return _preflight(self._routes, request, origin)
        response = await _route(self._routes, request)
        return response if origin is None else _with_headers(response, _cors(origin))

    async def _post_account(self, request: Request) -> Response:
        return await self._limited(self._sign_ups, request, self._create_account)

    async def _post_token(self, request: Request) -> Response:
        return await self._limited(self._sign_ins, request, self._sign_in)

    async def _create_account(self, asked: Credentials) -> Response:
        await self._accounts.register(asked.name, asked.password)
        return json_response(201, {"name": asked.name})

    async def _sign_in(self, asked: Credentials) -> Response:
        signed = await self._accounts.sign_in(asked.name, asked.password)
        return json_response(200, {"token": signed.token, "expires_at": signed.expires_at_ms})

    async def _limited(
        self, buckets: Buckets, request: Request, answer: Callable[[Credentials], Awaitable[Response]]
    ) -> Response:
        """Count the request, whatever comes of it, then read it and answer."""
        bucket = buckets.bucket(address_key(request.address))
        now = self._clock()
        wait_s = bucket.take(now)
        limits = _limit_headers(bucket, now)
        if wait_s > 0:
            retry = (b"Retry-After", b"%d" % math.ceil(wait_s))
            return error_response(
                429, ErrorCode.RATE_LIMITED, "too many from this address; see Retry-After", (*limits, retry)
            )
        asked = _credentials(request)
        if isinstance(asked, Response):
            return _with_headers(asked, limits)
        try:
            return _with_headers(await answer(asked), limits)
        except AccountRefused as refused:
            return _with_headers(_refused(refused), limits)


class OpsPages:
    """The operators' port: metrics and health. ``exposition`` renders the metrics in the Prometheus text format."""

    def __init__(self, exposition: Callable[[], bytes], readiness: Readiness) -> None:
        async def metrics(_: Request) -> Response:
            return Response(200, exposition(), METRICS_TYPE)

        self._routes: Routes = {"/metrics": {"GET": metrics}, **_health_routes(readiness)}

    async def respond(self, request: Request) -> Response:
        """The answer to one request; nothing is waited for."""
        return await _route(self._routes, request)


def _health_routes(readiness: Readiness) -> Routes:
    async def healthz(_: Request) -> Response:
        # To be answered at all is the whole check: the event loop turns and the listener accepts.
        return Response(200, b"ok\n")

    async def readyz(_: Request) -> Response:
        verdict = readiness.judge()
        headers: Headers = () if verdict.ready else _retry_after()
        return json_response(200 if verdict.ready else 503, {"ready": verdict.ready, "checks": verdict.checks}, headers)

    return {"/healthz": {"GET": healthz}, "/readyz": {"GET": readyz}}


async def _front_page(_: Request) -> Response:
    return Response(200, b"chatd: a real-time messaging server. WebSocket at /ws.\n")


async def _upgrade_required(_: Request) -> Response:
    headers: Headers = ((b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"))
    return error_response(426, ErrorCode.BAD_UPGRADE, f"{WEBSOCKET_PATH} is for WebSockets", headers)


async def _route(routes: Routes, request: Request) -> Response:
    """Find the path, then the method; HEAD is GET without the body, which the connection leaves out."""
    answers = routes.get(request.head.path)
    if answers is None:
        return error_response(404, ErrorCode.NOT_FOUND, "no such page")
    answer = answers.get("GET" if request.head.method == "HEAD" else request.head.method)
    if answer is None:
        allow = ((b"Allow", _methods(answers)),)
        return error_response(405, ErrorCode.METHOD_NOT_ALLOWED, "method not allowed here; see Allow", allow)
    return await answer(request)


def _methods(answers: dict[str, Answer]) -> bytes:
    head = ["HEAD"] if "GET" in answers else []
    return ", ".join([*answers, *head, "OPTIONS"]).encode()


def _credentials(request: Request) -> Credentials | Response:
    """The body, or the answer that says what is wrong with it: the field and the type, never a value."""
    media_type = (request.head.only(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        return error_response(415, ErrorCode.BAD_MESSAGE, "Content-Type: application/json")
    try:
        return msgspec.json.decode(request.body, type=Credentials)
    except msgspec.ValidationError as fault:
        return error_response(400, ErrorCode.BAD_MESSAGE, f"body: {fault}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error_response(400, ErrorCode.BAD_MESSAGE, "body: not JSON")


def _refused(refused: AccountRefused) -> Response:
    status = _STATUS.get(refused.code, 500)
    headers: Headers = _retry_after() if status == 503 else ()
    if status == 401:
        headers = ((b"WWW-Authenticate", b'Chatd realm="chatd"'),)  # RFC 9110 11.6.1 asks for one with every 401
    return error_response(status, refused.code, refused.message, headers)


def _retry_after() -> Headers:
    return ((b"Retry-After", b"%d" % RETRY_AFTER_S),)


def _limit_headers(bucket: TokenBucket, now: float) -> Headers:
    return (
        (b"X-RateLimit-Limit", b"%d" % bucket.burst),
        (b"X-RateLimit-Remaining", b"%d" % bucket.remaining(now)),
        (b"X-RateLimit-Reset", b"%d" % math.ceil(bucket.full_in(now))),
    )


def _with_headers(response: Response, headers: Headers) -> Response:
    return msgspec.structs.replace(response, headers=(*response.headers, *headers))


def _allowed_origin(request: Request, origins: frozenset[str]) -> bytes | None:
    origin = request.head.only(b"origin")
    return origin if origin is not None and origin.isascii() and origin.decode("ascii") in origins else None


def _cors(origin: bytes) -> Headers:
    return (
        (b"Access-Control-Allow-Origin", origin),
        (b"Access-Control-Expose-Headers", b"Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"),
        (b"Vary", b"Origin"),
    )


def _preflight(routes: Routes, request: Request, origin: bytes | None) -> Response:
    """To an origin that is not listed the answer says nothing of CORS, and its browser stops there."""
    answers = routes.get(request.head.path)
    if answers is None and request.head.path != "*":
        return error_response(404, ErrorCode.NOT_FOUND, "no such page")
    methods = _methods(answers or {})
    headers: Headers = ((b"Allow", methods), (b"Vary", b"Origin"))
    if origin is not None:
        headers += (
            (b"Access-Control-Allow-Origin", origin),
            (b"Access-Control-Allow-Methods", methods),
            (b"Access-Control-Allow-Headers", b"Content-Type"),
            (b"Access-Control-Max-Age", b"%d" % PREFLIGHT_SECONDS),
        )
    return Response(204, headers=headers)
