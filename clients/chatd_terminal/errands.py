"""Errands: what is asked of the server while the screen goes on.

Owns two mailboxes. Errands are done one after the other, at most MAX_ERRANDS wait, and one too many is refused with
words for the user; completions are looked up beside them, and only the newest waits, for an older one is of no use any
more. An errand waits for its answer however long the line is bad; the screen never waits for one. Ends with its
nursery, or when the session ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from chatd_client import ClientError, Refused, SessionEnded
from chatd_protocol.codec import Malformed

from chatd_terminal.completion import Cycle
from chatd_terminal.markup import hit_markup

if TYPE_CHECKING:
    from chatd_client import Client, MessageNow

    from chatd_terminal.chat import Chat
    from chatd_terminal.commands import Query
    from chatd_terminal.screen import Chat as Screen
    from chatd_terminal.view_model import Model

PAGE = 100
MAX_ERRANDS = 64
MAX_LIST_PAGES = 20
"""1000 conversations at 50 each: more are there, by name with ``/dm``, but not in the list."""
MAX_QUOTES = 20
"""Quoted messages fetched for one screen."""

Errand = Callable[[], Awaitable[None]]


class Errands:
    """See the module's docstring. ``changed`` is called when there is something to draw."""

    def __init__(self, client: Client, model: Model, screen: Screen, changed: Callable[[], None]) -> None:
        self._client, self._model, self._screen, self._changed = client, model, screen, changed
        self._give, self._todo = trio.open_memory_channel[tuple[Errand, int]](MAX_ERRANDS)
        self._asked: set[tuple[object, ...]] = set()
        self._threads: dict[tuple[str, int], int] = {}
        self._sought: Cycle | None = None
        self._wake = trio.Event()
        self._query: tuple[Query, str | None] | None = None
        self._cursor: str | None = None
        self.list_loaded: Callable[[], None] = changed
        self.open_conversation: Callable[[str], None] = model.show

    # --- the actor ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do the errands, one after the other."""
        async for errand, turn in self._todo:
            self._screen.asked_in = turn
            await self._do(errand)

    async def run_completions(self) -> None:
        """Look up what Tab asks for; the newest only."""
        while True:
            while self._sought is None:
                self._wake = trio.Event()
                await self._wake.wait()
            cycle, self._sought = self._sought, None
            await self._do(lambda cycle=cycle: self._complete(cycle))  # type: ignore[misc]

    async def _do(self, errand: Errand) -> None:
        try:
            await errand()
        except SessionEnded:
            return  # the facts say so too, and end the screen
        except (ClientError, Malformed) as error:
            self._screen.note(error.message if isinstance(error, Refused) and error.message else str(error))
        self._changed()

    def later(self, errand: Errand) -> None:
        """Do this when it is its turn."""
        try:
            self._give.send_nowait((errand, self._screen.turn))
        except trio.WouldBlock:
            self._screen.note("too much is waiting for the server")

    def once(self, key: tuple[object, ...], errand: Errand) -> None:
        """Do this, unless it was done already on this connection."""
        if key not in self._asked:
            self._asked.add(key)
            self.later(lambda: self._again_if_lost(key, errand))

    async def _again_if_lost(self, key: tuple[object, ...], errand: Errand) -> None:
        try:
            await errand()
        except ClientError:
            self._asked.discard(key)
            raise

    def connected(self) -> None:
        """A new connection is live: whatever was asked before may be out of date."""
        self._asked.clear()
        self._threads.clear()
        self.later(self._begin)
        self.more_if_few()

    def complete(self, cycle: Cycle) -> None:
        """Look up what the server knows for this completion."""
        if self._model.connection.state == "live":
            self._sought = cycle
            self._wake.set()

    # --- the list, and what is open -------------------------------------------------------------------

    async def load_list(self, pages: int = MAX_LIST_PAGES) -> None:
        """Fetch the list."""
        cursor = None
        for _ in range(pages):
            page = await self._client.conversations(cursor=cursor)
            self._model.listed(page.items)
            self._changed()
            cursor = page.cursor
            if cursor is None:
                self._model.forget_unlisted()
                break
        self.list_loaded()
        self.more_if_few()

    async def _begin(self) -> None:
        """At the beginning the latest conversation is opened. Later none opens by itself: it would count as read."""
        await self.load_list()
        if self._model.open is None and (order := self._model.ordered()):
            self.open_conversation(order[0].conv)

    def learn(self, chat: Chat) -> None:
        """Ask for the list where a conversation has no name yet, or a number that only the server knows."""
        if self._model.connection.state != "live":  # the list comes anyway
            return
        if not chat.is_known():
            self.once((chat.conv, "name"), lambda: self.load_list(1))
        elif chat.doubtful:
            chat.doubtful = False
            self.later(lambda: self.load_list(1))

    def rejoined(self, chat: Chat) -> None:
        """Back in a group: its title and its members may have changed meanwhile."""
        if self._model.connection.state != "live":  # all of it is asked anyway
            return
        self._asked.discard((chat.conv, "members"))
        self.later(lambda: self.load_list(1))
        if self._model.open == chat.conv:
            self.opened(chat)

    def opened(self, chat: Chat) -> None:
        """A conversation was opened: who is in it, and its newest page."""
        if not chat.conv.startswith("@"):
            self.once((chat.conv, "members"), lambda: self._load_members(chat.conv))
        self.more_if_few()

    async def _load_members(self, conv: str) -> None:
        self._model.joined_by(conv, await self._client.members(conv))

    def more_if_few(self) -> None:
        """Fetch a page where the open conversation shows less than a screen."""
        chat = self._model.current()
        if chat is not None and self._model.thread is None:
            shown = chat.shown()
            if shown is None or len(shown) < PAGE // 4:
                self.older()

    def older(self) -> None:
        """Fetch what lies before the oldest line; each page is asked for once on a connection."""
        chat = self._model.current()
        if chat is None or chat.conv.startswith("@") or not chat.last:
            return
        conv, root = chat.conv, self._model.thread
        if root is not None:
            before = self._threads.get((conv, root))
            if before != 0:
                self.once((conv, root, before), lambda: self._load_thread(conv, root, before))
        elif not (chat.complete and chat.anchor is None):
            before = chat.oldest()
            self.once((conv, before), lambda: self._load_page(conv, before))

    def newer(self) -> None:
        """Fetch what comes after what is shown around an older message."""
        chat = self._model.current()
        shown = chat.shown() if chat is not None else None
        if chat is not None and chat.anchor is not None and shown:
            conv, after = chat.conv, shown[-1]
            self.once((conv, "after", after), lambda: self._load_after(conv, after))

    async def _load_page(self, conv: str, before: int | None) -> None:
        self._model.paged(await self._client.history(conv, before=before, limit=PAGE))
        self.fetch_quotes()

    async def _load_after(self, conv: str, after: int) -> None:
        self._model.paged(await self._client.history(conv, after=after, limit=PAGE), back=False)

    async def _load_thread(self, conv: str, root: int, before: int | None) -> None:
        page = await self._client.thread(conv, root, before=before, limit=PAGE)
        self._model.found(page.messages)
        lowest = min((now.event.seq for now in page.messages), default=0)
        self._threads[conv, root] = lowest if page.more and lowest > root else 0

    def fetch_quotes(self) -> None:
        """Fetch what is quoted on screen and not known."""
        chat = self._model.current()
        for seq in chat.quoted_unknown()[-MAX_QUOTES:] if chat is not None else ():
            self.once((chat.conv, "quote", seq), lambda seq=seq: self._load_quote(chat.conv, seq))  # type: ignore[misc, union-attr]

    async def _load_quote(self, conv: str, seq: int) -> None:
        try:
            page = await self._client.thread(conv, seq, after=seq - 1, limit=1)
        except Refused:
            return  # it lies before one's own time there
        self._model.found(now for now in page.messages if now.event.seq == seq)

    # --- finding ------------------------------------------------------------------------------------

    def search(self, query: Query, conv: str | None) -> None:
        """Show a page of hits."""
        self._query, self._cursor = (query, conv), None
        self.later(lambda: self._search(more=False))

    def more_hits(self) -> None:
        """The next page of the same search."""
        if self._query is not None and self._cursor is not None:
            self.once(("hits", self._cursor), lambda: self._search(more=True))

    async def _search(self, *, more: bool) -> None:
        if self._query is None:
            return
        query, conv = self._query
        found = await self._client.search(
            query.words,
            conv=conv,
            sender=query.sender,
            before=query.before,
            after=query.after,
            order=query.order,
            cursor=self._cursor,
        )
        self._cursor = found.cursor
        words = tuple(word.strip('"*') for word in query.words.split() if word.strip('"*'))
        rows = len(found.messages)
        if not rows and not more:
            self._screen.note("nothing found")
            return
        count = f"{rows}{' and more' if found.cursor else ''} found"
        self._show_picks(count, found.messages, words, more=more)

    async def pins(self, conv: str) -> None:
        """Show what is pinned."""
        pinned = await self._client.pins(conv)
        self._query = None
        if pinned:
            self._show_picks(f"{len(pinned)} pinned", pinned, ())
        else:
            self._screen.note("nothing is pinned here")

    def _show_picks(
        self, title: str, found: tuple[MessageNow, ...], words: tuple[str, ...], *, more: bool = False
    ) -> None:
        self._model.found(found)
        rows = []
        for now in found:
            chat = self._model.conversations[now.event.conv]
            if (message := chat.log.message(now.event.seq)) is not None:
                style = self._screen.style
                rows.append((hit_markup(message, chat, words, style), (message.conv, message.seq)))
        self._screen.list_picks(title, rows, more=more)

    def jump(self, conv: str, seq: int) -> None:
        """Show the log around a message of the open conversation, and choose it."""
        chat = self._model.conversations[conv]
        end = chat.log.end()
        chat.anchor = None if end is not None and seq in end else seq
        chat.version += 1
        if chat.anchor is None:
            self._screen.choose(seq)
        else:
            self.later(lambda: self._around(conv, seq))

    async def _around(self, conv: str, seq: int) -> None:
        page = await self._client.history(conv, before=seq + PAGE // 2, limit=PAGE)
        self._model.paged(page)
        if self._model.open == conv:
            self._screen.choose(seq)
            self.fetch_quotes()

    async def _complete(self, cycle: Cycle) -> None:
        asked = cycle.asked
        conv = self._model.open if asked.kind == "mention" else None
        if asked.kind == "device":
            more = [one.device for one in await self._client.devices() if one.device.startswith(asked.text)]
        elif not asked.text or (conv is not None and conv.startswith("@")):
            return
        else:
            found = await self._client.find(asked.text, conv=conv)
            titles = [item.title for item in found.items if item.title]
            more = titles if asked.kind == "conversation" else list(found.users)
        if self._screen.cycle is cycle:
            nothing = not cycle.candidates
            cycle.add(more)
            if nothing:
                self._screen.completing(cycle)
            else:
                self._screen.note(cycle.shown())
