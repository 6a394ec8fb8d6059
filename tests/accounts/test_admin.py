"""The operator's commands on a real store, also beside a server that has it open."""

from __future__ import annotations

from pathlib import Path
from time import time_ns

import msgspec
import pytest
import trio
from trio import to_thread

from chatd.accounts.admin import AdminError, add_user, make_token, set_password, set_tier
from chatd.accounts.passwords import Passwords, hasher_of
from chatd.accounts.service import Accounts
from chatd.accounts.setup import load_tokens
from chatd.adapters.sqlite.store import open_store
from chatd.config import Auth, Config
from chatd.conversations.operations import Operation, Outcome
from chatd.options import Limits, StoreOptions, Tier


def now_ms() -> int:
    return time_ns() // 1_000_000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    cheap = Auth(argon2_time_cost=1, argon2_memory_kib=1024, open_registration=False)
    return Config(auth=cheap, store=StoreOptions(data=str(tmp_path / "data")))


def test_user_then_token(config: Config, tmp_path: Path) -> None:
    """A user is made in a directory that was not there, and its token is one that the server takes."""
    add_user(config, "ann", "correct horse")
    claims = load_tokens(config, tmp_path / "data").verify(make_token(config, "ann"), now_ms())
    assert (claims.user, claims.outside) == ("ann", False)
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [("Ann", "correct horse", "name: 1-32"), ("ann", "short", "password: 8-256"), ("bob", "correct horse", "taken")],
)
def test_refusals_are_one_line(config: Config, name: str, password: str, said: str) -> None:
    """What cannot be is said in one line that names the field."""
    add_user(config, "bob", "correct horse")
    with pytest.raises(AdminError, match=said) as refused:
        add_user(config, name, password)
    assert "\n" not in str(refused.value)


def test_another_password(config: Config, tmp_path: Path) -> None:
    """Only for whoever has an account; tokens made before are of a generation that is over, those after are not."""
    with pytest.raises(AdminError, match="no chatd data here"):
        set_password(config, "ann", "battery staple")
    add_user(config, "ann", "correct horse")
    tokens = load_tokens(config, tmp_path / "data")
    assert tokens.verify(make_token(config, "ann"), now_ms()).generation == 0
    set_password(config, "ann", "battery staple")
    assert tokens.verify(make_token(config, "ann"), now_ms()).generation == 1
    for name, password, said in [("bob", "battery staple", "no such user"), ("ann", "short", "password: 8-256")]:
        with pytest.raises(AdminError, match=said):
            set_password(config, name, password)


@pytest.mark.parametrize("name", ["ann", "", "\udcff", "x" * 100])
def test_no_token_without_an_account(config: Config, name: str) -> None:
    """A name that has no account, or can have none, gets no token."""
    add_user(config, "bob", "correct horse")
    with pytest.raises(AdminError, match="no such user"):
        make_token(config, name)


def test_a_token_makes_no_directory(config: Config, tmp_path: Path) -> None:
    """A mistyped directory is an error that names it, and is not made: it would be a second truth, with a key of its own."""
    with pytest.raises(AdminError, match="no chatd data here"):
        make_token(config, "bob")
    assert not (tmp_path / "data").exists()


def test_unusable_directory(config: Config, tmp_path: Path) -> None:
    """A data directory that is a file, and a key that others may read, are one line each."""
    (tmp_path / "data").write_text("")
    with pytest.raises(AdminError, match="data"):
        make_token(config, "ann")
    (tmp_path / "data").unlink()
    add_user(config, "ann", "correct horse")
    (tmp_path / "data" / "signing.key").chmod(0o644)
    with pytest.raises(AdminError, match="chmod 600"):
        make_token(config, "ann")


async def test_beside_a_running_server(config: Config, tmp_path: Path) -> None:
    """With the store open in a server, a user that the operator makes can sign in there at once."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    tokens = load_tokens(config, data)
    with trio.fail_after(30):
        async with open_store(data / "chatd.db", max_members=10, max_devices=10, busy_seconds=5) as store:

            async def submit(operation: Operation) -> Outcome:
                return (await store.commit([operation], now_ms()))[0]

            accounts = Accounts(
                store, submit, Passwords(hasher=hasher_of(config.auth)), tokens, open_registration=True, wall_ms=now_ms
            )
            await accounts.register("bob", "correct horse")
            await to_thread.run_sync(add_user, config, "ann", "battery staple")
            for name, password in (("ann", "battery staple"), ("bob", "correct horse")):
                signed = await accounts.sign_in(name, password)
                assert tokens.verify(signed.token, now_ms()).user == name


async def test_a_tier(config: Config, tmp_path: Path) -> None:
    """A tier of the configuration is set and read back; an unknown tier and an unknown user are one line each."""
    config = msgspec.structs.replace(config, limits=Limits(tiers={"premium": Tier(messages_burst=7)}))
    await to_thread.run_sync(add_user, config, "ann", "correct horse")
    for tier in ("premium", "free", "premium"):
        await to_thread.run_sync(set_tier, config, "ann", tier)
    async with open_store(tmp_path / "data" / "chatd.db", max_members=10, max_devices=10, busy_seconds=5) as store:
        account = await store.account("ann")
    assert account is not None
    assert account.tier == "premium"
    for name, tier, said in (("ann", "gold", "there are free, premium"), ("bob", "premium", "no such user")):
        with pytest.raises(AdminError, match=said):
            await to_thread.run_sync(set_tier, config, name, tier)
