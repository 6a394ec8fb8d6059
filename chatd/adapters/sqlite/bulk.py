"""Many rows in few statements.

``executemany`` takes a step for each row, and the interpreter's lock is held for nearly all of it; one statement with many
rows is one long step without the lock, which another core does meanwhile. Measured for a row of ``events``: 3.5 us, of which
1 is left to the interpreter (its values are bound to the statement).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import apsw

_SIZES = (256, 64, 16, 4, 1)
"""Rows of a statement: few different ones, for each is prepared once and kept by the connection."""


def execute_rows(connection: apsw.Connection, before: str, width: int, values: Sequence[object], after: str = "") -> None:
    """Run ``before (VALUES of width columns each) after`` over all of ``values``, row after row in one flat sequence.

    In ``after`` the columns are called ``column1`` and so on. Raises what SQLite raises; some rows may be written then.
    """
    at, left = 0, len(values) // width
    for size in _SIZES:
        while left >= size:
            end = at + size * width
            connection.execute(_statement(before, width, size, after), cast("Any", values[at:end]))
            at, left = end, left - size


@lru_cache(maxsize=64)
def _statement(before: str, width: int, rows: int, after: str) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{before} VALUES {', '.join([row] * rows)}{after}"
