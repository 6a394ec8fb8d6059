"""Faults on real processes take minutes: they run with ``--faults`` (``make test-faults``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import FREELY, Cluster, close_opened
from tests.faults.machine import Machine

Clusters = Callable[..., Cluster]
Machines = Callable[..., tuple[Cluster, Machine]]


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Clusters]:
    """Makes clusters of real nodes, and ends them: ``clusters(nodes, settings)``."""
    made: list[Cluster] = []

    def make(nodes: int, settings: str = FREELY, directory: Path | None = None, **more: Any) -> Cluster:
        if directory is None:
            directory = tmp_path / f"cluster{len(made)}"
            directory.mkdir()
        made.append(Cluster(directory, nodes, settings, **more))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def machines(clusters: Clusters, tmp_path: Path) -> Machines:
    """Makes such clusters, each on a machine in the test's hands: ``machines(nodes, sync_ms=100)``."""
    numbers = count()

    def make(nodes: int, **how: Any) -> tuple[Cluster, Machine]:
        directory = tmp_path / f"machine{next(numbers)}"
        machine = Machine(directory, **how)
        return clusters(nodes, directory=directory, environ=machine.environ), machine

    return make


@pytest.fixture(autouse=True)
async def _no_stream_left() -> AsyncIterator[None]:
    yield
    await close_opened()
