"""The store writer's mailbox: what an operation weighs in it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from chatd.conversations.operations import AddMembers, Author, NoteSeen, Operation, RollCall
from chatd.ops.metrics import Metrics
from chatd.store.writer import NAME_BYTES, OPERATION_BYTES, Writer

NAMES = tuple(f"u{number}" for number in range(500))
AUTHOR = Author(1, "a", 1, 1)


@pytest.mark.parametrize(
    "operation",
    [
        NoteSeen(seen=tuple((name, 1) for name in NAMES)),
        RollCall(node=b"n", lease_ms=1, left=tuple((number, 1) for number in range(500))),
        AddMembers(author=AUTHOR, conv="c", users=NAMES),
    ],
    ids=lambda operation: type(operation).__name__,
)
async def test_names_are_weighed(operation: Operation) -> None:
    """I9: the bound in bytes holds for operations that carry many names or numbers, too."""
    nowhere: Any = None
    size = OPERATION_BYTES + 500 * NAME_BYTES
    writer = Writer(nowhere, lambda _: None, Metrics(), nullcontext(), max_items=100, max_bytes=2 * size, batch=10)
    assert [writer.submit(operation, lambda *_: None) for _ in range(3)] == [True, True, False]
