"""Another password, typed out of sight: the one in force, the new one, and that once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd_terminal.input_line import Compose

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd_terminal.screen import Chat as Screen

PROMPTS = ("password now> ", "new password> ", "once more> ")


class PasswordDialog:
    """``change`` is given both passwords at the end; it raises ValueError where that cannot be done now. Esc or an empty
    answer ends the dialog.
    """

    def __init__(self, screen: Screen, change: Callable[[str, str], None]) -> None:
        self._screen, self._change = screen, change
        self._given: list[str] = []

    def begin(self) -> None:
        """Ask for the first one."""
        self._given = []
        self._ask()

    def entered(self, text: str) -> None:
        """One answer; nothing of it is kept when the last one was given."""
        self._given.append(text)
        if len(self._given) < len(PROMPTS):
            self._ask()
            return
        now, new, again = self._given
        self._given = []
        if new != again:
            self._screen.note("the two are not the same: nothing is changed")
            return
        try:
            self._change(now, new)
        except ValueError as error:
            self._screen.note(str(error))

    def _ask(self) -> None:
        self._screen.begin(Compose("secret", prompt=PROMPTS[len(self._given)]))
