"""Connections that read, each in a worker thread and in one snapshot; bounded in number. And who may ask for one when."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar, cast

import apsw
import trio

from chatd.adapters.sqlite.database import translated
from chatd.store.port import Unavailable

A = TypeVar("A")
R = TypeVar("R")
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


class _Request(Generic[A, R]):
    __slots__ = ("answer", "answered", "fault", "question", "woken")

    def __init__(self, question: A) -> None:
        self.question = question
        self.answer: R | None = None
        self.answered = False
        self.fault: Unavailable | None = None
        self.woken = trio.Event()


class CoalescedReads(Generic[A, R]):
    """One question of many askers: what is asked while an answer is under way is asked with the next one, ``most`` at once.

    A thread, a snapshot and an answer of its own for each costs more than the answer: 0.8 ms a login, when thousands log in. The
    first of those who wait reads for the others too. ``query`` answers the first questions of those given, at least one;
    the others are asked again. What waits is bounded by the askers, who wait for nothing else.
    """

    def __init__(
        self, readers: Readers, query: Callable[[apsw.Connection, Sequence[A]], Sequence[R]], most: int
    ) -> None:
        self._readers = readers
        self._query = query
        self._most = most
        self._waiting: deque[_Request[A, R]] = deque()
        self._reading = False

    async def read(self, question: A) -> R:
        """Raises Unavailable, and what the query raises. Cancelling is safe."""
        mine: _Request[A, R] = _Request(question)
        self._waiting.append(mine)
        try:
            while not mine.answered:
                if self._reading:
                    await mine.woken.wait()
                    mine.woken = trio.Event()
                else:
                    await self._read_first()
        except BaseException:
            if mine in self._waiting:
                self._waiting.remove(mine)
            self._wake_next()
            raise
        if mine.fault is not None:
            raise mine.fault
        return cast("R", mine.answer)

    async def _read_first(self) -> None:
        self._reading = True
        batch = [self._waiting[place] for place in range(min(self._most, len(self._waiting)))]
        try:
            answers = await self._readers.read(self._query, [asked.question for asked in batch])
        except Unavailable as fault:
            for asked in batch:
                asked.fault = fault
            self._settle(batch)
        else:
            for asked, answer in zip(batch, answers, strict=False):
                asked.answer = answer
            self._settle(batch[: len(answers)])
        finally:
            self._reading = False
            self._wake_next()

    def _settle(self, batch: list[_Request[A, R]]) -> None:
        for asked in batch:
            asked.answered = True
            asked.woken.set()
            if asked in self._waiting:  # else it was cancelled meanwhile
                self._waiting.remove(asked)

    def _wake_next(self) -> None:
        if self._waiting and not self._reading:
            self._waiting[0].woken.set()


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
