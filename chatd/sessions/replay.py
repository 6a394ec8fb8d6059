"""Catch-up: a session gets what it missed, from the store, before anything live (I6, I7).

Position first, then the store, then the tail: the session *follows* its topics before it reads, so that each topic
counts what is committed meanwhile; it joins a topic only when what it has read meets what the topic has released. The
peer sets the pace: a page is read when the one before has mostly left for the kernel.
"""

from __future__ import annotations

import msgspec
import trio
from chatd_protocol import codes, messages

from chatd.delivery.hub import ack_frame, event_frame, is_own
from chatd.sessions.node import Node
from chatd.sessions.session import Session
from chatd.store.port import Standing

PAGE_EVENTS = 200
STALL_SECONDS = 30.0
ROUNDS_BEFORE_LIVE = 5
"""How often the tail is read again before ``live`` is said all the same: a busy conversation never stands still."""


async def replay_all(session: Session, node: Node, hello: messages.Hello, standings: list[Standing]) -> None:
    """Replay every conversation from its position, say ``live``, and join them all. Raises Unavailable.

    ``standings``: as they were before the session's first send.
    """
    assert session.author is not None
    heads = {s.conv: s.last for s in standings}
    groups = [(s.conv, s.kind == "group") for s in standings if s.member]
    topics = session.topics if groups else set[str]()
    topics.update(conv for conv, _ in groups)
    fresh = await node.hub.follow(session, groups)
    if fresh:
        # A topic that is new here has counted nothing yet; what the store holds now is where it begins.
        standings = await node.store.standings(session.author.user_no, session.device_no)
    positions = _positions(standings, hello, heads)
    for standing in standings:
        await _replay(session, node, standing, positions)
    for _ in range(ROUNDS_BEFORE_LIVE):
        behind = [conv for conv in topics if not node.hub.topics[conv].in_step(positions.get(conv, 0))]
        for conv in behind:
            positions[conv] = await catch_up(session, node, conv, positions.get(conv, 0))
        if not behind or session.ended is not None:
            break
    if session.ended is not None:
        return
    session.advance("live")
    session.tell(messages.Live())
    for conv in list(topics):
        await join(session, node, conv, positions.get(conv, 0))
    node.presence.conversations_moved(session)  # who came and went meanwhile was read here, and told to nobody


async def _replay(session: Session, node: Node, standing: Standing, positions: dict[str, int]) -> None:
    """One conversation, and move its entry of ``positions``. Raises Unavailable."""
    conv, position = standing.conv, positions[standing.conv]
    topic = node.hub.topics.get(conv)
    if topic is not None and standing.member:
        topic.note(standing.last)
    if position < standing.last:
        positions[conv] = await catch_up(session, node, conv, position)
    elif not standing.member:
        session.detached(conv, position)  # from there it goes on when they are added again


def _positions(standings: list[Standing], hello: messages.Hello, heads: dict[str, int]) -> dict[str, int]:
    """Where to begin in each conversation: the client's own word, else the device's cursor, within what is visible."""
    said = {} if hello.positions is msgspec.UNSET else hello.positions
    return {s.conv: max(min(said.get(s.conv, s.cursor), heads.get(s.conv, 0)), s.first - 1) for s in standings}


async def catch_up(session: Session, node: Node, conv: str, position: int) -> int:
    """Send what the store holds after ``position``; return the new position. Raises Unavailable."""
    assert session.author is not None
    more = True
    while more and session.ended is None:
        page = await node.store.page(
            session.author.user_no, conv, after=position, before=None, limit=PAGE_EVENTS, max_bytes=node.pages.replay,
            former=True,
        )  # fmt: skip
        if page is None:
            return position
        with node.cork:
            for event in page.events:
                own = is_own(event, session)
                session.write(ack_frame(session.encoding, event) if own else event_frame(session.encoding, event))
                position = event.seq
        node.metrics.replayed += len(page.events)
        if not page.member and not page.more:
            session.detached(conv, position)
            node.hub.unfollow(session, conv)
            return position
        more = page.more
        await wait_for_peer(session, node)
    return position


async def wait_for_peer(session: Session, node: Node) -> None:
    """Return when there is room for a page in the session's outbox; end a session that does not read for so long."""
    with trio.move_on_after(STALL_SECONDS) as scope:
        await session.link.wait_drained(node.pages.drained)
    if scope.cancelled_caught:
        session.end(codes.SLOW_CONSUMER, retry_after_ms=1000, cut=True)


async def join(session: Session, node: Node, conv: str, position: int) -> None:
    """Make the session live in a topic it follows, reading on while the topic is further. Raises Unavailable."""
    while session.ended is None and conv in session.topics:
        topic = node.hub.topics.get(conv)
        if topic is None or topic.join(session, position):
            if topic is not None and topic.gapped:
                node.hub.gapped.add(conv)
                node.hub.on_gap()
            return
        reached = await catch_up(session, node, conv, position)
        if reached == position:
            # The topic has heard of what this reader's snapshot does not show yet; give the store a moment.
            await trio.sleep(0.01)
        position = reached
