"""What the server and the protocol's code say of faults and limits, in words for a person. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatd_client.answers import Limit

SCOPES = {
    "messages": "messages, edits, deletes and reactions",
    "requests": "questions and orders",
    "search": "searches and completions",
    "connections": "connections from your address",
    "sign_in": "sign-ins from your address",
    "accounts": "new accounts from your address",
    "api": "other requests from your address",
}
_UNITS = {"str": "characters", "bytes": "bytes", "array": "entries"}
_LENGTH = re.compile(r"(?:\w+: )?Expected `(str|bytes|array)` of length (<=|>=) (\d+) - at `\$\.(\w+)[^`]*`")
_OTHER = re.compile(r"(?:\w+: )?Expected (.{1,200}?) - at `\$\.(\w+)[^`]*`")


def readable(text: str) -> str:
    """A fault in the shape of a message, without the words of the schema."""
    text = _LENGTH.sub(lambda at: f"{at[4]}: at {'most' if at[2] == '<=' else 'least'} {at[3]} {_UNITS[at[1]]}", text)
    return _OTHER.sub(lambda at: f"{at[2]}: {at[1].replace('`str`', 'a text').replace('`', '')}", text)


def limit_words(limit: Limit) -> str:
    """One line about what may still be done."""
    left = f"{SCOPES.get(limit.scope, limit.scope)}: {limit.remaining} of {limit.limit} left"
    return left if limit.remaining >= limit.limit else f"{left}, all of them again in {_span(limit.reset_ms / 1000)}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600)} hours"
