"""Colours, as tables: each theme names every attribute that is drawn."""

from __future__ import annotations

from typing import Any, Final

Palette = list[tuple[Any, ...]]

_MONO: Final = {
    "status": "standout",
    "offline": "standout,bold",
    "open": "standout",
    "unread": "bold",
    "mention": "bold,underline",
    "muted": "",
    "sender": "bold",
    "own": "bold",
    "faint": "",
    "error": "bold",
    "link": "underline",
    "selected": "standout",
    "online": "bold",
    "away": "",
    "hit": "bold",
    "typing": "standout",
}
"""For one colour, and what is used where a terminal has no colours, whatever the theme."""

_DARK: Final = {
    "status": ("black", "light gray"),
    "offline": ("white", "dark red"),
    "open": ("standout", ""),
    "unread": ("bold", ""),
    "mention": ("yellow,bold", ""),
    "muted": ("dark gray", ""),
    "sender": ("light cyan,bold", ""),
    "own": ("light green,bold", ""),
    "faint": ("dark gray", ""),
    "error": ("light red", ""),
    "link": ("light blue,underline", ""),
    "selected": ("black", "dark cyan"),
    "online": ("light green", ""),
    "away": ("brown", ""),
    "hit": ("yellow,bold", ""),
    "typing": ("dark blue", "light gray"),
}
_LIGHT: Final = {
    **_DARK,
    "status": ("white", "dark gray"),
    "mention": ("dark magenta,bold", ""),
    "muted": ("light gray", ""),
    "sender": ("dark blue,bold", ""),
    "own": ("dark green,bold", ""),
    "error": ("dark red", ""),
    "link": ("dark blue,underline", ""),
    "selected": ("white", "dark blue"),
    "online": ("dark green", ""),
    "hit": ("dark magenta,bold", ""),
    "typing": ("white,bold", "dark gray"),
}

THEMES: Final = ("dark", "light", "mono")


def palette(theme: str) -> Palette:
    """The theme's colours as urwid takes them. Raises ValueError for an unknown one."""
    if theme == "mono":
        return [(name, mono, "", mono) for name, mono in _MONO.items()]
    if theme not in THEMES:
        raise ValueError(f"no theme is called {theme!r}: {', '.join(THEMES)}")
    colours = _LIGHT if theme == "light" else _DARK
    return [(name, *colours[name], mono) for name, mono in _MONO.items()]
