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


async def replay_all(
    session: Session, node: Node, hello: messages.Hello, standings: list[Standing], welcome: messages.Welcome
) -> None:
    """Follow all conversations, say ``welcome``, replay each from its position, say ``live``, and join them. Raises Unavailable.

    What is read before the welcome is read before the session's first send: what the client claims to have beyond these heads
    it cannot have, and a send of its own must not be taken for it. Who has missed nothing is told all that in one write.
    """
    standings = await _follow_all(session, node, standings)
    if session.ended is not None:
        return
    positions = _positions(standings, hello)
    with node.cork:
        session.advance("welcome")
        session.tell(welcome)
        late = [standing.conv for standing in standings if _is_late(session, node, standing, positions[standing.conv])]
        at_once = not late and not _behind(session, node, positions)
        if at_once:
            _say_live(session)
    if not at_once:
        await _replay(session, node, late, positions)
    for conv in list(session.followed) if session.ended is None else ():
        await join(session, node, conv, positions.get(conv, 0))
    node.presence.conversations_moved(session)  # who came and went meanwhile was read here, and told to nobody


async def _follow_all(session: Session, node: Node, standings: list[Standing]) -> list[Standing]:
    """How the conversations stand, now that they are followed, also those that began meanwhile. Raises Unavailable."""
    assert session.author is not None
    while True:
        new = [(s.conv, s.kind == "group") for s in standings if s.member and s.conv not in session.followed]
        if new:
            session.topics.update(conv for conv, _ in new)
        if not await node.hub.follow(session, new):
            return standings
        # A topic that is new here has counted nothing yet; what the store holds now is where it begins.
        standings = await node.store.standings(session.author.user_no, session.device_no)


def _is_late(session: Session, node: Node, standing: Standing, position: int) -> bool:
    """Whether the store has more of a conversation; its topic is told how far it is."""
    conv = standing.conv
    topic = node.hub.topics.get(conv)
    if topic is not None and standing.member:
        topic.note(standing.last)
    if position < standing.last:
        return True
    if not standing.member:
        session.detached(conv, position)  # from there it goes on when they are added again
    return False


def _behind(session: Session, node: Node, positions: dict[str, int]) -> list[str]:
    """The conversations whose topics are further than what the session was sent."""
    return [conv for conv in session.followed if not node.hub.topics[conv].in_step(positions.get(conv, 0))]


async def _replay(session: Session, node: Node, late: list[str], positions: dict[str, int]) -> None:
    """Send what was missed, moving ``positions``, and say ``live``. Raises Unavailable."""
    for conv in late:
        positions[conv] = await catch_up(session, node, conv, positions[conv])
        if conv not in session.followed and session.ended is None:
            session.detached(conv, positions[conv])  # added again only now: when that is heard, it goes on from here
    for _ in range(ROUNDS_BEFORE_LIVE):
        behind = _behind(session, node, positions)
        for conv in behind:
            positions[conv] = await catch_up(session, node, conv, positions.get(conv, 0))
        if not behind or session.ended is not None:
            break
    if session.ended is None:
        _say_live(session)


def _say_live(session: Session) -> None:
    session.advance("live")
    session.tell(messages.Live())


def _positions(standings: list[Standing], hello: messages.Hello) -> dict[str, int]:
    """Where to begin in each conversation: the client's own word, else the device's cursor, within what is visible."""
    said = {} if hello.positions is msgspec.UNSET else hello.positions
    return {s.conv: max(min(said.get(s.conv, s.cursor), s.last), s.first - 1) for s in standings}


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
