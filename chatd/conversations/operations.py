"""What may be asked of the store, and what it answers: commands in the imperative, facts in the past tense.

Pure values. An ``Operation`` goes into a group commit; each gets exactly one ``Outcome``, in the same place.
"""

from __future__ import annotations

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

    ``digest`` (16 bytes) identifies the content: the same ``cseq`` with another digest is ``cseq_reused``.
    ``to`` is a conversation id, or ``@name`` for the 1:1 conversation with that user (made when absent). ``reply_to``: a
    ``seq`` that must be in that conversation's log, 0 for none.
    """

    author: Author
    cseq: int
    to: str
    payload: bytes
    digest: bytes
    reply_to: int = 0


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
    fence off the sessions before."""

    user: str
    device: str
    create_user: bool = False
    """True for a token of an outside issuer: its user is created on first use."""


class CreateAccount(Struct, frozen=True, gc=False, kw_only=True):
    user: str
    password_hash: str


Operation = (
    Send | CreateGroup | AddMembers | RemoveMembers | SetRole | Rename | SetBlock | Mark | OpenDevice | CreateAccount
)


class Event(Struct, frozen=True, gc=False, array_like=True):
    """One entry of a log, as stored and as it travels between nodes.

    ``payload`` is the CBOR map of the keys that belong to ``kind``. ``device_no`` and ``cseq`` name the send it
    came from (0: not from a send); the sending device sees its ``ack`` in the event's place.
    """

    conv: str
    seq: int
    at: int
    sender: str
    kind: str
    payload: bytes
    device_no: int
    cseq: int


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
    """Carried out, and no event to tell of: a mark, a block, an account, an ``add`` of members already there."""

    conv: str = ""


class DeviceOpened(Struct, frozen=True, gc=False):
    """``cseq``: the last one stored for this device."""

    author: Author
    cseq: int


Outcome = Appended | Repeated | Refused | Done | DeviceOpened
