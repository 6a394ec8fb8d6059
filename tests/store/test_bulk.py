"""Many rows in one statement: every row, once, whatever their number."""

from __future__ import annotations

import apsw
import pytest

from chatd.adapters.sqlite.bulk import execute_rows


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 512, 513, 1025])
def test_every_row_is_written_once(count: int) -> None:
    """Those that fill a statement, those that are left over, and those of the next one."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")
    values = [value for number in range(count) for value in (number, f"row {number}")]
    execute_rows(connection, "INSERT INTO rows SELECT * FROM", 2, values, "WHERE column1 NOT NULL")
    rows = connection.execute("SELECT number, text FROM rows ORDER BY number").fetchall()
    assert rows == [(number, f"row {number}") for number in range(count)]
