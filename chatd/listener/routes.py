"""What each HTTP request is answered with: the public API, and the operators' pages.

Owns no state. Waits for ``Accounts`` and, as long as its calls take, for the limiter.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, TypeVar

import msgspec
from chatd_protocol import json_form
from chatd_protocol.cbor import MAX_ITEMS
from chatd_protocol.codes import ErrorCode
from chatd_protocol.messages import MAX_DEVICE_CHARS
from msgspec import Meta, Struct

from chatd.accounts.service import AccountRefused, Accounts
from chatd.limits.addresses import Verdict
from chatd.limits.limiter import Limiter
from chatd.limits.rules import Operation, State
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

B = TypeVar("B", bound=Struct)
Answer = Callable[[Request], Awaitable[Response]]
Routes = dict[str, dict[str, Answer]]


class Credentials(Struct, frozen=True):
    """Who signs up or in; unknown keys are ignored, as everywhere on the wire."""

    name: str
    password: str


class PasswordChange(Struct, frozen=True):
    """``device``: the one whose sessions go on."""

    name: str
    password: str
    new_password: str
    device: Annotated[str, Meta(max_length=MAX_DEVICE_CHARS)] = ""


class Api:
    """The public port's HTTP. ``origins``: the web origins whose pages may read the answers (CORS), exact.

    A minute's sign-ins and new accounts are let through at once, so that an office behind one address can start its day.
    """

    def __init__(
        self, accounts: Accounts, readiness: Readiness, limiter: Limiter, *, origins: Collection[str] = ()
    ) -> None:
        self._accounts = accounts
        self._limiter = limiter
        self._origins = frozenset(origins)
        self._routes: Routes = {
            "/": {"GET": _front_page},
            "/v1/accounts": {"POST": self._post_account},
            "/v1/tokens": {"POST": self._post_token},
            "/v1/password": {"POST": self._post_password},
            "/v1/rate-limit": {"GET": self._get_rate_limit},
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
        return await self._limited(Operation.ACCOUNTS, request, self._create_account, Credentials)

    async def _post_token(self, request: Request) -> Response:
        return await self._limited(Operation.SIGN_IN, request, self._sign_in, Credentials)

    async def _post_password(self, request: Request) -> Response:
        # Counted as a sign-in: it says as well whether a password is right.
        return await self._limited(Operation.SIGN_IN, request, self._change_password, PasswordChange)

    async def _create_account(self, asked: Credentials) -> Response:
        await self._accounts.register(asked.name, asked.password)
        return json_response(201, {"name": asked.name})

    async def _sign_in(self, asked: Credentials) -> Response:
        signed = await self._accounts.sign_in(asked.name, asked.password)
        return json_response(200, {"token": signed.token, "expires_at": signed.expires_at_ms})

    async def _change_password(self, asked: PasswordChange) -> Response:
        signed = await self._accounts.change_password(asked.name, asked.password, asked.new_password, asked.device)
        return json_response(200, {"token": signed.token, "expires_at": signed.expires_at_ms})

    async def _limited(
        self, operation: Operation, request: Request, answer: Callable[[B], Awaitable[Response]], body: type[B]
    ) -> Response:
        """Count the request, whatever comes of it, then read it and answer."""

        async def read_and_answer() -> Response:
            asked = _body_of(request, body)
            return asked if isinstance(asked, Response) else await answer(asked)

        return await self._counted(operation, request, read_and_answer)

    async def _get_rate_limit(self, request: Request) -> Response:
        """Of the token's user, or of the address. It verifies a signature for whoever asks, so it has a limit itself."""

        async def answer() -> Response:
            token = _bearer(request)
            if token is None:
                return json_response(200, _states(await self._limiter.address_states(request.address)))
            return json_response(200, _states(await self._limiter.user_states(*await self._accounts.identify(token))))

        return await self._counted(Operation.API, request, answer)

    async def _counted(
        self, operation: Operation, request: Request, answer: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Count the request against its address; with ``answer``, unless there were too many, and how the limit stands."""
        verdict = await self._limiter.count(operation, request.address)
        if verdict.wait_s > 0:
            return _too_many(verdict)
        try:
            response = await answer()
        except AccountRefused as refused:
            response = _refused(refused)
        return _with_headers(response, limit_headers(verdict))


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


def _body_of(request: Request, body: type[B]) -> B | Response:
    """The body, or the answer that says what is wrong with it: the field and the type, never a value."""
    media_type = (request.head.only(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        return error_response(415, ErrorCode.BAD_MESSAGE, "Content-Type: application/json")
    try:
        if json_form.count_items(request.body) > MAX_ITEMS:
            return error_response(400, ErrorCode.BAD_MESSAGE, f"body: at most {MAX_ITEMS} items")
        return msgspec.convert(json_form.load_object(request.body), body)
    except msgspec.ValidationError as fault:
        return error_response(400, ErrorCode.BAD_MESSAGE, f"body: {fault}")
    except ValueError as fault:  # as strict as on the wire: what a proxy reads in another way than we do is no one's request
        return error_response(400, ErrorCode.BAD_MESSAGE, f"body: {fault}")


def _refused(refused: AccountRefused) -> Response:
    status = _STATUS.get(refused.code, 500)
    headers: Headers = _retry_after() if status == 503 else ()
    if status == 401:
        headers = ((b"WWW-Authenticate", b'Chatd realm="chatd"'),)  # RFC 9110 11.6.1 asks for one with every 401
    return error_response(status, refused.code, refused.message, headers)


def _retry_after() -> Headers:
    return ((b"Retry-After", b"%d" % RETRY_AFTER_S),)


def _bearer(request: Request) -> str | None:
    """What stands in ``Authorization``: the token, "" for what is none, None where nothing does."""
    given = request.head.only(b"authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(b" ")
    return token.strip().decode("ascii", "replace") if scheme.lower() == b"bearer" else ""


def _states(states: list[State]) -> dict[str, object]:
    return {"limits": [msgspec.to_builtins(state) for state in states]}


def limit_headers(verdict: Verdict) -> Headers:
    """How the limit stands that a request was counted against."""
    return (
        (b"X-RateLimit-Limit", b"%d" % verdict.limit),
        (b"X-RateLimit-Remaining", b"%d" % verdict.remaining),
        (b"X-RateLimit-Reset", b"%d" % math.ceil(verdict.reset_s)),
    )


def refusal_headers(verdict: Verdict) -> Headers:
    """As ``limit_headers``, for a request that was refused: also when to try again."""
    return (*limit_headers(verdict), (b"Retry-After", b"%d" % math.ceil(verdict.wait_s)))


def _too_many(verdict: Verdict) -> Response:
    message = "too many from this address; see Retry-After"
    return error_response(429, ErrorCode.RATE_LIMITED, message, refusal_headers(verdict))


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
            (b"Access-Control-Allow-Headers", b"Authorization, Content-Type"),
            (b"Access-Control-Max-Age", b"%d" % PREFLIGHT_SECONDS),
        )
    return Response(204, headers=headers)
