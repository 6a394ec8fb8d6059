"""Links for the tests of this folder: on a real Valkey, or on a TCP server that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from chatd.adapters.redis.address import parse_address
from chatd.adapters.redis.link import Link, Reply
from chatd.adapters.valkey import EmbeddedValkey

MakeLink = Callable[..., Link]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server of this test's own."""
    async with EmbeddedValkey(tmp_path).running() as running:
        yield running


@pytest.fixture
def make_link() -> MakeLink:
    """Return a maker of links: url, and optionally on_push and on_down."""

    def make(
        url: str,
        on_push: Callable[[list[Reply]], None] = lambda _push: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> Link:
        return Link(
            parse_address(url),
            name="test",
            jitter=lambda: 0.5,
            on_push=on_push,
            on_up=trio.lowlevel.checkpoint,
            on_down=on_down,
        )

    return make
