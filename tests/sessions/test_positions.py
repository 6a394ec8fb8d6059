"""Where a replay begins: by the client's own word, but never beyond what there is, nor before what it may see."""

from __future__ import annotations

from chatd_protocol import messages
from msgspec import UNSET, UnsetType

from chatd.sessions.replay import _positions
from chatd.store.port import Standing

STANDINGS = [Standing("mine", "group", True, 1, 9, 4), Standing("late", "group", True, 5, 9, 4)]


def positions(said: dict[str, int] | UnsetType = UNSET) -> dict[str, int]:
    return _positions(STANDINGS, messages.Hello(token="x", device="d", positions=said))


def test_a_device_goes_on_where_it_was() -> None:
    """I7: at its cursors; what the client says goes before them, where it says something."""
    assert positions() == {"mine": 4, "late": 4}
    assert positions({"mine": 2}) == {"mine": 2, "late": 4}


def test_what_a_client_claims_to_have_beyond_the_log_it_has_not() -> None:
    """I6: a client that was restored from a copy, or lies, misses nothing of what comes next, its own acks included."""
    assert positions({"mine": 2**53 - 1, "late": 10}) == {"mine": 9, "late": 9}


def test_nobody_begins_before_their_time() -> None:
    """I8: what was said before one's ``joined`` is not asked for."""
    assert positions({"mine": 0, "late": 0}) == {"mine": 0, "late": 4}


def test_conversations_that_are_not_ones_own_are_no_positions() -> None:
    """I8: to name one is not to be in it."""
    assert positions({"elsewhere": 1}) == {"mine": 4, "late": 4}
