"""The running terminal client: the model fed by the client library, the screen fed by the model.

Three tasks beside urwid's: facts into the model, errands (questions to the server, one at a time, from a bounded
queue), and the drawing, which happens after changes and once a second for the countdown. Ends on ``/quit``, or when
the server ends the session; then the reason is returned for printing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import urwid
from chatd_client import Client, ClientError, ConnectionChanged, Hole, SessionEnded, Stored
from chatd_protocol.messages import Event, Live

from chatd_terminal.commands import HELP, Command, Say, names, parse
from chatd_terminal.screen import PALETTE, Chat
from chatd_terminal.view_model import Model

PAGE = 100
MAX_ERRANDS = 64
DRAIN_S = 2.0
MAX_LIST_PAGES = 20
"""1000 conversations at 50 each: more are there, by name with ``/dm``, but not in the list."""

Errand = Callable[[], Awaitable[None]]


class Terminal:
    """One screen for one client. ``run`` it once."""

    def __init__(self, client: Client, me: str) -> None:
        self._client = client
        self._model = Model(me)
        self._screen = Chat(self._model, on_line=self._entered, on_switch=self._switch, ask_for_more=self._more)
        self._dirty = trio.Event()
        self._errands, self._todo = trio.open_memory_channel[Errand](MAX_ERRANDS)
        self._asked: set[tuple[str, int | None]] = set()
        self._quit = trio.CancelScope()
        self._ended = ""
        self._making = ""

    async def run(self) -> str:
        """Show the screen until the end. Returns why, empty for ``/quit``. Cancelling restores the terminal."""
        for item in self._client.pending():
            self._model.queued(item)
        events = urwid.TrioEventLoop()
        loop = urwid.MainLoop(self._screen, PALETTE, event_loop=events)
        with self._quit, loop.start():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._run_errands)
                nursery.start_soon(self._draw, loop)
                await events.run_async()
                nursery.cancel_scope.cancel()
        if not self._ended and self._client.state == "live":
            with trio.move_on_after(DRAIN_S):
                await self._client.drained()
        return self._ended

    # --- tasks ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        try:
            async for fact in self._client.events():
                self._model.apply(fact)
                if isinstance(fact, ConnectionChanged | Live):
                    self._reconcile()
                if isinstance(fact, Live):
                    self._asked.clear()
                    self._later(self._load_list)
                    self._more_if_empty()
                elif isinstance(fact, Event | Stored):
                    self._mark_read()
                    self._learn(fact.conv if isinstance(fact, Event) else fact.ack.conv)
                elif isinstance(fact, Hole):
                    self._asked.discard((fact.conv, None))
                    self._more_if_empty()
                self._dirty.set()
        except SessionEnded as error:
            self._ended = str(error)
            self._quit.cancel()

    async def _run_errands(self) -> None:
        async for errand in self._todo:
            try:
                await errand()
            except SessionEnded:
                return  # the facts say so too, and end the screen
            except ClientError as error:
                self._screen.note(str(error))
            self._dirty.set()

    async def _draw(self, loop: urwid.MainLoop) -> None:
        while True:
            self._dirty = trio.Event()
            self._screen.redraw(trio.current_time())
            loop.draw_screen()
            self._mark_read()
            with trio.move_on_after(1.0):
                await self._dirty.wait()

    # --- what the user does -------------------------------------------------------------------------

    def _entered(self, line: str) -> None:
        try:
            self._act(parse(line))
        except (ValueError, ClientError, OSError) as error:
            self._screen.note(str(error))
            self._screen.give_back(line)
        self._dirty.set()

    def _act(self, said: Say | Command) -> None:
        conv = self._model.open
        match said:
            case Say(text):
                self._say(conv, text)
            case Command("help"):
                self._screen.page("help", HELP)
            case Command("quit"):
                self._quit.cancel()
            case Command("dm", (name,)):
                self._switch(self._model.dm(names((name,))[0]).conv)
            case Command("group", (title, *members)):
                self._make_group(title, names(tuple(members)))
            case Command(name, arguments):
                if conv is None or conv.startswith("@"):
                    raise ValueError("open a group first: Tab, or /group TITLE NAME…")
                self._in_group(conv, name, arguments)

    def _in_group(self, conv: str, name: str, arguments: tuple[str, ...]) -> None:
        client = self._client
        match name:
            case "add":
                self._later(lambda: client.add(conv, names(arguments)))
            case "remove":
                self._later(lambda: client.remove(conv, names(arguments)))
            case "rename":
                self._later(lambda: client.rename(conv, " ".join(arguments)))
            case "leave":
                self._later(lambda: client.leave(conv))
            case "members":
                self._later(lambda: self._members(conv))

    def _make_group(self, title: str, members: list[str]) -> None:
        if self._making:
            raise ValueError(f"{self._making} is being made: one after the other")
        if self._model.connection.state != "live":
            raise ValueError("a new group needs the server: try again when it is back")
        self._making = title
        self._later(lambda: self._create(title, members, self._model.open))

    def _say(self, conv: str | None, text: str) -> None:
        if self._making:  # or it would go to the conversation that is still open
            raise ValueError(f"{self._making} is being made: Enter once more to write there")
        if conv is None:
            raise ValueError("no conversation is open: /dm NAME or /group TITLE NAME… begins one")
        self._model.queued(self._client.post(conv, text))

    def _switch(self, conv: str) -> None:
        self._model.open = conv
        self._more_if_empty()
        self._dirty.set()

    # --- errands ------------------------------------------------------------------------------------

    def _later(self, errand: Errand) -> None:
        try:
            self._errands.send_nowait(errand)
        except trio.WouldBlock:
            self._screen.note("too much is waiting for the server")

    def _reconcile(self) -> None:
        welcome = self._client.welcome
        if welcome is not None:
            self._model.reconcile(self._client.pending(), welcome.cseq)

    def _learn(self, conv: str) -> None:
        """Ask for the list once when a conversation begins whose name did not come with it."""
        live = self._model.connection.state == "live"  # before that, the list comes anyway
        if live and not self._model.conversations[conv].is_known() and (conv, 0) not in self._asked:
            self._asked.add((conv, 0))
            self._later(lambda: self._load_list(1))

    def _more_if_empty(self) -> None:
        chat = self._model.current()
        if chat is not None and (chat.oldest() is None or len(chat.events) < PAGE // 4):
            self._more()

    def _more(self) -> None:
        """Fetch what lies before the oldest line; each page is asked for once per connection."""
        chat = self._model.current()
        if chat is None or chat.complete or chat.conv.startswith("@") or not chat.last:
            return
        conv, before = chat.conv, chat.oldest()
        if (conv, before) not in self._asked:
            self._asked.add((conv, before))
            self._later(lambda: self._load_page(conv, before))

    async def _load_page(self, conv: str, before: int | None) -> None:
        try:
            self._model.paged(await self._client.history(conv, before=before, limit=PAGE))
        except ClientError:
            self._asked.discard((conv, before))
            raise

    async def _load_list(self, pages: int = MAX_LIST_PAGES) -> None:
        cursor = None
        for _ in range(pages):
            page = await self._client.conversations(cursor=cursor)
            self._model.listed(page.items)
            self._dirty.set()
            cursor = page.cursor
            if cursor is None:
                break
        if self._model.open is None and (order := self._model.ordered()):
            self._model.open = order[0].conv
        self._more_if_empty()

    async def _create(self, title: str, members: list[str], opened: str | None) -> None:
        """``opened``: what was open when it was asked for; whoever has gone elsewhere since is left there."""
        try:
            conv = await self._client.create(title, members)
        finally:
            self._making = ""
        chat = self._model.group(conv, title)
        if self._model.open == opened:
            self._switch(chat.conv)
        else:
            self._screen.note(f"{title} was made: Tab leads there")

    async def _members(self, conv: str) -> None:
        found = await self._client.members(conv)
        rows = [f"{one.user} ({one.role})" if one.role != "member" else one.user for one in found]
        self._screen.page(f"{len(rows)} members", "\n".join(rows))

    def _mark_read(self) -> None:
        """What is on screen has been read: the newest line, unless one has scrolled away from it."""
        chat = self._model.current()
        if chat is None or not self._screen.pane.following or chat.last not in chat.events or chat.last <= chat.read:
            return
        self._client.read(chat.conv, chat.last)
        self._model.read(chat.conv, chat.last)
