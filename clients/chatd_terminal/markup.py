"""Lines as text with attributes, the way urwid takes it. Received text becomes plain here, and nowhere later."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatd_terminal.chat import message_text
from chatd_terminal.plain_text import plain, steady

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chatd_client import Message

    from chatd_terminal.chat import Chat, Line

Markup = list[str | tuple[str, str]]

STATES = {"queued": "…", "stored": "✓", "delivered": "✓✓", "read": "◉", "refused": "✗"}
DOTS = {"online": "●", "away": "◐"}
MAX_QUOTE = 500
MAX_SEEN = 3
MAX_TIME_MS = 2**41
"""Beyond the year 2039 a time is a slip of somebody's clock."""

_LINK = re.compile(r"https?://[^\s<>\"']+")
_OPENING = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class Style:
    """How text is drawn. ``clusters``: the terminal draws a cluster of characters in the width that it should have."""

    clusters: bool = False

    def text(self, text: str, *, lines: bool = False) -> str:
        """Received text, made safe for this terminal."""
        made = plain(text, lines=lines)
        return made if self.clusters else steady(made)


def clock(at: int) -> str:
    """The local time of day."""
    return time.strftime("%H:%M", time.localtime(at / 1000)) if 0 < at < MAX_TIME_MS else "--:--"


def day(at: int) -> str:
    """The local day, in words; nothing for what has no time."""
    return time.strftime("%A, %d %B %Y", time.localtime(at / 1000)) if 0 < at < MAX_TIME_MS else ""


def date(at: int) -> str:
    """The local day and time, short."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at / 1000)) if 0 < at < MAX_TIME_MS else "never"


def line_markup(line: Line, me: str, style: Style) -> Markup:
    """One message or notice."""
    if line.state == "notice":
        return [("faint", f"{clock(line.at)} * {style.text(line.text)}")]
    mine = line.sender == me
    parts: Markup = []
    parts += [("faint", f"{clock(line.at)} "), ("own" if mine else "sender", style.text(line.sender)), ": "]
    parts += _body(style.text(line.text, lines=True), "mention" if line.mentioned else None)
    parts += _marks(line, style)
    if mine:
        parts.append(("faint" if line.state != "refused" else "error", f" {STATES[line.state]}"))
    if line.seen and line.state != "read":
        names = ", ".join(style.text(name) for name in line.seen[:MAX_SEEN])
        more = f" and {len(line.seen) - MAX_SEEN} more" if len(line.seen) > MAX_SEEN else ""
        parts.append(("faint", f" read by {names}{more}"))
    return parts


def quote_markup(line: Line, style: Style) -> Markup:
    """One row about what a message replies to; nothing where it replies to none."""
    return [("faint", f"      ┌ {' '.join(style.text(line.quote)[:MAX_QUOTE].split())}")] if line.quote else []


def _marks(line: Line, style: Style) -> Markup:
    parts: Markup = []
    if line.edited:
        parts.append(("faint", " (edited)"))
    if line.pinned:
        parts.append(("faint", " (pinned)"))
    if line.reactions:
        parts.append(("hit", f"  {style.text('  '.join(line.reactions))}"))
    if line.note:
        parts.append(("error" if line.state == "refused" else "faint", f"  {style.text(line.note)}"))
    return parts


def links(text: str) -> list[str]:
    """The links in a text, each once."""
    return list(dict.fromkeys(text[start:end] for start, end in _links(text)))


def _links(text: str) -> Iterator[tuple[int, int]]:
    """Where the links are; a sentence's punctuation is none of theirs, nor is a bracket that was opened before them."""
    for match in _LINK.finditer(text):
        link = match[0]
        while link[-1] in ".,;:!?)]}" and not (0 < link.count(_OPENING.get(link[-1], " ")) >= link.count(link[-1])):
            link = link[:-1]
        if not link.endswith("/") or link.count("/") > len("//"):
            yield match.start(), match.start() + len(link)


def _body(text: str, tint: str | None) -> Markup:
    """Text with its links marked. The marks of markup and of text are told apart by type, so text cannot forge any."""
    parts: Markup = []
    done = 0
    for start, end in _links(text):
        parts += [_tinted(text[done:start], tint), ("link", text[start:end])]
        done = end
    parts.append(_tinted(text[done:], tint))
    return [part for part in parts if part not in {"", (tint or "", "")}]


def _tinted(text: str, tint: str | None) -> str | tuple[str, str]:
    return (tint, text) if tint is not None else text


def hit_markup(message: Message, chat: Chat | None, words: tuple[str, ...], style: Style) -> Markup:
    """One line of a search or of the pins, with the words that were looked for marked."""
    where = f"{style.text(chat.name())} · " if chat is not None else ""
    text = " ".join(style.text(message_text(message)).split())
    parts: Markup = [("faint", f"{date(message.at)} "), f"{where}", ("sender", style.text(message.sender)), ": "]
    found = re.compile("|".join(re.escape(word) for word in words), re.IGNORECASE) if words else None
    done = 0
    for match in found.finditer(text) if found else ():
        parts += [text[done : match.start()], ("hit", match[0])]
        done = match.end()
    parts.append(text[done:])
    return [part for part in parts if part]
