"""The store's port: the truth of every conversation, and the only thing that gives an order.

The contract of an implementation; ``tests/store/conformance.py`` runs it on every one.

* **Atomic.** A commit stores each operation whole or not at all. One operation that is refused leaves the others of
  its batch untouched. A commit that raises has stored none of them, or is *unknown* (see ``Unavailable``).
* **Durable.** When ``commit`` returns, its effects survive ``kill -9`` and power loss (I1).
* **Contiguous.** The events of one conversation carry 1, 2, 3, ... without holes, in commit order (I4).
* **Idempotent.** ``(user, device, cseq)`` is checked inside the transaction (I3), however late the repeat comes.
* **Authorised.** Membership, roles, authorship and time are judged by ``conversations.rules`` inside the transaction (I8).
* **Seen.** A user may read the events of all their memberships in a conversation, each from its ``joined`` to its ``left``; a
  member of one with ``history: all`` may read everything. Whatever reads, and whatever refers to an event, goes by that.
* **Gone.** A committed ``Delete`` leaves of the message, and of its edits, nothing that they said: not in what is read, and,
  once ``scrub`` was called and nothing was in its way, not in what the store keeps on the disk.
* **Fenced.** From the commit of a SignOut or SetPassword on, nothing by a session that it ended is stored, and nothing is opened
  with a token that it took back (``tests/store/conformance_devices.py``).
* **Shared.** Several processes may commit to one store at once; all of the above holds across them. A read that starts
  after a ``commit`` returned, in any process, sees that commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from chatd.conversations.operations import Event, Operation, Outcome
from chatd.store.query import Term

LOG_BYTES = 1024 * 1024
LIST_BYTES = 384 * 1024
"""With the items' own keys, and base64 in JSON, below a server message's 1 MiB."""

LISTED_DEVICES = 500
"""In the worst of names, escaped in JSON, below 1 MiB, too."""
MAX_DEVICE_TOKENS = 32
"""Tokens that a device may have used and that are still good, for a sign-out to find them all; beyond it the oldest is
taken back."""
ENDINGS_KEPT_MS = 3600 * 1000
"""Much longer than a node goes without looking."""
RANKED = 1000
"""What a ranked search looks at: a word may be in a million messages."""


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

    ``first`` and ``last`` are the ends of what it may read; ``cursor`` is the last it has confirmed. ``member`` is false
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

    Messages *as they are now* (threads, pins) have their latest body in the payload and, if they were edited, the key
    ``edited`` with the ``seq`` of the newest edit. ``member``: whether the reader was one, in the same snapshot; a former
    member's log ends with the ``left`` event.
    """

    events: list[Event]
    last: int
    more: bool
    member: bool


class Item(Struct, frozen=True):
    """One line of the conversation list. ``event`` is the newest one visible; ``members`` only for a dm.

    ``mentions``: how many of the unread name the user. ``muted``: until when, ms since the Unix epoch; it may be over.
    """

    conv: str
    kind: str
    title: str
    members: list[str]
    last: int
    event: Event | None
    read: int
    delivered: int
    unread: int
    mentions: int = 0
    muted: int = 0


class Member(Struct, frozen=True):
    """``delivered`` and ``read``: the member's marks, merged over their devices; None where they are not the reader's to know:
    of a dm, when one of the two blocks the other."""

    user: str
    role: str
    joined: int
    delivered: int | None = 0
    read: int | None = 0


class Audience(Struct, frozen=True):
    """Who hears what is said in a conversation: ``dm`` as in Appended, and how many they are. ``silent``: of a dm, whether one
    of the two blocks the other, so that neither is told what the other types."""

    dm: tuple[str, ...]
    members: int
    silent: bool = False


class Tally(Struct, frozen=True):
    """A member's own latest message, and how many of the others have it."""

    user: str
    seq: int
    delivered: int
    read: int


class Acquaintance(Struct, frozen=True):
    """A user with whom one shares a conversation. ``last_seen``: in ms, 0 where it is hidden or not known."""

    user: str
    last_seen: int


class Privacy(Struct, frozen=True):
    """What a user lets others see."""

    presence: bool
    last_seen: bool


class Account(Struct, frozen=True):
    user_no: int
    password_hash: str
    """Empty for a user who signs in with an outside issuer only."""

    generation: int = 0
    """Counts the changes of the password; a token of chatd's own says with which one it was given."""

    tier: str = ""
    tokens_after: int = 0
    """An outside issuer's token that was issued before this time, in ms, is none any more."""


class DeviceEntry(Struct, frozen=True):
    """One of a user's devices. ``used``: when its newest session began, in ms. ``online``: that session lasts, on a node
    that runs."""

    device: str
    agent: str
    used: int
    online: bool


class Endings(Struct, frozen=True):
    """Sessions that were ended, as (user, device_no, epoch): those of the device that are older than the epoch."""

    ended: list[tuple[str, int, int]]
    token: int
    more: bool


class SearchTerms(Struct, frozen=True, kw_only=True):
    """Which messages: with all of ``terms``, as the engine finds words, without regard to case and accents.

    ``sender``: a user's name. ``before`` and ``after``: ms since the Unix epoch, of the message and not of its edits; both
    exclusive. ``ranked``: the best match first, of the newest RANKED that match, rather than the newest first.
    """

    terms: tuple[Term, ...]
    conv: str | None = None
    sender: str | None = None
    before: int | None = None
    after: int | None = None
    ranked: bool = False


class Place(Struct, frozen=True):
    """A conversation to go to; ``members`` only for a dm, ascending."""

    conv: str
    kind: str
    title: str
    members: list[str]


class Matches(Struct, frozen=True):
    """What a name or a title may be completed to."""

    users: list[str]
    items: list[Place]


class Committed(Struct, frozen=True):
    """What was committed between two tokens: the new heads, and the memberships that began, as (user, conv)."""

    heads: dict[str, int]
    joined: list[tuple[str, str]]
    token: int
    more: bool


class Store(Protocol):
    """See the module's text. Cancelling a read is safe; cancelling ``commit`` leaves its effect unknown."""

    async def commit(
        self, operations: Sequence[Operation], now: int, meanwhile: Callable[[], None] | None = None
    ) -> list[Outcome]:
        """Carry out a batch in one durable transaction; one outcome per operation, in the same order.

        ``now``: ms since the Unix epoch, the ``at`` of new events (never less than the conversation's newest).
        ``meanwhile`` is called on the Trio thread, in no task of the caller's, each time when this begins to wait, for the disk
        or for its turn, and so perhaps never: what the caller has to do anyway need not wait, too. It may not raise.
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
        member reads too, up to the ``left`` event (catch-up). Ends early rather than exceed ``max_bytes`` of payload, and
        where a membership ended, but always holds at least one event if there is one. Raises Unavailable.
        """

    async def log(self, conv: str, after: int, limit: int, *, max_bytes: int = LOG_BYTES) -> list[Event]:
        """For repair: the log itself, ascending after ``after``, nobody's rights asked.

        Ends early rather than exceed ``max_bytes`` of payload, but always holds at least one event if there is one: only
        an empty answer is the end of the log. Raises Unavailable.
        """

    async def logs(self, wanted: Sequence[tuple[str, int]], limit: int, *, max_bytes: int = LOG_BYTES) -> list[list[Event]]:
        """``log`` of several conversations, (conv, after) each, in one read: one turn of a thread, where each costs more
        than what it reads.

        The bound is for all of them: the answer ends early, but always has the first. Raises Unavailable.
        """

    async def committed(self, token: int | None) -> Committed:
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

    async def thread(
        self, user_no: int, conv: str, seq: int, *, after: int | None, before: int | None, limit: int, max_bytes: int
    ) -> Page | None:
        """The message ``seq`` and what replies to it, or to one of those, as they are now; where and how much as for ``page``.

        None where the user may read no such message; a deleted one is there. ``last``: of the conversation. Of a thread that
        begins with a reply only its first 5000 messages. Raises Unavailable.
        """

    async def pins(self, user_no: int, conv: str, *, after: int, max_bytes: int) -> Page | None:
        """The pinned messages beyond ``after`` that the user may read, as they are now. None as for ``page``.

        Ends early rather than exceed ``max_bytes`` of payload, but always holds at least one if there is one.
        Raises Unavailable.
        """

    async def members(self, user_no: int, conv: str) -> list[Member] | None:
        """Ascending by name; None as for ``page``. Raises Unavailable."""

    async def audiences(self, convs: Sequence[str]) -> dict[str, Audience]:
        """Of those that there are; nobody's rights asked. Raises Unavailable."""

    async def tallies(self, conv: str, low: int, high: int) -> list[Tally]:
        """Of the members whose latest message lies in ``low < seq <= high`` and among the newest 1000 events. Raises
        Unavailable."""

    async def acquainted(self, user_no: int, names: Sequence[str]) -> list[Acquaintance]:
        """Those of ``names`` who are members of a conversation in which the user is one. Raises Unavailable."""

    async def privacies(self, names: Sequence[str]) -> dict[str, Privacy]:
        """Of the users that there are. Raises Unavailable."""

    async def devices(self, user_no: int, now: int) -> list[DeviceEntry]:
        """The user's devices that are not signed out, latest use first, at most LISTED_DEVICES; ``now`` in ms.
        Raises Unavailable."""

    async def endings(self, token: int) -> Endings:
        """The sessions ended since the call that returned ``token``, at most ENDINGS_KEPT_MS ago; 0: since then.

        It may repeat, and omits none of the time that is kept. Raises Unavailable.
        """

    async def search(
        self, user_no: int, wanted: SearchTerms, *, cursor: str | None, limit: int, max_bytes: int
    ) -> tuple[list[Event], str | None] | None:
        """A page of the messages that match, as they are now (see ``Page``), and the cursor of the next page.

        Of the type ``text`` and with a text as body, in conversations where the user is a member now, from the first event
        that they may see. Complete but for what was committed since ``index`` last returned 0. **Never** one that is deleted,
        nor by words that an edit has taken away, however far ``index`` is. None where ``wanted.conv`` is none of the user's.
        Ends early rather than exceed ``max_bytes`` of payload, but holds at least one if there is one. Ends early as well, empty
        perhaps, but with a cursor, when the engine has looked as far back as one search may cost. No terms, whatever their text,
        are a fault. The pages of a ranking repeat nothing and leave nothing out, whatever is written and deleted meanwhile, but
        perhaps what is edited. A user's searches wait for one another, and so hold up nobody else's. Raises Unavailable, also
        for what takes too long at once, and ValueError for a cursor that this store did not give out.
        """

    async def index(self) -> int:
        """Make the next of what was committed findable, a batch at most; how many events are left to look at.

        An engine that does so as it commits returns 0. So does one that finds another process at it. When nothing is left,
        what deletes and edits took out of messages is out of the index, too. One call at a time. Raises Unavailable.
        """

    async def scrub(self) -> None:
        """Take out of the files what deletes have left in them. What is in the way of that now is left to a later call; so this
        is called every second or so. A commit waits for it. Raises Unavailable."""

    async def find(self, user_no: int, text: str, *, conv: str | None, limit: int) -> Matches | None:
        """Completion: users whose name begins with ``text``, ascending; and the user's own conversations, latest first, with
        a title of which a word begins so, or with such a user in a dm. Case and accents do not matter. At most ``limit`` of
        each. With ``conv`` only members of this conversation, and None where it is none of the user's. Raises Unavailable.
        """

    async def blocked(self, user_no: int) -> list[str]:
        """The users that this one blocks, ascending. Raises Unavailable."""

    async def account(self, name: str) -> Account | None:
        """Raises Unavailable."""

    async def revoked(self, token: bytes) -> bool:
        """Whether a sign-out took back the token that is known by these bytes. Raises Unavailable."""
