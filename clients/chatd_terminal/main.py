"""From a URL and a name to a running screen: the password, the account, the device, and what is printed at the end."""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import sys
from pathlib import Path

import trio
from chatd_client import (
    ClientError,
    Refused,
    StateInUse,
    Unreachable,
    endpoint,
    open_client,
    register,
    sign_in,
)

from chatd_terminal.app import Terminal

MAX_TERMINALS = 16
"""Terminals of one user on one machine at the same time, each a device of its own."""


def run(
    url: str,
    user: str,
    *,
    password: str | None = None,
    device: str | None = None,
    state_dir: str | Path | None = None,
) -> int:
    """Chat until ``/quit``. Returns the exit status: 0, or 1 after a message on standard error.

    The password comes from the argument, CHATD_PASSWORD, or a prompt. ``device`` and ``state_dir`` default to ones
    kept under XDG_STATE_HOME for this server and user.
    """
    secret = password or os.environ.get("CHATD_PASSWORD") or ""
    try:
        at = endpoint(url)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ValueError("the terminal client needs a terminal")
        secret = secret or getpass.getpass(f"Password of {user} at {at.host}: ")
        if not trio.run(_admitted, url, user, secret):
            return 1
        directory = Path(state_dir) if state_dir is not None else _default_directory(at.websocket_url, user)
        ended = trio.run(_chat, url, user, secret, device, directory)
    except (ClientError, ValueError, OSError) as error:
        print(f"chatd chat: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        return 0
    if ended:
        print(f"chatd chat: the server ended the session: {ended}", file=sys.stderr)
    return 1 if ended else 0


async def _admitted(url: str, user: str, password: str) -> bool:
    """Whether the password is right, after an account was made where the user wanted one."""
    try:
        await sign_in(url, user, password)
    except Unreachable as error:
        # One may read and write before the server is back; a wrong password shows itself then.
        print(f"chatd chat: {error}; starting offline", file=sys.stderr)
    except Refused as refused:
        if refused.code != "unauthenticated":
            raise
        return await _offer_account(url, user, password)
    return True


async def _offer_account(url: str, user: str, password: str) -> bool:
    question = f"No such user or wrong password; create the account {user}? [y/N] "
    answer = await trio.to_thread.run_sync(input, question, abandon_on_cancel=True)
    if answer.strip().lower() not in {"y", "yes"}:
        return False
    try:
        await register(url, user, password)
    except Refused as refused:
        if refused.code != "name_taken":
            raise
        print(f"chatd chat: the account {user} exists, so the password is wrong", file=sys.stderr)
        return False
    return True


async def _chat(url: str, user: str, password: str, device: str | None, directory: Path) -> str:
    async def token() -> str:
        return (await sign_in(url, user, password)).token

    for name in [device] if device is not None else _own_devices(directory):
        try:
            async with open_client(
                url,
                token_source=token,
                device=name,
                state_dir=directory,
                agent="chatd-terminal",
            ) as client:
                return await Terminal(client, user).run()
        except StateInUse:
            if device is not None:
                raise
    raise StateInUse(f"{MAX_TERMINALS} terminals of {user} are open already")


def _default_directory(websocket_url: str, user: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "chatd" / hashlib.sha256(f"{websocket_url} {user}".encode()).hexdigest()[:16]


def _own_devices(directory: Path) -> list[str]:
    """This machine's device names for this user: a random one, made once, and numbers for further terminals."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = directory / "device"
    if not kept.exists():
        kept.write_text(f"terminal-{secrets.token_hex(6)}", encoding="utf-8")
    base = kept.read_text(encoding="utf-8").strip()[:50] or "terminal"
    return [base, *(f"{base}-{number}" for number in range(2, MAX_TERMINALS + 1))]
