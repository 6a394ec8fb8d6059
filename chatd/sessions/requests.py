"""The messages that get one answer with their ``id``: reads of the store, and changes of a group.

Each is one small function from (session, node, message) to the answer; ``ANSWERS`` is the table. What is allowed is
decided in the store's transaction (``conversations.rules``), never here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time_ns
from typing import Any, TypeVar

import msgspec
import trio
from chatd_protocol import messages
from chatd_protocol.codec import event_map
from chatd_protocol.codes import ErrorCode

from chatd.conversations import operations
from chatd.conversations.operations import Event, Operation, Outcome, Refused
from chatd.delivery.receipts import COUNTED_ABOVE
from chatd.limits.rules import Operation as Limited
from chatd.sessions.node import Node
from chatd.sessions.session import Session
from chatd.store.port import Item, Member, Place, SearchTerms, Unavailable
from chatd.store.query import BadQuery, parse
from chatd.store.writer import Full

_NOT_FOUND = "no such conversation"
_BAD_CURSOR = "cursor: not one that this server gave out"
_NO_THREAD = "no such conversation, or no such message in it"


T = TypeVar("T")


class _RequestRefused(Exception):
    """Raised by the functions below."""

    def __init__(self, code: str, text: str, retry_ms: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.retry_ms = retry_ms


class _OperationRefused(_RequestRefused):
    """By the store: ``outcome``."""

    def __init__(self, outcome: Refused) -> None:
        super().__init__(outcome.code, outcome.message)
        self.outcome = outcome


async def answer(session: Session, node: Node, message: Any) -> None:
    """Answer one request, with ``ok`` or ``error``. Raises nothing but cancellation and bugs."""
    respond = ANSWERS.get(type(message))
    request_id = getattr(message, "id", None)
    cseq = getattr(message, "cseq", None)
    if respond is None:
        session.refuse(ErrorCode.UNSUPPORTED, "this server does not serve this message yet", id=request_id, cseq=cseq)
        return
    try:
        if type(message) in _SEARCHES:
            await _limit_search(session, node)
        if (ok := await respond(session, node, message)) is not None:
            session.tell(ok)
    except _RequestRefused as refusal:
        session.refuse(refusal.code, str(refusal), id=request_id, retry_ms=refusal.retry_ms)
        if isinstance(refusal, _OperationRefused):
            session.end_if_fenced(refusal.outcome)
    except Full:
        session.refuse(ErrorCode.OVERLOADED, "the server is busy", id=request_id, retry_ms=500)
    except Unavailable:
        session.refuse(ErrorCode.UNAVAILABLE, "the store cannot answer now", id=request_id, retry_ms=1000)


_SEARCHES = (messages.Search, messages.Find)


async def _limit_search(session: Session, node: Node) -> None:
    """Each is a request, and costs the store more than others."""
    assert session.limits is not None, "it was admitted"
    if wait := await node.limiter.take(session.limits, Limited.SEARCH):
        raise _RequestRefused(ErrorCode.RATE_LIMITED, "too many searches", int(wait * 1000) + 1)


async def _rate_limit(session: Session, node: Node, message: messages.RateLimit) -> messages.Ok:
    assert session.limits is not None, "it was admitted"
    states = await node.limiter.user_states(session.user, session.limits.tier)
    return messages.Ok(id=message.id, limits=[msgspec.to_builtins(state) for state in states])


def _room(session: Session, node: Node) -> int:
    return node.pages.answer if session.encoding.binary else node.pages.answer // 2  # base64, and keys again


def _event_map(event: Event) -> dict[str, Any]:
    return event_map(event.conv, event.seq, event.at, event.sender, event.kind, event.payload)


async def _history(session: Session, node: Node, message: messages.History) -> messages.Ok:
    if message.before is not msgspec.UNSET and message.after is not msgspec.UNSET:
        raise _RequestRefused(ErrorCode.BAD_MESSAGE, "before, after: give one of them, not both")
    assert session.author is not None
    after = None if message.after is msgspec.UNSET else message.after
    before = None if message.before is msgspec.UNSET else message.before
    reader, room = session.author.user_no, _room(session, node)
    if message.thread is msgspec.UNSET:
        page = await node.store.page(
            reader, message.conv, after=after, before=before, limit=message.limit, max_bytes=room
        )
    else:
        page = await node.store.thread(
            reader, message.conv, message.thread, after=after, before=before, limit=message.limit, max_bytes=room
        )
    if page is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND if message.thread is msgspec.UNSET else _NO_THREAD)
    return messages.Ok(
        id=message.id, conv=message.conv, events=[_event_map(event) for event in page.events], last=page.last, more=page.more
    )


async def _conversations(session: Session, node: Node, message: messages.Conversations) -> messages.Ok:
    assert session.author is not None
    await _settle_marks(session, node)
    cursor = None if message.cursor is msgspec.UNSET else message.cursor
    try:
        items, following = await node.store.conversations(session.author.user_no, session.device_no, cursor, message.limit)
    except ValueError:
        raise _RequestRefused(ErrorCode.BAD_MESSAGE, _BAD_CURSOR) from None
    now = time_ns() // 1_000_000
    return messages.Ok(
        id=message.id, items=[_item_map(item, now) for item in items],
        cursor=msgspec.UNSET if following is None else following,
    )  # fmt: skip


def _item_map(item: Item, now: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"conv": item.conv, "kind": item.kind, "title": item.title}
    if item.kind == "dm":
        fields["members"] = item.members
    if item.event is not None:
        fields["event"] = _event_map(item.event)
    fields |= {"last": item.last, "read": item.read, "delivered": item.delivered, "unread": item.unread}
    if item.mentions:
        fields["mentions"] = item.mentions
    if item.muted > now:
        fields["muted"] = item.muted
    return fields


async def _pins(session: Session, node: Node, message: messages.Pins) -> messages.Ok:
    assert session.author is not None
    after = 0 if message.after is msgspec.UNSET else message.after
    page = await node.store.pins(session.author.user_no, message.conv, after=after, max_bytes=_room(session, node))
    if page is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND)
    return messages.Ok(
        id=message.id, conv=message.conv, events=[_event_map(event) for event in page.events], more=page.more
    )


async def _members(session: Session, node: Node, message: messages.Members) -> messages.Ok:
    assert session.author is not None
    await _settle_marks(session, node)
    members = await node.store.members(session.author.user_no, message.conv)
    if members is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND)
    marks = len(members) <= COUNTED_ABOVE
    return messages.Ok(id=message.id, conv=message.conv, members=[_member_map(member, marks) for member in members])


def _member_map(member: Member, marks: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"user": member.user, "role": member.role, "joined": member.joined}
    return fields | {"delivered": member.delivered, "read": member.read} if marks and member.read is not None else fields


async def _settle_marks(session: Session, node: Node) -> None:
    """What is asked for shows what this session has said before; its marks may also be with the writer already."""
    session.flush_marks()
    await node.writer.settled()


async def _privacy(session: Session, node: Node, message: messages.Privacy) -> messages.Ok:
    author = session.author
    assert author is not None
    outcome = await node.writer.call(
        operations.SetPrivacy(
            author=author, presence=None if message.presence is msgspec.UNSET else message.presence,
            last_seen=None if message.last_seen is msgspec.UNSET else message.last_seen,
        )
    )  # fmt: skip
    if isinstance(outcome, Refused):
        raise _OperationRefused(outcome)
    assert isinstance(outcome, operations.PrivacySet)
    node.presence.set_privacy(author.user, presence=outcome.presence, last_seen=outcome.last_seen)
    return messages.Ok(id=message.id, privacy={"presence": outcome.presence, "last_seen": outcome.last_seen})


async def _search(session: Session, node: Node, message: messages.Search) -> messages.Ok:
    assert session.author is not None
    try:
        wanted = SearchTerms(
            terms=parse(message.query), conv=_given(message.conv), sender=_given(message.sender),
            before=_given(message.before), after=_given(message.after), ranked=message.order == "ranked",
        )  # fmt: skip
    except BadQuery as fault:
        raise _RequestRefused(ErrorCode.BAD_MESSAGE, str(fault)) from None
    try:
        page = await node.store.search(
            session.author.user_no, wanted, cursor=_given(message.cursor), limit=message.limit, max_bytes=_room(session, node)
        )
    except ValueError:
        raise _RequestRefused(ErrorCode.BAD_MESSAGE, _BAD_CURSOR) from None
    if page is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND)
    events, following = page
    return messages.Ok(
        id=message.id, events=[_event_map(event) for event in events], cursor=msgspec.UNSET if following is None else following
    )


async def _find(session: Session, node: Node, message: messages.Find) -> messages.Ok:
    assert session.author is not None
    matches = await node.store.find(session.author.user_no, message.text, conv=_given(message.conv), limit=message.limit)
    if matches is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND)
    return messages.Ok(id=message.id, users=matches.users, items=[_place_map(place) for place in matches.items])


def _place_map(place: Place) -> dict[str, Any]:
    fields: dict[str, Any] = {"conv": place.conv, "kind": place.kind, "title": place.title}
    return fields | {"members": place.members} if place.kind == "dm" else fields


def _given(value: T | msgspec.UnsetType) -> T | None:
    return None if isinstance(value, msgspec.UnsetType) else value


async def _blocked(session: Session, node: Node, message: messages.Blocked) -> messages.Ok:
    assert session.author is not None
    return messages.Ok(id=message.id, users=await node.store.blocked(session.author.user_no))


async def _devices(session: Session, node: Node, message: messages.Devices) -> messages.Ok:
    assert session.author is not None
    found = await node.store.devices(session.author.user_no, time_ns() // 1_000_000)
    devices: list[dict[str, Any]] = [
        {"device": d.device, "used": d.used, "online": d.online} | ({"agent": d.agent} if d.agent else {}) for d in found
    ]
    return messages.Ok(id=message.id, devices=devices)


async def _sign_out(session: Session, node: Node, message: messages.SignOut) -> None:
    """Answered, and then told, as the outcome comes, and not by this task, which would wake after what the session sent behind
    it was refused: that ends a session that was signed out, and nothing more would be said."""
    assert session.author is not None
    settled = trio.Event()
    refused: list[Refused] = []

    def settle(_: Operation, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            refused.append(outcome)
        elif isinstance(outcome, operations.SessionsEnded):
            session.tell(messages.Ok(id=message.id))
            node.hub.sign_out(outcome)
        settled.set()

    if not node.writer.submit(operations.SignOut(author=session.author, device=message.device), settle):
        raise Full
    await settled.wait()
    if refused:
        raise _OperationRefused(refused[0])


def _operation(session: Session, message: Any) -> Operation:
    author = session.author
    assert author is not None
    match message:
        case messages.Create():
            return operations.CreateGroup(
                author=author, title=message.title, members=tuple(message.members), history=message.history
            )
        case messages.Add():
            return operations.AddMembers(author=author, conv=message.conv, users=tuple(message.users))
        case messages.Remove():
            return operations.RemoveMembers(author=author, conv=message.conv, users=tuple(message.users))
        case messages.Leave():
            return operations.RemoveMembers(author=author, conv=message.conv, users=(author.user,))
        case messages.SetRole():
            return operations.SetRole(author=author, conv=message.conv, user=message.user, role=message.role)
        case messages.Rename():
            return operations.Rename(author=author, conv=message.conv, title=message.title)
        case messages.Pin():
            return operations.Pin(author=author, conv=message.conv, seq=message.seq, on=message.on)
        case messages.Mute():
            return operations.Mute(author=author, conv=message.conv, until=message.until)
        case messages.Block():
            return operations.SetBlock(author=author, user=message.user, on=message.on)
    raise AssertionError("every message in ANSWERS that changes something has an operation")


async def _change(session: Session, node: Node, message: Any) -> messages.Ok:
    outcome = await node.writer.call(_operation(session, message))
    if isinstance(outcome, Refused):
        raise _OperationRefused(outcome)
    conv = getattr(outcome, "conv", "") if isinstance(message, messages.Create) else ""
    return messages.Ok(id=message.id, conv=conv or msgspec.UNSET)


async def _block(session: Session, node: Node, message: messages.Block) -> messages.Ok:
    outcome = await node.writer.call(_operation(session, message))
    if isinstance(outcome, Refused):
        raise _OperationRefused(outcome)
    assert isinstance(outcome, operations.Done)
    node.signals.tell_block(session.user, message.user, outcome.conv)
    return messages.Ok(id=message.id)


ANSWERS: dict[type, Callable[[Session, Node, Any], Awaitable[messages.Ok | None]]] = {
    messages.History: _history,
    messages.Conversations: _conversations,
    messages.Members: _members,
    messages.Blocked: _blocked,
    messages.Privacy: _privacy,
    messages.Pins: _pins,
    messages.Search: _search,
    messages.Find: _find,
    messages.Devices: _devices,
    messages.SignOut: _sign_out,
    messages.Create: _change,
    messages.Add: _change,
    messages.Remove: _change,
    messages.Leave: _change,
    messages.SetRole: _change,
    messages.Rename: _change,
    messages.Pin: _change,
    messages.Mute: _change,
    messages.Block: _block,
    messages.RateLimit: _rate_limit,
}
