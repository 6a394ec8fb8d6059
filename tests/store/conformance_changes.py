"""The store's contract about changes: edits, deletes, reactions, pins, threads, mentions, mute. As ``conformance``: an
engine's own file inherits ``ChangesConformance`` and gives it its fixtures; its stores have a window of 1000 ms.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import cbor2
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.conversations.operations import (
    AddMembers,
    Appended,
    Author,
    Delete,
    Done,
    Edit,
    Mark,
    Mute,
    OpenDevice,
    Operation,
    Pin,
    React,
    Refused,
    RemoveMembers,
    Rename,
    Repeated,
    Send,
    SetBlock,
    SetRole,
)
from chatd.store.port import Store
from tests.store.conformance import NOW, Engine, code, do, group, message, people, whole
from tests.store.model import WINDOW_MS, Group


def edit(author: Author, cseq: int, conv: str, seq: int, body: str = "new") -> Edit:
    payload = cbor2.dumps({"body": body, "target": seq})
    return Edit(author=author, cseq=cseq, conv=conv, seq=seq, payload=payload, digest=b"e" + body.encode())


def delete(author: Author, cseq: int, conv: str, seq: int) -> Delete:
    return Delete(author=author, cseq=cseq, conv=conv, seq=seq, payload=cbor2.dumps({"target": seq}), digest=b"d%d" % seq)


def react(author: Author, cseq: int, conv: str, seq: int, emoji: str = "+", *, remove: bool = False) -> React:
    fields = {"target": seq, "emoji": emoji} | ({"removed": True} if remove else {})
    return React(
        author=author, cseq=cseq, conv=conv, seq=seq, emoji=emoji, remove=remove, payload=cbor2.dumps(fields),
        digest=b"r" + cbor2.dumps(fields),
    )  # fmt: skip


def reply(author: Author, cseq: int, to: str, seq: int, body: str = "x") -> Send:
    payload = cbor2.dumps({"type": "text", "body": body, "reply_to": seq})
    return msgspec.structs.replace(message(author, cseq, to, body), payload=payload, reply_to=seq)


def mention(author: Author, cseq: int, to: str, *names: str, body: str = "x") -> Send:
    payload = cbor2.dumps({"type": "text", "body": body, "mentions": names})
    return msgspec.structs.replace(message(author, cseq, to, body), payload=payload, mentions=names)


async def read(store: Store, author: Author, conv: str) -> list[dict[str, Any]]:
    """What this user sees of the log."""
    page = await store.page(author.user_no, conv, after=0, before=None, limit=500, max_bytes=2**40)
    assert page is not None
    return [{"kind": event.kind} | cbor2.loads(event.payload) for event in page.events]


async def thread(store: Store, author: Author, conv: str, seq: int, **where: Any) -> tuple[list[int], bool]:
    asked = {"after": None, "before": None, "limit": 500, "max_bytes": 2**40} | where
    page = await store.thread(author.user_no, conv, seq, **asked)
    assert page is not None
    return [event.seq for event in page.events], page.more


async def pinned(store: Store, author: Author, conv: str, **where: Any) -> tuple[list[int], bool]:
    page = await store.pins(author.user_no, conv, **({"after": 0, "max_bytes": 2**40} | where))
    assert page is not None
    return [event.seq for event in page.events], page.more


async def listed(store: Store, author: Author) -> Any:
    (item,), _ = await store.conversations(author.user_no, author.device_no, None, 10)
    return item


class ChangesConformance:
    """Every clause of ``chatd.store.port`` about what is changed later."""

    async def test_changes_are_numbered_as_sends_are(self, engine: Engine) -> None:
        """I3, I5: one row of numbers for all four; repeats, other content and gaps as for sends, in a batch and later."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            (sent,) = await do(store, message(a, 1, "@b"))
            conv = sent.conv
            row = [
                edit(a, 2, conv, 1), react(a, 3, conv, 1), message(a, 4, conv), delete(a, 5, conv, 4), react(a, 6, conv, 1, "-")
            ]  # fmt: skip
            first = await do(store, *row)
            assert [outcome.events[0].kind for outcome in first] == ["edit", "reaction", "message", "delete", "reaction"]
            assert [outcome.events[0].seq for outcome in first] == [2, 3, 4, 5, 6]
            assert all(outcome.dm == ("a", "b") for outcome in first)
            again = await do(store, *row)
            assert again == [Repeated(o.events[0].cseq, conv, o.events[0].seq, o.events[0].at) for o in first]
            wrong = [edit(a, 2, conv, 1, "other"), react(a, 2, conv, 1), message(a, 3, conv), delete(a, 6, conv, 1)]
            assert [code(outcome) for outcome in await do(store, *wrong)] == ["cseq_reused"] * 4
            for far in (edit(a, 8, conv, 1), react(a, 8, conv, 1), delete(a, 8, conv, 1)):
                (gap,) = await do(store, far)
                assert (code(gap), gap.expected) == ("cseq_gap", 7)
            refused, after = await do(store, edit(a, 7, conv, 99), message(a, 7, conv))
            assert code(refused) == "not_found"
            assert isinstance(after, Appended)

    async def test_a_newer_session_fences_off_changes_too(self, engine: Engine) -> None:
        """I5: what an older session has in flight is refused, also within one batch; its repeats are answered."""
        async with engine() as store:
            (old,) = await people(store, "a")
            conv = await group(store, old)
            await do(store, message(old, 1, conv), edit(old, 2, conv, 2))
            opening, *late = await do(
                store, OpenDevice(user="a", device="d"), edit(old, 3, conv, 2), react(old, 3, conv, 2), delete(old, 3, conv, 2)
            )
            assert [code(outcome) for outcome in late] == ["out_of_place"] * 3
            assert isinstance((await do(store, edit(old, 2, conv, 2)))[0], Repeated)
            assert isinstance((await do(store, delete(opening.author, 3, conv, 2)))[0], Appended)

    async def test_who_may_edit_and_until_when(self, engine: Engine) -> None:
        """One's own, within the window, a message that one may see and that is there; 200 times."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            conv = await group(store, a, "b")
            await do(store, message(b, 1, conv, "old"))
            refused = await do(store, edit(a, 1, conv, 2), edit(b, 2, conv, 1), edit(b, 2, conv, 99), edit(c, 1, conv, 2))
            assert [code(outcome) for outcome in refused] == ["forbidden", "not_found", "not_found", "not_found"]
            assert code((await do(store, edit(b, 2, conv, 2), now=NOW + WINDOW_MS))[0]) == "too_late"
            (done,) = await do(store, edit(b, 2, conv, 2), now=NOW + WINDOW_MS - 1)
            assert isinstance(done, Appended)
            assert (await read(store, a, conv))[1:] == [
                {"kind": "message", "type": "text", "body": "old"}, {"kind": "edit", "body": "new", "target": 2}
            ]  # fmt: skip
            rest = await do(store, *[edit(b, cseq, conv, 2, str(cseq)) for cseq in range(3, 203)])
            assert [isinstance(outcome, Appended) for outcome in rest] == [True] * 199 + [False]
            assert code(rest[-1]) == "forbidden"

    @pytest.mark.parametrize(("who", "other", "late"), [("owner", True, True), ("admin", True, True), ("member", False, False)])
    async def test_who_may_delete_and_until_when(self, engine: Engine, who: str, other: bool, late: bool) -> None:
        """A group's owner and admins any, at any time; a member the own ones within the window. Once."""
        async with engine() as store:
            owner, admin, member, x = await people(store, "owner", "admin", "member", "x")
            conv = await group(store, owner, "admin", "member", "x")
            await do(store, SetRole(author=owner, conv=conv, user="admin", role="admin"))
            me = {"owner": owner, "admin": admin, "member": member}[who]
            await do(store, message(me, 1, conv), message(me, 2, conv), message(x, 1, conv))
            (own,) = await do(store, delete(me, 3, conv, 3))
            assert isinstance(own, Appended)
            assert code((await do(store, delete(me, 4, conv, 3)))[0]) == "not_found"
            (theirs,) = await do(store, delete(me, 4, conv, 5))
            assert isinstance(theirs, Appended) is other
            if not other:
                assert code(theirs) == "forbidden"
            (after,) = await do(store, delete(me, 5 if other else 4, conv, 4), now=NOW + WINDOW_MS)
            assert isinstance(after, Appended) is late
            if not late:
                assert code(after) == "too_late"

    async def test_in_a_1_1_conversation_nobody_deletes_for_the_other(self, engine: Engine) -> None:
        """There are no stewards; and a blocked user may take back, but not say, mark or show anything."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (sent,) = await do(store, message(a, 1, "@b"))
            conv = sent.conv
            assert code((await do(store, delete(b, 1, conv, 1)))[0]) == "forbidden"
            await do(store, SetBlock(author=b, user="a", on=True))
            refused = await do(
                store, edit(a, 2, conv, 1), react(a, 2, conv, 1), Pin(author=a, conv=conv, seq=1, on=True), message(a, 2, conv)
            )
            assert {(code(outcome), outcome.message) for outcome in refused} == {("forbidden", "you may not write here")}
            assert isinstance((await do(store, delete(a, 2, conv, 1)))[0], Appended)

    @pytest.mark.parametrize("batches", [1, 6])
    async def test_what_a_delete_leaves(self, engine: Engine, batches: int) -> None:
        """Gone: the body, those of its edits, mentions, pins, reactions. There: its place, ``reply_to``, the events."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (first,) = await do(store, message(b, 1, "@a"))
            conv = first.conv
            said = cbor2.dumps({"type": "text", "body": "secret", "reply_to": 1, "mentions": ["b", "nobody"]})
            send = Send(author=a, cseq=1, to=conv, payload=said, reply_to=1, mentions=("b", "nobody"))
            steps: list[Operation] = [
                send, edit(a, 2, conv, 2, "secret too"), react(b, 2, conv, 2), Pin(author=a, conv=conv, seq=2, on=True),
                edit(a, 3, conv, 2, "secret again"), delete(a, 4, conv, 2),
            ]  # fmt: skip
            size = len(steps) // batches
            for at in range(0, len(steps), size):
                assert all(isinstance(outcome, Appended) for outcome in await do(store, *steps[at : at + size]))
            assert (await read(store, b, conv))[1:] == [
                {"kind": "message", "type": "deleted", "body": "", "reply_to": 1},
                {"kind": "edit", "body": "", "target": 2}, {"kind": "reaction", "target": 2, "emoji": "+"},
                {"kind": "pinned", "target": 2}, {"kind": "edit", "body": "", "target": 2}, {"kind": "delete", "target": 2},
            ]  # fmt: skip
            assert not any(b"secret" in event.payload for event in await store.log(conv, 0, 100))
            item = await listed(store, b)
            assert (item.unread, item.mentions) == (0, 0)
            assert await pinned(store, b, conv) == ([], False)
            refused = await do(store, edit(a, 5, conv, 2), react(a, 5, conv, 2), Pin(author=a, conv=conv, seq=2, on=False))
            assert [code(outcome) for outcome in refused] == ["not_found"] * 3
            # What it said is not known any more, and whoever asks with a guess is not told whether it is right.
            guesses = [message(a, 1, conv, "guess"), edit(a, 2, conv, 2, "guess"), edit(a, 3, conv, 2, "guess")]
            assert [outcome.seq for outcome in await do(store, *guesses)] == [2, 3, 6]
            assert code((await do(store, react(b, 2, conv, 2, "-")))[0]) == "cseq_reused"
            _, _, guess = await do(store, message(a, 5, conv, "once"), delete(a, 6, conv, 8), message(a, 5, conv, "guess"))
            assert guess.seq == 8

    async def test_reactions(self, engine: Engine) -> None:
        """50 kinds on a message; one that is there may be added by others; what is not there cannot be taken back."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (sent,) = await do(store, message(a, 1, "@b"))
            conv = sent.conv
            made = await do(store, *[react(b, n, conv, 1, str(n)) for n in range(1, 52)])
            assert [isinstance(outcome, Appended) for outcome in made] == [True] * 50 + [False]
            assert code(made[-1]) == "too_many_reactions"
            known, absent, gone, again, room = await do(
                store, react(a, 2, conv, 1, "7"), react(a, 3, conv, 1, "8", remove=True), react(b, 51, conv, 1, "8", remove=True),
                react(b, 52, conv, 1, "8", remove=True), react(b, 52, conv, 1, "new"),
            )  # fmt: skip
            assert isinstance(known, Appended)
            assert code(absent) == code(again) == "not_found"
            assert cbor2.loads(gone.events[0].payload) == {"target": 1, "emoji": "8", "removed": True}
            assert isinstance(room, Appended)

    async def test_pins(self, engine: Engine) -> None:
        """The stewards' in a group, at most 50, twice is once; each an event. Shown as they are now, by pages of bytes."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            await do(store, *[message(a, n, conv, "y" * 100) for n in range(1, 53)])

            async def pin(author: Author, seq: int, *, on: bool = True) -> Any:
                return (await do(store, Pin(author=author, conv=conv, seq=seq, on=on)))[0]

            assert code(await pin(b, 2)) == "forbidden"
            assert [code(await pin(a, seq)) for seq in (1, 99)] == ["not_found"] * 2
            assert all([isinstance(await pin(a, seq), Appended) for seq in range(51, 1, -1)])
            assert code(await pin(a, 52)) == "too_many_pins"
            assert isinstance(await pin(a, 51), Done)
            await do(store, edit(a, 53, conv, 3, "z"), edit(a, 54, conv, 3, "now"))
            assert await pinned(store, b, conv) == (list(range(2, 52)), False)
            assert await pinned(store, b, conv, max_bytes=450) == ([2, 3], True)
            assert await pinned(store, b, conv, after=49, max_bytes=1) == ([50], True)
            page = await store.pins(b.user_no, conv, after=2, max_bytes=1)
            assert page is not None
            assert cbor2.loads(page.events[0].payload) == {"type": "text", "body": "now", "edited": page.last}
            gone = await pin(a, 2, on=False)
            assert (gone.events[0].kind, cbor2.loads(gone.events[0].payload)) == ("pinned", {"target": 2, "removed": True})
            assert isinstance(await pin(a, 2, on=False), Done)
            assert isinstance(await pin(a, 52), Appended)

    async def test_in_a_1_1_conversation_both_pin(self, engine: Engine) -> None:
        """Nobody is a steward there; a stranger sees nothing of it."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            sent, _ = await do(store, message(a, 1, "@b"), message(b, 1, "@a"))
            made = await do(store, *[Pin(author=author, conv=sent.conv, seq=n, on=True) for n, author in enumerate((b, a), 1)])
            assert [outcome.dm for outcome in made] == [("a", "b")] * 2
            assert await pinned(store, a, sent.conv) == ([1, 2], False)
            refused = await do(store, Pin(author=c, conv=sent.conv, seq=1, on=True), Pin(author=c, conv="absent", seq=1, on=True))
            assert refused[0] == refused[1]
            assert await store.pins(c.user_no, sent.conv, after=0, max_bytes=100) is None

    async def test_mute(self, engine: Engine) -> None:
        """A member's own setting, the same on each device, nobody else's; it appends nothing."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            conv = await group(store, a, "b")
            assert await do(store, Mute(author=b, conv=conv, until=NOW)) == [Done(conv)]
            (other,) = await people(store, "b", device="other")
            assert [(await listed(store, author)).muted for author in (a, b, other)] == [0, NOW, NOW]
            await do(store, Mute(author=other, conv=conv, until=0))
            assert (await listed(store, b)).muted == 0
            refused = await do(store, Mute(author=c, conv=conv, until=1), Mute(author=c, conv="absent", until=1))
            assert code(refused[0]) == "not_found"
            assert refused[0] == refused[1]
            assert await whole(store, conv) == [(1, "created")]

    @pytest.mark.parametrize("together", [True, False])
    async def test_threads(self, engine: Engine, together: bool) -> None:
        """The message, what replies to it and to those; of a reply its own branch; in pages both ways, as they are now."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            tree = {2: 0, 3: 2, 4: 0, 5: 3, 6: 2, 7: 4, 8: 5, 9: 3, 10: 0}
            sends = [
                reply(a, seq - 1, conv, parent, "y" * 100) if parent else message(a, seq - 1, conv)
                for seq, parent in tree.items()
            ]
            for batch in [sends] if together else [[send] for send in sends]:
                await do(store, *batch)
            for seq, expected in {
                2: [2, 3, 5, 6, 8, 9], 3: [3, 5, 8, 9], 5: [5, 8], 8: [8], 9: [9], 4: [4, 7], 7: [7], 10: [10]
            }.items():
                assert await thread(store, b, conv, seq) == (expected, False), seq
            for seq in (2, 3):
                every = (await thread(store, b, conv, seq))[0]
                for limit in (1, 2, 3):
                    for after in (0, 3, 5, 8, 9):
                        rest = [s for s in every if s > after]
                        assert await thread(store, b, conv, seq, after=after, limit=limit) == (rest[:limit], len(rest) > limit)
                    for before in (2, 5, 9, 99):
                        rest = [s for s in every if s < before]
                        assert await thread(store, b, conv, seq, before=before, limit=limit) == (rest[-limit:], len(rest) > limit)
                assert await thread(store, b, conv, seq, after=3, max_bytes=1) == ([5], True)
                assert await thread(store, b, conv, seq, max_bytes=1) == ([9], True)
            await do(store, delete(a, 10, conv, 2), edit(a, 11, conv, 6, "now"), reply(a, 12, conv, 2))
            page = await store.thread(b.user_no, conv, 2, after=None, before=None, limit=9, max_bytes=10**6)
            assert page is not None
            assert [event.seq for event in page.events] == [2, 3, 5, 6, 8, 9, 13]
            said = {event.seq: cbor2.loads(event.payload) for event in page.events}
            assert said[2] == {"type": "deleted", "body": ""}
            assert said[6] == {"type": "text", "body": "now", "reply_to": 2, "edited": 12}

    async def test_who_sees_a_thread(self, engine: Engine) -> None:
        """I8: members, from their ``joined`` on; of what is no message, not there or not theirs there is none."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            conv = await group(store, a)
            await do(store, message(a, 1, conv), reply(a, 2, conv, 2), AddMembers(author=a, conv=conv, users=("b",)))
            await do(store, reply(a, 3, conv, 3), reply(a, 4, conv, 5), Pin(author=a, conv=conv, seq=2, on=True))
            asked: Any = {"after": None, "before": None, "limit": 9, "max_bytes": 10**6}
            assert await thread(store, b, conv, 5) == ([5, 6], False)
            assert await pinned(store, b, conv) == ([], False)
            for author, seq in [(b, 2), (b, 3), (b, 4), (b, 7), (b, 99), (c, 5), (a, 1)]:
                assert await store.thread(author.user_no, conv, seq, **asked) is None
            refused = await do(store, react(b, 1, conv, 2), react(b, 1, conv, 99))
            assert refused[0] == refused[1]
            await do(store, RemoveMembers(author=b, conv=conv, users=("b",)))
            assert await store.thread(b.user_no, conv, 5, **asked) is None
            assert await store.pins(b.user_no, conv, after=0, max_bytes=100) is None

    async def test_a_branch_is_bounded_and_a_thread_is_not(self, engine: Engine) -> None:
        """I9: of a thread that begins with a reply the first 5000; the whole one is paged however long it is."""
        async with engine() as store:
            (a,) = await people(store, "a")
            conv = await group(store, a)
            await do(store, message(a, 1, conv), reply(a, 2, conv, 2), *[reply(a, n, conv, 3) for n in range(3, 5103)])
            assert await thread(store, a, conv, 3, limit=2) == ([5001, 5002], True)
            assert await thread(store, a, conv, 2, limit=2) == ([5102, 5103], True)

    async def test_mentions(self, engine: Engine) -> None:
        """Counted among the unread: of members, not oneself, not what was read or deleted; who joins later was not meant."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            conv = await group(store, a, "b", history="all")
            await do(
                store, mention(a, 1, conv, "b", "a", "b", "c", "nobody"), mention(a, 2, conv, "b"), mention(b, 1, conv, "b"),
                mention(a, 3, conv, "c"), message(a, 4, conv), AddMembers(author=a, conv=conv, users=("c",)),
            )  # fmt: skip
            counts = [(item.unread, item.mentions) for item in [await listed(store, who) for who in (a, b, c)]]
            assert counts == [(1, 0), (4, 2), (0, 0)]
            read_one = Mark(author=b, conv=conv, delivered=0, read=2)
            await do(store, delete(a, 5, conv, 3), read_one, Rename(author=a, conv=conv, title="t"))
            item = await listed(store, b)
            assert (item.unread, item.mentions) == (2, 0)

    @given(
        st.booleans(),
        st.lists(
            st.tuples(
                st.sampled_from("abcd"),
                st.sampled_from(["send", "send", "mention", "edit", "delete", "react", "unreact", "join", "leave", "mark",
                                 "mark", "role", "later"]),
                st.integers(1, 16), st.booleans(),
            ), min_size=12, max_size=60,
        ),
    )  # fmt: skip
    @settings(max_examples=60, deadline=None)
    def test_everything_against_a_plain_model(self, open_engine: Any, everything: bool, steps: Any) -> None:
        """I10 through all of it: each step's outcome, and in the end the list, the log and what is left of each message."""
        trio.run(_Run(open_engine(), everything).play, steps)


class _Run:
    """One group in the store and in the model. ``a`` owns it and stays; ``d`` is not in it at first."""

    def __init__(self, engine: Engine, everything: bool) -> None:
        self._engine = engine
        self._model = Group("a", ("b", "c"), everything)
        self._cseq: dict[str, int] = defaultdict(int)
        self._now = 0

    async def play(self, steps: list[tuple[str, str, int, bool]]) -> None:
        async with self._engine() as store:
            authors = dict(zip("abcd", await people(store, *"abcd"), strict=True))
            conv = await group(store, authors["a"], "b", "c", history="all" if self._model.everything else "since_join")
            batch: list[tuple[Operation, str]] = []
            for name, step, value, commit in steps:
                if step == "later":
                    await self._commit(store, batch)
                    self._now += 400 * (value % 4)
                else:
                    batch.append(self._step(authors, conv, name, step, value))
                    if commit:
                        await self._commit(store, batch)
            await self._commit(store, batch)
            await self._compare(store, authors, conv)

    async def _commit(self, store: Store, batch: list[tuple[Operation, str]]) -> None:
        outcomes = await do(store, *[operation for operation, _ in batch], now=NOW + self._now)
        for outcome, (operation, expected) in zip(outcomes, batch, strict=True):
            kind = "event" if isinstance(outcome, Appended) else code(outcome) if isinstance(outcome, Refused) else "done"
            assert kind == expected, (operation, outcome)
        batch.clear()

    def _step(
        self, authors: dict[str, Author], conv: str, name: str, step: str, value: int
    ) -> tuple[Operation, str]:
        model, me, at, cseq = self._model, authors[name], self._now, self._cseq[name] + 1
        said = [seq for seq, entry in enumerate(model.log, 1) if entry.kind == "message"]
        if said and step in {"edit", "delete", "react", "unreact"} and value > 3:  # else whatever stands there
            value = said[-1 - value % 4 % len(said)]
        operation: Operation
        if step in ("send", "mention"):
            named = tuple("abcd"[bit] for bit in range(4) if value >> bit & 1) if step == "mention" else ()
            body = f"{name}{cseq}"
            operation, expected = mention(me, cseq, conv, *named, body=body), model.send(name, at, body, named)
        elif step == "edit":
            operation, expected = edit(me, cseq, conv, value, f"e{cseq}"), model.edit(name, at, value, f"e{cseq}")
        elif step == "delete":
            operation, expected = delete(me, cseq, conv, value), model.delete(name, at, value)
        elif step in ("react", "unreact"):
            emoji, remove = "xy"[value % 2], step == "unreact"
            operation = react(me, cseq, conv, value, emoji, remove=remove)
            expected = model.react(name, at, value, emoji, remove=remove)
        elif step == "mark":
            return Mark(author=me, conv=conv, delivered=0, read=value), model.mark(name, value)
        elif step == "role":
            role: Any = ("admin", "member")[value % 2]
            who = "bcd"[value % 3]
            return SetRole(author=authors["a"], conv=conv, user=who, role=role), model.give_role(at, who, role)
        elif step == "leave" and name != "a":
            return RemoveMembers(author=me, conv=conv, users=(name,)), model.leave(name, at)
        else:
            return AddMembers(author=me, conv=conv, users=("bcd"[value % 3],)), model.join(name, at, "bcd"[value % 3])
        self._cseq[name] += expected == "event"
        return operation, expected

    async def _compare(self, store: Store, authors: dict[str, Author], conv: str) -> None:
        model = self._model
        log = await store.log(conv, 0, 1000)
        assert [(event.kind, event.sender) for event in log] == [(entry.kind, entry.by) for entry in model.log]
        for event, entry in zip(log, model.log, strict=True):
            if entry.kind == "message":
                said = cbor2.loads(event.payload)
                assert said["body"] == ("" if entry.deleted else entry.said)
                assert (said["type"] == "deleted") is entry.deleted
        for name, author in authors.items():
            items, _ = await store.conversations(author.user_no, author.device_no, None, 10)
            shown = [(item.last, item.read, item.unread, item.mentions) for item in items]
            if name in model.roles:
                assert shown == [(len(log), model.read[name], len(model.unread(name)), model.mentions(name))], name
            else:
                assert shown == [], name
