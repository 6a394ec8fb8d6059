"""The list of conversations, and lists that something is chosen from (what a search found, the pins)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import urwid

from chatd_terminal.markup import DOTS, Style
from chatd_terminal.message_pane import SELECTED, WHEEL_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chatd_terminal.markup import Markup
    from chatd_terminal.view_model import Model


class ConversationRow(urwid.WidgetWrap[Any]):
    """One line of the list; a click opens it."""

    def __init__(self, widget: urwid.Widget, conv: str, switch: Callable[[str], None]) -> None:
        super().__init__(widget)
        self._conv, self._switch = conv, switch

    def selectable(self) -> bool:
        """The keyboard stays with the input."""
        return False

    def mouse_event(self, size: Any, event: str, button: int, col: int, row: int, focus: bool) -> bool | None:
        """A click opens the conversation."""
        if "press" not in event or button != 1:
            return False
        self._switch(self._conv)
        return True


class ListPane(urwid.ListBox[Any]):
    """The conversations, latest first. Rows that did not change are drawn from the same widget."""

    def __init__(self, switch: Callable[[str], None]) -> None:
        self._walker: urwid.SimpleFocusListWalker[Any] = urwid.SimpleFocusListWalker([])
        super().__init__(self._walker)
        self._switch = switch
        self._rows: dict[tuple[object, ...], ConversationRow] = {}

    def show(self, model: Model, style: Style, has_draft: Callable[[str], bool]) -> None:
        """Bring the rows up to the model."""
        before, self._rows = self._rows, {}
        for chat in model.ordered():
            is_open = chat.conv == model.open
            others = chat.others()
            dot = DOTS.get(model.status(others[0]), "") if chat.kind == "dm" and others else ""
            key = (
                chat.conv,
                style.text(chat.name()),
                is_open,
                chat.unread(),
                chat.mentions(),
                bool(chat.muted),
                dot,
                bool(model.typists(chat.conv)),
                has_draft(chat.conv),
            )
            self._rows[key] = before.get(key) or self._row(*key)
        rows = list(self._rows.values())
        if rows != list(self._walker):
            self._walker[:] = rows

    def _row(
        self,
        conv: str,
        name: str,
        is_open: bool,
        unread: int,
        mentions: int,
        muted: bool,
        dot: str,
        typing: bool,
        draft: bool,
    ) -> ConversationRow:
        text = urwid.Text(f"{'▸' if is_open else ' '}{name}", wrap="ellipsis")
        flags = ("…" if typing else "") + ("✎" if draft else "") + ("~" if muted else "") + ("@" if mentions else "")
        count = f" {flags}" if flags else ""
        count += f" ({unread})" if unread else ""
        tint = "online" if dot == DOTS["online"] else "away"
        state: Markup = [count, " ", (tint, dot)] if dot else [count]
        # In a column of its own: the count must not be what an ellipsis hides.
        label: urwid.Widget = urwid.Columns([text, ("pack", urwid.Text(state))]) if count or dot else text
        waiting = "muted" if muted else "mention" if mentions else "unread"
        return ConversationRow(
            urwid.AttrMap(label, "open" if is_open else (waiting if unread else None)), conv, self._switch
        )

    def mouse_event(self, size: Any, event: str, button: int, col: int, row: int, focus: bool) -> bool | None:
        """The wheel scrolls, a click opens."""
        if "press" in event and button in {4, 5} and self._walker:
            for _ in range(WHEEL_ROWS):
                self.keypress(size, "up" if button == 4 else "down")
            return True
        return super().mouse_event(size, event, button, col, row, focus)


class PickPane(urwid.ListBox[Any]):
    """Lines one of which is chosen. ``near_end`` is called when the last one is in sight."""

    def __init__(self, near_end: Callable[[], None], picked: Callable[[tuple[str, int]], None]) -> None:
        self._walker: urwid.SimpleFocusListWalker[Any] = urwid.SimpleFocusListWalker([])
        super().__init__(self._walker)
        self._near_end, self._picked = near_end, picked
        self._rows: list[tuple[Markup, tuple[str, int]]] = []
        self._at = 0
        self._size: tuple[int, int] = (80, 20)

    def fill(self, rows: Sequence[tuple[Markup, tuple[str, int]]], *, more: bool) -> None:
        """Show these; ``more``: behind those that are there."""
        self._rows = [*(self._rows if more else []), *rows]
        self._at = self._at if more else 0
        self._walker[:] = [urwid.Text(markup) for markup, _ in self._rows]
        self._mark(0)

    def render(self, size: Any, focus: bool = False) -> Any:
        """Remember the size, which moving needs."""
        self._size = size
        return super().render(size, focus)

    def move(self, key: str) -> None:
        """``up``, ``down``, ``page up``, ``page down``."""
        by = 1 if key in {"up", "down"} else max(1, self._size[1] - 1)
        self._mark(-by if "up" in key else by)
        if self._at + self._size[1] >= len(self._rows):
            self._near_end()

    def choose(self) -> None:
        """Take the one that is marked."""
        if self._rows:
            self._picked(self._rows[self._at][1])

    def _mark(self, by: int) -> None:
        if not self._rows:
            return
        self._walker[self._at] = urwid.Text(self._rows[self._at][0])
        self._at = max(0, min(len(self._rows) - 1, self._at + by))
        self._walker[self._at] = urwid.AttrMap(urwid.Text(self._rows[self._at][0]), SELECTED)
        self.set_focus(self._at, coming_from="above" if by > 0 else "below")

    def mouse_event(self, size: Any, event: str, button: int, col: int, row: int, focus: bool) -> bool | None:
        """The wheel moves, a click takes."""
        if "press" not in event or not self._rows:
            return False
        if button in {4, 5}:
            self.move("up" if button == 4 else "down")
            return True
        middle, top, _ = self.calculate_visible(size, True)
        if button != 1 or middle is None or top is None:
            return False
        position, shown = middle[2] - len(top[1]), -top[0]
        while position < len(self._rows):
            shown += self._walker[position].rows((size[0],))
            if row < shown:
                self._picked(self._rows[position][1])
                return True
            position += 1
        return False
