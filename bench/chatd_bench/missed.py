"""Whether what one has missed came: every message in full, in its place of the log, and once. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatd_bench.dialects.dialect import Channel, Delivery, Dialect, User
from chatd_bench.faults import RunFailed


@dataclass(frozen=True)
class Missed:
    """``user`` stood at ``position`` of the log when ``writer`` began; ``intended``: the times in the stamps, in us."""

    user: User
    writer: User
    channel: Channel
    address: str
    position: int
    intended: Sequence[int]
    body_bytes: int

    def delivery(self, count: int) -> Delivery:
        """What the ``count``-th message has to say."""
        stamp = f"~{self.writer.number:06d}.{self.channel.number:06d}.{count:010d}.{self.intended[count - 1]:016d}~"
        return Delivery(self.writer, self.user, self.channel, self.address, stamp.ljust(self.body_bytes, "x"))


def check_missed(dialect: Dialect, missed: Missed, messages: Sequence[bytes]) -> int:
    """How many messages of the writer came. What founded the channel may come before them. Raises RunFailed."""
    found, expected = 0, None
    for message in messages:
        position = dialect.position_of(message)
        first = expected is None and 1 <= position <= missed.position + 1
        if not first and position != expected:
            wanted = expected or f"at most {missed.position + 1}"
            raise RunFailed(f"{missed.user.name}: gap or repeat in what was missed: seq {position}, not {wanted}: {message!r}")
        expected = position + 1
        if position > missed.position:
            found = position - missed.position
            _compare(dialect, missed, found, message)
    return found


def _compare(dialect: Dialect, missed: Missed, count: int, message: bytes) -> None:
    if count > len(missed.intended):
        raise RunFailed(f"{missed.user.name}: too many: {len(missed.intended)} were sent, and then came {message!r}")
    if fault := dialect.judge(message, missed.delivery(count)):
        raise RunFailed(f"{missed.user.name}: number {count} of what was missed: {fault}: {message!r}")
