"""The index that search reads: the words of every text message as it is now, in a file of its own beside the log's.

Not in the log's file, and not in its commits. Measured, in batches of 200 messages of 120 bytes, the median of 14 runs: a
commit takes 21 us a message, with the index in it 59, and 22 with an indexer beside it. From a second file that takes none
of the writer's lock and no fsync, and SQLite does a batch in one step, without the interpreter's lock (see ``store``), 20
us a message of a core that is free. So the index follows the log, a moment behind. Nothing in it is the truth: what the
last crash undid is done again, and the file may be removed while no chatd runs on it; it is then made anew. What search
gives is checked in the log itself (``search``).

How far it is stands in the file, so any process may do the next batch, and one at a time does. The index keeps its own copy
of the texts, as large again as the log has it: FTS5 needs it to take a text's words out for good (``secure-delete``);
without, it marks them as deleted and keeps them for any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import apsw
import cbor2
import structlog

from chatd.adapters.sqlite.database import PAGE_CACHE_KIB, translated
from chatd.adapters.sqlite.payloads import fields_of
from chatd.adapters.sqlite.reads import rows
from chatd.store.port import Unavailable

SCHEMA = 1
BATCH_EVENTS = 2000
BATCH_BYTES = 2 * 1024 * 1024
CHANGED_AT_ONCE = 200
BUCKET = 4096
"""Events whose times are known together, to begin and end a search in a time near its place in the log."""

_TABLES = """
CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), no INTEGER NOT NULL, mark TEXT NOT NULL) STRICT;
INSERT INTO progress (one, no, mark) VALUES (1, 0, '');
CREATE TABLE edited (no INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE moments (bucket INTEGER PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL) STRICT;
CREATE VIRTUAL TABLE found USING fts5 (place, body, tokenize = 'unicode61 remove_diacritics 2');
INSERT INTO found (found, rank) VALUES ('secure-delete', 1);
"""
_DROP = "".join(f"DROP TABLE IF EXISTS {table};" for table in ("progress", "edited", "moments", "found"))
_MARK = "e.conv || '.' || e.seq || '.' || e.at"
# Sizes are summed without a payload being read.
_NEXT = f"""
    SELECT json_array(p.no, p.mark, (SELECT {_MARK} FROM log.events e WHERE e.no = p.no), (SELECT max(no) FROM log.events),
        (SELECT max(b.no) FROM (
            SELECT x.no, x.size, sum(x.size) OVER (ORDER BY x.no) AS total FROM (
                SELECT e.no, length(e.payload) AS size FROM log.events e
                WHERE e.no > (SELECT no FROM progress) ORDER BY e.no LIMIT ?1) x) b
            WHERE b.total <= ?2 OR b.total = b.size))
    FROM progress p
"""  # noqa: S608
# This module's own texts alone; values are always bound.


def _byte(at: int) -> str:
    return f"(instr(?3, substr(e.payload, {at}, 1)) - 1)"


# The payload of a text message begins with its type and its body (``codec.message_payload``): a text of up to 23, 255 or
# 65535 bytes. Read by SQLite itself, since a function of ours would take the interpreter's lock for each row.
_BEGINS = cbor2.dumps({"type": "text", "body": ""})[1:-1]
_HEAD = 2 + len(_BEGINS)
_TEXT = f"""CAST(CASE
    WHEN substr(e.payload, {_HEAD}, 1) < x'78' THEN substr(e.payload, {_HEAD + 1}, {_byte(_HEAD)} - 96)
    WHEN substr(e.payload, {_HEAD}, 1) = x'78' THEN substr(e.payload, {_HEAD + 2}, {_byte(_HEAD + 1)})
    ELSE substr(e.payload, {_HEAD + 3}, {_byte(_HEAD + 1)} * 256 + {_byte(_HEAD + 2)}) END AS TEXT)"""
_ADD = f"""
    INSERT INTO found (rowid, place, body) SELECT e.no, 'c' || e.conv || ' u' || e.sender, {_TEXT}
    FROM log.events e WHERE e.no > ?1 AND e.no <= ?2 AND e.kind = 'message' AND NOT e.deleted
    AND substr(e.payload, 2, {len(_BEGINS)}) = ?4 AND substr(e.payload, {_HEAD}, 1) BETWEEN x'60' AND x'79'
"""  # noqa: S608
_EVERY_BYTE = bytes(range(256))
_TIMES = f"""
    INSERT INTO moments (bucket, low, high) SELECT e.no / {BUCKET}, min(e.at), max(e.at)
    FROM log.events e WHERE e.no > ?1 AND e.no <= ?2 GROUP BY 1
    ON CONFLICT (bucket) DO UPDATE SET low = min(low, excluded.low), high = max(high, excluded.high)
"""  # noqa: S608
_NOW = """
    FROM json_each(?1) t CROSS JOIN log.events e ON e.conv = t.value ->> 0 AND e.seq = t.value ->> 1 AND e.kind = 'message'
    LEFT JOIN log.events l ON l.conv = e.conv
    AND l.seq = (SELECT max(d.seq) FROM log.edits d WHERE d.conv = e.conv AND d.target = e.seq)
"""

log = structlog.get_logger()


def index_path(database: Path) -> Path:
    """Where the index of a store's file is."""
    return database.with_name(f"{database.stem}-search{database.suffix}")


class SearchIndex:
    """Owns one connection that writes the index; ``advance`` is called by one thread at a time."""

    def __init__(self, database: Path, *, busy_ms: int) -> None:
        self._database = database
        self._busy_ms = busy_ms
        self._connection: apsw.Connection | None = None
        self._damaged = False
        self._unscrubbed = True  # by a process that was killed
        self.path = index_path(database)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """SQLite's errors as ``Unavailable``, a damaged index among them: it must not end a server that has all messages.

        What is asked of the index is mostly asked of the log, too; that a log is damaged is raised as it is.
        """
        try:
            with translated():
                yield
        except (apsw.CorruptError, apsw.NotADBError) as fault:
            self._damaged = self._damaged or self._is_damaged(fault)
            if not self._damaged:
                raise
            raise Unavailable(f"the search index is damaged; stop chatd, remove {self.path.name}*, start it again") from fault

    def _is_damaged(self, fault: apsw.Error) -> bool:
        """Which of the two files it is only tells the index opened alone; but in the log there are no virtual tables."""
        if getattr(fault, "extendedresult", 0) == apsw.SQLITE_CORRUPT_VTAB:
            return True
        with closing(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)) as alone:
            alone.set_busy_timeout(self._busy_ms)
            try:
                return alone.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]
            except (apsw.CorruptError, apsw.NotADBError):
                return True

    def prepare(self) -> None:
        """Make the file, or its tables anew where they are another version's. Raises Unavailable."""
        with self.faults():
            self._open().close()

    def advance(self) -> int:
        """The next batch; how many events are left. 0, too, while another process is at it. Raises Unavailable."""
        try:
            with self.faults():
                if self._connection is None:
                    self._connection = self._open()
                return self._advance(self._connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close(True)
            self._connection = None

    def _open(self) -> apsw.Connection:
        self.path.touch(mode=0o600, exist_ok=True)
        self.path.chmod(0o600)
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(str(self.path), flags=flags)
        connection.set_busy_timeout(self._busy_ms)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a crash takes the newest batches and their progress alike
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
        if connection.pragma("user_version") != SCHEMA:
            connection.execute("BEGIN IMMEDIATE")
            if connection.pragma("user_version") != SCHEMA:  # another process may have been quicker
                self._make(connection)
            connection.execute("COMMIT")
        connection.set_busy_timeout(0)
        # Read only, or BEGIN IMMEDIATE would take the log's write lock, too.
        connection.execute("ATTACH ? AS log", (f"{self._database.absolute().as_uri()}?mode=ro",))
        return connection

    def _make(self, connection: apsw.Connection) -> None:
        connection.execute(_DROP + _TABLES)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        log.info("search_index.made", version=SCHEMA)

    def _advance(self, connection: apsw.Connection) -> int:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            return 0
        left = self._batch(connection)
        connection.execute("COMMIT")
        if self._unscrubbed:  # as in the store: not for good while the write-ahead log has it
            busy, _, _ = connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchall()[0]
            self._unscrubbed = bool(busy)
        return left

    def _batch(self, connection: apsw.Connection) -> int:
        row = connection.execute(_NEXT, (BATCH_EVENTS, BATCH_BYTES)).fetchone()
        assert row is not None, "made with one row"
        done, mark, there, newest, upto = json.loads(cast("str", row[0]))
        if mark != (there or ""):
            log.warning("search_index.of_another_log", done=done)  # a copy was put back: all of it is to be read again
            self._make(connection)
            return cast("int", newest or 0)
        if upto is None:
            return 0
        connection.execute(_ADD, (done, upto, _EVERY_BYTE, _BEGINS))
        connection.execute(_TIMES, (done, upto))
        changed = iter(_changed(connection, done, upto))
        while some := list(islice(changed, CHANGED_AT_ONCE)):
            self._anew(connection, some)
        connection.execute(
            f"UPDATE progress SET no = ?1, mark = (SELECT {_MARK} FROM log.events e WHERE e.no = ?1)",  # noqa: S608
            (upto,),
        )
        return cast("int", newest - upto)

    def _anew(self, connection: apsw.Connection, changed: list[tuple[int, int]]) -> None:
        """Index these messages, by (conversation, seq), as they are now."""
        self._unscrubbed = True
        columns = "e.no, e.conv, e.sender, e.deleted, hex(e.payload), l.seq, hex(l.payload)"
        texts, edits, all_of_them = [], [], []
        for no, conv, sender, deleted, payload, seq, latest in rows(connection, columns, _NOW, json.dumps(changed)):
            all_of_them.append(no)
            said = fields_of("message", bytes.fromhex(payload)) or {}
            now = said if seq is None else fields_of("edit", bytes.fromhex(latest)) or {}
            body = now.get("body")
            if not deleted and said.get("type") == "text" and isinstance(body, str):
                texts.append((no, f"c{conv} u{sender}", body))
            if seq is not None:
                edits.append((no, seq))
        gone = (json.dumps(all_of_them),)
        connection.execute("DELETE FROM found WHERE rowid IN (SELECT value FROM json_each(?))", gone)
        connection.execute("DELETE FROM edited WHERE no IN (SELECT value FROM json_each(?))", gone)
        connection.execute(
            "INSERT INTO found (rowid, place, body) SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
            (json.dumps(texts),),
        )
        connection.execute(
            "INSERT INTO edited (no, seq) SELECT value ->> 0, value ->> 1 FROM json_each(?)", (json.dumps(edits),)
        )


def _changed(connection: apsw.Connection, done: int, upto: int) -> dict[tuple[int, int], None]:
    """What was edited or deleted, as (conversation, seq)."""
    source = "FROM log.events e WHERE e.no > ?1 AND e.no <= ?2 AND e.kind IN ('edit', 'delete')"
    found: list[list[Any]] = rows(connection, "e.conv, e.kind, hex(e.payload)", source, done, upto)
    said = ((conv, fields_of(kind, bytes.fromhex(payload))) for conv, kind, payload in found)
    return {(conv, fields["target"]): None for conv, fields in said if fields is not None}
