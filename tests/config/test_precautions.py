"""What an operator is warned of: by ``check-config`` and in the log of a start; of nothing where all is well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chatd.app import unsafe
from chatd.config import Config, load
from tests.e2e.cluster import Cluster


def configured(tmp_path: Path, text: str = "", listen: str = "127.0.0.1:0") -> Config:
    (tmp_path / "config.toml").write_text(text)
    (tmp_path / "data").mkdir(mode=0o700, exist_ok=True)
    return load(tmp_path / "config.toml", {}, {"store.data": str(tmp_path / "data"), "server.listen": listen})


def with_files(tmp_path: Path, mode: int) -> Config:
    for name in ("key", "password"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    text = f"[server]\ntls_certificate='{tmp_path}/c'\ntls_key='{tmp_path}/key'\n"
    return configured(tmp_path, f"{text}[redis]\nurl='redis://h'\npassword_file='{tmp_path}/password'\n")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_nothing_where_all_is_well(tmp_path: Path, mode: int) -> None:
    """Nor of what is not there: that is told by others. A group may read a key: certificates often have one."""
    assert unsafe(with_files(tmp_path, mode)) == []
    (tmp_path / "key").unlink()
    assert unsafe(configured(tmp_path)) == []


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_secrets_that_others_may_read_or_change(tmp_path: Path, mode: int) -> None:
    """Each file is named, with its mode."""
    key, password = unsafe(with_files(tmp_path, mode))
    assert key.startswith("server.tls_key")
    assert password.startswith("redis.password_file")
    assert f"mode {mode:04o}" in key


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_data_directory_that_others_may_write(tmp_path: Path, mode: int) -> None:
    """Who can put files there can put another store there."""
    config = configured(tmp_path)
    (tmp_path / "data").chmod(mode)
    assert [f"mode {mode:04o}" in warning for warning in unsafe(config)] == [True]


@pytest.mark.parametrize(
    ("listen", "warned"), [("0.0.0.0:80", 1), ("[::]:80", 1), ("h:80", 1), ("[::1]:80", 0), ("localhost:80", 0)]
)
def test_beyond_loopback_without_tls(tmp_path: Path, listen: str, warned: int) -> None:
    """A name may be anywhere."""
    assert len(unsafe(configured(tmp_path, listen=listen))) == warned


@pytest.mark.parametrize("name", ["chatd.db-wal", "chatd.db.before-restore", "chatd.db.before-restore-2"])
def test_a_store_that_is_gone(tmp_path: Path, name: str) -> None:
    """A start makes an empty one, which is right for a new directory only."""
    config = configured(tmp_path)
    (tmp_path / "data" / name).write_text("")
    (warning,) = unsafe(config)
    assert f"{name}: is there, but no chatd.db" in warning
    (tmp_path / "data/chatd.db").write_text("")
    assert unsafe(config) == []


def test_where_it_is_told(tmp_path: Path) -> None:
    """By ``check-config``, which does not fail for it, and by ``serve``, which starts."""
    cluster = Cluster(tmp_path, 0)
    (cluster.data / "chatd.db.before-restore").write_text("")
    command = [sys.executable, "-m", "chatd", "check-config", "--config", str(cluster.config), "--data", str(cluster.data)]
    said = subprocess.run(command, capture_output=True, text=True)
    assert (said.returncode, "warning: " in said.stderr, "is there, but no chatd.db" in said.stderr) == (0, True, True)
    try:
        server = cluster.start()
        assert "server.unsafe" in Path(server.log.name).read_text()
    finally:
        cluster.stop()
