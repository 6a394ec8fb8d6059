"""A search that has worked too long is interrupted where it stands, and the connection serves the next one."""

from __future__ import annotations

from contextlib import closing

import apsw
import pytest

from chatd.adapters.sqlite import search

WORK = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}) SELECT count(*) FROM c"


@pytest.mark.parametrize("bound", ["SEARCH_SECONDS", "PATIENCE_SECONDS"])
def test_a_search_ends_with_its_time(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """I9: by the processor, and by the clock."""
    monkeypatch.setattr(search, "STEPS_BETWEEN_LOOKS", 100)
    monkeypatch.setattr(search, bound, -1.0)
    with closing(apsw.Connection(":memory:")) as connection:
        with pytest.raises(apsw.InterruptError), search._bounded(connection):
            connection.execute(WORK.format(1_000_000)).fetchall()
        assert connection.execute(WORK.format(10_000)).fetchall() == [(10_000,)]
