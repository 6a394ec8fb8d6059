"""The poller: one task and one nested epoll that read and write every plain socket of the node.

An epoll descriptor can itself be waited for (epoll(7), questions 3 and 4): Trio sees one descriptor, and a whole batch of
ready sockets is served per wake. Measured against one parked task per connection: 1.1 times the messages at 100
connections, twice at 1000, since Trio re-arms a one-shot registration per wait and passes its scheduler per task.

Where thousands are connected and nobody says or asks anything, a wake for each heartbeat is most of what they cost. Then, and
only then, it looks every NAP_SECONDS (``Drowsiness``): what comes after a second of nothing but heartbeats waits so long at
most, and ends the naps.

Owns: the epoll and the table of links. Waits for: the epoll, and in a nap for the clock. Ends when cancelled; links are
then aborted by their owners. A link whose receiver raises is aborted alone: the failure boundary of the data path.
"""

from __future__ import annotations

import heapq
import select
from collections.abc import Callable, Sequence
from itertools import count

import structlog
import trio

from chatd.wire.link import Cork, SocketLink

READ_BYTES = 4096
"""Of one socket, before the others that are ready: 215 heartbeats are some 2 ms. With 64 KiB it was 20 ms and more, for which
everybody else waited. The kernel tells of the rest at the next poll."""
BATCH_EVENTS = 256
"""Sockets served before other tasks run: at about 20 us each this bounds what a wake may take to some 5 ms."""
ENDS_A_TURN = 32
"""Peers that have gone whose links are ended before other tasks run, and before who writes is heard: an end is some 80 us, and
thousands may be lost at one moment. The others are told of again at the next poll."""
NAP_SECONDS = 0.025
"""A nap is a turn of Trio's loop and a half itself: 10 ms saved half as much."""
NAPS_FROM = 100
"""Sockets served in a second: with fewer, naps would save next to nothing."""
_GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_READABLE = select.EPOLLIN | select.EPOLLRDHUP

log = structlog.get_logger()


class Drowsiness:
    """Whether to nap. ``said`` counts what ends the naps: messages stored, and requests. With messages alone, who read history
    where nobody wrote had a page in 25 ms instead of 3."""

    def __init__(self, said: Callable[[], int]) -> None:
        self._said = said
        self._heard = 0
        self._served = 0
        self._second_ends = 0.0
        self._drowsy = False

    def after(self, served: int, now: float) -> bool:
        """So many sockets were served; whether it is quiet, and they are many."""
        said = self._said()
        self._served += served
        if said != self._heard:
            self._drowsy = False
            self._begin_second(said, now)
        elif now >= self._second_ends:
            self._drowsy = self._served >= NAPS_FROM
            self._begin_second(said, now)
        return self._drowsy

    def _begin_second(self, said: int, now: float) -> None:
        self._heard, self._served, self._second_ends = said, 0, now + 1.0


class Poller:
    """``said``: see ``Drowsiness``; where nobody counts, there are no naps."""

    def __init__(self, said: Callable[[], int] | None = None) -> None:
        self._drowsiness = Drowsiness(said or count().__next__)
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
                ready = self._epoll.poll(0, BATCH_EVENTS)
                self._serve_all(ready)
                if self._drowsiness.after(len(ready), trio.current_time()):
                    await trio.sleep(NAP_SECONDS)

    def _serve_all(self, ready: Sequence[tuple[int, int]]) -> None:
        ends = ENDS_A_TURN
        with self.cork:
            for fd, mask in ready:
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
