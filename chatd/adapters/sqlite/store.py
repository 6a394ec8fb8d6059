"""The store on one SQLite file: one writing connection of this process, and a few that read.

The row work of a commit runs inline on the Trio thread, and only what blocks for the disk or for another process runs
in a worker thread. Measured on two cores, batches of 200 rows: everything in a thread beside a busy Trio thread 804
rows/s, for each step gives up the interpreter's lock and waits 5 ms to have it back; alone, 60,954 rows/s. COMMIT gives
the lock up once, for the whole fsync (and for the checkpoint that SQLite does in it now and then).

Several processes share the file: the write lock orders their commits, ``data_version`` tells when what is remembered is
out of date. After an I/O error the connection is opened anew: what its cache holds is not trusted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw
import structlog
import trio

from chatd.adapters.sqlite import reads
from chatd.adapters.sqlite.cache import CommitCache
from chatd.adapters.sqlite.commit import Commit
from chatd.adapters.sqlite.database import migrate, open_connection, translated
from chatd.conversations.operations import Event, Operation, Outcome
from chatd.store.port import LIST_BYTES, LOG_BYTES, Account, Changes, Item, Member, Page, Standing, Unavailable

READERS = 2

T = TypeVar("T")
log = structlog.get_logger()


class SqliteStore:
    """Implements ``chatd.store.port.Store``; made by ``open_store``."""

    def __init__(self, path: Path, *, max_members: int, max_devices: int, busy_ms: int, new_device_events: int) -> None:
        self._path = path
        self._max_members = max_members
        self._max_devices = max_devices
        self._new_device_events = new_device_events
        self._busy_ms = busy_ms
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(READERS)
        self._idle: list[apsw.Connection] = []
        self._connect()

    def _connect(self) -> None:
        self._closed = True
        self._connection = open_connection(self._path, busy_ms=0, read_only=False)
        self._cache = CommitCache(self._connection)
        self._closed = False

    async def commit(self, operations: Sequence[Operation], now: int) -> list[Outcome]:
        """See the port."""
        if self._closed:
            self._connect()
        try:
            await self._begin()
            with translated():
                self._cache.begin()
                commit = Commit(
                    self._connection, self._cache, now, max_members=self._max_members, max_devices=self._max_devices,
                    new_device_events=self._new_device_events,
                )  # fmt: skip
                outcomes = [commit.apply(operation) for operation in operations]
                commit.flush()
            await trio.to_thread.run_sync(self._execute, "COMMIT", limiter=self._writing)
        except BaseException as fault:
            self._recover(fault)
            raise
        return outcomes

    async def _begin(self) -> None:
        # Tried at once: another process seldom holds the lock, and a thread costs 50 us.
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            await trio.to_thread.run_sync(self._begin_patiently, limiter=self._writing)
        except apsw.Error:
            with translated():
                raise

    def _begin_patiently(self) -> None:
        self._connection.set_busy_timeout(self._busy_ms)
        try:
            self._execute("BEGIN IMMEDIATE")
        finally:
            self._connection.set_busy_timeout(0)

    def _execute(self, sql: str) -> None:
        with translated():
            self._connection.execute(sql)

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
        """Run a query in a reader thread, on a connection of its own, in one snapshot."""

        def run() -> T:
            with translated():
                connection = self._take_reader()
                try:
                    connection.execute("BEGIN")
                    found = query(connection, *values)
                    connection.execute("ROLLBACK")
                except BaseException:
                    # Not rolled back: after an I/O error SQLite has done so by itself, and a second ROLLBACK would raise
                    # in the error's place. Not kept: what its cache holds is not trusted.
                    connection.close(True)
                    raise
                self._idle.append(connection)
                return found

        return await trio.to_thread.run_sync(run, limiter=self._reading)

    def _take_reader(self) -> apsw.Connection:
        try:
            return self._idle.pop()  # not looked at first: another thread may take the last one in between
        except IndexError:
            return open_connection(self._path, busy_ms=self._busy_ms, read_only=True)

    async def standings(self, user_no: int, device_no: int) -> list[Standing]:
        """See the port."""
        return await self._read(reads.standings, user_no, device_no)

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

    async def changes(self, token: int | None) -> Changes:
        """See the port."""
        return await self._read(reads.changes, token)

    async def conversations(
        self, user_no: int, device_no: int, cursor: str | None, limit: int, *, max_bytes: int = LIST_BYTES
    ) -> tuple[list[Item], str | None]:
        """See the port."""
        del device_no  # marks are merged over a user's devices
        # Parsed here, for a reader is closed after any error, and a client may send what cursors it likes.
        return await self._read(reads.conversations, user_no, reads.parse_cursor(cursor), limit, max_bytes)

    async def members(self, user_no: int, conv: str) -> list[Member] | None:
        """See the port."""
        return await self._read(reads.members, user_no, conv)

    async def blocked(self, user_no: int) -> list[str]:
        """See the port."""
        return await self._read(reads.blocked, user_no)

    async def account(self, name: str) -> Account | None:
        """See the port."""
        return await self._read(reads.account, name)

    def close(self) -> None:
        """Close every connection; nothing may be in flight."""
        for connection in (*self._idle, self._connection):
            connection.close()


@asynccontextmanager
async def open_store(
    path: Path, *, max_members: int = 1000, max_devices: int = 100, busy_seconds: float = 5.0,
    new_device_events: int = 1000,
) -> AsyncIterator[SqliteStore]:
    """Open (and migrate) the file; close it at the end. Raises NewerSchema, Unavailable."""
    busy_ms = int(busy_seconds * 1000)
    await trio.to_thread.run_sync(partial(migrate, path, busy_ms=busy_ms))
    store = SqliteStore(
        path, max_members=max_members, max_devices=max_devices, busy_ms=busy_ms, new_device_events=new_device_events
    )
    try:
        yield store
    finally:
        store.close()
