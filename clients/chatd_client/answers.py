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
    """One line of the list. ``event``: the newest one; ``read`` and ``delivered`` are one's own marks."""

    conv: str
    kind: str
    title: str
    members: tuple[str, ...]
    last: int
    event: Event | None
    read: int
    delivered: int
    unread: int

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
    """A member of a conversation."""

    user: str
    role: str

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Self:
        """Read one member."""
        return cls(_text(keys.get("user")), _text(keys.get("role")) or "member")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
