"""The input: an editor with the keys of a shell, what is being composed in it, and a draft for each conversation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import urwid

from chatd_terminal.plain_text import steady_in_place

PROMPT = "> "
MAX_DRAFTS = 200


@dataclass(frozen=True, slots=True)
class Compose:
    """What Enter will do: say something, reply or react to ``seq``, edit it (then it reads ``original`` now), or answer
    with what nobody may see on the screen.
    """

    kind: Literal["say", "reply", "edit", "react", "secret"] = "say"
    seq: int = 0
    prompt: str = PROMPT
    original: str = ""


SAY = Compose()


class InputLine(urwid.Edit):
    """What is typed. Newlines in it are sent as they are; Enter is the screen's. ``clusters``: see ``markup.Style``."""

    clusters = False

    def __init__(self) -> None:
        super().__init__(PROMPT, multiline=True)
        self.compose = SAY
        self._drafts: dict[str, tuple[str, Compose]] = {}

    def get_text(self) -> Any:
        """What is drawn, in characters about whose width the terminal and urwid agree, or the cursor would go astray."""
        text, attributes = super().get_text()
        return (text if self.clusters else steady_in_place(str(text))), attributes

    def begin(self, compose: Compose, text: str) -> None:
        """Compose something else."""
        self.compose = compose
        self.set_caption(compose.prompt)
        self.set_mask("*" if compose.kind == "secret" else None)
        self.put(text, len(text))

    def put(self, text: str, cursor: int) -> None:
        """Replace what is typed."""
        self.set_edit_text(text)
        self.set_edit_pos(min(cursor, len(text)))

    def is_untouched(self) -> bool:
        """Nothing was typed: the line is empty, or what was there to be edited is unchanged."""
        typed: str = self.edit_text
        return typed == self.compose.original

    def leave(self, conv: str | None) -> None:
        """Put what is typed away as the draft of this conversation."""
        if conv is not None:
            self._drafts.pop(conv, None)
            if self.edit_text and self.compose.kind in {"say", "reply"}:
                self._drafts[conv] = self.edit_text, self.compose
            while len(self._drafts) > MAX_DRAFTS:
                del self._drafts[next(iter(self._drafts))]
        self.begin(SAY, "")

    def enter(self, conv: str, early: str) -> None:
        """Take up the draft of this conversation, which may have been called ``early`` when it was written."""
        known = conv if conv in self._drafts else early
        text, compose = self._drafts.pop(known, ("", SAY))
        self.begin(compose, text)

    def has_draft(self, conv: str) -> bool:
        """Whether something half typed waits there."""
        return conv in self._drafts

    def keypress(self, size: Any, key: str) -> str | None:
        """The keys of a shell's line, then urwid's own."""
        text, at = self.edit_text, self.edit_pos
        match key:
            case "ctrl a":
                self.set_edit_pos(text.rfind("\n", 0, at) + 1)
            case "ctrl e":
                end = text.find("\n", at)
                self.set_edit_pos(len(text) if end < 0 else end)
            case "ctrl k":
                self.put(text[:at], at)
            case "ctrl u":
                self.put("", 0)
            case "ctrl w":
                start = _word_start(text, at)
                self.put(text[:start] + text[at:], start)
            case "meta b" | "ctrl left":
                self.set_edit_pos(_word_start(text, at))
            case "meta f" | "ctrl right":
                self.set_edit_pos(at + len(re.match(r"\s*\S*", text[at:])[0]))  # type: ignore[index]
            case "meta enter" | "shift enter":
                self.insert_text("\n")
            case _:
                return super().keypress(size, key)
        return None


def _word_start(text: str, at: int) -> int:
    before = text[:at].rstrip()
    return max(before.rfind(" "), before.rfind("\n")) + 1
