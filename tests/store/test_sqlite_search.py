"""SQLite behind the store's port: searching, and what its index keeps, leaves and lets go."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.adapters.sqlite import search, search_index
from chatd.adapters.sqlite.reads import MAY_SEE
from chatd.adapters.sqlite.store import SEARCHERS, open_store
from chatd.conversations.operations import AddMembers, Author, CreateGroup
from chatd.store import query
from chatd.store.port import SearchTerms, Store, Unavailable
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
     (f"AND {MAY_SEE}", "before")],
)  # fmt: skip
async def test_each_guard_is_what_hides(engine: Any, monkeypatch: pytest.MonkeyPatch, guard: str, leaks: str) -> None:
    """With it nothing is found that may not be; without it exactly that is: by an index that has not come so far, or that
    knows the conversation's number but not from where on a member may read."""
    async with engine() as store:
        a, b = await people(store, "a", "b")
        await do(store, message(b, 1, "@b"))  # who has nothing as old does not look as far back
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
            await found(store, a, "word pre*", sender="a", before=9, after=1, ranked=ranked)
            await found(store, a, "word pre*", conv=conv, sender="a", before=9, after=1, ranked=ranked)
        for where in (None, conv):
            await store.find(a.user_no, "b", conv=where, limit=9)
        for connection in (searcher, *store._idle):
            connection.exec_trace = None
        judged = {sql: values for sql, values in statements.items() if sql.startswith("WITH")}
        assert len(judged) == 2 + 5 + 3
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
            answer = await store.search(b.user_no, SearchTerms(terms=(Term(text),)), cursor=None, limit=9, max_bytes=BIG)
            assert [event.seq for event in answer[0]] == [expected + 1], text
        smuggled = SearchTerms(terms=(Term('said" OR "place'),))
        assert await store.search(b.user_no, smuggled, cursor=None, limit=9, max_bytes=BIG) == ([], None)


async def say(store: Any, author: Author, conv: str, count: int, body: str = "word") -> int:
    """So many messages, as the device's first; the author's next ``cseq``."""
    for begun in range(1, count + 1, 500):
        await do(store, *[message(author, n, conv, body) for n in range(begun, min(begun + 500, count + 1))])
    await indexed(store)
    return count + 1


def seqs(answer: Any) -> list[int]:
    return [event.seq for event in answer[0]]


async def test_who_joined_late_steps_over_nothing_older(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: what was said before one's time is not looked at, alone in that conversation and in all of one's own; so a search
    that may take no time at all still comes to its end."""
    monkeypatch.setattr(search, "SEARCH_SECONDS", -1.0)
    monkeypatch.setattr(search, "STEPS_BETWEEN_LOOKS", 3000)
    async with engine() as store:
        a, b, _ = await people(store, "a", "b", "c")
        conv = await group(store, a)
        cseq = await say(store, a, conv, 1000)
        await do(store, AddMembers(author=a, conv=conv, users=("b",)), message(a, cseq, conv), message(b, 1, "@c", "word"))
        await do(store, message(a, cseq + 1, conv, "word"))
        await indexed(store)
        for where, expected in ((None, [1004, 1]), (conv, [1004])):
            answer = await store.search(b.user_no, wanted("word", conv=where), cursor=None, limit=9, max_bytes=BIG)
            assert (seqs(answer), answer[1]) == (expected, None)
        with pytest.raises(Unavailable, match="narrow it"):  # this test's own eyes
            await store.search(a.user_no, wanted("word", ranked=True), cursor=None, limit=9, max_bytes=BIG)


def _no_time_beyond(events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks further back than that is interrupted."""
    back = search._look_back

    def impatient(connection: Any, look: Any, upto: int, *where: Any, **how: Any) -> Any:
        def short_look(since: int) -> Any:
            if upto - since >= events:
                raise apsw.InterruptError
            return look(since)

        return back(connection, short_look, upto, *where, **how)

    monkeypatch.setattr(search, "_look_back", impatient)


@pytest.mark.parametrize("ranked", [False, True])
async def test_a_search_out_of_time_gives_a_cursor(engine: Any, monkeypatch: pytest.MonkeyPatch, ranked: bool) -> None:
    """I9: a page ends where the time does, though empty; its cursor goes on from there, and nothing is left out."""
    monkeypatch.setattr(search, "RECENT", 100)
    async with engine() as store:
        a, b = await people(store, "a", "b")
        (first, *_) = await do(store, message(a, 1, "@b", "rare"), message(a, 2, "@b", "rare"))
        await do(store, *[message(a, n, first.conv, "word") for n in range(3, 1003)])
        await do(store, message(a, 1003, first.conv, "rare"))
        await indexed(store)
        assert await found(store, b, "rare", ranked=ranked) == ["rare"] * 3
        _no_time_beyond(100, monkeypatch)
        listed, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            answer = await store.search(
                b.user_no, wanted("rare", ranked=ranked), cursor=cursor, limit=9, max_bytes=BIG
            )
            listed.append(seqs(answer))
            cursor, pages = answer[1], pages + 1
        assert listed == [[1003], *[[]] * 9, [2, 1]]


async def test_the_pages_of_a_ranking_are_of_one_look(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far the first page has looked back: the next one ranks the same, and what is older comes after it."""
    monkeypatch.setattr(search, "RECENT", 10)
    async with engine() as store:
        a, b = await people(store, "a", "b")
        await do(store, *[message(a, n, "@b", "word " * (n % 5 + 1)) for n in range(1, 31)])
        await indexed(store)
        _no_time_beyond(10, monkeypatch)
        listed, cursor = [], None
        while len(listed) < 2 or cursor is not None:
            answer = await store.search(b.user_no, wanted("word", ranked=True), cursor=cursor, limit=5, max_bytes=BIG)
            listed.append(seqs(answer))
            cursor = answer[1]
        assert [sorted(one + other) for one, other in zip(listed[::2], listed[1::2], strict=True)] == [
            list(range(low, low + 10)) for low in (21, 11, 1)
        ]


async def test_of_very_many_conversations_the_log_alone_decides(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FTS5 takes a time that grows with the square of their number to read them; then the question names none of them."""
    monkeypatch.setattr(search, "_PLACES", search._PLACES.replace(f"{search.NAMED_PLACES} + 1", "3"))
    monkeypatch.setattr(search, "NAMED_PLACES", 2)
    async with engine() as store:
        a, b = await people(store, "a", "b")
        convs = [await group(store, a) for _ in range(3)]
        theirs = await group(store, b)
        await do(store, *[message(a, n, conv, f"word {n}") for n, conv in enumerate(convs, 1)], message(b, 1, theirs, "word"))
        await indexed(store)
        question = search._question
        asked: list[str] = []

        def remember(*values: Any) -> Any:
            asked.append(question(*values)[0])
            return question(*values)

        monkeypatch.setattr(search, "_question", remember)
        assert await found(store, a, "word") == ["word 3", "word 2", "word 1"]
        assert await found(store, a, "word", sender="b") == []
        assert await found(store, a, "word", conv=convs[0]) == ["word 1"]
        assert [text.partition(" AND body")[0] for text in asked] == ['body : ("word")', "place : u2", "place : (c1)"]


async def test_completion_reads_titles_as_stored(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: of 300 groups the titles are not folded again with each key that is pressed, nor handed over beyond the limit."""
    async with engine() as store:
        a, _ = await people(store, "a", "b")
        await do(store, *[CreateGroup(author=a, title=f"Café {n}", members=(), history="all") for n in range(300)])
        handed: list[int] = []
        await store.find(a.user_no, "x", conv=None, limit=9)
        (reader,) = store._idle

        def measure(_: apsw.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
            handed.append(len(row[0]))
            return row

        reader.row_trace = measure
        folded: list[str] = []
        fold = query.fold
        monkeypatch.setattr(query, "fold", lambda text: folded.append(text) or fold(text))  # type: ignore[func-returns-value]
        matches = await store.find(a.user_no, "cafe", conv=None, limit=5)
        assert [place.title for place in matches.items] == [f"Café {n}" for n in range(299, 294, -1)]
        assert folded == ["cafe"]
        assert max(handed) < 1000


@pytest.mark.parametrize("which", ["log", "index"])
async def test_only_a_damaged_index_is_said_to_be_damaged(path: Path, engine: Any, which: str) -> None:
    """One query reads both files; that the log is damaged must not be told as advice to remove the index."""
    async with engine() as store:
        a, b = await people(store, "a", "b")
        for begun in range(1, 2001, 500):
            await do(store, *[message(a, n, "@b", f"word {n} " + "y" * 500) for n in range(begun, begun + 500)])
        await indexed(store)
    damaged = path if which == "log" else path.with_name("chatd-search.db")
    content = bytearray(damaged.read_bytes())
    for page in range(len(content) // 8192 * 4096, len(content), 4096):  # the schema is at the front
        content[page : page + 4096] = b"\xff" * 4096
    damaged.write_bytes(content)
    async with engine() as store:
        if which == "index":
            with pytest.raises(Unavailable, match=r"remove chatd-search\.db"):
                await store.search(b.user_no, wanted("word"), cursor=None, limit=200, max_bytes=BIG)
        else:
            with pytest.raises(apsw.CorruptError):
                await store.search(b.user_no, wanted("word"), cursor=None, limit=200, max_bytes=BIG)


@pytest.mark.parametrize("what", ["search", "find"])
async def test_one_users_searches_hold_up_nobody_elses(engine: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """I9: one of them is with the store, though it does not end, and the others, from wherever they are asked, wait for it;
    also when some of those who wait go away. Nothing stays of it."""
    ask, begun, one_began, go_on = getattr(search, what), list[int](), trio.Event(), threading.Event()

    async with engine() as store, trio.open_nursery() as sessions:
        a, b = await people(store, "a", "b")
        await do(store, message(a, 1, "@b", "word"))
        await indexed(store)

        def stuck(connection: Any, user_no: int, *values: Any) -> Any:
            begun.append(user_no)
            if user_no == a.user_no:
                trio.from_thread.run_sync(one_began.set)
                go_on.wait()
            return ask(connection, user_no, *values)

        async def once(who: Author) -> None:
            if what == "search":
                assert await found(store, who, "word") == ["word"]
            else:
                assert (await store.find(who.user_no, "a", conv=None, limit=9)).users == ["a"]

        monkeypatch.setattr(search, what, stuck)
        try:
            for _ in range(SEARCHERS + 3):
                sessions.start_soon(once, a)
            await one_began.wait()
            async with trio.open_nursery() as going:
                going.start_soon(once, a)
                await wait_all_tasks_blocked()
                going.cancel_scope.cancel()
            with trio.fail_after(30):
                await once(b)
            assert begun == [a.user_no, b.user_no]
        finally:
            go_on.set()
    assert begun == [a.user_no, b.user_no, *[a.user_no] * (SEARCHERS + 2)]
    assert len(store._searching) == len(store._finding) == 0
