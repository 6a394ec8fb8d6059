"""Listening sockets, and taking connections off them, several in a turn of the loop.

``trio.serve_listeners`` takes one a turn, so that a busy server could not answer more than a few hundred new ones a second.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable

import structlog
import trio

AT_ONCE = 8
REFUSALS_FOR_ONE = 4
"""So many that are closed at once take as long as one that is served begins with."""
CAPACITY_PAUSE = 0.1
KERNEL_BYTES = 262_144
"""What the kernel may keep of a connection, in either direction (Linux doubles it, for what it needs itself). Left alone it lets
a buffer grow to 4 or 32 MB for a peer that sends faster than is read, or does not read at all, and all connections share what it
has for TCP: a few hundred such peers would leave none for the others. Over 100 ms of distance it still is 2.5 MB a second."""
_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_FATAL = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT})
"""Of the listening socket; any other error is one of a connection that had come."""

log = structlog.get_logger()


async def open_listeners(host: str, port: int, backlog: int | None = None) -> list[trio.SocketListener]:
    """On every address of ``host``; what they accept inherits ``KERNEL_BYTES``. The caller closes them. Raises OSError."""
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    for listener in listeners:
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    return listeners


async def accept_all(
    listener: trio.SocketListener, admit: Callable[[object], bool], handler: Callable[[trio.SocketStream], Awaitable[None]],
    handlers: trio.Nursery,
) -> None:  # fmt: skip
    """Start ``handler`` in ``handlers`` for each connection whose peer's address ``admit`` takes; it owns the stream. Others are
    closed without a task. Ends when cancelled; the caller closes ``listener``. Raises OSError where the listening socket itself
    is broken."""
    with socket.socket(fileno=os.dup(listener.socket.fileno())) as listening:  # Trio's own cannot be asked without a wait
        listening.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listening)
            room = AT_ONCE * REFUSALS_FOR_ONE
            while room > 0:
                room -= 1
                try:
                    accepted, peer = listening.accept()
                except BlockingIOError:
                    break
                except OSError as fault:
                    if fault.errno in _FATAL:
                        raise
                    if fault.errno in _CAPACITY:
                        log.error("listener.full", reason=fault.strerror)  # noqa: TRY400 - the system's limit, not a bug
                        await trio.sleep(CAPACITY_PAUSE)
                        break
                    continue
                if not admit(peer):
                    accepted.close()
                    continue
                room -= REFUSALS_FOR_ONE - 1
                handlers.start_soon(handler, trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
