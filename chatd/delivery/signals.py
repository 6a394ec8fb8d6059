"""Receipts and typing: what is told beside the log, batched over a short tick, and lost without harm.

One actor, ``Signals``, owns what waits: typing that was asked for, leases, receipts on their way out and in. Mailbox:
``ask_typing``, ``moved`` and ``ended`` (sessions), ``spoken``, ``membership_moved`` and ``heard`` (the hub), all synchronous;
bounds in ``delivery.typing`` and ``delivery.receipts``, beyond which what is new is dropped and counted. Three tasks: the
tick, which waits for the clock alone, and two that wait for the store's reads: how large a group is, and how many have a
message. End when cancelled.

Who may be told is judged here, at the fan-out, by the topic: only sessions that are live in it (I8), and only what one of
them says goes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import structlog
import trio
from chatd_protocol import messages
from chatd_protocol.codec import Encoding, encode

from chatd.conversations.operations import Author, Event, Marked
from chatd.delivery.envelope import (
    BlockSignal,
    CountSignal,
    PrivacySignal,
    ReceiptSignal,
    Signal,
    TypingSignal,
    addressee,
    group_channel,
    user_channel,
)
from chatd.delivery.hub import Hub, Subscriber, frame_of, member_of
from chatd.delivery.receipts import COUNTED_ABOVE, PACED_ABOVE, Paced, merged, widened
from chatd.delivery.topic import Topic
from chatd.delivery.typing import ELSEWHERE, Asked, Typists
from chatd.ops.metrics import Metrics
from chatd.store.port import Audience, Store, Tally, Unavailable

TICK_SECONDS = 0.1
AUDIENCES = 10_000
AUDIENCE_SECONDS = 30.0
"""How long the size of a group is believed; it only decides whether typing is told."""
WRITES_PER_TICK = 5000
"""Beyond it receipts wait for the next tick, merged: 50,000 a second is a quarter of a core."""
COUNTS_PER_TICK = 10

log = structlog.get_logger()

_Moved = tuple[tuple[int, int, int], tuple[str, ...], int]
"""(delivered, read, device_no), and the conversation's ``dm`` and ``members`` of the store's answer."""


class Signals:
    """Implements ``chatd.delivery.hub.Observer``."""

    def __init__(self, hub: Hub, store: Store, metrics: Metrics, cork: AbstractContextManager[None]) -> None:
        self._hub = hub
        self._store = store
        self._metrics = metrics
        self._cork = cork
        self._bell = trio.Event()
        self._audiences_bell = trio.Event()
        self._counts_bell = trio.Event()
        self.typing: set[str] = set()
        self._asked: Asked[Subscriber] = Asked()
        self._audiences: dict[str, tuple[Audience, float]] = {}
        self._typists = Typists()
        self._reach: dict[tuple[str, str], list[bytes]] = {}
        self._holders: dict[int, Subscriber] = {}
        self._outgoing: dict[bytes, list[Signal]] = {}
        self._moved: Paced[tuple[str, str], _Moved] = Paced()
        self._counts_moved: Paced[str, tuple[int, int]] = Paced()
        self._receipts: Paced[tuple[str, str, str | None], tuple[int, int, int]] = Paced()
        self._counts: Paced[str, tuple[int, int]] = Paced()
        hub.observers.append(self)

    @property
    def waiting(self) -> int:
        """What waits to be told, and leases of typing."""
        asked = len(self._asked) + len(self._typists) + len(self._outgoing)
        return asked + len(self._moved) + len(self._counts_moved) + len(self._receipts) + len(self._counts)

    # --- what sessions say ----------------------------------------------------------------------

    def ask_typing(self, subscriber: Subscriber, conv: str, on: bool) -> None:
        """A session says that its user types, or does no more. Nothing comes of it where the session is not live."""
        if not self._is_live(subscriber, conv):
            return
        kept = self._asked.put(conv, subscriber.device_no, subscriber, on)
        self._kept(kept)
        if kept:
            self.typing.add(conv)
            self._audiences_bell.set()

    def moved(self, author: Author, marked: Marked) -> None:
        """The store has moved a member's marks."""
        if not marked.moved:
            return
        if marked.members > COUNTED_ABOVE:
            low = marked.had_read if marked.read > marked.had_read else marked.had_delivered
            span = widened(self._counts_moved.get(marked.conv), (low, marked.delivered))
            self._kept(self._counts_moved.put(marked.conv, span, paced=True))
            return
        key = (marked.conv, author.user)
        before = self._moved.get(key)
        marks = merged(before and before[0], (marked.delivered, marked.read, author.device_no))
        paced = marked.members > PACED_ABOVE
        self._kept(self._moved.put(key, (marks, marked.dm, marked.members), paced=paced))

    def tell_block(self, user: str, other: str, conv: str) -> None:
        """One of the two blocks the other, or does no more: what they may hear of each other is asked anew, on every node."""
        signal = BlockSignal(user, other, conv)
        self._hub.signal({user_channel(name): [signal] for name in (user, other)})
        for observer in self._hub.observers:
            observer.heard(user_channel(user), [signal])

    def ended(self, subscriber: Subscriber) -> None:
        """A session is gone, and with it what it typed."""
        if self._holders.get(subscriber.device_no) is subscriber:
            del self._holders[subscriber.device_no]
            for conv, user in self._typists.of_source(subscriber.device_no):
                self._end(conv, user, subscriber.device_no)
        self._bell.set()

    # --- what the hub says ----------------------------------------------------------------------

    def spoken(self, event: Event) -> None:
        """See the port: with the message the typing ends, on this device and, for all that one knows, elsewhere."""
        conv, user = event.conv, event.sender
        self._asked.drop(conv, event.device_no)
        last = self._typists.end(conv, user, event.device_no)
        if not self._typists.types_here(conv, user):
            self._reach.pop((conv, user), None)  # the other nodes see the message, too
        if self._typists.end(conv, user, ELSEWHERE) or last:
            self._write_typing(conv, user, on=False)

    def membership_moved(self, topic: Topic[Subscriber], event: Event) -> None:
        """See the port."""
        if event.kind == "left" and topic.conv in self.typing:
            user = member_of(event)
            for source in self._typists.sources(topic.conv, user):
                self._end(topic.conv, user, source)

    def heard(self, channel: bytes, signals: Sequence[Signal]) -> None:
        """See the port."""
        whose = addressee(channel)
        for signal in signals:
            if isinstance(signal, BlockSignal):
                self._audiences.pop(signal.conv, None)
                continue
            if isinstance(signal, PrivacySignal) or signal.conv not in self._hub.topics:
                continue
            if isinstance(signal, TypingSignal):
                self._hear_typing(signal)
            elif isinstance(signal, CountSignal):
                self._put_counts(signal.conv, (signal.low, signal.high))
            else:
                marks = (signal.delivered, signal.read, signal.device_no)
                self._put_receipt((signal.conv, signal.user, whose), marks, signal.members)

    def _hear_typing(self, signal: TypingSignal) -> None:
        conv, user = signal.conv, signal.user
        if not signal.on:
            if self._typists.end(conv, user, ELSEWHERE):
                self._write_typing(conv, user, on=False)
            return
        told = self._typists.renew(conv, user, ELSEWHERE, trio.current_time())
        self._kept(told is not None)
        self.typing.add(conv)
        if told:
            self._write_typing(conv, user, on=True)

    # --- the tick -------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for task in (self._run_ticks, self._run_audiences, self._run_counts):
                nursery.start_soon(task)

    async def _run_ticks(self) -> None:
        while True:
            await self._bell.wait()
            await trio.sleep(TICK_SECONDS)
            with self._cork:
                self._tick(trio.current_time())
            if not (
                self._asked or self._typists or self._outgoing or self._moved or self._counts_moved or self._receipts
            ):  # fmt: skip
                self._bell = trio.Event()

    async def _run_audiences(self) -> None:
        while True:
            await self._audiences_bell.wait()
            self._audiences_bell = trio.Event()
            await self._learn_audiences()

    async def _run_counts(self) -> None:
        while True:
            await self._counts_bell.wait()
            await trio.sleep(TICK_SECONDS)
            await self._tell_counts()
            if not self._counts:
                self._counts_bell = trio.Event()

    def _tick(self, now: float) -> None:
        self._settle_asked(now)
        for (conv, user, source), last in self._typists.expired(now):
            self._ended_lease(conv, user, source, last)
        self._release_moved(now)
        outgoing, self._outgoing = self._outgoing, {}
        self._hub.signal(outgoing)
        self._tell_receipts(now)
        self.typing.intersection_update([*self._typists.convs, *self._asked.convs])

    async def _learn_audiences(self) -> None:
        now = trio.current_time()
        known = self._audiences
        unknown = {conv for conv in self._asked.convs if conv not in known or known[conv][1] <= now}
        if not unknown:
            return
        try:
            found = await self._store.audiences(sorted(unknown))
        except Unavailable:
            self._metrics.signals_dropped += sum(len(self._asked.take(conv)) for conv in unknown)
            return
        if len(known) + len(found) > AUDIENCES:
            known.clear()
        nobody = Audience((), COUNTED_ABOVE + 1)
        known.update((conv, (found.get(conv, nobody), now + AUDIENCE_SECONDS)) for conv in unknown)

    def _settle_asked(self, now: float) -> None:
        for conv in list(self._asked.convs):
            known = self._audiences.get(conv)
            if known is None or known[1] <= now:
                self._audiences_bell.set()
                continue
            for subscriber, on in self._asked.take(conv):
                if not on:
                    self._end(conv, subscriber.user, subscriber.device_no)
                elif known[0].members <= COUNTED_ABOVE and not known[0].silent and self._is_live(subscriber, conv):
                    self._begin(conv, subscriber, known[0], now)

    # --- typing ---------------------------------------------------------------------------------

    def _begin(self, conv: str, subscriber: Subscriber, audience: Audience, now: float) -> None:
        user = subscriber.user
        told = self._typists.renew(conv, user, subscriber.device_no, now)
        self._kept(told is not None)
        if told is None:
            return
        self._holders[subscriber.device_no] = subscriber
        reach = [user_channel(other) for other in audience.dm if other != user] if audience.dm else [group_channel(conv)]
        self._reach[conv, user] = reach
        if told:
            self._send_typing(conv, user, reach, on=True)
            self._write_typing(conv, user, on=True)

    def _end(self, conv: str, user: str, source: int) -> None:
        if self._typists.types(conv, user, source):
            self._ended_lease(conv, user, source, self._typists.end(conv, user, source))

    def _ended_lease(self, conv: str, user: str, source: int, last: bool) -> None:
        if source != ELSEWHERE and not self._typists.types_here(conv, user):
            self._send_typing(conv, user, self._reach.pop((conv, user), []), on=False)
        if last:
            self._write_typing(conv, user, on=False)

    def _send_typing(self, conv: str, user: str, reach: list[bytes], *, on: bool) -> None:
        for channel in reach:
            self._outgoing.setdefault(channel, []).append(TypingSignal(conv, user, on))
        self._bell.set()

    def _write_typing(self, conv: str, user: str, *, on: bool) -> None:
        topic = self._hub.topics.get(conv)
        if topic is not None:
            notice = messages.TypingNotice(conv=conv, user=user, on=on)
            self._write(notice, [subscriber for subscriber in topic.live if subscriber.user != user])

    def _is_live(self, subscriber: Subscriber, conv: str) -> bool:
        topic = self._hub.topics.get(conv)
        return topic is not None and subscriber in topic.live

    # --- receipts -------------------------------------------------------------------------------

    def _release_moved(self, now: float) -> None:
        for (conv, user), (marks, dm, members) in self._moved.take(now, WRITES_PER_TICK):
            signal = ReceiptSignal(conv, user, *marks, members)
            for channel in map(user_channel, dm) if dm else (group_channel(conv),):
                self._outgoing.setdefault(channel, []).append(signal)
            if conv in self._hub.topics:
                whose = user if dm == (user,) else None
                self._put_receipt((conv, user, whose), marks, members)
        for conv, (low, high) in self._counts_moved.take(now, WRITES_PER_TICK):
            self._outgoing.setdefault(group_channel(conv), []).append(CountSignal(conv, low, high))
            if conv in self._hub.topics:
                self._put_counts(conv, (low, high))

    def _put_receipt(self, key: tuple[str, str, str | None], marks: tuple[int, int, int], members: int) -> None:
        self._kept(self._receipts.put(key, merged(self._receipts.get(key), marks), paced=members > PACED_ABOVE))

    def _put_counts(self, conv: str, span: tuple[int, int]) -> None:
        self._kept(self._counts.put(conv, widened(self._counts.get(conv), span), paced=True))
        self._counts_bell.set()

    def _tell_receipts(self, now: float) -> None:
        room = WRITES_PER_TICK
        while room > 0 and (due := self._receipts.take(now, 10)):
            for (conv, user, whose), (delivered, read, device_no) in due:
                topic = self._hub.topics.get(conv)
                told = [
                    subscriber for subscriber in (topic.live if topic is not None else ())
                    if subscriber.device_no != device_no and (whose is None or subscriber.user == whose)
                ]  # fmt: skip
                self._write(messages.Receipt(conv=conv, user=user, delivered=delivered, read=read), told)
                room -= len(told) + 1

    async def _tell_counts(self) -> None:
        for conv, (low, high) in self._counts.take(trio.current_time(), COUNTS_PER_TICK):
            try:
                found = await self._store.tallies(conv, low, high)
            except Unavailable:
                self._metrics.signals_dropped += 1
                continue
            with self._cork:
                self._write_counts(conv, {tally.user: tally for tally in found})

    def _write_counts(self, conv: str, tallies: dict[str, Tally]) -> None:
        topic = self._hub.topics.get(conv)
        for subscriber in list(topic.live) if topic is not None else ():
            tally = tallies.get(subscriber.user)
            if tally is not None:
                receipt = messages.Receipt(
                    conv=conv, user=tally.user, delivered=tally.delivered, read=tally.read, seq=tally.seq
                )
                self._write(receipt, [subscriber])

    # --- both -----------------------------------------------------------------------------------

    def _kept(self, kept: bool) -> None:
        if not kept:
            self._metrics.signals_dropped += 1
        self._bell.set()

    def _write(self, message: messages.Receipt | messages.TypingNotice, told: list[Subscriber]) -> None:
        frames: dict[Encoding, bytes] = {}
        for subscriber in told:
            encoding = subscriber.encoding
            frame = frames.get(encoding)
            if frame is None:
                frame = frames[encoding] = frame_of(encoding, encode(encoding, message))
            subscriber.write(frame)
        self._metrics.signals += len(told)
