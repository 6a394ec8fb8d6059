"""What of a command line cannot be run, though argparse takes it: told in one line before anything is started."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from chatd_bench import outage_command
from chatd_bench.command_line import common_of, dialect_of, loaded_by, rate_of
from chatd_bench.faults import RunFailed
from chatd_bench.scenarios.hostile import GROUP, MAX_ROUNDS
from chatd_bench.scenarios.stage import Options
from chatd_bench.servers.registry import make_server

MAX_USERS = 1001
"""Names that one ``create`` can hold, and its owner."""
CLOSED_ONLY = "--window is of a closed loop: give --closed-loop too"


def wrong(options: argparse.Namespace) -> str | None:
    """In words; None where all of it can be run."""
    check = _ALONE.get(options.scenario, _wrong_load)
    return check(options) or _wrong_loop(options)


def writable(directory: Path) -> None:
    """Make the directory, and see that a file can be in it. Raises RunFailed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as fault:
        raise RunFailed(f"{directory}: results cannot be written there: {fault.strerror}") from fault


# --- scenarios that are of chatd alone, and what is made of runs -----------------------------------


def _nothing(_options: argparse.Namespace) -> str | None:
    return None


def _wrong_presence(options: argparse.Namespace) -> str | None:
    least = options.generators * (options.watch + 1)
    return None if options.users >= least else f"--users {options.users}: a group for each generator takes {least}"


def _wrong_search(options: argparse.Namespace) -> str | None:
    least = options.searchers
    return None if options.requests >= least else f"--requests {options.requests}: at least one for each searcher, {least}"


def _wrong_suite(options: argparse.Namespace) -> str | None:
    return _wrong_peers(options.peers.split(",") if options.peers else [], "chatd")


def _wrong_hostile(options: argparse.Namespace) -> str | None:
    """The attacker speaks chatd's own protocol, to a server whose limits are known."""
    if options.server != "chatd" or options.url or options.nodes != 1:
        return "hostile is of one chatd that is started here: without --server, --url and --nodes"
    if options.closed_loop:
        return "--closed-loop: hostile follows a plan, for a closed loop waits where it is kept waiting"
    if options.connections % GROUP or options.connections // GROUP < options.generators:
        return f"--connections {options.connections}: must be groups of {GROUP}, at least one for each generator"
    if options.rounds > MAX_ROUNDS:
        return f"--rounds {options.rounds}: {MAX_ROUNDS} at most"
    return _wrong_load(options)


def _wrong_compare(options: argparse.Namespace) -> str | None:
    """The sizes of both scenarios, where both are run."""
    of = ("dm", "group") if options.of == "both" else (options.of,)
    sizes = (found for scenario in of if (found := _wrong_size(options, scenario)))
    return _wrong_peers(options.peers or [], options.baseline) or next(sizes, Options(body_bytes=options.body_bytes).wrong())


def _wrong_peers(peers: list[str], baseline: str) -> str | None:
    if baseline in peers:
        return f"--peers {baseline}: it is what the others are compared with"
    if twice := sorted({name for name in peers if peers.count(name) > 1}):
        return f"--peers {', '.join(twice)}: named twice"
    return None


_ALONE: Mapping[str, Callable[[argparse.Namespace], str | None]] = {
    "limits": _nothing, "report": _nothing, "presence": _wrong_presence, "search": _wrong_search, "suite": _wrong_suite,
    "compare": _wrong_compare, "hostile": _wrong_hostile, "outage": outage_command.wrong,
}  # fmt: skip


# --- those that any server can do ---------------------------------------------------------------------


def _wrong_load(options: argparse.Namespace) -> str | None:
    dialect, understood = dialect_of(options), make_server(options.server).dialects
    if dialect is not None and dialect not in understood:
        return f"{dialect}: {options.server} understands {', '.join(understood)}"
    if fault := _wrong_url(options) if options.url else _wrong_own(options):
        return fault
    if fault := _wrong_size(options, loaded_by(options)):
        return fault
    if options.scenario == "idle" and not 0 < options.hold < math.inf:
        return f"--hold {options.hold:g}: must be above 0 and finite"
    return common_of(options, running=False).wrong() if hasattr(options, "body_bytes") else None


def _wrong_own(options: argparse.Namespace) -> str | None:
    return "--pid is of a server that runs already: give --url too" if options.pid is not None else None


def _wrong_url(options: argparse.Namespace) -> str | None:
    """A server that runs already is taken as it is."""
    if options.key_file is None:
        return "--url needs --key-file: users sign in with tokens of an issuer that the server trusts"
    if options.server != "chatd":
        return f"--url with --server {options.server}: only a chatd that runs already can be loaded"
    if options.nodes != 1:
        return f"--url with --nodes {options.nodes}: nodes are not started, the one at the URL is loaded"
    if options.scenario == "history" or getattr(options, "stored", 0):
        return f"--url with {options.scenario} of stored messages: the store of a server that runs already cannot be filled"
    if options.pid is None and options.scenario in ("idle", "profile"):
        return f"--url with {options.scenario} needs --pid: it looks into the server's process"
    if options.pid is not None and not Path(f"/proc/{options.pid}").is_dir():
        return f"--pid {options.pid}: there is no such process"
    return None


def _wrong_size(options: argparse.Namespace, scenario: str) -> str | None:
    pairs = {"dm": "connections", "storm": "others"}.get(scenario)
    if pairs is not None:
        count = getattr(options, pairs)
        if count % 2 or count // 2 < options.generators:
            return f"--{pairs} {count}: must be even, and at least a pair for each generator"
    if scenario in ("group", "slow"):
        if not 2 * options.generators <= options.members <= MAX_USERS:
            return f"--members {options.members}: must be from 2 for each generator to {MAX_USERS}"
        if options.senders + getattr(options, "slow", 0) > options.members:
            return f"--senders {options.senders}: more than there are members"
    return None


def _wrong_loop(options: argparse.Namespace) -> str | None:
    """Of what is a plan or a closed loop, and not both."""
    if not hasattr(options, "open_loop"):
        return None
    if options.closed_loop and options.open_loop is not None:
        return "--closed-loop with --open-loop: it is one or the other"
    if options.window is not None and rate_of(options) is not None:
        return f"{CLOSED_ONLY}, in place of --open-loop" if options.open_loop is not None else CLOSED_ONLY
    return None
