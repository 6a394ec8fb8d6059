"""From the configuration to what accounts need: the keys from their files. Synchronous, at start, a few ms."""

from __future__ import annotations

from pathlib import Path

from chatd.accounts.signing_key import FILE_NAME, BadKeyFile, load_key, load_or_make_key
from chatd.accounts.tokens import OutsideIssuer, Tokens
from chatd.config import Config, Issuer

MAX_PEM_BYTES = 16 * 1024


def load_tokens(config: Config, data: Path) -> Tokens:
    """The tokens of this deployment. The own key is ``auth.key_file``, or a file in ``data`` made on first use.

    Nodes that do not share a data directory must share ``auth.key_file``; a named file is never made, because a
    mistyped name would give this node a key of its own. Raises BadKeyFile and BadIssuer.
    """
    auth = config.auth
    key = load_key(Path(auth.key_file)) if auth.key_file else load_or_make_key(data / FILE_NAME)
    return Tokens(auth.issuer, auth.audience, key, int(auth.token_hours * 3600), load_outside_issuers(config))


def load_outside_issuers(config: Config) -> list[OutsideIssuer]:
    """With their keys. Raises BadKeyFile and BadIssuer."""
    return [_outside(issuer) for issuer in config.auth.issuers]


def _outside(issuer: Issuer) -> OutsideIssuer:
    """Its public key needs no secrecy, so any file will do; only its size is bounded."""
    try:
        with Path(issuer.key_file).open("rb") as file:
            key = file.read(MAX_PEM_BYTES)
    except OSError as fault:
        raise BadKeyFile(f"{issuer.key_file}: {fault.strerror or fault}") from fault
    return OutsideIssuer(issuer.issuer, issuer.audience, issuer.algorithm, key)
