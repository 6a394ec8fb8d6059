"""Many rows in one statement.

``executemany`` takes a step for each row, and the interpreter's lock is held for nearly all of it; one statement with many
rows is one long step without the lock, which another core does meanwhile. Measured for a row of ``events``: 3.5 us, of which
1 is left to the interpreter (its values are bound to the statement). Between two statements the lock has to be had again, for
which a busy Trio thread lets wait up to 5 ms, so that few statements matter more than few values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, cast

import apsw

_SIZES: Final = (1, 4, 16, 64, 256, 512)
"""Rows of a statement: few different ones, for each is prepared once and kept by the connection. What is left over is NULL.

512 rows of 10 columns are a text of 11,800 characters; APSW keeps no statement beyond 16 KiB, and would prepare it each time."""


def execute_rows(connection: apsw.Connection, before: str, width: int, values: Sequence[object], after: str) -> None:
    """Run ``before (VALUES of width columns each) after`` over all of ``values``, row after row in one flat sequence.

    In ``after`` the columns are called ``column1`` and so on; it must do nothing with rows whose ``column1`` is NULL. Raises
    what SQLite raises; some rows may be written then.
    """
    at, most = 0, _SIZES[-1] * width
    while at < len(values):
        some = values[at : at + most]
        size = next(size for size in _SIZES if size * width >= len(some))
        filled = (*some, *(None,) * (size * width - len(some)))
        connection.execute(_statement(before, width, size, after), cast("Any", filled))
        at += most


@lru_cache(maxsize=64)
def _statement(before: str, width: int, rows: int, after: str) -> str:
    row = f"({','.join('?' * width)})"
    return f"{before} (VALUES {', '.join([row] * rows)}) {after}"
