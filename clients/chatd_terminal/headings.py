"""The title above the messages and the status below them, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd_terminal.markup import date

if TYPE_CHECKING:
    from chatd_terminal.chat import Chat
    from chatd_terminal.markup import Markup, Style
    from chatd_terminal.view_model import Model

MAX_REASON = 60
MAX_TYPISTS = 3
SILENT_S = 3.0
"""So long an answer may be under way before it is said that none has come."""


def title_text(model: Model, chat: Chat, style: Style) -> str:
    """What is open, and who is there."""
    where = f" {style.text(chat.name())}"
    if model.thread is not None:
        return f"{where} · thread · Esc: back"
    others = chat.others()
    if chat.kind == "dm" and others:
        where += _presence(model, others[0])
    elif chat.members and chat.kind != "dm":
        there = sum(model.status(user) == "online" for user in others)
        there += model.connection.state == "live" and model.me in chat.members
        where += f"  ({len(chat.members)} members, {there} online)" if model.presence else f"  ({len(chat.members)} members)"
    where += "  muted" if chat.muted else ""
    where += "  you are no longer a member" if chat.left else ""
    return where + ("  · older messages · End: the newest" if chat.anchor is not None else "")


def _presence(model: Model, user: str) -> str:
    known = model.presence.get(user)
    if known is None:
        return ""
    if known.status == "online" or not isinstance(known.last_seen, int):
        return f" · {known.status}"
    return f" · {known.status}, last seen {date(known.last_seen)}"


def status_text(model: Model, style: Style, now: float, *, alone: bool) -> Markup:
    """One's own name, the connection, what waits, who types. ``alone``: there is no list to show what is unread."""
    unread = model.unread_elsewhere() if alone else 0
    waiting = model.waiting()
    words = f" {model.me}"
    words += f" · {unread} unread" if unread else ""
    words += f" · {_connection(model, now)}"
    words += f" · {waiting} queued" if waiting else ""
    if model.connection.retry_at is not None and model.connection.reason:
        words += f" · {style.text(model.connection.reason)[:MAX_REASON]}"
    typists = model.typists(model.open)
    if not typists:
        return [words]
    named = ", ".join(style.text(name) for name in typists[:MAX_TYPISTS])
    more = f" and {len(typists) - MAX_TYPISTS} more" if len(typists) > MAX_TYPISTS else ""
    return [words, ("typing", f" · {named}{more} {'is' if len(typists) == 1 else 'are'} typing…")]


def is_silent(model: Model) -> bool:
    """Whether the server is connected, and owes an answer for longer than a good line needs."""
    return model.connection.state in {"live", "replaying"} and model.silent_s >= SILENT_S


def _connection(model: Model, now: float) -> str:
    connection = model.connection
    if connection.retry_at is not None:
        return f"offline, next try in {max(0, round(connection.retry_at - now))} s"
    state = "catching up" if connection.state == "replaying" else connection.state
    return f"{state}, but no answer for {model.silent_s:.0f} s" if is_silent(model) else state
