"""The loss of power: what is acknowledged is on the disk, and not only on its way there (I1)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import Cluster, Peer
from tests.faults.conftest import Machines
from tests.faults.load import Load, held, summary
from tests.faults.machine import Machine, cut_power

SAID = 50
TURNS = 5


async def _told_after_the_loss(cluster: Cluster, machine: Machine) -> list[str]:
    """What of the acknowledged messages is left."""
    ann = await Peer.open(cluster, 0, "ann")
    made = await ann.ask("create", title="t", members=[])
    for number in range(SAID):
        ack = await ann.say(made["conv"], f"number {number}")
        assert ack["t"] == "ack"
    await trio.to_thread.run_sync(cut_power, cluster, machine)
    again = await Peer.open(cluster, 0, "ann", "other")
    page = await again.ask("history", conv=made["conv"])
    return [event["body"] for event in page.get("events", []) if event["kind"] == "message"]


async def test_what_is_acknowledged_outlives_a_loss_of_power(machines: Machines) -> None:
    cluster, machine = machines(1)
    assert await _told_after_the_loss(cluster, machine) == [f"number {n}" for n in range(SAID)]


async def test_a_disk_that_only_says_that_it_has_synced_loses_it(machines: Machines) -> None:
    """The proof can fail: the same with the write-ahead log's syncs switched off."""
    cluster, machine = machines(1, forgets="-wal")
    assert len(await _told_after_the_loss(cluster, machine)) < SAID


@pytest.mark.long
@pytest.mark.parametrize("nodes", [1, 2])
async def test_power_is_lost_under_load(machines: Machines, tmp_path: Path, report_figures: ReportFigures, nodes: int) -> None:
    cluster, machine = machines(nodes)
    load = Load(cluster, tmp_path)
    await load.prepare()
    lost: list[int] = []

    async def disturb(load: Load) -> None:
        for _ in range(TURNS):
            await trio.sleep(1 + 2 * load.random.random())
            lost.append(await trio.to_thread.run_sync(cut_power, cluster, machine))

    verdict = await load.run(disturb, 0)
    held(verdict)
    assert any(lost), "there was something that had not been synced"
    report_figures(f"{TURNS} times, {sum(lost):,} bytes lost: {summary(verdict)}")
