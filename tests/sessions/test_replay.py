"""What a session remembers of a replay, for what comes after it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from chatd_protocol import messages
from chatd_protocol.transitions import State

from chatd.conversations.operations import Author, Event
from chatd.sessions.replay import replay_all
from chatd.store.port import Page, Standing
from tests.sessions.alone import Alone, Link

LOG = [Event("c", seq, 0, "ben", "message", b"\xa0", 9, seq) for seq in range(1, 11)]
REMOVED = Standing("c", "group", False, 1, 8, 5)
"""Has 5 events, and was removed with the eighth."""


WELCOME = messages.Welcome(user="ann", device="phone", session="s", cseq=0, time=0, heartbeat_ms=1, limits={})


class Reading(Link):
    """Its peer reads all at once."""

    async def wait_drained(self, below: int) -> None:
        return None


async def _never_fresh(*_: Any) -> bool:
    return False


async def _page(user_no: int, conv: str, *, after: int, **_: Any) -> Page:
    return Page(LOG[after:], 10, more=False, member=True)


async def test_who_was_added_again_meanwhile_goes_on_where_the_replay_ended() -> None:
    """I6: removed when the replay began, and a member again when the store was read: the session does not follow yet, and hears
    of it after; it must not begin again at its cursor then."""
    alone = Alone()
    alone.session.opened(Author(1, "ann", 1, 1), "phone", 0)
    alone.session.link = link = Reading()  # type: ignore[assignment]
    alone.session._machine.state = State.GREETING
    alone.node.store = SimpleNamespace(page=_page)
    alone.node.hub = SimpleNamespace(follow=_never_fresh, topics={})
    alone.node.cork = nullcontext()
    alone.node.presence.conversations_moved = lambda session: None
    await replay_all(alone.session, alone.node, messages.Hello(token="t", device="phone"), [REMOVED], WELCOME)
    assert [message["seq"] for message in link.said if message["t"] == "event"] == [6, 7, 8, 9, 10]
    assert alone.session.former == {"c": 10}
