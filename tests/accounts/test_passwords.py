"""Passwords: bounds, argon2id, the same work for a name that is not there, and a queue that ends."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from chatd.accounts.passwords import MAX_CHARS, BadPassword, Overloaded, Passwords, hasher_of, prepared
from chatd.config import Auth


class CountingHasher(PasswordHasher):
    """Counts the hashes that were verified against; the work itself is argon2's."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[str | bytes] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        self.verified.append(hash)
        return super().verify(hash, password)


class GatedHasher(CountingHasher):
    """Holds every hash until ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.gate.wait(10)
        return super().hash(password, salt=salt)


async def test_right_password_only(passwords: Passwords) -> None:
    """A hash takes the password it was made from, and no other."""
    stored = await passwords.hash("correct horse")
    assert await passwords.verify(stored, "correct horse")
    assert not await passwords.verify(stored, "correct horsf")
    assert not await passwords.verify(stored, "correct hors")


def test_default_is_argon2id() -> None:
    """What is stored says argon2id with OWASP's memory and passes."""
    assert hasher_of(Auth()).hash("x").startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("password", ["", "1234567", "x" * (MAX_CHARS + 1), "x" * 10_000_000, "\ud800" * 8])
async def test_bounds_before_hashing(password: str) -> None:
    """Too short, too long and invalid Unicode are refused before any hashing, and verify says no, not an error."""
    hasher = CountingHasher()
    passwords = Passwords(hasher=hasher)
    with pytest.raises(BadPassword, match=r"^password: "):
        await passwords.hash(password)
    assert not await passwords.verify("$argon2id$whatever", password)
    assert hasher.verified == []


async def test_unknown_user_costs_a_hash() -> None:
    """Without an account one hash is computed as well, against nobody's hash, and the answer is no."""
    hasher = CountingHasher()
    passwords = Passwords(hasher=hasher)
    assert not await passwords.verify("", "correct horse")
    assert len(hasher.verified) == 1
    assert str(hasher.verified[0]).startswith("$argon2id$")


async def test_broken_stored_hash_is_a_no(passwords: Passwords) -> None:
    """A hash that cannot be read lets nobody in and raises nothing."""
    assert not await passwords.verify("not a hash", "correct horse")


async def test_composed_and_decomposed_are_one_password(passwords: Passwords) -> None:
    """The same password typed on two systems (NFC and NFD) is the same password."""
    assert await passwords.verify(await passwords.hash("caf\u00e9 noir"), "cafe\u0301 noir")


async def test_queue_ends() -> None:
    """One more than the threads and the waiters is told Overloaded at once; the others are served."""
    hasher = GatedHasher()
    passwords = Passwords(threads=1, max_waiting=2, hasher=hasher)
    hasher.gate.clear()
    done: list[str] = []

    async def one() -> None:
        done.append(await passwords.hash("correct horse"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Overloaded):
                await passwords.hash("correct horse")
            with pytest.raises(Overloaded):
                await passwords.verify("", "correct horse")
            hasher.gate.set()
    assert len(done) == 3
    assert await passwords.verify(done[0], "correct horse")


async def test_cancelled_waiter_gives_its_place_back() -> None:
    """A waiter that is cancelled leaves the queue as it was."""
    hasher = GatedHasher()
    passwords = Passwords(threads=1, max_waiting=1, hasher=hasher)
    hasher.gate.clear()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passwords.hash, "correct horse")
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as waiters:
                    waiters.start_soon(passwords.hash, "correct horse")
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            nursery.start_soon(passwords.hash, "correct horse")
            await trio.testing.wait_all_tasks_blocked()
            hasher.gate.set()


@given(st.text(max_size=300))
def test_prepared_is_bounded_or_refused(password: str) -> None:
    """Whatever the text, the input of the hash is small or the text is refused."""
    try:
        size = len(prepared(password))
    except BadPassword:
        return
    assert 8 <= size <= MAX_CHARS * 4 * 3
