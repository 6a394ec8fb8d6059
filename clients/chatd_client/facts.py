"""What ``Client.events`` yields beside the protocol's own ``Event``, ``Live``, ``Receipt``, ``TypingNotice``,
``Presence`` and ``Error``: facts of this client. Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from chatd_protocol.messages import Ack, Error, Event, Live, Presence, Receipt, TypingNotice

if TYPE_CHECKING:
    from chatd_client.outbox import Queued

_KINDS = {"send": "message", "edit": "edit", "delete": "delete", "react": "reaction"}
_SHARED = ("type", "body", "reply_to", "mentions", "emoji")

ConnectionState = Literal["connecting", "replaying", "live", "offline", "ended"]


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """``retry_at``: when the next attempt starts, on Trio's clock, in seconds; only with ``offline``."""

    state: ConnectionState
    retry_at: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """A queued message is durable, as ``seq`` of ``conv``. Stands where its event stands in the conversation, and in
    place of it.

    With ``ack.repeat`` it stands beside the stream: the event comes by itself, before or after this, or has come in an
    earlier run. What is shown once is what is kept under ``(conv, seq)``.
    """

    item: Queued
    ack: Ack

    def event(self, user: str) -> Event:
        """The event that the ack stands for; ``user`` is oneself."""
        fields = self.item.fields
        keys: dict[str, Any] = {key: fields[key] for key in _SHARED if key in fields}
        kind = _KINDS[str(fields["t"])]
        if kind != "message":
            keys["target"] = fields["seq"]
        if fields.get("remove"):
            keys["removed"] = True
        return Event(conv=self.ack.conv, seq=self.ack.seq, at=self.ack.at, sender=user, kind=kind, **keys)


@dataclass(frozen=True, slots=True)
class SendRefused:
    """A queued message was refused for good and will not be sent again."""

    item: Queued
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Hole:
    """Events of ``conv`` between ``after`` and ``before`` (both exclusive) did not come, or not their content: fetch
    them with ``history``.
    """

    conv: str
    after: int
    before: int


Fact = Event | Live | Receipt | TypingNotice | Presence | Error | ConnectionChanged | Stored | SendRefused | Hole
