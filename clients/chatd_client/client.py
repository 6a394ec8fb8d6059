"""The client library's face: one device of one user, connected for as long as the ``async with`` lasts."""

from __future__ import annotations

import random
import secrets
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from chatd_protocol.messages import MAX_WATCHED, Ack, Read, Welcome

from chatd_client import wire
from chatd_client.api import endpoint
from chatd_client.errors import ClientError, OutboxFull
from chatd_client.outbox_file import OutboxFile
from chatd_client.questions import Questions
from chatd_client.session import Session, TokenSource

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from chatd_client.facts import ConnectionState, Fact
    from chatd_client.outbox import Queued

AGENT = "chatd-client-python"
STOP_S = 2.0


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: str | None = None,
    token_source: TokenSource | None = None,
    device: str,
    state_dir: str | Path | None = None,
    encoding: wire.Encoding = wire.Encoding.CBOR,
    rng: random.Random | None = None,
    ssl_context: ssl.SSLContext | None = None,
    agent: str = AGENT,
) -> AsyncIterator[Client]:
    """Keep one device connected while the block runs; does not wait for the first connection.

    ``token_source`` is asked at the first connection, and once more whenever the server does not take the token any
    more. ``state_dir`` keeps what was sent and not yet stored, and what was seen, across runs of the program; None
    keeps both in memory. Raises StateInUse, ValueError (URL), OSError (directory). Leaving the block waits up to
    STOP_S for an orderly close; messages still queued stay in ``state_dir``.
    """
    at = endpoint(url)
    if (token is None) == (token_source is None):
        raise ValueError("give either token or token_source")

    async def fixed() -> str:
        return token or ""

    file = OutboxFile(Path(state_dir) if state_dir is not None else None, device)
    session = Session(
        at,
        token_source or fixed,
        renewable=token_source is not None,
        device=device,
        file=file,
        encoding=encoding,
        rng=rng or random.Random(),  # noqa: S311 - spreads reconnections, keeps no secret
        ssl_context=ssl_context,
        agent=agent,
    )
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            try:
                yield Client(session, file, encoding)
            except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery, which would wrap it in a group
                failure = error
            with trio.move_on_after(STOP_S):
                await session.stopped()
            nursery.cancel_scope.cancel()
    finally:
        session.save_positions()
        file.close()
    if failure is not None:
        raise failure


class _Events:
    """An iterator and not a generator: leaving a generator in the middle leaves its clean-up to the garbage
    collector.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> Fact:
        return await self._session.next_fact()


class Client(Questions):
    """What ``open_client`` gives. Coroutines raise SessionEnded once the server has ended the session for good."""

    def __init__(self, session: Session, file: OutboxFile, encoding: wire.Encoding) -> None:
        super().__init__(session)
        self._file, self._encoding = file, encoding

    # --- what is known --------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """The connection's state at this moment."""
        return self._session.state

    @property
    def welcome(self) -> Welcome | None:
        """The server's welcome of this session, None while there is none."""
        return self._session.welcome

    @property
    def silent_s(self) -> float:
        """For how many seconds nothing has come from the server while it owed an answer; 0 while it owes none."""
        since = self._session.owed_since
        return 0.0 if since is None else trio.current_time() - since

    def pending(self) -> list[Queued]:
        """Messages not known to be stored, oldest first."""
        return self._file.outbox.items()

    async def wait_for(self, state: ConnectionState) -> None:
        """Wait for a state of the connection, such as ``live``. Cancelling is safe."""
        while self._session.state != state:
            if self._session.ended is not None:
                raise self._session.ended
            await self._session.changed.wait()
        await trio.lowlevel.checkpoint()

    def events(self) -> AsyncIterator[Fact]:
        """Everything that happens, in order; for one consumer.

        An event counts as handled when the next one is asked for: only then its position is kept and ``delivered``
        sent, so that a program which dies over an event gets it again. Raises SessionEnded at the end. Cancelling is
        safe.
        """
        return _Events(self._session)

    def hurry(self) -> None:
        """Try to connect now, rather than when the wait between attempts is over."""
        self._session.hurry()

    # --- messages -------------------------------------------------------------------------------

    async def send(
        self,
        to: str,
        body: str | bytes,
        *,
        type: str = "text",
        reply_to: int | None = None,
        mentions: Sequence[str] | None = None,
    ) -> Ack:
        """Send a message to a conversation or ``@name`` and wait until it is stored, across reconnects.

        Raises Refused (for good), MessageRejected, OutboxFull, Withdrawn, OSError (state_dir). Cancelling ends the waiting
        only: the message stays queued and will be sent.
        """
        return await self._stored(self.post(to, body, type=type, reply_to=reply_to, mentions=mentions))

    def post(
        self,
        to: str,
        body: str | bytes,
        *,
        type: str = "text",
        reply_to: int | None = None,
        mentions: Sequence[str] | None = None,
    ) -> Queued:
        """Queue a message without waiting; ``Stored`` or ``SendRefused`` with the same key follows in ``events``.

        A program that posts must read ``events``: outcomes that nobody reads take room in the outbox.

        On return it is safe from a crash of the program (with state_dir). Raises MessageRejected, OutboxFull,
        OSError.
        """
        fields: dict[str, Any] = {"t": "send", "to": to, "body": body, "type": type}
        if reply_to is not None:
            fields["reply_to"] = reply_to
        if mentions:
            fields["mentions"] = list(mentions)
        return self._queue(fields)

    async def edit(self, conv: str, seq: int, body: str | bytes) -> Ack:
        """Replace the body of one's own message; waits and raises as ``send`` does."""
        return await self._stored(self.post_edit(conv, seq, body))

    async def delete(self, conv: str, seq: int) -> Ack:
        """Delete a message; waits and raises as ``send`` does."""
        return await self._stored(self.post_delete(conv, seq))

    async def react(self, conv: str, seq: int, emoji: str, *, remove: bool = False) -> Ack:
        """Add or take back a reaction; waits and raises as ``send`` does."""
        return await self._stored(self.post_reaction(conv, seq, emoji, remove=remove))

    def post_edit(self, conv: str, seq: int, body: str | bytes) -> Queued:
        """Queue an edit without waiting, as ``post`` does."""
        return self._queue({"t": "edit", "conv": conv, "seq": seq, "body": body})

    def post_delete(self, conv: str, seq: int) -> Queued:
        """Queue a delete without waiting, as ``post`` does."""
        return self._queue({"t": "delete", "conv": conv, "seq": seq})

    def post_reaction(self, conv: str, seq: int, emoji: str, *, remove: bool = False) -> Queued:
        """Queue a reaction, or taking it back, without waiting, as ``post`` does."""
        return self._queue({"t": "react", "conv": conv, "seq": seq, "emoji": emoji, "remove": remove})

    def withdraw(self, item: Queued) -> bool:
        """Take back what was queued and is certain not to be stored; no outcome follows, and who waits in ``send`` gets
        Withdrawn. False: it was sent, so it may be stored, or its outcome is known already.
        """
        return self._session.withdraw(item)

    def read(self, conv: str, seq: int) -> None:
        """Everything up to ``seq`` was read; told to the server soon, or on return."""
        self._session.mark(Read, conv, seq)

    def typing(self, conv: str, on: bool) -> None:
        """Say that the user is typing; a lease of 6 s, to be renewed. Lost while offline."""
        if self._session.welcome is not None:
            self._session.passing.typing(conv, on)
            self._session.wake()

    def watch(self, users: Sequence[str]) -> None:
        """The users whose presence is on screen, at most MAX_WATCHED; replaces the earlier set, and holds across
        reconnects. Raises ValueError for more.
        """
        if len(users) > MAX_WATCHED:
            raise ValueError(f"at most {MAX_WATCHED} users can be watched, not {len(users)}")
        self._session.passing.watch(users)
        self._session.wake()

    def set_active(self, active: bool) -> None:
        """Whether somebody is at the screen (at first: yes). Told at once where it changes, and by every heartbeat."""
        self._session.set_active(active)

    async def drained(self) -> None:
        """Wait until nothing is queued any more. Cancelling is safe."""
        while self.pending():
            if self._session.ended is not None:
                raise self._session.ended
            await self._session.settled.wait()
        await trio.lowlevel.checkpoint()

    # --- inside -----------------------------------------------------------------------------------

    def _queue(self, fields: dict[str, Any]) -> Queued:
        if self._session.ended is not None:
            raise self._session.ended
        size = wire.checked_size(fields, self._encoding)
        facts = self._session.facts
        if self._file.outbox.is_full(size, unread_items=facts.outcomes, unread_bytes=facts.outcome_bytes):
            raise OutboxFull("too much is waiting to be stored, or stored and not yet read from events()")
        return self._session.queue(secrets.token_hex(8), fields, int(time.time() * 1000), size)

    async def _stored(self, item: Queued) -> Ack:
        send, receive = trio.open_memory_channel[Ack | ClientError](1)
        self._session.outcomes[item.key] = send.send_nowait
        try:
            outcome = await receive.receive()
        finally:
            self._session.outcomes.pop(item.key, None)
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome
