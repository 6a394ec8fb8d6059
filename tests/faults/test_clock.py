"""The wall clock jumps: order, time-outs, leases and dedupe go by the store and by the monotonic clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.faults.conftest import Machines
from tests.faults.load import Load, held, summary

pytestmark = pytest.mark.long
HOUR = 3600.0
JUMPS = (HOUR, -HOUR, 0.5, -0.5, 0.0, 12 * HOUR, 0.0, -0.5, 0.5)
EACH = 3.0


async def test_the_wall_clock_jumps(machines: Machines, tmp_path: Path, report_figures: ReportFigures) -> None:
    """An hour and half a day on, an hour back, and to and fro: nobody is disconnected for it, and nothing is out of order."""
    cluster, machine = machines(2)
    load = Load(cluster, tmp_path, stays=1e9, moving=False, lifetime=7 * 24 * 3600)
    await load.prepare()

    async def disturb(_: Load) -> None:
        await trio.sleep(EACH)
        for seconds in JUMPS:
            machine.set_wall_clock(seconds)
            await trio.sleep(EACH)

    verdict = await load.run(disturb, 0)
    held(verdict)
    sessions, devices = verdict.figures["sessions"], len(load.clients)
    assert sessions == devices, "somebody was disconnected"
    report_figures(f"{len(JUMPS)} jumps: {summary(verdict)}")
