"""One generator process's share of a run: its connections, from their set-up to the last check.

The parent (``scenarios``) calls the public methods one after another, through ``generator``; between them ``turn`` keeps the
connections alive. Each raises RunFailed.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from chatd_bench.cast import Cast
from chatd_bench.dialects.dialect import Channel, Event, Session, User
from chatd_bench.dialects.registry import make_dialect
from chatd_bench.driver import AT_ONCE, Driver, Line
from chatd_bench.engine.native import Engine, Latency, Membership, Seat
from chatd_bench.engine.plan import Arrivals, Plan, make_plan
from chatd_bench.faults import RunFailed
from chatd_bench.histogram import Counts
from chatd_bench.missed import Missed, check_missed
from chatd_bench.servers.server import Endpoint

OPEN_SECONDS = 900.0
DRAIN_SECONDS = 30.0
TURN_SECONDS = 0.02
LEAST_AT_ONCE = 8
KEEP_ALIVE_SECONDS = 0.05
TOO_OFTEN_SECONDS = 0.2
"""For what may come once more, after everything has come."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, as a lost network looks, and no ports kept in TIME_WAIT."""

PUNCTUAL = -10
"""The niceness of who follows a plan, where the system allows it. Else it waits for a core that the server is at, and what comes
of that is the generator's lateness: p99 of 6 ms with 50,000 deliveries a second."""

SentTable = dict[int, dict[int, int]]
"""By channel and sender, how many."""


@dataclass(frozen=True)
class Order:
    """Everything that one generator is told when it starts."""

    dialect: str
    credentials: Mapping[str, str]
    endpoints: tuple[Endpoint, ...]
    cast: Cast
    generator: int
    generators: int
    body_bytes: int
    seed: str


class Traffic:
    """The connections of one process."""

    def __init__(self, order: Order, progress: Callable[[int], None]) -> None:
        self.order = order
        self._progress = progress
        self._dialect = make_dialect(order.dialect, order.credentials)
        cast = order.cast
        senders = dict(zip(cast.channels, cast.writers, strict=True))
        self._senders = senders
        self._engine = Engine(self._dialect, cast.users, senders, order.body_bytes)
        self._driver = Driver(self._dialect, order.endpoints, self._keep_alive)
        self._lines: dict[int, Line] = {}
        self._armed: dict[int, int] = {}
        self._addresses: Mapping[int, str] = {}
        self._positions: dict[tuple[int, int], int] = {}
        self._slow: set[int] = set()
        self._kept_alive = 0.0
        self._will_be_slow: dict[int, int] = {}
        self._lost = 0
        self._lost_at: dict[int, float] = {}
        self._plan: Plan | None = None
        self._caught: list[tuple[User, list[bytes]]] = []
        self._answers: list[tuple[int, int | None, Any]] = []

    def turn(self, seconds: float) -> None:
        """Between commands."""
        self._driver.rest()
        self._engine.run(time.monotonic() + seconds)

    def _keep_alive(self) -> None:
        """Those that the engine has already, while others are being connected."""
        now = time.monotonic()
        if now - self._kept_alive > KEEP_ALIVE_SECONDS:
            self._engine.run(now + KEEP_ALIVE_SECONDS / 10)
            self._kept_alive = time.monotonic()

    def close(self) -> None:
        """Let go of everything, without a goodbye."""
        for line in self._lines.values():
            line.sock.close()

    # --- set-up -----------------------------------------------------------------------------------

    def open(self, first: int, last: int, at_once: int = 0) -> dict[str, Any]:
        """Connect this process's users from number ``first`` to below ``last``; for each, the seconds until it was live: from its
        connect, or, where ``lose`` took its connection, from that moment, however long it waited here for its turn.

        ``at_once`` of 0: this process's share of what keeps a server busy.
        """
        at_once = at_once or max(AT_ONCE // self.order.generators, LEAST_AT_ONCE)
        cpu = time.process_time()
        users = [user for user in self.order.cast.users[first:last] if self._is_ours(user)]
        lines = self._driver.open(map(Session, users), OPEN_SECONDS, self._progress, at_once)
        self._lines |= {line.session.user.number: line for line in lines}
        live = [line.ended - self._lost_at.pop(line.session.user.number, line.began) for line in lines]
        return {"live_s": live, "cpu_s": time.process_time() - cpu}

    def found(self) -> dict[int, str]:
        """Make the channels whose founder is here; their addresses."""
        ours = [channel for channel in self.order.cast.channels if self._is_ours(channel.members[0])]
        talks = [
            (line, self._dialect.found(line.session, channel))
            for channel in ours
            for line in (self._lines[channel.members[0].number],)
        ]
        addresses = self._driver.talk(talks, OPEN_SECONDS, self._progress, "channels")
        return {channel.number: address for channel, address in zip(ours, addresses, strict=True)}

    def join(self, addresses: Mapping[int, str]) -> None:
        """Everybody here is a member of their channels from now on."""
        self._addresses = addresses
        memberships = [
            (channel, user) for channel in self.order.cast.channels for user in channel.members if self._is_ours(user)
        ]
        talks = (
            (line, self._dialect.join(line.session, channel, addresses[channel.number]))
            for channel, user in memberships
            for line in (self._lines[user.number],)
        )
        positions = self._driver.talk(talks, OPEN_SECONDS, self._progress, "members")
        for (channel, user), position in zip(memberships, positions, strict=True):
            self._positions[channel.number, user.number] = position

    def arm(self) -> None:
        """The engine takes over all lines that it has not yet."""
        by_user: dict[int, list[Membership]] = {}
        for channel, writers in self._senders.items():
            for user in channel.members:
                if (channel.number, user.number) in self._positions and user.number not in self._armed:
                    position = self._positions[channel.number, user.number]
                    made = Membership(channel, self._addresses[channel.number], position, user in writers)
                    by_user.setdefault(user.number, []).append(made)
        self._driver.handed_over()
        for number, line in self._lines.items():
            if number not in self._armed:
                fd, unread = line.release()
                self._armed[number] = self._engine.add(fd, unread, line.session, by_user.get(number, ()))

    def _is_ours(self, user: User) -> bool:
        return self.order.cast.homes[user.number] == self.order.generator

    # --- the run ----------------------------------------------------------------------------------

    def plan(self, rate: float, seconds: float, arrivals: Arrivals) -> int:
        """Open loop: make the plan of this process, for its share of ``rate`` messages a second; how many they are."""
        everywhere = sum(map(len, self._senders.values()))
        places = [seat.index for seat in self._engine.seats if seat.membership.writes]
        if not places:
            return 0
        seed = f"{self.order.seed} {self.order.generator}"
        self._plan = make_plan(places, rate * len(places) / everywhere, seconds, seed, arrivals)
        return len(self._plan.due)

    def start(self, begin: float, windows: Sequence[tuple[float, float]], end: float, in_flight: int) -> None:
        """Send from ``begin`` to ``end``, and measure in ``windows``. Times are those of the monotonic clock.

        With ``in_flight`` above 0 it is a closed loop, else by the plan.
        """
        for window in windows:
            self._engine.window(*window)
        if not in_flight and self._plan is not None:
            _keep_to_the_plan()
            self._engine.follow(self._plan, begin)
        self._engine.run(begin)
        if in_flight:
            self._engine.fill(in_flight, end)

    def timed(self, begin: float, windows: Sequence[tuple[float, float]], end: float, in_flight: int) -> dict[str, Any]:
        """``start``, run to the end, and wait for the acks; what it took. ``seen`` has the latencies."""
        self.start(begin, windows, end, in_flight)
        self._engine.run(windows[0][0])
        cpu, opened = time.process_time(), time.monotonic()
        for window in windows[:-1]:
            self._engine.run(window[1])
            self._slow_down(end)
        self._engine.run(windows[-1][1])
        cpu, elapsed = time.process_time() - cpu, time.monotonic() - opened
        self._engine.run(end)
        self._until(self._settled, "acks of what was sent")
        totals = self._engine.totals()
        return {
            "cpu_s": cpu, "seconds": elapsed, "sent_total": totals.sent, "acked_total": totals.acked,
            "counted": self._engine.counted(),
        }  # fmt: skip

    def seen(self, windows: int) -> list[dict[str, Any]]:
        """What was measured in each. After ``settle``: the latest deliveries are the slowest, and belong to it."""
        return [self._seen(window) for window in range(windows)]

    def _seen(self, window: int) -> dict[str, Any]:
        latencies: dict[str, Counts] = {which.name.lower(): self._engine.latencies(window, which) for which in Latency}
        return {**self._engine.window_totals(window), "latencies": latencies}

    def _settled(self) -> bool:
        totals = self._engine.totals()
        return totals.sent == totals.acked and not totals.planned

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DRAIN_SECONDS
        while not done():
            if time.monotonic() > end:
                raise RunFailed(f"{what}: not within {DRAIN_SECONDS:.0f} s ({self._engine.totals()})")
            self._engine.run(time.monotonic() + TURN_SECONDS)

    def read_slowly(self, numbers: Sequence[int], bytes_per_second: int) -> None:
        """Those of these users who are here will read no more than that from the second window to the end."""
        self._will_be_slow = {number: bytes_per_second for number in numbers if number in self._armed}

    def _slow_down(self, end: float) -> None:
        for number, bytes_per_second in self._will_be_slow.items():
            self._slow.add(number)
            self._engine.read_slowly(self._armed[number], bytes_per_second, end)
        self._will_be_slow = {}

    def lose(self, first: int, last: int) -> int:
        """Connections of this process in that range are lost at once; how many."""
        numbers = [number for number in self._armed if first <= number < last]
        self._lost_at |= dict.fromkeys(numbers, time.monotonic())
        for number in numbers:
            self._engine.drop(self._armed.pop(number))
            line = self._lines.pop(number)
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            line.sock.close()
        self._lost += len(numbers)
        return len(numbers)

    # --- checks -----------------------------------------------------------------------------------

    def sent(self) -> SentTable:
        """What was sent from here."""
        table: SentTable = {}
        for seat in self._engine.seats:
            if seat.membership.writes:
                table.setdefault(seat.membership.channel.number, {})[seat.user.number] = self._engine.sent(seat)
        return table

    def settle(self, sent: SentTable) -> dict[str, Any]:
        """Wait for all deliveries here of what all processes have sent; then nothing may be missing, or too much."""
        expected = [(seat, self._expected(seat, sent)) for seat in self._judged()]
        wanted = sum(sum(counts) for _, counts in expected)
        try:
            self._until(lambda: self._engine.totals().delivered >= wanted, "the last deliveries")
        except RunFailed:
            self._compare(expected)
            raise
        self._engine.run(time.monotonic() + TOO_OFTEN_SECONDS)
        self._compare(expected)
        self._until(self._beats_answered, "answers to heartbeats")
        totals = self._engine.totals()
        return {
            "messages_checked": totals.acked, "deliveries_checked": totals.delivered,
            "deliveries_decoded": self._engine.judge_samples(), "heartbeats": totals.beats,
            "slow_readers_sent_away": totals.sent_away, "orders": self._orders(),
        }  # fmt: skip

    def _expected(self, seat: Seat, sent: SentTable) -> list[int]:
        channel = seat.membership.channel
        echoes = self._dialect.echoes(channel)
        table = sent.get(channel.number, {})
        senders = self._senders[channel]
        return [table.get(sender.number, 0) if echoes or sender != seat.user else 0 for sender in senders]

    def _compare(self, expected: Sequence[tuple[Seat, list[int]]]) -> None:
        for seat, wanted in expected:
            received = self._engine.received(seat)
            if received != wanted:
                raise RunFailed(_difference(seat, self._senders[seat.membership.channel], received, wanted))

    def _orders(self) -> dict[int, int]:
        """By channel, what stood where: all its members must have seen the same."""
        orders: dict[int, int] = {}
        for seat in self._judged():
            order, number = self._engine.order(seat), seat.membership.channel.number
            if orders.setdefault(number, order) != order:
                raise RunFailed(f"{seat.user.name}: saw another order than others in channel {number}")
        return orders

    def _judged(self) -> list[Seat]:
        """All who were there from the beginning to the end."""
        return [
            seat for seat in self._engine.seats
            if self._armed.get(seat.user.number) == seat.line and seat.user.number not in self._slow
        ]  # fmt: skip

    def _beats_answered(self) -> bool:
        beat = next((b for line in self._lines.values() if (b := self._dialect.heartbeat(line.session))), None)
        if beat is None or beat.answer is None or self._slow or self._lost:
            return True
        return self._engine.counted().get(beat.answer, 0) >= self._engine.totals().beats

    def has_heartbeats(self) -> bool:
        """Whether anybody here has to give signs of life."""
        return any(self._dialect.heartbeat(line.session) for line in self._lines.values())

    def hold(self, seconds: float) -> dict[str, float]:
        """Do nothing but stay; the CPU time that it takes."""
        cpu = time.process_time()
        self._engine.run(time.monotonic() + seconds)
        return {"cpu_s": time.process_time() - cpu}

    # --- history ----------------------------------------------------------------------------------

    def catch_up(self, number: int) -> dict[str, Any]:
        """One who was away logs in and gets what was missed in the first channel: how long it takes. It is kept as it came,
        for ``check_caught``. Then the connection is lost again, so that the next one gets the same."""
        user, channel = self.order.cast.users[number], self.order.cast.channels[0]
        talk = partial(self._dialect.catch_up, channel=channel, address=self._addresses[channel.number])
        cpu = time.process_time()
        [line] = self._driver.open([Session(user)], OPEN_SECONDS, self._progress, talk=talk)
        cpu = time.process_time() - cpu
        line.sock.close()
        self._driver.handed_over()
        self._caught.append((user, line.result))
        return {"seconds": line.ended - line.began, "generator_cpu_s": cpu}

    def check_caught(self, count: int) -> int:
        """All that ``catch_up`` got, in full: ``count`` messages of the first channel's writer, each time; how many they were."""
        channel = self.order.cast.channels[0]
        [seat] = [seat for seat in self._engine.seats if seat.membership.channel == channel and seat.membership.writes]
        caught, self._caught = self._caught, []
        for user, messages in caught:
            missed = Missed(
                user, seat.user, channel, self._addresses[channel.number], self._positions[channel.number, user.number],
                self._engine.intended(seat), self.order.body_bytes,
            )  # fmt: skip
            if (found := check_missed(self._dialect, missed, messages)) != count:
                raise RunFailed(f"{user.name}: lost: {found} of {count} missed messages came")
        return len(caught) * count

    def pages(
        self, logs: Mapping[int, tuple[str, int]], requests: int, limit: int, depth: bool
    ) -> dict[str, Any]:
        """Pages of history, each user here asking for those of one conversation: the newest, or from anywhere in it.

        ``logs``: by user, the conversation's address and its last position. The answers are kept for ``answered``.
        """
        random = Random(self.order.seed)
        numbers = [number for number in logs if number in self._lines]
        seconds: list[float] = []
        for _ in range(requests):
            number = random.choice(numbers)
            line, (address, last) = self._lines[number], logs[number]
            before = random.randrange(min(limit + 1, last), last + 1) if depth else None
            asking = self._dialect.page(line.session, address, before, limit)
            [answer] = self._driver.talk([(line, asking)], OPEN_SECONDS, self._progress, "pages")
            self._answers.append((number, before, answer))
            seconds.append(line.ended - line.began)
        return {"seconds": seconds}

    def answered(self) -> list[tuple[int, int | None, list[Event]]]:
        """What ``pages`` got since the last time: who asked, before which position, and what came."""
        answers, self._answers = self._answers, []
        return [(number, before, self._dialect.events(answer)) for number, before, answer in answers]


def _difference(seat: Seat, senders: Sequence[User], received: list[int], wanted: list[int]) -> str:
    at = next(place for place, pair in enumerate(zip(received, wanted, strict=True)) if pair[0] != pair[1])
    what = "lost" if received[at] < wanted[at] else "too many"
    channel: Channel = seat.membership.channel
    return (
        f"{seat.user.name}: {what}: {received[at]} of the {wanted[at]} messages came that {senders[at].name} sent to "
        f"channel {channel.number}"
    )


def _keep_to_the_plan() -> None:
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PUNCTUAL)
