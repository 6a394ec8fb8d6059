"""The command line: which scenario, how big, against whom; and where the results go.

Exit status 1 when a check failed or the server could not be loaded, 2 for a wrong command line. Being slow is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatd_bench import outage_command
from chatd_bench.connection import RunFailed
from chatd_bench.generator import raise_file_limit
from chatd_bench.machine import describe
from chatd_bench.outage_command import Parsers, positive
from chatd_bench.report import METHOD, render, save
from chatd_bench.run import Result, presence_rows, run_dm, run_group, run_idle, run_presence
from chatd_bench.server import AUDIENCE, ISSUER, Target, own_server, running_server
from chatd_bench.wire import MAX_BODY_BYTES, MIN_BODY_BYTES

RESULTS = Path("bench/results")
DEFAULT_GROUP_BOUND = 1000
MAX_USERS = 1001
"""Names that one ``create`` can hold, and its owner."""
QUICK_HEARTBEAT_MS = 1500


def main(arguments: list[str]) -> int:
    """Run what the command line says; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if fault := _wrong(options):
        parser.error(fault)
    raise_file_limit()
    try:
        if options.scenario in _OWN_SERVERS:
            return _OWN_SERVERS[options.scenario](options)
        with _target(options) as target:
            for scenario, parameters, run in _runs(options, target):
                _show(options, target, scenario, parameters, run())
    except RunFailed as fault:
        print(f"FAILED: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run_search(options: argparse.Namespace) -> int:
    """On a server of its own, whose store is made before it starts."""
    from chatd_bench.archive import Archive, build
    from chatd_bench.search import SETTINGS, run_search, search_rows

    made: list[Archive] = []
    with own_server(SETTINGS, lambda data: made.append(build(data / "chatd.db", options.users, options.messages))) as target:
        parameters = {key: getattr(options, key) for key in ("users", "messages", "requests", "searchers")}
        result = run_search(target, made[0], options.requests, options.searchers)
        _show_plainly(options, parameters, search_rows(result), result)
    return 0


def _run_presence(options: argparse.Namespace) -> int:
    parameters = {"users": options.users, "watch": options.watch}
    timing = {"warmup": options.warmup, "seconds": options.seconds, "away_minutes": options.away_minutes}
    changes = options.users / (60 * options.away_minutes)
    result = run_presence({}, parameters, options.generators, options.warmup, options.seconds, changes)
    _show_plainly(options, {**parameters, **timing, "generators": options.generators}, presence_rows(result), result)
    return 0


def _run_limits(options: argparse.Namespace) -> int:
    """The one scenario that loads no server, but runs parts of one here."""
    from chatd_bench.limits import limit_rows, run_limits

    parameters = {"seconds": options.seconds, "nodes": options.nodes}
    result = run_limits(options.seconds, options.nodes)
    _show_plainly(options, parameters, limit_rows(result), result)
    return 0


def _run_outage(options: argparse.Namespace) -> int:
    return outage_command.run(options, _show_plainly)


_OWN_SERVERS = {"limits": _run_limits, "search": _run_search, "presence": _run_presence, "outage": _run_outage}
"""Scenarios that start what they need by themselves."""


def _show_plainly(
    options: argparse.Namespace, parameters: dict[str, Any], rows: list[tuple[str, str]], result: Result
) -> None:
    given = " ".join(f"{key}={value}" for key, value in parameters.items())
    width = max(12, *(len(name) for name, _ in rows))
    shown = [("scenario", f"{options.scenario}   {given}"), *rows]
    print("\n".join(f"{name:<{width}} {text}" for name, text in shown))
    if options.save:
        report = {
            "scenario": options.scenario, "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "parameters": parameters,
            "result": result, "machine": describe(),
        }  # fmt: skip
        print(f"saved in {save(report, options.results)}")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="load the server at http://HOST:PORT instead of starting one")
    common.add_argument("--key-file", type=Path, help="with --url: private Ed25519 key (PEM) of an issuer it trusts")
    common.add_argument("--issuer", default=ISSUER, help="with --url: that issuer's name (%(default)s)")
    common.add_argument("--audience", default=AUDIENCE, help="with --url: its audience (%(default)s)")
    common.add_argument("--pid", type=int, help="with --url: the server's process, for its CPU time and memory")
    common.add_argument("--generators", type=positive, default=1, metavar="N", help="generator processes (1)")
    common.add_argument("--save", action="store_true", help="keep the result as JSON")
    common.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")
    timed = argparse.ArgumentParser(add_help=False)
    timed.add_argument("--seconds", type=float, default=10.0, metavar="S", help="what is measured (%(default)s)")
    timed.add_argument("--warmup", type=float, default=3.0, metavar="S", help="what comes before it (%(default)s)")
    timed.add_argument("--window", type=positive, default=5, metavar="W", help="sends in flight, each (%(default)s)")
    timed.add_argument("--body-bytes", type=positive, default=120, metavar="B", help="(%(default)s)")
    parser = argparse.ArgumentParser(prog="python -m chatd_bench", description="Closed-loop load for a chatd server.")
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    dm = scenarios.add_parser("dm", parents=[common, timed], help="pairs of connections that write to each other")
    dm.add_argument("--connections", type=positive, default=200, metavar="N", help="(%(default)s)")
    group = scenarios.add_parser("group", parents=[common, timed], help="one group, all members connected")
    group.add_argument("--members", type=positive, default=100, metavar="M", help="(%(default)s)")
    group.add_argument("--senders", type=positive, default=10, metavar="K", help="members who write (%(default)s)")
    idle = scenarios.add_parser("idle", parents=[common], help="the server's memory per idle connection")
    idle.add_argument("--steps", type=_steps, default=[2000, 5000, 10000], metavar="C,C,...", help="(2000,5000,10000)")
    idle.add_argument("--hold", type=float, default=15.0, metavar="S", help="before each look (%(default)s)")
    _add_own_servers(scenarios)
    outage_command.add_parser(scenarios)
    scenarios.add_parser("quick", parents=[common], help="all three, tiny: that they run, and their checks hold")
    return parser


def _add_own_servers(scenarios: Parsers) -> None:
    presence = scenarios.add_parser("presence", help="what it costs to tell who is there")
    presence.add_argument("--users", type=positive, default=10_000, metavar="N", help="who are online (%(default)s)")
    presence.add_argument("--watch", type=positive, default=50, metavar="W", help="whom each watches (%(default)s)")
    presence.add_argument("--away-minutes", type=float, default=10.0, metavar="M", help="between two changes (%(default)s)")
    presence.add_argument("--seconds", type=float, default=60.0, metavar="S", help="what is measured (%(default)s)")
    presence.add_argument("--warmup", type=float, default=30.0, metavar="S", help="what comes before it (%(default)s)")
    presence.add_argument("--generators", type=positive, default=1, metavar="N", help="generator processes (1)")
    presence.add_argument("--save", action="store_true", help="keep the result as JSON")
    presence.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")
    limits = scenarios.add_parser("limits", help="rate limits: a check's cost, and how well nodes share one")
    limits.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each measurement (%(default)s)")
    limits.add_argument("--nodes", type=positive, default=4, metavar="N", help="that share a limit (%(default)s)")
    limits.add_argument("--save", action="store_true", help="keep the result as JSON")
    limits.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")
    search = scenarios.add_parser("search", help="searching and completing in a long history, which is made first")
    search.add_argument("--users", type=positive, default=100_000, metavar="N", help="(%(default)s)")
    search.add_argument("--messages", type=positive, default=1_000_000, metavar="N", help="(%(default)s)")
    search.add_argument("--requests", type=positive, default=1000, metavar="R", help="of each kind (%(default)s)")
    search.add_argument("--searchers", type=positive, default=4, metavar="S", help="at once (%(default)s)")
    search.add_argument("--save", action="store_true", help="keep the result as JSON")
    search.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")


def _steps(text: str) -> list[int]:
    steps = [positive(word) for word in text.split(",")]
    if steps != sorted(set(steps)):
        raise ValueError(text)
    return steps


def _wrong(options: argparse.Namespace) -> str | None:
    """What argparse cannot see."""
    if options.scenario == "limits":
        return None
    if options.scenario == "outage":
        return outage_command.wrong(options)
    if options.scenario == "presence":
        least = options.generators * (options.watch + 1)
        return None if options.users >= least else f"--users {options.users}: a group for each generator takes {least}"
    if options.scenario == "search":
        least = options.searchers
        return None if options.requests >= least else f"--requests {options.requests}: at least one for each searcher, {least}"
    return _wrong_load(options)


def _wrong_load(options: argparse.Namespace) -> str | None:
    """Of the scenarios that load one server."""
    if options.url and options.key_file is None:
        return "--url needs --key-file: users sign in with tokens of an issuer that the server trusts"
    if options.scenario == "dm" and (options.connections % 2 or options.connections // 2 < options.generators):
        return f"--connections {options.connections}: must be even, and at least a pair for each generator"
    if options.scenario in ("dm", "group") and not MIN_BODY_BYTES <= options.body_bytes <= MAX_BODY_BYTES:
        return f"--body-bytes {options.body_bytes}: must be from {MIN_BODY_BYTES} to {MAX_BODY_BYTES}"
    if options.scenario == "group":
        if not 2 * options.generators <= options.members <= MAX_USERS:
            return f"--members {options.members}: must be from 2 for each generator to {MAX_USERS}"
        if options.senders > options.members:
            return f"--senders {options.senders}: more than there are members"
    return None


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[Target]:
    if options.url:
        yield running_server(options.url, options.key_file, options.issuer, options.audience, options.pid)
        return
    settings = {}
    if options.scenario == "quick":
        settings["CHATD_SERVER_HEARTBEAT_MS"] = str(QUICK_HEARTBEAT_MS)
    if options.scenario == "group" and options.members > DEFAULT_GROUP_BOUND:
        settings["CHATD_LIMITS_GROUP_MEMBERS"] = str(options.members)
    with own_server(settings) as target:
        yield target


Run = tuple[str, dict[str, Any], Callable[[], Result]]


def _runs(options: argparse.Namespace, target: Target) -> Iterator[Run]:
    generators = options.generators
    if options.scenario == "quick":
        yield from _quick_runs(target, generators)
        return
    if options.scenario == "idle":
        parameters = {"steps": options.steps, "hold": options.hold}
        yield "idle", parameters, lambda: run_idle(target, options.steps, generators, options.hold)
        return
    keys = ("connections",) if options.scenario == "dm" else ("members", "senders")
    sizes = {key: getattr(options, key) for key in (*keys, "window", "body_bytes")}
    run = run_dm if options.scenario == "dm" else run_group
    timing = {"warmup": options.warmup, "seconds": options.seconds}
    yield options.scenario, {**sizes, **timing}, lambda: run(target, sizes, generators, options.warmup, options.seconds)


def _quick_runs(target: Target, generators: int) -> Iterator[Run]:
    dm = {"connections": 10 * generators, "window": 5, "body_bytes": 120}
    yield "dm", dm, lambda: run_dm(target, dm, generators, warmup=0.3, seconds=1.0)
    group = {"members": 20, "senders": 5, "window": 2, "body_bytes": 120}
    yield "group", group, lambda: run_group(target, group, generators, warmup=0.3, seconds=1.0)
    if target.pid is not None:
        yield "idle", {"steps": [20, 60], "hold": 1.0}, lambda: run_idle(target, [20, 60], generators, hold=1.0)


def _show(
    options: argparse.Namespace, target: Target, scenario: str, parameters: dict[str, Any], result: Result
) -> None:
    report = {
        "scenario": scenario,
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "method": METHOD,
        "parameters": {**parameters, "generators": options.generators},
        "result": result,
        "machine": describe(),
        "server_settings": dict(target.settings),
    }
    print(render(report), end="\n\n", flush=True)
    if options.save:
        print(f"saved in {save(report, options.results)}")
