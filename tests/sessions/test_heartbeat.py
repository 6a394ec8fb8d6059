"""What heartbeats say of a person."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from chatd_protocol import messages
from chatd_protocol.codec import Encoding
from trio.testing import MockClock

from chatd.sessions.session import Session


@pytest.mark.parametrize(
    ("said", "active"),
    [([True, True], False), ([False], False), ([False, True], True), ([False, True, True], True), ([None, True], False)],
)
async def test_what_is_an_activity(mock_clock: MockClock, said: list[bool | None], active: bool) -> None:
    """From ``active: false`` to ``true`` is one. To say ``true`` with every heartbeat is none: nobody would ever be away."""
    stirred: list[str] = []
    node: Any = SimpleNamespace(
        limits=SimpleNamespace(messages_per_second=10, messages_burst=10, requests_waiting=9),
        presence=SimpleNamespace(stir=stirred.append)
    )
    session = Session(node, Encoding.JSON, "127.0.0.1", "s")
    session.link = SimpleNamespace(write=lambda data: None)  # type: ignore[assignment]
    mock_clock.jump(400)
    session.idle, session.last_heard = True, trio.current_time()
    for word in said:
        session._heartbeat(messages.Heartbeat() if word is None else messages.Heartbeat(active=word))
    assert (session.last_active == trio.current_time()) is active
    assert session.idle is not active
    assert len(stirred) == len([1 for before, word in pairwise([True, *said]) if None not in (before, word) and word != before])
