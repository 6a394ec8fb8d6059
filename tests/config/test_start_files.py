"""Files that the configuration names: what is wrong with them is one line, and nothing is made or started before."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatd.app import StartFailed, check_files, run
from chatd.config import Config, load


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(file, {}, {"store.data": str(tmp_path / "data"), "server.listen": "127.0.0.1:0"})


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\n"], ids=["missing", "empty", "cut"])
def test_a_certificate_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    """``check-config`` and a start both name the option and the file."""
    if content is not None:
        (tmp_path / "cert.pem").write_text(content)
    config = configured(tmp_path, f"[server]\ntls_certificate = '{tmp_path}/cert.pem'\ntls_key = '{tmp_path}/cert.pem'\n")
    with pytest.raises(StartFailed, match=r"server\.tls_certificate = .*cert\.pem"):
        check_files(config)
    with pytest.raises(StartFailed, match=r"server\.tls_certificate = .*cert\.pem"):
        run(config, ops_asked=False)
    assert not (tmp_path / "data").exists()


def test_an_issuer_without_its_key(tmp_path: Path) -> None:
    """An outside issuer's key that is not there."""
    config = configured(
        tmp_path, f"[[auth.issuers]]\nissuer='x'\naudience='y'\nalgorithm='EdDSA'\nkey_file='{tmp_path}/no.pem'\n"
    )
    with pytest.raises(StartFailed, match=r"no\.pem"):
        check_files(config)


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    """Of a Redis of one's own."""
    config = configured(tmp_path, f"[redis]\nurl='redis://127.0.0.1:1'\npassword_file='{tmp_path}/no'\n")
    with pytest.raises(StartFailed, match=r"redis\.password_file = .*no"):
        check_files(config)


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    """The file is named, and no traceback is shown."""
    (tmp_path / "data").write_text("")
    with pytest.raises(StartFailed, match=r"data: File exists"):
        run(configured(tmp_path, ""), ops_asked=False)
