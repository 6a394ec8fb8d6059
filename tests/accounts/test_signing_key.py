"""The signing key's file: made once, by one of many, readable by its owner alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chatd.accounts.signing_key import BadKeyFile, load_key, load_or_make_key


def test_made_once_with_mode_0600(tmp_path: Path) -> None:
    """The first start makes 32 bytes that nobody else may read, whatever the umask; the next start reads the same."""
    path = tmp_path / "signing.key"
    before = os.umask(0)
    try:
        key = load_or_make_key(path)
    finally:
        os.umask(before)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_make_key(path) == key == load_key(path)
    assert list(tmp_path.iterdir()) == [path]


def test_processes_at_once_get_one_key(tmp_path: Path) -> None:
    """Eight processes that start together all get the same key, and leave nothing else behind."""
    path = tmp_path / "signing.key"
    program = (
        "import sys; from pathlib import Path; from chatd.accounts.signing_key import load_or_make_key;"
        "sys.stdin.read(1); print(load_or_make_key(Path(sys.argv[1])).hex())"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("x")
        racer.stdin.flush()
    keys = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert keys == {load_key(path).hex()}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o610])
def test_refuses_what_others_may_touch(tmp_path: Path, mode: int) -> None:
    """A key that group or others may read or write is refused, and the text says what to do."""
    path = tmp_path / "signing.key"
    load_or_make_key(path)
    path.chmod(mode)
    with pytest.raises(BadKeyFile, match="chmod 600"):
        load_or_make_key(path)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_refuses_another_length(tmp_path: Path, content: bytes) -> None:
    """A cut or foreign file is refused rather than used or replaced."""
    path = tmp_path / "signing.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(BadKeyFile, match="32 bytes"):
        load_or_make_key(path)
    assert path.read_bytes() == content


def test_refuses_links_and_other_things(tmp_path: Path) -> None:
    """A symbolic link, a directory, a pipe and a missing directory are refused with a typed error."""
    load_or_make_key(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "dangling", "directory", "pipe", "no/where"):
        with pytest.raises(BadKeyFile, match=name):
            load_or_make_key(tmp_path / name)
