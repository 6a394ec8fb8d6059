"""A copy of a store's file, of one moment, while servers write to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apsw

from chatd.adapters.sqlite.database import open_connection, translated, unreadable_is_unavailable
from chatd.store.port import Unavailable

PAGES_AT_ONCE = 2048


def copy_file(source: Path, target: Path, tell: Callable[[int, int], None]) -> None:
    """Copy the store at ``source`` to the new file ``target``, synced. ``tell`` gets (pages done, of so many).

    One read transaction holds for all of it: the copy is of its beginning, and what is committed meanwhile neither shows in
    it nor begins it anew. No commit waits, but the write-ahead log grows until it is done. The copy is of the schema that the
    store has, earlier or not. Raises Unavailable.
    """
    connection = open_connection(source, busy_ms=5000, read_only=True)
    try:
        with translated(), unreadable_is_unavailable(source):
            copy = apsw.Connection(str(target))
            try:
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                with copy.backup("main", connection, "main") as copying:
                    while not copying.done:
                        copying.step(PAGES_AT_ONCE)
                        tell(copying.page_count - copying.remaining, copying.page_count)
                connection.execute("ROLLBACK")
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, and nothing beside it
            finally:
                copy.close()
    finally:
        connection.close()
    target.chmod(0o600)
    sync(target)


def fold_log_exclusively(path: Path) -> None:
    """Fold the write-ahead log of a store into its file. Raises Unavailable where somebody else has it open, and Unreadable."""
    with translated(), unreadable_is_unavailable(path):
        connection = apsw.Connection(str(path))
        try:
            connection.set_busy_timeout(0)
            if connection.execute("PRAGMA journal_mode = DELETE").fetchall() != [("delete",)]:
                raise Unavailable(f"{path}: a server has it open")
        except apsw.BusyError as fault:
            raise Unavailable(f"{path}: a server has it open") from fault
        finally:
            connection.close()


def sync(path: Path) -> None:
    """A file or a directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
