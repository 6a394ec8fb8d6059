"""The store's contract as tests; an engine's own file inherits ``StoreConformance`` and gives it an ``engine`` fixture.

``engine`` opens stores on one database: several at once are several processes' views of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
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
    CreateAccount,
    CreateGroup,
    Delete,
    DeviceOpened,
    Done,
    Edit,
    Mark,
    Marked,
    Mute,
    NoteSeen,
    OpenDevice,
    Operation,
    Outcome,
    Pin,
    Refused,
    RemoveMembers,
    Rename,
    Repeated,
    Send,
    SetBlock,
    SetPrivacy,
    SetRole,
    SetTier,
    SignOut,
)
from chatd.store.port import Audience, Privacy, Store, Tally

Engine = Callable[[], AbstractAsyncContextManager[Store]]
NOW = 1_700_000_000_000


def message(author: Author, cseq: int, to: str, body: str = "x") -> Send:
    return Send(author=author, cseq=cseq, to=to, payload=cbor2.dumps({"type": "text", "body": body}))


async def do(store: Store, *operations: Operation, now: int = NOW) -> list[Any]:
    return list(await store.commit(operations, now))


async def people(store: Store, *names: str, device: str = "d") -> list[Author]:
    opened = await do(store, *[OpenDevice(user=name, device=device, create_user=True) for name in names])
    return [outcome.author for outcome in opened]


async def group(store: Store, owner: Author, *members: str, history: Any = "since_join") -> str:
    (made,) = await do(store, CreateGroup(author=owner, title="g", members=members, history=history))
    assert isinstance(made, Appended)
    return made.conv


async def whole(store: Store, conv: str) -> list[tuple[int, str]]:
    return [(event.seq, event.kind) for event in await store.log(conv, 0, 10_000, max_bytes=2**40)]


def code(outcome: Outcome) -> str:
    assert isinstance(outcome, Refused), outcome
    return str(outcome.code)


class StoreConformance:
    """Every clause of ``chatd.store.port``."""

    async def test_a_users_tier(self, engine: Engine) -> None:
        """None at first; what was set comes with the account and with the next opening; for nobody it is refused."""
        async with engine() as store:
            await people(store, "a", "b")
            opening = OpenDevice(user="a", device="d", create_user=True)
            unset, done, opened, refused = await do(
                store, opening, SetTier(user="a", tier="premium"), opening, SetTier(user="nobody", tier="premium")
            )
            assert (unset.tier, done, opened.tier, code(refused)) == ("", Done(), "premium", "not_found")
            accounts = [await store.account(name) for name in ("a", "b")]
            assert [account.tier for account in accounts if account is not None] == ["premium", ""]

    @pytest.mark.parametrize("blocker", ["a", "b"])
    async def test_who_blocks_and_who_is_blocked_know_nothing_of_each_other(self, engine: Engine, blocker: str) -> None:
        """By their 1:1 conversation: no presence, no typing, no marks, in either direction; by a group both are in, all of it."""
        async with engine() as store:
            users = dict(zip("abc", await people(store, "a", "b", "c"), strict=True))
            a, b = users["a"], users["b"]
            one, other = users[blocker], users["b" if blocker == "a" else "a"]
            (sent,) = await do(store, message(a, 1, "@b"))
            mark = Mark(author=b, conv=sent.conv, delivered=1, read=1)
            (blocked, marked) = await do(store, SetBlock(author=one, user=other.user, on=True), mark)
            assert blocked == Done(sent.conv)
            assert (marked.dm, marked.moved) == (("b",), True)
            for who, them in ((a, "b"), (b, "a")):
                assert await store.acquainted(who.user_no, [them]) == []
                shown = {member.user: member.read for member in await store.members(who.user_no, sent.conv) or []}
                assert shown == {who.user: who is b, them: None}
            assert (await store.audiences([sent.conv]))[sent.conv].silent
            conv = await group(store, users["c"], "a", "b")
            assert not (await store.audiences([conv]))[conv].silent
            assert [known.user for known in await store.acquainted(a.user_no, ["b"])] == ["b"]
            assert {member.read for member in await store.members(a.user_no, conv) or []} == {0}
            await do(
                store, RemoveMembers(author=users["c"], conv=conv, users=("a",)), message(a, 2, sent.conv),
                SetBlock(author=one, user=other.user, on=False), message(a, 3 - (blocker == "b"), sent.conv),
            )  # fmt: skip
            assert [known.user for known in await store.acquainted(b.user_no, ["a"])] == ["a"]
            (again,) = await do(store, Mark(author=b, conv=sent.conv, delivered=2, read=2))
            assert again.dm == ("a", "b")
            assert {member.read for member in await store.members(a.user_no, sent.conv) or []} == {0, 2}

    async def test_a_reply_is_to_a_message(self, engine: Engine) -> None:
        """Deleted since or not, in the same batch or not. To another event it is refused, and to what one may not see."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a)
            kept, added, *replies = await do(
                store, message(a, 1, conv), AddMembers(author=a, conv=conv, users=("b",)),
                *[msgspec.structs.replace(message(a, 2, conv), reply_to=seq) for seq in (1, 3, 4, 2)],
                msgspec.structs.replace(message(b, 1, conv), reply_to=2), Delete(
                    author=a, cseq=3, conv=conv, seq=4, payload=cbor2.dumps({"target": 4}), digest=b"d"
                ), msgspec.structs.replace(message(b, 1, conv), reply_to=4),
            )  # fmt: skip
            assert isinstance(kept, Appended)
            assert isinstance(added, Appended)
            assert [code(replies[n]) for n in (0, 1, 2, 4)] == ["not_found"] * 4
            assert [replies[n].events[0].seq for n in (3, 5, 6)] == [4, 5, 6]

    async def test_a_reply_is_to_an_event_of_the_log(self, engine: Engine) -> None:
        """One beyond the log is refused and changes nothing: no conversation is made for it, no cseq is used."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            (refused,) = await do(store, msgspec.structs.replace(message(a, 1, "@b"), reply_to=1))
            assert code(refused) == "not_found"
            assert (await store.conversations(a.user_no, a.device_no, None, 10))[0] == []
            first, second, third = await do(
                store, message(a, 1, "@b"), msgspec.structs.replace(message(a, 2, "@b"), reply_to=1),
                msgspec.structs.replace(message(a, 3, "@b"), reply_to=3),
            )  # fmt: skip
            assert isinstance(first, Appended)
            assert isinstance(second, Appended)
            assert code(third) == "not_found"

    async def test_a_newer_session_fences_off_the_older(self, engine: Engine) -> None:
        """I5: what an older session still has in flight is refused, also within one batch; its repeats are answered."""
        async with engine() as store:
            (old,) = await people(store, "a")
            conv = await group(store, old)
            await do(store, message(old, 1, conv, "one"))
            opening, late = await do(store, OpenDevice(user="a", device="d"), message(old, 2, conv, "late"))
            assert opening.cseq == 1
            assert code(late) == "out_of_place"
            (repeat,) = await do(store, message(old, 1, conv, "one"))
            assert isinstance(repeat, Repeated)
            (sent,) = await do(store, message(opening.author, 2, conv, "two"))
            assert isinstance(sent, Appended)
            assert await whole(store, conv) == [(1, "created"), (2, "message"), (3, "message")]

    async def test_a_replaced_session_changes_nothing(self, engine: Engine) -> None:
        """Nothing that an older session asks is carried out, numbered or not, here or on another node; but its marks are: the
        device holds what it says that it holds."""
        async with engine() as store, engine() as elsewhere:
            old, _, _ = await people(store, "a", "b", "c")
            conv = await group(store, old, "b")
            (opening,) = await do(elsewhere, OpenDevice(user="a", device="d"))
            asked: list[Operation] = [
                CreateGroup(author=old, title="g", members=(), history="all"), AddMembers(author=old, conv=conv, users=("c",)),
                RemoveMembers(author=old, conv=conv, users=("b",)), SetRole(author=old, conv=conv, user="b", role="admin"),
                Rename(author=old, conv=conv, title="t"), Mute(author=old, conv=conv, until=NOW * 2),
                SetBlock(author=old, user="b", on=True), SetPrivacy(author=old, presence=False), SignOut(author=old, device="d"),
                message(old, 1, conv), Edit(author=old, cseq=1, conv=conv, seq=1, payload=b"", digest=b""),
                Pin(author=old, conv=conv, seq=1, on=True),
            ]  # fmt: skip
            assert {code(outcome) for outcome in await do(store, *asked)} == {"out_of_place"}
            assert await whole(store, conv) == [(1, "created")]
            assert await store.blocked(old.user_no) == []
            assert (await store.privacies(["a"]))["a"] == Privacy(True, True)
            (marked,) = await do(store, Mark(author=old, conv=conv, delivered=1, read=0))
            assert isinstance(marked, Marked)
            assert isinstance((await do(store, message(opening.author, 1, conv)))[0], Appended)

    async def test_contiguous_over_batches(self, engine: Engine) -> None:
        """I4: 1, 2, 3 over batches, senders and kinds; ``at`` never goes back, though the clock does."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            for batch in range(5):
                sends = [message(author, batch * 3 + n + 1, conv) for n in range(3) for author in (a, b)]
                outcomes = await do(store, *sends, Rename(author=a, conv=conv, title=str(batch)), now=NOW - batch)
                assert all(isinstance(outcome, Appended) for outcome in outcomes)
            log = await store.log(conv, 0, 1000)
            assert [event.seq for event in log] == list(range(1, 37))
            assert all(one.at <= other.at for one, other in pairwise(log))

    async def test_repeats_gaps_and_reuse(self, engine: Engine) -> None:
        """I3: a repeat gets the first ack, in one batch and later; other content and gaps are refused; nothing moves."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            first, repeat, reused, gap = await do(
                store, message(a, 1, "@b", "m"), message(a, 1, "@b", "m"), message(a, 1, "@b", "n"), message(a, 3, "@b")
            )
            assert isinstance(first, Appended)
            assert repeat == Repeated(1, first.conv, 1, first.events[0].at)
            assert code(reused) == "cseq_reused"
            assert (code(gap), gap.expected) == ("cseq_gap", 2)
        async with engine() as store:
            (later,) = await do(store, message(a, 1, "@b", "m"))
            assert later == repeat
            assert await whole(store, first.conv) == [(1, "message")]

    async def test_a_repeat_goes_where_the_first_went(self, engine: Engine) -> None:
        """I3: the same words to somebody else are other content, in one batch and later; two names of one place are not."""
        async with engine() as store:
            a, _, _ = await people(store, "a", "b", "c")
            first, elsewhere = await do(store, message(a, 1, "@b", "m"), message(a, 1, "@c", "m"))
            assert code(elsewhere) == "cseq_reused"
            made, other, same = await do(
                store, message(a, 2, "@c", "m"), message(a, 2, first.conv, "m"), message(a, 1, first.conv, "m")
            )
            assert (code(other), same) == ("cseq_reused", Repeated(1, first.conv, 1, first.events[0].at))
            later = await do(store, message(a, 1, made.conv, "m"), message(a, 1, "@nobody", "m"), message(a, 1, "@b", "m"))
            assert [code(outcome) for outcome in later[:2]] == ["cseq_reused"] * 2
            assert later[2] == same

    async def test_a_refused_send_consumes_nothing(self, engine: Engine) -> None:
        """A refusal leaves the cseq to the next send, and the others of its batch alone."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            refused, after, good = await do(store, message(a, 1, "@nobody"), message(a, 2, "@b"), message(a, 1, "@b"))
            assert (code(refused), code(after)) == ("not_found", "cseq_gap")
            assert isinstance(good, Appended)
            assert good.events[0].seq == 1

    async def test_two_stores_at_once(self, engine: Engine) -> None:
        """Shared: two processes' views commit at once; the log has no hole, and a repeat on the other is a repeat."""
        async with engine() as one, engine() as other:
            a, b = await people(one, "a", "b")
            conv = await group(one, a, "b")

            async def write(store: Store, author: Author) -> None:
                for cseq in range(1, 51):
                    assert isinstance((await do(store, message(author, cseq, conv)))[0], Appended)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, one, a)
                nursery.start_soon(write, other, b)
            assert [seq for seq, _ in await whole(other, conv)] == list(range(1, 102))
            (again,) = await do(other, message(a, 50, conv))
            assert isinstance(again, Repeated)

    async def test_one_conversation_between_two(self, engine: Engine) -> None:
        """Both write first, in two processes: it is one 1:1 conversation. A note to oneself is one, too."""
        async with engine() as one, engine() as other:
            a, b = await people(one, "a", "b")
            (mine,) = await do(one, message(a, 1, "@b"))
            (theirs,) = await do(other, message(b, 1, "@a"))
            assert (theirs.conv, theirs.events[0].seq, theirs.dm) == (mine.conv, 2, ("a", "b"))
            (note,) = await do(one, message(a, 2, "@a"))
            assert (note.dm, note.events[0].seq) == (("a",), 1)

    async def test_members_only(self, engine: Engine) -> None:
        """I8: what a stranger is told of a conversation that is there is what they are told of one that is not."""
        async with engine() as store:
            a, _, c = await people(store, "a", "b", "c")
            conv = await group(store, a, "b")
            for to in (conv, "absent"):
                outcomes = await do(
                    store, message(c, 1, to), AddMembers(author=c, conv=to, users=("c",)),
                    RemoveMembers(author=c, conv=to, users=("a",)), RemoveMembers(author=c, conv=to, users=("c",)),
                    SetRole(author=c, conv=to, user="c", role="owner"), Rename(author=c, conv=to, title="t"),
                )  # fmt: skip
                assert {(code(outcome), outcome.message) for outcome in outcomes} == {("not_found", outcomes[0].message)}
                assert await store.page(c.user_no, to, after=0, before=None, limit=10, max_bytes=10**6) is None
                assert await store.members(c.user_no, to) is None

    @pytest.mark.parametrize(
        ("role", "allowed"), [("owner", "add remove_member remove_admin rename role"), ("admin", "add remove_member rename"),
                              ("member", "")],
    )  # fmt: skip
    async def test_roles(self, engine: Engine, role: str, allowed: str) -> None:
        """The table of who may do what in a group."""
        async with engine() as store:
            owner, admin, member, *_ = await people(store, "owner", "admin", "member", "other", "admin2", "new")
            conv = await group(store, owner, "admin", "member", "other", "admin2")
            await do(store, *[SetRole(author=owner, conv=conv, user=name, role="admin") for name in ("admin", "admin2")])
            me = {"owner": owner, "admin": admin, "member": member}[role]
            tries: dict[str, Operation] = {
                "add": AddMembers(author=me, conv=conv, users=("new",)),
                "remove_member": RemoveMembers(author=me, conv=conv, users=("other",)),
                "remove_admin": RemoveMembers(author=me, conv=conv, users=("admin2",)),
                "rename": Rename(author=me, conv=conv, title="new"),
                "role": SetRole(author=me, conv=conv, user="member", role="admin"),
            }
            for name, operation in tries.items():
                (outcome,) = await do(store, operation)
                if name in allowed.split():
                    assert isinstance(outcome, Appended), name
                else:
                    assert code(outcome) == "forbidden", name

    async def test_who_leaves_as_owner_is_followed(self, engine: Engine) -> None:
        """The longest-standing admin, else member, becomes the owner, before the ``left`` event."""
        async with engine() as store:
            a, _, _ = await people(store, "a", "b", "c")
            conv = await group(store, a, "b", "c")
            await do(store, SetRole(author=a, conv=conv, user="c", role="admin"))
            (gone,) = await do(store, RemoveMembers(author=a, conv=conv, users=("a",)))
            assert [event.kind for event in gone.events] == ["role", "left"]
            assert cbor2.loads(gone.events[0].payload) == {"user": "c", "role": "owner"}

    async def test_what_a_former_member_reads(self, engine: Engine) -> None:
        """I8: to the ``left`` event by catch-up, nothing by history; and both parts when they are a member again."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            await do(store, message(a, 1, conv), RemoveMembers(author=a, conv=conv, users=("b",)), message(a, 2, conv))

            async def read(*, former: bool, after: int = 0) -> Any:
                page = await store.page(b.user_no, conv, after=after, before=None, limit=50, max_bytes=10**6, former=former)
                return page and [event.seq for event in page.events]

            assert await read(former=True) == [1, 2, 3]
            assert await read(former=False) is None
            standing = (await store.standings(b.user_no, b.device_no))[0]
            assert (standing.member, standing.last) == (False, 3)
            await do(store, AddMembers(author=a, conv=conv, users=("b",)), message(a, 3, conv))
            assert await read(former=False) == [1, 2, 3]
            assert await read(former=False, after=3) == [5, 6]

    @pytest.mark.parametrize(("history", "seen"), [("since_join", [3]), ("all", [1, 2, 3])])
    async def test_what_a_new_member_reads(self, engine: Engine, history: str, seen: list[int]) -> None:
        """I8: from ``joined`` on, or everything; the device begins at ``joined`` in both."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, history=history)
            await do(store, message(a, 1, conv), AddMembers(author=a, conv=conv, users=("b",)))
            page = await store.page(b.user_no, conv, after=0, before=None, limit=50, max_bytes=10**6)
            assert page is not None
            assert [event.seq for event in page.events] == seen
            newest = await store.page(b.user_no, conv, after=None, before=None, limit=50, max_bytes=10**6)
            assert newest is not None
            assert ([event.seq for event in newest.events], newest.more) == (seen, False)
            assert (await store.standings(b.user_no, b.device_no))[0].cursor == 2

    async def test_pages(self, engine: Engine) -> None:
        """Both ways, by number and by bytes, at least one event, and ``more`` exactly where there is more."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            (made, *_) = await do(store, *[message(a, n, "@b", "y" * 100) for n in range(1, 11)])

            async def read(**where: Any) -> tuple[list[int], bool]:
                asked = {"after": None, "before": None, "limit": 4, "max_bytes": 10**6} | where
                page = await store.page(a.user_no, made.conv, **asked)
                assert page is not None
                assert page.last == 10
                return [event.seq for event in page.events], page.more

            assert await read() == ([7, 8, 9, 10], True)
            assert await read(before=5) == ([1, 2, 3, 4], False)
            assert await read(after=2) == ([3, 4, 5, 6], True)
            assert await read(after=8) == ([9, 10], False)
            assert await read(after=10) == ([], False)
            assert await read(after=0, max_bytes=1) == ([1], True)
            assert await read(max_bytes=1) == ([10], True)

    async def test_a_log_read_is_bounded_in_bytes(self, engine: Engine) -> None:
        """By number and by bytes, 1 MiB if nothing is said, at least one event; empty only at the end."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            (made, *_) = await do(store, *[message(a, n, "@b", "y" * 60_000) for n in range(1, 31)])

            async def read(after: int, **bounds: int) -> list[int]:
                return [event.seq for event in await store.log(made.conv, after, 20, **bounds)]

            assert await read(0) == list(range(1, 18))
            assert await read(0, max_bytes=130_000) == [1, 2]
            assert await read(5, max_bytes=1) == [6]
            assert await read(20) == list(range(21, 31))
            assert await read(30, max_bytes=1) == []
            page = await store.page(a.user_no, made.conv, after=None, before=None, limit=20, max_bytes=130_000)
            assert page is not None
            assert ([event.seq for event in page.events], page.more) == ([29, 30], True)

    async def test_several_logs_are_one_read(self, engine: Engine) -> None:
        """In the order that was asked for, each as ``log`` has it; bounded together, and never without the first."""
        async with engine() as store:
            (a,) = await people(store, "a")
            one, two = await group(store, a), await group(store, a)
            await do(store, *[message(a, n, one if n % 2 else two, "y" * 60_000) for n in range(1, 9)])

            async def read(*wanted: tuple[str, int], limit: int = 20, **bounds: int) -> list[list[int]]:
                return [[event.seq for event in found] for found in await store.logs(wanted, limit, **bounds)]

            assert await read((two, 3), (one, 1), ("nowhere", 0), (one, 5)) == [[4, 5], [2, 3, 4, 5], [], []]
            assert await read((two, 1), (one, 1), limit=1) == [[2], [2]]
            assert await read((two, 1), (one, 1), max_bytes=1) == [[2]]
            assert await read((two, 1), (one, 1), max_bytes=260_000) == [[2, 3, 4, 5]]

    async def test_one_standing_is_the_entry_of_all(self, engine: Engine) -> None:
        """``standing`` of each conversation, former ones included, equals ``standings``; None where one never was."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            stays, leaves = await group(store, a, "b"), await group(store, a, "b", history="all")
            await do(store, message(a, 1, stays), message(a, 2, "@b"), RemoveMembers(author=a, conv=leaves, users=("b",)))
            await do(store, Mark(author=b, conv=stays, delivered=2, read=1), Rename(author=a, conv=leaves, title="t"))
            for who in (a, b):
                every = await store.standings(who.user_no, who.device_no)
                assert len(every) == 3
                assert [await store.standing(who.user_no, who.device_no, s.conv) for s in every] == every
            for conv in (stays, leaves, "absent"):
                assert await store.standing(c.user_no, c.device_no, conv) is None

    async def test_a_former_member_confirms_the_end(self, engine: Engine) -> None:
        """I7: ``delivered`` moves a former member's cursor to the ``left`` event and not beyond, so replay has an end."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            await do(store, message(a, 1, conv), RemoveMembers(author=a, conv=conv, users=("b",)), message(a, 2, conv))

            async def cursor(delivered: int) -> int:
                await do(store, Mark(author=b, conv=conv, delivered=delivered, read=0))
                standing = await store.standing(b.user_no, b.device_no, conv)
                assert standing is not None
                return standing.cursor

            assert [await cursor(seq) for seq in (2, 3, 1, 99)] == [2, 3, 3, 3]

    async def test_a_mark_before_ones_time_moves_nothing_back(self, engine: Engine) -> None:
        """A device that confirms what lies before ``joined`` still begins there."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, history="all")
            await do(store, message(a, 1, conv), message(a, 2, conv), AddMembers(author=a, conv=conv, users=("b",)))
            await do(store, Mark(author=b, conv=conv, delivered=1, read=0))
            standing = await store.standing(b.user_no, b.device_no, conv)
            assert standing is not None
            assert standing.cursor == 3

    async def test_marks_never_move_back(self, engine: Engine) -> None:
        """Cursors and read marks only grow, stay within the log, and are nobody else's."""
        async with engine() as store:
            a, b, c = await people(store, "a", "b", "c")
            (made, *_) = await do(store, *[message(a, n, "@b") for n in range(1, 6)])

            async def where() -> tuple[int, int]:
                (item,), _ = await store.conversations(b.user_no, b.device_no, None, 10)
                return (await store.standings(b.user_no, b.device_no))[0].cursor, item.read

            for delivered, read, expected in [(3, 0, (3, 0)), (2, 0, (3, 0)), (0, 4, (4, 4)), (0, 1, (4, 4)), (99, 99, (5, 5))]:
                before = await where()
                (marked,) = await do(store, Mark(author=b, conv=made.conv, delivered=delivered, read=read))
                assert isinstance(marked, Marked)
                assert await where() == expected == (marked.delivered, marked.read)
                assert (marked.had_delivered, marked.had_read, marked.moved) == (*before, before != expected)
                assert (marked.conv, marked.dm, marked.members) == (made.conv, ("a", "b"), 2)
            assert isinstance((await do(store, Mark(author=c, conv=made.conv, delivered=1, read=1)))[0], Done)

    async def test_marks_are_merged_over_devices(self, engine: Engine) -> None:
        """A mark tells what the user has on all devices; members see it of each other; former members tell nothing."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (tablet,) = await people(store, "b", device="tablet")
            conv = await group(store, a, "b")
            await do(store, *[message(a, n, conv) for n in range(1, 5)])
            (high,) = await do(store, Mark(author=b, conv=conv, delivered=4, read=2))
            (low, next_) = await do(
                store, Mark(author=tablet, conv=conv, delivered=3, read=0), Mark(author=tablet, conv=conv, delivered=3, read=3)
            )
            assert (high.delivered, high.read, high.moved, high.members, high.dm) == (4, 2, True, 2, ())
            assert (low.delivered, low.read, low.moved) == (4, 2, False)
            assert (next_.delivered, next_.read, next_.moved) == (4, 3, True)
            members = await store.members(a.user_no, conv)
            assert members is not None
            assert [(m.user, m.delivered, m.read) for m in members] == [("a", 0, 0), ("b", 4, 3)]
            await do(store, RemoveMembers(author=a, conv=conv, users=("b",)))
            assert (await do(store, Mark(author=b, conv=conv, delivered=6, read=6)))[0] == Done(conv)

    async def test_tallies_count_the_others(self, engine: Engine) -> None:
        """Of whoever's latest message lies in the range: how many of the other members have it; not who has left."""
        async with engine() as store:
            a, b, c, d = await people(store, "a", "b", "c", "d")
            conv = await group(store, a, "b", "c", "d")
            await do(store, message(a, 1, conv), message(b, 1, conv), message(a, 2, conv), message(d, 1, conv))
            await do(store, *[Mark(author=who, conv=conv, delivered=4, read=read) for who, read in ((a, 4), (b, 3), (c, 4))])
            found = sorted(await store.tallies(conv, 1, 4), key=lambda tally: tally.user)
            assert found == [Tally("a", 4, 2, 1), Tally("b", 3, 2, 2)]
            assert await store.tallies(conv, 3, 4) == [Tally("a", 4, 2, 1)]
            assert await store.tallies(conv, 0, 1) == []
            await do(store, RemoveMembers(author=a, conv=conv, users=("c",)))
            assert await store.tallies(conv, 3, 4) == [Tally("a", 4, 1, 0)]
            assert await store.tallies("absent", 0, 9) == []

    async def test_who_may_know_of_whom(self, engine: Engine) -> None:
        """Acquainted are members of one conversation, now; what is hidden is not told; ``last_seen`` never goes back."""
        async with engine() as store:
            a, b, c, d = await people(store, "a", "b", "c", "d")
            conv = await group(store, a, "b", "c")
            await do(store, message(a, 1, "@d"), NoteSeen(seen=(("b", 5), ("c", 6), ("d", 7), ("nobody", 1))))
            await do(store, NoteSeen(seen=(("b", 3),)))

            async def known(to: Author) -> list[tuple[str, int]]:
                return sorted((k.user, k.last_seen) for k in await store.acquainted(to.user_no, ["b", "c", "d", "nobody"]))

            assert await known(a) == [("b", 5), ("c", 6), ("d", 7)]
            assert [user for user, _ in await known(d)] == ["d"]
            (hidden,) = await do(store, SetPrivacy(author=b, last_seen=False))
            assert (hidden.presence, hidden.last_seen) == (True, False)
            (hidden,) = await do(store, SetPrivacy(author=c, presence=False))
            assert (hidden.presence, hidden.last_seen) == (False, True)
            assert await known(a) == [("b", 0), ("c", 0), ("d", 7)]
            assert await store.privacies(["b", "c", "nobody"]) == {"b": Privacy(True, False), "c": Privacy(False, True)}
            await do(store, RemoveMembers(author=a, conv=conv, users=("b",)))
            assert await known(a) == [("c", 0), ("d", 7)]

    async def test_audiences(self, engine: Engine) -> None:
        """The two of a 1:1 conversation by name, a group by its size; of former members none."""
        async with engine() as store:
            a, b, _ = await people(store, "a", "b", "c")
            conv = await group(store, a, "b", "c")
            (dm,) = await do(store, message(b, 1, "@a"))
            await do(store, RemoveMembers(author=a, conv=conv, users=("c",)))
            assert await store.audiences([conv, dm.conv, "absent"]) == {
                conv: Audience((), 2), dm.conv: Audience(("a", "b"), 2),
            }  # fmt: skip

    async def test_a_new_device_begins_at_the_read_mark(self, engine: Engine) -> None:
        """I7: at the read mark, at most 1000 events back; a known device where it was."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            (made, *_) = await do(store, *[message(a, n, "@b") for n in range(1, 1101)])
            await do(store, Mark(author=b, conv=made.conv, delivered=7, read=0))
            (fresh,) = await people(store, "b", device="new")
            assert (await store.standings(b.user_no, fresh.device_no))[0].cursor == 100
            assert (await store.standings(b.user_no, b.device_no))[0].cursor == 7

    async def test_what_was_committed_is_never_omitted(self, engine: Engine) -> None:
        """``committed``: every head and every membership since the token, of this process and of another."""
        async with engine() as one, engine() as other:
            a, _ = await people(one, "a", "b")
            token = (await one.committed(None)).token
            (made,) = await do(other, message(a, 1, "@b"))
            conv = await group(other, a, "b")
            found = await one.committed(token)
            assert found.heads == {made.conv: 1, conv: 1}
            assert {("b", made.conv), ("b", conv)} <= set(found.joined)
            assert (await one.committed(found.token)).heads == {}

    async def test_accounts_blocks_and_devices(self, engine: Engine) -> None:
        """Names are taken once, unknown users open nothing, blocked users are refused, devices are bounded."""
        async with engine() as store:
            made, taken = await do(store, *[CreateAccount(user="a", password_hash="h")] * 2)
            assert isinstance(made, Done)
            assert code(taken) == "name_taken"
            account = await store.account("a")
            assert account is not None
            assert account.password_hash == "h"
            assert await store.account("nobody") is None
            assert code((await do(store, OpenDevice(user="nobody", device="d")))[0]) == "unauthenticated"
            a, b = await people(store, "a", "b")
            await do(store, SetBlock(author=a, user="b", on=True))
            assert await store.blocked(a.user_no) == ["b"]
            assert code((await do(store, message(b, 1, "@a")))[0]) == "forbidden"
            await do(store, SetBlock(author=a, user="b", on=False))
            assert isinstance((await do(store, message(b, 1, "@a")))[0], Appended)
            opened = await do(store, *[OpenDevice(user="b", device=f"x{n}") for n in range(100)])
            assert sum(isinstance(outcome, DeviceOpened) for outcome in opened) == 99
            assert code(opened[-1]) == "too_many_devices"

    async def test_a_group_is_bounded(self, engine: Engine) -> None:
        """1000 members are allowed, 1001 are not, and the number stands in the refusal."""
        async with engine() as store:
            (owner, *_) = await people(store, *[f"u{n}" for n in range(1001)])
            conv = await group(store, owner, *[f"u{n}" for n in range(1, 1000)])
            (refused,) = await do(store, AddMembers(author=owner, conv=conv, users=("u1000",)))
            assert code(refused) == "too_many_members"
            assert "1000" in refused.message

    async def test_the_list_pages_latest_first(self, engine: Engine) -> None:
        """Each conversation once, over pages; a cursor that nobody gave out is a ValueError."""
        async with engine() as store:
            (a,) = await people(store, "a")
            convs = [await group(store, a) for _ in range(5)]
            listed, cursor = await store.conversations(a.user_no, a.device_no, None, 3)
            rest, end = await store.conversations(a.user_no, a.device_no, cursor, 3)
            assert [item.conv for item in listed + rest] == convs[::-1]
            assert end is None
            with pytest.raises(ValueError, match="cursor"):
                await store.conversations(a.user_no, a.device_no, "x", 3)

    async def test_the_list_is_bounded_in_bytes(self, engine: Engine) -> None:
        """A page ends early rather than grow, with at least one item, and the pages together leave nothing out."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            convs = [await group(store, a, "b") for _ in range(4)]
            await do(store, *[message(b, n, conv, "y" * 60_000) for n, conv in enumerate(convs, 1)])
            for max_bytes, sizes in [(130_000, [2, 2]), (1, [1, 1, 1, 1]), (10**6, [4])]:
                pages: list[list[str]] = []
                cursor: str | None = None
                while not pages or cursor is not None:
                    items, cursor = await store.conversations(a.user_no, a.device_no, cursor, 10, max_bytes=max_bytes)
                    assert all(item.event is not None and item.unread == 1 for item in items)
                    pages.append([item.conv for item in items])
                assert [len(page) for page in pages] == sizes
                assert [conv for page in pages for conv in page] == convs[::-1]

    async def test_what_an_item_says(self, engine: Engine) -> None:
        """A dm's members by name, a group's none; the newest event; marks and unread as they were set."""
        async with engine() as store:
            b, a = await people(store, "b", "a")
            conv = await group(store, a, "b")
            sent, _ = await do(store, message(b, 1, "@a"), message(b, 2, "@a"), now=NOW + 1)
            await do(store, Mark(author=a, conv=sent.conv, delivered=2, read=1))
            (dm, club), cursor = await store.conversations(a.user_no, a.device_no, None, 2)
            assert cursor is None
            assert (dm.conv, dm.kind, dm.members, dm.last, dm.read, dm.delivered, dm.unread) == (
                sent.conv, "dm", ["a", "b"], 2, 1, 2, 1
            )  # fmt: skip
            assert [dm.event] == await store.log(sent.conv, 1, 1)
            assert (club.conv, club.title, club.members, club.last, club.unread) == (conv, "g", [], 1, 0)
            assert [club.event] == await store.log(conv, 0, 1)

    @given(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from(["send", "read", "rename"]), st.integers(1, 30)), max_size=25
        )
    )
    @settings(max_examples=25, deadline=None)
    def test_unread_is_a_function(self, open_engine: Any, steps: list[tuple[str, str, int]]) -> None:
        """I10: against a plain model: messages after the read mark, not one's own."""
        trio.run(_compare_unread, open_engine(), steps)


async def _compare_unread(engine: Engine, steps: list[tuple[str, str, int]]) -> None:
    async with engine() as store:
        authors = dict(zip("ab", await people(store, "a", "b"), strict=True))
        conv = await group(store, authors["a"], "b")
        log: list[tuple[str, str]] = [("a", "created")]
        read: dict[str, int] = defaultdict(int)
        cseq: dict[str, int] = defaultdict(int)
        for number, (name, step, value) in enumerate(steps):
            if step == "send":
                cseq[name] += 1
                await do(store, message(authors[name], cseq[name], conv))
                log.append((name, "message"))
            elif step == "rename":
                await do(store, Rename(author=authors["a"], conv=conv, title=str(number)))
                log.append(("a", "renamed"))
            else:
                await do(store, Mark(author=authors[name], conv=conv, delivered=0, read=value))
                read[name] = max(read[name], min(value, len(log)))
        for name, author in authors.items():
            (item,), _ = await store.conversations(author.user_no, author.device_no, None, 10)
            expected = [by for by, kind in log[read[name] :] if kind == "message" and by != name]
            assert item.unread == len(expected)
