"""What the operator does to accounts from the command line; a composition root of its own, beside ``app``.

Opens the store of the data directory for one operation and closes it again. It may run beside a running server: the
store is shared between processes. Synchronous: each call is a whole ``trio.run``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import time_ns

import trio

from chatd.accounts.passwords import Passwords, hasher_of
from chatd.accounts.service import AccountRefused, Accounts, is_name
from chatd.accounts.setup import load_tokens
from chatd.accounts.signing_key import BadKeyFile
from chatd.accounts.tokens import BadIssuer, Tokens
from chatd.adapters.sqlite.database import FILE_NAME as STORE
from chatd.adapters.sqlite.store import open_store
from chatd.config import Config, ConfigError, data_dir_of
from chatd.conversations.operations import Operation, Outcome, Refused, SetTier
from chatd.limits.rules import Tiers
from chatd.store.port import Store, StoreError

Act = Callable[[Store, Tokens], Awaitable[str]]


class AdminError(Exception):
    """Not done; the text is one line for the operator."""


def add_user(config: Config, name: str, password: str) -> None:
    """Make an account, also where registration is closed. Raises AdminError."""

    async def add(store: Store, tokens: Tokens) -> str:
        await _accounts(config, store, tokens).add(name, password)
        return name

    _run(config, add, create=True)


def set_password(config: Config, name: str, password: str) -> None:
    """Give a user another password; ends all of the user's sessions, on running servers within seconds. Raises AdminError."""

    async def change(store: Store, tokens: Tokens) -> str:
        await _accounts(config, store, tokens).reset_password(name, password)
        return name

    _run(config, change, create=False)


def set_tier(config: Config, name: str, tier: str) -> None:
    """Measure a user by a tier of the configuration, from the next connection on. Raises AdminError."""

    async def change(store: Store, _tokens: Tokens) -> str:
        tiers = Tiers(config.limits)
        if not tiers.knows(tier):
            raise AdminError(f"{tier!r}: no such tier; there are {', '.join(tiers.names)} ([limits.tiers.NAME] in the file)")
        outcome = (await store.commit([SetTier(user=name, tier=tier)], _wall_ms()))[0]
        if isinstance(outcome, Refused):
            raise AdminError(f"{name!r}: no such user")
        return name

    _run(config, change, create=False)


def make_token(config: Config, name: str) -> str:
    """A token for a user who has an account, as a sign-in would give. Raises AdminError."""

    async def make(store: Store, tokens: Tokens) -> str:
        account = await store.account(name) if is_name(name) else None
        if account is None:
            raise AdminError(f"{name!r}: no such user; make one with: chatd user add NAME")
        return tokens.issue(name, _wall_ms(), account.generation)[0]

    return _run(config, make, create=False)


def _accounts(config: Config, store: Store, tokens: Tokens) -> Accounts:
    async def submit(operation: Operation) -> Outcome:
        return (await store.commit([operation], _wall_ms()))[0]

    return Accounts(
        store, submit, Passwords(hasher=hasher_of(config.auth)), tokens, open_registration=False, wall_ms=_wall_ms
    )


def _run(config: Config, act: Act, *, create: bool) -> str:
    try:
        data = data_dir_of(config)
        if create:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not (data / STORE).exists():  # not made for the asking: a mistyped name would leave a second truth behind
            raise AdminError(f"{data}: no chatd data here; --data or store.data names the directory of the server")
        tokens = load_tokens(config, data)
        result = trio.run(partial(_with_store, config, data, tokens, act))
    except (ConfigError, BadKeyFile, BadIssuer, StoreError) as fault:
        raise AdminError(str(fault)) from fault
    except OSError as fault:
        raise AdminError(f"{fault.filename}: {fault.strerror}") from fault
    if isinstance(result, Exception):
        raise result
    return result


async def _with_store(config: Config, data: Path, tokens: Tokens, act: Act) -> str | AdminError:
    """The result, or what was wrong as a value: raised in the store's block, it could come out inside a group."""
    limits = config.limits
    async with open_store(
        data / STORE, max_members=limits.group_members, max_devices=limits.devices_per_user,
        busy_seconds=config.store.busy_seconds,
    ) as store:  # fmt: skip
        try:
            return await act(store, tokens)
        except AdminError as fault:
            return fault
        except AccountRefused as fault:
            return AdminError(fault.message)
        except StoreError as fault:
            return AdminError(f"the store: {fault}")


def _wall_ms() -> int:
    return time_ns() // 1_000_000
