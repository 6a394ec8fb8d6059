"""The store's contract about devices, sessions, tokens and passwords; an engine's own file inherits this class, too."""

from __future__ import annotations

from typing import Any

import pytest

from chatd.conversations.operations import (
    Appended,
    Author,
    CreateAccount,
    CreateGroup,
    DeviceOpened,
    Done,
    Mark,
    OpenDevice,
    Outcome,
    Refused,
    Rehash,
    RemoveMembers,
    Rename,
    Repeated,
    RollCall,
    SessionsEnded,
    SetPassword,
    SignOut,
)
from chatd.store.port import ENDINGS_KEPT_MS, MAX_DEVICE_TOKENS, Store
from tests.store.conformance import NOW, Engine, code, do, group, message, people

HOUR = 3600 * 1000
LATER = NOW + HOUR
ONE, TWO = b"1" * 16, b"2" * 16
HERE, THERE = b"node here", b"node away"


async def opened(store: Store, user: str, device: str, token: bytes = b"", *, now: int = NOW, **fields: Any) -> Author:
    """A session of a device, begun with a token that is good for an hour."""
    (outcome,) = await do(store, OpenDevice(user=user, device=device, token=token, expires=now + HOUR, **fields), now=now)
    assert isinstance(outcome, DeviceOpened), outcome
    return outcome.author


async def refused(store: Store, user: str, device: str, token: bytes = b"", *, now: int = NOW, **fields: Any) -> str:
    (outcome,) = await do(store, OpenDevice(user=user, device=device, token=token, expires=now + HOUR, **fields), now=now)
    return code(outcome)


async def ended_by(store: Store, operation: Any, *, now: int = NOW) -> tuple[tuple[int, int], ...]:
    (outcome,) = await do(store, operation, now=now)
    assert isinstance(outcome, SessionsEnded), outcome
    return outcome.devices


async def names(store: Store, author: Author, *, now: int = NOW) -> list[tuple[str, bool]]:
    return [(entry.device, entry.online) for entry in await store.devices(author.user_no, now)]


async def cursors(store: Store, author: Author) -> list[int]:
    return [standing.cursor for standing in await store.standings(author.user_no, author.device_no)]


class DevicesConformance:
    """Every clause of ``chatd.store.port`` and ``chatd.conversations.operations`` about who is let in."""

    async def test_devices_are_listed(self, engine: Engine) -> None:
        """Latest use first, with what the client said that it is, one's own alone; whatever the text."""
        async with engine() as store:
            await people(store, "a", "b")
            await opened(store, "a", "phone", now=NOW + 1, agent="one/1")
            phone = await opened(store, "a", "phone", now=NOW + 5, agent='nul \0 quote " \u20ac')
            await opened(store, "a", "desk", now=NOW + 2)
            listed = [(entry.device, entry.agent, entry.used) for entry in await store.devices(phone.user_no, NOW)]
            assert listed == [("phone", 'nul \0 quote " \u20ac', NOW + 5), ("desk", "", NOW + 2), ("d", "", NOW)]

    async def test_online_is_a_session_on_a_node_that_runs(self, engine: Engine) -> None:
        """A node that dies takes its devices offline when its lease ends; one that ends in order, or the session, at once;
        a session that is over says nothing of a newer one."""
        async with engine() as store:
            await people(store, "a")
            here = await opened(store, "a", "here", node=HERE)
            there = await opened(store, "a", "there", node=THERE)
            await do(store, RollCall(node=HERE, lease_ms=60_000), RollCall(node=THERE, lease_ms=60_000))
            assert sorted(await names(store, here)) == [("d", False), ("here", True), ("there", True)]
            await do(store, RollCall(node=HERE, lease_ms=60_000), now=NOW + 40_000)
            assert dict(await names(store, here, now=NOW + 60_001)) == {"d": False, "here": True, "there": False}
            await do(store, RollCall(node=THERE, lease_ms=60_000), now=NOW + 70_000)
            newer = await opened(store, "a", "there", node=THERE)
            over = RollCall(node=THERE, lease_ms=60_000, left=((there.device_no, there.epoch),))
            await do(store, over, now=NOW + 70_000)
            assert dict(await names(store, here, now=NOW + 70_000))["there"]
            over = RollCall(node=THERE, lease_ms=60_000, left=((newer.device_no, newer.epoch),))
            await do(store, over, now=NOW + 70_000)
            assert not dict(await names(store, here, now=NOW + 70_000))["there"]
            await do(store, RollCall(node=HERE, lease_ms=0), now=NOW + 70_000)
            assert not dict(await names(store, here, now=NOW + 70_000))["here"]

    async def test_which_tokens_are_taken_back(self, engine: Engine) -> None:
        """Those that the device used, and no other."""
        async with engine() as store:
            (mine,) = await people(store, "a")
            await opened(store, "a", "phone", ONE)
            await opened(store, "a", "desk", TWO)
            assert not await store.revoked(ONE)
            await do(store, SignOut(author=mine, device="phone"))
            assert [await store.revoked(token) for token in (ONE, TWO, b"")] == [True, False, False]

    async def test_a_sign_out_fences_at_once(self, engine: Engine) -> None:
        """What the sessions of the device would still change is refused from that very commit on, its marks, too; nothing
        of it makes the forgotten cursors again."""
        async with engine() as store, engine() as elsewhere:
            (mine,) = await people(store, "a")
            phone = await opened(store, "a", "phone")
            conv = await group(store, mine)
            await do(store, message(phone, 1, conv, "one"))
            await do(elsewhere, message(mine, 1, conv))  # the other node knows the device as it was
            out, send, mark, rename, made = await do(
                store, SignOut(author=mine, device="phone"), message(phone, 2, conv),
                Mark(author=phone, conv=conv, delivered=2, read=0), Rename(author=phone, conv=conv, title="t"),
                CreateGroup(author=phone, title="g", members=(), history="all"),
            )  # fmt: skip
            assert out == SessionsEnded("a", ((phone.device_no, phone.epoch + 1),))
            assert {code(one) for one in (send, mark, rename, made)} == {"out_of_place"}
            late, marked, repeat = await do(
                elsewhere, message(phone, 2, conv), Mark(author=phone, conv=conv, delivered=3, read=0),
                message(phone, 1, conv, "one"),
            )  # fmt: skip
            assert (code(late), code(marked)) == ("out_of_place", "out_of_place")
            assert isinstance(repeat, Repeated)
            assert await names(store, mine) == [("d", False)]
            assert await cursors(store, phone) == [0]  # none: from ``joined`` on
            assert isinstance((await do(store, message(mine, 2, conv)))[0], Appended)

    async def test_only_ones_own_devices(self, engine: Engine) -> None:
        """Another's device, one that is not there and one that is signed out are the same ``not_found``."""
        async with engine() as store:
            a, _ = await people(store, "a", "b")
            await opened(store, "b", "phone")
            await opened(store, "a", "gone")
            await ended_by(store, SignOut(author=a, device="gone"))
            outcomes: list[Outcome] = await do(store, *[SignOut(author=a, device=name) for name in ("phone", "no", "gone")])
            assert {(code(outcome), getattr(outcome, "message", "")) for outcome in outcomes} == {
                ("not_found", getattr(outcomes[0], "message", ""))
            }

    async def test_a_signed_out_device_comes_back_as_a_new_one(self, engine: Engine) -> None:
        """With another token: its cursors are at the read marks, and its ``cseq`` goes on, so that a repeat still is one."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            phone = await opened(store, "a", "phone", ONE)
            conv = await group(store, a, "b")
            await do(store, message(phone, 1, conv, "one"), *[message(b, n, conv) for n in range(1, 6)])
            await do(store, Mark(author=a, conv=conv, delivered=0, read=3), Mark(author=phone, conv=conv, delivered=6, read=0))
            assert await cursors(store, phone) == [6]
            await ended_by(store, SignOut(author=a, device="phone"))
            assert await refused(store, "a", "phone", ONE) == "unauthenticated"
            again = await opened(store, "a", "phone", TWO)
            assert again.device_no == phone.device_no
            assert await cursors(store, again) == [3]
            repeat, following = await do(store, message(again, 1, conv, "one"), message(again, 2, conv))
            assert isinstance(repeat, Repeated)
            assert isinstance(following, Appended)

    async def test_a_revoked_token_opens_nothing(self, engine: Engine) -> None:
        """Under any device's name, on any node, until it would have expired anyway; others' tokens are not touched. All that
        the device used are revoked, not only the last."""
        async with engine() as store, engine() as elsewhere:
            a, _ = await people(store, "a", "b")
            await opened(store, "a", "phone", ONE)
            await opened(store, "a", "phone", TWO)
            await opened(store, "b", "phone", b"3" * 16)
            await ended_by(store, SignOut(author=a, device="phone"))
            for token in (ONE, TWO):
                assert await refused(elsewhere, "a", "another", token) == "unauthenticated"
                assert await refused(store, "a", "phone", token, now=LATER + 10_000) == "unauthenticated"
            await opened(elsewhere, "a", "phone", b"4" * 16)
            await opened(elsewhere, "b", "phone", b"3" * 16)
            assert [device for device, _ in await names(store, a)] == ["phone", "d"]

    async def test_a_session_ends_with_its_token(self, engine: Engine) -> None:
        """Another device whose session began with a token that is revoked loses that session, and stays a device."""
        async with engine() as store:
            (a,) = await people(store, "a")
            await opened(store, "a", "phone", ONE)
            desk = await opened(store, "a", "desk", ONE)
            past = await opened(store, "a", "past", ONE)
            other = await opened(store, "a", "past", TWO)
            assert past.epoch < other.epoch
            ended = dict(await ended_by(store, SignOut(author=a, device="phone")))
            assert ended[desk.device_no] == desk.epoch + 1
            assert other.device_no not in ended
            assert {device for device, _ in await names(store, a)} == {"d", "desk", "past"}
            outcomes = await do(store, message(desk, 1, "@a"), message(other, 1, "@a"))
            assert code(outcomes[0]) == "out_of_place"
            assert isinstance(outcomes[1], Appended)

    async def test_too_many_tokens_take_the_oldest_back(self, engine: Engine) -> None:
        """What a sign-out must find is bounded: beyond it the oldest is revoked, with the session that it began."""
        async with engine() as store:
            await people(store, "a")
            desk = await opened(store, "a", "desk", bytes(16))
            for number in range(MAX_DEVICE_TOKENS):
                await opened(store, "a", "phone", bytes([number]) * 16, now=NOW + number)
            await opened(store, "a", "phone", b"x" * 16, now=NOW + MAX_DEVICE_TOKENS)
            assert await refused(store, "a", "phone", bytes(16)) == "unauthenticated"
            assert ("a", desk.device_no, desk.epoch + 1) in (await store.endings(0)).ended
            await opened(store, "a", "desk", b"\1" * 16)

    async def test_gone_devices_do_not_count(self, engine: Engine) -> None:
        """A signed-out device makes room for another, and needs room to come back."""
        async with engine() as store:
            (a,) = await people(store, "a")
            for number in range(99):
                await opened(store, "a", f"x{number}")
            assert await refused(store, "a", "new") == "too_many_devices"
            await ended_by(store, SignOut(author=a, device="x7"))
            await opened(store, "a", "new")
            assert await refused(store, "a", "x7") == "too_many_devices"
            await opened(store, "a", "x8")

    async def test_a_former_members_new_device_misses_nothing(self, engine: Engine) -> None:
        """I7: it begins at the read mark, or so many events before the own ``left``; what the group has said since does not
        count, also where the commit that opens the device says more."""
        async with engine() as store:
            a, b = await people(store, "a", "b")
            conv = await group(store, a, "b")
            await do(store, RemoveMembers(author=a, conv=conv, users=("b",)))
            await do(store, *[message(a, number, conv) for number in range(1, 1101)])
            _, opening = await do(store, message(a, 1101, conv), OpenDevice(user="b", device="new"))
            (standing,) = await store.standings(b.user_no, opening.author.device_no)
            assert (standing.cursor, standing.last) == (0, 2)

    async def test_endings_are_found_by_looking(self, engine: Engine) -> None:
        """Every node finds what ended since it last looked, each in its order; they are kept for a time, and not for ever."""
        async with engine() as store, engine() as elsewhere:
            a, b = await people(store, "a", "b")
            phone = await opened(store, "b", "phone")
            nothing = await elsewhere.endings(0)
            assert (nothing.ended, nothing.more) == ([], False)
            await ended_by(store, SignOut(author=b, device="phone"))
            first = await elsewhere.endings(nothing.token)
            assert first.ended == [("b", phone.device_no, phone.epoch + 1)]
            assert (await elsewhere.endings(first.token)).ended == []
            await ended_by(store, SignOut(author=a, device="d"), now=NOW + ENDINGS_KEPT_MS + 1)
            assert (await elsewhere.endings(0)).ended == [("a", a.device_no, a.epoch + 1)]
            assert (await elsewhere.endings(first.token)).ended == [("a", a.device_no, a.epoch + 1)]

    async def test_many_endings_come_in_parts(self, engine: Engine) -> None:
        """An answer is bounded; ``more`` says that there are more."""
        async with engine() as store:
            await do(store, CreateAccount(user="a", password_hash="h"))
            for number in range(100):
                await opened(store, "a", f"x{number}")
            for _ in range(11):
                await ended_by(store, SetPassword(user="a", old_hash=None, new_hash="h"))
            first = await store.endings(0)
            assert (len(first.ended), first.more) == (1000, True)
            rest = await store.endings(first.token)
            assert (len(rest.ended), rest.more) == (100, False)

    async def test_a_new_password_ends_all_but_one(self, engine: Engine) -> None:
        """The sessions of the others are fenced at once, their cursors stay; every token before opens nothing any more, the
        kept device's own, too; one of the new generation does."""
        async with engine() as store:
            await do(store, CreateAccount(user="a", password_hash="old"))
            kept, other = await opened(store, "a", "kept", ONE), await opened(store, "a", "other", TWO)
            await do(store, message(kept, 1, "@a"), message(other, 1, "@a"))
            (conv,) = [standing.conv for standing in await store.standings(kept.user_no, kept.device_no)]
            await do(store, Mark(author=other, conv=conv, delivered=2, read=0))
            change = SetPassword(user="a", old_hash="old", new_hash="new", keep="kept")
            changed, late, good = await do(store, change, message(other, 2, "@a"), message(kept, 2, "@a"))
            assert changed == SessionsEnded("a", ((other.device_no, other.epoch + 1),), 1)
            assert code(late) == "out_of_place"
            assert isinstance(good, Appended)
            account = await store.account("a")
            assert account is not None
            assert (account.password_hash, account.generation) == ("new", 1)
            for device in ("kept", "other", "new"):
                for token in (ONE, TWO, b"3" * 16):
                    assert await refused(store, "a", device, token) == "unauthenticated"
            again = await opened(store, "a", "other", b"4" * 16, generation=1)
            assert await cursors(store, again) == [2]
            assert {device for device, _ in await names(store, kept)} == {"kept", "other"}

    async def test_a_new_password_needs_the_one_before(self, engine: Engine) -> None:
        """Of two changes at once the second's old password is not right any more; the operator needs none; nobody has no
        password to change."""
        async with engine() as store:
            await do(store, CreateAccount(user="a", password_hash="old"))
            one, two, operators, nobody = await do(
                store, SetPassword(user="a", old_hash="old", new_hash="one"),
                SetPassword(user="a", old_hash="old", new_hash="two"), SetPassword(user="a", old_hash=None, new_hash="three"),
                SetPassword(user="b", old_hash=None, new_hash="x"),
            )  # fmt: skip
            assert isinstance(one, SessionsEnded)
            assert (code(two), code(nobody)) == ("unauthenticated", "unauthenticated")
            assert isinstance(operators, SessionsEnded)
            assert operators.generation == 2

    @pytest.mark.parametrize(("issued", "good"), [(NOW - 1, False), (NOW, True), (0, False)])
    async def test_an_outside_token_before_a_new_password(self, engine: Engine, issued: int, good: bool) -> None:
        """It names no generation, so the time at which it was issued decides; without one it is taken for old."""
        async with engine() as store:
            await people(store, "a")
            await ended_by(store, SetPassword(user="a", old_hash=None, new_hash="h"))
            (outcome,) = await do(store, OpenDevice(user="a", device="d", token=ONE, create_user=True, issued=issued))
            assert isinstance(outcome, DeviceOpened if good else Refused)

    async def test_a_rehash_changes_no_password(self, engine: Engine) -> None:
        """It replaces the hash that was verified, and no other; tokens and sessions stay."""
        async with engine() as store:
            await do(store, CreateAccount(user="a", password_hash="old"))
            kept = await opened(store, "a", "d", ONE)
            changes = [Rehash(user="a", old_hash="old", new_hash=new) for new in ("new", "bad")]
            outcomes = await do(store, *changes)
            assert outcomes == [Done(), Done()]
            account = await store.account("a")
            assert account is not None
            assert (account.password_hash, account.generation) == ("new", 0)
            assert isinstance((await do(store, message(kept, 1, "@a")))[0], Appended)
            await opened(store, "a", "d", ONE)
