"""The widgets: what the model says, drawn with urwid. Owns no state of the conversation, only focus and scroll
position.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import urwid

from chatd_terminal.commands import FIRST_STEPS
from chatd_terminal.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from chatd_terminal.view_model import Conversation, Line, Model

LIST_WIDTH = 26
NARROW = 60
"""Columns below which the list would leave no room for the messages: then it is hidden."""
WHEEL_ROWS = 3
INPUT_SHARE = 3
"""The input and the notice each take at most one in so many rows: a long line must not push the messages away."""

PALETTE = [
    ("status", "black", "light gray"),
    ("offline", "white", "dark red"),
    ("open", "standout", ""),
    ("unread", "bold", ""),
    ("sender", "dark cyan,bold", ""),
    ("own", "dark green,bold", ""),
    ("faint", "dark gray", ""),
    ("error", "light red", ""),
]

STATES = {"queued": "…", "stored": "✓", "refused": "✗", "notice": ""}


class MessagePane(urwid.ListBox[Any]):
    """The lines of the open conversation. Follows the end unless it was scrolled up; at the top it asks for more."""

    def __init__(self, ask_for_more: Callable[[], None]) -> None:
        self._walker: urwid.SimpleFocusListWalker[Any] = urwid.SimpleFocusListWalker([])
        super().__init__(self._walker)
        self._ask_for_more = ask_for_more
        self._keys: list[object] = []
        self.following = True
        self._is_page = False

    def show_page(self, text: str) -> None:
        """Draw a text of the program's own, from its beginning; nothing counts as read meanwhile."""
        self._is_page, self.following, self._keys = True, False, []
        self._walker[:] = [urwid.Text(plain(row)) for row in text.split("\n")]
        self.set_focus(0)
        self.set_focus_valign("top")

    def show(self, lines: list[Line], me: str, *, again: bool) -> None:
        """Draw these lines; ``again``: the same conversation as before, so that the reader's place is kept."""
        at = self._keys[self.focus_position] if again and not self.following and self._walker else None
        self._keys = [(line.seq, line.sender, line.at) for line in lines]
        self._walker[:] = [urwid.Text(_markup(line, me)) for line in lines]
        self._is_page = False
        if not again:
            self.following = True
        if not self._walker:
            return
        if self.following or at not in self._keys:
            self.to_end()
        else:
            self.set_focus(self._keys.index(at))

    def to_end(self) -> None:
        """Show the newest line, and follow."""
        if self._is_page:
            return
        self.following = True
        if self._walker:
            self.set_focus(len(self._walker) - 1)
            self.set_focus_valign("bottom")

    def render(self, size: Any, focus: bool = False) -> Any:
        """Following shows the end of the newest line also where that is taller than the pane; urwid shows its top."""
        if self.following and self._walker:
            hidden = self._walker[-1].rows((size[0],)) - size[1]
            if hidden > 0:
                self.calculate_visible(size, focus)  # it settles where the focus is, which would undo the shift
                self.shift_focus(size, -hidden)
        return super().render(size, focus)

    def scroll(self, size: tuple[int, int], key: str, times: int = 1) -> None:
        """Move by ``up``, ``down``, ``page up`` or ``page down``."""
        if not self._walker:
            self._ask_for_more()
            return
        for _ in range(times):
            super().keypress(size, key)
        shown = self.ends_visible(size)
        if self._is_page:
            return
        self.following = "bottom" in shown
        if "top" in shown and key in {"up", "page up"}:
            self._ask_for_more()

    def mouse_event(
        self,
        size: Any,
        event: str,
        button: int,
        col: int,
        row: int,
        focus: bool,
    ) -> bool | None:
        """The wheel scrolls; clicks do nothing here."""
        if button in {4, 5} and "press" in event:
            self.scroll(size, "up" if button == 4 else "down", WHEEL_ROWS)
            return True
        return False


class Chat(urwid.Frame[Any, Any, Any]):
    """The whole screen: list, messages, status, input. ``on_line`` gets what was entered."""

    def __init__(
        self,
        model: Model,
        *,
        on_line: Callable[[str], None],
        on_switch: Callable[[str], None],
        ask_for_more: Callable[[], None],
    ) -> None:
        self._model, self._on_line, self._on_switch = model, on_line, on_switch
        self.pane = MessagePane(ask_for_more)
        self._list: urwid.SimpleFocusListWalker[Any] = urwid.SimpleFocusListWalker([])
        self._list_box = urwid.ListBox(self._list)
        self._status = urwid.Text("", wrap="ellipsis")
        self._status_map = urwid.AttrMap(self._status, "status")
        self._notice = urwid.Text("")
        self.input = urwid.Edit("> ")
        self._title = urwid.Text("", wrap="ellipsis")
        self._page: tuple[str, str] | None = None
        self._drawn: tuple[object, object] | None = None
        self._narrow: bool | None = None
        self._size: tuple[int, int] = (80, 24)
        self.notice = ""
        self._rows: urwid.Pile = urwid.Pile([self._status_map, self.input], focus_item=1)
        header = urwid.AttrMap(self._title, "status")
        super().__init__(self.pane, header=header, footer=self._rows, focus_part="footer")

    def redraw(self, now: float) -> None:
        """Bring the widgets up to the model. ``now``: Trio's clock, for the next try."""
        self._draw_pane()
        self._list[:] = [self._item(item) for item in self._model.ordered()]
        self._draw_status(now)

    def _draw_pane(self) -> None:
        chat = self._model.current()
        if self._page is not None:
            self._draw_page(*self._page)
        elif chat is None:
            self._draw_page("chatd", FIRST_STEPS)
        else:
            drawn = (chat.conv, chat.version)
            if drawn != self._drawn:
                again = self._drawn is not None and self._drawn[0] == chat.conv
                self.pane.show(chat.lines(), self._model.me, again=again)
                self._drawn = drawn
            self._title.set_text(f" {plain(chat.name(self._model.me))}{self._members(chat)}")

    def note(self, text: str) -> None:
        """Say something in the status line until the next thing is entered."""
        self.notice = plain(text)

    def page(self, title: str, text: str) -> None:
        """Show a text of any length in place of the messages, until Esc, Enter or another conversation."""
        self._page = (f"{title} · PgUp, PgDn: scroll · Esc: back", text)

    def _draw_page(self, title: str, text: str) -> None:
        if self._drawn != (title, text):
            self._drawn = (title, text)
            self.pane.show_page(text)
            self._title.set_text(f" {title}")

    def render(self, size: Any, focus: bool = False) -> urwid.CompositeCanvas:
        """Lay out for this width: narrow screens show the messages only."""
        self._size = size
        narrow = size[0] < NARROW
        if narrow != self._narrow:
            self._narrow = narrow
            columns = urwid.Columns([(LIST_WIDTH, self._list_box), (1, urwid.SolidFill("│")), self.pane])
            self.body = self.pane if narrow else columns
        self._fit(*size)
        return super().render(size, focus)

    def _fit(self, columns: int, rows: int) -> None:
        """Input that is too long for its share scrolls sideways, a notice is cut."""
        share = max(1, rows // INPUT_SHARE)
        typed = urwid.calc_width(f"> {self.input.edit_text} ", 0, len(self.input.edit_text) + 3)
        wrap: Any = "space" if typed <= share * max(1, columns - 8) else "clip"
        if self.input.wrap != wrap:
            self.input.set_wrap_mode(wrap)
        self._notice.set_text(f" {self.notice}"[: share * columns])
        widgets: list[Any] = [self._status_map, *([self._notice] if self.notice else []), self.input]
        if [widget for widget, _ in self._rows.contents] != widgets:
            self._rows.contents = [(widget, self._rows.options("pack")) for widget in widgets]
            self._rows.focus_position = len(widgets) - 1

    def keypress(self, size: Any, key: str) -> str | None:
        """Keys: Tab and Ctrl-N/P switch, PgUp/PgDn scroll, Enter sends, Ctrl-L draws anew; the rest is typing."""
        match key:
            case "tab" | "ctrl n":
                self._step(1)
            case "shift tab" | "ctrl p":
                self._step(-1)
            case "page up" | "page down":
                self.pane.scroll(self._pane_size(), key)
            case "end" if not self.input.edit_text:
                self.pane.to_end()
            case "esc":
                self._page = None
                self._draw_pane()
            case "ctrl u":
                self.input.set_edit_text("")
            case "enter":
                self._enter()
            case _:
                return super().keypress(size, key)
        return None

    def _pane_size(self) -> tuple[int, int]:
        columns, rows = self._size
        width = columns if self._narrow else max(1, columns - LIST_WIDTH - 1)
        return width, max(1, rows - 1 - self._rows.rows((columns,)))

    def _enter(self) -> None:
        text = self.input.edit_text.strip()
        self.input.set_edit_text("")
        self.notice = ""
        self._page = None
        if text:
            self.pane.to_end()
            self._on_line(text)

    def give_back(self, line: str) -> None:
        """What was entered could not be done: it is there to be mended, unless something new was typed."""
        if not self.input.edit_text:
            self.input.set_edit_text(line)
            self.input.set_edit_pos(len(line))

    def _step(self, by: int) -> None:
        self._page = None
        order = [chat.conv for chat in self._model.ordered()]
        if order:
            here = order.index(self._model.open) if self._model.open in order else (-1 if by > 0 else 0)
            self._on_switch(order[(here + by) % len(order)])

    def _item(self, chat: Conversation) -> urwid.Widget:
        unread = chat.unread(self._model.me)
        is_open = chat.conv == self._model.open
        mark = "▸" if is_open else " "
        count = f" ({unread})" if unread else ""
        name = urwid.Text(f"{mark}{plain(chat.name(self._model.me))}", wrap="ellipsis")
        # In a column of its own: the count must not be what an ellipsis hides.
        label = urwid.Columns([name, ("pack", urwid.Text(count))]) if unread else name
        return urwid.AttrMap(label, "open" if is_open else ("unread" if unread else None))

    def _members(self, chat: Conversation | None) -> str:
        return f"  ({len(chat.members)} members)" if chat and chat.kind == "group" and chat.members else ""

    def _draw_status(self, now: float) -> None:
        connection = self._model.connection
        words: str = connection.state
        if connection.retry_at is not None:
            why = f" ({plain(connection.reason)[:60]})" if connection.reason else ""
            words = f"offline, next try in {max(0, round(connection.retry_at - now))} s{why}"
        elif connection.state == "replaying":
            words = "catching up"
        waiting = self._model.waiting()
        queued = f" · {waiting} queued" if waiting else ""
        unread = self._model.unread_elsewhere() if self._narrow else 0
        elsewhere = f" · {unread} unread" if unread else ""  # wide screens have the list for it
        self._status.set_text(f" {self._model.me}{elsewhere} · {words}{queued}")
        tints: dict[Hashable, Hashable] = {None: "offline" if connection.state == "offline" else "status"}
        self._status_map.set_attr_map(tints)


def _markup(line: Line, me: str) -> list[str | tuple[str, str]]:
    clock = time.strftime("%H:%M", time.localtime(line.at / 1000)) if 0 < line.at < 2**41 else "--:--"
    if line.state == "notice":
        return [("faint", f"{clock} * {plain(line.text)}")]
    mine = line.sender == me
    tint = "own" if mine else "sender"
    parts: list[str | tuple[str, str]] = [
        ("faint", f"{clock} "),
        (tint, plain(line.sender)),
        f": {plain(line.text, lines=True)}",
    ]
    if line.marks:
        parts.append(("error" if line.state == "refused" else "faint", f"  {plain(line.marks)}"))
    if mine:
        parts.append(("faint", f" {STATES[line.state]}"))
    return parts
