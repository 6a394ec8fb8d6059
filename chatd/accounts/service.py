"""Accounts: signing up, signing in, and another password.

Owns no state. Waits for a hashing thread, for the store's reads, and for the writer's commit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from chatd_protocol.codes import ErrorCode
from chatd_protocol.messages import NAME_PATTERN
from msgspec import Struct

from chatd.accounts.passwords import BadPassword, Overloaded, Passwords, prepared
from chatd.accounts.tokens import BadToken, Claims, Tokens
from chatd.conversations.operations import (
    CreateAccount,
    Operation,
    Outcome,
    Refused,
    Rehash,
    SessionsEnded,
    SetPassword,
)
from chatd.store.port import Account, StoreError
from chatd.store.writer import Full

log = structlog.get_logger()


Submit = Callable[[Operation], Awaitable[Outcome]]
"""Hands one operation to the store's writer and waits for its outcome. Raises StoreError, and the writer's Full."""

OnEnded = Callable[[SessionsEnded], None]
"""Told at once which sessions a commit has ended. Synchronous; other nodes find it in the store if nobody tells them."""


class AccountReader(Protocol):
    """What this slice reads of the store. Both raise StoreError."""

    async def account(self, name: str) -> Account | None: ...

    async def revoked(self, token: bytes) -> bool: ...


class Signed(Struct, frozen=True):
    token: str
    expires_at_ms: int


class AccountRefused(Exception):
    """Not done. ``code`` is one of bad_message, forbidden, name_taken, not_found, unauthenticated, overloaded, unavailable, or
    what the store refused it with; ``message`` is fit for the client."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Accounts:
    """Sign-up, sign-in and passwords over the store's accounts. ``wall_ms`` tells the time in ms since the Unix epoch."""

    def __init__(
        self, store: AccountReader, submit: Submit, passwords: Passwords, tokens: Tokens, *, open_registration: bool,
        wall_ms: Callable[[], int], on_ended: OnEnded | None = None,
    ) -> None:
        self._store = store
        self._submit = submit
        self._passwords = passwords
        self._tokens = tokens
        self._open_registration = open_registration
        self._wall_ms = wall_ms
        self._on_ended = on_ended

    async def register(self, name: str, password: str) -> None:
        """Make an account, if registration is open. Raises AccountRefused. Cancelling leaves its effect unknown."""
        if not self._open_registration:
            raise AccountRefused(ErrorCode.FORBIDDEN, "registration is closed; ask the operator for an account")
        await self.add(name, password)

    async def add(self, name: str, password: str) -> None:
        """Make an account, as the operator: registration may be closed. Raises AccountRefused."""
        if not is_name(name):
            raise AccountRefused(ErrorCode.BAD_MESSAGE, "name: 1-32 characters of a-z 0-9 _ . -")
        # Asked before the hash is paid for; the writer decides again, inside its transaction.
        if await self._account(name) is not None:
            raise AccountRefused(ErrorCode.NAME_TAKEN, "name: taken")
        await self._commit(CreateAccount(user=name, password_hash=await self._hash(password)))
        log.info("account.created", user=name)

    async def sign_in(self, name: str, password: str) -> Signed:
        """A token for the user, against the password. Raises AccountRefused. Cancelling is safe.

        An unknown name, a name without a password and a wrong password are refused alike, at the same cost.
        """
        account = await self._verified(name, password)
        if self._passwords.outdated(account.password_hash):
            await self._rehash(name, account.password_hash, password)
        # Of the generation that was read with the hash: a change of the password meanwhile takes this token back, too.
        return Signed(*self._tokens.issue(name, self._wall_ms(), account.generation))

    async def change_password(self, name: str, password: str, new_password: str, keep: str = "") -> Signed:
        """Another password, and a token for it. Raises AccountRefused. Cancelling leaves its effect unknown.

        Ends every session of the user but those of the device ``keep``, and takes back all tokens before. Who is refused
        learns what ``sign_in`` tells.
        """
        try:
            prepared(new_password)
        except BadPassword as fault:
            raise AccountRefused(ErrorCode.BAD_MESSAGE, f"new_{fault}") from fault
        account = await self._verified(name, password)
        return await self._set_password(name, account.password_hash, new_password, keep)

    async def reset_password(self, name: str, new_password: str) -> None:
        """Another password, as the operator: ends every session of the user. Raises AccountRefused."""
        if not is_name(name) or await self._account(name) is None:
            raise AccountRefused(ErrorCode.NOT_FOUND, f"{name!r}: no such user")
        await self._set_password(name, None, new_password, "")

    async def identify(self, token: str) -> tuple[str, str]:
        """Whom a token stands for, and the tier: of the token if it names one, else the user's own, "" without any.

        Raises AccountRefused, by the same rules as a hello. Cancelling is safe.
        """
        try:
            claims = self._tokens.verify(token, self._wall_ms())
        except BadToken as fault:
            raise AccountRefused(ErrorCode.UNAUTHENTICATED, "the token is not valid here") from fault
        account = await self._account(claims.user)
        if await self._is_taken_back(claims, account):
            raise AccountRefused(ErrorCode.UNAUTHENTICATED, "the token is not valid here")
        return claims.user, claims.tier or (account.tier if account is not None else "")

    async def _is_taken_back(self, claims: Claims, account: Account | None) -> bool:
        """As the transaction that opens a device judges it."""
        if account is None:
            return not claims.outside  # a user of an outside issuer is made on first use
        issued_before = claims.issued_at_ms < account.tokens_after
        older = issued_before if claims.outside else claims.generation != account.generation
        try:
            return older or await self._store.revoked(claims.token_id)
        except StoreError as fault:
            raise _unavailable() from fault

    async def _set_password(self, name: str, old_hash: str | None, password: str, keep: str) -> Signed:
        new_hash = await self._hash(password)
        ended = await self._commit(SetPassword(user=name, old_hash=old_hash, new_hash=new_hash, keep=keep))
        assert isinstance(ended, SessionsEnded)
        if self._on_ended is not None:
            self._on_ended(ended)
        log.info("password.changed", user=name, by_operator=old_hash is None)
        return Signed(*self._tokens.issue(name, self._wall_ms(), ended.generation))

    async def _verified(self, name: str, password: str) -> Account:
        account = await self._account(name) if is_name(name) else None
        try:
            right = await self._passwords.verify(account.password_hash if account else "", password)
        except Overloaded as fault:
            raise _overloaded() from fault
        if account is None or not right:
            # Not the name: people type passwords into the wrong field.
            log.info("sign_in.refused")
            raise AccountRefused(ErrorCode.UNAUTHENTICATED, "name or password is wrong")
        return account

    async def _rehash(self, name: str, old_hash: str, password: str) -> None:
        """Store what was verified under today's parameters. A sign-in does not fail for it: the next one tries again."""
        try:
            await self._commit(Rehash(user=name, old_hash=old_hash, new_hash=await self._hash(password)))
        except AccountRefused as fault:
            log.info("password.not_rehashed", user=name, reason=str(fault.code))
        else:
            log.info("password.rehashed", user=name)

    async def _hash(self, password: str) -> str:
        try:
            return await self._passwords.hash(password)
        except BadPassword as fault:
            raise AccountRefused(ErrorCode.BAD_MESSAGE, str(fault)) from fault
        except Overloaded as fault:
            raise _overloaded() from fault

    async def _commit(self, operation: Operation) -> Outcome:
        try:
            outcome = await self._submit(operation)
        except Full as fault:
            raise _overloaded() from fault
        except StoreError as fault:
            raise _unavailable() from fault
        if isinstance(outcome, Refused):
            raise AccountRefused(ErrorCode(outcome.code), outcome.message)
        return outcome

    async def _account(self, name: str) -> Account | None:
        try:
            return await self._store.account(name)
        except StoreError as fault:
            raise _unavailable() from fault


def is_name(text: str) -> bool:
    """Whether ``text`` may be the name of a user."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def _overloaded() -> AccountRefused:
    return AccountRefused(ErrorCode.OVERLOADED, "too many sign-ins at once; try again")


def _unavailable() -> AccountRefused:
    return AccountRefused(ErrorCode.UNAVAILABLE, "the store cannot answer now; try again")
