"""One server and two, each test on both: the two ends of a conversation are then on different nodes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chatd.adapters.valkey.program import find_program
from tests.e2e.cluster import Cluster, close_opened


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


@pytest.fixture
def deaf_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes, each on a Valkey of its own: every pub/sub message between them is silently lost."""
    made = Cluster(tmp_path, 1, "[delivery]\nrepair_seconds = 1.0\n")
    other = tmp_path / "other"
    other.mkdir()
    process = subprocess.Popen(
        [find_program(), "--port", "0", "--unixsocket", str(other / "v.sock"), "--save", "", "--dir", str(other)],
        stdout=subprocess.DEVNULL,
    )
    made.environ = {"CHATD_REDIS_URL": f"unix://{other / 'v.sock'}"}
    made.start()
    yield made
    made.stop()
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(autouse=True)
async def _no_stream_left() -> AsyncIterator[None]:
    yield
    await close_opened()
