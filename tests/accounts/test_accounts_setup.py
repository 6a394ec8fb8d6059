"""From the configuration to the tokens: which key is used, and what stops the start."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chatd.accounts.setup import load_tokens
from chatd.accounts.signing_key import BadKeyFile, load_or_make_key
from chatd.accounts.tokens import BadIssuer
from chatd.config import Auth, Config, Issuer

NOW = 1_800_000_000_000


def with_auth(**changes: object) -> Config:
    return Config(auth=Auth(**changes))  # type: ignore[arg-type]


def test_nodes_of_one_data_directory_agree(tmp_path: Path) -> None:
    """Two nodes on one data directory take each other's tokens, and share the bus's key."""
    one, other = load_tokens(Config(), tmp_path), load_tokens(Config(), tmp_path)
    assert other.verify(one.issue("ann", NOW)[0], NOW).user == "ann"
    assert one.bus_key == other.bus_key


def test_lifetime_is_configured(tmp_path: Path) -> None:
    """``token_hours`` is the life of a token."""
    assert load_tokens(with_auth(token_hours=2), tmp_path).issue("ann", NOW)[1] == NOW + 2 * 3600 * 1000


def test_named_key_file(tmp_path: Path) -> None:
    """A named key is used by nodes of different directories, and never made."""
    config = with_auth(key_file=str(tmp_path / "shared.key"))
    with pytest.raises(BadKeyFile, match=r"shared\.key"):
        load_tokens(config, tmp_path)
    assert list(tmp_path.iterdir()) == []
    load_or_make_key(tmp_path / "shared.key")
    token, _ = load_tokens(config, tmp_path / "a").issue("ann", NOW)
    assert load_tokens(config, tmp_path / "b").verify(token, NOW).user == "ann"


def test_outside_issuer(tmp_path: Path) -> None:
    """An issuer of the configuration is believed with its key file; without the file, or with a wrong one, the start
    fails and names it."""
    key = ed25519.Ed25519PrivateKey.generate()
    config = with_auth(
        issuers=[Issuer(issuer="https://i", audience="us", algorithm="EdDSA", key_file=str(tmp_path / "i.pem"))]
    )
    with pytest.raises(BadKeyFile, match=r"i\.pem"):
        load_tokens(config, tmp_path)
    (tmp_path / "i.pem").write_bytes(b"not a key")
    with pytest.raises(BadIssuer, match="https://i"):
        load_tokens(config, tmp_path)
    (tmp_path / "i.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    payload = {"iss": "https://i", "aud": "us", "sub": "bob", "exp": NOW // 1000 + 60}
    assert load_tokens(config, tmp_path).verify(jwt.encode(payload, key, algorithm="EdDSA"), NOW).outside
