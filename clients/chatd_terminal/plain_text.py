"""Received text made safe for a terminal, as a pure function.

What others write is printed on somebody's terminal, where control characters are commands: an escape sequence may
retitle the window, answer back as if typed, or hide what follows. So none passes; each becomes a visible mark.
"""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_MARKS = 4
"""Combining marks in a row; no written language stacks more, text that climbs over other lines does."""

VARIATION = {"\ufe0e", "\ufe0f"}
SKIN_TONES = range(0x1F3FB, 0x1F400)

NOTHING = "\N{COMBINING GRAPHEME JOINER}"
_JOINERS = {"\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str, *, lines: bool = False) -> str:
    """``text`` without anything a terminal would obey; newlines stay with ``lines``, tabs become four spaces."""
    out: list[str] = []
    marks = 0
    for character in text.replace("\r\n", "\n"):
        category = unicodedata.category(character)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if character == "\n" and lines:
            out.append(character)
        elif character == "\t":
            out.append("    ")
        elif character in _JOINERS or (category not in _HIDDEN and marks <= MAX_MARKS):
            out.append(character)
        elif marks <= MAX_MARKS:
            out.append(REPLACEMENT)
    return "".join(out)


def steady(text: str) -> str:
    """``text`` in characters about whose width all terminals agree, for those that do not draw clusters as one.

    A family of joined emoji is two columns on some terminals and six on others, a heart with an emoji selector one or
    two; a line in which the program and the terminal disagree spills over its neighbours. So selectors and skin tones
    go, and joined emoji stand side by side. Joiners between letters stay: scripts need them, and they have no width.
    """
    return steady_in_place(text).replace(NOTHING, "")


def steady_in_place(text: str) -> str:
    """The same with a character of no width for each that goes: every place in it is the same place in ``text``, so that
    it can be edited.
    """
    out: list[str] = []
    shown = " "
    for character in text:
        joins = character in _JOINERS and unicodedata.category(shown) == "So"
        goes = joins or character in VARIATION or ord(character) in SKIN_TONES
        shown = shown if goes else character
        out.append(NOTHING if goes else character)
    return "".join(out)
