"""Faults 9-12 of the disk, under load: sync that fails, is slow, and is not done; no space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.e2e.cluster import Cluster
from tests.faults.faults import injected
from tests.faults.load import Load, held, summary

pytestmark = pytest.mark.long
SECONDS = 15.0
Clusters = Callable[..., Cluster]
Told = Callable[[str], None]


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(
    "rule",
    ["fdatasync:error=EIO:when=5+7", "fdatasync:error=EIO", "pwrite64:error=ENOSPC:when=50+3", "fdatasync:delay_enter=200000"],
)
async def test_the_disk(clusters: Clusters, tmp_path: Path, told: Told, rule: str, nodes: int) -> None:
    """For a third of the time: refusals that may be repeated, and afterwards everything is as it should be."""
    load = Load(clusters(nodes), tmp_path)
    await load.prepare()

    async def disturb(load: Load) -> None:
        await trio.sleep(SECONDS / 3)
        with injected(load.cluster.server(0), rule):
            await trio.sleep(SECONDS / 3)

    verdict = await load.run(disturb, SECONDS)
    held(verdict)
    assert "delay" in rule or verdict.figures["refused"] > 0, "the fault was there"
    told(summary(verdict))
