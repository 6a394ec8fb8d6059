"""Accounts: signing up and signing in.

Owns no state. Waits for a hashing thread, for the store's reads, and for the writer's commit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from chatd_protocol.codes import ErrorCode
from msgspec import Struct

from chatd.accounts.passwords import BadPassword, Overloaded, Passwords
from chatd.accounts.tokens import Tokens
from chatd.conversations.operations import CreateAccount, Operation, Outcome, Refused
from chatd.store.port import Account, StoreError
from chatd.store.writer import Full

log = structlog.get_logger()

_NAME = re.compile(r"[a-z0-9_.-]{1,32}")

Submit = Callable[[Operation], Awaitable[Outcome]]
"""Hands one operation to the store's writer and waits for its outcome. Raises StoreError, and the writer's Full."""


class AccountReader(Protocol):
    """The one read that this slice needs of the store."""

    async def account(self, name: str) -> Account | None:
        """Raises StoreError."""


class Signed(Struct, frozen=True):
    token: str
    expires_at_ms: int


class AccountRefused(Exception):
    """Not done. ``code`` is one of bad_message, forbidden, name_taken, unauthenticated, overloaded, unavailable, or
    what the store refused it with; ``message`` is fit for the client."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Accounts:
    """Sign-up and sign-in over the store's accounts. ``wall_ms`` tells the time in ms since the Unix epoch."""

    def __init__(
        self, store: AccountReader, submit: Submit, passwords: Passwords, tokens: Tokens, *, open_registration: bool,
        wall_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._submit = submit
        self._passwords = passwords
        self._tokens = tokens
        self._open_registration = open_registration
        self._wall_ms = wall_ms

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
        try:
            password_hash = await self._passwords.hash(password)
            outcome = await self._submit(CreateAccount(user=name, password_hash=password_hash))
        except BadPassword as fault:
            raise AccountRefused(ErrorCode.BAD_MESSAGE, str(fault)) from fault
        except (Overloaded, Full) as fault:
            raise _overloaded() from fault
        except StoreError as fault:
            raise _unavailable() from fault
        if isinstance(outcome, Refused):
            raise AccountRefused(ErrorCode(outcome.code), outcome.message)
        log.info("account.created", user=name)

    async def sign_in(self, name: str, password: str) -> Signed:
        """A token for the user, against the password. Raises AccountRefused. Cancelling is safe.

        An unknown name, a name without a password and a wrong password are refused alike, at the same cost.
        """
        account = await self._account(name) if is_name(name) else None
        try:
            right = await self._passwords.verify(account.password_hash if account else "", password)
        except Overloaded as fault:
            raise _overloaded() from fault
        if not right:
            # Not the name: people type passwords into the wrong field.
            log.info("sign_in.refused")
            raise AccountRefused(ErrorCode.UNAUTHENTICATED, "name or password is wrong")
        token, expires_at_ms = self._tokens.issue(name, self._wall_ms())
        return Signed(token, expires_at_ms)

    async def _account(self, name: str) -> Account | None:
        try:
            return await self._store.account(name)
        except StoreError as fault:
            raise _unavailable() from fault


def is_name(text: str) -> bool:
    """Whether ``text`` may be the name of a user."""
    return _NAME.fullmatch(text) is not None


def _overloaded() -> AccountRefused:
    return AccountRefused(ErrorCode.OVERLOADED, "too many sign-ins at once; try again")


def _unavailable() -> AccountRefused:
    return AccountRefused(ErrorCode.UNAVAILABLE, "the store cannot answer now; try again")
