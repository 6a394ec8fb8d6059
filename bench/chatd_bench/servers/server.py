"""What the harness has to know about a server: the interface of all servers.

A server module owns how its server is installed and started. The harness calls ``install`` once, then for each run
``start``, and loads what that yields with one of ``dialects``. Installed things go under ``cache_directory()``; data goes
into a temporary directory which ends with the context. Everything listens on loopback, without TLS and compression, with all
rate limits off. Started processes are ended by their ids.

**Adding one**: a module here with a class derived from ``Server``, and its name in ``servers/registry.py``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Endpoint:
    """Where one node listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Needs:
    """What a run asks of its server before it starts.

    ``users``: names of all who will log in, for servers where accounts are made beforehand. ``connections``: at once.
    ``members``: of the largest group. ``nodes``: processes that share one state. ``settings``: the server's own, as
    ``CHATD_...`` variables; for peers what their module says. ``limited``: with the server's own limits.
    ``prepare``: is given the data directory before the start.
    """

    users: Sequence[str] = ()
    connections: int = 1000
    members: int = 1000
    nodes: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    limited: bool = False
    prepare: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Running:
    """A server that runs. ``endpoints``: one for each node; users are spread over them in turn.

    ``pids``: every process that works for it, but for descendants of those named, which the harness finds itself: all nodes,
    Redis, the database. CPU time and memory of all are counted. ``main_pids``: the nodes alone, for memory per connection.
    ``credentials``: what the dialect needs to log in (a signing key, a password, a domain). ``versions``: of
    the server, first, and of what it needs. ``settings``: what was set, for the report.
    """

    endpoints: tuple[Endpoint, ...]
    pids: tuple[int, ...]
    main_pids: tuple[int, ...]
    credentials: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    operators: tuple[str, ...] = ()
    """host:port of each node's pages for operators, where a server has some."""


class Server(ABC):
    """One kind of server, as ``prosody-archive``; a variant with another set-up is another one."""

    name: str
    dialects: tuple[str, ...]
    """Names of dialects that it understands; the first is the default."""
    keeps_history: bool
    """Whether a message is stored before, or when, it is acknowledged and delivered: which of the two columns it is in."""
    max_nodes: int = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def install(self) -> None:  # noqa: B027 - most need no installation
        """Bring everything that is not there yet into the cache directory, with progress on standard error.

        Does nothing when called again. Raises RunFailed, with what the person at the keyboard can do, where it cannot.
        """

    @abstractmethod
    def start(self, needs: Needs) -> AbstractContextManager[Running]:
        """Start it, and wait until it takes connections; its processes and data end with the context.

        Raises RunFailed with the end of the server's log when it does not start, and NotOffered where ``needs`` is beyond
        it (more nodes than ``max_nodes``).
        """


def cache_directory() -> Path:
    """Where installed servers and compiled code stay between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "chatd-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path
