"""What the user does with lines and keys: messages, changes to messages, and commands. None of it waits.

Messages, edits, deletes and reactions go through the outbox, and may be made without a connection. The rest is asked of
the server (``orders``, ``errands``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatd_terminal.browser import open_link, opener
from chatd_terminal.chat import body_text
from chatd_terminal.commands import Command, Say, mentions, names, parse, query
from chatd_terminal.emoji import QUICK, emoji
from chatd_terminal.help_text import HELP
from chatd_terminal.input_line import SAY, Compose
from chatd_terminal.markup import links
from chatd_terminal.orders import Orders
from chatd_terminal.password_dialog import PasswordDialog
from chatd_terminal.plain_text import plain

if TYPE_CHECKING:
    from chatd_client import Client, Message

    from chatd_terminal.account import Account
    from chatd_terminal.chat import Chat
    from chatd_terminal.errands import Errands
    from chatd_terminal.screen import Chat as Screen
    from chatd_terminal.view_model import Model

IN_GROUP = {"add", "remove", "role", "rename", "leave", "members"}
MAX_ASKED = 200
"""Characters of a link in a question: a longer one might not be seen whole."""
ABOUT_MESSAGE = {"edit", "delete", "react", "thread", "pin", "unpin", "reply"}


class Deeds:
    """See the module's docstring. All raise ValueError, with words for the user, for what cannot be done."""

    def __init__(self, client: Client, model: Model, screen: Screen, errands: Errands, account: Account) -> None:
        self._client, self._model, self._screen, self._errands = client, model, screen, errands
        self.orders = Orders(client, model, screen, errands, account)
        self._password = PasswordDialog(screen, self.orders.change_password)
        self.quit: Callable[[], None] = screen.close
        self.switch: Callable[[str], None] = model.show

    def act(self, line: str, compose: Compose) -> None:
        """A line was entered. Also raises ClientError and OSError, from the outbox."""
        if compose.kind == "secret":
            self._password.entered(line)
            return
        if compose.kind == "edit":
            self._edit(self._chat(), compose.seq, line)
            return
        if compose.kind == "react":
            self._react(self._chat(), self._message(compose.seq), emoji(line))
            return
        match parse(line):
            case Say(text):
                self._say(text, compose)
            case Command(name, arguments) if name in IN_GROUP:
                self.orders.in_group(self._group(), name, arguments)
            case Command(name, arguments) if name in ABOUT_MESSAGE:
                self._about_message(name, arguments)
            case Command(name, arguments):
                self._command(name, arguments)

    # --- messages -------------------------------------------------------------------------------------

    def _say(self, text: str, compose: Compose) -> None:
        if self.orders.making:  # or it would go to the conversation that is still open
            raise ValueError(f"{self.orders.making} is being made: Enter once more to write there")
        chat = self._model.current()
        if chat is None:
            raise ValueError("no conversation is open: /dm NAME or /group TITLE NAME… begins one")
        reply_to = compose.seq if compose.kind == "reply" else self._model.thread
        named = mentions(text, chat.members)
        self._model.queued(self._client.post(chat.conv, text, reply_to=reply_to, mentions=named))

    def _edit(self, chat: Chat, seq: int, text: str) -> None:
        message = chat.log.message(seq)
        if message is None or body_text(message.body) != text:
            self._model.queued(self._client.post_edit(chat.conv, seq, text))

    def edit_earlier(self, before: int | None) -> None:
        """Take one's own newest text, or the one before ``before``, into the input."""
        chat = self._model.current()
        own = self._own_text(chat, before) if chat is not None else None
        if own is not None:
            self._begin_edit(own)

    def edit_later(self, after: int) -> None:
        """The same for one's own next text behind ``after``; none: the edit ends."""
        chat = self._model.current()
        own = [seq for seq in (chat.shown() or range(0)) if seq > after] if chat is not None else []
        for seq in own:
            message = chat.log.message(seq) if chat is not None else None
            if message is not None and self._is_own_text(message):
                self._begin_edit(message)
                return
        self._screen.begin(SAY)

    def _is_own_text(self, message: Message) -> bool:
        return message.sender == self._model.me and message.type == "text"

    def _begin_edit(self, message: Message) -> None:
        text = body_text(message.body)
        self._screen.begin(Compose("edit", message.seq, "edit> ", text), text)

    def _own_text(self, chat: Chat, before: int | None = None) -> Message | None:
        for seq in reversed(chat.shown() or range(0)):
            if before is None or seq < before:
                message = chat.log.message(seq)
                if message is not None and self._is_own_text(message):
                    return message
        return None

    def on_message(self, key: str, seq: int) -> None:
        """A key on a message that was chosen."""
        chat, message = self._chat(), self._message(seq)
        match key:
            case "r" | "enter":
                self._begin_reply(message)
            case "e":
                self._may_edit(message)
                self._begin_edit(message)
            case "d":
                self._delete(chat, message)
            case "+":
                self._screen.begin(Compose("react", seq, f"react to {message.sender}> "))
            case "t":
                self._thread(chat, seq)
            case "p":
                self._pin(chat, seq, not message.pinned)
            case "o":
                self._to_original(message)
            case "l":
                self._open_links(links(plain(body_text(message.body), lines=True)))
            case _:
                self._react(chat, message, QUICK[int(key) - 1])

    def on_unsent(self, key: str, item_key: str) -> None:
        """A key on a message that waits or was refused: it is taken back to be mended (e), or forgotten (d)."""
        chat = self._model.current()
        if chat is None or key not in {"e", "d"}:
            raise ValueError("e: take it back and mend it, d: forget it" if chat else "nothing is open")
        item = chat.refused[item_key][0] if item_key in chat.refused else chat.waiting.get(item_key)
        if item is None or (item_key in chat.waiting and not self._client.withdraw(item)):
            raise ValueError("it was sent already: edit or delete it once it is stored")
        self._model.forget(item)
        self._screen.pane.release()
        if key == "e":
            self._screen.begin(SAY, body_text(item.fields["body"]))

    def _message(self, seq: int) -> Message:
        message = self._chat().log.message(seq)
        if message is None or message.deleted:
            raise ValueError("there is nothing to be done with this")
        return message

    def _begin_reply(self, message: Message) -> None:
        self._screen.begin(Compose("reply", message.seq, f"reply to {message.sender}> "))

    def _may_edit(self, message: Message) -> None:
        if not self._is_own_text(message):
            raise ValueError("only your own texts can be edited")

    def _delete(self, chat: Chat, message: Message) -> None:
        text = " ".join(body_text(message.body).split())
        whose = "your message" if message.sender == self._model.me else f"the message of {message.sender}"
        conv, seq = chat.conv, message.seq

        def delete() -> None:
            self._screen.pane.release()
            self._model.queued(self._client.post_delete(conv, seq))

        self._screen.ask(f"Delete {whose} {text[:40]!r} for everybody, for good?", delete)

    def _react(self, chat: Chat, message: Message, sign: str) -> None:
        given = any(one.emoji == sign and self._model.me in one.users for one in message.reactions)
        self._model.queued(self._client.post_reaction(chat.conv, message.seq, sign, remove=given))

    def _thread(self, chat: Chat, seq: int) -> None:
        """The thread from its root, as far up as is known."""
        for _ in range(1000):
            message = chat.log.message(seq)
            if message is None or message.reply_to is None or message.reply_to >= seq:
                break
            seq = message.reply_to
        self._model.thread = seq
        chat.version += 1
        self._screen.pane.to_end()
        self._errands.older()

    def _pin(self, chat: Chat, seq: int, on: bool) -> None:
        self.orders.change(lambda: self._client.pin(chat.conv, seq, on))

    def _to_original(self, message: Message) -> None:
        if message.reply_to is None:
            raise ValueError("this is no reply")
        self._errands.jump(message.conv, message.reply_to)

    def _open_links(self, found: list[str]) -> None:
        """Ask about each, in its whole length; where there is no browser, or no room to ask, they are shown."""
        if not found:
            raise ValueError("there is no link in this message")
        program = opener()
        if program is None or len(found[0]) > MAX_ASKED:
            self._screen.page("links", "\n\n".join(found))
            return
        rest = found[1:]
        following = (lambda: self._open_links(rest)) if rest else None
        more = f" (n: the next of {len(rest)} more)" if rest else ""
        self._screen.ask(f"Open {found[0]} in the browser?{more}", lambda: open_link(program, found[0]), following)

    def _about_message(self, name: str, arguments: tuple[str, ...]) -> None:
        chat = self._chat()
        message = self._meant(chat, own=name in {"edit", "delete"})
        match name:
            case "reply":
                self._say(arguments[0], Compose("reply", message.seq))
            case "edit":
                self._may_edit(message)
                self._edit(chat, message.seq, arguments[0])
            case "delete":
                self._delete(chat, message)
            case "react":
                self._react(chat, message, emoji(arguments[0]))
            case "thread":
                self._thread(chat, message.seq)
            case _:
                self._pin(chat, message.seq, name == "pin")

    def _meant(self, chat: Chat, *, own: bool) -> Message:
        """The newest message that can be meant."""
        found = [self._own_text(chat)] if own else map(chat.log.message, reversed(chat.shown() or range(0)))
        for message in found:
            if message is not None and not message.deleted:
                return message
        raise ValueError("there is no such message here")

    # --- commands -------------------------------------------------------------------------------------

    def _command(self, name: str, arguments: tuple[str, ...]) -> None:
        match name:
            case "help":
                self._screen.page("help", HELP)
            case "quit":
                self.quit()
            case "dm":
                self.switch(self._model.dm(names(arguments)[0]).conv)
            case "group":
                self.orders.make_group(arguments[0], names(arguments[1:]))
            case "search":
                self.orders.needs_server()
                asked = query(arguments[0])
                self._errands.search(asked, self._named(asked.within))
            case "pins":
                conv = self._chat().conv
                self.orders.needs_server()
                self._errands.later(lambda: self._errands.pins(conv))
            case "password":
                self.orders.needs_server()
                self._password.begin()
            case "mute" | "unmute":
                self.orders.mute(self._chat(), name, arguments)
            case _:
                self.orders.about_oneself(name, arguments)

    # --- what is meant --------------------------------------------------------------------------------

    def _chat(self) -> Chat:
        chat = self._model.current()
        if chat is None or chat.conv.startswith("@"):
            raise ValueError("open a conversation with messages first: Tab, or /dm NAME")
        return chat

    def _group(self) -> str:
        chat = self._model.current()
        if chat is None or chat.kind != "group":
            raise ValueError("open a group first: Tab, or /group TITLE NAME…")
        return chat.conv

    def _named(self, within: str | None) -> str | None:
        """The conversation that is called so."""
        if within is None:
            return None
        if within == "here":
            return self._chat().conv
        wanted = within.removeprefix("@").lower()
        chats = self._model.ordered()
        for chat in chats:
            if wanted in {chat.name().lower(), chat.conv.lower()}:
                return chat.conv
        begun = [chat.conv for chat in chats if chat.name().lower().startswith(wanted)]
        if len(begun) == 1:
            return begun[0]
        raise ValueError(f"no conversation is called {within[:40]!r}")
