"""The store on one SQLite file: one writing connection of this process, and a few that read.

A commit is judged on the Trio thread, with what it reads and the few rows of groups, access and changes; its many rows are
written in a worker thread, with COMMIT. A statement for each row would not do there: beside a busy Trio thread that is 804
rows/s, for each step gives up the interpreter's lock and waits 5 ms to have it back. A few statements with many rows each
(``bulk``) give it up for all of their work, and COMMIT for the whole fsync (and for the checkpoint that SQLite does in it
now and then).

Several processes share the file: the write lock orders their commits (one at a time: ``turnstile``), ``data_version`` tells
when what is remembered is out of date. After an I/O error the connection is opened anew: what its cache holds is not
trusted.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import structlog
import trio

from chatd.adapters.sqlite import current, reads, search, signals
from chatd.adapters.sqlite.cache import CommitCache
from chatd.adapters.sqlite.commit import Commit
from chatd.adapters.sqlite.database import migrate, open_connection, translated
from chatd.adapters.sqlite.readers import CoalescedReads, Readers, Turns
from chatd.adapters.sqlite.search_index import SearchIndex
from chatd.adapters.sqlite.turnstile import Turnstile
from chatd.conversations.operations import Event, Operation, Outcome
from chatd.store.port import (
    LIST_BYTES,
    LOG_BYTES,
    Account,
    Acquaintance,
    Audience,
    Committed,
    DeviceEntry,
    Endings,
    Item,
    Matches,
    Member,
    Page,
    Privacy,
    SearchTerms,
    Standing,
    Tally,
    Unavailable,
)

READERS = 2
STANDINGS_AT_ONCE = 32
"""Of so many who log in at the same time."""
SEARCHERS = 2
"""Of their own: a search may take a hundred times as long as a page of history, which must not wait for it."""

T = TypeVar("T")
log = structlog.get_logger()


class SqliteStore:
    """Implements ``chatd.store.port.Store``; made by ``open_store``."""

    def __init__(
        self, path: Path, *, max_members: int, max_devices: int, busy_ms: int, new_device_events: int,
        window_ms: int,
    ) -> None:  # fmt: skip
        self._path = path
        self._max_members = max_members
        self._max_devices = max_devices
        self._new_device_events = new_device_events
        self._window_ms = window_ms
        self._unscrubbed = True  # by a process that was killed
        self._in_turn = trio.Lock()
        self._busy_ms = busy_ms
        self._writing = trio.CapacityLimiter(1)
        self._readers = Readers(self._open_reader, READERS)
        self._idle = self._readers.idle
        self._standings = CoalescedReads(self._readers, reads.standings_of, STANDINGS_AT_ONCE)
        self._index = SearchIndex(path, busy_ms=busy_ms)
        self._indexing = trio.CapacityLimiter(1)
        self._searchers = Readers(self._open_searcher, SEARCHERS)
        self._searching, self._finding = Turns(), Turns()
        try:
            self._turnstile = Turnstile(path)
        except OSError as fault:
            raise Unavailable(f"{path}-turn: {fault.strerror}") from fault
        self._connect()

    def _connect(self) -> None:
        self._closed = True
        self._connection = open_connection(self._path, busy_ms=0, read_only=False)
        self._cache = CommitCache(self._connection)
        self._closed = False

    async def commit(
        self, operations: Sequence[Operation], now: int, meanwhile: Callable[[], None] | None = None
    ) -> list[Outcome]:
        """See the port."""
        if meanwhile is not None and self._in_turn.locked():
            meanwhile()
        async with self._in_turn:
            return await self._commit(operations, now, meanwhile)

    async def _commit(
        self, operations: Sequence[Operation], now: int, meanwhile: Callable[[], None] | None
    ) -> list[Outcome]:
        if self._closed:
            self._connect()
        try:
            await self._begin(meanwhile)
            with translated():
                self._cache.begin()
            with closing(self._commit_of(now)) as commit:
                with translated():
                    outcomes = [commit.apply(operation) for operation in operations]
                self._unscrubbed |= commit.redacted
                trio_thread = trio.lowlevel.current_trio_token()
                await trio.to_thread.run_sync(self._finish, commit, trio_thread, meanwhile, limiter=self._writing)
        except BaseException as fault:
            self._recover(fault)
            raise
        return outcomes

    def _commit_of(self, now: int) -> Commit:
        return Commit(
            self._connection, self._cache, now, max_members=self._max_members, max_devices=self._max_devices,
            new_device_events=self._new_device_events, window_ms=self._window_ms,
        )  # fmt: skip

    async def _begin(self, meanwhile: Callable[[], None] | None) -> None:
        # Tried at once: another process seldom holds the lock, and a thread costs 50 us.
        try:
            if not (self._turnstile.enter() and self._begins_at_once()):
                if meanwhile is not None:
                    meanwhile()
                await trio.to_thread.run_sync(self._begin_patiently, limiter=self._writing)
        finally:
            self._turnstile.leave()

    def _begins_at_once(self) -> bool:
        with translated():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                return False
        return True

    def _begin_patiently(self) -> None:
        end = time.monotonic() + self._busy_ms / 1000
        self._turnstile.wait(self._busy_ms / 1000)
        self._connection.set_busy_timeout(max(0, int((end - time.monotonic()) * 1000)))
        try:
            self._execute("BEGIN IMMEDIATE")
        finally:
            self._connection.set_busy_timeout(0)
            self._turnstile.leave()

    def _finish(self, commit: Commit, trio_thread: trio.lowlevel.TrioToken, meanwhile: Callable[[], None] | None) -> None:
        # Said from here, not before: what is done meanwhile would keep this thread from beginning.
        if meanwhile is not None:
            trio_thread.run_sync_soon(meanwhile)
        with translated():
            commit.flush()
            self._connection.execute("COMMIT")

    def _execute(self, sql: str) -> None:
        with translated():
            self._connection.execute(sql)

    async def scrub(self) -> None:
        """See the port. Between two commits, on the connection of them: while others write, another one seldom has its turn."""
        if self._unscrubbed:
            async with self._in_turn:
                if not self._closed:
                    await trio.to_thread.run_sync(self._scrub, limiter=self._writing)

    def _scrub(self) -> None:
        """What was deleted is overwritten in the file, but stands in the write-ahead log until that is written over. This
        waits for no reader and no other process; with one in the way it writes out what it can, and has to be done again."""
        with translated():
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        self._unscrubbed = bool(busy)

    def _recover(self, fault: BaseException) -> None:
        """Nothing of a failed commit may stay: not in the transaction, not in what is remembered."""
        self._cache.forget()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(fault, Unavailable):
                self._closed = True
                self._connection.close()
                self._connect()
        except (apsw.Error, Unavailable) as second:
            log.warning("store.not_reopened", reason=str(second))

    async def _read(self, query: Callable[..., T], *values: object) -> T:
        return await self._readers.read(query, *values)

    def _open_reader(self) -> apsw.Connection:
        return open_connection(self._path, busy_ms=self._busy_ms, read_only=True)

    def _open_searcher(self) -> apsw.Connection:
        self._index.prepare()
        with self._index.faults():
            return search.attach(self._open_reader(), str(self._index.path))

    async def standings(self, user_no: int, device_no: int) -> list[Standing]:
        """See the port."""
        return await self._standings.read((user_no, device_no))

    async def standing(self, user_no: int, device_no: int, conv: str) -> Standing | None:
        """See the port."""
        return await self._read(reads.standing, user_no, device_no, conv)

    async def page(
        self, user_no: int, conv: str, *, after: int | None, before: int | None, limit: int, max_bytes: int,
        former: bool = False,
    ) -> Page | None:  # fmt: skip
        """See the port."""
        return await self._read(reads.page, user_no, conv, after, before, limit, max_bytes, former)

    async def log(self, conv: str, after: int, limit: int, *, max_bytes: int = LOG_BYTES) -> list[Event]:
        """See the port."""
        return await self._read(reads.log, conv, after, limit, max_bytes)

    async def logs(self, wanted: Sequence[tuple[str, int]], limit: int, *, max_bytes: int = LOG_BYTES) -> list[list[Event]]:
        """See the port."""
        return await self._read(reads.logs, wanted, limit, max_bytes)

    async def committed(self, token: int | None) -> Committed:
        """See the port."""
        return await self._read(reads.committed, token)

    async def conversations(
        self, user_no: int, device_no: int, cursor: str | None, limit: int, *, max_bytes: int = LIST_BYTES
    ) -> tuple[list[Item], str | None]:
        """See the port."""
        del device_no  # marks are merged over a user's devices
        # Parsed here, for a reader is closed after any error, and a client may send what cursors it likes.
        return await self._read(reads.conversations, user_no, reads.parse_cursor(cursor), limit, max_bytes)

    async def thread(
        self, user_no: int, conv: str, seq: int, *, after: int | None, before: int | None, limit: int, max_bytes: int
    ) -> Page | None:
        """See the port."""
        return await self._read(current.thread, user_no, conv, seq, after, before, limit, max_bytes)

    async def pins(self, user_no: int, conv: str, *, after: int, max_bytes: int) -> Page | None:
        """See the port."""
        return await self._read(current.pins, user_no, conv, after, max_bytes)

    async def members(self, user_no: int, conv: str) -> list[Member] | None:
        """See the port."""
        return await self._read(reads.members, user_no, conv)

    async def audiences(self, convs: Sequence[str]) -> dict[str, Audience]:
        """See the port."""
        return await self._read(signals.audiences, convs)

    async def tallies(self, conv: str, low: int, high: int) -> list[Tally]:
        """See the port."""
        return await self._read(signals.tallies, conv, low, high)

    async def acquainted(self, user_no: int, names: Sequence[str]) -> list[Acquaintance]:
        """See the port."""
        return await self._read(signals.acquainted, user_no, names)

    async def privacies(self, names: Sequence[str]) -> dict[str, Privacy]:
        """See the port."""
        return await self._read(signals.privacies, names)

    async def devices(self, user_no: int, now: int) -> list[DeviceEntry]:
        """See the port."""
        return await self._read(reads.devices, user_no, now)

    async def endings(self, token: int) -> Endings:
        """See the port."""
        return await self._read(reads.endings, token)

    async def search(
        self, user_no: int, wanted: SearchTerms, *, cursor: str | None, limit: int, max_bytes: int
    ) -> tuple[list[Event], str | None] | None:
        """See the port."""
        begin = search.parse_cursor(cursor, ranked=wanted.ranked)

        def query(connection: apsw.Connection) -> tuple[list[Event], str | None] | None:
            with self._index.faults():
                return search.search(connection, user_no, wanted, begin, limit, max_bytes)

        async with self._searching.of(user_no):
            return await self._searchers.read(query)

    async def index(self) -> int:
        """See the port."""
        return await trio.to_thread.run_sync(self._index.advance, limiter=self._indexing)

    async def find(self, user_no: int, text: str, *, conv: str | None, limit: int) -> Matches | None:
        """See the port."""
        async with self._finding.of(user_no):
            return await self._read(search.find, user_no, text, conv, limit)

    async def blocked(self, user_no: int) -> list[str]:
        """See the port."""
        return await self._read(reads.blocked, user_no)

    async def account(self, name: str) -> Account | None:
        """See the port."""
        return await self._read(reads.account, name)

    async def revoked(self, token: bytes) -> bool:
        """See the port."""
        return await self._read(reads.revoked, token)

    def close(self) -> None:
        """Close every connection; nothing may be in flight."""
        if self._unscrubbed and not self._closed:
            try:
                self._scrub()
            except Unavailable as fault:
                log.warning("store.not_scrubbed", reason=str(fault))
        self._readers.close()
        self._searchers.close()
        self._index.close()
        self._connection.close()
        self._turnstile.close()


@asynccontextmanager
async def open_store(
    path: Path, *, max_members: int = 1000, max_devices: int = 100, busy_seconds: float = 5.0,
    new_device_events: int = 1000, window_ms: int = 24 * 3600 * 1000,
) -> AsyncIterator[SqliteStore]:
    """Open (and migrate) the file; close it at the end. Raises NewerSchema, Unavailable.

    ``window_ms``: for how long one may edit and delete one's own messages.
    """
    busy_ms = int(busy_seconds * 1000)
    await trio.to_thread.run_sync(partial(migrate, path, busy_ms=busy_ms))
    store = SqliteStore(
        path, max_members=max_members, max_devices=max_devices, busy_ms=busy_ms, new_device_events=new_device_events,
        window_ms=window_ms,
    )  # fmt: skip
    try:
        yield store
    finally:
        store.close()
