"""What the scripted server answers to questions, from the log that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatd_protocol.messages import (
    Conversations,
    Create,
    Devices,
    Error,
    Event,
    Find,
    History,
    Members,
    Mute,
    Ok,
    Pin,
    Pins,
    Privacy,
    RateLimit,
    Search,
)
from msgspec import to_builtins

if TYPE_CHECKING:
    from tests.clients.scripted_server import Server

SEARCH_PAGE = 20


def answer(server: Server, message: Any) -> Ok | Error:  # noqa: C901 - a table
    """The one answer to a message with ``id``."""
    keys: dict[str, Any] = {}
    match message:
        case History(conv=conv):
            return history(server, message)
        case Conversations():
            keys["items"] = [item(server, conv) for conv in server.logs]
        case Create():
            keys["conv"] = f"g{len(server.groups) + 1}"
            server.groups[keys["conv"]] = message
            server.logs[keys["conv"]] = []
        case Members(conv=conv):
            keys["members"] = server.members.get(conv) or [{"user": name, "role": "member"} for name in in_(server, conv)]
        case Pin(conv=conv, seq=seq):
            server.append(conv, server.user, kind="pinned", target=seq, **({} if message.on else {"removed": True}))
        case Pins(conv=conv):
            pinned = {event.target for event in server.logs[conv] if event.kind == "pinned"}
            keys["events"] = [as_now(server, event) for event in server.logs[conv] if event.seq in pinned]
        case Mute(conv=conv, until=until):
            server.muted[conv] = until
        case Search():
            return search(server, message)
        case Find(text=text):
            within = in_(server, message.conv) if isinstance(message.conv, str) else server.names
            keys["users"] = [name for name in within if name.startswith(text) and name != server.user]
            keys["items"] = []
        case Devices():
            keys["devices"] = [{"device": "phone", "used": 1_700_000_000_000, "online": True, "agent": "app"}]
        case Privacy():
            keys["privacy"] = {"presence": message.presence is not False, "last_seen": message.last_seen is not False}
        case RateLimit():
            keys["limits"] = [{"scope": "messages", "limit": 60, "remaining": 59, "reset_ms": 1000}]
    return Ok(id=message.id, **keys)


def history(server: Server, asked: History) -> Ok:
    log = server.logs.get(asked.conv, [])
    shown = log
    if isinstance(asked.thread, int):
        within = {asked.thread}
        for event in log:
            if event.reply_to in within:
                within.add(event.seq)
        shown = [event for event in log if event.seq in within]
    if isinstance(asked.after, int):
        rest = [event for event in shown if event.seq > asked.after]
        page, more = rest[: asked.limit], len(rest) > asked.limit
    else:
        before = asked.before if isinstance(asked.before, int) else len(log) + 1
        rest = [event for event in shown if event.seq < before]
        page, more = rest[-asked.limit :], len(rest) > asked.limit
    made = [as_now(server, event) if isinstance(asked.thread, int) else as_map(event) for event in page]
    return Ok(id=asked.id, conv=asked.conv, events=made, last=len(log), more=more)


def search(server: Server, asked: Search) -> Ok:
    if asked.query.startswith("far") and not isinstance(asked.cursor, str):
        return Ok(id=asked.id, events=[], cursor="0")  # it has looked through what it looks through at once
    found = [
        as_now(server, event)
        for conv, log in server.logs.items()
        for event in log
        if event.kind == "message" and conv == (asked.conv or conv) and event.sender == (asked.sender or event.sender)
    ]
    hits = [hit for hit in reversed(found) if asked.query.lower() in str(hit["body"]).lower()]
    begin = int(asked.cursor) if isinstance(asked.cursor, str) else 0
    end = begin + SEARCH_PAGE
    return Ok(id=asked.id, events=hits[begin:end], **({"cursor": str(end)} if len(hits) > end else {}))


def in_(server: Server, conv: str) -> list[str]:
    group = server.groups.get(conv)
    return [server.user, *(group.members if group else [conv.removeprefix("dm-")])]


def item(server: Server, conv: str) -> dict[str, Any]:
    log, group = server.logs[conv], server.groups.get(conv)
    deleted = {event.target for event in log if event.kind == "delete"}
    unread = [
        event
        for event in log
        if event.kind == "message" and event.sender != server.user and event.seq not in deleted
    ]
    found: dict[str, Any] = {
        "conv": conv,
        "kind": "group" if group else "dm",
        "title": group.title if group else "",
        "last": len(log),
        "read": 0,
        "delivered": 0,
        "unread": len(unread),
    }
    mentions = sum(server.user in (event.mentions or []) for event in unread)
    found |= {"mentions": mentions} if mentions else {}
    found |= {"muted": server.muted[conv]} if server.muted.get(conv) else {}
    found |= {} if group else {"members": in_(server, conv)}
    return found | ({"event": as_map(log[-1])} if log else {})


def as_now(server: Server, event: Event) -> dict[str, Any]:
    edits = [edit for edit in server.logs[event.conv] if edit.kind == "edit" and edit.target == event.seq]
    now = as_map(event)
    return {**now, "body": edits[-1].body, "edited": edits[-1].seq} if edits and event.type != "deleted" else now


def as_map(event: Event) -> dict[str, Any]:
    keys = to_builtins(event, builtin_types=(bytes,))
    return {key: value for key, value in keys.items() if key != "t"}
