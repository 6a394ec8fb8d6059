"""SQLite behind the store's port: changes of messages, and what a deleted one leaves in the files."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatd.adapters.sqlite import store as sqlite_store
from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import Appended, Pin
from tests.store.conformance import Engine, do, group, message, people
from tests.store.conformance_changes import ChangesConformance, delete, edit, reply
from tests.store.model import WINDOW_MS

SECRET = "a secret that nobody is to find"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chatd.db"


@pytest.fixture
def engine(path: Path) -> Engine:
    return partial(open_store, path, window_ms=WINDOW_MS)


@pytest.fixture(scope="module")
def open_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engine]:
    """A new database for each example of a property."""
    numbers = itertools.count()
    directory = tmp_path_factory.mktemp("examples")
    return lambda: partial(open_store, directory / f"{next(numbers)}.db", window_ms=WINDOW_MS)


class TestSqliteChanges(ChangesConformance):
    """The contract."""


def kept(path: Path) -> list[str]:
    """The files of the database in which the secret stands."""
    return [file.name for file in sorted(path.parent.glob(f"{path.name}*")) if SECRET.encode() in file.read_bytes()]


async def _say_and_delete(store: Any, times: int) -> None:
    a, _ = await people(store, "a", "b")
    (sent,) = await do(store, message(a, 1, "@b", SECRET))
    conv = sent.conv
    await do(store, *[edit(a, n + 2, conv, 1, f"{n} {SECRET * times}") for n in range(5)])
    (gone,) = await do(store, delete(a, 7, conv, 1))
    assert isinstance(gone, Appended)


@pytest.mark.parametrize("times", [1, 1000])
async def test_no_file_keeps_what_was_deleted(path: Path, engine: Any, times: int) -> None:
    """Bodies in a row and bodies on pages of their own: overwritten in the file, and the write-ahead log is emptied."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        await do(store, message(a, 1, "@b", SECRET))
        assert kept(path) == ["chatd.db-wal"]  # this test's own eyes
    async with engine() as store:
        assert kept(path) == ["chatd.db"]
        (gone,) = await do(store, delete(a, 2, (await store.standings(a.user_no, a.device_no))[0].conv, 1))
        assert isinstance(gone, Appended)
        assert kept(path) == []
    path.unlink()
    async with engine() as store:
        await _say_and_delete(store, times)
        assert kept(path) == []


async def test_a_reader_in_the_way_delays_that_to_a_later_commit(
    path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it; a later commit that finds the way free does it. It is not tried with every commit."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        await do(store, message(a, 1, "@b", SECRET))
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        (gone,) = await do(store, delete(a, 2, (await store.standings(a.user_no, a.device_no))[0].conv, 1))
        assert isinstance(gone, Appended)
        assert kept(path) == ["chatd.db-wal"]
        reader.execute("ROLLBACK")
        reader.close()
        await do(store, message(a, 3, "@b"))
        assert kept(path) == ["chatd.db-wal"]
        later = time.monotonic() + sqlite_store.SCRUB_AGAIN_SECONDS
        monkeypatch.setattr(sqlite_store, "monotonic", lambda: later)
        await do(store, message(a, 4, "@b"))
        assert kept(path) == []


async def test_changes_and_their_reads_use_indexes(engine: Any) -> None:
    """I9: no statement of a change, a thread or a list of pins goes through a whole table of the log."""
    statements: dict[str, Any] = {}

    def remember(_: apsw.Cursor, sql: str, bindings: Any) -> bool:
        statements[sql] = bindings
        return True

    def traced(connection: apsw.Connection) -> None:
        connection.exec_trace = remember

    apsw.connection_hooks.append(traced)
    try:
        async with engine() as store:
            await _do_everything(store)
    finally:
        apsw.connection_hooks.remove(traced)
    async with engine() as store:
        tables = {row[0] for row in store._connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        kinds = {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}
        judged = [sql for sql in statements if sql.split()[0] in kinds]
        assert len(judged) > 30
        for sql in judged:
            plan = [row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {sql}", statements[sql])]
            scanned = {step.split()[1] for step in plan if step.startswith("SCAN ")}
            assert not scanned & (tables | set("defhlnrpx")), (sql, plan)


async def _do_everything(store: Any) -> None:
    a, _ = await people(store, "a", "b")
    conv = await group(store, a, "b")
    await do(store, message(a, 1, conv), message(a, 2, conv), reply(a, 3, conv, 2), reply(a, 4, conv, 4), edit(a, 5, conv, 4))
    await do(store, *[Pin(author=a, conv=conv, seq=2, on=on) for on in (True, False, True)], delete(a, 6, conv, 3))
    for seq in (2, 4):
        for where in ({"after": 1, "before": None}, {"after": None, "before": 9}):
            assert await store.thread(a.user_no, conv, seq, limit=5, max_bytes=1000, **where) is not None
    assert await store.pins(a.user_no, conv, after=0, max_bytes=1000) is not None
