"""What the tests of accounts share: cheap hashing, and accounts kept in a dict behind the store's port."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher
from chatd_protocol.codes import ErrorCode

from chatd.accounts.passwords import Passwords
from chatd.conversations.operations import (
    CreateAccount,
    Done,
    Operation,
    Outcome,
    Refused,
    Rehash,
    SessionsEnded,
    SetPassword,
)
from chatd.store.port import Account, Unavailable


class Ledger:
    """Accounts in memory: the read, and the writes of this slice. ``broken`` makes it answer nothing, ``read_only``
    nothing that writes."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.taken_back: set[bytes] = set()
        self.broken = self.read_only = False

    async def account(self, name: str) -> Account | None:
        self._check()
        return self.accounts.get(name)

    async def revoked(self, token: bytes) -> bool:
        self._check()
        return token in self.taken_back

    async def submit(self, operation: Operation) -> Outcome:
        self._check()
        if self.read_only:
            raise Unavailable("disk full")
        if isinstance(operation, SetPassword | Rehash):
            return self._change(operation)
        assert isinstance(operation, CreateAccount)
        if operation.user in self.accounts:
            return Refused(ErrorCode.NAME_TAKEN, "name: taken")
        self.accounts[operation.user] = Account(len(self.accounts) + 1, operation.password_hash)
        return Done()

    def _change(self, change: SetPassword | Rehash) -> Outcome:
        before = self.accounts[change.user]
        if change.old_hash not in (None, before.password_hash):
            return Done() if isinstance(change, Rehash) else Refused(ErrorCode.UNAUTHENTICATED, "name or password is wrong")
        generation = before.generation + isinstance(change, SetPassword)
        self.accounts[change.user] = Account(before.user_no, change.new_hash, generation)
        if isinstance(change, Rehash):
            return Done()
        return SessionsEnded(change.user, ((1, 2),) if change.keep else ((1, 2), (3, 4)), generation)

    def _check(self) -> None:
        if self.broken:
            raise Unavailable("disk full")


def cheap_hasher() -> PasswordHasher:
    """argon2id with the least work it allows: these tests are about who gets in, not about what it costs."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(hasher=cheap_hasher())
