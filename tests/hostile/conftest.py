"""What hostile clients, and somebody who has got hold of Redis, try on real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, close_opened

FREELY = """
[limits]
messages_per_second = 10000
messages_burst = 10000
connections_per_address = 2000
"""
"""Rate limits are not what is tried."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes, for one test."""
    made = Cluster(tmp_path, 2, FREELY)
    yield made
    made.stop()


@pytest.fixture
async def no_stream_left() -> AsyncIterator[None]:
    """For modules whose tests are all of Trio's."""
    yield
    await close_opened()
