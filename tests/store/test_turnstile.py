"""Who writes next, of several that write to one file: each in its turn, and none waits for one that stands still."""

from __future__ import annotations

import errno
from pathlib import Path

import apsw
import pytest
import trio

from chatd.adapters.sqlite import turnstile
from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.adapters.sqlite.turnstile import Turnstile
from chatd.conversations.operations import CreateAccount
from tests.store.conformance import NOW


class Writers:
    """Two stores on one file, and somebody else who holds its write lock. ``order``: in which their commits were done."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.path = path
        self.nursery = nursery
        self.order: list[str] = []
        self.holder = apsw.Connection(str(path))
        self.holder.execute("BEGIN IMMEDIATE")

    async def commit(self, store: SqliteStore, name: str) -> None:
        await store.commit([CreateAccount(user=name, password_hash="")], NOW)
        self.order.append(name)

    async def until_somebody_waits(self) -> None:
        looking = Turnstile(self.path)
        with trio.fail_after(10):
            while looking.enter():
                looking.leave()
                await trio.lowlevel.checkpoint()
        looking.close()

    def let_go(self) -> None:
        self.holder.execute("ROLLBACK")
        self.holder.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chatd.db"


async def test_who_waits_is_next(path: Path) -> None:
    """One that comes in the very moment in which the lock is let go of does not have it before one that waits."""
    async with open_store(path) as first, open_store(path) as second, trio.open_nursery() as nursery:
        writers = Writers(path, nursery)
        nursery.start_soon(writers.commit, first, "waited")
        await writers.until_somebody_waits()
        writers.let_go()
        await writers.commit(second, "came")
        assert writers.order == ["waited", "came"]


async def test_one_that_stands_still_is_gone_round(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process in the turnstile holds up nobody for good."""
    monkeypatch.setattr(turnstile, "COURTESY_SECONDS", 0.001)
    async with open_store(path) as store:
        stopped = Turnstile(path)
        assert stopped.enter()
        with trio.fail_after(10):
            await store.commit([CreateAccount(user="ann", password_hash="")], NOW)
        assert (await store.account("ann")) is not None
        stopped.close()


def test_in_and_out(path: Path) -> None:
    """One at a time; to enter twice or leave twice does no harm, and who closes has left."""
    one, other = Turnstile(path), Turnstile(path)
    assert one.enter()
    assert one.enter()
    assert not other.enter()
    one.leave()
    one.leave()
    assert other.enter()
    assert not one.enter()
    other.close()
    assert one.enter()
    one.close()
    assert Path(f"{path}-turn").stat().st_mode & 0o777 == 0o600


async def test_who_cannot_have_a_lock_writes_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a courtesy: where the file system has none to give, SQLite's own lock is what orders the writers."""

    def none_left(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(turnstile.fcntl, "flock", none_left)
    monkeypatch.setattr(turnstile, "COURTESY_SECONDS", 0.001)
    async with open_store(path) as store:
        await store.commit([CreateAccount(user="a", password_hash="")], NOW)
        assert await store.account("a") is not None
