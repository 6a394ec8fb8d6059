"""Connections to the database file, its migrations, and the border where SQLite's errors become the port's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import apsw
import structlog

from chatd.adapters.sqlite.filing import file_the_past
from chatd.store.port import NewerSchema, Unavailable

PAGE_CACHE_KIB = 64 * 1024
_TRANSIENT = (
    apsw.FullError, apsw.IOError, apsw.BusyError, apsw.LockedError, apsw.NoMemError, apsw.CantOpenError,
    apsw.ReadOnlyError, apsw.InterruptError, apsw.ProtocolError, apsw.PermissionsError,
)  # fmt: skip
"""What the world does to a file; anything else that SQLite raises is a bug, and is not translated."""

_IN_PYTHON = {"0008_words.sql": file_the_past}
"""What a migration does after its SQL, in the same transaction."""

log = structlog.get_logger()


FILE_NAME = "chatd.db"
"""Of the store, in the data directory."""


@contextmanager
def translated() -> Iterator[None]:
    """The one place where SQLite's errors become ``Unavailable``."""
    try:
        yield
    except _TRANSIENT as fault:
        raise Unavailable(f"{type(fault).__name__}: {fault}") from fault


class Unreadable(Unavailable):
    """The file is no database, or too broken to be asked."""


@contextmanager
def unreadable_is_unavailable(path: Path) -> Iterator[None]:
    """Where a file is opened or read as a whole: one that is no store, or too broken to be asked, is as good as none. Not around
    commits: a page that breaks under a running server is no fault to go on with."""
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError, apsw.SQLError, UnicodeDecodeError) as fault:
        raise Unreadable(f"{path}: {type(fault).__name__}: {fault}") from fault


def open_connection(path: Path, *, busy_ms: int, read_only: bool) -> apsw.Connection:
    """A connection with the settings that the port's promises need. Raises Unavailable."""
    with translated(), unreadable_is_unavailable(path):
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(busy_ms)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # I1: a commit is fsynced before it returns
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, and not only forgotten
    return connection


def check_file(path: Path) -> None:
    """Raises Unavailable where something else than a file is in a store's place: of a FIFO the opening would not come back."""
    if path.exists() and not path.is_file():
        raise Unavailable(f"{path}: not a regular file")


def migrate(path: Path, *, busy_ms: int) -> bool:
    """Bring the file to this version's schema, each step in one transaction; whether it was of an earlier one. Several processes
    may do so at once. Raises NewerSchema, and Unavailable.
    """
    check_file(path)
    path.touch(mode=0o600, exist_ok=True)
    path.chmod(0o600)
    steps = _steps()
    connection = open_connection(path, busy_ms=busy_ms, read_only=False)
    try:
        with translated():
            earlier = check_version(connection, path) < len(steps)
            for number, name in enumerate(steps, 1):
                connection.execute("BEGIN IMMEDIATE")
                if _version(connection) < number:
                    connection.execute((files(__package__) / "migrations" / name).read_text())
                    if (and_then := _IN_PYTHON.get(name)) is not None:
                        and_then(connection)
                    connection.execute(f"PRAGMA user_version = {number}")
                    log.info("store.migrated", version=number)
                connection.execute("COMMIT")
    finally:
        connection.close()
    return earlier


def schema_of(version: int) -> apsw.Connection:
    """A new database in memory, with the tables of a store of that version, and nothing in them."""
    connection = apsw.Connection(":memory:")
    for name in _steps()[:version]:
        connection.execute((files(__package__) / "migrations" / name).read_text())
    return connection


def _steps() -> list[str]:
    """The migrations' names, in order. A file's version is how many it has had: a gap in the numbers, filled later, would give
    every file that there is another version than it had."""
    steps = sorted(entry.name for entry in (files(__package__) / "migrations").iterdir() if entry.name.endswith(".sql"))
    numbers = [int(name.partition("_")[0]) for name in steps]
    assert numbers == list(range(1, len(steps) + 1)), f"migrations are numbered 1, 2, 3, ...: {numbers}"
    return steps


def _version(connection: apsw.Connection) -> int:
    version: int = connection.pragma("user_version")
    return version


def check_version(connection: apsw.Connection, path: Path) -> int:
    """The file's. Raises NewerSchema."""
    version, known = _version(connection), len(_steps())
    if version > known:
        raise NewerSchema(f"{path} has schema version {version}; this chatd knows up to {known}: use the newer chatd")
    return version
