"""The directions in which modules may import, as ``ARCHITECTURE.md`` tells them.

Each rule is a function from one import to whether it is wrong. The rules are tried on imports that break them too, so
that a rule that has lost its meaning is noticed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.architecture.source_tree import ROOT, Import, all_imports, cycles, imports_of, within

PURE = [
    "chatd.conversations",
    "chatd.delivery.receipts",
    "chatd.delivery.topic",
    "chatd.delivery.typing",
    "chatd.limits.addresses",
    "chatd.limits.breaker",
    "chatd.limits.bucket",
    "chatd.limits.lease",
    "chatd.limits.port",
    "chatd.limits.rules",
    "chatd.listener.head",
    "chatd.ops.health",
    "chatd.options",
    "chatd.sessions.allowance",
    "chatd.sessions.answers",
    "chatd.sessions.changes",
    "chatd.sessions.marks",
    "chatd.sessions.wheel",
    "chatd.presence.port",
    "chatd.presence.roster",
    "chatd.presence.status",
    "chatd.presence.watched",
    "chatd.store.port",
    "chatd.store.query",
    "chatd.timers",
    "chatd.wire.frames",
    "chatd.wire.handshake",
    "chatd_proof.checker",
    "chatd_proof.history",
    "chatd_proof.membership",
    "chatd_proof.numbers",
    "chatd_proof.observed",
    "chatd_proof.placement",
    "chatd_proof.streams",
    "chatd_proof.verdict",
    "chatd_protocol",
]
"""What decides without waiting: the same input gives the same answer, at any time and in any order of tasks."""

IMPURE = ["trio", "redis", "hiredis", "structlog", "time", "random", "apsw", "asyncio", "threading", "socket"]
COMPOSITION_ROOTS = ["chatd.app", "chatd.accounts.admin", "chatd.upkeep"]
SERVER = "chatd"
IN_PROCESS = [
    "chatd_bench.archive",
    "chatd_bench.cluster",
    "chatd_bench.limits",
    "chatd_bench.outage_run",
    "chatd_bench.servers.processes",
    "chatd_bench.servers.prosody",
    "chatd_proof.logs",
    "chatd_proof.simulation",
]
"""Measures what is too small to be seen over the wire, or makes what would take an hour over it (archive, limits); takes the
server's Valkey away, and looks into its file (cluster, outage_run); gives peers the Valkey that chatd brings along, so that
nobody has to install a Redis (processes); makes the SQLite files of another server (prosody). Runs
chatd's own actors in a simulation, and reads the logs that a run has left behind (proof)."""
PEERS = ["chatd_bench.servers.programs"]
"""Servers to compare with: started as programs, by the Python of an environment of their own; nothing here imports them."""
CLIENTS = ["chatd_client", "chatd_terminal", "chatd_bench", "chatd_proof"]


def impure(found: Import) -> bool:
    """Pure modules use no task, clock, chance, network or disk; a clock's reading is an argument."""
    return within(found.importer, *PURE) and within(found.imported, *IMPURE)


def protocol_looks_up(found: Import) -> bool:
    """The protocol is below everything: it can be used without the rest, by clients and by tests."""
    return within(found.importer, "chatd_protocol") and within(found.imported, SERVER, *CLIENTS)


def adapter_shown(found: Import) -> bool:
    """Adapters are named only where the object graph is made, and by themselves within one technology."""
    if not within(found.imported, "chatd.adapters") or within(found.importer, *COMPOSITION_ROOTS, *IN_PROCESS):
        return False
    technology = ".".join(found.imported.split(".")[:3])
    return not within(found.importer, technology)


def websocket_library(found: Import) -> bool:
    """The server speaks WebSocket by itself (``chatd.wire``); the client library is the only one that lets another do it."""
    return within(found.imported, "trio_websocket", "wsproto") and not within(found.importer, *CLIENTS)


def sqlite_library(found: Import) -> bool:
    """SQLite stands behind the store's port."""
    return within(found.imported, "apsw", "sqlite3") and not within(found.importer, "chatd.adapters.sqlite", *IN_PROCESS)


def redis_library(found: Import) -> bool:
    """Redis stands behind the bus's port."""
    allowed = within(found.importer, "chatd.adapters.redis", *PEERS)
    return within(found.imported, "redis", "hiredis", "valkey") and not allowed


def client_knows_server(found: Import) -> bool:
    """Clients know the protocol, not the server: what they need, every other client needs too."""
    return within(found.importer, *CLIENTS) and within(found.imported, SERVER) and not within(found.importer, *IN_PROCESS)


def server_knows_client(found: Import) -> bool:
    """The server needs no client; only ``chatd chat`` starts one, once it is asked to."""
    by_command = found.importer == "chatd.cli" and found.lazy
    return within(found.importer, SERVER) and within(found.imported, *CLIENTS) and not by_command


def root_imported(found: Import) -> bool:
    """The composition roots are on top: nobody but the command line and each of themselves imports them."""
    return within(found.imported, *COMPOSITION_ROOTS) and not within(found.importer, "chatd.cli", *COMPOSITION_ROOTS)


def assembly_imported(found: Import) -> bool:
    """The actors are wired to each other in one place, for who puts something under them: the server, and the simulation."""
    allowed = within(found.importer, *COMPOSITION_ROOTS, "chatd_proof.simulation")
    return within(found.imported, "chatd.assembly") and not allowed


def port_looks_up(found: Import) -> bool:
    """A port says what is promised, in the words of the domain; it knows nobody who keeps or uses the promise."""
    known = ("chatd.conversations", "chatd.store.port", "chatd.store.query", "chatd.bus.port")
    return found.importer.endswith(".port") and within(found.imported, SERVER) and not within(found.imported, *known)


RULES: dict[Callable[[Import], bool], str] = {
    impure: "chatd.wire.frames: import time",
    protocol_looks_up: "chatd_protocol.codec: from chatd import config",
    adapter_shown: "chatd.sessions.node: from chatd.adapters.sqlite import store",
    websocket_library: "chatd.wire.link: import trio_websocket",
    sqlite_library: "chatd.store.writer: import apsw",
    redis_library: "chatd.adapters.valkey.server: from redis import Redis",
    client_knows_server: "chatd_client.link: from chatd.wire import frames",
    server_knows_client: "chatd.cli: import chatd_client",
    root_imported: "chatd.sessions.node: from chatd import app",
    assembly_imported: "chatd.sessions.node: from chatd import assembly",
    port_looks_up: "chatd.store.port: from chatd.store import writer",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_imports_keep_the_rule(rule: Callable[[Import], bool]) -> None:
    """No import of ours breaks the rule, and an import made to break it does."""
    module, _, source = RULES[rule].partition(": ")
    assert any(map(rule, imports_of(module, source)))
    assert [str(found) for found in all_imports() if rule(found)] == []


def test_no_module_imports_itself_through_others() -> None:
    """There are no import cycles: every module can be understood after those that it imports."""
    modules = {found.importer for found in all_imports()}
    edges: dict[str, set[str]] = {module: set() for module in modules}
    for found in all_imports():
        target = found.imported if found.imported in modules else found.imported.rpartition(".")[0]
        if target in modules and not found.lazy:
            edges[found.importer].add(target)
    assert cycles(edges) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_relative_imports_are_understood() -> None:
    """A rule cannot be got around with dots."""
    (found,) = imports_of("chatd.sessions.node", "from ..adapters.sqlite import store")
    assert found.imported == "chatd.adapters.sqlite.store"
    (found,) = imports_of("chatd.sessions", "from .node import Node", is_package=True)
    assert found.imported == "chatd.sessions.node.Node"


def test_the_rules_speak_of_what_there_is() -> None:
    """Every module that a rule names exists: a renamed one does not slip out of its rule."""
    others = ["chatd.store.port", "chatd.bus.port"]
    names = [*PURE, *COMPOSITION_ROOTS, *IN_PROCESS, *PEERS, *CLIENTS, *others]
    roots = [ROOT, ROOT / "protocol", ROOT / "clients", ROOT / "bench", ROOT / "tests"]
    for name in names:
        path = name.replace(".", "/")
        assert any((root / path).is_dir() or (root / f"{path}.py").is_file() for root in roots), name
