"""The messages that get one answer with their ``id``: reads of the store, and changes of a group.

Each is one small function from (session, node, message) to the answer; ``ANSWERS`` is the table. What is allowed is
decided in the store's transaction (``conversations.rules``), never here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from chatd_protocol import messages
from chatd_protocol.codec import event_map
from chatd_protocol.codes import ErrorCode

from chatd.conversations import operations
from chatd.conversations.operations import Event, Operation, Refused
from chatd.sessions.node import Node
from chatd.sessions.session import Session
from chatd.store.port import Item, Unavailable
from chatd.store.writer import Full

_NOT_FOUND = "no such conversation"


class _RequestRefused(Exception):
    """Raised by the functions below."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


async def answer(session: Session, node: Node, message: Any) -> None:
    """Answer one request, with ``ok`` or ``error``. Raises nothing but cancellation and bugs."""
    respond = ANSWERS.get(type(message))
    request_id = getattr(message, "id", None)
    cseq = getattr(message, "cseq", None)
    if respond is None:
        session.refuse(ErrorCode.UNSUPPORTED, "this server does not serve this message yet", id=request_id, cseq=cseq)
        return
    try:
        session.tell(await respond(session, node, message))
    except _RequestRefused as refusal:
        session.refuse(refusal.code, str(refusal), id=request_id)
    except Full:
        session.refuse(ErrorCode.OVERLOADED, "the server is busy", id=request_id, retry_ms=500)
    except Unavailable:
        session.refuse(ErrorCode.UNAVAILABLE, "the store cannot answer now", id=request_id, retry_ms=1000)


def _room(session: Session, node: Node) -> int:
    return node.pages.answer if session.encoding.binary else node.pages.answer // 2  # base64, and keys again


def _event_map(event: Event) -> dict[str, Any]:
    return event_map(event.conv, event.seq, event.at, event.sender, event.kind, event.payload)


async def _history(session: Session, node: Node, message: messages.History) -> messages.Ok:
    if message.before is not msgspec.UNSET and message.after is not msgspec.UNSET:
        raise _RequestRefused(ErrorCode.BAD_MESSAGE, "before, after: give one of them, not both")
    assert session.author is not None
    page = await node.store.page(
        session.author.user_no, message.conv,
        after=None if message.after is msgspec.UNSET else message.after,
        before=None if message.before is msgspec.UNSET else message.before,
        limit=message.limit, max_bytes=_room(session, node),
    )  # fmt: skip
    if page is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND)
    return messages.Ok(
        id=message.id, conv=message.conv, events=[_event_map(event) for event in page.events], last=page.last, more=page.more
    )


async def _conversations(session: Session, node: Node, message: messages.Conversations) -> messages.Ok:
    assert session.author is not None
    if session.marks:
        session.flush_marks()
        await node.writer.settled()
    cursor = None if message.cursor is msgspec.UNSET else message.cursor
    try:
        items, following = await node.store.conversations(session.author.user_no, session.device_no, cursor, message.limit)
    except ValueError:
        raise _RequestRefused(ErrorCode.BAD_MESSAGE, "cursor: not one that this server gave out") from None
    return messages.Ok(
        id=message.id, items=[_item_map(item) for item in items],
        cursor=msgspec.UNSET if following is None else following,
    )  # fmt: skip


def _item_map(item: Item) -> dict[str, Any]:
    fields: dict[str, Any] = {"conv": item.conv, "kind": item.kind, "title": item.title}
    if item.kind == "dm":
        fields["members"] = item.members
    if item.event is not None:
        fields["event"] = _event_map(item.event)
    return fields | {"last": item.last, "read": item.read, "delivered": item.delivered, "unread": item.unread}


async def _members(session: Session, node: Node, message: messages.Members) -> messages.Ok:
    assert session.author is not None
    members = await node.store.members(session.author.user_no, message.conv)
    if members is None:
        raise _RequestRefused(ErrorCode.NOT_FOUND, _NOT_FOUND)
    return messages.Ok(
        id=message.id, conv=message.conv, members=[{"user": m.user, "role": m.role, "joined": m.joined} for m in members]
    )


async def _blocked(session: Session, node: Node, message: messages.Blocked) -> messages.Ok:
    assert session.author is not None
    return messages.Ok(id=message.id, users=await node.store.blocked(session.author.user_no))


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
        case messages.Block():
            return operations.SetBlock(author=author, user=message.user, on=message.on)
    raise AssertionError("every message in ANSWERS that changes something has an operation")


async def _change(session: Session, node: Node, message: Any) -> messages.Ok:
    outcome = await node.writer.call(_operation(session, message))
    if isinstance(outcome, Refused):
        raise _RequestRefused(outcome.code, outcome.message)
    conv = getattr(outcome, "conv", "") if isinstance(message, messages.Create) else ""
    return messages.Ok(id=message.id, conv=conv or msgspec.UNSET)


ANSWERS: dict[type, Callable[[Session, Node, Any], Awaitable[messages.Ok]]] = {
    messages.History: _history,
    messages.Conversations: _conversations,
    messages.Members: _members,
    messages.Blocked: _blocked,
    messages.Create: _change,
    messages.Add: _change,
    messages.Remove: _change,
    messages.Leave: _change,
    messages.SetRole: _change,
    messages.Rename: _change,
    messages.Block: _change,
}
