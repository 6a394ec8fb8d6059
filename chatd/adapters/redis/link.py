"""One connection to a Redis server: RESP3, commands in, replies matched to them in order, push frames to a callback.

Owns the stream, the outbox of packed commands and the queue of replies still due. Waits for the network only, and
never on behalf of a caller of ``post``. ``run`` ends only when cancelled; every other end of a connection is followed
by a new one after a pause. What was under way when a connection ends is answered with LinkDown and never sent again:
only the caller knows whether repeating it does harm.

Bounds: the outbox 64 MiB and the replies due 65,536 entries (beyond either, commands are refused), one unfinished reply
16 MiB (beyond, the connection is dropped).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeAlias

import hiredis
import outcome
import structlog
import trio

from chatd.adapters.redis.address import Address, connect

log = structlog.get_logger(__name__)

Argument: TypeAlias = bytes | str | int | float
Reply: TypeAlias = object
"""bytes, int, float, bool, None, list or dict of those, as RESP3 has it; check it before use."""

OUTBOX_LIMIT = 64 * 1024 * 1024
WAITING_LIMIT = 65_536
REPLY_LIMIT = 16 * 1024 * 1024
"""16 times the largest message of a chatd server; nothing that chatd asks for is answered with more."""
CHUNK = 64 * 1024
CONNECT_DEADLINE = 5.0
PING_EVERY = 5.0
PAUSE_FIRST = 0.05
PAUSE_LONGEST = 2.0
STEADY_AFTER = 5.0
"""A connection that lived this many seconds was a good one: the next pause is the shortest again."""

_NOTHING = object()


class Refusal(StrEnum):
    """Why a command was not carried out."""

    FULL = "full"  # not sent: the outbox or the queue of replies due is at its bound
    DENIED = "denied"
    READ_ONLY = "read_only"
    NOT_READY = "not_ready"
    OUT_OF_MEMORY = "out_of_memory"
    MOVED = "moved"
    NO_SCRIPT = "no_script"
    WRONG_TYPE = "wrong_type"
    OTHER = "other"


_REFUSALS = {
    "NOAUTH": Refusal.DENIED,
    "WRONGPASS": Refusal.DENIED,
    "NOPERM": Refusal.DENIED,
    "DENIED": Refusal.DENIED,
    "READONLY": Refusal.READ_ONLY,
    "LOADING": Refusal.NOT_READY,
    "BUSY": Refusal.NOT_READY,
    "MASTERDOWN": Refusal.NOT_READY,
    "CLUSTERDOWN": Refusal.NOT_READY,
    "TRYAGAIN": Refusal.NOT_READY,
    "OOM": Refusal.OUT_OF_MEMORY,
    "MISCONF": Refusal.READ_ONLY,
    "MOVED": Refusal.MOVED,
    "ASK": Refusal.MOVED,
    "NOSCRIPT": Refusal.NO_SCRIPT,
    "WRONGTYPE": Refusal.WRONG_TYPE,
}


class LinkDown(Exception):
    """There is no connection, or it ended before the reply came; whether the command was carried out is unknown."""


class CommandRefused(Exception):
    """The command was not carried out, for one of the reasons in ``Refusal``.

    Carries no text of the server's: an old Redis repeats the arguments of a HELLO that it does not know, with the
    password among them.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class _Due:
    """A run of replies that the server still owes: ``left`` of them, for one waiting task or for nobody."""

    __slots__ = ("confirms", "left", "task", "then")

    def __init__(
        self, left: int, task: trio.lowlevel.Task | None, *, confirms: bool, then: Callable[[], None] | None = None
    ) -> None:
        self.left = left
        self.task = task
        self.confirms = confirms
        self.then = then


_FAULTS = (OSError, trio.BrokenResourceError, trio.TooSlowError, UnicodeError, LinkDown, CommandRefused)


class Link:
    """A connection that comes back. One task runs ``run``; any task of the same Trio loop may call the rest."""

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        jitter: Callable[[], float],
        on_push: Callable[[list[Reply]], None],
        on_up: Callable[[], Awaitable[None]],
        on_down: Callable[[], None],
    ) -> None:
        """``name`` shows in logs and in CLIENT LIST. ``jitter`` returns numbers in [0, 1).

        ``on_push`` gets each push frame but confirmations. ``on_up`` runs in a task of the connection once the
        handshake is done; LinkDown or CommandRefused from it end the connection. ``on_down`` is called when a
        connection that was up has ended, but not when ``run`` is cancelled.
        """
        self.up = False
        self.opened = 0
        self.refused = 0
        self.unanswered = 0
        self._address = address
        self._name = name
        self._jitter = jitter
        self._on_push = on_push
        self._on_up = on_up
        self._on_down = on_down
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._bell = trio.lowlevel.ParkingLot()
        self._due: deque[_Due] = deque()
        self._heard = 0
        self._reason = ""
        self._scope = trio.CancelScope()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of commands that the connection has not taken yet."""
        return self._outbox_bytes

    async def call(self, *command: Argument) -> Reply:
        """Send one command and return its reply. Raises LinkDown, CommandRefused; an error within an array is a value.

        Cancelling is safe: the command may still be carried out, and its reply is thrown away in its turn.
        """
        if not self.up:
            # Without it a caller that simply tries again would never let the link's own tasks run.
            await trio.lowlevel.checkpoint()
            raise LinkDown(self._reason or "not connected")
        return await self._ask(_pack(command), 1, confirms=False)

    async def confirm(self, command: bytes, *arguments: bytes) -> None:
        """Send a command that RESP3 answers with one push frame per argument (SUBSCRIBE, UNSUBSCRIBE); wait for all.

        Raises and is cancelled as ``call``.
        """
        if not self.up:
            await trio.lowlevel.checkpoint()
            raise LinkDown(self._reason or "not connected")
        await self._ask(_pack((command, *arguments)), len(arguments), confirms=True)

    def post(self, *command: Argument) -> bool:
        """Send one command whose reply nobody waits for. False if there is no connection or a bound is reached."""
        return self.post_packed(_pack(command), 1)

    def post_packed(self, commands: bytes, count: int) -> bool:
        """Do the same for ``count`` commands that the caller has packed: all of them are sent, or none."""
        if not self.up or not self._has_room(len(commands)):
            return False
        due = self._due
        if due and due[-1].task is None and not due[-1].confirms:
            due[-1].left += count
        else:
            due.append(_Due(count, None, confirms=False))
        self._send(commands)
        return True

    def post_confirmed(self, command: bytes, *arguments: bytes, then: Callable[[], None] | None = None) -> bool:
        """``confirm`` for which nobody waits; ``then`` is called when it has come, if the connection lives so long."""
        packed = _pack((command, *arguments))
        if not self.up or not self._has_room(len(packed)):
            return False
        self._due.append(_Due(len(arguments), None, confirms=True, then=then))
        self._send(packed)
        return True

    def drop(self, reason: str) -> None:
        """End the connection now; ``run`` opens the next one. For an owner whose view of the server may be wrong."""
        if not self._reason:
            self._reason = reason
        self.up = False
        self._scope.cancel()

    async def run(self) -> None:
        """Connect, serve, after each end pause and connect again. Ends only when cancelled; waiters get LinkDown."""
        failures = 0
        reported = None
        while True:
            began, opened = trio.current_time(), self.opened
            reason = await self._live()
            was_up = self.opened > opened
            if was_up or reason != reported:
                log.warning("redis.link_lost", link=self._name, server=str(self._address), reason=reason)
                reported = reason
            if was_up:
                self._on_down()
            failures = 0 if was_up and trio.current_time() - began > STEADY_AFTER else failures + 1
            longest = min(PAUSE_LONGEST, PAUSE_FIRST * 2.0 ** min(failures, 16))
            await trio.sleep(self._jitter() * longest)

    async def _live(self) -> str:
        """One connection from its opening to its end; returns why it ended."""
        try:
            with trio.fail_after(CONNECT_DEADLINE):
                stream = await connect(self._address)
        except _FAULTS as fault:
            self._reason = _reason(fault)
            return self._reason
        self._reason = ""
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                for part in (self._read, self._write, self._watch, self._greet):
                    nursery.start_soon(self._until_lost, part, stream)
        finally:
            self._settle_all()
            await trio.aclose_forcefully(stream)
        return self._reason or "closed"

    async def _until_lost(self, part: Callable[[trio.abc.Stream], Awaitable[None]], stream: trio.abc.Stream) -> None:
        try:
            await part(stream)
        except _FAULTS as fault:
            self.drop(_reason(fault))

    async def _greet(self, _stream: trio.abc.Stream) -> None:
        address = self._address
        hello: list[Argument] = ["HELLO", 3]
        if address.password is not None:
            hello += ["AUTH", address.username or "default", address.password]
        hello += ["SETNAME", self._name]
        with trio.fail_after(CONNECT_DEADLINE):
            await self._ask(_pack(tuple(hello)), 1, confirms=False)
            if address.db:
                await self._ask(_pack(("SELECT", address.db)), 1, confirms=False)
        self.up = True
        self.opened += 1
        log.info("redis.link_opened", link=self._name, server=str(address))
        await self._on_up()

    async def _read(self, stream: trio.abc.Stream) -> None:
        reader = hiredis.Reader(notEnoughData=_NOTHING)
        unfinished = 0
        while data := await stream.receive_some(CHUNK):
            self._heard += 1
            replies = _parse(reader, bytes(data))
            unfinished = 0 if replies else unfinished + len(data)
            if unfinished > REPLY_LIMIT:
                message = f"a reply is longer than {REPLY_LIMIT} bytes"
                raise LinkDown(message)
            for reply in replies:
                if type(reply) is not hiredis.PushNotification:
                    self._settle(reply)
                elif reply and (reply[0] == b"subscribe" or reply[0] == b"unsubscribe"):
                    self._settle_confirmation()
                else:
                    self._on_push(reply)
        message = "closed by the server"
        raise LinkDown(message)

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            while not self._outbox:
                await self._bell.park()
            data = b"".join(self._outbox)
            self._outbox.clear()
            await stream.send_all(data)
            self._outbox_bytes -= len(data)

    async def _watch(self, _stream: trio.abc.Stream) -> None:
        """Ask with a PING, and take for dead a peer from which no byte at all comes until the next is due."""
        while True:
            heard = self._heard
            self.post("PING")
            await trio.sleep(PING_EVERY)
            if heard == self._heard:
                message = f"silent for {PING_EVERY:.0f} s"
                raise LinkDown(message)

    async def _ask(self, packed: bytes, replies: int, *, confirms: bool) -> Reply:
        if not self._has_room(len(packed)):
            await trio.lowlevel.checkpoint()
            raise CommandRefused(Refusal.FULL)
        due = _Due(replies, trio.lowlevel.current_task(), confirms=confirms)
        self._due.append(due)
        self._send(packed)

        def leave(_: object) -> trio.lowlevel.Abort:
            # The entry stays and takes its reply: without it every later reply would go to the wrong waiter.
            due.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(leave)

    def _has_room(self, size: int) -> bool:
        return self._outbox_bytes + size <= OUTBOX_LIMIT and len(self._due) < WAITING_LIMIT

    def _send(self, packed: bytes) -> None:
        if not self._outbox:
            self._bell.unpark_all()
        self._outbox.append(packed)
        self._outbox_bytes += len(packed)

    def _settle(self, reply: Reply) -> None:
        if not self._due:
            message = "a reply that nobody asked for"
            raise LinkDown(message)
        due = self._due[0]
        refusal = _refusal(reply) if type(reply) is hiredis.ReplyError else None
        if refusal is not None and due.task is None:
            self.refused += 1
        if due.confirms and refusal is None:
            message = "a reply in the place of a confirmation"
            raise LinkDown(message)
        due.left -= 1
        # A refused SUBSCRIBE is one error, whatever the number of its channels.
        if due.left and not due.confirms:
            return
        self._due.popleft()
        if due.task is not None:
            result = outcome.Value(reply) if refusal is None else outcome.Error(CommandRefused(refusal))
            trio.lowlevel.reschedule(due.task, result)

    def _settle_confirmation(self) -> None:
        if not self._due or not self._due[0].confirms:
            message = "a confirmation that nobody asked for"
            raise LinkDown(message)
        due = self._due[0]
        due.left -= 1
        if not due.left:
            self._due.popleft()
            if due.task is not None:
                trio.lowlevel.reschedule(due.task, outcome.Value(None))
            if due.then is not None:
                due.then()

    def _settle_all(self) -> None:
        """Answer everything under way with LinkDown: the connection has ended."""
        self.up = False
        lost, self._due = self._due, deque()
        self._outbox.clear()
        self._outbox_bytes = 0
        for due in lost:
            if due.task is not None:
                trio.lowlevel.reschedule(due.task, outcome.Error(LinkDown(self._reason or "closed")))
            elif not due.confirms:
                self.unanswered += due.left


def _pack(command: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # the stub takes it for a tuple of one
    return packed


def _parse(reader: hiredis.Reader, data: bytes) -> list[Reply]:
    try:
        reader.feed(data)
        return list(iter(reader.gets, _NOTHING))
    except (hiredis.HiredisError, MemoryError, TypeError) as fault:
        # MemoryError: an array announced with 2^32 elements. TypeError: a map whose key is itself an array.
        message = "not RESP3"
        raise LinkDown(message) from fault


def _refusal(error: Reply) -> Refusal:
    if str(error) == "ERR Function not found":  # FCALL has no error code of its own, as EVALSHA has
        return Refusal.NO_SCRIPT
    return _REFUSALS.get(str(error).partition(" ")[0], Refusal.OTHER)


def _reason(fault: BaseException) -> str:
    if isinstance(fault, CommandRefused):
        return f"refused: {fault}"
    if isinstance(fault, trio.TooSlowError):
        return "no answer in time"
    # Trio's BrokenResourceError is silent; what is worth reading (a certificate refused) is the error behind it.
    return (str(fault) or str(fault.__cause__ or "") or type(fault).__name__)[:200]
