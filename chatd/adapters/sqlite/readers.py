"""Connections that read, each in a worker thread and in one snapshot; bounded in number."""

from __future__ import annotations

from collections.abc import Callable
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
