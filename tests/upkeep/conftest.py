"""What each of these begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chatd.adapters.sqlite.store import open_store
from tests.store.conformance import do, message, people


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a conversation of four messages."""
    directory = tmp_path / "data"
    directory.mkdir()
    trio.run(_four_messages, directory / "chatd.db")
    return directory


async def _four_messages(path: Path) -> None:
    async with open_store(path) as store:
        ann, ben = await people(store, "ann", "ben")
        for number in range(1, 4):
            await do(store, message(ann, number, "@ben"))
        await do(store, message(ben, 1, "@ann"))
