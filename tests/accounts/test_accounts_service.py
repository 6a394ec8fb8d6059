"""Signing up and signing in: who gets an account, who gets a token, and what a stranger learns."""

from __future__ import annotations

from typing import Protocol

import pytest
from chatd_protocol.codes import ErrorCode

from chatd.accounts.passwords import Passwords, hasher_of
from chatd.accounts.service import AccountRefused, Accounts
from chatd.accounts.tokens import Tokens
from chatd.config import Auth
from chatd.conversations.operations import Operation, Outcome
from chatd.store.port import Account

NOW = 1_800_000_000_000
TOKENS = Tokens("chatd", "chatd", bytes(32), 3600)


class LedgerLike(Protocol):
    """The conftest's Ledger: importlib mode gives a test no way to import that class."""

    accounts: dict[str, Account]
    broken: bool

    async def account(self, name: str) -> Account | None: ...
    async def submit(self, operation: Operation) -> Outcome: ...


def make_accounts(ledger: LedgerLike, passwords: Passwords, *, open_registration: bool = True) -> Accounts:
    return Accounts(
        ledger, ledger.submit, passwords, TOKENS, open_registration=open_registration, wall_ms=lambda: NOW
    )


async def test_register_then_sign_in(ledger: LedgerLike, passwords: Passwords) -> None:
    """A registered user gets a token that verifies as that user; the store never sees the password."""
    accounts = make_accounts(ledger, passwords)
    await accounts.register("ann", "correct horse")
    signed = await accounts.sign_in("ann", "correct horse")
    assert TOKENS.verify(signed.token, NOW).user == "ann"
    assert signed.expires_at_ms == NOW + 3600_000
    assert "correct horse" not in ledger.accounts["ann"].password_hash


async def test_strangers_learn_nothing(ledger: LedgerLike, passwords: Passwords) -> None:
    """Unknown name, impossible name, no password, wrong password and impossible password are refused alike."""
    accounts = make_accounts(ledger, passwords)
    await accounts.register("ann", "correct horse")
    ledger.accounts["out"] = Account(9, "")
    answers = set()
    for name, password in [
        ("ann", "wrong horse"), ("bob", "correct horse"), ("Ann\n", "correct horse"), ("out", "correct horse"),
        ("ann", ""), ("ann", "x" * 5000), ("", ""), ("\ud800", "\ud800" * 8),
    ]:
        with pytest.raises(AccountRefused) as refused:
            await accounts.sign_in(name, password)
        answers.add((refused.value.code, refused.value.message))
    assert answers == {(ErrorCode.UNAUTHENTICATED, "name or password is wrong")}


async def test_names_are_taken_once(ledger: LedgerLike, passwords: Passwords) -> None:
    """A taken name is refused and its password stays; also when the store is the first to know."""
    accounts = make_accounts(ledger, passwords)
    await accounts.register("ann", "correct horse")
    before = ledger.accounts["ann"]
    with pytest.raises(AccountRefused) as refused:
        await accounts.register("ann", "another horse")
    assert refused.value.code == ErrorCode.NAME_TAKEN
    assert ledger.accounts["ann"] == before


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "x" * 33, "ann\n", "\u00e9", "@ann"])
async def test_bad_names(ledger: LedgerLike, passwords: Passwords, name: str) -> None:
    """A name outside the rule is refused with the field and the limit."""
    with pytest.raises(AccountRefused, match="name: 1-32") as refused:
        await make_accounts(ledger, passwords).register(name, "correct horse")
    assert refused.value.code == ErrorCode.BAD_MESSAGE


async def test_bad_password(ledger: LedgerLike, passwords: Passwords) -> None:
    """A short password is refused with the field and the limit, and no account is made."""
    with pytest.raises(AccountRefused, match="password: 8-256") as refused:
        await make_accounts(ledger, passwords).register("ann", "short")
    assert refused.value.code == ErrorCode.BAD_MESSAGE
    assert not ledger.accounts


async def test_closed_registration(ledger: LedgerLike, passwords: Passwords) -> None:
    """Closed to clients, open to the operator."""
    accounts = make_accounts(ledger, passwords, open_registration=False)
    with pytest.raises(AccountRefused) as refused:
        await accounts.register("ann", "correct horse")
    assert refused.value.code == ErrorCode.FORBIDDEN
    await accounts.add("ann", "correct horse")
    assert "ann" in ledger.accounts


async def test_store_down(ledger: LedgerLike, passwords: Passwords) -> None:
    """A store that cannot answer is ``unavailable``, for sign-up and sign-in."""
    accounts = make_accounts(ledger, passwords)
    ledger.broken = True
    for call in (accounts.register, accounts.sign_in):
        with pytest.raises(AccountRefused) as refused:
            await call("ann", "correct horse")
        assert refused.value.code == ErrorCode.UNAVAILABLE


async def test_overloaded(ledger: LedgerLike) -> None:
    """With every place taken the answer is ``overloaded`` at once."""
    full = Passwords(hasher=hasher_of(Auth()), max_waiting=-1)
    for call in (make_accounts(ledger, full).register, make_accounts(ledger, full).sign_in):
        with pytest.raises(AccountRefused) as refused:
            await call("ann", "correct horse")
        assert refused.value.code == ErrorCode.OVERLOADED
