"""The running terminal client: the model fed by the client library, the screen fed by the model.

Tasks beside urwid's: facts into the model, errands to the server (``errands``, whose mailbox is bounded), completions,
and the drawing, which happens after changes, at most every DRAW_S, and once a second for the countdown. Keys and
clicks are handled at once and wait for nothing, so a bad line never stops the screen. Ends on ``/quit``, or when the
server ends the session; then the reason is returned for printing.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
import urwid
from chatd_client import Client, ClientError, ConnectionChanged, Hole, SendRefused, SessionEnded, Stored
from chatd_protocol.messages import Event, Live, Receipt

from chatd_terminal.completion import Cycle, Wanted, own_candidates
from chatd_terminal.deeds import Deeds
from chatd_terminal.display import Display
from chatd_terminal.errands import Errands
from chatd_terminal.input_line import SAY, Compose
from chatd_terminal.markup import Style
from chatd_terminal.names_file import read_names, write_names
from chatd_terminal.screen import Chat
from chatd_terminal.themes import palette
from chatd_terminal.typing_lease import TypingLease
from chatd_terminal.view_model import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chatd_client import Fact

    from chatd_terminal.account import Account
    from chatd_terminal.settings import Settings

DRAIN_S = 2.0
DRAW_S = 0.04
"""A flood of events is drawn 25 times a second, and not once for each."""
AWAY_S = 300.0
"""After so long without a key nobody is at the screen: nothing counts as read, and others see one as away."""


class Terminal:
    """One screen for one client. ``run`` it once."""

    def __init__(
        self, client: Client, me: str, settings: Settings, account: Account, directory: Path | None = None
    ) -> None:
        """``directory``: where names are kept."""
        self._client, self._settings, self._directory = client, settings, directory
        self._model = Model(me)
        self._dirty = trio.Event()
        self._screen = Chat(self._model, self)
        self._errands = Errands(client, self._model, self._screen, self._changed)
        self._errands.open_conversation = self._open_first
        self._errands.list_loaded = self._keep_names
        self._deeds = Deeds(client, self._model, self._screen, self._errands, account)
        self._quit = trio.CancelScope()
        self._deeds.quit, self._deeds.switch, self._deeds.orders.arrive = self._quit.cancel, self.switch, self._arrive
        self._lease = TypingLease()
        self._watched: list[str] = []
        self._stirred_at, self._focused = trio.current_time(), True
        self._ended = ""

    async def run(self) -> str:
        """Show the screen until the end. Returns why, empty for ``/quit``. Cancelling restores the terminal."""
        if self._directory is not None:
            self._model.remember(read_names(self._directory))
        for item in self._client.pending():
            self._model.queued(item)
        events = urwid.TrioEventLoop()
        display = Display(bracketed_paste_mode=True, focus_reporting=True)
        if self._settings.theme == "mono":
            display.set_terminal_properties(colors=1)
        loop = urwid.MainLoop(
            self._screen,
            palette(self._settings.theme),
            screen=display,
            event_loop=events,
            handle_mouse=self._settings.mouse,
        )
        with self._quit, loop.start():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._errands.run)
                nursery.start_soon(self._errands.run_completions)
                nursery.start_soon(self._draw, loop)
                nursery.start_soon(self._await_signals)
                await events.run_async()
                nursery.cancel_scope.cancel()
        self._keep_names()
        if not self._ended and self._client.state == "live":
            with trio.move_on_after(DRAIN_S):
                await self._client.drained()
        return self._ended

    # --- tasks ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        try:
            async for fact in self._client.events():
                self._take(fact)
                self._dirty.set()
        except SessionEnded as error:
            self._ended = str(error)
            self._quit.cancel()

    async def _await_signals(self) -> None:
        """Whoever ends the program from outside, or closes its window, gets an orderly end."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as received:
            async for _ in received:
                self._quit.cancel()

    def _take(self, fact: Fact) -> None:
        self._model.apply(fact)
        match fact:
            case Live():
                self._reconcile()
                self._watched = []
                self._errands.connected()
                current = self._model.current()
                if current is not None:
                    self._errands.opened(current)
            case ConnectionChanged():
                self._reconcile()
            case Event() | Stored():
                conv = fact.conv if isinstance(fact, Event) else fact.ack.conv
                self._mark_read()
                self._errands.learn(self._model.conversations[conv])
                if isinstance(fact, Event) and fact.kind == "joined" and fact.user == self._model.me:
                    self._errands.rejoined(self._model.conversations[conv])
            case SendRefused() if fact.item.fields["t"] != "send":
                self._screen.note(f"not done: {fact.message} ({fact.code})")
            case Receipt(user=user) if user == self._model.me:
                self._errands.learn(self._model.conversations[fact.conv])
            case Hole():
                self._errands.more_if_few()

    async def _draw(self, loop: urwid.MainLoop) -> None:
        while True:
            self._dirty = trio.Event()
            modes = getattr(loop.screen, "modes", None)
            self._screen.style = Style(clusters=getattr(modes, "grapheme_clustering", None) is True)
            self._model.silent_s = self._client.silent_s
            self._screen.redraw(trio.current_time())
            loop.draw_screen()
            self._look_around()
            await trio.sleep(DRAW_S)
            with trio.move_on_after(1.0):
                await self._dirty.wait()

    def _keep_names(self) -> None:
        """Names are a convenience: where they cannot be kept, the next start does without."""
        if self._directory is not None:
            with suppress(OSError):
                write_names(self._directory, self._model)

    def _changed(self) -> None:
        self._dirty.set()

    def _look_around(self) -> None:
        """What follows from what is on screen now: marks, whose presence is watched, and whether anybody is here."""
        self._mark_read()
        self._client.set_active(self._is_here())
        self._say_typing("", only_if_over=True)
        chat = self._model.current()
        if chat is not None and self._screen.pane.following:
            chat.trim()
        watched = self._model.watched()
        if self._client.state == "live" and watched != self._watched:
            self._watched = watched
            self._client.watch(watched)

    def _is_here(self) -> bool:
        return trio.current_time() - self._stirred_at < AWAY_S

    def _mark_read(self) -> None:
        """What is on screen has been read: the newest line, unless one has scrolled away from it, or is not there."""
        chat = self._model.current()
        if chat is None or not self._screen.shows_end() or not (self._is_here() and self._focused):
            return
        if chat.last in chat.log.events and chat.last > chat.read:
            self._client.read(chat.conv, chat.last)
            chat.move_read(chat.last)

    def _reconcile(self) -> None:
        welcome = self._client.welcome
        if welcome is not None:
            self._model.reconcile(self._client.pending(), welcome.cseq)

    # --- actions: what the user does ----------------------------------------------------------------

    def entered(self, line: str, compose: Compose) -> None:
        """A line was entered; where it cannot be done it is given back to be mended."""
        try:
            self._deeds.act(line, compose)
        except (ValueError, ClientError, OSError) as error:
            self._screen.note(str(error))
            self._screen.give_back(line, compose)
        self._dirty.set()

    def on_message(self, key: str, chosen: tuple[int, str]) -> None:
        """A key on a message that was chosen."""
        if chosen[0]:
            self._attempt(lambda: self._deeds.on_message(key, chosen[0]))
        else:
            self._attempt(lambda: self._deeds.on_unsent(key, chosen[1]))

    def edit_earlier(self, before: int | None) -> None:
        """Edit one's own newest message, or the one before ``before``."""
        self._deeds.edit_earlier(before)

    def edit_later(self, after: int) -> None:
        """Edit one's own next message, or nothing more."""
        self._deeds.edit_later(after)

    def confirmed(self, deed: Callable[[], None]) -> None:
        """Do what was asked about."""
        self._attempt(deed)

    def _attempt(self, deed: Callable[[], None]) -> None:
        try:
            deed()
        except (ValueError, ClientError, OSError) as error:
            self._screen.note(str(error))
        self._dirty.set()

    def switch(self, conv: str) -> None:
        """Open a conversation; what is half typed waits in the one before."""
        self._screen.input.leave(self._model.open)
        self._model.show(conv)
        others = self._model.conversations[conv].others()
        self._screen.input.enter(conv, f"@{others[0]}" if others else conv)
        self._opened(conv)

    def _open_first(self, conv: str) -> None:
        """Open one at the start, under what is being typed: a command stays, a message was not meant for it."""
        if self._screen.input.edit_text[:1] in {"", "/"} and self._screen.input.compose is SAY:
            self._model.show(conv)
            self._errands.opened(self._model.conversations[conv])
            self._errands.fetch_quotes()

    def _arrive(self, conv: str) -> None:
        """Open a group just made: what was typed meanwhile was typed for it."""
        self._model.show(conv)
        self._opened(conv)

    def _opened(self, conv: str) -> None:
        self._screen.close()
        self._errands.opened(self._model.conversations[conv])
        self._errands.fetch_quotes()
        self._dirty.set()

    def older(self) -> None:
        """The top is in sight."""
        self._errands.older()

    def newer(self) -> None:
        """The end of what is known around an older message is in sight."""
        self._errands.newer()

    def to_end(self) -> None:
        """Back to the newest message."""
        chat = self._model.current()
        if chat is not None and chat.anchor is not None:
            chat.anchor = None
            chat.version += 1
            self._errands.more_if_few()

    def picked(self, place: tuple[str, int]) -> None:
        """Go to a message that was found."""
        if self._model.open != place[0] or self._model.thread is not None:
            self.switch(place[0])
        self._errands.jump(*place)
        self._dirty.set()

    def more_picks(self) -> None:
        """The end of what was found is in sight."""
        self._errands.more_hits()

    def leave(self) -> None:
        """End the program."""
        self._quit.cancel()

    def left_thread(self) -> None:
        """Back to the whole conversation."""
        self._model.thread = None

    def complete(self, asked: Wanted) -> None:
        """What is known here stands there at once; what the server knows comes behind it."""
        chat = self._model.current()
        names = self._model.names()
        if asked.kind == "mention" and chat is not None and chat.members:
            names = chat.others()
        titles = [one.title for one in self._model.ordered() if one.title]
        cycle = Cycle(asked, own_candidates(asked, names, titles))
        self._screen.completing(cycle)
        if asked.kind in {"name", "mention", "conversation", "device"}:
            self._errands.complete(cycle)

    def typed(self, text: str) -> None:
        """Tell the others that one types, where it is a message."""
        self._say_typing(text)

    def _say_typing(self, text: str, *, only_if_over: bool = False) -> None:
        conv, compose = self._model.open, self._screen.input.compose
        is_message = compose.kind in {"say", "reply"} and bool(text.strip()) and text[:1] != "/"
        known = conv if conv is not None and not conv.startswith("@") else None
        now = trio.current_time()
        said = self._lease.lapsed(now, known) if only_if_over else self._lease.typed(now, known, is_message)
        for where, on in said:
            self._client.typing(where, on)

    def stirred(self, *, focused: bool | None = None) -> None:
        """Somebody is there."""
        self._focused = self._focused if focused is None else focused
        if focused is not False:
            self._stirred_at = trio.current_time()
        self._dirty.set()

    def hurry(self) -> None:
        """Enter on an empty line: try to connect at once."""
        if self._model.connection.state == "offline":
            self._client.hurry()
