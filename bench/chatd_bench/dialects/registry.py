"""All dialects by name. Imported when asked for: each needs libraries of its own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from chatd_bench.dialects.dialect import Dialect
from chatd_bench.faults import NotOffered, RunFailed

_DIALECTS = {
    "chatd-cbor": "chatd_cbor:ChatdCbor",
    "chatd-json": "chatd_json:ChatdJson",
    "engineio": "engineio:EngineIo",
    "relay": "relay:Relay",
    "xmpp": "xmpp:Xmpp",
}
"""Name: module of this package, and class."""


def make_dialect(name: str, credentials: Mapping[str, str]) -> Dialect:
    """The dialect of that name. Raises RunFailed where there is none."""
    return _kind(name)(credentials)


def _kind(name: str) -> type[Dialect]:
    if name not in _DIALECTS:
        raise RunFailed(f"no dialect {name}; there are {', '.join(_DIALECTS)}")
    module, _, kind = _DIALECTS[name].partition(":")
    found: type[Dialect] = getattr(import_module(f"chatd_bench.dialects.{module}"), kind)
    return found


def must_offer(name: str, what: str) -> None:
    """Raises NotOffered where the dialect ``name`` has no such method of its own: before a server is started for nothing."""
    kind = _kind(name)
    if getattr(kind, what) is getattr(Dialect, what):
        raise NotOffered(f"{name}: not offered: its servers keep nothing that a client could ask for ({what})")


def dialect_names() -> list[str]:
    """All of them."""
    return list(_DIALECTS)
