"""The session's actor: hello, replay, and the requests that wait for the store, one after another.

Waits for: its own mailbox (``Session.job_waits``), the store's reads, the store writer's outcome and the bus's confirmation,
which have their own deadlines, and its own peer's reading (``replay.STALL_SECONDS``). Nobody waits for it. Ends when the
session has; cancelling it ends the session without a goodbye. A fault in here ends this session alone.
"""

from __future__ import annotations

from time import time_ns

import msgspec
import structlog
import trio
from chatd_protocol import codes, messages
from chatd_protocol.codes import ErrorCode

from chatd.conversations.operations import DeviceOpened, OpenDevice, Refused
from chatd.sessions.mailbox import EVERYTHING
from chatd.sessions.node import Identity, Node
from chatd.sessions.replay import catch_up, join, replay_all, wait_for_peer
from chatd.sessions.requests import answer
from chatd.sessions.session import Session
from chatd.store.port import Unavailable
from chatd.store.writer import Full

log = structlog.get_logger()


async def run_session(session: Session, node: Node) -> None:
    """Serve one connection from its hello to its end. Raises nothing of the peer's making."""
    try:
        live = await _greet(session, node)
        while live and session.ended is None:
            if (job := session.take_job()) is None:
                await session.job_waits()  # here an idle connection rests, with as little below it as can be
            else:
                await _serve(session, node, job)
                job = None
        await node.pace.step()  # when thousands are lost at one moment
    except Unavailable as fault:
        log.warning("session.store_unavailable", session=session.session_id, reason=str(fault))
        session.end(codes.UNAVAILABLE, retry_after_ms=2000)
    except Full:
        session.end(codes.OVERLOADED, retry_after_ms=2000)
    except Exception:
        log.exception("session.failed", session=session.session_id)
        session.end(codes.INTERNAL_ERROR, retry_after_ms=1000)
    finally:
        _forget(session, node)


async def _greet(session: Session, node: Node) -> bool:
    """Wait for the hello, and answer it. False when the session is over."""
    hello = None
    with trio.move_on_after(node.hello_seconds):
        while session.ended is None and (hello := session.take_job()) is None:
            await session.job_waits()
    if not isinstance(hello, messages.Hello):
        session.end(codes.HELLO_EXPECTED)
        return False
    return await _say_hello(session, node, hello)


async def _say_hello(session: Session, node: Node, hello: messages.Hello) -> bool:
    """Authenticate, open the device, welcome it, replay what it missed. False when the session is over."""
    await node.pace.step()
    if session.ended is not None:
        return False  # gone while it waited: nothing more is spent on it
    identity = _identity_of(session, node, hello.token)
    if identity is not None and (wait := node.floods.wait(identity.user, trio.current_time())):
        session.end_flood(wait)
        return False
    if identity is None or (opened := await _open_device(session, node, hello, identity)) is None:
        return False
    await node.pace.step()
    if session.ended is not None:
        return False
    limits = node.limiter.enter(session.user, identity.tier or opened.tier)
    session.admitted(limits)
    await node.hub.enter(session)
    await node.limiter.ready(limits)  # so that no message ever waits: what it may do is known before the first
    if session.ended is not None:
        return False
    standings = await node.store.standings(opened.author.user_no, session.device_no)
    await node.pace.step()
    log.info("session.opened", session=session.session_id, user=session.user, device_no=session.device_no)
    node.presence.enter(session)
    await replay_all(session, node, hello, standings, _welcome(session, node))
    return session.ended is None


def _identity_of(session: Session, node: Node, token: str) -> Identity | None:
    """Who it is, by the token; None, and the session ended, where that is not good."""
    try:
        return node.verify(token)
    except Exception as fault:  # noqa: BLE001
        # Whatever a token makes its verifier raise, the answer is the same: nothing is learnt from it.
        log.info("session.refused", session=session.session_id, reason=type(fault).__name__, detail=str(fault)[:200])
        session.end(codes.BAD_TOKEN)
        return None


async def _open_device(session: Session, node: Node, hello: messages.Hello, identity: Identity) -> DeviceOpened | None:
    """From here on the session speaks for its device; None, and the session ended, where the store refuses. Raises Full."""
    opened = await node.writer.call(
        OpenDevice(
            user=identity.user, device=hello.device, create_user=identity.outside, token=identity.token_id,
            expires=identity.expires_at_ms, generation=identity.generation, issued=identity.issued_at_ms,
            agent="" if hello.agent is msgspec.UNSET else hello.agent, node=node.roll.node,
        )
    )  # fmt: skip
    if isinstance(opened, Refused):
        _refuse_hello(session, opened)
        return None
    assert isinstance(opened, DeviceOpened)
    session.expires_at = identity.good_until_ms  # before it is opened: from then on the sweep looks only when it may be over
    session.opened(opened.author, hello.device, opened.cseq)  # also if it is over: the device is online until the roll says so
    return opened


def _refuse_hello(session: Session, refused: Refused) -> None:
    closes = {
        ErrorCode.UNAUTHENTICATED: codes.BAD_TOKEN,
        ErrorCode.TOO_MANY_DEVICES: codes.TOO_MANY_DEVICES,
        ErrorCode.UNAVAILABLE: codes.UNAVAILABLE,
    }
    close = closes.get(ErrorCode(refused.code), codes.BAD_TOKEN)
    session.end(close, retry_after_ms=2000 if close is codes.UNAVAILABLE else None)


def _welcome(session: Session, node: Node) -> messages.Welcome:
    return messages.Welcome(
        user=session.user, device=session.device, session=session.session_id, cseq=session.first_cseq,
        time=time_ns() // 1_000_000, heartbeat_ms=node.heartbeat_ms, limits=node.advertised | _rates(session),
    )  # fmt: skip


def _rates(session: Session) -> dict[str, int]:
    assert session.limits is not None, "it was admitted"
    rule = session.limits.messages.rule
    return {"messages_per_second": int(rule.rate_per_s), "messages_burst": rule.burst}


async def _serve(session: Session, node: Node, job: messages.ClientMessage | str) -> None:
    if isinstance(job, str):
        await _follow_what_began(session, node, job)
    else:
        await wait_for_peer(session, node)
        await answer(session, node, job)


async def _follow_what_began(session: Session, node: Node, conv: str) -> None:
    """Catch up with a conversation that began for this user, from where this session stands, then join it."""
    author = session.author
    assert author is not None
    if conv == EVERYTHING:
        began = await node.store.standings(author.user_no, session.device_no)
    else:
        began = [s for s in [await node.store.standing(author.user_no, session.device_no, conv)] if s is not None]
    for standing in began:
        if standing.member and standing.conv not in session.topics:
            position = max(standing.cursor, (session.former or {}).get(standing.conv, 0))
            session.topics.add(standing.conv)
            await node.hub.follow(session, [(standing.conv, standing.kind == "group")])
            await join(session, node, standing.conv, await catch_up(session, node, standing.conv, position))
            node.presence.conversations_moved(session)


def _forget(session: Session, node: Node) -> None:
    session.flush_marks()
    if session.author is not None:
        node.roll.session_over(session.author)
    node.signals.ended(session)
    node.presence.leave(session)
    for conv in session.topics:
        node.hub.unfollow(session, conv)
    session.topics.clear()
    session.tell_flood()
    if session.limits is not None:
        node.limiter.leave(session.limits)
    if session.user:
        node.hub.exit(session)
    ended = session.ended
    log.info("session.ended", session=session.session_id, code=ended.code if ended else 0, reason=ended.reason if ended else "")
