"""Keys that mean something in certain places, and the hints that name them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SELECTING = "r reply  e edit  d delete  + react  t thread  p pin  l link  o original  1-6 👍🎉😂😮😢🙏  Esc"
UNSENT = "not stored: e take it back to mend it  d forget it  Esc"
ANSWERS = {*"yYnN", "enter", "esc", "ctrl c"}
ON_MESSAGE = {*"redtplo+123456", "enter"}
SCROLLING = {"page up", "page down"}
WORD_KEYS = {"b", "f"}
"""With Alt they move by words in what is composed."""
FUNCTION_KEYS = {f"f{number}" for number in range(1, 13)}
NOTE_S, READ_S = 20.0, 2.0
"""A notice goes after so long by itself, or after so long with the next key."""
EMPTIED = "an edit cannot be empty: Esc leaves the message as it is, /delete deletes it for everybody"


def behind_escape(key: str, *, composing: bool, elsewhere: bool) -> str | None:
    """The key that came in one piece with Esc: on a slow line the two look like Alt. None where it is Alt, or another key.
    ``elsewhere``: there is something that Esc leads back from besides what is composed.
    """
    rest = key.removeprefix("meta ")
    if rest == key:
        return None
    leads_back = elsewhere or (composing and rest not in WORD_KEYS)
    return rest if rest in FUNCTION_KEYS or (len(rest) == 1 and leads_back) else None


class Question:
    """One that is answered with y, or with n, Enter, Esc. ``seen``: it is on the screen."""

    def __init__(self, yes: Callable[[], None], no: Callable[[], None] | None) -> None:
        self._yes, self._no = yes, no
        self.seen = False

    def answered(self, key: str) -> Callable[[], None] | None:
        """What follows from this key; None: it is no answer, or was typed before the question was seen."""
        if not self.seen or key not in ANSWERS:
            return None
        if key in {"y", "Y"}:
            return self._yes
        return self._no if self._no is not None and key in {"n", "N"} else _nothing


def _nothing() -> None:
    """The answer was no."""
