"""What a typed line means, as a pure function: a message, or one of the commands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

HELP = """\
/dm NAME              a conversation with NAME
/group TITLE NAME…    a new group; "quotes" around a title of several words
/add NAME…            into the open group
/remove NAME…         out of it
/rename TITLE         the open group
/members              of the open group
/leave                the open group
/quit                 leave the program; what waits is sent at the next start
//text                sends /text

Tab, Ctrl-N           next conversation
Shift-Tab, Ctrl-P     previous conversation
PgUp, PgDn, wheel     scroll; older messages are loaded
End                   on an empty line: back to the newest
Ctrl-L                draw the screen anew

…  waits to be stored    ✓  stored    ✗  refused"""

FIRST_STEPS = """\
No conversation is open.

/dm NAME              begins one with NAME
/group TITLE NAME…    begins a group
Tab                   opens the next one of the list
/help                 shows everything else"""

ARGUMENTS = {
    "dm": (1, 1),
    "group": (1, None),
    "add": (1, None),
    "remove": (1, None),
    "leave": (0, 0),
    "rename": (1, None),
    "members": (0, 0),
    "help": (0, 0),
    "quit": (0, 0),
}


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the open conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One of the commands, with as many arguments as it takes."""

    name: str
    arguments: tuple[str, ...]


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
    arguments = _words(rest)
    least, most = ARGUMENTS[name]
    if len(arguments) < least or (most is not None and len(arguments) > most):
        raise ValueError(f"/{name} takes {'a name' if name == 'dm' else 'other arguments'}: /help shows them")
    return Command(name, tuple(arguments))


def _words(rest: str) -> list[str]:
    """Words, with "quotes around titles"; an apostrophe in a title is no quote that was left open."""
    lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    try:
        return list(lexer)
    except ValueError:
        return rest.split()


def names(words: tuple[str, ...]) -> list[str]:
    """Names as typed, with or without ``@``."""
    return [word.removeprefix("@").lower() for word in words]
