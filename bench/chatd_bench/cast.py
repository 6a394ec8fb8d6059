"""Who is in a run, and who writes to whom. Pure; the same in every generator process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from chatd_bench.dialects.dialect import Channel, User


@dataclass(frozen=True)
class Cast:
    """``writers``: by channel, in its order. ``homes``: by user, the number of the generator process that has it."""

    users: tuple[User, ...]
    channels: tuple[Channel, ...] = ()
    writers: tuple[tuple[User, ...], ...] = ()
    homes: tuple[int, ...] = field(default=())


def make_users(run_id: str, count: int) -> tuple[User, ...]:
    """Names of one length, which no other run has."""
    return tuple(User(number, f"{run_id}-{number:06d}") for number in range(count))


def pairs(run_id: str, connections: int, generators: int) -> Cast:
    """Everybody writes to one other; both are in one process. With several nodes they are on different ones."""
    users = make_users(run_id, connections)
    channels = [
        Channel(number, "pair", f"{run_id}-p{number:05d}", users[2 * number : 2 * number + 2])
        for number in range(connections // 2)
    ]
    homes = tuple(user.number // 2 % generators for user in users)
    return Cast(users, tuple(channels), tuple(channel.members for channel in channels), homes)


def groups(run_id: str, sizes: Sequence[int], senders: int, generators: int) -> Cast:
    """Groups that share no member; the first ``senders`` of each write. Members are spread over the processes."""
    users = make_users(run_id, sum(sizes))
    channels, at = [], 0
    for number, size in enumerate(sizes):
        channels.append(Channel(number, "group", f"{run_id}-g{number:05d}", users[at : at + size]))
        at += size
    writers = tuple(channel.members[:senders] for channel in channels)
    homes = [0] * len(users)
    for channel in channels:
        for place, user in enumerate(channel.members):
            # A small group has all its members in one process: where there are no acks, that is who can count.
            homes[user.number] = (place if len(channel.members) >= 4 * generators else channel.number) % generators
    return Cast(users, tuple(channels), writers, tuple(homes))


def joined(first: Cast, more: Cast) -> Cast:
    """Both in one run; the second one's users and channels are numbered on."""
    users = tuple(User(user.number + len(first.users), user.name) for user in more.users)
    renumbered = dict(zip(more.users, users, strict=True))
    channels = tuple(
        Channel(channel.number + len(first.channels), channel.kind, channel.name, tuple(renumbered[u] for u in channel.members))
        for channel in more.channels
    )
    writers = tuple(tuple(renumbered[user] for user in some) for some in more.writers)
    return Cast(first.users + users, first.channels + channels, first.writers + writers, first.homes + more.homes)
