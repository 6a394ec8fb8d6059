"""What the reads of presence cost, counted in steps of SQLite's machine."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from chatd.adapters.sqlite.signals import acquainted
from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.conversations.operations import Author, CreateGroup, OpenDevice

NAMES = [f"u{number}" for number in range(50)]
COUNTED = 10


async def people(store: SqliteStore, *names: str) -> list[Author]:
    opened = await store.commit([OpenDevice(user=name, device="d", create_user=True) for name in names], 1)
    return [outcome.author for outcome in opened]  # type: ignore[union-attr]


async def groups(store: SqliteStore, owner: Author, number: int, *members: str) -> None:
    made = [CreateGroup(author=owner, title="g", members=members, history="all") for _ in range(number)]
    await store.commit(made, 1)


def steps(path: Path, user_no: int, known: list[str]) -> int:
    """How many thousand steps one question about NAMES takes; those who are ``known`` are the answer."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    taken = 0

    def count() -> bool:
        nonlocal taken
        taken += COUNTED
        return False

    connection.set_progress_handler(count, COUNTED)
    found = acquainted(connection, user_no, NAMES)
    connection.set_progress_handler(None)
    connection.close()
    assert sorted(one.user for one in found) == known
    return taken


@pytest.mark.parametrize("busy", ["asks", "is-asked-about"])
async def test_a_watch_costs_what_the_less_busy_side_has(tmp_path: Path, busy: str) -> None:
    """A user with 600 groups asks about 50 strangers, or one with two asks about 50 who have 600: never 50 times 600."""
    path = tmp_path / "chatd.db"
    async with open_store(path) as store:
        ann, bob, *others = await people(store, "ann", "bob", *NAMES)
        await groups(store, ann, 2, NAMES[7], NAMES[9])
        if busy == "asks":
            await groups(store, ann, 600)
        else:
            await groups(store, bob, 600, *NAMES)
            await groups(store, others[0], 2)
        assert steps(path, ann.user_no, sorted([NAMES[7], NAMES[9]])) < 50 * 600
