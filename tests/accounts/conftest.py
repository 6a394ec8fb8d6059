"""What the tests of accounts share: cheap hashing, and accounts kept in a dict behind the store's port."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher
from chatd_protocol.codes import ErrorCode

from chatd.accounts.passwords import Passwords
from chatd.conversations.operations import CreateAccount, Done, Operation, Outcome, Refused
from chatd.store.port import Account, Unavailable


class Ledger:
    """Accounts in memory: the read and the one write that sign-up needs. ``broken`` makes it answer nothing."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.broken = False

    async def account(self, name: str) -> Account | None:
        self._check()
        return self.accounts.get(name)

    async def submit(self, operation: Operation) -> Outcome:
        self._check()
        assert isinstance(operation, CreateAccount)
        if operation.user in self.accounts:
            return Refused(ErrorCode.NAME_TAKEN, "name: taken")
        self.accounts[operation.user] = Account(len(self.accounts) + 1, operation.password_hash)
        return Done()

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
