"""The answers to questions, typed: what a page, a list and a member are for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from chatd_client import wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatd_protocol.messages import Event, Ok


@dataclass(frozen=True, slots=True)
class Page:
    """Events in ascending ``seq``; ``last`` is the head of the log; ``more``: the page ended before what was asked
    for.
    """

    conv: str
    events: tuple[Event, ...]
    last: int
    more: bool

    @classmethod
    def of(cls, conv: str, answer: Ok) -> Self:
        """Read an answer to ``history``. Raises Malformed."""
        events = tuple(wire.event({"conv": conv, **keys}) for keys in answer.events or ())
        return cls(conv, events, _integer(answer.last), answer.more is True)


@dataclass(frozen=True, slots=True)
class ConversationItem:
    """One line of the list. ``event``: the newest one; ``read`` and ``delivered`` are one's own marks; ``mentions``: how
    many of the unread name oneself; ``muted``: until when, in milliseconds since the Unix epoch, 0 where it is not.
    """

    conv: str
    kind: str
    title: str
    members: tuple[str, ...]
    last: int
    event: Event | None
    read: int
    delivered: int
    unread: int
    mentions: int = 0
    muted: int = 0

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Self:
        """Read one item; what is missing or of another type is empty. Raises Malformed for a bad event."""
        conv, event = _text(keys.get("conv")), keys.get("event")
        members = keys.get("members")
        return cls(
            conv,
            _text(keys.get("kind")),
            _text(keys.get("title")),
            tuple(name for name in members if isinstance(name, str)) if isinstance(members, list) else (),
            _integer(keys.get("last")),
            wire.event({"conv": conv, **event}) if isinstance(event, dict) else None,
            _integer(keys.get("read")),
            _integer(keys.get("delivered")),
            _integer(keys.get("unread")),
            _integer(keys.get("mentions")),
            _integer(keys.get("muted")),
        )


@dataclass(frozen=True, slots=True)
class ConversationList:
    """A page of the list, and the cursor of the next one."""

    items: tuple[ConversationItem, ...]
    cursor: str | None

    @classmethod
    def of(cls, answer: Ok) -> Self:
        """Read an answer to ``conversations``. Raises Malformed."""
        items = tuple(ConversationItem.of(keys) for keys in answer.items or ())
        return cls(items, answer.cursor if isinstance(answer.cursor, str) else None)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a conversation since the event ``joined``. ``delivered`` and ``read`` are None in large groups."""

    user: str
    role: str
    joined: int = 0
    delivered: int | None = None
    read: int | None = None

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Self:
        """Read one member."""
        delivered, read = keys.get("delivered"), keys.get("read")
        return cls(
            _text(keys.get("user")),
            _text(keys.get("role")) or "member",
            _integer(keys.get("joined")),
            delivered if isinstance(delivered, int) else None,
            read if isinstance(read, int) else None,
        )


@dataclass(frozen=True, slots=True)
class MessageNow:
    """A ``message`` event with its latest body; ``edited``: the ``seq`` of the newest edit."""

    event: Event
    edited: int | None

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Self:
        """Read an entry of a search, a thread or the pins. Raises Malformed."""
        edited = keys.get("edited")
        return cls(wire.event(keys), edited if isinstance(edited, int) else None)


@dataclass(frozen=True, slots=True)
class Thread:
    """A page of a thread in ascending ``seq``; ``more``: the page ended before what was asked for."""

    conv: str
    messages: tuple[MessageNow, ...]
    last: int
    more: bool

    @classmethod
    def of(cls, conv: str, answer: Ok) -> Self:
        """Read an answer to ``history`` with ``thread``. Raises Malformed."""
        messages = tuple(MessageNow.of({"conv": conv, **keys}) for keys in answer.events or ())
        return cls(conv, messages, _integer(answer.last), answer.more is True)


@dataclass(frozen=True, slots=True)
class Hits:
    """A page of what a search found, over all conversations; ``cursor`` asks for the next page."""

    messages: tuple[MessageNow, ...]
    cursor: str | None

    @classmethod
    def of(cls, answer: Ok) -> Self:
        """Read an answer to ``search``. Raises Malformed."""
        messages = tuple(MessageNow.of(keys) for keys in answer.events or ())
        return cls(messages, answer.cursor if isinstance(answer.cursor, str) else None)


@dataclass(frozen=True, slots=True)
class Found:
    """What begins with what was typed: names, and conversations (``kind``, ``title`` and ``members`` of them)."""

    users: tuple[str, ...]
    items: tuple[ConversationItem, ...]

    @classmethod
    def of(cls, answer: Ok) -> Self:
        """Read an answer to ``find``. Raises Malformed."""
        return cls(tuple(answer.users or ()), tuple(ConversationItem.of(keys) for keys in answer.items or ()))


@dataclass(frozen=True, slots=True)
class Device:
    """One of one's own devices; ``used``: its last hello, in milliseconds since the Unix epoch."""

    device: str
    used: int
    online: bool
    agent: str

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Self:
        """Read one device."""
        used = _integer(keys.get("used"))
        return cls(_text(keys.get("device")), used, keys.get("online") is True, _text(keys.get("agent")))


@dataclass(frozen=True, slots=True)
class Visibility:
    """What others may see of one: whether one is there, and when one was last."""

    presence: bool
    last_seen: bool

    @classmethod
    def of(cls, answer: Ok) -> Self:
        """Read an answer to ``privacy``."""
        keys = answer.privacy if isinstance(answer.privacy, dict) else {}
        return cls(keys.get("presence") is not False, keys.get("last_seen") is not False)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of ``scope`` is left, and in how many milliseconds all of it is there again."""

    scope: str
    limit: int
    remaining: int
    reset_ms: int

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Self:
        """Read one limit."""
        limit, remaining = _integer(keys.get("limit")), _integer(keys.get("remaining"))
        return cls(_text(keys.get("scope")), limit, remaining, _integer(keys.get("reset_ms")))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
