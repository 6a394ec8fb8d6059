"""The disk, under load: sync that fails, is slow, and is not done; no space."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.faults.conftest import Clusters
from tests.faults.injections import injected, wait_attached
from tests.faults.load import Load, held, summary

pytestmark = pytest.mark.long
SECONDS = 15.0


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(
    "rule",
    ["fdatasync:error=EIO:when=5+7", "fdatasync:error=EIO", "pwrite64:error=ENOSPC:when=50+3", "fdatasync:delay_enter=200000"],
)
async def test_load_while_syncs_fail_or_lag(
    clusters: Clusters, tmp_path: Path, report_figures: ReportFigures, rule: str, nodes: int
) -> None:
    """For a third of the time: refusals that may be repeated, and afterwards everything is as it should be."""
    load = Load(clusters(nodes), tmp_path)
    await load.prepare()
    times = 0

    async def disturb(load: Load) -> None:
        nonlocal times
        server = load.cluster.server(0)
        await trio.sleep(SECONDS / 3)
        with injected(server, rule) as count:
            await wait_attached(server)
            await trio.sleep(SECONDS / 3)
            times = count()

    verdict = await load.run(disturb, SECONDS)
    held(verdict)
    assert times > 0, "no call was disturbed"
    assert "delay" in rule or verdict.refusals["unavailable"] > 0, "nobody was refused for it"
    report_figures(f"{times} calls: {summary(verdict)}")
