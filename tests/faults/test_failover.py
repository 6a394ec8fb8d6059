"""A replica that lags takes the place of its Redis; two Redis servers, each of them the one for one node."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conftest import ReportFigures
from tests.e2e.cluster import Cluster
from tests.faults.conftest import Clusters
from tests.faults.load import Load, held, summary
from tests.faults.proxy import proxied
from tests.faults.valkey import Valkey, valkeys

pytestmark = pytest.mark.long
LAG = 1.0
LAST = "the last word"
TURNS = 3
APART = 8.0


async def _start(cluster: Cluster, *ports: int) -> None:
    """A node for each, with that as its Redis."""
    for port in ports:
        cluster.environ = {"CHATD_REDIS_URL": f"redis://127.0.0.1:{port}"}
        await trio.to_thread.run_sync(cluster.start)


async def test_a_replica_that_lags_takes_over(clusters: Clusters, tmp_path: Path, report_figures: ReportFigures) -> None:
    """What it had not got yet is gone: leases, presence, functions; and all that was under way on pub/sub."""
    place, cluster = tmp_path / "place", clusters(0)
    with valkeys(tmp_path) as servers:
        servers.append(Valkey(tmp_path))
        place.write_text(str(servers[0].port))
        async with proxied(f"@{place}") as port:
            await _start(cluster, port, port)
            load = Load(cluster, tmp_path)
            await load.prepare()
            lagged = 0

            async def disturb(_: Load) -> None:
                nonlocal lagged
                for _turn in range(TURNS):
                    servers.append(Valkey(tmp_path))
                    lagged += await _fail_over(servers[-2], servers[-1], place)

            verdict = await load.run(disturb, 0)
            held(verdict)
    assert lagged, "each replica had everything"
    report_figures(f"{TURNS} times, {lagged} behind: {summary(verdict)}")


async def _fail_over(before: Valkey, after: Valkey, place: Path) -> bool:
    """``after`` replicates through a slow line for a while, and is then all that there is. Whether something that was there last
    had not come to it."""
    async with proxied(before.port, delay=LAG) as line:
        await after.ask("REPLICAOF", "127.0.0.1", str(line), until=b"OK")
        await after.ask("INFO", "replication", until=b"master_link_status:up")
        await trio.sleep(3 * LAG)
        await before.ask("SET", LAST, "x")
        before.kill()
        await after.ask("REPLICAOF", "NO", "ONE", until=b"OK")
        place.write_text(str(after.port))
        known = await after.ask("EXISTS", LAST)
    await trio.sleep(3 * LAG)
    return known == b":0\r\n"


async def test_a_split_brain(clusters: Clusters, tmp_path: Path, report_figures: ReportFigures) -> None:
    """Each node has a Redis of its own for a while: neither hears the other, and both write to one store."""
    places, cluster = [tmp_path / "one", tmp_path / "other"], clusters(0)
    with valkeys(tmp_path) as servers:
        servers += [Valkey(tmp_path), Valkey(tmp_path)]
        for place in places:
            place.write_text(str(servers[0].port))
        async with proxied(f"@{places[0]}") as one, proxied(f"@{places[1]}") as other:
            await _start(cluster, one, other)
            load = Load(cluster, tmp_path)
            await load.prepare()
            listening: list[int] = []

            async def disturb(_: Load) -> None:
                for there in (1, 0):
                    await trio.sleep(APART / 2)
                    places[1].write_text(str(servers[there].port))
                    for kind in ("normal", "pubsub"):
                        await servers[1 - there].ask("CLIENT", "KILL", "TYPE", kind)
                    await trio.sleep(APART)
                    listening.append(sum([await _has_subscribers(server) for server in servers]))

            verdict = await load.run(disturb, 0)
            held(verdict)
    assert listening == [2, 1], "servers that nodes listen to, while they are apart and when they are not"
    report_figures(f"{APART:g} s apart: {summary(verdict)}")


async def _has_subscribers(server: Valkey) -> bool:
    return not (await server.ask("PUBSUB", "CHANNELS")).startswith(b"*0\r\n")
