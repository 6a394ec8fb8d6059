"""SQLite behind the store's port: the conformance suite, and what only a file can suffer."""

from __future__ import annotations

import gc
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from chatd.adapters.sqlite.commit import Commit
from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import (
    AddMembers,
    Appended,
    CreateAccount,
    Mark,
    OpenDevice,
    RemoveMembers,
    Rename,
    Repeated,
    SetBlock,
    SetPassword,
    SetRole,
    SignOut,
)
from chatd.store.port import MAX_DEVICE_TOKENS, NewerSchema, Standing, Unavailable
from tests.store.conformance import NOW, Engine, StoreConformance, do, group, message, people, whole
from tests.store.conformance_devices import DevicesConformance
from tests.store.conformance_memberships import MembershipsConformance


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


class TestSqliteMemberships(MembershipsConformance):
    """The same of who comes back."""


class TestSqliteDevices(DevicesConformance):
    """The contract, of devices and sessions."""


async def test_the_file_is_private_and_synced(path: Path, engine: Any) -> None:
    """I1 rests on these settings: WAL, and an fsync at each commit; nobody else may read the file."""
    async with engine() as store:
        assert path.stat().st_mode & 0o777 == 0o600
        assert store._connection.pragma("synchronous") == 2
        assert store._connection.pragma("journal_mode") == "wal"


async def test_who_reads_cannot_write(engine: Any) -> None:
    """Queries run on connections that change nothing, whatever a query should ever say; search's, too."""
    async with engine() as store:
        await people(store, "a")
        for readers in (store._readers, store._searchers):
            with pytest.raises(Unavailable, match="ReadOnlyError"):
                await readers.read(lambda connection: connection.execute("DELETE FROM users"))
        assert await store.account("a") is not None


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


async def test_a_read_that_fails_says_why_and_the_next_one_works(engine: Any) -> None:
    """Out of memory SQLite ends the transaction by itself: still ``Unavailable``, and that connection is not used again."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (first, *_) = await do(store, *[message(a, n, "@b", "y" * 60_000) for n in range(1, 31)])
        assert await whole(store, first.conv)
        (reader,) = store._idle
        apsw.hard_heap_limit(apsw.memory_used() + 500_000)
        try:
            with pytest.raises(Unavailable, match="NoMem"):
                await whole(store, first.conv)
        finally:
            apsw.hard_heap_limit(0)
        assert reader not in store._idle
        assert [seq for seq, _ in await whole(store, first.conv)] == list(range(1, 31))


async def test_a_wrong_cursor_costs_no_reader(engine: Any) -> None:
    """A client may send what cursors it likes; a connection is opened anew only for the store's own errors."""
    async with engine() as store:
        (a,) = await people(store, "a")
        assert await store.standings(a.user_no, a.device_no) == []
        readers = list(store._idle)
        with pytest.raises(ValueError, match="cursor"):
            await store.conversations(a.user_no, a.device_no, "x", 3)
        assert store._idle == readers


@pytest.mark.parametrize("bound", [1, 5, 1000])
async def test_standings_that_are_asked_for_together(engine: Any, monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """Each of many who ask at the same time is told of their own, however few rows an answer may have."""
    monkeypatch.setattr("chatd.adapters.sqlite.reads.STANDINGS_ROWS", bound)
    names = [f"user{number}" for number in range(12)]
    async with engine() as store:
        a, *others = await people(store, "a", *names)
        for number in range(4):
            conv = await group(store, a, *names[number::3])
            await do(store, Mark(author=others[number], conv=conv, delivered=1, read=1))
        alone = [await store.standings(who.user_no, who.device_no) for who in others]
        together: dict[int, list[Standing]] = {}

        async def ask(place: int) -> None:
            together[place] = await store.standings(others[place].user_no, others[place].device_no)

        async with trio.open_nursery() as nursery:
            for place in range(len(others)):
                nursery.start_soon(ask, place)
        assert [together[place] for place in range(len(others))] == alone
        assert {len(stands) for stands in alone} == {1, 2}


async def test_payloads_beyond_the_bound_stay_in_sqlite(engine: Any) -> None:
    """I9: of 100 events of 60 kB, 200 kB are wanted; what SQLite hands over is that in hex, not all 12 MB."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (first, *_) = await do(store, *[message(a, n, "@b", "y" * 60_000) for n in range(1, 101)])
        conv = await group(store, a)
        await do(store, message(a, 101, conv, "y" * 60_000))
        handed: list[int] = []

        def measure(cursor: apsw.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
            handed.append(len(row[0]))
            return row

        await store.standings(a.user_no, a.device_no)  # opens the reader
        for reader in store._idle:
            reader.row_trace = measure
        for after, before in [(0, None), (None, None), (None, 50)]:
            page = await store.page(a.user_no, first.conv, after=after, before=before, limit=100, max_bytes=200_000)
            assert len(page.events) == 3
        assert len(await store.log(first.conv, 0, 100, max_bytes=200_000)) == 3
        assert len((await store.conversations(a.user_no, a.device_no, None, 10, max_bytes=70_000))[0]) == 1
        assert len(handed) == 8
        assert max(handed) < 450_000


async def test_no_statement_reads_a_whole_table(engine: Any) -> None:
    """I9: each statement of reads and commits finds its rows by an index, however long the log; a repeat, too."""
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
        judged = [sql for sql in statements if sql.split()[0] in {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}]
        assert len(judged) > 30
        for sql in judged:
            aliases = set(re.findall(r"\b(?:FROM|JOIN) (?:" + "|".join(tables) + r") (\w+)", sql)) - {"WHERE", "JOIN", "GROUP"}
            plan = [row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {sql}", statements[sql])]
            scanned = {step.split()[1] for step in plan if step.startswith("SCAN ")}
            assert not scanned & (tables | aliases), (sql, plan)


async def _do_everything(store: Any) -> None:
    a, b = await people(store, "a", "b")
    await do(store, CreateAccount(user="c", password_hash="h"))
    conv = await group(store, a, "b")
    (sent,) = await do(store, message(a, 1, "@b"))
    await do(
        store, SetRole(author=a, conv=conv, user="b", role="admin"), Rename(author=a, conv=conv, title="t"),
        AddMembers(author=a, conv=conv, users=("c",)), RemoveMembers(author=a, conv=conv, users=("b",)),
        SetBlock(author=a, user="b", on=True), SetBlock(author=a, user="b", on=False),
        Mark(author=b, conv=conv, delivered=1, read=0),
    )  # fmt: skip
    (repeat,) = await do(store, message(a, 1, "@b"))
    assert isinstance(repeat, Repeated)
    async with open_store(store._path) as other:  # remembers nothing: what is cached above is read here
        await do(other, message(a, 2, sent.conv), message(b, 1, "@a"))
    for where in ({"after": 0, "before": None}, {"after": None, "before": None}):
        await store.page(a.user_no, conv, limit=10, max_bytes=1000, **where)
    token = (await store.committed(None)).token
    await store.committed(token - 1)
    await store.log(conv, 0, 10)
    await store.standings(a.user_no, a.device_no)
    await store.standing(a.user_no, a.device_no, conv)
    await store.conversations(a.user_no, a.device_no, None, 10)
    await store.members(a.user_no, conv)
    await store.blocked(a.user_no)
    await store.account("a")


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


async def _read_until(child: trio.Process, wanted: int, errors: Path) -> int:
    """The last number that the child said, once it is ``wanted``; what it wrote to stderr if it dies or says nothing."""
    assert child.stdout is not None
    said, acked = b"", 0
    with trio.move_on_after(60) as guard:
        while acked < wanted:
            chunk = await child.stdout.receive_some()
            assert chunk != b"", f"the child died: {errors.read_text()}"
            *lines, said = (said + chunk).split(b"\n")
            acked = max([acked, *(int(line) for line in lines if line.isdigit())])  # the child logs to the same place
    assert not guard.cancelled_caught, f"the child stopped at {acked}: {errors.read_text()}"
    return acked


async def _acked_by_a_child_killed(code: str, errors: Path) -> int:
    """What a process said was stored before it was killed at 300 or later."""
    with errors.open("wb") as stderr:
        child = await trio.lowlevel.open_process([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stderr)
    try:
        return await _read_until(child, 300, errors)
    finally:
        child.kill()
        with trio.CancelScope(shield=True):
            await child.wait()
            assert child.stdout is not None
            await child.stdout.aclose()


async def test_a_child_that_dies_is_a_failure_and_not_a_hang(tmp_path: Path) -> None:
    """The next test's own guard: it ends when its child does, and shows what the child said."""
    with pytest.raises(AssertionError, match="no such luck"), trio.fail_after(30):
        await _acked_by_a_child_killed("raise SystemExit('no such luck')", tmp_path / "stderr")


async def test_what_was_acknowledged_survives_kill_9(path: Path, engine: Any) -> None:
    """I1: a process that commits is killed; all that it had said was stored is there, without a hole."""
    root = str(Path(__file__).parents[2])
    acked = await _acked_by_a_child_killed(CHILD.format(path=str(path), root=root), path.with_name("stderr"))
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
        store._cache.device(a.device_no).cseq = 0  # the guard off
        with pytest.raises(apsw.ConstraintError):
            await do(store, message(a, 1, "@b"))
        assert await whole(store, first.conv) == [(1, "message")]


async def test_of_a_commit_that_failed_nothing_stays(engine: Any) -> None:
    """Not in the transaction, and not in what is remembered; whatever ended it, a bug, too."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (first,) = await do(store, message(a, 1, "@b"))
        store._cache.device(a.device_no).cseq = 0
        with pytest.raises(apsw.ConstraintError):
            await do(store, message(a, 1, "@b"))
        (second,) = await do(store, message(a, 2, "@b"))
        assert isinstance(second, Appended)
        assert await whole(store, first.conv) == [(1, "message"), (2, "message")]


async def test_gone_devices_cost_nothing(path: Path, engine: Any) -> None:
    """I9: rows of devices that were signed out stay, without a bound; what a user does with devices never walks over them."""
    async with engine() as store:
        (mine,) = await people(store, "a")
        asked: list[tuple[str, Any]] = []

        def note(_: apsw.Cursor, sql: str, values: Any) -> bool:
            asked.append((sql, values))
            return True

        store._connection.exec_trace = note
        for number in range(MAX_DEVICE_TOKENS + 1):  # one more than are kept, so that one is taken back
            token = bytes([number]) * 16
            await do(store, OpenDevice(user="a", device="phone", token=token, expires=NOW * 2), now=NOW + number)
        await do(store, SignOut(author=mine, device="phone"), SetPassword(user="a", old_hash=None, new_hash="h"))
        store._connection.exec_trace = None
        of_users = {sql: values for sql, values in asked if "FROM devices WHERE user" in sql}
        plans = [plan[3] for sql in of_users for plan in store._connection.execute(f"EXPLAIN QUERY PLAN {sql}", of_users[sql])]
        assert len(of_users) == 5
        assert set(plans) == {
            "SEARCH devices USING INDEX devices_here (user=?)",
            "SEARCH devices USING INDEX sqlite_autoindex_devices_1 (user=? AND name=?)",
            "SEARCH devices USING COVERING INDEX sqlite_autoindex_devices_1 (user=? AND name=?)",
        }


async def test_a_commit_leaves_nothing_to_the_cyclic_collector(tmp_path: Path) -> None:
    """Which runs seldom, so that what is left to it, by every commit, is memory that is not had back for long."""
    async with open_store(tmp_path / "chatd.db") as store:
        gc.collect()
        gc.disable()
        try:
            await store.commit([CreateAccount(user="a", password_hash="")], NOW)
            assert [one for one in gc.get_objects() if type(one) is Commit] == []
        finally:
            gc.enable()
