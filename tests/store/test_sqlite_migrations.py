"""SQLite behind the store's port: files of earlier versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import cbor2
import pytest
from chatd_protocol.codec import content_digest

from chatd.adapters.sqlite import database
from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import Refused, Rename, Repeated
from tests.store.conformance import do, message, people
from tests.store.conformance_changes import reply

RELEASED = 2
"""The migrations that data directories of version 0.1.0 may have had."""

EVENT = """
    INSERT INTO events (conv, at, digest, seq, sender, device, cseq, kind, payload) VALUES (1, 1, x'', ?, ?, ?, ?, ?, ?)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chatd.db"


def old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of a, b and c, who came later, and left: replies and mentions of which nothing is filed."""
    steps = database._steps()
    with monkeypatch.context() as patch:
        patch.setattr(database, "_steps", lambda: steps[:RELEASED])
        database.migrate(path, busy_ms=100)
    connection = apsw.Connection(str(path))
    for no, name in enumerate("abc", 1):
        connection.execute("INSERT INTO users (no, name, password_hash) VALUES (?, ?, '')", (no, name))
        connection.execute("INSERT INTO devices (no, user, name, cseq) VALUES (?, ?, 'd', ?)", (no, no, 5 if no == 1 else 0))
    connection.execute("INSERT INTO conversations VALUES (1, 'conv1', 'group', 'Le Café', 'all', NULL, NULL, 6, 1)")
    for user, left in ((1, None), (2, None), (3, 6)):
        connection.execute(
            "INSERT INTO members (conv, user, role, joined, first, left, began) VALUES (1, ?, 'owner', 1, 1, ?, 0)", (user, left)
        )
    said: list[dict[str, Any]] = [
        {"body": "begins"}, {"body": "one", "reply_to": 1, "mentions": ["b", "c", "nobody"]}, {"body": "two", "reply_to": 2},
        {"body": "reply_to and mentions"}, {"body": b"mentions", "mentions": ["a", "b"]},
    ]  # fmt: skip
    for seq, fields in enumerate(said, 1):
        connection.execute(EVENT, (seq, 1, 1, seq, "message", cbor2.dumps({"type": "text"} | fields)))
    connection.execute(EVENT, (6, 3, 0, 0, "left", cbor2.dumps({"user": "c"})))
    connection.close()


async def test_a_repeat_of_what_was_stored_with_a_digest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3 over an upgrade: earlier versions kept a digest of each message, and of what it was addressed to."""
    old_file(path, monkeypatch)
    async with open_store(path) as store:
        (a,) = await people(store, "a")
        same, other, elsewhere = message(a, 5, "conv1"), message(a, 5, "conv1", "y"), message(a, 5, "@b")
        store._connection.execute(
            "UPDATE events SET digest = ? WHERE cseq = 5", (content_digest("conv1", same.payload),)
        )
        outcomes = await do(store, same, other, elsewhere)
        assert [type(outcome) for outcome in outcomes] == [Repeated, Refused, Refused]


async def test_what_was_said_before_is_filed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies, mentions and titles of a file of version 0.1.0 are found as those stored since; new ones join them."""
    old_file(path, monkeypatch)
    for _ in range(2):  # the second time there is nothing to do
        async with open_store(path) as store:
            a, b = await people(store, "a", "b")

            async def thread(seq: int, store: Any = store, who: Any = a) -> list[int]:
                page = await store.thread(who.user_no, "conv1", seq, after=None, before=None, limit=50, max_bytes=10**6)
                return [event.seq for event in page.events]

            assert (await thread(1), await thread(2), await thread(4)) == ([1, 2, 3], [2, 3], [4])
            ((mine,), _) = await store.conversations(a.user_no, a.device_no, None, 10)
            ((theirs,), _) = await store.conversations(b.user_no, b.device_no, None, 10)
            assert (mine.unread, mine.mentions, theirs.unread, theirs.mentions) == (0, 0, 5, 2)
            assert store._connection.execute("SELECT seq FROM mentions WHERE user = 2").fetchall() == [(2,), (5,)]
            assert [place.conv for place in (await store.find(a.user_no, "cafe", conv=None, limit=9)).items] == ["conv1"]
    async with open_store(path) as store:
        (a,) = await people(store, "a")
        await do(store, reply(a, 6, "conv1", 3), message(a, 7, "conv1"), Rename(author=a, conv="conv1", title="Büro"))
        assert await thread(1, store) == [1, 2, 3, 7]
        assert (await store.find(a.user_no, "cafe", conv=None, limit=9)).items == []
        assert [place.title for place in (await store.find(a.user_no, "buro", conv=None, limit=9)).items] == ["Büro"]


def test_migrations_are_numbered_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would fill a gap later would shift those after it: every file that there is would be of another version."""
    assert [name[:4] for name in database._steps()] == [f"{number:04}" for number in range(1, len(database._steps()) + 1)]
    assert set(database._IN_PYTHON) <= set(database._steps())
    (tmp_path / "migrations").mkdir()
    monkeypatch.setattr(database, "files", lambda _: tmp_path)
    for name in ("0001_one.sql", "0003_three.sql"):
        (tmp_path / "migrations" / name).write_text("")
    with pytest.raises(AssertionError, match="numbered"):
        database.migrate(tmp_path / "chatd.db", busy_ms=100)
