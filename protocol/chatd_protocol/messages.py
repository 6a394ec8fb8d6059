"""Every message of the wire, as typed values.

One class per message, named as the specification names it (``protocol/SPEC.md``). They are plain
immutable values: no I/O, no clock. ``codec`` turns them into frames and back; ``transitions`` says
when each may be sent. Sizes and ranges stand here as constraints, so that one place bounds all input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_INTEGER = 2**53 - 1
"""The largest integer that a JavaScript client reads exactly (ECMA-262, Number.MAX_SAFE_INTEGER)."""

MAX_DEVICE_CHARS = 64
MAX_TITLE_CHARS = 200
MAX_CONV_CHARS = 64
MAX_MENTIONS = 50
MAX_NAMES_IN_REQUEST = 1000
MAX_POSITIONS = 2000
MAX_WATCHED = 500
MAX_PAGE = 200
MAX_TOKEN_CHARS = 8192
MAX_EMOJI_CHARS = 32
MAX_QUERY_CHARS = 200
DELETED_TYPE = "deleted"
NAME_PATTERN = r"[a-z0-9_.-]{1,32}"
"""What names a user, and wherever else this alphabet is meant: a type of message, a tier."""

_UNSEEN = r"\s\u00ad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff"
SHOWN_PATTERN = rf"^(?=[\s\S]*[^{_UNSEEN}])[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*\Z"
"""What people are shown as it is: no control characters, none that turn the direction of what follows, and not only what
leaves no mark."""

Natural = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Name = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9_.-]+\Z")]
ConversationId = Annotated[str, Meta(min_length=1, max_length=MAX_CONV_CHARS)]
Device = Annotated[str, Meta(min_length=1, max_length=MAX_DEVICE_CHARS, pattern=SHOWN_PATTERN)]
Title = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE_CHARS, pattern=SHOWN_PATTERN)]
Emoji = Annotated[str, Meta(min_length=1, max_length=MAX_EMOJI_CHARS, pattern=SHOWN_PATTERN)]
MessageType = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9_.-]+\Z")]
if TYPE_CHECKING:
    Body = str | bytes
else:
    Body = Any  # msgspec has no union of two text-like types; ``_check_body`` says what may stand there
Names = Annotated[list[Name], Meta(min_length=1, max_length=MAX_NAMES_IN_REQUEST)]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Role = Literal["owner", "admin", "member"]
HistoryPolicy = Literal["since_join", "all"]


class Message(Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True, gc=False):
    """What both directions share: the wire name of a message is its key ``t``. No cycles, so nothing to collect."""


def name_of(message: Message) -> str:
    """The wire name, ``t``."""
    name = message.__struct_config__.tag
    assert isinstance(name, str)
    return name


def _check_body(body: object) -> None:
    if type(body) is not str and type(body) is not bytes and body is not UNSET:
        raise TypeError('`body`: text or bytes (in JSON {"b64": base64url without padding})')


# --- client to server -------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_CHARS)]
    device: Device
    positions: Annotated[dict[ConversationId, Natural], Meta(max_length=MAX_POSITIONS)] | UnsetType = UNSET
    agent: Annotated[str, Meta(max_length=200, pattern=rf"\A\Z|{SHOWN_PATTERN}")] | UnsetType = UNSET


class Send(Message, frozen=True, tag="send"):
    cseq: Positive
    to: Annotated[str, Meta(min_length=1, max_length=MAX_CONV_CHARS)]
    body: Body
    type: MessageType = "text"
    reply_to: Positive | UnsetType = UNSET
    mentions: Annotated[list[Name], Meta(max_length=MAX_MENTIONS)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _check_body(self.body)
        if self.type == DELETED_TYPE:
            raise ValueError("`type`: `deleted` is what is left of a deleted message, and cannot be sent")


class Edit(Message, frozen=True, tag="edit"):
    cseq: Positive
    conv: ConversationId
    seq: Positive
    body: Body

    def __post_init__(self) -> None:
        _check_body(self.body)


class Delete(Message, frozen=True, tag="delete"):
    cseq: Positive
    conv: ConversationId
    seq: Positive


class React(Message, frozen=True, tag="react"):
    cseq: Positive
    conv: ConversationId
    seq: Positive
    emoji: Emoji
    remove: bool = False


class Delivered(Message, frozen=True, tag="delivered"):
    conv: ConversationId
    seq: Positive


class Read(Message, frozen=True, tag="read"):
    conv: ConversationId
    seq: Positive


class Typing(Message, frozen=True, tag="typing"):
    conv: ConversationId
    on: bool


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    active: bool | UnsetType = UNSET


class Watch(Message, frozen=True, tag="watch"):
    users: Annotated[list[Name], Meta(max_length=MAX_WATCHED)]


class History(Message, frozen=True, tag="history"):
    id: Natural
    conv: ConversationId
    before: Positive | UnsetType = UNSET
    after: Natural | UnsetType = UNSET
    thread: Positive | UnsetType = UNSET
    limit: Limit = 50


class Conversations(Message, frozen=True, tag="conversations"):
    id: Natural
    cursor: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    limit: Limit = 50


class Create(Message, frozen=True, tag="create"):
    id: Natural
    title: Title
    members: Annotated[list[Name], Meta(max_length=MAX_NAMES_IN_REQUEST)]
    history: HistoryPolicy = "since_join"


class Members(Message, frozen=True, tag="members"):
    id: Natural
    conv: ConversationId


class Add(Message, frozen=True, tag="add"):
    id: Natural
    conv: ConversationId
    users: Names


class Remove(Message, frozen=True, tag="remove"):
    id: Natural
    conv: ConversationId
    users: Names


class Leave(Message, frozen=True, tag="leave"):
    id: Natural
    conv: ConversationId


class SetRole(Message, frozen=True, tag="role"):
    id: Natural
    conv: ConversationId
    user: Name
    role: Role


class Rename(Message, frozen=True, tag="rename"):
    id: Natural
    conv: ConversationId
    title: Title


class Block(Message, frozen=True, tag="block"):
    id: Natural
    user: Name
    on: bool


class Blocked(Message, frozen=True, tag="blocked"):
    id: Natural


class Pin(Message, frozen=True, tag="pin"):
    id: Natural
    conv: ConversationId
    seq: Positive
    on: bool


class Pins(Message, frozen=True, tag="pins"):
    id: Natural
    conv: ConversationId
    after: Natural | UnsetType = UNSET


class Mute(Message, frozen=True, tag="mute"):
    """``until``: milliseconds since the Unix epoch; 0 ends it, MAX_INTEGER is for good."""

    id: Natural
    conv: ConversationId
    until: Natural


class Search(Message, frozen=True, tag="search", rename={"sender": "from"}):
    """``before`` and ``after``: milliseconds since the Unix epoch."""

    id: Natural
    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY_CHARS)]
    conv: ConversationId | UnsetType = UNSET
    sender: Name | UnsetType = UNSET
    before: Natural | UnsetType = UNSET
    after: Natural | UnsetType = UNSET
    order: Literal["newest", "ranked"] = "newest"
    cursor: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    limit: Limit = 50


class Find(Message, frozen=True, tag="find"):
    """``conv``: only among the members of this conversation, for mentions."""

    id: Natural
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TITLE_CHARS)]
    conv: ConversationId | UnsetType = UNSET
    limit: Limit = 20


class Devices(Message, frozen=True, tag="devices"):
    id: Natural


class SignOut(Message, frozen=True, tag="sign_out"):
    """``device``: also one that was named before names were restricted."""

    id: Natural
    device: Annotated[str, Meta(min_length=1, max_length=MAX_DEVICE_CHARS)]


class Privacy(Message, frozen=True, tag="privacy"):
    """Whether others see one's presence and when one was last there; what is unset stays as it is."""

    id: Natural
    presence: bool | UnsetType = UNSET
    last_seen: bool | UnsetType = UNSET


class RateLimit(Message, frozen=True, tag="rate_limit"):
    id: Natural


ClientMessage = (
    Hello | Send | Edit | Delete | React | Delivered | Read | Typing | Heartbeat | Watch | History
    | Conversations | Create | Members | Add | Remove | Leave | SetRole | Rename | Block | Blocked | Pin | Pins | Mute
    | Search | Find | Devices | SignOut | Privacy | RateLimit
)

# --- server to client -------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag="welcome"):
    user: Name
    device: Device
    session: str
    cseq: Natural
    time: Natural
    heartbeat_ms: Positive
    limits: dict[str, Natural]


class Event(Message, frozen=True, tag="event", rename={"sender": "from"}):
    """One entry of a conversation's log; which optional keys are there depends on ``kind``."""

    conv: ConversationId
    seq: Positive
    at: Natural
    sender: Name
    kind: str
    type: str | UnsetType = UNSET
    body: Body | UnsetType = UNSET
    reply_to: Positive | UnsetType = UNSET
    mentions: list[Name] | UnsetType = UNSET
    target: Positive | UnsetType = UNSET
    emoji: str | UnsetType = UNSET
    removed: bool | UnsetType = UNSET
    title: str | UnsetType = UNSET
    members: list[Name] | UnsetType = UNSET
    user: Name | UnsetType = UNSET
    role: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        _check_body(self.body)


class Live(Message, frozen=True, tag="live"):
    pass


class Ack(Message, frozen=True, tag="ack"):
    cseq: Positive
    conv: ConversationId
    seq: Positive
    at: Natural
    repeat: bool = False


class Receipt(Message, frozen=True, tag="receipt"):
    """With ``seq``, in large groups: how many members have the message ``seq`` of ``user``, which is oneself."""

    conv: ConversationId
    user: Name
    delivered: Natural
    read: Natural
    seq: Positive | UnsetType = UNSET


class TypingNotice(Message, frozen=True, tag="typing"):
    conv: ConversationId
    user: Name
    on: bool


class Presence(Message, frozen=True, tag="presence"):
    user: Name
    status: Literal["online", "away", "offline"]
    last_seen: Natural | UnsetType = UNSET


class HeartbeatAnswer(Message, frozen=True, tag="heartbeat"):
    time: Natural


class Ok(Message, frozen=True, tag="ok"):
    """The answer to a message with ``id``; the further keys depend on the request."""

    id: Natural
    conv: ConversationId | UnsetType = UNSET
    events: list[dict[str, Any]] | UnsetType = UNSET
    last: Natural | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    items: list[dict[str, Any]] | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    members: list[dict[str, Any]] | UnsetType = UNSET
    users: list[Name] | UnsetType = UNSET
    devices: list[dict[str, Any]] | UnsetType = UNSET
    privacy: dict[str, bool] | UnsetType = UNSET
    limits: list[dict[str, Any]] | UnsetType = UNSET


class Error(Message, frozen=True, tag="error"):
    code: str
    message: str
    id: Natural | UnsetType = UNSET
    cseq: Positive | UnsetType = UNSET
    expected: Positive | UnsetType = UNSET
    retry_after_ms: Natural | UnsetType = UNSET


class Bye(Message, frozen=True, tag="bye"):
    code: Natural
    reason: str
    retry_after_ms: Natural | UnsetType = UNSET


ServerMessage = (
    Welcome | Event | Live | Ack | Receipt | TypingNotice | Presence | HeartbeatAnswer | Ok | Error | Bye
)
