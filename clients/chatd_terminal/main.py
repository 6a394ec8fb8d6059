"""From a URL and a name to a running client: the password, the account, the device, and what is printed at the end."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from chatd_client import ClientError, Refused, StateInUse, Unreachable, endpoint, open_client, register, sign_in

from chatd_terminal.account import Account
from chatd_terminal.app import Terminal
from chatd_terminal.commands import check_name
from chatd_terminal.place import MAX_TERMINALS, default_directory, own_devices, read_password_file
from chatd_terminal.settings import read_settings
from chatd_terminal.words import readable

if TYPE_CHECKING:
    from chatd_terminal.settings import Settings

TRIES = 3
"""How often the password of a new account may be mistyped the second time."""


def run(
    url: str,
    user: str,
    *,
    password: str | None = None,
    password_file: str | Path | None = None,
    theme: str | None = None,
    device: str | None = None,
    state_dir: str | Path | None = None,
) -> int:
    """Chat until ``/quit``. Returns the exit status: 0, or 1 after a message on standard error.

    The password comes from the argument, the file, CHATD_PASSWORD, or a prompt. ``device`` and ``state_dir`` default to
    ones kept under XDG_STATE_HOME for this server and user.
    """
    try:
        at = endpoint(url)
        check_name(user)
        settings = read_settings(theme)
        secret = password or _given_password(password_file)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ValueError("this needs a terminal; --plain is for pipes and scripts")
        asked = not secret
        secret = secret or getpass.getpass(f"Password of {user} at {at.host}: ")
        if not trio.run(_admitted, url, user, secret, asked):
            return 1
        directory = Path(state_dir) if state_dir is not None else default_directory(at.websocket_url, user)
        ended = trio.run(_chat, url, user, secret, settings, device, directory)
    except (ClientError, ValueError, OSError) as error:
        print(f"chatd chat: {readable(str(error))}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        return 0
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return 0
    if ended:
        print(f"chatd chat: the server ended the session: {ended}", file=sys.stderr)
    return 1 if ended else 0


def run_plain(
    url: str,
    user: str,
    *,
    password_file: str | Path | None = None,
    to: str | None = None,
    follow: bool = False,
    timeout_s: float | None = None,
    state_dir: str | Path | None = None,
) -> int:
    """Lines in, JSON lines out; returns the exit status (``plain.Exit``). The password comes from the file or from
    CHATD_PASSWORD.
    """
    from chatd_terminal.plain import TIMEOUT_S, Exit, run_plainly  # each mode does without the other's imports

    try:
        if sys.stdin is None or sys.stdout is None:  # closed, and its number would be given to the next file that is opened
            raise ValueError(f"standard {'input' if sys.stdin is None else 'output'} is closed")
        at = endpoint(url)
        check_name(user)
        secret = _given_password(password_file)
        if not secret:
            raise ValueError("--plain needs CHATD_PASSWORD or --password-file")
        directory = Path(state_dir) if state_dir is not None else default_directory(at.websocket_url, user)
        limit = TIMEOUT_S if timeout_s is None else timeout_s
        return run_plainly(url, user, secret, directory, to=to, follow=follow, timeout_s=limit)
    except (ValueError, OSError) as error:
        print(f"chatd chat: {error}", file=sys.stderr)
        return Exit.WRONG_USE


def _given_password(file: str | Path | None) -> str:
    """From the file, else from the environment; empty where there is none. Raises ValueError, OSError."""
    return read_password_file(file) if file is not None else os.environ.get("CHATD_PASSWORD") or ""


async def _admitted(url: str, user: str, password: str, asked: bool) -> bool:
    """Whether the password is right, after an account was made where the user wanted one."""
    try:
        await sign_in(url, user, password)
    except Unreachable as error:
        # One may read and write before the server is back; a wrong password shows itself then.
        print(f"chatd chat: {error}; starting offline", file=sys.stderr)
    except Refused as refused:
        if refused.code != "unauthenticated":
            raise
        return await _offer_account(url, user, password, asked)
    return True


async def _offer_account(url: str, user: str, password: str, asked: bool) -> bool:
    """``asked``: the password was typed, and must be typed once more, for a slip would lock the account's owner out."""
    question = f"No such user, or a wrong password. Create a new account {user}? [y/N] "
    answer = await trio.to_thread.run_sync(input, question, abandon_on_cancel=True)
    if answer.strip().lower() not in {"y", "yes"}:
        return False
    if asked and not await trio.to_thread.run_sync(_typed_again, password, abandon_on_cancel=True):
        return False
    try:
        await register(url, user, password)
    except Refused as refused:
        if refused.code != "name_taken":
            raise
        print(f"chatd chat: {user} exists: the password was wrong", file=sys.stderr)
        return False
    return True


def _typed_again(password: str) -> bool:
    for _ in range(TRIES):
        if getpass.getpass("The same password once more: ") == password:
            return True
        print("chatd chat: the two are not the same", file=sys.stderr)
    return False


async def _chat(
    url: str, user: str, password: str, settings: Settings, device: str | None, directory: Path
) -> str:
    account = Account(url, user, password)
    for name in [device] if device is not None else own_devices(directory):
        try:
            async with open_client(
                url,
                token_source=account.token,
                device=name,
                state_dir=directory,
                agent="chatd-terminal",
            ) as client:
                return await Terminal(client, user, settings, account, directory).run()
        except StateInUse:
            if device is not None:
                raise
    raise StateInUse(f"{MAX_TERMINALS} terminals of {user} are open already")
