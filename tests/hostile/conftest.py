"""What hostile clients, and somebody who has got hold of Redis, try on real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import FREELY, Cluster, close_opened


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
