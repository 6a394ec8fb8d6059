"""What the generator has to know about a server's clients: the interface of all dialects. Sans-I/O, no clock, no socket.

A dialect is used twice in a run:

1. **Set-up**, in Python. The harness connects, sends the upgrade request (``target``, ``subprotocol``), parses WebSocket
   frames and answers pings. Above that a dialect talks in whole messages (payloads of frames), by generator functions:
   see ``Talk``. In order, each step for all users before the next one begins: ``login`` for every user; ``found`` once
   for every channel, by its first member; ``join`` by every member of every channel, the founder too.
2. **The timed run**, in C (``engine``). It knows no dialect: it sends what ``send_program`` says, and judges what comes
   by ``incoming``, in this order: ack, delivery (a message with a stamp in it), reply, counted. Anything else that comes is
   a fault, which ends the run with the message shown. So does a frame that is masked, fragmented, or a close.

**The stamp.** Every body begins with 43 ASCII bytes ``~SSSSSS.KKKKKK.CCCCCCCCCC.TTTTTTTTTTTTTTTT~``: number of the
sending user, number of the channel, count of this sender in this channel (1, 2, 3, ...), intended time in us of
CLOCK_MONOTONIC; then ``x`` up to ``body_bytes``. Nothing in it needs escaping in JSON or XML. The engine finds it wherever
it stands, and checks for every delivery: the next count of its sender in its channel, for a member of that channel; the whole
body; a length of the rest that never varies (``Incoming.length_slack``); and the next log position where there is one. Every
64th delivery is kept, the last 4096 of them in each process, and ``judge`` looks at those after the
run. At the end expected = received for every recipient.

**Adding one**: a module here with a class derived from ``Dialect``, and its name in ``dialects/registry.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Literal, TypeAlias, TypeVar

from chatd_bench.faults import NotOffered

T = TypeVar("T")

Talk: TypeAlias = Generator[None, bytes, T]
"""A part of a conversation with the server, before the timed run. ``message = yield`` waits for the server's next message
(text messages as UTF-8); ``session.send`` queues one to it, which goes out at the next ``yield`` or at the end. What it
returns is the result. It passes over messages that mean nothing to it, and raises RunFailed with the server's words where
it is refused. A message that comes while no talk is going on waits for the next one, or for the engine. Example::

    def login(self, session: Session) -> Talk[None]:
        session.send(b'40{"token":"..."}')
        while not (answer := (yield)).startswith(b"40"):
            if answer.startswith(b"44"):
                raise RunFailed(f"{session.user.name}: {answer!r}")
"""

STAMP_BYTES = 43
MIN_BODY_BYTES = 48


@dataclass(frozen=True)
class User:
    """``number`` is 0, 1, 2, ... over the whole run; ``name`` is unique and fits ``[a-z0-9-]{1,24}``, all of one length."""

    number: int
    name: str


@dataclass(frozen=True)
class Channel:
    """What is written to: two users (``pair``) or a ``group``. ``members[0]`` is its founder.

    ``number`` is 0, 1, 2, ... over the whole run; ``name`` is unique and fits ``[a-z0-9-]{1,24}``.
    """

    number: int
    kind: Literal["pair", "group"]
    name: str
    members: tuple[User, ...]

    def other(self, user: User) -> User:
        """The other one of a pair."""
        one, two = self.members
        return two if user == one else one


@dataclass
class Session:
    """One user's connection, as the dialect sees it. Talks may write to all but ``user``.

    ``cseq``: the number of the last message that the client has sent; the engine begins with the next one, counts by one
    over all channels, and finds acks by it. ``ack_offset``: what to subtract from the number in an ack to get the cseq
    (XMPP's ``h`` counts other stanzas as well). ``facts``: the dialect's own, as an id that it was given.
    """

    user: User
    cseq: int = 0
    ack_offset: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    out: list[bytes] = field(default_factory=list)

    def send(self, message: bytes) -> None:
        """Queue a message to the server."""
        self.out.append(message)


class Field(IntEnum):
    """What the engine fills in, in a ``Program``. (The values are known to engine.c.)"""

    BODY = 1
    """The stamp and what fills it up to ``body_bytes``; once in a send program, nowhere else."""
    CSEQ_CBOR = 2
    """The cseq as a CBOR unsigned integer, shortest form."""
    CSEQ_DECIMAL = 3
    POSITION_CBOR = 4
    """In a ``Mark``: the log position of the last delivery."""
    POSITION_DECIMAL = 5
    NEXT_FRAME = 6
    """Ends one WebSocket message and begins another: as a request for an ack behind each message."""


Program: TypeAlias = Sequence[bytes | Field]
"""A message to be sent: literal bytes, and what the engine fills in. It makes frame, length and mask."""


class Number(Enum):
    """How a number stands in a message from the server."""

    CBOR = 1
    DECIMAL = 2


@dataclass(frozen=True)
class Match:
    """Whether a message is of a kind: it has ``prefix`` at the offset ``at``."""

    prefix: bytes
    at: int = 0


@dataclass(frozen=True)
class Ack:
    """The server's word that it has a message: the number stands right behind ``match``.

    ``cumulative``: it acknowledges everything up to that number. ``position``: it also takes the message's place in the
    log of its channel, found by ``Incoming.position`` (else the log is that of deliveries alone).
    """

    match: Match
    number: Number
    cumulative: bool = False
    position: bool = False


@dataclass(frozen=True)
class Position:
    """Where a channel's log position stands in a delivery: behind the first ``key`` in the message. It grows by one."""

    key: bytes
    number: Number


@dataclass(frozen=True)
class Reply:
    """What is answered at once: as Engine.IO's ``2`` with ``3``. (WebSocket pings are answered anyway.)"""

    match: Match
    answer: bytes


@dataclass(frozen=True)
class Counted:
    """What may come, and is only counted, under ``name``; several may have the same name."""

    name: str
    match: Match


@dataclass(frozen=True)
class Incoming:
    """All that the server may say during the timed run. ``length_slack``: by how many bytes deliveries of one channel may
    differ in length, body and position not counted; 0 where nothing else in them varies."""

    ack: Ack | None
    position: Position | None
    replies: tuple[Reply, ...] = ()
    counted: tuple[Counted, ...] = ()
    length_slack: int = 0


@dataclass(frozen=True)
class Mark:
    """A message that is sent after every ``every`` deliveries in a channel, as chatd's ``delivered``."""

    every: int
    program: Program


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life every ``seconds``. ``answer``: the name of the ``Counted`` that answers it, if one does; then the run
    fails where answers are missing at its end."""

    seconds: float
    message: bytes
    answer: str | None = None


@dataclass(frozen=True)
class Delivery:
    """What a delivery has to say: for ``judge``."""

    sender: User
    recipient: User
    channel: Channel
    address: str
    body: str


@dataclass(frozen=True)
class Event:
    """One entry of a channel's log, as a page of history shows it. ``position`` counts from 1; ``body`` is of messages."""

    address: str
    position: int
    sender: str
    kind: str
    body: str | None


class Dialect(ABC):
    """One server's clients. Made once in every generator process, from what the server's start gave as ``credentials``.

    Without an ack (``Incoming.ack`` is None) the closed loop counts a message as done when it comes back to its sender
    (``echoes``), or else when it has come to one of its recipients; there are no ack latencies then.
    """

    name: str
    subprotocol: str | None = None
    text = True
    """Whether messages are text frames, or binary ones."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self.credentials = credentials

    def target(self, user: User) -> str:
        """The path and query of the upgrade request."""
        return "/"

    @abstractmethod
    def login(self, session: Session) -> Talk[None]:
        """From the upgrade on until messages may be sent and are received."""

    def found(self, session: Session, channel: Channel) -> Talk[str]:
        """Make a channel, as its first member; returns its address, whatever ``join`` and ``send_program`` need of it.

        At this time all members are logged in. The default is for servers where it is enough to join: the channel's name.
        """
        return channel.name
        yield

    def join(self, session: Session, channel: Channel, address: str) -> Talk[int]:
        """Be a member from now on; returns the position of the log where this member stands (0 where there is none).

        The first delivery then has the next one.
        """
        return 0
        yield

    @abstractmethod
    def send_program(self, session: Session, channel: Channel, address: str, body_bytes: int) -> Program:
        """How this user writes to this channel."""

    @abstractmethod
    def incoming(self) -> Incoming:
        """What the server says during the timed run."""

    @abstractmethod
    def judge(self, message: bytes, delivery: Delivery) -> str | None:
        """Decode a delivery in full and compare it: None, or in words what is wrong."""

    def echoes(self, channel: Channel) -> bool:
        """Whether a sender gets its own messages back as deliveries, as in XMPP's MUC."""
        return False

    def mark(self, session: Session, channel: Channel, address: str) -> Mark | None:
        """What recipients send now and then."""
        return None

    def heartbeat(self, session: Session) -> Heartbeat | None:
        """What clients send to stay connected."""
        return None

    def catch_up(self, session: Session, channel: Channel, address: str) -> Talk[list[bytes]]:
        """In place of ``login``, for one who was away: log in, and return the messages that were missed in this channel,
        each as it came and in order. It ends when the server says that there is no more. Raises NotOffered."""
        raise NotOffered(f"{self.name}: nothing is kept for who is away")
        yield

    def position_of(self, message: bytes) -> int:
        """Where in the channel's log a message of ``catch_up`` stands. Raises RunFailed where it does not say."""
        raise NotOffered(f"{self.name}: no log")

    def page(self, session: Session, address: str, before: int | None, limit: int) -> Talk[Any]:
        """Ask for a page of history, the newest one or the one before a position; returns the answer, for ``events``.
        Raises NotOffered."""
        raise NotOffered(f"{self.name}: no history")
        yield

    def events(self, answer: Any) -> list[Event]:
        """What is in an answer of ``page``, in its order; called later, for this is no part of what is timed."""
        raise NotOffered(f"{self.name}: no history")
