"""``dm``: connections in pairs, each with a window of sends to the other in flight.

Checked on every message: the conversation's ``seq`` comes without gap or repeat, acks in the order of the ``cseq``, and
the peer's messages in the order of its ``cseq``, byte for byte as they were sent. At the end: each got exactly what the
other has acks for, under the same ``seq``.
"""

from __future__ import annotations

from collections import deque
from time import monotonic_ns
from typing import Any

from chatd_bench import websocket, wire
from chatd_bench.connection import Connection, RunFailed
from chatd_bench.histogram import BUCKET_US, BUCKETS
from chatd_bench.load import DRAIN_SECONDS, Load, Plan

MARK_EVERY = 20
"""Messages that one ``delivered`` covers."""
FULLY_DECODED_EVERY = 64
OPEN_SECONDS = 120.0


class Peer(Connection):
    """One half of a pair: sends to the other, acknowledges what it gets, and checks both."""

    __slots__ = ("_ack_middle", "_event_rest", "_sent", "_shapes", "_template", "acked", "acked_sum", "conv", "cseq",
                 "load", "marked", "other", "received", "received_sum", "seq")  # fmt: skip

    def __init__(self, name: str, other: str, load: DmLoad) -> None:
        super().__init__(name)
        self.other = other
        self.load = load
        self.conv = ""
        self.cseq = self.acked = self.received = self.seq = self.marked = 0
        self.acked_sum = self.received_sum = 0
        self._sent: deque[int] = deque()
        self._template = wire.SendTemplate("@" + other, load.body_bytes, self.key)

    def send_next(self) -> None:
        """Queue the next message."""
        self.cseq += 1
        now = monotonic_ns() // 1000
        self._sent.append(now)
        self.out.append(self._template.frame(self.cseq, now))
        self.load.tally.sent_total += 1

    def _begin_conversation(self, conv: str) -> None:
        self.conv = conv
        self._template = wire.SendTemplate(conv, self.load.body_bytes, self.key)
        self._event_rest = wire.event_rest(self.other, self.load.body_bytes)
        self._shapes = {width: wire.event_shape(conv, self._event_rest, width) for width in wire.WIDTHS}
        self._ack_middle = wire.ack_middle(conv)

    def feed(self, data: bytes, now: int) -> int:
        """Take frames by comparing them with what must come next; one that is not that is decoded, and some anyway."""
        if not self.conv:
            return super().feed(data, now)
        at, end, shapes, rest_of_event = 0, len(data), self._shapes, self._event_rest
        while at < end:
            following = self.seq + 1
            seq = wire.number(following)
            if following % FULLY_DECODED_EVERY:
                start, clock, rest, stamp, size = shapes[len(seq)]
                if data.startswith(start + seq, at) and at + size <= end:
                    digits = data[at + stamp : at + size]
                    same = data.startswith(wire.AT, at + clock) and data.startswith(rest_of_event, at + rest)
                    if same and digits.isdigit():
                        cseq, sent = int(digits[: wire.CSEQ_DIGITS]), int(digits[wire.CSEQ_DIGITS :])
                        self._take_event(following, cseq, sent, now)
                        at += size
                        continue
                else:
                    ack = self._ack_frame(seq)
                    if data.startswith(ack, at) and at + len(ack) + wire.TIME_BYTES <= end:
                        at += len(ack) + wire.TIME_BYTES
                        self._take_ack(following, self.acked + 1, now)
                        continue
            found = websocket.find_frame(data, at)
            if found is None:
                break
            self.frame(data, at, *found, now)
            at = found[1]
        return at

    def _ack_frame(self, seq: bytes) -> bytes:
        """The frame of the next ack, if it comes as ``seq``, up to its time."""
        message = wire.ACK_START + wire.number(self.acked + 1) + self._ack_middle + seq + wire.AT
        return websocket.server_frame_head(len(message) + wire.TIME_BYTES) + message

    def event(self, message: dict[str, Any], now: int) -> None:
        """An event that was decoded; judged as those that were compared."""
        if not self.conv:
            self._begin_conversation(message["conv"])
        stamp = wire.stamp_of(message.get("body"), self.load.body_bytes)
        said = (message["conv"], message["kind"], message["from"], message.get("type"))
        if stamp is None or said != (self.conv, "message", self.other, "text"):
            raise RunFailed(f"{self.name}: not what was sent: {message}")
        self._take_event(message["seq"], *stamp, now)

    def ack(self, message: dict[str, Any], now: int) -> None:
        """An ack that was decoded."""
        if not self.conv:
            self._begin_conversation(message["conv"])
        if message["conv"] != self.conv or message.get("repeat"):
            raise RunFailed(f"{self.name}: ack of another message: {message}")
        self._take_ack(message["seq"], message["cseq"], now)

    def _take_event(self, seq: int, cseq: int, sent: int, now: int) -> None:
        if seq != self.seq + 1 or cseq != self.received + 1:
            raise RunFailed(
                f"{self.name}: got seq {seq} with cseq {cseq} of {self.other} after {self.seq}, {self.received}"
            )
        self.seq, self.received = seq, cseq
        self.received_sum += seq * cseq
        tally = self.load.tally
        tally.delivered_total += 1
        if tally.measuring:
            tally.delivered += 1
            bucket = (now - sent) // BUCKET_US
            tally.delivery_latency.counts[bucket if 0 <= bucket < BUCKETS else -1] += 1
        if cseq - self.marked >= MARK_EVERY:
            self.marked = cseq
            self.tell({"t": "delivered", "conv": self.conv, "seq": seq})

    def _take_ack(self, seq: int, cseq: int, now: int) -> None:
        if seq != self.seq + 1 or cseq != self.acked + 1 or not self._sent:
            raise RunFailed(f"{self.name}: ack of {cseq} as seq {seq} after cseq {self.acked}, seq {self.seq}")
        self.seq, self.acked = seq, cseq
        self.acked_sum += seq * cseq
        sent = self._sent.popleft()
        load = self.load
        tally = load.tally
        tally.acked_total += 1
        if tally.measuring:
            tally.acked += 1
            bucket = (now - sent) // BUCKET_US
            tally.ack_latency.counts[bucket if 0 <= bucket < BUCKETS else -1] += 1
        if load.sending:
            self.send_next()


class DmLoad(Load):
    """This generator's pairs; both halves of a pair are in one process."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.body_bytes = plan.parameters["body_bytes"]
        self.window = plan.parameters["window"]
        self.peers: list[Peer] = []
        for pair in range(plan.generator, plan.parameters["connections"] // 2, plan.generators):
            names = (f"{plan.run_id}-{pair}a", f"{plan.run_id}-{pair}b")
            self.peers += [Peer(names[0], names[1], self), Peer(names[1], names[0], self)]

    def open(self) -> None:
        """Open all connections, then begin each conversation: from there on it is addressed by its id."""
        numbers = {id(peer): number * self.plan.generators for number, peer in enumerate(self.peers)}
        self.loop.open(self.peers, lambda peer: self.connect(peer, numbers[id(peer)]), OPEN_SECONDS)
        for peer in self.peers[::2]:
            peer.send_next()
            peer.flush()
        self.loop.turn_until(lambda: all(peer.seq == 1 for peer in self.peers), OPEN_SECONDS, "first messages")

    def begin(self) -> None:
        """Fill every window."""
        for peer in self.peers:
            for _ in range(self.window):
                peer.send_next()
            peer.flush()

    def check(self) -> dict[str, int]:
        """Wait for the last deliveries; return how many messages and conversations were checked."""
        pairs = list(zip(self.peers[::2], self.peers[1::2], strict=True))
        self.loop.turn_until(lambda: all(_even(*pair) for pair in pairs), DRAIN_SECONDS, "deliveries of what was acked")
        self.loop.turn(0.2)  # for what may come too often
        for one, other in pairs:
            if not _even(one, other) or one.acked_sum != other.received_sum or one.received_sum != other.acked_sum:
                raise RunFailed(f"{one.name} and {other.name} saw their messages under different seqs")
        return {"messages_checked": self.tally.acked_total, "conversations": len(pairs)}


def _even(one: Peer, other: Peer) -> bool:
    return one.received == other.acked and other.received == one.acked and one.seq == other.seq
