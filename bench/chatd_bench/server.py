"""A chatd for the measurements that are of chatd alone, and bring their own clients: search, presence, rate limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatd_bench.servers.chatd import AUDIENCE, ISSUER, Chatd
from chatd_bench.servers.server import Needs


@dataclass(frozen=True)
class Target:
    """Whom to load."""

    host: str
    port: int
    private_key: bytes
    issuer: str
    audience: str
    pid: int | None
    settings: Mapping[str, str]


@contextmanager
def own_server(settings: Mapping[str, str], prepare: Callable[[Path], None] | None = None) -> Iterator[Target]:
    """One node (see ``servers.chatd``). ``prepare`` gets the data directory before it starts. Raises RunFailed."""
    with Chatd("chatd").start(Needs(settings=settings, prepare=prepare)) as running:
        [endpoint], [pid] = running.endpoints, running.pids
        key = running.credentials["private_key"].encode()
        yield Target(endpoint.host, endpoint.port, key, ISSUER, AUDIENCE, pid, running.settings)
