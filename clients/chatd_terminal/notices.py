"""What happened in a conversation beside messages, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd_client import change
from chatd_client.changes import Began, Departed, Joined, Pinned, Renamed, RoleChanged

if TYPE_CHECKING:
    from chatd_protocol.messages import Event


def notice(event: Event) -> str | None:
    """A line for what is worth one; None for messages and for what shows on them (edits, reactions)."""
    sender = event.sender
    match change(event):
        case Began(title=title):
            return f"{sender} created {title or 'the conversation'}"
        case Joined(user=user):
            return f"{user} joined" if user == sender else f"{sender} added {user}"
        case Departed(user=user):
            return f"{user} left" if user == sender else f"{sender} removed {user}"
        case RoleChanged(user=user, role=role):
            return f"{sender} made {user} {role}"
        case Renamed(title=title):
            return f"{sender} renamed this to {title}"
        case Pinned(removed=removed):
            return f"{sender} {'took a message from the pins' if removed else 'pinned a message'}"
    return None
