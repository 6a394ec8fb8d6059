"""What the screen asks of the program when a key is pressed or the mouse is used. None of it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd_terminal.completion import Wanted
    from chatd_terminal.input_line import Compose


class Actions(Protocol):
    """See the module's docstring."""

    def entered(self, line: str, compose: Compose) -> None:
        """A line was entered."""
        ...

    def switch(self, conv: str) -> None:
        """Open this conversation."""
        ...

    def older(self) -> None:
        """The top is in sight: load what lies before."""
        ...

    def newer(self) -> None:
        """The end of what is known is in sight: load what comes behind."""
        ...

    def to_end(self) -> None:
        """Back to the newest message."""
        ...

    def on_message(self, key: str, chosen: tuple[int, str]) -> None:
        """A key was pressed on a message: its ``seq``, and the key of one that is not stored."""
        ...

    def edit_earlier(self, before: int | None) -> None:
        """Edit one's own newest message, or the one before ``before``."""
        ...

    def edit_later(self, after: int) -> None:
        """Edit one's own next message behind ``after``; nothing more is edited where there is none."""
        ...

    def confirmed(self, deed: Callable[[], None]) -> None:
        """A question was answered with yes."""
        ...

    def picked(self, place: tuple[str, int]) -> None:
        """Something of a list was chosen: a conversation and a ``seq`` in it."""
        ...

    def more_picks(self) -> None:
        """The end of the list is in sight."""
        ...

    def complete(self, asked: Wanted) -> None:
        """Look for what can stand here."""
        ...

    def typed(self, text: str) -> None:
        """The input changed."""
        ...

    def stirred(self, *, focused: bool | None = None) -> None:
        """Somebody is at the keyboard or the mouse; ``focused``: the terminal's window came to the front, or left it."""
        ...

    def leave(self) -> None:
        """End the program."""
        ...

    def left_thread(self) -> None:
        """Back from the thread to its conversation."""
        ...

    def hurry(self) -> None:
        """Try to connect at once."""
        ...
