"""Events as typed changes, one class for each ``kind``: what a program matches on. Pure values.

An ``Event`` of the wire has every key that some kind has; ``change`` reads it into the class of its own kind, which
has exactly the keys that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatd_protocol.messages import Event

DELETED = "deleted"
"""The ``type`` of a message whose body the server has taken out."""


@dataclass(frozen=True, slots=True)
class Happened:
    """What every change has. ``sender`` is who did it; ``at`` in milliseconds since the Unix epoch."""

    conv: str
    seq: int
    at: int
    sender: str


@dataclass(frozen=True, slots=True)
class Posted(Happened):
    """A message. ``type`` DELETED: its body is gone for good."""

    type: str
    body: str | bytes
    reply_to: int | None
    mentions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edited(Happened):
    """The message ``target`` reads ``body`` now."""

    target: int
    body: str | bytes


@dataclass(frozen=True, slots=True)
class Deleted(Happened):
    """The message ``target`` is withdrawn."""

    target: int


@dataclass(frozen=True, slots=True)
class Reacted(Happened):
    """``emoji`` was put on the message ``target`` by ``sender``, or ``removed`` again."""

    target: int
    emoji: str
    removed: bool


@dataclass(frozen=True, slots=True)
class Pinned(Happened):
    """The message ``target`` was pinned, or ``removed`` from the pins."""

    target: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Began(Happened):
    """A group was made."""

    title: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Joined(Happened):
    """``user`` was added."""

    user: str


@dataclass(frozen=True, slots=True)
class Departed(Happened):
    """``user`` left, or was removed by ``sender``."""

    user: str


@dataclass(frozen=True, slots=True)
class RoleChanged(Happened):
    """``user`` is now ``owner``, ``admin`` or ``member``."""

    user: str
    role: str


@dataclass(frozen=True, slots=True)
class Renamed(Happened):
    """The group has another title."""

    title: str


Change = Posted | Edited | Deleted | Reacted | Pinned | Began | Joined | Departed | RoleChanged | Renamed


def change(event: Event) -> Change | None:
    """The change that an event is; None for a kind that only a newer server knows, or one without its keys."""
    if event.kind == "message":
        reply_to = event.reply_to if isinstance(event.reply_to, int) else None
        mentions = tuple(event.mentions) if isinstance(event.mentions, list) else ()
        where = (event.conv, event.seq, event.at, event.sender)
        return Posted(*where, _text(event.type) or "text", _body(event.body), reply_to, mentions)
    if isinstance(event.target, int):
        return _about(event, event.target)
    return _of_group(event, _text(event.user), _text(event.title))


def _about(event: Event, target: int) -> Change | None:
    where = (event.conv, event.seq, event.at, event.sender)
    match event.kind:
        case "edit":
            return Edited(*where, target, _body(event.body))
        case "delete":
            return Deleted(*where, target)
        case "reaction" if isinstance(event.emoji, str):
            return Reacted(*where, target, event.emoji, event.removed is True)
        case "pinned":
            return Pinned(*where, target, event.removed is True)
    return None


def _of_group(event: Event, user: str, title: str) -> Change | None:
    where = (event.conv, event.seq, event.at, event.sender)
    match event.kind:
        case "created":
            return Began(*where, title, tuple(event.members) if isinstance(event.members, list) else ())
        case "joined" if user:
            return Joined(*where, user)
        case "left" if user:
            return Departed(*where, user)
        case "role" if user:
            return RoleChanged(*where, user, _text(event.role))
        case "renamed":
            return Renamed(*where, title)
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _body(value: object) -> str | bytes:
    return value if isinstance(value, str | bytes) else ""
