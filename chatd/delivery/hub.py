"""The hub: who is here, which conversations they follow, and the fan-out to their sockets.

Owns: the node's topics and its table of sessions by user. Waits for nothing: every method is synchronous, and is called
by the store writer (a commit), the bus (another node's commit), repair, and sessions. It publishes to the bus, which
never waits either. A session that cannot take a frame is cut by its own link; the others do not notice (I9).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Protocol

import cbor2
import structlog
from chatd_protocol.codec import Encoding, encode_ack, encode_event

from chatd.bus.port import Bus
from chatd.conversations.operations import Appended, Event, SessionsEnded
from chatd.delivery.envelope import Envelope, Forged, Sealer, Signal, group_channel, user_channel
from chatd.delivery.topic import HeldBytes, Topic
from chatd.ops.metrics import Metrics
from chatd.wire.frames import BINARY, TEXT, encode_frame

ENDED_KEPT = 10_000
"""Devices whose last sign-out is remembered, for those who are about to enter; it takes them moments."""

log = structlog.get_logger()


class Subscriber(Protocol):
    """What the hub needs of a session. ``epoch``: how often its device was opened when it began."""

    user: str
    device: str
    device_no: int
    epoch: int
    encoding: Encoding

    def write(self, frame: bytes) -> None: ...

    def conversation_began(self, conv: str) -> None:
        """This user is a member now: read it from the store, then join. A repeat is told again."""

    def detached(self, conv: str, position: int) -> None:
        """Removed from a conversation; ``position`` is its last event that this session has."""

    def replace(self) -> None:
        """A newer session of the same device has begun."""

    def sign_out(self) -> None:
        """The device was signed out, or its token taken back."""


def frame_of(encoding: Encoding, data: bytes) -> bytes:
    return encode_frame(BINARY if encoding.binary else TEXT, data)


def event_frame(encoding: Encoding, event: Event) -> bytes:
    data = encode_event(encoding, event.conv, event.seq, event.at, event.sender, event.kind, event.payload)
    return frame_of(encoding, data)


def ack_frame(encoding: Encoding, event: Event) -> bytes:
    return frame_of(encoding, encode_ack(encoding, event.cseq, event.conv, event.seq, event.at))


def is_own(event: Event, subscriber: Subscriber) -> bool:
    """Whether this session sent it: then its ack stands in the event's place. Not only this device: a session that does not
    know yet that it was replaced would take for its own what the newer one says under the same number."""
    return event.device_no == subscriber.device_no and event.epoch == subscriber.epoch


class Observer(Protocol):
    """Who is told of what passes, at once and before anything else is written; synchronous, may not raise.

    ``typing``: the conversations in which somebody may be typing, of which alone ``spoken`` is told.
    """

    @property
    def typing(self) -> Container[str]: ...

    def spoken(self, event: Event) -> None:
        """A message was written to the live sessions."""

    def membership_moved(self, topic: Topic[Subscriber], event: Event) -> None:
        """Somebody joined or left; who left is still among the topic's live sessions."""

    def heard(self, channel: bytes, signals: Sequence[Signal]) -> None:
        """Another node's signals."""


class Hub:
    """``held_events``: how many events a topic keeps behind a hole; ``held_bytes``: all topics together."""

    def __init__(self, sealer: Sealer, metrics: Metrics, *, held_events: int, held_bytes: int) -> None:
        self._sealer = sealer
        self._metrics = metrics
        self._held_events = held_events
        self._held_bound = held_bytes
        self._held_bytes = HeldBytes(held_bytes)
        self._bus: Bus | None = None
        self._confirmed: set[bytes] = set()
        self._users: dict[str, list[Subscriber]] = {}
        self._ended: dict[int, int] = {}
        self.topics: dict[str, Topic[Subscriber]] = {}
        self.gapped: set[str] = set()
        self.on_gap: Callable[[], None] = _nobody_repairs
        self.observers: list[Observer] = []

    def connect(self, bus: Bus) -> None:
        """Composition: the bus calls the hub and the hub calls the bus, so one of them comes later."""
        self._bus = bus

    @property
    def bus(self) -> Bus:
        assert self._bus is not None, "connect() comes first, in app.py"
        return self._bus

    @property
    def held_bytes(self) -> int:
        """Bytes of events that topics hold behind a hole."""
        return self._held_bound - self._held_bytes.left

    # --- who is here ----------------------------------------------------------------------------

    async def enter(self, subscriber: Subscriber) -> None:
        """Make a session known; afterwards nothing for its user is missed, but what the bus itself loses.

        The older sessions of its device are told, here at once, on other nodes when they hear of it; so is this one
        where a newer one was quicker. Waits for the bus to confirm the user's channel (not while it is down).
        Cancelling is safe; ``exit`` is due in any case.
        """
        user, device, epoch = subscriber.user, subscriber.device, subscriber.epoch
        sessions = self._users.setdefault(user, [])
        if any(other.device == device and other.epoch > epoch for other in sessions):
            subscriber.replace()
        if self._ended.get(subscriber.device_no, 0) > epoch:
            subscriber.sign_out()  # between the store's yes to its hello and now
        sessions.append(subscriber)
        self._replace_older(user, device, epoch)
        channel = user_channel(user)
        self.bus.publish([(channel, self._sealer.seal(Envelope([], [], (user, device, epoch)), channel))])
        await self._subscribe([channel])

    def exit(self, subscriber: Subscriber) -> None:
        """A session is gone."""
        sessions = self._users.get(subscriber.user)
        if sessions is None or subscriber not in sessions:
            return
        sessions.remove(subscriber)
        if not sessions:
            del self._users[subscriber.user]
            self._unsubscribe(user_channel(subscriber.user))

    def _replace_older(self, user: str, device: str, epoch: int) -> None:
        for other in list(self._users.get(user, ())):
            if other.device == device and other.epoch < epoch:
                other.replace()

    def sign_out(self, ended: SessionsEnded) -> None:
        """This node's commit ended these sessions: end them here, and tell the other nodes."""
        channel = user_channel(ended.user)
        told = [(ended.user, device_no, epoch) for device_no, epoch in ended.devices]
        self.bus.publish([(channel, self._sealer.seal(Envelope([], [], ended=told), channel))])
        for one in told:
            self.end_sessions(*one)

    def end_sessions(self, user: str, device_no: int, epoch: int) -> None:
        """End the sessions of a device that are older than ``epoch``, now and those that are about to enter. May repeat."""
        self._ended[device_no] = max(epoch, self._ended.pop(device_no, 0))
        if len(self._ended) > ENDED_KEPT:
            del self._ended[next(iter(self._ended))]
        for subscriber in list(self._users.get(user, ())):
            if subscriber.device_no == device_no and subscriber.epoch < epoch:
                subscriber.sign_out()

    async def follow(self, subscriber: Subscriber, conversations: Iterable[tuple[str, bool]]) -> bool:
        """Begin to follow (conv, group) pairs, as *behind*. True when what the caller read of the store before may be out of
        date: nobody is live in a topic yet, for it may be newer than that; or its channel was not confirmed yet.
        Cancelling is safe; ``unfollow`` is due in any case.
        """
        channels = []
        fresh = False
        for conv, group in conversations:
            topic = self.topics.get(conv)
            if topic is None:
                topic = Topic(conv, group=group, held_bound=self._held_events, held_bytes=self._held_bytes)
                self.topics[conv] = topic
            fresh = fresh or topic.head is None
            if group:
                channels.append(group_channel(conv))
            topic.follow(subscriber)
        return await self._subscribe(channels) or fresh

    def unfollow(self, subscriber: Subscriber, conv: str) -> None:
        """Stop following; a conversation that nobody here follows is forgotten."""
        topic = self.topics.get(conv)
        if topic is not None:
            topic.leave(subscriber)
            if topic.empty:
                del self.topics[conv]
                self.gapped.discard(conv)
                if topic.group:
                    self._unsubscribe(group_channel(conv))

    async def _subscribe(self, channels: list[bytes]) -> bool:
        """Return when all are confirmed, those too that somebody else is waiting for; whether any was not yet."""
        missing = [channel for channel in channels if channel not in self._confirmed]
        if missing:
            await self.bus.subscribe(missing)
            self._confirmed.update(missing)
        return bool(missing)

    def _unsubscribe(self, channel: bytes) -> None:
        self._confirmed.discard(channel)
        self.bus.unsubscribe([channel])

    # --- what was said --------------------------------------------------------------------------

    def committed(self, appended: Sequence[Appended]) -> None:
        """This node's commit: deliver here, and publish to the others in one batch. Call it corked.

        A group's events go to its channel alone: those who join are told so on their own, and read the store.
        """
        outgoing: dict[bytes, Envelope] = {}
        for outcome in appended:
            self._spread(outcome.events)
            for channel in map(user_channel, outcome.dm) if outcome.dm else (group_channel(outcome.conv),):
                envelope = outgoing.get(channel)
                if envelope is None:
                    envelope = outgoing[channel] = Envelope([], [])
                envelope.events.extend(outcome.events)
            for user in outcome.dm if outcome.dm and outcome.events[0].seq == 1 else outcome.joined:
                self.announce(user, outcome.conv)
                outgoing.setdefault(user_channel(user), Envelope([], [])).began.append((user, outcome.conv))
        seal = self._sealer.seal
        self.bus.publish([(channel, seal(envelope, channel)) for channel, envelope in outgoing.items()])

    def bus_message(self, channel: bytes, payload: bytes) -> None:
        """Another node's commit, or one's own come back, or a forgery. Never raises."""
        if self._sealer.is_own(payload):
            return
        try:
            envelope = self._sealer.open(channel, payload)
        except Forged as fault:
            self._metrics.bus_forged += 1
            log.warning("bus.refused", reason=str(fault))
            return
        self._spread(envelope.events)
        for user, conv in envelope.began:
            self.announce(user, conv)
        if envelope.signals:
            for observer in self.observers:
                observer.heard(channel, envelope.signals)
        if envelope.takeover is not None:
            self._replace_older(*envelope.takeover)
        for one in envelope.ended:
            self.end_sessions(*one)

    def signal(self, outgoing: Mapping[bytes, list[Signal]]) -> None:
        """Publish what is in no log, one envelope a channel, in one batch."""
        seal = self._sealer.seal
        self.bus.publish([(channel, seal(Envelope([], [], signals=s), channel)) for channel, s in outgoing.items()])

    def _spread(self, events: Iterable[Event]) -> None:
        for event in events:
            topic = self.topics.get(event.conv)
            if topic is not None:
                self.offer(topic, event)

    def announce(self, user: str, conv: str) -> None:
        """A conversation began for a user: tell all their sessions, those too that follow it: such a one may be about to
        leave it because of an earlier removal."""
        for subscriber in self._users.get(user, ()):
            subscriber.conversation_began(conv)

    def offer(self, topic: Topic[Subscriber], event: Event) -> None:
        """Give one committed event to its topic and write what that releases; a hole is left to repair."""
        for released in topic.offer(event):
            self._fan_out(topic, released)
        if topic.gapped:
            self.gapped.add(topic.conv)
            self.on_gap()

    def _fan_out(self, topic: Topic[Subscriber], event: Event) -> None:
        # The frame is built when the first recipient of its encoding asks for it, and shared by the rest. Nothing that
        # ``write`` calls changes ``topic.live``: a session that ends leaves its topics later, in its own task.
        frames: dict[Encoding, bytes] = {}
        device_no, epoch = event.device_no, event.epoch
        for subscriber in topic.live:
            if subscriber.device_no == device_no and subscriber.epoch == epoch:  # is_own, without a call for each member
                subscriber.write(ack_frame(subscriber.encoding, event))
                continue
            encoding = subscriber.encoding
            frame = frames.get(encoding)
            if frame is None:
                frame = frames[encoding] = event_frame(encoding, event)
            subscriber.write(frame)
        self._metrics.deliveries += len(topic.live)
        kind = event.kind
        if kind == "message":
            for observer in self.observers:
                if topic.conv in observer.typing:
                    observer.spoken(event)
        elif kind in {"joined", "left"}:
            for observer in self.observers:
                observer.membership_moved(topic, event)
            if kind == "left":
                self._detach(topic, event)
        topic.admit_ahead(event.seq)

    def _detach(self, topic: Topic[Subscriber], event: Event) -> None:
        # Those who are live were given the event just now; who still reads the store, or is ahead, finds it there.
        user = member_of(event)
        for subscriber in [subscriber for subscriber in topic.live if subscriber.user == user]:
            subscriber.detached(topic.conv, event.seq)
            self.unfollow(subscriber, topic.conv)
            # They may have been added again, and have heard so while they still followed: the bus lost this, not that.
            subscriber.conversation_began(topic.conv)


def _nobody_repairs() -> None:
    """Until ``Repair`` has put itself here, gaps only gather in ``Hub.gapped``."""


def member_of(event: Event) -> str:
    """Whose membership a ``joined`` or ``left`` event begins or ends."""
    user: str = cbor2.loads(event.payload)["user"]
    return user
