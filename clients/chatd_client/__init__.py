"""chatd's client library for Python on Trio: see ``clients/README.md``."""

from __future__ import annotations

from chatd_client.answers import ConversationItem, ConversationList, Member, Page
from chatd_client.api import Token, endpoint, register, sign_in
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
)
from chatd_client.facts import ConnectionChanged, Fact, Hole, SendRefused, Stored
from chatd_client.outbox import Queued
from chatd_client.wire import Encoding

__all__ = [
    "Client",
    "ClientError",
    "ConnectionChanged",
    "ConversationItem",
    "ConversationList",
    "Disconnected",
    "Encoding",
    "Fact",
    "Hole",
    "Member",
    "MessageRejected",
    "OutboxFull",
    "Page",
    "Queued",
    "Refused",
    "SendRefused",
    "SessionEnded",
    "StateInUse",
    "Stored",
    "Token",
    "Unreachable",
    "endpoint",
    "open_client",
    "register",
    "sign_in",
]
