"""What may be asked of the store, and what it answers: commands in the imperative, facts in the past tense.

Pure values. An ``Operation`` goes into a group commit; each gets exactly one ``Outcome``, in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

# ``gc=False``: none of these can be part of a cycle, and the collector need not look at the thousands under way.

Role = Literal["owner", "admin", "member"]


class Author(Struct, frozen=True, gc=False):
    """Who asks: numbers are the store's own keys, the name is what others see as ``from``.

    ``epoch``: how often the device was opened when this session began. A send of an earlier epoch is refused, so that
    what a session has in flight when a newer one takes over, on whatever node, is not stored behind its back (I5).
    """

    user_no: int
    user: str
    device_no: int
    epoch: int


class Send(Struct, frozen=True, gc=False, kw_only=True):
    """Append a ``message`` event. ``payload`` is the CBOR map of the event's own keys (type, body, ...).

    The same ``cseq`` with another payload, or to somebody else, is ``cseq_reused``. ``to`` is a conversation id, or
    ``@name`` for the 1:1 conversation with that user (made when absent). ``reply_to``: a ``seq`` that must be in that
    conversation's log, 0 for none. ``mentions``: names, as they stand in the payload.
    """

    author: Author
    cseq: int
    to: str
    payload: bytes
    reply_to: int = 0
    mentions: Sequence[str] = ()


class Edit(Struct, frozen=True, gc=False, kw_only=True):
    """Append an ``edit`` event: the message ``seq`` reads otherwise from here on. ``payload`` as for Send.

    ``digest`` (16 bytes) identifies the content: the same ``cseq`` with another digest is ``cseq_reused``.
    """

    author: Author
    cseq: int
    conv: str
    seq: int
    payload: bytes
    digest: bytes


class Delete(Struct, frozen=True, gc=False, kw_only=True):
    """Append a ``delete`` event, and take what the message ``seq`` said out of the store for good."""

    author: Author
    cseq: int
    conv: str
    seq: int
    payload: bytes
    digest: bytes


class React(Struct, frozen=True, gc=False, kw_only=True):
    """Append a ``reaction`` event: ``emoji`` on the message ``seq``, or with ``remove`` no more."""

    author: Author
    cseq: int
    conv: str
    seq: int
    emoji: str
    remove: bool
    payload: bytes
    digest: bytes


class CreateGroup(Struct, frozen=True, gc=False, kw_only=True):
    author: Author
    title: str
    members: tuple[str, ...]
    history: Literal["since_join", "all"]


class AddMembers(Struct, frozen=True, gc=False, kw_only=True):
    author: Author
    conv: str
    users: tuple[str, ...]


class RemoveMembers(Struct, frozen=True, gc=False, kw_only=True):
    """Also ``leave``: then ``users`` is the author alone."""

    author: Author
    conv: str
    users: tuple[str, ...]


class SetRole(Struct, frozen=True, gc=False, kw_only=True):
    author: Author
    conv: str
    user: str
    role: Role


class Rename(Struct, frozen=True, gc=False, kw_only=True):
    author: Author
    conv: str
    title: str


class Pin(Struct, frozen=True, gc=False, kw_only=True):
    """Pin the message ``seq``, or with ``on`` false unpin it; what is so already is Done."""

    author: Author
    conv: str
    seq: int
    on: bool


class Mute(Struct, frozen=True, gc=False, kw_only=True):
    """A member's own setting. ``until``: ms since the Unix epoch, 0 ends it."""

    author: Author
    conv: str
    until: int


class SetBlock(Struct, frozen=True, gc=False, kw_only=True):
    """Block or unblock a user: a blocked user's 1:1 sends to the author are refused as ``forbidden``."""

    author: Author
    user: str
    on: bool


class Mark(Struct, frozen=True, gc=False, kw_only=True):
    """Move up-to marks forward: the device's cursor to ``delivered``, the user's read mark to ``read`` (0: not)."""

    author: Author
    conv: str
    delivered: int
    read: int


class OpenDevice(Struct, frozen=True, gc=False, kw_only=True):
    """Begin a session: look a user's device up by name, make it, with cursors at the read marks, when it is new, and
    fence off the sessions before. ``unauthenticated`` where the token was taken back meanwhile.

    ``create_user``: true for a token of an outside issuer: its user is created on first use. ``token``: what identifies
    the token (b"": none, nothing to take back), ``expires`` its end in ms. ``generation``: of the user's password when
    chatd issued the token; ``issued``: in ms, for an outside token. ``agent``: what the client says it is. ``node``:
    where the session is, as in RollCall.
    """

    user: str
    device: str
    create_user: bool = False
    token: bytes = b""
    expires: int = 0
    generation: int = 0
    issued: int = 0
    agent: str = ""
    node: bytes = b""


class SignOut(Struct, frozen=True, gc=False, kw_only=True):
    """End the sessions of one of one's own devices, forget its cursors, and take back the tokens that it used; the
    sessions of other devices that began with one of these end, too. It keeps its ``cseq``."""

    author: Author
    device: str


class SetPassword(Struct, frozen=True, gc=False, kw_only=True):
    """A new password: ends all sessions but those of the device ``keep``, and takes back every token before.

    ``old_hash``: what was verified; where that is not the hash any more, ``unauthenticated``. None: the operator's word.
    """

    user: str
    old_hash: str | None
    new_hash: str
    keep: str = ""


class Rehash(Struct, frozen=True, gc=False, kw_only=True):
    """The same password under newer parameters. Nothing is done where ``old_hash`` is not the hash any more."""

    user: str
    old_hash: str
    new_hash: str


class RollCall(Struct, frozen=True, gc=False, kw_only=True):
    """A node's sign of life: it counts as running for ``lease_ms`` from now, and at 0 as ended. ``left``: (device_no,
    epoch) of the sessions that are over there."""

    node: bytes
    lease_ms: int
    left: tuple[tuple[int, int], ...] = ()


class SetPrivacy(Struct, frozen=True, gc=False, kw_only=True):
    """Whether others see the author's presence, and when they were last there; None leaves it as it is."""

    author: Author
    presence: bool | None = None
    last_seen: bool | None = None


class NoteSeen(Struct, frozen=True, gc=False, kw_only=True):
    """When users were last there, as (name, ms since the Unix epoch); never moves back. Of a node, not of a user."""

    seen: tuple[tuple[str, int], ...]


class CreateAccount(Struct, frozen=True, gc=False, kw_only=True):
    user: str
    password_hash: str


class SetTier(Struct, frozen=True, gc=False, kw_only=True):
    """By which tier's rate limits a user is measured; "" for the default."""

    user: str
    tier: str


Sequenced = Send | Edit | Delete | React
"""What takes a number of its device's: stored once and in order (I3, I5), and acknowledged in the event's place."""

Operation = (
    Sequenced | CreateGroup | AddMembers | RemoveMembers | SetRole | Rename | Pin | Mute | SetBlock | Mark | OpenDevice
    | CreateAccount | SetTier | SignOut | SetPassword | Rehash | RollCall | SetPrivacy | NoteSeen
)


class Event(Struct, frozen=True, gc=False, array_like=True):
    """One entry of a log, as stored and as it travels between nodes.

    ``payload`` is the CBOR map of the keys that belong to ``kind``. ``device_no`` and ``cseq`` name the send it
    came from (0: not from a send), ``epoch`` the session of the device, which sees its ``ack`` in the event's place
    (0: stored by a version that did not keep it).
    """

    conv: str
    seq: int
    at: int
    sender: str
    kind: str
    payload: bytes
    device_no: int
    cseq: int
    epoch: int = 0


class Appended(Struct, frozen=True, gc=False):
    """Committed and fsynced: these events, one after another in ``conv``.

    ``dm``: the two users of a 1:1 conversation, () for a group. ``joined``: users whose membership began here, who
    must be told on their own channels. ``left``: users whose membership ended here.
    """

    conv: str
    events: tuple[Event, ...]
    dm: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Repeated(Struct, frozen=True, gc=False):
    """This ``cseq`` was stored before: the first ack again."""

    cseq: int
    conv: str
    seq: int
    at: int


class Refused(Struct, frozen=True, gc=False):
    """Nothing was changed. ``code`` is a ``chatd_protocol.codes.ErrorCode``; ``expected`` only for ``cseq_gap``."""

    code: str
    message: str
    expected: int = 0


class Done(Struct, frozen=True, gc=False):
    """Carried out, and no event to tell of: a former member's mark, a block, an account, an ``add`` of members already there."""

    conv: str = ""


class Marked(Struct, frozen=True, gc=False):
    """A member's own marks in ``conv``, merged over their devices, as they are now and as they were.

    ``dm``: as in Appended, but the author alone where one of the two blocks the other: nobody else is told. ``members``: how
    many the conversation has.
    """

    conv: str
    delivered: int
    read: int
    had_delivered: int
    had_read: int
    dm: tuple[str, ...] = ()
    members: int = 0

    @property
    def moved(self) -> bool:
        """Whether there is anything to tell."""
        return self.delivered > self.had_delivered or self.read > self.had_read


class PrivacySet(Struct, frozen=True, gc=False):
    """What others see from now on."""

    presence: bool
    last_seen: bool


class DeviceOpened(Struct, frozen=True, gc=False):
    """``cseq``: the last one stored for this device. ``tier``: the user's, "" where none was set."""

    author: Author
    cseq: int
    tier: str = ""


class SessionsEnded(Struct, frozen=True, gc=False):
    """Every session of ``user`` on one of these (device_no, epoch) that is older than the epoch is over: its changes are
    refused from here on. ``generation``: of the user's password, for new tokens."""

    user: str
    devices: tuple[tuple[int, int], ...]
    generation: int = 0


Outcome = Appended | Repeated | Refused | Done | Marked | PrivacySet | DeviceOpened | SessionsEnded
