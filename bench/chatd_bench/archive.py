"""A store with a history, made for measurements: users, groups, 1:1 conversations, messages of made-up words.

Written through the store's own port, as the server does, and indexed meanwhile; over the wire it would take an hour. The
same numbers make the same archive. What is like a real one: few words and few groups have most of the messages (Zipf,
Pareto), a few users write most, and half of what is said is between two.
"""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

import trio
from chatd_protocol.codec import message_payload
from chatd_protocol.messages import Send as WireSend

from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import Appended, Author, CreateGroup, DeviceOpened, OpenDevice, Operation, Send
from chatd.logs import configure_logging
from chatd.store.port import Store
from chatd_bench.progress import Progress

BATCH = 2000
WORDS = 20_000
BODIES = 50_000
"""Different ones; more would measure how fast Python draws lots."""
WORDS_IN_BODY = 18
SKEW = 6
"""Half of the 1:1 messages are of the 1.5 % of the users who write most."""
BEGAN_MS = 1_700_000_000_000
T = TypeVar("T")

_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ei", "ar", "on")]


@dataclass(frozen=True)
class Group:
    """``members`` are numbers of users, the founder first. ``senders`` and ``said``: who wrote which of the archive's bodies,
    message by message; the log begins with the founding, so the first message is number 2."""

    conv: str
    title: str
    members: list[int]
    senders: array[int] = field(default_factory=lambda: array("I"))
    said: array[int] = field(default_factory=lambda: array("I"))


@dataclass(frozen=True)
class Archive:
    """What is in it: ``words``, the most frequent first; ``bodies``, all that was said; from BEGAN_MS for ``took_ms``."""

    users: list[str]
    groups: list[Group]
    words: list[str]
    bodies: list[str]
    took_ms: int


def build(path: Path, users: int, messages: int, indexed: bool = True) -> Archive:
    """Make the database at ``path``, with its index for searches if wanted; progress goes to standard error."""
    configure_logging("warning", "auto")
    return trio.run(_build, path, users, messages, indexed)


async def _build(path: Path, users: int, messages: int, indexed: bool) -> Archive:
    random = Random(1)
    words = _words(random)
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    bodies = [" ".join(random.choices(words, cum_weights=weights, k=WORDS_IN_BODY)) for _ in range(BODIES)]
    async with open_store(path) as store:
        authors = await _make_users(store, [f"{random.choice(words)}{number}" for number in range(users)])
        groups = await _make_groups(store, random, authors, words)
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            if indexed:
                nursery.start_soon(_index, store, done)
            await _write(store, random, authors, groups, bodies, messages)
            done.set()
        return Archive([author.user for author in authors], groups, words, bodies, messages * 1000)


def _words(random: Random) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(random.choices(_SYLLABLES, k=random.choice((1, 2, 2, 3, 3, 4))))] = None
    return list(words)


async def _make_users(store: Store, names: list[str]) -> list[Author]:
    authors: list[Author] = []
    with Progress("users", len(names)) as progress:
        for some in _batches(names):
            opened = await store.commit([OpenDevice(user=name, device="d", create_user=True) for name in some], BEGAN_MS)
            authors += [outcome.author for outcome in opened if isinstance(outcome, DeviceOpened)]
            progress.show(len(authors))
    return authors


async def _make_groups(store: Store, random: Random, authors: list[Author], words: list[str]) -> list[Group]:
    """One for 50 users; a few of them of 1000, most of ten."""
    sizes = [min(size, len(authors), 1000) for size in (*[1000] * 5, *[100] * 45, *[10] * (len(authors) // 50))]
    groups: list[Group] = []
    with Progress("groups", len(sizes)) as progress:
        for some in _batches(sizes, 50):
            chosen = [random.sample(range(len(authors)), size) for size in some]
            made: list[Operation] = [
                CreateGroup(
                    author=authors[members[0]], title=" ".join(random.choices(words, k=3)).title(), history="all",
                    members=tuple(authors[member].user for member in members[1:]),
                )
                for members in chosen
            ]  # fmt: skip
            for operation, outcome, members in zip(made, await store.commit(made, BEGAN_MS), chosen, strict=True):
                assert isinstance(operation, CreateGroup), "of those"
                assert isinstance(outcome, Appended), "nobody refuses a group of known users"
                groups.append(Group(outcome.conv, operation.title, members))
            progress.show(len(groups))
    return groups


async def _write(
    store: Store, random: Random, authors: list[Author], groups: list[Group], bodies: list[str], messages: int
) -> None:
    payloads = [message_payload(WireSend(cseq=1, to="x", body=body)) for body in bodies]
    cseqs = [0] * len(authors)
    written, now = 0, BEGAN_MS
    with Progress("messages", messages) as progress:
        while written < messages:
            batch: list[Operation] = []
            for _ in range(min(BATCH, messages - written)):
                group = None
                if random.random() < 0.5:
                    group = groups[min(int(random.paretovariate(0.7)) - 1, len(groups) - 1)]
                    sender, to = random.choice(group.members), group.conv
                else:
                    sender = int(random.random() ** SKEW * len(authors))
                    to = f"@{authors[min(sender ^ 1, len(authors) - 1)].user}"
                cseqs[sender] += 1
                body = random.randrange(len(payloads))
                if group is not None:
                    group.senders.append(sender)
                    group.said.append(body)
                batch.append(Send(author=authors[sender], cseq=cseqs[sender], to=to, payload=payloads[body]))
            now += 1000 * len(batch)
            outcomes = await store.commit(batch, now)
            assert all(isinstance(outcome, Appended) for outcome in outcomes), "each is the next of its device"
            written += len(batch)
            progress.show(written)


async def _index(store: Store, written: trio.Event) -> None:
    """Beside the writing, and then what is left."""
    while not written.is_set():
        await store.index()
        await trio.sleep(0.001)
    left = all_of_it = await store.index()
    with Progress("indexed", all_of_it) as progress:
        while left:
            left = await store.index()
            progress.show(all_of_it - left)


def _batches(items: list[T], size: int = BATCH) -> list[list[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
