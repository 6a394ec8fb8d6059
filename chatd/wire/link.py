"""A link: one peer's byte stream, written without waiting. Two kinds, one behaviour.

``SocketLink`` is the message path: a plain non-blocking socket behind the node's one nested epoll (``poller``).
``StreamLink`` carries any Trio stream, for TLS and for simulation, with a reader and a writer task.

Both own their outbox: bounded in bytes and frames; when it is full the link is *cut*: what waits is dropped, a short
farewell takes its place, and the socket is closed hard if that is not read in time. Nobody ever waits for a peer.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, Protocol

import structlog
import trio

LINGER_SECONDS = 5.0
"""How long a closing peer may take to read the farewell and close; then the socket is closed under it."""


log = structlog.get_logger()


class Receiver(Protocol):
    """What sits behind a link. All synchronous; an exception from ``data_received`` ends that link alone."""

    def data_received(self, data: bytes) -> None: ...

    def outbox_overflowed(self) -> None:
        """Called once, when a write found the outbox full; the receiver answers with ``link.cut(farewell)``."""

    def link_closed(self) -> None:
        """Called once, when no byte will come or go any more."""


class Nobody:
    """Whom a link that has ended tells nothing. A session and its link know each other: as a ring they would be left to the
    collector of such, which looks at what is old so seldom that a storm's memory was not had back."""

    def data_received(self, data: bytes) -> None: ...

    def outbox_overflowed(self) -> None: ...

    def link_closed(self) -> None: ...


NOBODY: Final = Nobody()


class Link(Protocol):
    """See the module's text. Methods never wait; after the end they do nothing."""

    @property
    def waiting_bytes(self) -> int: ...

    def write(self, frame: bytes) -> None: ...

    def cut(self, farewell: bytes) -> None:
        """Drop what waits (but for the frame that is half out), write ``farewell``, then close."""

    def finish(self, farewell: bytes) -> None:
        """Write what waits and ``farewell``, then close."""

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def wait_drained(self, below: int) -> None:
        """Return when at most ``below`` bytes wait, or the link is closing. Cancelling is safe."""

    async def wait_ended(self) -> None:
        """Return when no byte will come or go any more. Cancelling is safe."""


class Outbox:
    """Frames that the kernel did not take yet. Bounded; it only exists while a peer is behind."""

    __slots__ = ("bytes", "frames", "started")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.bytes = 0
        self.started = False  # the first frame is partly written: it must be ended before anything else

    def push(self, frame: bytes, *, started: bool = False) -> None:
        self.frames.append(frame)
        self.bytes += len(frame)
        self.started = self.started or started

    def take(self, most: int) -> bytes:
        """Remove up to ``most`` frames from the front, joined."""
        chunk = b"".join([self.frames.popleft() for _ in range(min(most, len(self.frames)))])
        self.bytes -= len(chunk)
        return chunk

    def drop_waiting(self) -> None:
        """Keep only the frame that is half out: a cut inside it would garble the farewell."""
        kept = self.frames[0] if self.started and self.frames else None
        self.frames.clear()
        self.bytes = 0
        if kept is not None:
            self.frames.append(kept)
            self.bytes = len(kept)

    def took(self, count: int) -> None:
        """The kernel took ``count`` bytes from the front."""
        self.bytes -= count
        while count:
            first = self.frames[0]
            if count < len(first):
                self.frames[0] = first[count:]
                self.started = True
                return
            count -= len(first)
            self.frames.popleft()
            self.started = False


class Cork:
    """Gathers what one batch writes to the same socket, so that it costs one system call.

    While ``depth`` is above zero links keep their frames and register here; the outermost leaver flushes them all.
    """

    __slots__ = ("_dirty", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self._dirty: list[SocketLink] = []

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.depth == 0:
            dirty, self._dirty = self._dirty, []
            for link in dirty:
                try:
                    link.flush()
                except Exception:  # the failure boundary of a connection is around its flush, too
                    log.exception("link.failed")
                    link.abort()

    def add(self, link: SocketLink) -> None:
        self._dirty.append(link)


class Registry(Protocol):
    """What a SocketLink needs of its poller."""

    def watch(self, link: SocketLink, *, readable: bool, writable: bool) -> None: ...

    def forget(self, link: SocketLink) -> None: ...

    def schedule_abort(self, link: SocketLink, seconds: float) -> None: ...


class SocketLink:
    """One plain TCP socket. Written directly; the outbox exists only after the kernel's buffer was full."""

    __slots__ = (
        "_closing", "_cork", "_drained", "_ended", "_max_bytes", "_max_frames", "_outbox", "_paused", "_pending",
        "_pending_bytes", "_receiver", "_registry", "sock",
    )

    def __init__(
        self, sock: socket.socket, receiver: Receiver, registry: Registry, cork: Cork, *, max_bytes: int, max_frames: int
    ) -> None:
        self.sock = sock
        self._receiver: Receiver = receiver
        self._registry = registry
        self._cork = cork
        self._max_bytes = max_bytes
        self._max_frames = max_frames
        self._pending: list[bytes] | None = None
        self._pending_bytes = 0
        self._outbox: Outbox | None = None
        self._drained: trio.Event | None = None
        self._closing = self._ended = self._paused = False
        registry.watch(self, readable=True, writable=False)

    @property
    def waiting_bytes(self) -> int:
        return self._outbox.bytes if self._outbox is not None else 0

    def write(self, frame: bytes) -> None:
        if self._closing or self._ended:
            return
        if self._outbox is not None:
            self._enqueue(frame)
        elif self._cork.depth == 0:
            self._send(frame)
        elif self._pending is None:
            self._pending = [frame]
            self._pending_bytes = len(frame)
            self._cork.add(self)
        else:
            self._pending.append(frame)
            self._pending_bytes += len(frame)
            if self._pending_bytes > self._max_bytes:  # one batch may write more than a link may keep
                self.flush()

    def flush(self) -> None:
        """Called by the cork: hand over what this batch gathered."""
        pending, self._pending = self._pending, None
        if not pending or self._ended:
            return
        if self._outbox is not None:
            for frame in pending:
                self._enqueue(frame)
        else:
            self._send(pending[0] if len(pending) == 1 else b"".join(pending), pending)

    def _send(self, data: bytes, frames: list[bytes] | None = None) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end()
            return
        if sent < len(data):
            self._outbox = Outbox()
            for frame in frames or (data,):
                self._outbox.push(frame)
            if sent:
                self._outbox.took(sent)
            self._watch()
            self._check_bounds()

    def _enqueue(self, frame: bytes) -> None:
        assert self._outbox is not None
        self._outbox.push(frame)
        self._check_bounds()

    def _check_bounds(self) -> None:
        box = self._outbox
        if box is not None and not self._closing and (box.bytes > self._max_bytes or len(box.frames) > self._max_frames):
            self._receiver.outbox_overflowed()

    def on_writable(self) -> None:
        """Called by the poller: the kernel takes bytes again."""
        box = self._outbox
        while box is not None and box.frames:
            chunk = b"".join(list(box.frames)[:64]) if len(box.frames) > 1 else box.frames[0]
            try:
                sent = self.sock.send(chunk)
            except BlockingIOError:
                return
            except OSError:
                self._end()
                return
            box.took(sent)
            self._wake_drained()
            if sent < len(chunk):
                return
        self._outbox = None
        self._wake_drained()
        if self._closing:
            self._shut()
        else:
            self._watch()

    def on_readable(self, buffer: bytearray) -> None:
        """Called by the poller: read once into the shared ``buffer`` and pass it on."""
        try:
            count = self.sock.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            self._end()
        elif not self._closing:
            self._receiver.data_received(bytes(memoryview(buffer)[:count]))

    def cut(self, farewell: bytes) -> None:
        if self._outbox is not None:
            self._outbox.drop_waiting()
        self._pending = None
        self.finish(farewell)

    def finish(self, farewell: bytes) -> None:
        if self._closing or self._ended:
            return
        if self._pending is not None:
            self.flush()
        if self._ended:
            return
        self._closing = True
        if self._outbox is not None:
            self._outbox.push(farewell)
        else:
            self._send(farewell)
        if self._ended:
            return
        self._registry.schedule_abort(self, LINGER_SECONDS)
        self._wake_drained()
        if self._outbox is None:
            self._shut()
        else:
            self._watch()

    def _shut(self) -> None:
        # Half-close and wait for the peer's own end (or the linger): a full close with unread input would send RST,
        # and the kernel would throw away the farewell that the peer has not read yet.
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._end()
            return
        self._paused = False
        self._watch()

    def abort(self) -> None:
        self._end()

    def pause_reading(self) -> None:
        if not self._paused and not self._closing:
            self._paused = True
            self._watch()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._watch()

    def _watch(self) -> None:
        if not self._ended:
            self._registry.watch(self, readable=not self._paused, writable=self._outbox is not None)

    def _wake_drained(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def wait_drained(self, below: int) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ended and not self._closing and self.waiting_bytes > below:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    async def wait_ended(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._ended:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._registry.forget(self)
        self.sock.close()
        self._outbox = self._pending = None
        self._wake_drained()
        receiver, self._receiver = self._receiver, NOBODY
        receiver.link_closed()
