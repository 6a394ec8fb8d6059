"""A real Valkey, and limiters on it: each is what one node has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from chatd.adapters.redis.limits import RedisLimits
from chatd.adapters.valkey import EmbeddedValkey
from chatd.limits.limiter import Limiter
from chatd.limits.rules import Tiers
from chatd.ops.metrics import Metrics
from chatd.options import Limits

DEADLINE_SECONDS = 30.0
Noded = Callable[..., AbstractAsyncContextManager[Limiter]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server of this test's own."""
    async with EmbeddedValkey(tmp_path).running() as running:
        yield running


@asynccontextmanager
async def _shared(url: str) -> AsyncIterator[RedisLimits]:
    up = trio.Event()
    limits = RedisLimits(url, on_up=up.set, jitter=lambda: 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.run)
        with trio.fail_after(DEADLINE_SECONDS):
            await up.wait()
        yield limits
        nursery.cancel_scope.cancel()


@pytest.fixture
def shared() -> Callable[[str], AbstractAsyncContextManager[RedisLimits]]:
    """A link to the server, up and with the functions loaded."""
    return _shared


@asynccontextmanager
async def _noded(url: str, limits: Limits) -> AsyncIterator[Limiter]:
    limiter = Limiter(Tiers(limits), Metrics())
    up = trio.Event()

    def link_up() -> None:
        limiter.link_up()
        up.set()

    redis = RedisLimits(url, on_up=link_up, on_down=limiter.link_down, jitter=lambda: 0.5)
    limiter.connect(redis)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis.run)
        nursery.start_soon(limiter.run)
        with trio.fail_after(DEADLINE_SECONDS):
            await up.wait()
        yield limiter
        nursery.cancel_scope.cancel()


@pytest.fixture
def noded() -> Noded:
    """A node's limiter, up."""
    return _noded
