"""The poller: one task and one nested epoll that read and write every plain socket of the node.

An epoll descriptor can itself be waited for (epoll(7), questions 3 and 4): Trio sees one descriptor, and a whole batch
of ready sockets is served per wake. Measured against one parked task per connection: 1.1 times the messages at 100
connections, twice at 1000, since Trio re-arms a one-shot registration per wait and passes its scheduler per task.

Owns: the epoll and the table of links. Waits for: the epoll only. Ends when cancelled; links are then aborted by
their owners. A link whose receiver raises is aborted alone: the failure boundary of the data path.
"""

from __future__ import annotations

import heapq
import select
from itertools import count

import structlog
import trio

from chatd.wire.link import Cork, SocketLink

READ_BYTES = 65536
BATCH_EVENTS = 256
"""Sockets served before other tasks run: at about 20 us each this bounds what a wake may take to some 5 ms."""
ENDS_A_TURN = 32
"""Peers that have gone whose links are ended before other tasks run, and before who writes is heard: an end is some 80 us, and
thousands may be lost at one moment. The others are told of again at the next poll."""
_GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_READABLE = select.EPOLLIN | select.EPOLLRDHUP

log = structlog.get_logger()


class Poller:
    def __init__(self) -> None:
        self.cork = Cork()
        self._epoll = select.epoll()
        self._links: dict[int, SocketLink] = {}
        self._buffer = bytearray(READ_BYTES)
        self._aborts: list[tuple[float, int, SocketLink]] = []
        self._serial = count()
        self.faults = 0

    def watch(self, link: SocketLink, *, readable: bool, writable: bool) -> None:
        """Say what the link waits for; the first call registers it."""
        mask = (_READABLE if readable else 0) | (select.EPOLLOUT if writable else 0)
        fd = link.sock.fileno()
        if fd in self._links:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self._links[fd] = link

    def forget(self, link: SocketLink) -> None:
        """Must be called before the socket is closed: the kernel hands the same number out again at once."""
        fd = link.sock.fileno()
        if self._links.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def schedule_abort(self, link: SocketLink, seconds: float) -> None:
        heapq.heappush(self._aborts, (trio.current_time() + seconds, next(self._serial), link))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._abort_late)
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                ends = ENDS_A_TURN
                with self.cork:
                    for fd, mask in self._epoll.poll(0, BATCH_EVENTS):
                        if mask & _GONE:
                            if not ends:
                                continue
                            ends -= 1
                        self._serve(fd, mask)

    def _serve(self, fd: int, mask: int) -> None:
        link = self._links.get(fd)
        if link is None:  # ended by an earlier event of this same batch
            return
        try:
            if mask & select.EPOLLOUT:
                link.on_writable()
            if mask & ~select.EPOLLOUT and self._links.get(fd) is link:
                link.on_readable(self._buffer)
        except Exception:
            self.faults += 1
            log.exception("link.failed")
            link.abort()

    async def _abort_late(self) -> None:
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            while self._aborts and self._aborts[0][0] <= now:
                heapq.heappop(self._aborts)[2].abort()

    def close(self) -> None:
        """Abort every link and close the epoll; call when ``run`` has ended."""
        for link in list(self._links.values()):
            link.abort()
        self._epoll.close()
