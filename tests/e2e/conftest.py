"""One server and two, each test on both: the two ends of a conversation are then on different nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from tests.e2e.cluster import OPENED, Cluster


@pytest.fixture(scope="module", params=[1, 2], ids=["one-node", "two-nodes"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Shared by a module: its tests use users of their own."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), request.param, "[limits]\nconnections_per_address = 2000\n")
    yield made
    made.stop()


@pytest.fixture(params=[1, 2], ids=["one-node", "two-nodes"])
def own_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """For tests that break it."""
    made = Cluster(tmp_path, request.param, "[limits]\nconnections_per_address = 2000\n")
    yield made
    made.stop()


@pytest.fixture(autouse=True)
async def _no_stream_left() -> AsyncIterator[None]:
    yield
    while OPENED:
        await trio.aclose_forcefully(OPENED.pop())
