"""chatd's client library for Python on Trio: see ``clients/README.md``."""

from __future__ import annotations

from chatd_client.answers import (
    ConversationItem,
    ConversationList,
    Device,
    Found,
    Hits,
    Limit,
    Member,
    MessageNow,
    Page,
    Thread,
    Visibility,
)
from chatd_client.api import Token, change_password, endpoint, register, sign_in
from chatd_client.changes import Change, change
from chatd_client.client import Client, open_client
from chatd_client.errors import (
    ClientError,
    Disconnected,
    MessageRejected,
    OutboxFull,
    Refused,
    SessionEnded,
    StateInUse,
    Unreachable,
    Withdrawn,
)
from chatd_client.facts import ConnectionChanged, Fact, Hole, SendRefused, Stored
from chatd_client.log import ConversationLog, Message, Reaction
from chatd_client.outbox import Queued
from chatd_client.questions import FOR_GOOD
from chatd_client.wire import Encoding

__all__ = [
    "FOR_GOOD",
    "Change",
    "Client",
    "ClientError",
    "ConnectionChanged",
    "ConversationItem",
    "ConversationList",
    "ConversationLog",
    "Device",
    "Disconnected",
    "Encoding",
    "Fact",
    "Found",
    "Hits",
    "Hole",
    "Limit",
    "Member",
    "Message",
    "MessageNow",
    "MessageRejected",
    "OutboxFull",
    "Page",
    "Queued",
    "Reaction",
    "Refused",
    "SendRefused",
    "SessionEnded",
    "StateInUse",
    "Stored",
    "Thread",
    "Token",
    "Unreachable",
    "Visibility",
    "Withdrawn",
    "change",
    "change_password",
    "endpoint",
    "open_client",
    "register",
    "sign_in",
]
