"""Addresses: what is read from a URL, and what is refused."""

from __future__ import annotations

import pytest

from chatd.adapters.redis.address import Address, BadAddress, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://cache:7000/2", Address(host="cache", port=7000, db=2)),
        ("redis://ann:p%40ss@cache", Address(host="cache", username="ann", password="p@ss")),
        ("rediss://cache?ssl_ca_certs=/ca.pem", Address(host="cache", tls=True, ca_file="/ca.pem")),
        ("unix:///run/v.sock?db=1", Address(path="/run/v.sock", db=1)),
        ("unix:///run/a%20b.sock", Address(path="/run/a b.sock")),
    ],
)
def test_urls_that_name_a_server(url: str, address: Address) -> None:
    """Each scheme, with its parts."""
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://cache",
        "unix://",
        "redis://cache:port",
        "redis://cache/?retry_on_timeout=1",
        "redis://h?db=x",
        "redis",
    ],
)
def test_urls_that_do_not(url: str) -> None:
    """Anything else is BadAddress, before a connection is tried."""
    with pytest.raises(BadAddress):
        parse_address(url)


def test_the_password_is_never_shown() -> None:
    """Neither the address's text nor its repr nor an error has the password in it."""
    address = parse_address("redis://ann:s3cret@cache")
    assert "s3cret" not in f"{address} {address!r}"
    with pytest.raises(BadAddress) as bad:
        parse_address("redis://ann:s3cret@cache:port")
    assert "s3cret" not in str(bad.value)
