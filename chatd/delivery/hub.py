"""The hub: who is here, which conversations they follow, and the fan-out to their sockets.

Owns: the node's topics and its table of sessions by user. Waits for nothing: every method is synchronous, and is called
by the store writer (a commit), the bus (another node's commit), repair, and sessions. It publishes to the bus, which
never waits either. A session that cannot take a frame is cut by its own link; the others do not notice (I9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import cbor2
import structlog
from chatd_protocol.codec import Encoding, encode_ack, encode_event

from chatd.bus.port import Bus
from chatd.conversations.operations import Appended, Event
from chatd.delivery.envelope import Envelope, Forged, Sealer, group_channel, user_channel
from chatd.delivery.topic import Topic
from chatd.ops.metrics import Metrics
from chatd.wire.frames import BINARY, TEXT, encode_frame

log = structlog.get_logger()


class Subscriber(Protocol):
    """What the hub needs of a session. ``first_cseq``: the last cseq stored before this session began."""

    user: str
    device: str
    session_id: str
    device_no: int
    first_cseq: int
    encoding: Encoding

    def write(self, frame: bytes) -> None: ...

    def invite(self, conv: str) -> None:
        """A conversation began for this user: read it from the store, then join."""

    def detached(self, conv: str, position: int) -> None:
        """Removed from a conversation; ``position`` is its last event that this session has."""

    def replace(self) -> None:
        """A newer session of the same device has begun."""


def frame_of(encoding: Encoding, data: bytes) -> bytes:
    return encode_frame(BINARY if encoding.binary else TEXT, data)


def event_frame(encoding: Encoding, event: Event) -> bytes:
    return frame_of(
        encoding,
        encode_event(encoding, event.conv, event.seq, event.at, event.sender, event.kind, event.payload),
    )


def ack_frame(encoding: Encoding, event: Event) -> bytes:
    return frame_of(encoding, encode_ack(encoding, event.cseq, event.conv, event.seq, event.at))


def is_own(event: Event, subscriber: Subscriber) -> bool:
    """Whether this session sent it: then its ack stands in the event's place."""
    return event.device_no == subscriber.device_no and event.cseq > subscriber.first_cseq


class Hub:
    def __init__(self, sealer: Sealer, metrics: Metrics, *, held_bound: int) -> None:
        self._sealer = sealer
        self._metrics = metrics
        self._held_bound = held_bound
        self._bus: Bus | None = None
        self._users: dict[str, list[Subscriber]] = {}
        self.topics: dict[str, Topic[Subscriber]] = {}
        self.gapped: set[str] = set()
        self.on_gap: Callable[[], None] = _nobody_repairs

    def connect(self, bus: Bus) -> None:
        """Composition: the bus calls the hub and the hub calls the bus, so one of them comes later."""
        self._bus = bus

    @property
    def bus(self) -> Bus:
        assert self._bus is not None, "connect() comes first, in app.py"
        return self._bus

    # --- who is here ----------------------------------------------------------------------------

    async def enter(self, subscriber: Subscriber) -> None:
        """Make a session known; afterwards nothing for its user is missed. An older session of its device is told.

        Waits for the bus to confirm the user's channel (not while it is down). Cancelling is safe; ``exit`` is due
        in any case.
        """
        sessions = self._users.setdefault(subscriber.user, [])
        first = not sessions
        self.take_over(subscriber.user, subscriber.device, subscriber.session_id)
        sessions.append(subscriber)
        if first:
            await self.bus.subscribe([user_channel(subscriber.user)])

    def take_over(self, user: str, device: str, session_id: str) -> None:
        """End the older sessions of a device, here at once, on other nodes when they hear of it.

        Called before the device is opened, too: what the older session had sent is then in the store writer's mailbox
        before the question for the last ``cseq``, and nothing of it comes after.
        """
        takeover = (user, device, session_id)
        self._replace_older(takeover)
        channel = user_channel(user)
        self.bus.publish([(channel, self._sealer.seal(Envelope([], [], takeover), channel))])

    def exit(self, subscriber: Subscriber) -> None:
        sessions = self._users.get(subscriber.user)
        if sessions is None or subscriber not in sessions:
            return
        sessions.remove(subscriber)
        if not sessions:
            del self._users[subscriber.user]
            self.bus.unsubscribe([user_channel(subscriber.user)])

    def is_online(self, user: str) -> bool:
        """Whether the user has a session on this node."""
        return user in self._users

    def _replace_older(self, takeover: tuple[str, str, str]) -> None:
        user, device, session_id = takeover
        for other in list(self._users.get(user, ())):
            if other.device == device and other.session_id != session_id:
                other.replace()

    async def follow(self, subscriber: Subscriber, conversations: Iterable[tuple[str, bool]]) -> bool:
        """Begin to follow (conv, group) pairs, as *behind*. True when a channel was new: what the caller read of the
        store before may be out of date. Cancelling is safe."""
        channels = []
        fresh = False
        for conv, group in conversations:
            topic = self.topics.get(conv)
            if topic is None:
                topic = self.topics[conv] = Topic(conv, group=group, held_bound=self._held_bound)
                fresh = True
                if group:
                    channels.append(group_channel(conv))
            topic.follow(subscriber)
        if channels:
            await self.bus.subscribe(channels)
        return fresh

    def unfollow(self, subscriber: Subscriber, conv: str) -> None:
        topic = self.topics.get(conv)
        if topic is not None:
            topic.leave(subscriber)
            if topic.empty:
                del self.topics[conv]
                self.gapped.discard(conv)
                if topic.group:
                    self.bus.unsubscribe([group_channel(conv)])

    # --- what was said --------------------------------------------------------------------------

    def committed(self, appended: Sequence[Appended]) -> None:
        """This node's commit: deliver here, and publish to the others in one batch. Call it corked."""
        outgoing: dict[bytes, tuple[list[Event], list[str]]] = {}
        for outcome in appended:
            invited = outcome.dm if outcome.dm and outcome.events[0].seq == 1 else outcome.joined
            self._spread(outcome.events, invited)
            for channel in _channels(outcome):
                bundle = outgoing.get(channel)
                if bundle is None:
                    bundle = outgoing[channel] = ([], [])
                bundle[0].extend(outcome.events)
                bundle[1].extend(invited)
        seal = self._sealer.seal
        self.bus.publish(
            [(channel, seal(Envelope(events, invited), channel)) for channel, (events, invited) in outgoing.items()]
        )

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
        self._spread(envelope.events, envelope.invited)
        if envelope.takeover is not None:
            self._replace_older(envelope.takeover)

    def _spread(self, events: Iterable[Event], invited: Iterable[str]) -> None:
        for event in events:
            topic = self.topics.get(event.conv)
            if topic is not None:
                self.offer(topic, event)
                for user in invited:
                    self.invite(user, event.conv)
            else:
                for user in invited:
                    self.invite(user, event.conv)

    def invite(self, user: str, conv: str) -> None:
        for subscriber in self._users.get(user, ()):
            topic = self.topics.get(conv)
            if topic is None or not topic.follows(subscriber):
                subscriber.invite(conv)

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
        device_no, cseq = event.device_no, event.cseq
        for subscriber in topic.live:
            if subscriber.device_no == device_no and cseq > subscriber.first_cseq:
                subscriber.write(ack_frame(subscriber.encoding, event))
                continue
            encoding = subscriber.encoding
            frame = frames.get(encoding)
            if frame is None:
                frame = frames[encoding] = event_frame(encoding, event)
            subscriber.write(frame)
        self._metrics.deliveries += len(topic.live)
        topic.admit_ahead(event.seq)
        if event.kind == "left":
            self._detach(topic, event)

    def _detach(self, topic: Topic[Subscriber], event: Event) -> None:
        user = left_user(event)
        for subscriber in topic.subscribers():
            if subscriber.user == user:
                subscriber.detached(topic.conv, event.seq)
                self.unfollow(subscriber, topic.conv)


def _channels(outcome: Appended) -> Iterable[bytes]:
    """Where those listen whom a commit concerns. A dm with oneself has one channel."""
    if outcome.dm:
        return map(user_channel, outcome.dm)
    return (group_channel(outcome.conv), *map(user_channel, outcome.joined))


def _nobody_repairs() -> None:
    """Until ``Repair`` has put itself here, gaps only gather in ``Hub.gapped``."""


def left_user(event: Event) -> str:
    """Whose membership a ``left`` event ends."""
    user: str = cbor2.loads(event.payload)["user"]
    return user
