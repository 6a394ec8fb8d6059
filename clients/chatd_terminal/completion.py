"""What Tab completes, as pure functions: what is being typed at the cursor, and what a choice makes of the line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chatd_terminal.commands import ARGUMENTS, NAMES_AFTER
from chatd_terminal.emoji import EMOJI

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_SHOWN = 12
ROLES = ("admin", "member", "owner")
_TOKEN = re.compile(r"\S*\Z")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A beginning to complete: ``start`` and ``end`` of it in ``line``; ``before`` and ``after`` go around the choice."""

    kind: Literal["command", "name", "mention", "emoji", "conversation", "role", "device"]
    text: str
    line: str
    start: int
    end: int
    before: str = ""
    after: str = " "


def wanted(line: str, cursor: int, *, reacting: bool = False) -> Wanted | None:
    """What the cursor stands behind; None where there is nothing to complete. ``reacting``: the line is an emoji."""
    if reacting:
        return Wanted("emoji", line[:cursor].strip(":").lower(), line, 0, cursor, after="")
    start = _TOKEN.search(line, 0, cursor).start()  # type: ignore[union-attr]
    token = line[start:cursor]
    if line.startswith("/") and not line.startswith("//"):
        command = line[1:].partition(" ")[0].lower()
        if start == 0:
            return Wanted("command", token[1:].lower(), line, start, cursor, "/")
        found = _argument(command, token, line, start, cursor)
        if found is not None:
            return found
    if token.startswith("@"):
        return Wanted("mention", token[1:].lower(), line, start, cursor, "@")
    return None


def _argument(command: str, token: str, line: str, start: int, cursor: int) -> Wanted | None:
    if command == "react":
        return Wanted("emoji", token.strip(":").lower(), line, start, cursor, after="")
    if command == "role" and len(line[:start].split()) > 1:
        return Wanted("role", token.lower(), line, start, cursor, after="")
    if command == "signout":
        return Wanted("device", token, line, start, cursor, after="")
    if command in NAMES_AFTER and not (command == "group" and line[:start].strip() == "/group"):
        return Wanted("name", token.removeprefix("@").lower(), line, start, cursor)
    if command == "search" and token.startswith("from:"):
        return Wanted("name", token[5:].lower(), line, start, cursor, "from:")
    if command == "search" and token.startswith("in:"):
        return Wanted("conversation", token[3:].strip('"').lower(), line, start, cursor, "in:")
    return None


def own_candidates(asked: Wanted, names: Iterable[str], titles: Iterable[str]) -> list[str]:
    """What is known here without asking the server."""
    match asked.kind:
        case "command":
            pool: Iterable[str] = sorted(ARGUMENTS)
        case "emoji":
            pool = sorted(EMOJI)
        case "role":
            pool = ROLES
        case "device":
            pool = ()
        case "conversation":
            pool = ["here", *titles]
        case "name" | "mention":
            pool = names
    return [choice for choice in dict.fromkeys(pool) if choice.lower().startswith(asked.text)]


def common_beginning(candidates: Sequence[str]) -> str:
    """The longest beginning that all share."""
    if not candidates:
        return ""
    shortest, longest = min(candidates), max(candidates)
    for at, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return shortest[:at]
    return shortest


def completed(asked: Wanted, choice: str, *, whole: bool) -> tuple[str, int]:
    """The line with ``choice`` in it, and where the cursor goes; ``whole``: nothing is to be added to it."""
    if whole and asked.kind == "conversation" and " " in choice:
        choice = f'"{choice}"'
    put = f"{asked.before}{choice}{asked.after if whole else ''}"
    rest = asked.line[asked.end :]
    if whole and rest.startswith(" "):
        rest = rest[1:] if asked.after else rest
    return asked.line[: asked.start] + put + rest, asked.start + len(put)


class Cycle:
    """One completion from its first Tab to the next other key: common beginning first, then one candidate after the
    other.
    """

    def __init__(self, asked: Wanted, candidates: Sequence[str]) -> None:
        self.asked = asked
        self.candidates = list(candidates)
        self._at = -1

    def add(self, more: Iterable[str]) -> None:
        """The server knows more."""
        self.candidates = list(dict.fromkeys([*self.candidates, *more]))

    def first(self) -> tuple[str, int]:
        """The line after the first Tab."""
        if len(self.candidates) == 1:
            self._at = 0
            return completed(self.asked, self.candidates[0], whole=True)
        shared = common_beginning(self.candidates)
        if len(shared) > len(self.asked.text):
            return completed(self.asked, shared, whole=False)
        return self.asked.line, self.asked.end

    def following(self) -> tuple[str, int]:
        """The line after a further Tab."""
        if not self.candidates:
            return self.asked.line, self.asked.end
        self._at = (self._at + 1) % len(self.candidates)
        return completed(self.asked, self.candidates[self._at], whole=True)

    def shown(self) -> str:
        """The candidates as a line for the user; nothing where there is no choice."""
        if len(self.candidates) == 1:
            return ""
        if not self.candidates:
            return f"nothing begins with {self.asked.text!r}"
        more = f"  … {len(self.candidates) - MAX_SHOWN} more" if len(self.candidates) > MAX_SHOWN else ""
        return "  ".join(self.candidates[:MAX_SHOWN]) + more
