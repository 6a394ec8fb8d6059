"""Tokens: JWTs that chatd issues itself, and those of the outside issuers that the operator named.

Pure apart from the cryptography: time is an argument, in ms since the Unix epoch. Each issuer has one key and one
algorithm, fixed when the server starts. A token only says which issuer it claims (compared exactly); whatever else its
header says about keys (``kid``, ``jku``, ``x5u``, ``jwk``) is not looked at.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import TypeAlias

import jwt
from chatd_protocol.messages import NAME_PATTERN
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct

OWN_ALGORITHM = "HS256"
OWN_TYPE = "at+jwt"
OUTSIDE_TYPES = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
"""An issuer's other kinds of token name themselves here (``rt+jwt``, ``logout+jwt``), and are no access tokens."""

MAX_TOKEN_CHARS = 8192
MAX_OUTSIDE_LIFETIME_MS = 31 * 24 * 3600 * 1000
"""A token that outlives this is a mistake of its issuer, and one that nobody could take back."""
LEEWAY_MS = 5000
"""What clocks may differ by."""
MIN_RSA_BITS = 2048
MAX_PROVEN = 10_000
"""Tokens whose signature need not be verified again: 4 MB."""

_NAME = re.compile(NAME_PATTERN)
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
OUTSIDE_ALGORITHMS = frozenset({*_CURVES, *_RSA_ALGORITHMS, "EdDSA"})

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


class BadToken(Exception):
    """The token proves nothing. The text is for the log alone: a client is told only that it was refused."""


class BadIssuer(ValueError):
    """An issuer of the configuration cannot be used; the text names it and says why."""


class Claims(Struct, frozen=True):
    """What a verified token says. ``outside``: not chatd's own, so the user is created on first use.

    ``token_id``: 16 bytes that stand for the token where it is revoked. ``generation``: of the password, in chatd's own;
    ``issued_at_ms``: 0 where it does not say. ``tier``: of rate limits, if an outside issuer names one.
    """

    user: str
    expires_at_ms: int
    outside: bool
    token_id: bytes = b""
    generation: int = 0
    issued_at_ms: int = 0
    tier: str = ""

    @property
    def good_until_ms(self) -> int:
        """From then on it opens nothing, and what it opened is over."""
        return self.expires_at_ms + LEEWAY_MS


class OutsideIssuer(Struct, frozen=True):
    """An issuer that the operator trusts to name users. ``key`` is a PEM public key."""

    issuer: str
    audience: str
    algorithm: str
    key: bytes


class _Proven(Struct, frozen=True):
    """What an issuer has signed. When it is good is judged anew each time."""

    claims: Claims
    not_before_ms: int
    max_lifetime_ms: int


class _Trusted(Struct, frozen=True):
    audience: str
    algorithm: str
    key: PublicKey | bytes
    types: frozenset[str]
    max_lifetime_ms: int
    outside: bool


class Tokens:
    """Issues with the own key; verifies with the key of the one issuer that the token names.

    A token that was verified is remembered by its hash, for thousands come back at once with the tokens they had: 0.3 ms for
    one with an Ed25519 signature, and then 5 us. Issuers and their keys do not change while the server runs. Whether it
    was revoked, and its password's generation, are the store's to judge, at each hello.

    ``lifetime`` is in seconds. Raises BadIssuer for a key that does not fit its algorithm, or a name used twice.
    """

    def __init__(
        self, issuer: str, audience: str, key: bytes, lifetime: int, outside_issuers: Sequence[OutsideIssuer] = (),
    ) -> None:
        if len(key) < 32:
            raise BadIssuer("the signing key must have at least 32 bytes")
        self.bus_key = blake2b(key, digest_size=32, person=b"chatd-bus-key").digest()
        """For the bus: the same on every node that has the signing key, and no way back to it."""
        self._issuer = issuer
        self._audience = audience
        self._key = key
        self._lifetime_ms = lifetime * 1000
        self._trusted = {
            issuer: _Trusted(audience, OWN_ALGORITHM, key, frozenset({OWN_TYPE}), self._lifetime_ms, outside=False)
        }
        self._proven: dict[bytes, _Proven] = {}
        for outside in outside_issuers:
            if outside.issuer in self._trusted:
                raise BadIssuer(f"issuer {outside.issuer!r} is named twice")
            self._trusted[outside.issuer] = _trust(outside)

    @property
    def remembered(self) -> int:
        """How many tokens need no second look at their signature."""
        return len(self._proven)

    def issue(self, user: str, now: int, generation: int = 0) -> tuple[str, int]:
        """A token for ``user`` and the time at which it expires, in ms (whole seconds, as JWTs have them).

        ``generation``: of the password that it was given for. A change of the password takes back all of the generations
        before, without asking any clock: nodes' clocks differ, and a sign-in with the old password may be under way.
        ``jti`` makes each token another one, so that one can be revoked alone.
        """
        issued = now // 1000
        expires = (now + self._lifetime_ms) // 1000
        payload = {
            "iss": self._issuer, "aud": self._audience, "sub": user, "iat": issued, "exp": expires, "gen": generation,
            "jti": secrets.token_urlsafe(9),
        }  # fmt: skip
        token = jwt.encode(payload, self._key, algorithm=OWN_ALGORITHM, headers={"typ": OWN_TYPE})
        return token, expires * 1000

    def verify(self, token: str, now: int) -> Claims:
        """Whom the token stands for. Raises BadToken and nothing else, whatever the bytes."""
        if len(token) > MAX_TOKEN_CHARS:
            raise BadToken(f"longer than {MAX_TOKEN_CHARS} characters")
        try:
            name = sha256(token.encode()).digest()
            proven = self._proven.get(name) or self._verified(token)
            _check_times(proven, now)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError, NotImplementedError) as fault:
            raise BadToken(type(fault).__name__) from fault
        self._proven[name] = proven
        if len(self._proven) > MAX_PROVEN:
            del self._proven[next(iter(self._proven))]
        return proven.claims

    def _verified(self, token: str) -> _Proven:
        claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        trusted = self._trusted.get(claimed) if isinstance(claimed, str) else None
        if trusted is None:
            raise BadToken("issuer not known")
        verified = jwt.decode_complete(
            token, trusted.key, algorithms=[trusted.algorithm],
            options={
                "require": ["iss", "aud", "exp", "sub"],
                # Judged below, against ``now``: the library would ask the wall clock, and it takes any of a list of
                # audiences.
                "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False,
            },
        )
        _check_header(verified["header"], trusted)
        return _proven(verified["payload"], trusted, _token_id(token))


def _check_header(header: dict[str, object], trusted: _Trusted) -> None:
    if "crit" in header or "b64" in header:
        raise BadToken("critical header parameter")
    kind = header.get("typ", "")
    if not isinstance(kind, str) or kind.lower() not in trusted.types:
        raise BadToken("not an access token")


def _token_id(token: str) -> bytes:
    """Of the part that is signed, which has one form; the signature's own base64 can be written in several that are all
    good, and some algorithms have many signatures for one text: a revoked token would come back under another name."""
    return sha256(token.rpartition(".")[0].encode()).digest()[:16]


def _proven(payload: dict[str, object], trusted: _Trusted, token_id: bytes) -> _Proven:
    if payload["aud"] not in (trusted.audience, [trusted.audience]):
        raise BadToken("audience is not ours")
    user = payload["sub"]
    if not isinstance(user, str) or _NAME.fullmatch(user) is None:
        raise BadToken("sub is not a name")
    expires = _milliseconds(payload["exp"], "exp")
    not_before = _milliseconds(payload["nbf"], "nbf") if "nbf" in payload else 0
    generation = 0 if trusted.outside else payload.get("gen", 0)
    if not isinstance(generation, int) or isinstance(generation, bool):
        raise BadToken("gen is not a number")
    issued = _milliseconds(payload["iat"], "iat") if "iat" in payload else 0
    tier = _tier(payload) if trusted.outside else ""
    claims = Claims(user, expires, trusted.outside, token_id, generation, issued, tier)
    return _Proven(claims, not_before, trusted.max_lifetime_ms)


def _check_times(proven: _Proven, now: int) -> None:
    expires = proven.claims.expires_at_ms
    if expires + LEEWAY_MS <= now:
        raise BadToken("expired")
    if expires > now + proven.max_lifetime_ms + LEEWAY_MS:
        raise BadToken("expires too far ahead")
    if proven.not_before_ms > now + LEEWAY_MS:
        raise BadToken("not yet valid")


def _tier(payload: dict[str, object]) -> str:
    """What is no name of a tier is none: other servers may mean something else by this claim."""
    tier = payload.get("tier")
    return tier if isinstance(tier, str) and _NAME.fullmatch(tier) is not None else ""


def _milliseconds(value: object, claim: str) -> int:
    """A NumericDate (RFC 7519 allows fractions) as ms; a bool is an int to Python, but not a time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadToken(f"{claim} is not a time")
    return int(value * 1000)


def _trust(outside: OutsideIssuer) -> _Trusted:
    return _Trusted(
        outside.audience, outside.algorithm, _public_key(outside), OUTSIDE_TYPES, MAX_OUTSIDE_LIFETIME_MS, outside=True,
    )


def _public_key(outside: OutsideIssuer) -> PublicKey:
    """The key, if it is one for the algorithm. Only public keys: with a shared secret chatd could be the forger."""
    if outside.algorithm not in OUTSIDE_ALGORITHMS:
        raise BadIssuer(f"issuer {outside.issuer!r}: algorithm must be one of {', '.join(sorted(OUTSIDE_ALGORITHMS))}")
    try:
        key = load_pem_public_key(outside.key)
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise BadIssuer(f"issuer {outside.issuer!r}: the key is not a PEM public key") from fault
    if isinstance(key, rsa.RSAPublicKey) and outside.algorithm in _RSA_ALGORITHMS and key.key_size >= MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVES.get(outside.algorithm):
        return key
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and outside.algorithm == "EdDSA":
        return key
    raise BadIssuer(
        f"issuer {outside.issuer!r}: the key does not fit {outside.algorithm} (RSA: {MIN_RSA_BITS} bits or more)"
    )
