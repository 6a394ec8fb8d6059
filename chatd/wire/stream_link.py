"""A link over any Trio stream: TLS connections, and memory streams in simulations.

A TLS stream cannot be written without waiting, so here the outbox is always used: one reader and one writer task, both
inside ``run``. Slower than ``SocketLink`` (two scheduler passes a message), with the same bounds and the same ends.
"""

from __future__ import annotations

import trio

from chatd.wire.link import LINGER_SECONDS, NOBODY, Outbox, Receiver

READ_BYTES = 4096  # as the poller, and for the same reason
JOIN_FRAMES = 64


class StreamLink:
    """See ``chatd.wire.link.Link``. ``run`` must be started; cancelling it ends the link hard."""

    def __init__(self, stream: trio.abc.Stream, receiver: Receiver, *, max_bytes: int, max_frames: int) -> None:
        self._stream = stream
        self._receiver: Receiver = receiver
        self._max_bytes = max_bytes
        self._max_frames = max_frames
        self._outbox = Outbox()
        self._in_flight = 0
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._reading = trio.Event()
        self._reading.set()
        self._scope = trio.CancelScope()
        self._closing = self._ended = False

    @property
    def waiting_bytes(self) -> int:
        return self._outbox.bytes + self._in_flight

    def write(self, frame: bytes) -> None:
        if self._closing or self._ended:
            return
        self._outbox.push(frame)
        self._wake.set()
        if self.waiting_bytes > self._max_bytes or len(self._outbox.frames) > self._max_frames:
            self._receiver.outbox_overflowed()

    def cut(self, farewell: bytes) -> None:
        self._outbox.drop_waiting()
        self.finish(farewell)

    def finish(self, farewell: bytes) -> None:
        if self._closing or self._ended:
            return
        self._closing = True
        self._outbox.push(farewell)
        self._reading.set()
        self._wake.set()
        self._drained.set()
        self._scope.deadline = trio.current_time() + LINGER_SECONDS

    def abort(self) -> None:
        self._scope.cancel()

    def pause_reading(self) -> None:
        if not self._closing and self._reading.is_set():
            self._reading = trio.Event()

    def resume_reading(self) -> None:
        self._reading.set()

    async def wait_drained(self, below: int) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ended and not self._closing and self.waiting_bytes > below:
            self._drained = trio.Event()
            await self._drained.wait()

    async def wait_ended(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ended:
            self._drained = trio.Event()
            await self._drained.wait()

    async def run(self) -> None:
        """Carry bytes until either side ends it. Raises nothing of the peer's making."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_all)
                    await self._read_all()
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone, which is what the end of a link means
        finally:
            self._ended = True
            self._drained.set()
            receiver, self._receiver = self._receiver, NOBODY
            receiver.link_closed()
            await trio.aclose_forcefully(self._stream)

    async def _read_all(self) -> None:
        while True:
            await self._reading.wait()
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return
            if not self._closing:
                self._receiver.data_received(bytes(data))

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._outbox.frames:
                chunk = self._outbox.take(JOIN_FRAMES)
                self._in_flight = len(chunk)
                await self._stream.send_all(chunk)
                self._in_flight = 0
                self._drained.set()
            if self._closing:
                await self._half_close()
                return

    async def _half_close(self) -> None:
        # As SocketLink: a full close with unread input would send RST, and the kernel would throw away the farewell. The
        # reader goes on to the peer's own end, or the linger.
        transport = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        if isinstance(transport, trio.abc.HalfCloseableStream):
            await transport.send_eof()
        else:
            await self._stream.aclose()
