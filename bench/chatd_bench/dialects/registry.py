"""All dialects by name. Imported when asked for: each needs libraries of its own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from chatd_bench.dialects.dialect import Dialect
from chatd_bench.faults import RunFailed

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
    if name not in _DIALECTS:
        raise RunFailed(f"no dialect {name}; there are {', '.join(_DIALECTS)}")
    module, _, kind = _DIALECTS[name].partition(":")
    made: Dialect = getattr(import_module(f"chatd_bench.dialects.{module}"), kind)(credentials)
    return made


def dialect_names() -> list[str]:
    """All of them."""
    return list(_DIALECTS)
