"""What a typed line means, as a pure function: a message, or one of the commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from chatd_protocol.messages import MAX_MENTIONS, NAME_PATTERN

ARGUMENTS: dict[str, tuple[int, int | None]] = {
    "dm": (1, 1),
    "group": (1, None),
    "add": (1, None),
    "remove": (1, None),
    "role": (2, 2),
    "leave": (0, 0),
    "rename": (1, 1),
    "members": (0, 0),
    "reply": (1, 1),
    "edit": (1, 1),
    "delete": (0, 0),
    "react": (1, 1),
    "thread": (0, 0),
    "pin": (0, 0),
    "unpin": (0, 0),
    "pins": (0, 0),
    "search": (1, 1),
    "mute": (0, 1),
    "unmute": (0, 0),
    "block": (1, 1),
    "unblock": (1, 1),
    "blocked": (0, 0),
    "devices": (0, 0),
    "signout": (1, 1),
    "password": (0, 0),
    "privacy": (0, 2),
    "limits": (0, 0),
    "help": (0, 0),
    "quit": (0, 0),
}
USAGE = {
    "dm": "NAME",
    "group": 'TITLE NAME…, "quotes" around a title of several words',
    "add": "NAME…",
    "remove": "NAME…",
    "role": "NAME owner|admin|member",
    "rename": "TITLE",
    "reply": "TEXT",
    "edit": "TEXT",
    "react": "EMOJI",
    "search": "WORDS",
    "mute": "[30m|8h|2d]",
    "block": "NAME",
    "unblock": "NAME",
    "signout": "DEVICE",
    "privacy": "[presence on|off], or [last_seen on|off]",
}
"""What stands behind a command; nothing behind the others."""
WHOLE = {"reply", "edit", "search", "rename"}
"""Commands whose one argument is the rest of the line as it stands."""
NAMES_AFTER = {"dm", "group", "add", "remove", "role", "block", "unblock"}
"""Commands whose arguments are names."""

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_MENTION = re.compile(r"(?<![\w@.-])@([a-z0-9_.-]{1,32})(?![\w@-])", re.IGNORECASE)
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the open conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One of the commands, with as many arguments as it takes."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A search: ``within`` is a conversation as it was typed, the times are in milliseconds since the Unix epoch."""

    words: str
    within: str | None = None
    sender: str | None = None
    before: int | None = None
    after: int | None = None
    order: Literal["newest", "ranked"] = "newest"


def parse(line: str) -> Say | Command:
    """Read a line; ``//`` escapes a message that begins with a slash. Raises ValueError with words for the user."""
    if not line.startswith("/"):
        return Say(line)
    if line.startswith("//"):
        return Say(line[1:])
    name, _, rest = line[1:].partition(" ")
    name = name.lower()
    if name not in ARGUMENTS:
        raise ValueError(f"no command /{name}: /help shows them")
    arguments = ([rest.strip()] if rest.strip() else []) if name in WHOLE else _words(rest)
    least, most = ARGUMENTS[name]
    if len(arguments) < least or (most is not None and len(arguments) > most):
        raise ValueError(f"/{name} {USAGE[name]}" if name in USAGE else f"/{name} stands alone, with nothing behind it")
    return Command(name, tuple(arguments))


def _words(rest: str) -> list[str]:
    """Words, with "quotes around titles"; an apostrophe in a title is no quote that was left open."""
    lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    try:
        return list(lexer)
    except ValueError:
        return rest.split()


def unquoted(title: str) -> str:
    """A title without the quotes around it; those within it are its own."""
    within = title[1:-1]
    return within if len(title) > 1 and title[0] == title[-1] == '"' and '"' not in within else title


def names(words: tuple[str, ...]) -> list[str]:
    """Names as typed, with or without ``@``. Raises ValueError for what is none."""
    found = [word.removeprefix("@").lower() for word in words]
    for name in found:
        check_name(name)
    return found


def check_name(name: str) -> None:
    """Raises ValueError for a name that no account can have."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is no name: 1 to 32 of a-z 0-9 _ . -")


def mentions(text: str, members: tuple[str, ...]) -> list[str]:
    """Who is named in a message with ``@name``, each once; only members, where these are known."""
    found: dict[str, None] = {}
    for match in _MENTION.finditer(text):
        name = match[1].lower()
        while name not in members and name.endswith((".", "-")):  # the full stop of the sentence
            name = name[:-1]
        if name and (not members or name in members):
            found[name] = None
    return list(found)[:MAX_MENTIONS]


def duration_s(text: str) -> int:
    """Seconds of ``30m``, ``8h`` or ``2d``. Raises ValueError."""
    if text[-1:] in _UNITS and text[:-1].isascii() and text[:-1].isdigit() and 0 < int(text[:-1][:6]) < 100_000:
        return int(text[:-1]) * _UNITS[text[-1]]
    raise ValueError(f"{text[:20]!r} is no time: 30m, 8h or 2d, say")


def query(text: str) -> Query:
    """Read what was typed behind ``/search``. Raises ValueError for a filter that cannot be read."""
    words: list[str] = []
    filters: dict[str, str] = {}
    for word in re.findall(r'\w+:"[^"]*"|"[^"]*"?|\S+', text):
        key, colon, value = word.partition(":")
        value = value.strip('"')
        if colon and value and key.lower() in {"from", "in", "before", "after", "by"}:
            filters[key.lower()] = value
        else:
            words.append(word)
    if not words:
        raise ValueError("a search needs a word to look for")
    if filters.get("by", "rank") not in {"rank", "time"}:
        raise ValueError("by:rank or by:time")
    return Query(
        " ".join(words),
        filters.get("in"),
        names((filters["from"],))[0] if "from" in filters else None,
        _milliseconds(filters.get("before")),
        _milliseconds(filters.get("after")),
        "ranked" if filters.get("by") == "rank" else "newest",
    )


def _milliseconds(date: str | None) -> int | None:
    if date is None:
        return None
    try:
        return max(0, int(datetime.fromisoformat(date).astimezone().timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{date[:40]!r} is no date: 2026-01-31, say") from None
