"""The store's port: the truth of every conversation, and the only thing that gives an order.

The contract of an implementation; ``tests/store/conformance.py`` runs it on every one.

* **Atomic.** A commit stores each operation whole or not at all. One operation that is refused leaves the others of
  its batch untouched. A commit that raises has stored none of them, or is *unknown* (see ``Unavailable``).
* **Durable.** When ``commit`` returns, its effects survive ``kill -9`` and power loss (I1).
* **Contiguous.** The events of one conversation carry 1, 2, 3, ... without holes, in commit order (I4).
* **Idempotent.** ``(user, device, cseq)`` is checked inside the transaction (I3), however late the repeat comes.
* **Authorised.** Membership and roles are judged by ``conversations.rules`` inside the transaction (I8).
* **Shared.** Several processes may commit to one store at once; all of the above holds across them. A read that starts
  after a ``commit`` returned, in any process, sees that commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from chatd.conversations.operations import Event, Operation, Outcome

LOG_BYTES = 1024 * 1024
LIST_BYTES = 384 * 1024
"""With the items' own keys, and base64 in JSON, below a server message's 1 MiB."""


class StoreError(Exception):
    """Base of what a store raises; any other exception is a bug."""


class Unavailable(StoreError):
    """The store cannot do this now (disk full, I/O error, lock not had in time); trying again later is right.

    After an ``Unavailable`` commit it is unknown whether it was stored: a repeat with the same ``cseq`` finds out.
    """


class NewerSchema(StoreError):
    """The store was written by a newer chatd; this one must not touch it. The text names both versions."""


class Standing(Struct, frozen=True):
    """Where one device stands in one of its user's conversations.

    It may read the events with ``first <= seq <= last``; ``cursor`` is the last it has confirmed. ``member`` is false
    for a former member, whose ``last`` is the ``left`` event. ``kind`` is ``dm`` or ``group``.
    """

    conv: str
    kind: str
    member: bool
    first: int
    last: int
    cursor: int


class Page(Struct, frozen=True):
    """Events in ascending ``seq``; ``last``: the newest that the reader may see; ``more``: some lie beyond the page.

    ``member``: whether the reader was one, in the same snapshot; a former member's log ends with the ``left`` event.
    """

    events: list[Event]
    last: int
    more: bool
    member: bool


class Item(Struct, frozen=True):
    """One line of the conversation list. ``event`` is the newest one visible; ``members`` only for a dm."""

    conv: str
    kind: str
    title: str
    members: list[str]
    last: int
    event: Event | None
    read: int
    delivered: int
    unread: int


class Member(Struct, frozen=True):
    user: str
    role: str
    joined: int


class Account(Struct, frozen=True):
    user_no: int
    password_hash: str
    """Empty for a user who signs in with an outside issuer only."""


class Changes(Struct, frozen=True):
    """What was committed between two tokens: the new heads, and the memberships that began, as (user, conv)."""

    heads: dict[str, int]
    joined: list[tuple[str, str]]
    token: int
    more: bool


class Store(Protocol):
    """See the module's text. Cancelling a read is safe; cancelling ``commit`` leaves its effect unknown."""

    async def commit(self, operations: Sequence[Operation], now: int) -> list[Outcome]:
        """Carry out a batch in one durable transaction; one outcome per operation, in the same order.

        ``now``: ms since the Unix epoch, the ``at`` of new events (never less than the conversation's newest).
        Raises Unavailable. Only one ``commit`` may be in flight per Store object.
        """

    async def standings(self, user_no: int, device_no: int) -> list[Standing]:
        """All conversations of the user, former ones included, newest activity first. Raises Unavailable."""

    async def standing(self, user_no: int, device_no: int, conv: str) -> Standing | None:
        """One conversation's entry of ``standings``; None when the user never was in it. Raises Unavailable."""

    async def page(
        self, user_no: int, conv: str, *, after: int | None, before: int | None, limit: int, max_bytes: int,
        former: bool = False,
    ) -> Page | None:
        """What this user may read: ascending after ``after``, or the newest ones before ``before`` (default: the end).

        None when there is no such conversation or the user is no member: the two look the same. ``former``: a former
        member reads too, up to the ``left`` event (catch-up). Ends early rather than exceed ``max_bytes`` of payload,
        but always holds at least one event if there is one. Raises Unavailable.
        """

    async def log(self, conv: str, after: int, limit: int, *, max_bytes: int = LOG_BYTES) -> list[Event]:
        """For repair: the log itself, ascending after ``after``, nobody's rights asked.

        Ends early rather than exceed ``max_bytes`` of payload, but always holds at least one event if there is one: only
        an empty answer is the end of the log. Raises Unavailable.
        """

    async def changes(self, token: int | None) -> Changes:
        """Everything committed since the call that returned ``token``; it may repeat, it never omits.

        None: nothing but the token to begin with. Raises Unavailable.
        """

    async def conversations(
        self, user_no: int, device_no: int, cursor: str | None, limit: int, *, max_bytes: int = LIST_BYTES
    ) -> tuple[list[Item], str | None]:
        """A page of the user's current conversations, latest first, and the cursor of the next page.

        Ends early rather than exceed ``max_bytes`` of payloads and titles, but holds at least one item if there is one.
        Raises Unavailable, and ValueError for a cursor that this store did not give out.
        """

    async def members(self, user_no: int, conv: str) -> list[Member] | None:
        """Ascending by name; None as for ``page``. Raises Unavailable."""

    async def blocked(self, user_no: int) -> list[str]:
        """The users that this one blocks, ascending. Raises Unavailable."""

    async def account(self, name: str) -> Account | None:
        """Raises Unavailable."""
