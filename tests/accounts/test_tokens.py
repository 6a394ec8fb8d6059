"""Tokens: what is issued is taken, and nothing else is (reliability attack 35)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from chatd.accounts.tokens import BadIssuer, BadToken, Claims, OutsideIssuer, Tokens

KEY = bytes(range(32))
NOW = 1_800_000_000_000
HOUR = 3600
OUTSIDE = "https://issuer.example"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def make_tokens() -> Tokens:
    return Tokens("chatd", "chatd", KEY, HOUR, [OutsideIssuer(OUTSIDE, "chat", "RS256", RSA_PEM)])


def claims(**changes: object) -> dict[str, object]:
    payload: dict[str, object] = {"iss": "chatd", "aud": "chatd", "sub": "ann", "exp": NOW // 1000 + HOUR, **changes}
    return {name: value for name, value in payload.items() if value is not None}


def own(payload: dict[str, object] | None = None, key: Any = KEY, alg: str = "HS256", **header: object) -> str:
    headers = {"typ": "at+jwt", **header}
    return jwt.encode(payload if payload is not None else claims(), key, algorithm=alg, headers=headers)


def outside(alg: str = "RS256", key: Any = RSA_KEY, header: dict[str, object] | None = None, **changes: object) -> str:
    return jwt.encode(claims(**{"iss": OUTSIDE, "aud": "chat", **changes}), key, algorithm=alg, headers=header)


def raw(header: dict[str, object], payload: object, key: bytes | None = KEY) -> str:
    """A token put together by hand: what no library would sign."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = part(json.dumps(header).encode()) + b"." + part(json.dumps(payload).encode())
    signature = b"" if key is None else hmac.new(key, signed, hashlib.sha256).digest()
    return (signed + b"." + part(signature)).decode()


def said(claims: Claims) -> tuple[str, int, bool]:
    return claims.user, claims.expires_at_ms, claims.outside


def test_each_token_is_another_one() -> None:
    """Two that are issued at once are two: to revoke one leaves the other."""
    tokens = make_tokens()
    one, other = (tokens.verify(tokens.issue("ann", NOW)[0], NOW).token_id for _ in range(2))
    assert len(one) == len(other) == 16
    assert one != other


@pytest.mark.parametrize("change", [lambda s: s[:-1] + chr(ord(s[-1]) ^ 1), lambda s: s + "=", lambda s: s[:9] + "!" + s[9:]])
def test_a_token_has_one_name(change: Callable[[str], str]) -> None:
    """A signature can be written in several ways that are all good; a revoked token does not come back so."""
    tokens = make_tokens()
    for token in [tokens.issue("ann", NOW)[0] for _ in range(20)]:
        text, _, signature = token.rpartition(".")
        try:
            again = tokens.verify(f"{text}.{change(signature)}", NOW)
        except BadToken:
            continue
        assert again.token_id == tokens.verify(token, NOW).token_id


def test_one_rule_for_the_end() -> None:
    """What a token opens is over at the moment from which it opens nothing: by the same leeway, of an own and an outside one."""
    tokens = make_tokens()
    for token in (tokens.issue("ann", NOW)[0], outside()):
        end = tokens.verify(token, NOW).good_until_ms
        assert tokens.verify(token, end - 1).good_until_ms == end
        with pytest.raises(BadToken, match="expired"):
            tokens.verify(token, end)


def test_a_remembered_token_is_judged_by_the_clock() -> None:
    """That its signature was good before says nothing about when it is good."""
    tokens = make_tokens()
    token = own(claims(nbf=NOW // 1000, exp=NOW // 1000 + HOUR // 2))
    for _ in range(2):
        assert tokens.verify(token, NOW).user == "ann"
        with pytest.raises(BadToken, match="expired"):
            tokens.verify(token, NOW + (HOUR + 10) * 1000)
        with pytest.raises(BadToken, match="not yet valid"):
            tokens.verify(token, NOW - 10_000)
        with pytest.raises(BadToken, match="too far ahead"):
            tokens.verify(token, NOW - HOUR * 1000)


def test_a_remembered_token_vouches_for_itself_alone() -> None:
    """Its text with another signature is not it, nor is another text with its signature."""
    tokens = make_tokens()
    token, other = own(), own(claims(sub="bob"))
    tokens.verify(token, NOW)
    head, body, signature = token.split(".")
    for forged in (f"{head}.{body}.", f"{head}.{body}.{other.split('.')[2]}", f"{head}.{other.split('.')[1]}.{signature}"):
        with pytest.raises(BadToken):
            tokens.verify(forged, NOW)


def test_remembered_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and verified anew."""
    monkeypatch.setattr("chatd.accounts.tokens.MAX_PROVEN", 2)
    tokens = make_tokens()
    issued = [tokens.issue(f"user{number}", NOW)[0] for number in range(4)]
    for _ in range(2):
        assert [tokens.verify(token, NOW).user for token in issued] == ["user0", "user1", "user2", "user3"]
    assert tokens.remembered == 2


def test_the_generation_is_signed() -> None:
    """The one that it was issued for; in an outside token it means nothing; what is no number is refused."""
    tokens = make_tokens()
    assert tokens.verify(tokens.issue("ann", NOW, 7)[0], NOW).generation == 7
    assert tokens.verify(own(), NOW).generation == 0
    assert tokens.verify(outside(gen=7), NOW).generation == 0
    for wrong in ("7", 7.5, True, [7]):
        with pytest.raises(BadToken, match="gen"):
            tokens.verify(own(claims(gen=wrong)), NOW)


def test_when_it_was_issued() -> None:
    """To the ms where the issuer says so; 0 where it does not."""
    tokens = make_tokens()
    assert tokens.verify(outside(iat=NOW / 1000 - 0.25), NOW).issued_at_ms == NOW - 250
    assert tokens.verify(outside(), NOW).issued_at_ms == 0
    with pytest.raises(BadToken, match="iat"):
        tokens.verify(outside(iat="yesterday"), NOW)


def test_issued_is_verified() -> None:
    """What was issued says whom and until when, to the same ms; it is taken until it expires, and not after."""
    tokens = make_tokens()
    token, expires = tokens.issue("ann", NOW)
    assert expires == NOW + HOUR * 1000
    assert said(tokens.verify(token, NOW)) == ("ann", expires, False)
    assert tokens.verify(token, expires - 1).user == "ann"
    with pytest.raises(BadToken, match="expired"):
        tokens.verify(token, expires + 5000)


def test_the_clock_is_the_argument() -> None:
    """Expiry is judged by ``now`` alone: a token of 1970 is good in 1970, whatever the wall clock says."""
    tokens = make_tokens()
    token, expires = tokens.issue("ann", 1000)
    assert expires < time.time() * 1000
    assert tokens.verify(token, 2000).user == "ann"


@pytest.mark.parametrize(
    ("alg", "key"), [("RS256", RSA_KEY), ("PS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)]
)
def test_outside_issuers(alg: str, key: Any) -> None:
    """Each algorithm of an outside issuer works with its PEM key, and its user is marked as from outside."""
    tokens = Tokens("chatd", "chatd", KEY, HOUR, [OutsideIssuer(OUTSIDE, "chat", alg, pem(key))])
    assert said(tokens.verify(outside(alg, key), NOW)) == ("ann", NOW + HOUR * 1000, True)
    assert tokens.verify(outside(alg, key, aud=["chat"], exp=NOW / 1000 + 0.5), NOW).outside


OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
BAD: dict[str, Callable[[], str]] = {
    # signature and algorithm
    "alg none": lambda: raw({"alg": "none", "typ": "at+jwt"}, claims(), None),
    "alg None": lambda: raw({"alg": "None", "typ": "at+jwt"}, claims(), None),
    "alg nOnE": lambda: raw({"alg": "nOnE", "typ": "at+jwt"}, claims(), None),
    "alg none, outside": lambda: raw({"alg": "none", "typ": "JWT"}, claims(iss=OUTSIDE, aud="chat"), None),
    "alg missing": lambda: raw({"typ": "at+jwt"}, claims()),
    "alg a list": lambda: raw({"alg": ["HS256"], "typ": "at+jwt"}, claims()),
    "alg a dict": lambda: raw({"alg": {"HS256": 1}, "typ": "at+jwt"}, claims()),
    "HS512 with our key": lambda: own(key=KEY * 2, alg="HS512"),
    "HS256 signed with the RSA public key": lambda: raw({"alg": "HS256"}, claims(iss=OUTSIDE, aud="chat"), RSA_PEM),
    "another algorithm of the same RSA key": lambda: outside("RS512"),
    "another padding of the same RSA key": lambda: outside("PS256"),
    "another key": lambda: own(key=b"y" * 32),
    "another RSA key": lambda: outside(key=OTHER_RSA),
    "no signature": lambda: own().rsplit(".", 1)[0] + ".",
    "cut signature": lambda: own()[:-4],
    "payload swapped": lambda: ".".join(
        [own().split(".")[0], own(claims(sub="bob")).split(".")[1], own().split(".")[2]]
    ),
    # issuer: ours signed by the outside key, theirs by ours, and look-alikes
    "outside key speaks for us": lambda: jwt.encode(claims(), RSA_KEY, algorithm="RS256"),
    "our key speaks for them": lambda: own(claims(iss=OUTSIDE, aud="chat")),
    "iss unknown": lambda: own(claims(iss="other")),
    "iss prefix": lambda: own(claims(iss="chat")),
    "iss longer": lambda: outside(iss=OUTSIDE + ".evil"),
    "iss other case": lambda: own(claims(iss="Chatd")),
    "iss a list": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(iss=["chatd"])),
    "iss missing": lambda: own(claims(iss=None)),
    # audience
    "aud missing": lambda: own(claims(aud=None)),
    "aud other": lambda: own(claims(aud="other")),
    "aud of the other issuer": lambda: outside(aud="chatd"),
    "aud list with more": lambda: own(claims(aud=["chatd", "other"])),
    "aud twice": lambda: own(claims(aud=["chatd", "chatd"])),
    "aud empty list": lambda: own(claims(aud=[])),
    "aud substring": lambda: own(claims(aud="chatd2")),
    "aud a number": lambda: own(claims(aud=1)),
    # times
    "exp missing": lambda: own(claims(exp=None)),
    "exp past": lambda: own(claims(exp=NOW // 1000 - 5)),
    "exp too far": lambda: own(claims(exp=NOW // 1000 + HOUR + 60)),
    "exp too far, outside": lambda: outside(exp=NOW // 1000 + 32 * 24 * HOUR),
    "exp text": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(exp=str(NOW // 1000 + HOUR))),
    "exp true": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(exp=True)),
    "exp null": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, {**claims(), "exp": None}),
    "exp infinite": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(exp=float("inf"))),
    "exp not a number": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(exp=float("nan"))),
    "exp huge": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(exp=10**400)),
    "nbf future": lambda: own(claims(nbf=NOW // 1000 + 60)),
    "nbf text": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(nbf="0")),
    # subject
    "sub missing": lambda: own(claims(sub=None)),
    "sub empty": lambda: own(claims(sub="")),
    "sub upper case": lambda: own(claims(sub="Ann")),
    "sub too long": lambda: own(claims(sub="a" * 33)),
    "sub with newline": lambda: own(claims(sub="ann\n")),
    "sub beyond ASCII": lambda: own(claims(sub="\u0430nn")),
    "sub a number": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(sub=1)),
    "sub a list": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, claims(sub=["ann"])),
    # header
    "typ missing": lambda: raw({"alg": "HS256"}, claims()),
    "typ of another kind": lambda: own(typ="JWT"),
    "typ a number": lambda: raw({"alg": "HS256", "typ": 1}, claims()),
    "refresh used as access": lambda: outside(header={"typ": "rt+jwt"}),
    "logout token": lambda: outside(header={"typ": "logout+jwt"}),
    "crit unknown": lambda: raw({"alg": "HS256", "typ": "at+jwt", "crit": ["exp"], "exp": 1}, claims()),
    "crit empty": lambda: raw({"alg": "HS256", "typ": "at+jwt", "crit": []}, claims()),
    "b64 true": lambda: raw({"alg": "HS256", "typ": "at+jwt", "b64": True}, claims()),
    "b64 false": lambda: raw({"alg": "HS256", "typ": "at+jwt", "b64": False, "crit": ["b64"]}, claims()),
    "kid path, another key": lambda: own(key=b"y" * 32, kid="../../../dev/null"),
    "kid SQL, another key": lambda: own(key=b"y" * 32, kid="x' UNION SELECT 'y"),
    "kid a number": lambda: raw({"alg": "HS256", "typ": "at+jwt", "kid": 1}, claims()),
    "jku, another key": lambda: outside(key=OTHER_RSA, header={"jku": "https://evil.example/keys"}),
    "x5u, another key": lambda: outside(key=OTHER_RSA, header={"x5u": "https://evil.example/cert"}),
    "jwk, another key": lambda: outside(
        key=OTHER_RSA, header={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))}
    ),
    # shape
    "empty": lambda: "",
    "dots": lambda: "..",
    "not base64": lambda: "a.b.c",
    "not ASCII": lambda: own() + "\u00e9",
    "half a surrogate": lambda: own() + "\ud800",
    "too long": lambda: own() + "A" * 8192,
    "payload a list": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, [1]),
    "payload null": lambda: raw({"alg": "HS256", "typ": "at+jwt"}, None),
    "deep header": lambda: base64.urlsafe_b64encode(b"[" * 3000).decode().rstrip("=") + ".e30.e30",
    "deep payload": lambda: (
        base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
        + "." + base64.urlsafe_b64encode(b'{"iss":' * 500 + b"[" * 1500).decode().rstrip("=") + ".e30"
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_refused(name: str) -> None:
    """Every forgery is refused with BadToken, whose text repeats nothing of the token."""
    token = BAD[name]()
    with pytest.raises(BadToken) as refused:
        make_tokens().verify(token, NOW)
    assert len(str(refused.value)) < 60
    assert "evil" not in str(refused.value)


def test_the_forgeries_are_near_misses() -> None:
    """The same builders, with nothing wrong, are taken: the refusals above are for the fault each names."""
    tokens = make_tokens()
    good = [
        own(), raw({"alg": "HS256", "typ": "at+jwt"}, claims()), outside(), own(claims(aud=["chatd"])),
        own(claims(nbf=NOW // 1000)), own(kid="anything"), outside(header={"typ": "AT+JWT"}),
        outside(header={"jku": "https://evil.example/keys"}), own(claims(exp=NOW // 1000 - 4)),
    ]
    assert {tokens.verify(token, NOW).user for token in good} == {"ann"}


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda b: base64.urlsafe_b64encode(b).decode() + ".e30.AA"))
def test_any_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    """Whatever the client sends as a token, the answer is BadToken."""
    with pytest.raises(BadToken):
        make_tokens().verify(text, NOW)


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_one_changed_byte_is_refused(place: int, value: int) -> None:
    """A good token with any one character changed is refused (or still the same token)."""
    token = own()
    at = place % len(token)
    changed = token[:at] + chr(value) + token[at + 1:]
    if changed != token:
        with pytest.raises(BadToken):
            make_tokens().verify(changed, NOW)


SMALL_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("HS256", RSA_PEM), ("none", RSA_PEM), ("RS256", pem(EC_KEY)), ("ES256", RSA_PEM), ("EdDSA", pem(EC_KEY)),
        ("ES384", pem(EC_KEY)), ("RS256", pem(SMALL_RSA)), ("RS256", b"not a key"), ("RS256", b""),
    ],
)
def test_bad_issuer(algorithm: str, key: bytes) -> None:
    """A key that does not fit its algorithm stops the start, naming the issuer."""
    with pytest.raises(BadIssuer, match="issuer"):
        Tokens("chatd", "chatd", KEY, HOUR, [OutsideIssuer(OUTSIDE, "chat", algorithm, key)])


def test_bus_key_is_another_one() -> None:
    """Nodes with one signing key share one key for the bus, and it is not the signing key."""
    assert make_tokens().bus_key == make_tokens().bus_key != KEY
    assert Tokens("chatd", "chatd", b"y" * 32, HOUR).bus_key != make_tokens().bus_key


def test_issuers_are_distinct() -> None:
    """An outside issuer cannot take our name or another's; a short own key is refused."""
    theirs = OutsideIssuer(OUTSIDE, "chat", "RS256", RSA_PEM)
    with pytest.raises(BadIssuer, match="twice"):
        Tokens(OUTSIDE, "chatd", KEY, HOUR, [theirs])
    with pytest.raises(BadIssuer, match="twice"):
        Tokens("chatd", "chatd", KEY, HOUR, [theirs, theirs])
    with pytest.raises(BadIssuer, match="32 bytes"):
        Tokens("chatd", "chatd", b"short", HOUR)


def test_only_an_outside_issuer_names_a_tier() -> None:
    """Its claim is taken if it is a name; chatd's own tokens have none, for the store says what their users' is."""
    tokens = make_tokens()
    assert tokens.verify(outside(tier="premium"), NOW).tier == "premium"
    assert tokens.verify(own(claims(tier="premium")), NOW).tier == ""
    for odd in ("Premium", "", "x" * 33, 7, None, ["premium"], {"a": 1}):
        assert tokens.verify(outside(tier=odd), NOW).tier == ""


def test_a_long_token_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: neither hashed nor decoded: what a token costs is bounded before anything is done with it."""
    looked: list[str] = []
    tokens = make_tokens()
    monkeypatch.setattr(tokens, "_verified", looked.append)
    with pytest.raises(BadToken, match="longer"):
        tokens.verify("x" * 8193, NOW)
    assert looked == []
