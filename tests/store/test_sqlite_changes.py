"""SQLite behind the store's port: changes of messages, and what a deleted one leaves in the files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import cbor2
import msgspec
import pytest

from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import Appended, Pin
from tests.store.conformance import Engine, do, group, message, people
from tests.store.conformance_changes import ChangesConformance, delete, edit, react, reply
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
        await store.scrub()
        assert kept(path) == []
    path.unlink()
    async with engine() as store:
        await _say_and_delete(store, times)
        await store.scrub()
        assert kept(path) == []


async def test_a_delete_waits_for_no_checkpoint(engine: Any) -> None:
    """Who shares a commit with it has the ack no later; and where nothing was deleted, scrubbing does nothing."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (sent,) = await do(store, message(a, 1, "@b", SECRET))
        await store.scrub()
        asked: list[str] = []

        def remember(_: apsw.Cursor, sql: str, __: Any) -> bool:
            asked.append(sql)
            return True

        store._connection.exec_trace = remember
        await store.scrub()
        assert asked == []
        await do(store, delete(a, 2, sent.conv, 1))
        assert asked[-1] == "COMMIT"
        assert not [sql for sql in asked if "checkpoint" in sql]
        await store.scrub()
        assert asked[-1] == "PRAGMA wal_checkpoint(TRUNCATE)"


async def test_what_a_killed_process_left_is_scrubbed(path: Path, engine: Any) -> None:
    """It had deleted and not scrubbed; the next one knows nothing of that, and does it."""
    async with engine() as store, engine() as killed:
        a, _ = await people(store, "a", "b")
        (sent,) = await do(killed, message(a, 1, "@b", SECRET))
        await store.scrub()
        await do(killed, delete(a, 2, sent.conv, 1))
        assert "chatd.db" in kept(path)
        async with engine() as later:
            await later.scrub()
            assert kept(path) == []


async def test_a_store_that_closes_scrubs(path: Path, engine: Any) -> None:
    """The last chance of this process; another one has the files open, so that SQLite itself does nothing."""
    async with engine() as other:
        async with engine() as store:
            await _say_and_delete(store, 1)
            assert kept(path) != []
        assert kept(path) == []
        assert other is not store


async def test_a_reader_in_the_way_delays_that(path: Path, engine: Any) -> None:
    """It is not waited for; a later call that finds the way free does it."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        await do(store, message(a, 1, "@b", SECRET))
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        (gone,) = await do(store, delete(a, 2, (await store.standings(a.user_no, a.device_no))[0].conv, 1))
        assert isinstance(gone, Appended)
        await store.scrub()
        assert kept(path) == ["chatd.db-wal"]
        reader.execute("ROLLBACK")
        reader.close()
        await do(store, message(a, 3, "@b"))
        assert kept(path) == ["chatd.db-wal"]
        await store.scrub()
        assert kept(path) == []


async def test_changes_and_their_reads_use_indexes(engine: Any) -> None:
    """I9: no statement of a change, a thread or a list of pins goes through a whole table of the log."""
    statements: dict[str, Any] = {}

    def remember(_: apsw.Cursor, sql: str, bindings: Any) -> bool:
        statements[sql] = bindings
        return True

    def traced(connection: apsw.Connection) -> None:
        connection.exec_trace = remember

    async with engine():
        pass  # a migration does read all of it
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


async def test_kinds_are_counted_in_few_steps(engine: Any) -> None:
    """I9: a new kind on a message with 49,500 reactions costs a seek a kind, also if it is refused, as often as one likes."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (sent,) = await do(store, message(a, 1, "@b"))
        execute = store._connection.execute
        (no,) = execute("SELECT no FROM conversations WHERE id = ?", (sent.conv,)).fetchone()
        execute("BEGIN")
        store._connection.executemany(
            "INSERT INTO reactions (conv, target, emoji, user) VALUES (?, 1, ?, ?)",
            [(no, f"e{kind}", user) for kind in range(50) for user in range(100, 1090)],
        )
        execute("COMMIT")
        steps: list[None] = []
        store._connection.set_progress_handler(lambda: bool(steps.append(None)), 100)  # type: ignore[func-returns-value]
        (refused,) = await do(store, react(a, 2, sent.conv, 1, "new"))
        assert refused.code == "too_many_reactions"
        assert len(steps) < 50
        execute("DELETE FROM reactions WHERE emoji = 'e7'")
        steps.clear()
        (reacted,) = await do(store, react(a, 2, sent.conv, 1, "new"))
        assert isinstance(reacted, Appended)
        assert len(steps) < 50


async def test_names_that_nobody_has_cost_no_statement_each(engine: Any) -> None:
    """I9: 50 unknown mentions in a message are one statement; so is taking them back. Members are filed, others are not."""
    names = (*(f"nobody{n}" for n in range(47)), "b", "c", "a")
    async with engine() as store:
        a, b, c = await people(store, "a", "b", "c")
        conv = await group(store, a, "b")
        said = message(a, 1, conv)
        payload = cbor2.dumps({"type": "text", "body": "x", "mentions": list(names)})
        said = msgspec.structs.replace(said, mentions=names, payload=payload)
        asked: list[str] = []

        def remember(_: apsw.Cursor, sql: str, __: Any) -> bool:
            asked.append(sql)
            return True

        store._connection.exec_trace = remember
        await do(store, said)
        assert len(asked) < 10
        store._connection.exec_trace = None
        assert store._connection.execute("SELECT user, seq FROM mentions").fetchall() == [(b.user_no, 2)]
        assert c.user_no != b.user_no
        store._connection.exec_trace = remember
        asked.clear()
        await do(store, delete(a, 2, conv, 2))
        assert len(asked) < 20
        store._connection.exec_trace = None
        assert store._connection.execute("SELECT user, seq FROM mentions").fetchall() == []


async def test_a_branch_is_walked_in_few_steps(engine: Any) -> None:
    """I9: a thread that begins with a reply costs what it holds, and not the square of it."""
    async with engine() as store:
        (a,) = await people(store, "a")
        conv = await group(store, a)
        await do(store, message(a, 1, conv), reply(a, 2, conv, 2), *[reply(a, n, conv, 3) for n in range(3, 1003)])

        async def branch() -> None:
            page = await store.thread(a.user_no, conv, 3, after=None, before=None, limit=2, max_bytes=1000)
            assert [event.seq for event in page.events] == [1002, 1003]

        await branch()
        steps: list[None] = []
        (reader,) = store._idle
        reader.set_progress_handler(lambda: bool(steps.append(None)), 1000)  # type: ignore[func-returns-value]
        await branch()
        assert len(steps) < 300
