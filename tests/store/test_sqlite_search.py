"""SQLite behind the store's port: searching, and what its index keeps, leaves and lets go."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from chatd.adapters.sqlite import search, search_index
from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import AddMembers, Author
from chatd.store.port import Search, Store, Unavailable
from chatd.store.query import Term
from tests.store.conformance import Engine, do, group, message, people
from tests.store.conformance_changes import delete, edit
from tests.store.conformance_search import BIG, SearchConformance, found, indexed, wanted

SECRET = "xylophonist"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chatd.db"


@pytest.fixture
def engine(path: Path) -> Engine:
    return partial(open_store, path)


class SharedStore:
    """One database for all examples of a property; each has the same user, and a conversation of its own if it likes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cseq = 1

    def __call__(self, ask: Callable[[Store, Author], Awaitable[None]]) -> None:
        async def run() -> None:
            async with open_store(self.path) as store:
                (me,) = await people(store, "me")
                await ask(store, me)

        trio.run(run)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> SharedStore:
    return SharedStore(tmp_path_factory.mktemp("shared") / "chatd.db")


class TestSqliteSearch(SearchConformance):
    """The contract."""


def kept(path: Path) -> list[str]:
    """The files beside the log's in which the secret stands."""
    return [file.name for file in sorted(path.parent.iterdir()) if SECRET.encode() in file.read_bytes()]


@pytest.mark.parametrize("times", [1, 500])
@pytest.mark.parametrize("by", [edit, delete])
async def test_the_index_lets_go_for_good(path: Path, engine: Any, by: Any, times: int) -> None:
    """What is deleted or edited away is in none of its files, once the index has come so far."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (sent, *_) = await do(store, *[message(a, n, "@b", f"word{n} and more") for n in range(1, 301)])
        await do(store, message(a, 301, sent.conv, f"{SECRET} " * times), message(a, 302, sent.conv, "last"))
        await indexed(store)
        assert await found(store, a, SECRET) == [f"{SECRET} " * times]
        assert any(name.startswith("chatd-search") for name in kept(path))
        await do(store, by(a, 303, sent.conv, 301))
        await indexed(store)
        assert [name for name in kept(path) if name.startswith("chatd-search")] == []


async def test_without_secure_delete_the_words_would_stay(
    path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard shown to matter: FTS5 by itself only marks the words of what is deleted."""
    tables = search_index._TABLES.replace("INSERT INTO found (found, rank) VALUES ('secure-delete', 1);", "")
    monkeypatch.setattr(search_index, "_TABLES", tables)
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        (sent, *_) = await do(store, message(a, 1, "@b", SECRET), *[message(a, n, "@b", f"w{n}") for n in range(2, 300)])
        await indexed(store)
        await do(store, delete(a, 300, sent.conv, 1))
        await indexed(store)
        assert any(name.startswith("chatd-search") for name in kept(path))


@pytest.mark.parametrize(
    ("guard", "leaks"),
    [("AND NOT e.deleted", "deleted"), ("AND coalesce(x.seq, 0) = coalesce(l.seq, 0)", "edited"),
     ("AND m.left IS NULL AND e.seq >= m.first", "before")],
)  # fmt: skip
async def test_each_guard_is_what_hides(engine: Any, monkeypatch: pytest.MonkeyPatch, guard: str, leaks: str) -> None:
    """With it nothing is found that may not be; without it exactly that is: by an index that has not come so far, or that
    knows the conversation's number but not from where on a member may read."""
    async with engine() as store:
        a, b = await people(store, "a", "b")
        conv = await group(store, a)
        await do(store, message(a, 1, conv, f"{SECRET} before"))
        await do(store, AddMembers(author=a, conv=conv, users=("b",)))
        await do(store, message(a, 2, conv, f"{SECRET} deleted"), message(a, 3, conv, f"{SECRET} edited"))
        await indexed(store)
        await do(store, delete(a, 4, conv, 4), edit(a, 5, conv, 5, "harmless"))
        assert await found(store, b, SECRET) == []
        where = {"deleted": 4, "edited": 5, "before": 2}
        assert guard in search._PAGE
        monkeypatch.setattr(search, "_PAGE", search._PAGE.replace(guard, ""))
        events, _ = await store.search(b.user_no, wanted(SECRET), cursor=None, limit=9, max_bytes=BIG)
        assert [event.seq for event in events] == [where[leaks]]


async def test_the_index_is_private_and_beside_the_log(path: Path, engine: Any) -> None:
    """Nobody else may read it, and none of it is in the log's own file."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        await do(store, message(a, 1, "@b", "word"))
        await indexed(store)
        assert path.with_name("chatd-search.db").stat().st_mode & 0o777 == 0o600
        names = [row[0] for row in store._connection.execute("SELECT name FROM sqlite_schema")]
        assert not [name for name in names if name.startswith("found")]


async def test_a_commit_waits_for_no_index(engine: Any) -> None:
    """While a batch is indexed, and its transaction open, the log is written to and read as ever."""
    async with engine() as store:
        a, b = await people(store, "a", "b")
        (sent,) = await do(store, message(a, 1, "@b", "word"))
        await indexed(store)
        index = store._index._connection
        index.execute("BEGIN IMMEDIATE")
        index.execute("UPDATE progress SET no = no")
        index.execute("SELECT count(*) FROM log.events").fetchall()
        store._busy_ms = 0
        await do(store, message(a, 2, sent.conv, "word"), delete(a, 3, sent.conv, 1))
        assert await found(store, b, "word") == []
        async with open_store(store._path) as other:
            assert await other.index() == 0  # another one is at it
        index.execute("ROLLBACK")
        await indexed(store)
        assert await found(store, b, "word") == ["word"]


async def test_an_index_that_is_lost_is_made_anew(path: Path, engine: Any) -> None:
    """Removed, of another version, or left behind by a log that was put back from a copy: all is found again."""
    async with engine() as store:
        a, b = await people(store, "a", "b")
        await do(store, *[message(a, n, "@b", f"word {n}") for n in range(1, 6)])
        await indexed(store)
    copy = path.read_bytes()
    async with engine() as store:
        await do(store, *[message(a, n, "@b", f"later {n}") for n in range(6, 11)])
        await indexed(store)
        assert len(await found(store, b, "later")) == 5
    for file in path.parent.glob("chatd.db*"):
        file.unlink()
    path.write_bytes(copy)
    async with engine() as store:
        await indexed(store)
        await do(store, message(a, 6, "@b", "word other"))
        await indexed(store)
        assert len(await found(store, b, "word")) == 6
        assert await found(store, b, "later") == []
    apsw.Connection(str(path.with_name("chatd-search.db"))).execute("PRAGMA user_version = 99")
    async with engine() as store:
        await indexed(store)
        assert len(await found(store, b, "word")) == 6
    for file in path.parent.glob("chatd-search.db*"):
        file.unlink()
    async with engine() as store:
        assert await found(store, b, "word") == []
        await indexed(store)
        assert len(await found(store, b, "word")) == 6


async def test_a_damaged_index_is_unavailable_and_no_fault(path: Path, engine: Any) -> None:
    """It must not end a server that has all messages; the text says what to do."""
    path.with_name("chatd-search.db").write_bytes(b"this is no database" * 1000)
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        await do(store, message(a, 1, "@b", "word"))
        with pytest.raises(Unavailable, match=r"remove chatd-search\.db"):
            await store.index()
        with pytest.raises(Unavailable, match="damaged"):
            await store.search(a.user_no, wanted("word"), cursor=None, limit=9, max_bytes=BIG)
        assert (await store.find(a.user_no, "b", conv=None, limit=9)).users == ["b"]


async def test_batches_are_bounded(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: in events and in bytes; together they leave nothing out, changes of earlier batches' messages included."""
    monkeypatch.setattr(search_index, "BATCH_EVENTS", 10)
    monkeypatch.setattr(search_index, "BATCH_BYTES", 5000)
    monkeypatch.setattr(search_index, "CHANGED_AT_ONCE", 2)
    async with engine() as store:
        a, b = await people(store, "a", "b")
        (sent, *_) = await do(store, *[message(a, n, "@b", f"word w{n}") for n in range(1, 26)])
        await do(store, *[message(a, n, sent.conv, f"word w{n} " + "y" * 3000) for n in range(26, 31)])
        await do(store, *[edit(a, 30 + n, sent.conv, n, f"new w{n}") for n in range(1, 8)])
        await do(store, *[delete(a, 33 + n, sent.conv, n) for n in range(5, 12)])
        left = [await store.index()]
        while left[-1]:
            left.append(await store.index())
        assert left == [34, 24, 18, 17, 16, 15, 5, 0]
        assert len(await found(store, b, "word")) == 30 - 11
        assert sorted(await found(store, b, "new")) == [f"new w{n}" for n in range(1, 5)]


async def test_no_search_reads_a_whole_table(engine: Any) -> None:
    """I9: the index by words and conversations, everything else by its key; completing likewise."""
    statements: dict[str, Any] = {}

    def remember(_: apsw.Cursor, sql: str, bindings: Any) -> bool:
        statements[sql] = bindings
        return True

    async with engine() as store:
        a, _ = await people(store, "a", "b")
        conv = await group(store, a, "b")
        await indexed(store)
        await found(store, a, "word")
        await store.find(a.user_no, "b", conv=None, limit=9)
        (searcher,) = store._searchers.idle
        for connection in (searcher, *store._idle):
            connection.exec_trace = remember
        for ranked in (False, True):
            await found(store, a, "word pre*", conv=conv, sender="a", before=9, after=1, ranked=ranked)
        for where in (None, conv):
            await store.find(a.user_no, "b", conv=where, limit=9)
        for connection in (searcher, *store._idle):
            connection.exec_trace = None
        judged = {sql: values for sql, values in statements.items() if sql.startswith("WITH")}
        assert len(judged) == 2 + 1 + 3
        tables = "events|members|users|conversations|edits|edited|moments|found"
        for sql, values in judged.items():
            aliases = set(re.findall(rf"\b(?:FROM|JOIN) (?:search\.)?(?:{tables}) (\w+)", sql)) | set(tables.split("|"))
            plan = [row[3] for row in searcher.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            scanned = [step for step in plan if step.startswith("SCAN ") and step.split()[1] in aliases]
            # A virtual table is always scanned: with M0 for the words, and < and > for the place in the log. The times are
            # one row for 4096 events.
            assert all("VIRTUAL TABLE INDEX" in step and "M" in step for step in scanned if "moments" not in step), plan


async def test_terms_are_no_syntax(engine: Any) -> None:
    """What would be FTS5's own words, columns and operators is looked for as it stands."""
    async with engine() as store:
        a, b = await people(store, "a", "b")
        said = ["AND", "near(x y, 2)", "place : c1", 'he said "no"', "a OR b", "body:x -y ^z {w} + v"]
        await do(store, *[message(a, n, "@b", body) for n, body in enumerate(said, 1)])
        await indexed(store)
        for text, expected in [("AND", 0), ("NEAR(x y, 2)", 1), ("place : c1", 2), ('said "no"', 3), ("a OR b", 4),
                               ("body:x -y ^z", 5)]:  # fmt: skip
            answer = await store.search(b.user_no, Search(terms=(Term(text),)), cursor=None, limit=9, max_bytes=BIG)
            assert [event.seq for event in answer[0]] == [expected + 1], text

