"""How it reaches the store when everybody was last there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from chatd.conversations.operations import NoteSeen
from chatd.ops.metrics import Metrics
from chatd.presence.local_users import BATCH, LocalUsers
from chatd.presence.roster import Roster


async def test_last_seen_is_stored_in_parts() -> None:
    """What one commit does for thousands of users holds up the whole node, so they are handed over a part at a time, also when
    the node ends; none is left out, and what the writer does not take comes again."""
    notes: list[NoteSeen] = []
    room = True

    def submit(operation: Any, on_outcome: Any) -> bool:
        if room:
            notes.append(operation)
        return room

    nothing: Any = None
    roster = Roster(away=300, renew=30, expiry=60)
    local = LocalUsers(roster, nothing, submit, Metrics(), nothing, rate=1, store_seconds=60, wall_ms=lambda: 10**12)
    for number in range(BATCH * 2 + 1):
        device: Any = SimpleNamespace(last_active=5.0, inactive=False, idle=False)
        roster.enter(f"u{number}", device, 5.0)
    assert local.store_seen(10.0, everybody=True)
    assert len(notes) == 1
    room = False
    assert not local.store_seen(10.5, everybody=True)
    room = True
    assert [local.store_seen(11.0, everybody=True), local.store_seen(11.0, everybody=True)] == [True, False]
    assert not local.store_seen(12.0, everybody=True)
    assert [len(note.seen) for note in notes] == [BATCH, BATCH, 1]
    assert len({user for note in notes for user, _ in note.seen}) == BATCH * 2 + 1
