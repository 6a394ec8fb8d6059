"""A server on a real socket for each test: ``served(respond)`` gives a function that connects to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio

from chatd.listener.http import DEADLINES, LIMITS, Deadlines, Limits, Respond, Upgrade, serve_http

Connect = Callable[[], Awaitable[trio.SocketStream]]
Served = Callable[..., AbstractAsyncContextManager[Connect]]


@asynccontextmanager
async def _served(
    respond: Respond, *, deadlines: Deadlines = DEADLINES, limits: Limits = LIMITS,
    upgrades: list[Upgrade] | None = None,
) -> AsyncIterator[Connect]:
    """Serve; a fault that leaves ``serve_http`` would fail the test, for it reaches this nursery."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            upgrade = await serve_http(stream, b"", respond, address="192.0.2.1", deadlines=deadlines, limits=limits)
            if upgrade is not None and upgrades is not None:
                upgrades.append(upgrade)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
            port = listeners[0].socket.getsockname()[1]
            yield partial(trio.open_tcp_stream, "127.0.0.1", port)
            nursery.cancel_scope.cancel()


@pytest.fixture
def served() -> Served:
    return _served
