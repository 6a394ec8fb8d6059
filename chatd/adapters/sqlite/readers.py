"""Connections that read, each in a worker thread and in one snapshot; bounded in number. And who may ask for one when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import apsw
import trio

from chatd.adapters.sqlite.database import translated

T = TypeVar("T")


class Readers:
    """At most ``threads`` at once, each on a connection that ``open_reader`` made; who comes later waits."""

    def __init__(self, open_reader: Callable[[], apsw.Connection], threads: int) -> None:
        self._open = open_reader
        self._limiter = trio.CapacityLimiter(threads)
        self.idle: list[apsw.Connection] = []

    async def read(self, query: Callable[..., T], *values: object) -> T:
        """Run ``query(connection, *values)``. Raises Unavailable, and what the query raises."""

        def run() -> T:
            with translated():
                connection = self._take()
                try:
                    connection.execute("BEGIN")
                    found = query(connection, *values)
                    connection.execute("ROLLBACK")
                except BaseException:
                    # Not rolled back: after an I/O error SQLite has done so by itself, and a second ROLLBACK would raise
                    # in the error's place. Not kept: what its cache holds is not trusted.
                    connection.close(True)
                    raise
                self.idle.append(connection)
                return found

        return await trio.to_thread.run_sync(run, limiter=self._limiter)

    def _take(self) -> apsw.Connection:
        try:
            return self.idle.pop()  # not looked at first: another thread may take the last one in between
        except IndexError:
            return self._open()

    def close(self) -> None:
        """Nothing may be in flight."""
        for connection in self.idle:
            connection.close()


class Turns:
    """One at a time for each user, in the order of coming; users do not wait for each other.

    Before ``Readers``, where first come is first served, it leaves each user one place of those who wait there, however many
    sessions ask. Has no bound of its own: each that waits is a session's actor, which waits for one thing at a time. Nothing
    is kept of a user for whom nobody asks. Cancelling is safe.
    """

    def __init__(self) -> None:
        self._locks: dict[int, trio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def of(self, user_no: int) -> AsyncIterator[None]:
        lock = self._locks.setdefault(user_no, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # A lock that is let go of is its next waiter's at once. By identity, for it may have been forgotten already, by
            # another one while this one was being cancelled.
            if not lock.locked() and self._locks.get(user_no) is lock:
                del self._locks[user_no]
