"""Orders: commands whose doing is the server's, as errands. Each says on the screen what came of it.

What changes something and is remembered by nobody is refused while there is no connection: it would be done at some
time, perhaps, when nobody thinks of it any more. So are questions, whose answer would be as late.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, cast

from chatd_client import FOR_GOOD, ClientError, Unreachable

from chatd_terminal.commands import duration_s, names, unquoted
from chatd_terminal.markup import date
from chatd_terminal.words import limit_words

if TYPE_CHECKING:
    from chatd_client import Client
    from chatd_protocol.messages import Role

    from chatd_terminal.account import Account
    from chatd_terminal.chat import Chat
    from chatd_terminal.errands import Errands
    from chatd_terminal.screen import Chat as Screen
    from chatd_terminal.view_model import Model

AWAY = "that needs the server: try again when it is back"
ROLES = {"owner", "admin", "member"}


class Orders:
    """See the module's docstring. All raise ValueError, with words for the user. ``making``: a group that is under way."""

    def __init__(self, client: Client, model: Model, screen: Screen, errands: Errands, account: Account) -> None:
        self._client, self._model, self._screen, self._errands = client, model, screen, errands
        self._account = account
        self.making = ""
        self.arrive: Callable[[str], None] = model.show

    def about_oneself(self, name: str, arguments: tuple[str, ...]) -> None:
        """A command about oneself and one's devices."""
        client = self._client
        match name:
            case "block" | "unblock":
                user = names(arguments)[0]
                if user == self._model.me:
                    raise ValueError(f"that is you: nobody can {name} themselves")
                self.change(lambda: client.block(user, name == "block"), f"{user} is {name}ed")
            case "signout":
                self.change(lambda: client.sign_out(arguments[0]), f"{arguments[0]} is signed out")
            case "privacy":
                self._privacy(arguments)
            case _:
                self.needs_server()
                self._errands.later({"blocked": self._blocked, "devices": self._devices, "limits": self._limits}[name])

    def in_group(self, conv: str, name: str, arguments: tuple[str, ...]) -> None:
        """A command about the open group."""
        client = self._client
        match name:
            case "add":
                users = names(arguments)
                self.change(lambda: client.add(conv, users))
            case "remove":
                users = names(arguments)
                self.change(lambda: client.remove(conv, users))
            case "role":
                user, role = names(arguments[:1])[0], arguments[1].lower()
                if role not in ROLES:
                    raise ValueError("a role is owner, admin or member")
                self.change(lambda: client.set_role(conv, user, cast("Role", role)))
            case "rename":
                self.change(lambda: client.rename(conv, unquoted(arguments[0])))
            case "leave":
                self._leave(conv)
            case "members":
                self.needs_server()
                self._errands.later(lambda: self._members(conv))

    def _leave(self, conv: str) -> None:
        self.needs_server()
        name = self._model.conversations[conv].name()
        self._screen.ask(
            f"Leave {name[:40]!r}? Only its admins can let you in again.",
            lambda: self.change(lambda: self._client.leave(conv)),
        )

    def change(self, change: Callable[[], Awaitable[None]], done: str = "") -> None:
        """Ask for a change that nothing remembers: only while the server is there."""
        self.needs_server()

        async def errand() -> None:
            await change()
            if done:
                self._screen.note(done)

        self._errands.later(errand)

    def needs_server(self) -> None:
        """Raises ValueError while there is no connection."""
        if self._model.connection.state != "live":
            raise ValueError(AWAY)

    def change_password(self, now: str, new: str) -> None:
        """Another password; whatever else is signed in ends."""
        welcome = self._client.welcome
        device = welcome.device if welcome is not None else ""

        async def changed() -> None:
            try:
                await self._account.change_password(now, new, device)
            except Unreachable:
                raise ClientError("no answer: the password is changed, or not; this program goes on with either") from None

        self.change(changed, "the password is changed; your other devices are signed out")

    def make_group(self, title: str, members: list[str]) -> None:
        """Make a group and open it."""
        if self.making:
            raise ValueError(f"{self.making} is being made: one after the other")
        self.needs_server()
        self.making = title
        opened = self._model.open
        self._errands.later(lambda: self._create(title, members, opened))

    async def _create(self, title: str, members: list[str], opened: str | None) -> None:
        """``opened``: what was open when it was asked for; whoever has gone elsewhere since is left there."""
        try:
            conv = await self._client.create(title, members)
        finally:
            self.making = ""
        chat = self._model.group(conv, title)
        if self._model.open == opened:
            self.arrive(chat.conv)
        else:
            self._screen.note(f"{title} was made: Tab leads there")

    def mute(self, chat: Chat, name: str, arguments: tuple[str, ...]) -> None:
        """Mute, for a time or for good, or end it."""
        until = 0 if name == "unmute" else FOR_GOOD
        if arguments:
            until = int(time.time() * 1000) + duration_s(arguments[0]) * 1000

        async def errand() -> None:
            await self._client.mute(chat.conv, until)
            chat.muted = until

        self.change(errand)

    def _privacy(self, arguments: tuple[str, ...]) -> None:
        asked: dict[Literal["presence", "last_seen"], bool] = {}
        match arguments:
            case ():
                asked = {}
            case (("presence" | "last_seen") as what, ("on" | "off") as value):
                asked[what] = value == "on"
            case _:
                raise ValueError("/privacy presence on|off, or /privacy last_seen on|off")

        self.needs_server()

        async def errand() -> None:
            now = await self._client.privacy(**asked)
            yes = {True: "see", False: "do not see"}
            self._screen.note(f"others {yes[now.presence]} whether you are there, and {yes[now.last_seen]} when you were")

        self._errands.later(errand)

    async def _members(self, conv: str) -> None:
        found = await self._client.members(conv)
        self._model.joined_by(conv, found)
        rows = [f"{one.user} ({one.role})" if one.role != "member" else one.user for one in found]
        self._screen.show_answer(counted(len(rows), "member"), "\n".join(rows))

    async def _blocked(self) -> None:
        found = await self._client.blocked()
        self._screen.show_answer("blocked", "\n".join(found) or "Nobody is blocked.")

    async def _devices(self) -> None:
        found = await self._client.devices()
        welcome = self._client.welcome
        here = welcome.device if welcome is not None else ""
        rows = [
            f"{one.device}  {'online' if one.online else date(one.used)}  {one.agent}"
            + ("  (this one)" if one.device == here else "")
            for one in found
        ]
        self._screen.show_answer(f"{counted(len(rows), 'device')} · /signout DEVICE", "\n".join(rows))

    async def _limits(self) -> None:
        found = await self._client.rate_limit()
        rows = [limit_words(one) for one in found]
        self._screen.show_answer("limits", "\n".join(rows) or "No limits.")


def counted(number: int, what: str) -> str:
    """``1 member``, ``2 members``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
