"""The two languages of plain mode, as pure functions: lines that come in, and JSON lines that go out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatd_client import ConnectionChanged, Hole, SendRefused, Stored
from chatd_protocol import codec
from chatd_protocol.codec import Encoding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatd_client import Fact
    from chatd_protocol.messages import Message

MAX_LINE_BYTES = 128 * 1024
"""Twice of what the server takes: longer lines are refused without being kept."""

_TARGET = re.compile(r"@[a-z0-9_.-]{1,32}\Z|[^@\s]\S{0,63}\Z")
_WITH_SEQ = {"reply": True, "edit": True, "delete": False, "react": True, "unreact": True, "read": False}
"""Commands about one message, and whether a text comes behind its number."""
_OPTIONAL = {"history": False, "search": True, "conversations": False, "members": False}


@dataclass(frozen=True, slots=True)
class Order:
    """One line: ``name`` is ``send`` or a command; ``seq`` and ``text`` as it needs them."""

    name: str
    seq: int = 0
    text: str = ""


def read_line(line: str) -> Order:
    """What a line asks for. Raises ValueError with words for whoever wrote the script."""
    if not line.startswith("/") or line.startswith("//"):
        return Order("send", text=line.removeprefix("/") if line.startswith("//") else line)
    name, _, rest = line[1:].partition(" ")
    if name in _WITH_SEQ:
        return _about_message(name, rest)
    rest = rest.strip()
    if name == "to":
        if not _TARGET.match(rest):
            raise ValueError("/to takes @NAME or a conversation's id")
        return Order("to", text=rest)
    if name not in _OPTIONAL:
        raise ValueError(f"no command /{name[:20]}; a message that begins with a slash begins with two")
    if _OPTIONAL[name] and not rest:
        raise ValueError(f"/{name} needs words")
    if name == "history" and rest:
        if not (rest.isascii() and rest.isdigit() and int(rest[:16])):
            raise ValueError("/history takes nothing, or a seq: what lies before it")
        return Order(name, int(rest[:16]))
    return Order(name, text=rest)


def _about_message(name: str, rest: str) -> Order:
    number, _, text = rest.partition(" ")
    if not (number.isascii() and number.isdigit() and int(number[:16]) > 0) or bool(text) != _WITH_SEQ[name]:
        raise ValueError(f"/{name} takes the seq of a message{' and a text' if _WITH_SEQ[name] else ''}")
    return Order(name, int(number[:16]), text)


def fact_line(fact: Fact, line: int | None) -> str | None:
    """A fact as a line; None for what comes by another way. ``line``: the input line that it is the outcome of."""
    match fact:
        case Stored(ack=ack):
            keys = wire_keys(ack)
        case SendRefused(code=code, message=message):
            keys = {"t": "error", "code": code, "message": message}
        case ConnectionChanged(state=state, reason=reason):
            keys = {"t": "state", "state": state} | ({"reason": reason} if reason else {})
        case Hole(conv=conv, after=after, before=before):
            keys = {"t": "hole", "conv": conv, "after": after, "before": before}
        case _:
            keys = wire_keys(fact)
    return json_line(keys, line)


def wire_keys(message: Message) -> dict[str, Any]:
    """A message as the wire writes it in JSON."""
    keys: dict[str, Any] = json.loads(codec.encode(Encoding.JSON, message))
    return keys


def json_line(keys: Mapping[str, Any], line: int | None = None) -> str:
    """One line of output."""
    numbered = {**keys, "line": line} if line is not None else keys
    return json.dumps(numbered, ensure_ascii=False, separators=(",", ":")) + "\n"


def error_line(line: int, code: str, message: str) -> str:
    """A line that was not done."""
    return json_line({"t": "error", "code": code, "message": message}, line)
