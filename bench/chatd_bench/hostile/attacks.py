"""What an attacker does: one class for each kind, and the catalogue of those that are measured.

An attack is a thing that is done ``rate`` times a second; ``act`` does it once, and waits for nothing. It is bounded by that, so
that it is the server that is measured, and not how much of the machine an attacker can take.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import count

import cbor2

from chatd_bench.hostile.account import Account
from chatd_bench.hostile.sockets import Socket, Sockets
from chatd_bench.websocket import BINARY, PING, client_frame, frame_head

FIN = 0x80
CONTINUATION = 0
LIMIT = 64 * 1024
"""Of a client's message."""
CHUNK_BYTES = 32 * 1024
CROWD = 1000
"""As many as one address may have by default."""
DEVICES = 20
SPOKEN = 300
"""Messages that the attacker has in its own log: fewer than the burst that one may send."""
PAGE = 200
WORDS = 50


class Attack(ABC):
    """``rate``: how many times a second ``act`` is called. ``grouped``: the others write to groups of which the attacker is a
    member, in messages of ``body_bytes``, and not to each other."""

    rate = 100.0
    grouped = False
    body_bytes: int | None = None

    def __init__(self, sockets: Sockets, account: Account) -> None:
        self.sockets = sockets
        self.account = account

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Before anybody is measured. Raises RunFailed."""

    @abstractmethod
    def act(self) -> None:
        """Once."""


class Nobody(Attack):
    """Does nothing: what the figures are worth."""

    def act(self) -> None:
        return


# --- crowds: who comes, and does not go on -----------------------------------------------------------


class Crowd(Attack):
    """One more comes, and the oldest goes where there are too many. ``first`` is said at once, ``then`` now and then."""

    rate = 500.0
    then = b""

    def act(self) -> None:
        if len(self.sockets) >= CROWD:
            self.sockets.close(self.sockets.oldest)
        self.sockets.connect(self.first())
        if self.then and self.sockets and (oldest := self.sockets.oldest).idle:
            self.sockets.say(oldest, self.then)

    @abstractmethod
    def first(self) -> bytes:
        """What one says who has come."""


class Silent(Crowd):
    """Connections that say nothing."""

    def first(self) -> bytes:
        return b""


class HalfRequests(Crowd):
    """Heads of requests that go on a byte at a time, and do not end."""

    then = b"x"

    def first(self) -> bytes:
        return b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX-Long: "


class HalfHellos(Crowd):
    """WebSockets whose hello does not end."""

    then = b"\0"

    def first(self) -> bytes:
        return self.account.request + frame_head(BINARY, 4096, self.account.key)


class ForgedHellos(Crowd):
    """WebSockets whose token has a signature that is not good."""

    def first(self) -> bytes:
        return self.account.hello(token=self.account.forged)


# --- floods: of one who is signed in, and signs in again when cut --------------------------------------


class Flood(Attack):
    """One connection says ``chunk`` whenever the kernel takes it; where it is cut, the next one comes."""

    def __init__(self, sockets: Sockets, account: Account) -> None:
        super().__init__(sockets, account)
        self._sock: Socket | None = None
        self._chunks = self.chunks()

    def act(self) -> None:
        sock = self._sock
        if sock is None or not sock.open:
            self._sock = self.sockets.connect(self.account.hello())
        elif sock.live and sock.idle:
            self.sockets.say(sock, next(self._chunks))

    @abstractmethod
    def chunks(self) -> Iterator[bytes]:
        """One after another, without end."""


def _same(data: bytes) -> Iterator[bytes]:
    """About CHUNK_BYTES of it, again and again."""
    chunk = data * max(1, CHUNK_BYTES // len(data))
    while True:
        yield chunk


class Pings(Flood):
    """Empty pings."""

    def chunks(self) -> Iterator[bytes]:
        return _same(client_frame(b"", self.account.key, PING))


class Heartbeats(Flood):
    """Heartbeats."""

    def chunks(self) -> Iterator[bytes]:
        return _same(self.account.frame({"t": "heartbeat"}))


class Fragments(Flood):
    """Heartbeats in fragments of one byte."""

    def chunks(self) -> Iterator[bytes]:
        message, key = cbor2.dumps({"t": "heartbeat"}), self.account.key
        last = len(message) - 1
        opcodes = [(CONTINUATION if at else BINARY & ~FIN) | (FIN if at == last else 0) for at in range(len(message))]
        frames = [client_frame(message[at : at + 1], key, opcode) for at, opcode in enumerate(opcodes)]
        return _same(b"".join(frames))


class Messages(Flood):
    """Messages to itself, ten times as many as it may."""

    rate = 100.0
    each = 10

    def chunks(self) -> Iterator[bytes]:
        numbers = count(1)
        while True:
            said = [{"t": "send", "cseq": next(numbers), "to": f"@{self.account.name}", "body": "x"} for _ in range(self.each)]
            yield b"".join(map(self.account.frame, said))


class Bombs(Flood):
    """Messages of 64 KiB that are one list of empty lists, in a key that nobody knows."""

    def chunks(self) -> Iterator[bytes]:
        return _same(client_frame(bomb(), self.account.key))


class Broken(Flood):
    """The same, but for the last byte, which is none of CBOR."""

    def chunks(self) -> Iterator[bytes]:
        return _same(client_frame(bomb()[:-1] + b"\xff", self.account.key))


class Oversize(Flood):
    """Messages of a byte too much, each of which ends the connection."""

    def chunks(self) -> Iterator[bytes]:
        return _same(frame_head(BINARY, LIMIT + 1, self.account.key))


def bomb() -> bytes:
    """A heartbeat with as many empty lists in it as there is room for."""
    head = cbor2.dumps({"t": "heartbeat", "x": []})[:-1]
    lists = LIMIT - len(head) - 3
    return head + b"\x99" + lists.to_bytes(2, "big") + b"\x80" * lists


class Asking(Flood):
    """Requests, ten times as many as it may, in a log of SPOKEN messages of its own."""

    rate = 100.0
    each = 10

    def prepare(self) -> None:
        to = f"@{self.account.name}"
        said = [{"t": "send", "cseq": number, "to": to, "body": _text(number)} for number in range(1, SPOKEN + 1)]
        acks = self.account.signed_in(said, lambda heard: sum(message["t"] == "ack" for message in heard) == SPOKEN)
        self.account.conv = acks[-1]["conv"]

    def chunks(self) -> Iterator[bytes]:
        for first in count(1, self.each):
            yield b"".join(self.account.frame({"id": number, **self.asked()}) for number in range(first, first + self.each))

    @abstractmethod
    def asked(self) -> dict[str, object]:
        """One request."""


def _text(number: int) -> str:
    return f"word{number % WORDS} " + " ".join(f"other{random.randrange(1000)}" for _ in range(100))


class Pages(Asking):
    """Pages of history, the longest that there are."""

    def asked(self) -> dict[str, object]:
        return {"t": "history", "conv": self.account.conv, "limit": PAGE}


class Searches(Asking):
    """Searches that find something."""

    def asked(self) -> dict[str, object]:
        return {"t": "search", "query": f"word{random.randrange(WORDS)}"}


# --- who does not read ----------------------------------------------------------------------------------


class Deaf(Attack):
    """DEVICES connections that get what the others write, and read nothing of it; each comes anew after a while."""

    rate = DEVICES / 4
    grouped = True
    body_bytes = 4000

    def __init__(self, sockets: Sockets, account: Account) -> None:
        super().__init__(sockets, account)
        self._numbers = count()

    def prepare(self) -> None:
        self.account.signed_in((), lambda _: True)

    def act(self) -> None:
        while len(self.sockets) >= DEVICES:
            self.sockets.close(self.sockets.oldest)
        self.sockets.connect(self.account.hello(f"d{next(self._numbers) % DEVICES}"), deaf=True)


class Returning(Deaf):
    """The same, coming anew so often that it is the replay of what they missed that they do not read."""

    rate = 20.0


ATTACKS: Mapping[str, type[Attack]] = {
    "nobody": Nobody, "silent": Silent, "half-requests": HalfRequests, "half-hellos": HalfHellos, "forged-hellos": ForgedHellos,
    "pings": Pings, "heartbeats": Heartbeats, "fragments": Fragments, "messages": Messages, "bombs": Bombs, "broken": Broken,
    "oversize": Oversize, "pages": Pages, "searches": Searches, "deaf": Deaf, "returning": Returning,
}  # fmt: skip
