"""What a session says to others when it is removed from a conversation."""

from __future__ import annotations

from types import SimpleNamespace

from chatd_protocol.codec import Encoding

from chatd.options import Limits
from chatd.sessions.session import Session


async def test_presence_is_asked_again_by_whom_is_removed() -> None:
    """However it learns of that, live or from the store: both call ``detached``, and who may know of whom has changed."""
    asked: list[object] = []
    presence = SimpleNamespace(conversations_moved=asked.append)
    session = Session(SimpleNamespace(limits=Limits(), presence=presence), Encoding.CBOR, "", "s")  # type: ignore[arg-type]
    session.topics.add("c")
    session.detached("c", 3)
    assert asked == [session]
    assert session.former == {"c": 3}
