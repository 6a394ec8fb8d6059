"""The terminal as urwid drives it, without the keys that would end or freeze the program behind its back."""

from __future__ import annotations

from typing import Any

from urwid.display.raw import Screen


class Display(Screen):
    """Ctrl-C is a key like others, and Ctrl-S does not stop the output; Ctrl-Z still suspends."""

    def _start(self, *args: Any, **kwargs: Any) -> None:
        super()._start(*args, **kwargs)
        self.tty_signal_keys(intr="undefined", start="undefined", stop="undefined")  # stop() puts them back
