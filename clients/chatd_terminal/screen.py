"""The whole screen: list, messages, status, input. Draws what the model says, and turns keys and clicks into actions.
Owns no state of the conversation, only what is focused, scrolled, chosen and typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import urwid

from chatd_terminal.completion import Cycle, wanted
from chatd_terminal.headings import is_silent, status_text, title_text
from chatd_terminal.help_text import FIRST_STEPS, HELP
from chatd_terminal.input_line import SAY, InputLine
from chatd_terminal.keys import (
    EMPTIED,
    NOTE_S,
    ON_MESSAGE,
    READ_S,
    SCROLLING,
    SELECTING,
    UNSENT,
    Question,
    behind_escape,
)
from chatd_terminal.markup import Style
from chatd_terminal.message_pane import MessagePane
from chatd_terminal.paste import Paste
from chatd_terminal.plain_text import plain
from chatd_terminal.side_panes import ListPane, PickPane
from chatd_terminal.words import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from chatd_terminal.actions import Actions
    from chatd_terminal.input_line import Compose
    from chatd_terminal.markup import Markup
    from chatd_terminal.view_model import Model

LIST_WIDTH = 26
NARROW = 60
"""Columns below which the list would leave no room for the messages: then it is hidden."""
INPUT_SHARE = 3
"""The input and the notice each take at most one in so many rows: a long line must not push the messages away."""
NEWEST = 300
"""Events drawn while nothing is scrolled: more than any screen shows."""


class Chat(urwid.Frame[Any, Any, Any]):
    """See the module's docstring."""

    def __init__(self, model: Model, actions: Actions) -> None:
        self._model, self._actions = model, actions
        self.style = Style()
        self.pane = MessagePane(actions.older, actions.newer)
        self.picks = PickPane(actions.more_picks, actions.picked)
        self.input = InputLine()
        self.cycle: Cycle | None = None
        self.notice = ""
        self.turn = self.asked_in = 0
        self._list = ListPane(actions.switch)
        self._status = urwid.Text("", wrap="ellipsis")
        self._status_map = urwid.AttrMap(self._status, "status")
        self._notice = urwid.Text("")
        self._title = urwid.Text("", wrap="ellipsis")
        self._main: urwid.WidgetPlaceholder[Any] = urwid.WidgetPlaceholder(self.pane)
        self._page: tuple[str, str] | None = None
        self._pick_title = ""
        self._question: Question | None = None
        self._paste = Paste()
        self._drawn: tuple[object, ...] | None = None
        self._narrow: bool | None = None
        self._now = 0.0
        self._noted = ("", 0.0)
        self._input_box = urwid.ListBox(urwid.SimpleFocusListWalker([self.input]))
        self._rows: urwid.Pile = urwid.Pile([self._status_map, (1, self._input_box)], focus_item=1)
        header = urwid.AttrMap(self._title, "status")
        super().__init__(self.pane, header=header, footer=self._rows, focus_part="footer")

    # --- drawing ------------------------------------------------------------------------------------

    def redraw(self, now: float) -> None:
        """Bring the widgets up to the model. ``now``: Trio's clock, for the next try."""
        self._take_pasted()  # also where the end of a paste was lost
        self._draw_pane()
        self._let_go(now, NOTE_S)
        self._hint()
        self._list.show(self._model, self.style, self.input.has_draft)
        self._now, self.input.clusters = now, self.style.clusters
        self._draw_status()
        offline = self._model.connection.state == "offline" or is_silent(self._model)
        tints: dict[Hashable, Hashable] = {None: "offline" if offline else "status"}
        self._status_map.set_attr_map(tints)

    def _let_go(self, now: float, after_s: float) -> None:
        """A notice that has stood there so long goes; a question, a choice and a hint stay."""
        if self._noted[0] != self.notice:
            self._noted = self.notice, now
        stays = self._question is not None or self.cycle is not None or self.notice in {SELECTING, UNSENT}
        if not stays and now - self._noted[1] >= after_s:
            self.notice = ""

    def _draw_status(self) -> None:
        self._status.set_text(status_text(self._model, self.style, self._now, alone=bool(self._narrow)))

    def _draw_pane(self) -> None:
        chat = self._model.current()
        if self._pick_title:
            self._title.set_text(f" {self._pick_title} · Enter: go there · Esc: back")
        elif self._page is not None:
            self._draw_page(*self._page)
        elif chat is None:
            self._draw_page("chatd", FIRST_STEPS)
        else:
            whole = not self.pane.following
            drawn = (chat.conv, self._model.thread, chat.anchor, chat.version, whole, self.pane.selected, self.style)
            if drawn != self._drawn:
                again = self._drawn is not None and self._drawn[:2] == drawn[:2]
                lines = chat.lines(self._model.thread, None if whole else NEWEST)
                self.pane.show(lines, self._model.me, self.style, again=again)
                self._drawn = drawn
            self._title.set_text(title_text(self._model, chat, self.style))

    def _draw_page(self, title: str, text: str) -> None:
        if self._drawn != (title, text):
            self._drawn = (title, text)
            self.pane.show_page(text)
            self._title.set_text(f" {title}")

    def note(self, text: str) -> None:
        """Say something above the input, for NOTE_S, or until a key is pressed after there was time to read it."""
        self.notice, self._noted = plain(readable(text)), ("", 0.0)

    def page(self, title: str, text: str) -> None:
        """Show a text of any length in place of the messages, until Esc, Enter or another conversation."""
        self.close()
        self._page = (f"{title} · PgUp, PgDn: scroll · Esc: back", text)

    def show_answer(self, title: str, text: str) -> None:
        """The same for an answer of the server's, where nothing else was begun since it was asked for."""
        if self._is_wanted():
            self.page(title, text)

    def _is_wanted(self) -> bool:
        """On a bad line an answer may come long after: then it must not push away what is there now."""
        if self.asked_in != self.turn:
            self.note("an answer came late, when you had gone on: ask again")
        return self.asked_in == self.turn

    def list_picks(self, title: str, rows: Sequence[tuple[Markup, tuple[str, int]]], *, more: bool = False) -> None:
        """Show lines to choose from; ``more``: further ones of the same list."""
        if (more and not self._pick_title) or not (more or self._is_wanted()):
            return
        if not more:
            self.close()
        self._pick_title = title
        self.picks.fill(rows, more=more)
        self._main.original_widget = self.picks

    def close(self) -> None:
        """Back to the messages."""
        self.turn += 1
        self._page, self._pick_title = None, ""
        self._main.original_widget = self.pane

    def choose(self, seq: int) -> None:
        """Bring a message into sight and choose it, wherever it stands in what is known."""
        self.close()
        self._draw_pane()
        self.pane.following = False
        self._draw_pane()
        if not self.pane.choose((seq, "")):
            self.note("that message is not there any more")
        self._hint()

    def shows_end(self) -> bool:
        """Whether the newest message of the open conversation is in sight."""
        chat = self._model.current()
        hidden = self._page is not None or bool(self._pick_title) or self._model.thread is not None
        return self.pane.following and not hidden and chat is not None and chat.anchor is None

    def ask(self, question: str, yes: Callable[[], None], no: Callable[[], None] | None = None) -> None:
        """Ask before something that cannot be undone. What was typed before the question was seen is no answer, and no
        message.
        """
        self._question = Question(yes, no)
        self.note(f"{question} y/N")

    def begin(self, compose: Compose, text: str = "") -> None:
        """Compose a reply or an edit."""
        self.pane.release()
        self._hint()
        self.input.begin(compose, text)

    def give_back(self, line: str, compose: Compose = SAY) -> None:
        """What was entered could not be done: it is there to be mended, unless something new was typed."""
        if not self.input.edit_text:
            self.input.begin(compose, line)

    def render(self, size: Any, focus: bool = False) -> urwid.CompositeCanvas:
        """Lay out for this width: narrow screens show the messages only."""
        narrow = size[0] < NARROW
        if narrow != self._narrow:
            self._narrow = narrow
            self._draw_status()
            columns = urwid.Columns([(LIST_WIDTH, self._list), (1, urwid.SolidFill("│")), self._main])
            self.body = self._main if narrow else columns
        self._fit(*size)
        if self._question is not None:
            self._question.seen = True
        return super().render(size, focus)

    def _fit(self, columns: int, rows: int) -> None:
        """Input that is too long for its share scrolls within it, a notice is cut."""
        share = max(1, rows // INPUT_SHARE)
        self._notice.set_text(f" {self.notice}"[: share * columns])
        height = min(share, max(1, self.input.rows((columns,), True)))
        pack, given = self._rows.options("pack"), self._rows.options("given", height)
        contents: list[Any] = [(self._status_map, pack), (self._input_box, given)]
        if self.notice:
            contents.insert(1, (self._notice, pack))
        if list(self._rows.contents) != contents:
            self._rows.contents = contents
            self._rows.focus_position = len(contents) - 1

    # --- keys ---------------------------------------------------------------------------------------

    def mouse_event(self, size: Any, event: str, button: int, col: int, row: int, focus: bool) -> bool | None:
        """Whatever was clicked, the keyboard stays with the input."""
        self._actions.stirred()
        handled = super().mouse_event(size, event, button, col, row, focus)
        self.focus_position = "footer"
        self._hint()
        return handled

    def keypress(self, size: Any, key: str) -> str | None:
        """What is pasted is text; a question takes its answer; then lists, a chosen message, and the input."""
        if key in {"focus in", "focus out"}:
            self._actions.stirred(focused=key == "focus in")
            return None
        self._actions.stirred()
        if self._paste.takes(key):
            return None
        self._take_pasted()
        if self._question is not None:
            self._answer(self._question.answered(key))
            return None
        if key != "tab":
            self.cycle = None
        self._let_go(self._now, READ_S)
        behind = behind_escape(key, composing=self.input.compose is not SAY, elsewhere=self._is_elsewhere())
        if behind is not None:
            self._escape()
            key = behind
        typed = self.input.edit_text
        handled = self._special(key) or (self.pane.selected is not None and self._on_chosen(key))
        left = None if handled or self._plain_key(key) else super().keypress(size, key)
        if self.input.edit_text != typed:
            self._actions.typed(self.input.edit_text)
        return left

    def _is_elsewhere(self) -> bool:
        """Whether there is something that Esc leads back from, besides what is being composed."""
        page = self._page is not None or bool(self._pick_title)
        return page or self.pane.selected is not None or self._model.thread is not None

    def _answer(self, deed: Callable[[], None] | None) -> None:
        if deed is not None:
            self._question, self.notice = None, ""
            self._actions.confirmed(deed)

    def _take_pasted(self) -> None:
        """Pasted lines stay together: none is sent by the newline at its end."""
        if text := self._paste.taken():
            self.input.insert_text(text)
            self._actions.typed(self.input.edit_text)

    def _special(self, key: str) -> bool:
        """Keys that mean the same wherever one is."""
        match key:
            case "ctrl n" | "ctrl p":
                self._step(1 if key == "ctrl n" else -1)
            case "f1":
                self.page("help", HELP)
            case "ctrl up" | "meta up" | "f2":
                self._choose(-1)
            case "ctrl down" | "meta down":
                self._choose(1)
            case "esc":
                self._escape()
            case "ctrl c":
                self._interrupt()
            case _ if key in SCROLLING:
                self.picks.move(key) if self._pick_title else self.pane.scroll(key)
            case _:
                return False
        return True

    def _plain_key(self, key: str) -> bool:
        """Keys that are for the input once something is typed."""
        untouched, empty = self.input.is_untouched(), not self.input.edit_text
        match key:
            case "enter":
                self._enter()
            case "tab":
                self._tab()
            case "shift tab" if empty:
                self._step(-1)
            case "end" if empty:
                self._to_end()
            case "up" | "down" if self._pick_title and empty:
                self.picks.move(key)
            case "up" if untouched and self.input.compose.kind in {"say", "edit"}:
                self._actions.edit_earlier(self.input.compose.seq or None)
            case "down" if untouched and self.input.compose.kind == "edit":
                self._actions.edit_later(self.input.compose.seq)
            case "ctrl u" if self.input.compose.kind == "edit":
                self.input.begin(SAY, "")
            case _:
                return False
        return True

    def _on_chosen(self, key: str) -> bool:
        """A message is chosen: letters are about it, and not typed."""
        selected, self.notice = self.pane.selected, ""
        if key in {"up", "down"}:
            self._choose(-1 if key == "up" else 1)
        elif key in ON_MESSAGE and selected is not None:
            self._actions.on_message(key, selected)
            self._hint()
        elif key == "/" or len(key) > 1:
            self.pane.release()
            return False
        return True

    def _choose(self, by: int) -> None:
        self.close()
        self._draw_pane()
        self.pane.step(by)
        self._hint()

    def _hint(self) -> None:
        selected = self.pane.selected
        if selected is not None and self.notice in {"", SELECTING, UNSENT}:
            self.notice = SELECTING if selected[0] else UNSENT
        elif selected is None and self.notice in {SELECTING, UNSENT}:
            self.notice = ""

    def _escape(self) -> None:
        """One step back: from the choice, the list or page, the reply or edit, the thread."""
        self.notice = ""
        if self.pane.selected is not None:
            self.pane.release()
        elif self._pick_title or self._page is not None:
            self.close()
        elif self.input.compose is not SAY:
            self.input.begin(SAY, "")
        elif self._model.thread is not None:
            self._actions.left_thread()
        elif not self.pane.following:
            self._to_end()
        self._draw_pane()

    def _interrupt(self) -> None:
        """Ctrl-C: what is typed goes; where nothing is, the program ends."""
        if self.input.edit_text or self.input.compose is not SAY:
            self.input.begin(SAY, "")
            self.notice = "" if self.pane.selected is None else self.notice
        else:
            self._actions.leave()

    def _to_end(self) -> None:
        self._actions.to_end()
        self.pane.to_end()

    def _enter(self) -> None:
        if self.input.compose.kind == "secret":
            self._enter_secret()
            return
        text, compose = self.input.edit_text.strip(), self.input.compose
        if not text and self._pick_title:
            self.picks.choose()
            return
        self.notice = ""
        if not text and compose.kind == "edit":
            self.note(EMPTIED)
            return
        if not text:
            self.close()
            self._actions.hurry()
            return
        self.input.begin(SAY, "")
        self.close()
        self.pane.to_end()
        self._actions.entered(text, compose)

    def _enter_secret(self) -> None:
        """Blanks belong to a password; no answer ends the dialog."""
        text, compose = self.input.edit_text.rstrip("\r\n"), self.input.compose
        self.input.begin(SAY, "")
        self.notice = "" if text else "nothing is changed"
        if text:
            self._actions.entered(text, compose)

    def _tab(self) -> None:
        if self.input.compose.kind == "secret":
            return
        if not self.input.edit_text:
            self._step(1)
        elif self.cycle is not None:
            self.input.put(*self.cycle.following())
        else:
            reacting = self.input.compose.kind == "react"
            asked = wanted(self.input.edit_text, self.input.edit_pos, reacting=reacting)
            if asked is not None:
                self._actions.complete(asked)

    def completing(self, cycle: Cycle) -> None:
        """Take up a completion: its first step, and what there is to choose from."""
        self.cycle = cycle
        self.input.put(*cycle.first())
        self.note(cycle.shown())

    def _step(self, by: int) -> None:
        order = [chat.conv for chat in self._model.ordered()]
        if order:
            here = order.index(self._model.open) if self._model.open in order else (-1 if by > 0 else 0)
            self._actions.switch(order[(here + by) % len(order)])
