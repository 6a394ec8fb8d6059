"""Questions to the server and changes that are no messages: the half of ``Client`` that gets answers.

Each waits for its answer, across reconnects, and while there is no connection. Reads are asked again on the next
connection; a change whose connection was lost before the answer raises Disconnected, for it may have happened or not.
All raise Refused (the server said no) and SessionEnded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from chatd_protocol.messages import (
    MAX_INTEGER,
    Add,
    Block,
    Blocked,
    Conversations,
    Create,
    Devices,
    Find,
    History,
    HistoryPolicy,
    Leave,
    Members,
    Mute,
    Ok,
    Pin,
    Pins,
    Privacy,
    RateLimit,
    Remove,
    Rename,
    Role,
    Search,
    SetRole,
    SignOut,
)
from msgspec import UNSET, UnsetType

from chatd_client.answers import (
    ConversationList,
    Device,
    Found,
    Hits,
    Limit,
    Member,
    MessageNow,
    Page,
    Thread,
    Visibility,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chatd_protocol.messages import ClientMessage

    from chatd_client.session import Session

T = TypeVar("T")

FOR_GOOD = MAX_INTEGER
"""``mute`` until this is without end."""


class Questions:
    """See the module's docstring."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # --- reads ------------------------------------------------------------------------------------

    async def history(
        self,
        conv: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Page:
        """A page of a conversation's log, ascending; the newest one by default."""
        answer = await self._ask(
            lambda number: History(
                id=number,
                conv=conv,
                before=_given(before),
                after=_given(after),
                limit=limit,
            ),
            repeatable=True,
        )
        return Page.of(conv, answer)

    async def thread(
        self,
        conv: str,
        seq: int,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Thread:
        """A page of the message ``seq`` and the replies to it, as they are now; the newest by default."""
        answer = await self._ask(
            lambda number: History(
                id=number, conv=conv, thread=seq, before=_given(before), after=_given(after), limit=limit
            ),
            repeatable=True,
        )
        return Thread.of(conv, answer)

    async def conversations(self, *, cursor: str | None = None, limit: int = 50) -> ConversationList:
        """A page of one's conversations, latest first."""
        answer = await self._ask(
            lambda number: Conversations(id=number, cursor=_given(cursor), limit=limit),
            repeatable=True,
        )
        return ConversationList.of(answer)

    async def members(self, conv: str) -> tuple[Member, ...]:
        """Who is in a conversation."""
        answer = await self._ask(lambda number: Members(id=number, conv=conv), repeatable=True)
        return tuple(Member.of(keys) for keys in answer.members or ())

    async def blocked(self) -> tuple[str, ...]:
        """Whom one has blocked."""
        answer = await self._ask(lambda number: Blocked(id=number), repeatable=True)
        return tuple(answer.users or ())

    async def pins(self, conv: str) -> tuple[MessageNow, ...]:
        """The pinned messages, ascending, as they are now."""
        answer = await self._ask(lambda number: Pins(id=number, conv=conv), repeatable=True)
        return tuple(MessageNow.of({"conv": conv, **keys}) for keys in answer.events or ())

    async def search(
        self,
        query: str,
        *,
        conv: str | None = None,
        sender: str | None = None,
        before: int | None = None,
        after: int | None = None,
        order: Literal["newest", "ranked"] = "newest",
        cursor: str | None = None,
        limit: int = 50,
    ) -> Hits:
        """A page of the messages that have all words of ``query`` (``"a phrase"``, ``pre*``). ``before`` and ``after``
        in milliseconds since the Unix epoch; ``cursor`` from the page before. Empty only where nothing more is to be found:
        pages that the server ends early, after what it looks through at once, are followed up to the next hit.
        """
        following: str | UnsetType = _given(cursor)
        while True:
            answer = await self._ask(
                lambda number, following=following: Search(  # type: ignore[misc]
                    id=number,
                    query=query,
                    conv=_given(conv),
                    sender=_given(sender),
                    before=_given(before),
                    after=_given(after),
                    order=order,
                    cursor=following,
                    limit=limit,
                ),
                repeatable=True,
            )
            hits = Hits.of(answer)
            if hits.messages or hits.cursor is None:
                return hits
            following = hits.cursor

    async def find(self, text: str, *, conv: str | None = None, limit: int = 20) -> Found:
        """Users whose name begins with ``text``, and conversations where a word of the title does; with ``conv`` only
        its members.
        """
        answer = await self._ask(
            lambda number: Find(id=number, text=text, conv=_given(conv), limit=limit), repeatable=True
        )
        return Found.of(answer)

    async def devices(self) -> tuple[Device, ...]:
        """One's own devices."""
        answer = await self._ask(lambda number: Devices(id=number), repeatable=True)
        return tuple(Device.of(keys) for keys in answer.devices or ())

    async def rate_limit(self) -> tuple[Limit, ...]:
        """How much one may still do, and when there is more."""
        answer = await self._ask(lambda number: RateLimit(id=number), repeatable=True)
        return tuple(Limit.of(keys) for keys in answer.limits or ())

    async def privacy(self, *, presence: bool | None = None, last_seen: bool | None = None) -> Visibility:
        """What others may see of one; what is given is changed first. Saying the same again changes nothing, so it is
        asked again after a lost connection.
        """
        answer = await self._ask(
            lambda number: Privacy(id=number, presence=_given(presence), last_seen=_given(last_seen)),
            repeatable=True,
        )
        return Visibility.of(answer)

    # --- changes ----------------------------------------------------------------------------------

    async def create(self, title: str, members: Sequence[str], *, history: HistoryPolicy = "since_join") -> str:
        """Make a group and return its conversation id. Cancelled: made or not."""
        answer = await self._ask(lambda number: Create(id=number, title=title, members=list(members), history=history))
        return answer.conv or ""

    async def add(self, conv: str, users: Sequence[str]) -> None:
        """Add members."""
        await self._ask(lambda number: Add(id=number, conv=conv, users=list(users)))

    async def remove(self, conv: str, users: Sequence[str]) -> None:
        """Remove members."""
        await self._ask(lambda number: Remove(id=number, conv=conv, users=list(users)))

    async def leave(self, conv: str) -> None:
        """Leave a group."""
        await self._ask(lambda number: Leave(id=number, conv=conv))

    async def set_role(self, conv: str, user: str, role: Role) -> None:
        """Give a member a role."""
        await self._ask(lambda number: SetRole(id=number, conv=conv, user=user, role=role))

    async def rename(self, conv: str, title: str) -> None:
        """Give a group a new title."""
        await self._ask(lambda number: Rename(id=number, conv=conv, title=title))

    async def block(self, user: str, on: bool = True) -> None:
        """Refuse a user's 1:1 messages, or take them again."""
        await self._ask(lambda number: Block(id=number, user=user, on=on))

    async def pin(self, conv: str, seq: int, on: bool = True) -> None:
        """Pin a message, or take it from the pins."""
        await self._ask(lambda number: Pin(id=number, conv=conv, seq=seq, on=on))

    async def mute(self, conv: str, until: int = FOR_GOOD) -> None:
        """Mute a conversation for oneself, on all devices. ``until``: milliseconds since the Unix epoch; 0 ends it."""
        await self._ask(lambda number: Mute(id=number, conv=conv, until=until))

    async def sign_out(self, device: str) -> None:
        """End a device's sessions everywhere, and its tokens."""
        await self._ask(lambda number: SignOut(id=number, device=device))

    # --- inside -----------------------------------------------------------------------------------

    async def _ask(self, build: Callable[[int], ClientMessage], *, repeatable: bool = False) -> Ok:
        if self._session.ended is not None:
            raise self._session.ended
        number, call = self._session.requests.open(build, repeatable=repeatable)
        self._session.wake()
        try:
            await call.done.wait()
        finally:
            self._session.requests.forget(number)
        if call.error is not None:
            raise call.error
        return call.answer or Ok(id=number)


def _given(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value
