"""The store's contract on who leaves and comes back: what they may see, wherever it is asked (I7, I8, I10).

An engine's own file inherits ``MembershipsConformance`` and gives it an ``engine`` and an ``open_engine`` fixture.
"""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.conversations.operations import AddMembers, Author, Mark, Pin, React, RemoveMembers
from chatd.store.port import SearchTerms, Store
from chatd.store.query import Term
from tests.store.conformance import Engine, code, do, group, message, people
from tests.store.conformance_changes import edit
from tests.store.model import Group

BIG = 10**6


def reply(author: Author, cseq: int, conv: str, to: int) -> Any:
    payload = cbor2.dumps({"type": "text", "body": "word", "reply_to": to})
    return msgspec.structs.replace(message(author, cseq, conv), payload=payload, reply_to=to)


async def forward(store: Store, who: Author, conv: str, limit: int, *, after: int = 0) -> list[int]:
    """The whole of it as catch-up reads it, page by page."""
    seen: list[int] = []
    more = True
    while more:
        page = await store.page(who.user_no, conv, after=after, before=None, limit=limit, max_bytes=BIG, former=True)
        if page is None:
            break
        seen += [event.seq for event in page.events]
        after, more = (seen or [after])[-1], page.more
    return seen


async def backward(store: Store, who: Author, conv: str, limit: int) -> list[int]:
    seen: list[int] = []
    before, more = None, True
    while more:
        page = await store.page(who.user_no, conv, after=None, before=before, limit=limit, max_bytes=BIG, former=True)
        if page is None:
            break
        seen = [event.seq for event in page.events] + seen
        before, more = (seen or [0])[0], page.more
    return seen


class MembershipsConformance:
    """Every clause of the port that asks who was a member when."""

    @given(
        st.booleans(),
        st.lists(st.sampled_from([*["send", "edit", "leave", "join"] * 2, "reply", "mark"]), max_size=40),
        st.integers(1, 5),
    )
    @settings(max_examples=60, deadline=None)
    def test_against_a_plain_model(self, open_engine: Any, everything: bool, steps: list[str], limit: int) -> None:
        """Random leaving and coming back, both policies: pages both ways, the list, threads, pins and search show the same, and
        of each message the wording that the log shows."""
        trio.run(_compare, open_engine(), everything, steps, limit)

    @pytest.mark.parametrize(("history", "seen"), [("since_join", [1, 2, 3, 4, 6, 7]), ("all", [1, 2, 3, 4, 5, 6, 7])])
    async def test_two_devices_of_who_came_back(self, engine: Engine, history: str, seen: list[int]) -> None:
        """I7: one was there all the time, one is new, one was away and never confirmed anything: one log, no other marks."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            await people(store, "b", device="away")
            conv = await group(store, a, "b", history=history)
            await do(
                store, message(a, 1, conv), Mark(author=b, conv=conv, delivered=2, read=2), message(a, 2, conv),
                RemoveMembers(author=a, conv=conv, users=("b",)), message(a, 3, conv),
                AddMembers(author=a, conv=conv, users=("b",)), message(a, 4, conv),
            )  # fmt: skip
            (new,) = await people(store, "b", device="new")
            (away,) = await people(store, "b", device="away")
            standing = {who.device_no: (await store.standings(who.user_no, who.device_no))[0] for who in (b, new, away)}
            cursors = [standing[who.device_no].cursor for who in (b, new, away)]
            assert cursors == [2, 2, 0]
            for who, cursor in zip((b, new, away), cursors, strict=True):
                assert await forward(store, who, conv, 50, after=cursor) == [seq for seq in seen if seq > cursor]
            (item,), _ = await store.conversations(b.user_no, b.device_no, None, 1)
            assert (item.read, item.unread) == (2, len([seq for seq in seen if seq in (3, 5, 7)]))

    @pytest.mark.parametrize(("history", "counts"), [("since_join", (0, 0)), ("all", (1, 1))])
    async def test_a_mention_in_the_absence(self, engine: Engine, history: str, counts: tuple[int, int]) -> None:
        """Where all is shown it is unread afterwards, and names them; where it is not, it is neither."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b", history=history)
            await do(
                store, RemoveMembers(author=a, conv=conv, users=("b",)),
                msgspec.structs.replace(message(a, 1, conv), mentions=("b",)),
                AddMembers(author=a, conv=conv, users=("b",)),
            )  # fmt: skip
            (item,), _ = await store.conversations(b.user_no, b.device_no, None, 9)
            assert (item.unread, item.mentions) == counts

    async def test_an_edit_in_the_absence(self, engine: Engine) -> None:
        """I8: threads, pins and search show the wording that the log shows to who was away; the newest one to who was not."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            conv = await group(store, a, "b", "c")
            await do(
                store, message(a, 1, conv, "public"), edit(a, 2, conv, 2, "public plan"),
                Pin(author=a, conv=conv, seq=2, on=True), RemoveMembers(author=a, conv=conv, users=("b",)),
                edit(a, 3, conv, 2, "classified"), AddMembers(author=a, conv=conv, users=("b",)),
            )  # fmt: skip
            assert await _shown(store, b, conv, 2) == [("public plan", 3), ("public plan", 3)]
            assert await _shown(store, c, conv, 2) == [("classified", 6), ("classified", 6)]
            found = {(who, word): await _found(store, who, conv, word) for who in (b, c) for word in ("plan", "classified")}
            assert found == {(b, "plan"): [], (b, "classified"): [], (c, "plan"): [], (c, "classified"): [2]}
            await do(store, edit(a, 4, conv, 2, "public again"))
            assert await _shown(store, b, conv, 2) == [("public again", 8), ("public again", 8)]
            assert await _found(store, b, conv, "again") == [2]


class Said:
    """What ``_play`` said: the replies, as target by ``seq``; which messages are no replies; the edits of each, oldest first,
    as ``seq`` and body."""

    def __init__(self) -> None:
        self.replies: dict[int, int] = {}
        self.roots: list[int] = []
        self.edits: dict[int, list[tuple[int, str]]] = {}

    def wording(self, seq: int, seen: set[int]) -> tuple[str, int | None]:
        """As who sees these events sees it: the body, and the edit that it is of."""
        return next(((body, by) for by, body in reversed(self.edits.get(seq, [])) if by in seen), ("word", None))

    def findable(self, seen: set[int]) -> set[int]:
        """Those of which the newest wording is one that may be seen."""
        every = {*self.roots, *self.replies} & seen
        return {seq for seq in every if seq not in self.edits or self.edits[seq][-1][0] in seen}


def _wording(event: Any) -> tuple[str, int | None]:
    said = cbor2.loads(event.payload)
    return said["body"], said.get("edited")


async def _shown(store: Store, who: Author, conv: str, seq: int) -> list[tuple[str, int | None]]:
    """The wording of a pinned message, as threads and pins show it."""
    thread = await store.thread(who.user_no, conv, seq, after=None, before=None, limit=1, max_bytes=BIG)
    pins = await store.pins(who.user_no, conv, after=seq - 1, max_bytes=BIG)
    assert thread is not None
    assert pins is not None
    return [_wording(thread.events[0]), _wording(pins.events[0])]


async def _found(store: Store, who: Author, conv: str, word: str) -> list[int]:
    while await store.index():
        pass
    found = await store.search(who.user_no, SearchTerms(terms=(Term(word),), conv=conv), cursor=None, limit=9, max_bytes=BIG)
    assert found is not None
    return [event.seq for event in found[0]]


async def _play(store: Store, model: Group, a: Author, b: Author, conv: str, steps: list[str]) -> Said:
    """Carry the steps out on both."""
    said = Said()
    cseq = 0
    for step in steps:
        if step in ("send", "reply"):
            cseq += 1
            target = said.roots[cseq % len(said.roots)] if step == "reply" and said.roots else 0
            await do(store, reply(a, cseq, conv, target) if target else message(a, cseq, conv, "word"))
            model.send("a", 0, "word", ())
            if target:
                said.replies[len(model.log)] = target
            else:
                said.roots.append(len(model.log))
        elif step == "edit" and said.roots:
            cseq += 1
            every = [*said.roots, *said.replies]
            target = every[cseq % len(every)]
            await do(store, edit(a, cseq, conv, target, f"word {cseq}"))
            model.edit("a", 0, target, f"word {cseq}")
            said.edits.setdefault(target, []).append((len(model.log), f"word {cseq}"))
        elif step == "leave" and "b" in model.roles:
            model.leave("b", 0)
            await do(store, RemoveMembers(author=b, conv=conv, users=("b",)))
        elif step == "join" and "b" not in model.roles:
            model.join("a", 0, "b")
            await do(store, AddMembers(author=a, conv=conv, users=("b",)))
        elif step == "mark":
            model.mark("b", len(model.log) // 2)
            await do(store, Mark(author=b, conv=conv, delivered=0, read=len(model.log) // 2))
    return said


async def _compare(engine: Engine, everything: bool, steps: list[str], limit: int) -> None:
    async with engine() as store:
        a, b = await people(store, "a", "b")
        model = Group("a", ("b",), everything)
        conv = await group(store, a, "b", history="all" if everything else "since_join")
        said = await _play(store, model, a, b, conv, steps)
        seen = model.sees("b")
        assert await forward(store, b, conv, limit) == await backward(store, b, conv, limit) == seen
        for after in range(len(model.log) + 1):
            assert await forward(store, b, conv, 50, after=after) == [seq for seq in seen if seq > after]
        (standing,) = await store.standings(b.user_no, b.device_no)
        assert (standing.first, standing.last) == (seen[0], seen[-1])
        items, _ = await store.conversations(b.user_no, b.device_no, None, 9)
        member = "b" in model.roles
        assert [(i.read, i.unread) for i in items] == ([(model.read["b"], len(model.unread("b")))] if member else [])
        await _compare_messages(store, a, b, conv, set(seen) if member else set(), said)


async def _compare_messages(store: Store, a: Author, b: Author, conv: str, seen: set[int], said: Said) -> None:
    def worded(seqs: list[int]) -> list[tuple[int, tuple[str, int | None]]]:
        return [(seq, said.wording(seq, seen)) for seq in seqs]

    def shown(page: Any) -> list[tuple[int, tuple[str, int | None]]]:
        return [(event.seq, _wording(event)) for event in page.events]

    replies, roots = said.replies, said.roots
    asked: Any = {"after": None, "before": None, "limit": 99, "max_bytes": BIG}
    for root in roots:
        page = await store.thread(b.user_no, conv, root, **asked)
        thread = [root, *[seq for seq, target in replies.items() if target == root and seq in seen]]
        assert (None if page is None else shown(page)) == (worded(thread) if root in seen else None)
    await do(store, *[Pin(author=a, conv=conv, seq=seq, on=True) for seq in roots])
    pins = await store.pins(b.user_no, conv, after=0, max_bytes=BIG)
    assert (shown(pins) if pins else []) == worded([seq for seq in roots if seq in seen])
    while await store.index():
        pass
    for where in (conv, None):
        terms = SearchTerms(terms=(Term("word"),), conv=where)
        found = await store.search(b.user_no, terms, cursor=None, limit=200, max_bytes=BIG)
        findable = sorted(said.findable(seen), reverse=True)
        assert [(event.seq, _wording(event)) for event in (found[0] if found else [])] == worded(findable)
    for seq in roots:
        react = React(author=b, cseq=1, conv=conv, seq=seq, emoji="x", remove=True, payload=b"", digest=b"")
        refused = [(await do(store, operation))[0] for operation in (react, reply(b, 1, conv, seq))[: 1 + (seq not in seen)]]
        assert {code(outcome) for outcome in refused} == {"not_found"}
