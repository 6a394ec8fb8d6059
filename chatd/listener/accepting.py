"""Taking connections off a listening socket, several in a turn of the loop.

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
_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_FATAL = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT})
"""Of the listening socket; any other error is one of a connection that had come."""

log = structlog.get_logger()


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
