"""Signing up and signing in: who gets an account, who gets a token, and what a stranger learns."""

from __future__ import annotations

from typing import Protocol

import pytest
from argon2 import PasswordHasher
from chatd_protocol.codes import ErrorCode

from chatd.accounts.passwords import Passwords, hasher_of
from chatd.accounts.service import AccountRefused, Accounts
from chatd.accounts.tokens import Tokens
from chatd.config import Auth
from chatd.conversations.operations import Operation, Outcome, SessionsEnded, SetPassword
from chatd.store.port import Account

NOW = 1_800_000_000_000
TOKENS = Tokens("chatd", "chatd", bytes(32), 3600)


class LedgerLike(Protocol):
    """The conftest's Ledger: importlib mode gives a test no way to import that class."""

    accounts: dict[str, Account]
    taken_back: set[bytes]
    broken: bool
    read_only: bool

    async def account(self, name: str) -> Account | None: ...
    async def revoked(self, token: bytes) -> bool: ...
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


async def test_another_password(ledger: LedgerLike, passwords: Passwords) -> None:
    """The old one is wrong from then on, the new one right; the token is of the new generation; who is to be told is."""
    told: list[SessionsEnded] = []
    accounts = Accounts(
        ledger, ledger.submit, passwords, TOKENS, open_registration=True, wall_ms=lambda: NOW, on_ended=told.append
    )
    await accounts.register("ann", "correct horse")
    assert TOKENS.verify((await accounts.sign_in("ann", "correct horse")).token, NOW).generation == 0
    changed = await accounts.change_password("ann", "correct horse", "battery staple", "phone")
    assert told == [SessionsEnded("ann", ((1, 2),), 1)]
    claims = TOKENS.verify(changed.token, NOW)
    assert (claims.user, claims.generation) == ("ann", 1)
    with pytest.raises(AccountRefused):
        await accounts.sign_in("ann", "correct horse")
    assert TOKENS.verify((await accounts.sign_in("ann", "battery staple")).token, NOW).generation == 1


@pytest.mark.parametrize(
    ("name", "password", "new", "code", "said"),
    [
        ("ann", "wrong horse", "battery staple", ErrorCode.UNAUTHENTICATED, "name or password is wrong"),
        ("bob", "correct horse", "battery staple", ErrorCode.UNAUTHENTICATED, "name or password is wrong"),
        ("out", "", "battery staple", ErrorCode.UNAUTHENTICATED, "name or password is wrong"),
        ("ann", "correct horse", "short", ErrorCode.BAD_MESSAGE, "new_password: 8-256 characters"),
        ("bob", "correct horse", "short", ErrorCode.BAD_MESSAGE, "new_password: 8-256 characters"),
    ],
)
async def test_another_password_refused(
    ledger: LedgerLike, passwords: Passwords, name: str, password: str, new: str, code: ErrorCode, said: str
) -> None:
    """Who does not know the old one changes nothing, and does not learn which names there are."""
    accounts = make_accounts(ledger, passwords)
    await accounts.register("ann", "correct horse")
    ledger.accounts["out"] = Account(9, "")
    before = dict(ledger.accounts)
    with pytest.raises(AccountRefused) as refused:
        await accounts.change_password(name, password, new)
    assert (refused.value.code, refused.value.message) == (code, said)
    assert ledger.accounts == before


async def test_a_sign_in_under_way_gets_a_token_of_the_past(ledger: LedgerLike, passwords: Passwords) -> None:
    """The password changes between the check of the old one and its token: that token is of the generation before."""
    accounts = make_accounts(ledger, passwords)
    await accounts.register("ann", "correct horse")
    verify = passwords.verify

    async def slow_verify(password_hash: str, password: str) -> bool:
        right = await verify(password_hash, password)
        await ledger.submit(SetPassword(user="ann", old_hash=None, new_hash="another"))
        return right

    passwords.verify = slow_verify  # type: ignore[method-assign]
    signed = await accounts.sign_in("ann", "correct horse")
    assert ledger.accounts["ann"].generation == 1
    assert TOKENS.verify(signed.token, NOW).generation == 0


async def test_an_outdated_hash_is_replaced(ledger: LedgerLike, passwords: Passwords) -> None:
    """At the next sign-in, once, and only by whoever knew the password; a store that cannot write lets sign in all the same."""
    await make_accounts(ledger, passwords).register("ann", "correct horse")
    accounts = make_accounts(ledger, Passwords(hasher=PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)))
    old = ledger.accounts["ann"]
    with pytest.raises(AccountRefused):
        await accounts.sign_in("ann", "wrong horse")
    ledger.read_only = True
    await accounts.sign_in("ann", "correct horse")
    assert ledger.accounts["ann"] == old
    ledger.read_only = False
    await accounts.sign_in("ann", "correct horse")
    new = ledger.accounts["ann"]
    assert "t=2" in new.password_hash
    assert new.generation == old.generation
    await accounts.sign_in("ann", "correct horse")
    assert ledger.accounts["ann"] == new


async def test_a_rehash_does_not_bring_an_old_password_back(ledger: LedgerLike, passwords: Passwords) -> None:
    """The password changes while the old one is hashed anew: the new one stays."""
    await make_accounts(ledger, passwords).register("ann", "correct horse")
    newer = Passwords(hasher=PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))
    accounts = make_accounts(ledger, newer)
    hash_it = newer.hash

    async def slow_hash(password: str) -> str:
        await ledger.submit(SetPassword(user="ann", old_hash=None, new_hash="another"))
        return await hash_it(password)

    newer.hash = slow_hash  # type: ignore[method-assign]
    await accounts.sign_in("ann", "correct horse")
    assert ledger.accounts["ann"].password_hash == "another"


async def test_the_operator_needs_no_old_password(ledger: LedgerLike, passwords: Passwords) -> None:
    """A password for whoever has an account, an outside one too; none for nobody."""
    accounts = make_accounts(ledger, passwords)
    ledger.accounts["out"] = Account(9, "")
    await accounts.reset_password("out", "battery staple")
    await accounts.sign_in("out", "battery staple")
    for name in ("bob", "Not A Name"):
        with pytest.raises(AccountRefused, match="no such user") as refused:
            await accounts.reset_password(name, "battery staple")
        assert refused.value.code == ErrorCode.NOT_FOUND


async def test_whom_a_token_stands_for(ledger: LedgerLike, passwords: Passwords) -> None:
    """The user and the tier that the store has; a token that is none, or of an older password, stands for nobody."""
    accounts = make_accounts(ledger, passwords)
    await accounts.register("ann", "correct horse")
    signed = await accounts.sign_in("ann", "correct horse")
    assert await accounts.identify(signed.token) == ("ann", "")
    account = ledger.accounts["ann"]
    ledger.accounts["ann"] = Account(account.user_no, account.password_hash, account.generation, "premium")
    assert await accounts.identify(signed.token) == ("ann", "premium")
    older = TOKENS.issue("ann", NOW, account.generation + 1)[0]
    ledger.taken_back.add(TOKENS.verify(signed.token, NOW).token_id)
    for token in (signed.token, older, TOKENS.issue("bob", NOW)[0], "", "a.b.c", "\udcff"):
        with pytest.raises(AccountRefused) as refused:
            await accounts.identify(token)
        assert refused.value.code == ErrorCode.UNAUTHENTICATED
