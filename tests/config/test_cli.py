"""The command line: what it prints, and how it fails. Each command is a real process."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatd import __version__
from chatd.config import Config, load, render

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def chatd(tmp_path: Path) -> Run:
    """Runs ``chatd`` with a data directory of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHATD_")}

    def run(*arguments: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "chatd", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=environ | {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)} | extra,
        )

    return run


COMMANDS = [(), ("serve",), ("user",), ("user", "add"), ("user", "passwd"), ("token",), ("check-config",), ("chat",)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_stands_everywhere(chatd: Run, command: tuple[str, ...]) -> None:
    """Every command explains itself, and all of its options."""
    shown = chatd(*command, "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"Usage: chatd {' '.join(command)}".rstrip())
    assert shown.stdout == chatd(*command, "-h").stdout


def test_help_loads_nothing_slow(chatd: Run) -> None:
    """Asking for help does not import the server, nor anything that takes long."""
    slow = ["trio", "apsw", "redis", "cryptography", "argon2", "urwid", "chatd.app"]
    code = f"import sys, chatd.cli; print([name for name in {slow} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_version(chatd: Run) -> None:
    """``--version`` is one line with the version."""
    assert chatd("--version").stdout == f"chatd {__version__}\n"


def test_check_config_prints_what_is_in_force(chatd: Run, tmp_path: Path) -> None:
    """All options with all layers laid over each other, and beside them what looks like a mistake."""
    file = tmp_path / "some.toml"
    file.write_text("[limits]\nconnections = 77\n")
    shown = chatd(
        "check-config", "--config", str(file), "--data", "here", CHATD_LOG_LEVEL="debug", CHATD_LOG_FORMATT="json"
    )
    expected = load(file, {"CHATD_LOG_LEVEL": "debug"}, {"store.data": "here"})
    assert shown.stdout.strip() == render(expected).strip()
    assert f"data directory: {Path('here').absolute()}\n" in shown.stderr
    assert "CHATD_LOG_FORMATT is no option and has no effect; did you mean CHATD_LOG_FORMAT?" in shown.stderr
    assert shown.returncode == 0


@pytest.mark.parametrize(
    "command", [("check-config",), ("serve",), ("user", "add", "ann"), ("user", "passwd", "ann"), ("token", "ann")],
    ids=" ".join
)
def test_a_bad_configuration_is_one_line_and_status_2(chatd: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    """The same line from every command that has a configuration, and nothing is begun."""
    file = tmp_path / "bad.toml"
    file.write_text("[limits]\nconnections = -1\n")
    failed = chatd(*command, "--config", str(file))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == (f"Error: {file}: limits.connections = -1: must be a whole number from 1 to 1000000\n")
    assert not (tmp_path / "chatd").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("serve", "--listen", "8080"), "server.listen"),
        (("serve", "--ops", "x:99999"), "server.ops"),
        (("serve", "--port", "1"), "--port"),
        (("user", "add"), "NAME"),
        (("chat", "http://127.0.0.1:1"), "--user"),
        (("nonsense",), "nonsense"),
    ],
    ids=str,
)
def test_a_bad_command_line_is_status_2(chatd: Run, words: tuple[str, ...], says: str) -> None:
    """What cannot be meant is refused, and named."""
    failed = chatd(*words)
    assert failed.returncode == 2
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_user_is_added_from_standard_input_and_gets_a_token(chatd: Run, tmp_path: Path) -> None:
    """The password is one line; a second account of that name is refused; a token is a JWT on a line of its own."""
    added = chatd("user", "add", "ann", stdin="correct horse battery\n")
    assert (added.returncode, added.stdout, added.stderr) == (0, "added ann\n", "")
    again = chatd("user", "add", "ann", stdin="correct horse battery\n")
    assert again.returncode == 1
    assert again.stderr.startswith("Error: ")
    assert again.stderr.count("\n") == 1
    token = chatd("token", "ann")
    assert token.returncode == 0
    assert token.stdout.count(".") == 2
    assert token.stdout.count("\n") == 1
    assert "battery" not in added.stdout + again.stderr


@pytest.mark.parametrize("name", ["nobody", "Ann", "", "a" * 33, "../x"], ids=ascii)
def test_no_token_for_nobody(chatd: Run, name: str) -> None:
    """A token is for somebody who has an account; nothing is printed that could be taken for one."""
    failed = chatd("token", "--", name)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: ")
    assert "Traceback" not in failed.stderr


def test_another_password(chatd: Run) -> None:
    """For an account that is there, said in one line; for nobody it is one line, too, and never shows the password."""
    assert chatd("user", "add", "ann", stdin="correct horse\n").returncode == 0
    changed = chatd("user", "passwd", "ann", stdin="battery staple\n")
    assert (changed.returncode, changed.stdout) == (0, "changed the password of ann\n")
    failed = chatd("user", "passwd", "bob", stdin="battery staple\n")
    assert (failed.returncode, failed.stderr) == (1, "Error: 'bob': no such user\n")
    assert "battery" not in changed.stdout + changed.stderr + failed.stderr


def test_a_bad_password_is_refused_without_being_shown(chatd: Run) -> None:
    """Too short, too long, none: one line, status 1, and never the password."""
    for password in ("hunter2", "hunter2" * 1000, ""):
        failed = chatd("user", "add", "ann", stdin=password)
        assert failed.returncode == 1
        assert failed.stderr.startswith("Error: ")
        assert failed.stderr.count("\n") == 1
        assert "hunter2" not in failed.stderr


def test_on_a_terminal_the_password_is_asked_for_twice(tmp_path: Path) -> None:
    """Neither of the two is shown, and they have to be the same."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "chatd", "user", "add", "ann", "--data", str(tmp_path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""
    answers = iter([b"correct horse\n", b"another horse\n", b"correct horse\n", b"correct horse\n"])
    asked = 0
    while chunk := _read(controller):
        seen += chunk
        if seen.count(b"Password: ") + seen.count(b"Once more: ") > asked:
            asked += 1
            os.write(controller, next(answers))
    os.close(controller)
    assert process.wait(timeout=30) == 0
    assert asked == 4
    assert b"horse" not in seen
    assert b"added ann" in seen


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 1024)
    except OSError:  # the terminal's other side is closed: Linux says so with EIO
        return b""


def test_the_defaults_need_no_file(chatd: Run) -> None:
    """Without a file and without variables the defaults are in force."""
    assert chatd("check-config").stdout.strip() == render(Config()).strip()
