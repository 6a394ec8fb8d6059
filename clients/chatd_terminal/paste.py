"""What is pasted, gathered from the keys that a terminal makes of it. Pure."""

from __future__ import annotations

_TEXTS = {"enter": "\n", "tab": "    "}


class Paste:
    """Put into the input in one piece, for a page put in letter by letter would take seconds."""

    def __init__(self) -> None:
        self._on = False
        self._parts: list[str] = []

    def takes(self, key: str) -> bool:
        """Whether this key belongs to a paste. Keys that are no text are left out of it."""
        if key in {"begin paste", "end paste"}:
            self._on = key == "begin paste"
            return True
        text = _TEXTS.get(key, key)
        if self._on and (len(text) == 1 or text.isspace()):
            self._parts.append(text)
        return self._on

    def taken(self) -> str:
        """What has come since this was asked last."""
        text = "".join(self._parts)
        self._parts.clear()
        return text
