"""SQLite behind the store's port: the conformance suite, and what only a file can suffer."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import Appended
from chatd.store.port import NewerSchema, Unavailable
from tests.store.conformance import Engine, StoreConformance, do, message, people, whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chatd.db"


@pytest.fixture
def engine(path: Path) -> Engine:
    return partial(open_store, path)


@pytest.fixture(scope="module")
def open_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engine]:
    """A new database for each example of a property."""
    numbers = itertools.count()
    directory = tmp_path_factory.mktemp("examples")
    return lambda: partial(open_store, directory / f"{next(numbers)}.db")


class TestSqlite(StoreConformance):
    """The contract."""


async def test_the_file_is_private_and_synced(path: Path, engine: Any) -> None:
    """I1 rests on these settings: WAL, and an fsync at each commit; nobody else may read the file."""
    async with engine() as store:
        assert path.stat().st_mode & 0o777 == 0o600
        assert store._connection.pragma("synchronous") == 2
        assert store._connection.pragma("journal_mode") == "wal"


async def test_a_newer_schema_is_refused(path: Path, engine: Any) -> None:
    """A file of a newer chatd is not touched, and the text names both versions."""
    async with engine():
        pass
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(NewerSchema, match=r"99.*up to \d+:"):
        async with engine():
            pass


async def test_a_full_disk_refuses_and_recovers(engine: Any) -> None:
    """I1: when the disk is full nothing is acknowledged; when there is room again the same sends are stored, once."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (first,) = await do(store, message(a, 1, "@b"))
        store._connection.pragma("max_page_count", store._connection.pragma("page_count"))
        with pytest.raises(Unavailable):
            await do(store, *[message(a, n, "@b", str(n) * 2000) for n in range(2, 50)])
        outcomes = await do(store, *[message(a, n, "@b", str(n) * 2000) for n in range(2, 50)])
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        assert [seq for seq, _ in await whole(store, first.conv)] == list(range(1, 50))


CHILD = """
import sys, trio
sys.path.insert(0, {root!r})
from chatd.adapters.sqlite.store import open_store
from tests.store.conformance import do, message, people
async def main():
    async with open_store(__import__("pathlib").Path({path!r})) as store:
        a, _ = await people(store, "a", "b")
        for n in range(1, 100000):
            await do(store, message(a, n, "@b"))
            print(n, flush=True)
trio.run(main)
"""


async def test_what_was_acknowledged_survives_kill_9(path: Path, engine: Any) -> None:
    """I1: a process that commits is killed; all that it had said was stored is there, without a hole."""
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(path=str(path), root=root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    acked = 0
    while acked < 300:
        line = child.stdout.readline().strip()
        acked = int(line) if line.isdigit() else acked  # the child logs to the same place
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        standing = (await store.standings(a.user_no, a.device_no))[0]
        assert standing.last >= acked
        assert [seq for seq, _ in await whole(store, standing.conv)][:acked] == list(range(1, acked + 1))


async def test_dedupe_is_what_stops_repeats(engine: Any) -> None:
    """The guard shown to matter: without the cseq check a repeat would be refused by nothing but the index."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (first,) = await do(store, message(a, 1, "@b"))
        store._book.device(a.device_no).cseq = 0  # the guard off
        with pytest.raises(apsw.ConstraintError):
            await do(store, message(a, 1, "@b"))
        assert await whole(store, first.conv) == [(1, "message")]
