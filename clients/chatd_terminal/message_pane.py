"""The messages of the open conversation, or a text of the program's own, in one scrolling pane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import urwid

from chatd_terminal.markup import Style, day, line_markup, quote_markup
from chatd_terminal.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd_terminal.chat import Line

WHEEL_ROWS = 3
TERM_COLUMNS = 22
ATTRIBUTES = ("faint", "sender", "own", "mention", "link", "hit", "error")
SELECTED: dict[Any, Any] = {None: "selected", **dict.fromkeys(ATTRIBUTES, "selected")}

Key = tuple[int, str]
"""A line's place in the log, or the key of what waits: what stays the same however the line changes."""


class MessagePane(urwid.ListBox[Any]):
    """The lines of the open conversation. Follows the end unless it was scrolled up or a message is selected."""

    def __init__(self, older: Callable[[], None], newer: Callable[[], None]) -> None:
        self._walker: urwid.SimpleFocusListWalker[Any] = urwid.SimpleFocusListWalker([])
        super().__init__(self._walker)
        self._older, self._newer = older, newer
        self._keys: list[Key | None] = []
        self._widgets: dict[object, urwid.Widget] = {}
        self._selected: Key | None = None
        self._size: tuple[int, int] = (80, 20)
        self.following = True
        self._is_page = False

    # --- what is drawn ------------------------------------------------------------------------------

    def show_page(self, text: str) -> None:
        """Draw a text of the program's own, from its beginning; nothing counts as read meanwhile."""
        self._is_page, self.following, self._keys, self._selected = True, False, [], None
        self._walker[:] = [_page_row(plain(row)) for row in text.split("\n")]
        self.set_focus(0)
        self.set_focus_valign("top")

    def show(self, lines: list[Line], me: str, style: Style, *, again: bool) -> None:
        """Draw these lines; ``again``: the same conversation as before, so that the reader's place is kept."""
        if not again:
            self.following, self._selected = True, None
        elif self._selected is not None and not any(self._selected == (line.seq, line.key) for line in lines):
            self._selected = None
        at = self._keys[self.focus_position] if not self.following and self._walker and self._keys else None
        before, self._widgets, self._keys = self._widgets, {}, []
        rows: list[urwid.Widget] = []
        today = ""
        for line in lines:
            if line.state != "new" and (date := day(line.at)) != today:
                today = date
                self._keys.append(None)
                rows.append(self._widget(before, ("day", date), [("faint", f"── {date} ──")], align="center"))
            self._keys.append(None if line.state == "new" else (line.seq, line.key))
            rows.append(self._row(before, line, me, style))
        self._walker[:] = rows
        self._is_page = False
        if not rows:
            return
        if self.following or at not in self._keys:
            self.to_end()
        else:
            self.set_focus(self._keys.index(at))

    def _row(self, before: dict[object, urwid.Widget], line: Line, me: str, style: Style) -> urwid.Widget:
        if line.state == "new":
            return self._widget(before, "new", [("error", "── new ──")], align="center")
        key = (line, style)
        widget = before.get(key) or self._new(line, me, style)
        self._widgets[key] = widget
        chosen = self._selected is not None and self._selected == (line.seq, line.key)
        return urwid.AttrMap(widget, SELECTED) if chosen else widget

    @staticmethod
    def _new(line: Line, me: str, style: Style) -> urwid.Widget:
        text = urwid.Text(line_markup(line, me, style))
        quote = quote_markup(line, style)
        return urwid.Pile([("pack", urwid.Text(quote, wrap="ellipsis")), ("pack", text)]) if quote else text

    def _widget(self, before: dict[object, urwid.Widget], key: object, markup: Any, align: Any) -> urwid.Widget:
        widget = self._widgets[key] = before.get(key) or urwid.Text(markup, align=align, wrap="clip")
        return widget

    def to_end(self) -> None:
        """Show the newest line, and follow."""
        if self._is_page:
            return
        self.following, self._selected = True, None
        if self._walker:
            self.set_focus(len(self._walker) - 1)
            self.set_focus_valign("bottom")

    def render(self, size: Any, focus: bool = False) -> Any:
        """Following shows the end of the newest line also where that is taller than the pane; urwid shows its top."""
        self._size = size
        if self.following and self._walker:
            hidden = self._walker[-1].rows((size[0],)) - size[1]
            if hidden > 0:
                self.set_focus(len(self._walker) - 1)
                self.calculate_visible(size, focus)  # it settles where the focus is, which would undo the shift
                self.shift_focus(size, -hidden)
        return super().render(size, focus)

    # --- scrolling ----------------------------------------------------------------------------------

    def scroll(self, key: str, times: int = 1) -> None:
        """Move by ``up``, ``down``, ``page up`` or ``page down``."""
        if not self._walker:
            self._older()
            return
        for _ in range(times):
            super().keypress(self._size, key)
        self._reached(upwards="up" in key)

    def _reached(self, *, upwards: bool) -> None:
        if self._is_page:
            return
        shown = self.ends_visible(self._size)
        self.following = "bottom" in shown and self._selected is None
        if "top" in shown and upwards:
            self._older()
        if "bottom" in shown and not upwards:
            self._newer()

    # --- choosing a message -------------------------------------------------------------------------

    @property
    def selected(self) -> Key | None:
        """The message that was chosen, None while none is."""
        return self._selected

    def release(self) -> None:
        """Choose none; where the end is in sight it is followed again."""
        self._selected = None
        self._reached(upwards=False)

    def choose(self, key: Key | None) -> bool:
        """Choose this line and bring it into sight; None ends choosing. Returns whether it is there."""
        if key is None or key not in self._keys:
            self._selected = None
            return key is None
        self._selected, self.following = key, False
        at = self._keys.index(key)
        self.change_focus(self._size, at, offset_inset=self._offset_of(at))
        return True

    def _offset_of(self, at: int) -> int:
        """Where the line is on screen now, or in the middle."""
        middle, top, bottom = self.calculate_visible(self._size, True)
        if middle is None or top is None or bottom is None:
            return 0
        row: int = middle[0]
        places = {middle[2]: row}
        for _, position, height in top[1]:
            row -= height
            places[position] = row
        row = middle[0] + middle[3]
        for _, position, height in bottom[1]:
            places[position] = row
            row += height
        offset = places.get(at, -1)
        rows: int = self._walker[at].rows((self._size[0],))
        if offset < 0 or offset + rows > self._size[1]:
            return max(0, (self._size[1] - rows) // 2)
        return offset

    def step(self, by: int) -> None:
        """Choose the next message up (-1) or down (1), from the end where none is chosen."""
        places = [at for at, key in enumerate(self._keys) if key is not None]
        if not places:
            return
        here = len(self._keys) if self._selected is None else self._keys.index(self._selected)
        ahead = [at for at in places if (at < here if by < 0 else at > here)]
        if ahead:
            self.choose(self._keys[ahead[-1] if by < 0 else ahead[0]])
        self._reached(upwards=by < 0)

    def mouse_event(self, size: Any, event: str, button: int, col: int, row: int, focus: bool) -> bool | None:
        """The wheel scrolls, a click chooses a message."""
        if "press" not in event or not self._walker:
            return False
        if button in {4, 5}:
            self.scroll("up" if button == 4 else "down", WHEEL_ROWS)
            return True
        key = self._key_at(size, row) if button == 1 and not self._is_page else None
        if key is None:
            return False
        if key == self._selected:
            self.release()
            return True
        return self.choose(key)

    def _key_at(self, size: Any, row: int) -> Key | None:
        middle, top, bottom = self.calculate_visible(size, True)
        if middle is None or top is None or bottom is None:
            return None
        visible = [*reversed(top[1]), (middle[1], middle[2], middle[3]), *bottom[1]]
        at = -top[0]
        for _, position, rows in visible:
            at += rows
            if row < at:
                return self._keys[position] if position < len(self._keys) else None
        return None


def _page_row(row: str) -> urwid.Widget:
    """A heading behind ``# ``; a term and its meaning, which has a column of its own; or a text."""
    if row.startswith("# "):
        return urwid.Text(("unread", row[2:]))
    term, meaning = row[:TERM_COLUMNS], row[TERM_COLUMNS:]
    if not (term.endswith("  ") and term.strip() and meaning.strip()) or row.startswith(" "):
        return urwid.Text(row)
    return urwid.Columns([(TERM_COLUMNS, urwid.Text(term)), urwid.Text(meaning)])
