"""One connection of a session: three tasks around a socket.

The reader hands each message to the session, which never waits; the writer is the only one that sends (a cancelled
send leaves half a frame behind, so it is cancelled only together with the connection) and waits for the disk before
a number goes on the wire; the clock keeps heartbeats, marks and the positions file going. Ends when ``end`` is
called, the server falls silent, or the socket breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio
from chatd_protocol import codes
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from chatd_client import wire
from chatd_client.api import Endpoint, connect
from chatd_client.errors import Refused

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from chatd_protocol.messages import ClientMessage, ServerMessage

CONNECT_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 1.0
HELLO_TIMEOUT_S = 15.0
TICK_S = 0.25
BEAT_SHARE = 0.9
"""Of ``heartbeat_ms``, less a tick, a heartbeat is sent: a little early, and no oftener. The server waits for twice the time that
it asks for, so more would gain nothing; and a server with many idle connections does little else than answer."""
MAX_SERVER_MESSAGE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection is over. ``code`` 0: no close code came."""

    reason: str
    code: int = 0
    retry_after_ms: int | None = None


def ending_of_refusal(group: BaseExceptionGroup[Refused]) -> Ending:
    """No token: a password that is wrong stays wrong, anything else may pass."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    refused = error if isinstance(error, Refused) else Refused("internal", str(error))
    final = refused.code not in codes.RETRYABLE
    return Ending(str(refused), codes.BAD_TOKEN.code if final else 0, refused.retry_after_ms)


class Dialogue(Protocol):
    """What a link carries: the session's side of it. None of these wait, except ``flush``."""

    def received(self, message: ServerMessage, size: int) -> None:
        """A message came; ``size`` on the wire."""
        ...

    def take(self) -> tuple[Sequence[ClientMessage], float]:
        """What is to be sent now, and when to ask again at the latest (Trio's clock)."""
        ...

    async def flush(self) -> None:
        """Return when everything given by ``take`` may be on the wire."""
        ...

    def tick(self) -> None:
        """TICK_S have passed."""
        ...

    def beat(self) -> None:
        """A heartbeat is due."""
        ...


class Link:
    """See the module's docstring. ``heartbeat_s`` is set when the welcome names it."""

    def __init__(self, dialogue: Dialogue, encoding: wire.Encoding) -> None:
        self._dialogue, self._encoding = dialogue, encoding
        self._scope = trio.CancelScope()
        self._wake = trio.Event()
        self.heartbeat_s = HELLO_TIMEOUT_S / 2
        self.ending: Ending | None = None

    def wake(self) -> None:
        """There is something to take."""
        self._wake.set()

    def end(self, ending: Ending) -> None:
        """Close the connection; the first reason given counts."""
        self.ending = self.ending or ending
        self._scope.cancel()

    async def run(self, at: Endpoint, hello: ClientMessage, context: ssl.SSLContext | None) -> None:
        """Connect, say hello and carry messages until the end. Raises (groups of) ``wire.CONNECTION_ERRORS``.

        Cancelling closes the connection within CLOSE_TIMEOUT_S.
        """
        stream: trio.abc.Stream | None = None
        try:
            async with trio.open_nursery() as outer:
                with trio.fail_after(CONNECT_TIMEOUT_S):
                    stream = await connect(at, context)
                    socket = await wrap_client_stream(
                        outer,
                        stream,  # type: ignore[arg-type]
                        at.authority,
                        at.resource,
                        subprotocols=[self._encoding.subprotocol],
                        max_message_size=MAX_SERVER_MESSAGE,
                        message_queue_size=16,
                        receive_buffer_size=64 * 1024,
                    )
                await self._talk(socket, hello)
                outer.cancel_scope.cancel()
        finally:
            if stream is not None:  # trio-websocket leaves it open when its own task is cancelled
                await trio.aclose_forcefully(stream)

    async def _talk(self, socket: WebSocketConnection, hello: ClientMessage) -> None:
        try:
            with self._scope:
                await socket.send_message(wire.encode(hello, self._encoding))
                async with trio.open_nursery() as inner:
                    inner.start_soon(self._write, socket)
                    inner.start_soon(self._keep_time)
                    await self._read(socket)
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await socket.aclose()

    async def _read(self, socket: WebSocketConnection) -> None:
        while True:
            with trio.move_on_after(2 * self.heartbeat_s) as silence:
                try:
                    frame = await socket.get_message()
                except ConnectionClosed as error:
                    self.end(Ending(f"connection closed ({wire.close_code(error)})", wire.close_code(error)))
                    return
            if silence.cancelled_caught:
                self.end(Ending("the server is silent"))
                return
            message = wire.decode(frame, self._encoding)
            if message is not None:
                self._dialogue.received(message, len(frame))

    async def _write(self, socket: WebSocketConnection) -> None:
        while True:
            self._wake = trio.Event()
            messages, until = self._dialogue.take()
            if messages:
                await self._dialogue.flush()
                for message in messages:
                    await socket.send_message(wire.encode(message, self._encoding))
                continue
            with trio.move_on_at(until):
                await self._wake.wait()

    async def _keep_time(self) -> None:
        beaten = trio.current_time()
        while True:
            await trio.sleep(TICK_S)
            self._dialogue.tick()
            if trio.current_time() - beaten >= max(BEAT_SHARE * self.heartbeat_s - TICK_S, self.heartbeat_s / 2):
                beaten = trio.current_time()
                self._dialogue.beat()
