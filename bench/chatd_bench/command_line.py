"""The command line: its scenarios and their options, and what of them cannot be run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from chatd_bench import outage_command
from chatd_bench.outage_command import positive
from chatd_bench.scenarios.flow import MIX_RATE
from chatd_bench.scenarios.stage import Options
from chatd_bench.servers.chatd import AUDIENCE, ISSUER, running_server
from chatd_bench.servers.registry import server_names

RESULTS = Path("bench/results")
MAX_USERS = 1001
"""Names that one ``create`` can hold, and its owner."""
STORM_RATE = 1000.0
SLOW_RATE = 500.0
SLOW_BODY_BYTES = 1000
SUITES = ("short", "all")
QUICK_HEARTBEAT_MS = "1000"


def make_parser() -> argparse.ArgumentParser:
    """Of everything that ``python -m chatd_bench`` can do."""
    parser = argparse.ArgumentParser(prog="python -m chatd_bench", description="Load for messaging servers.")
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    common, timed, saved = _common_options(), _timed_options(), _saved_options()
    dm = scenarios.add_parser("dm", parents=[common, timed, saved], help="pairs of connections that write to each other")
    _add(dm, "--connections", 200, "N", "")
    group = scenarios.add_parser("group", parents=[common, timed, saved], help="one group, all members connected")
    _add(group, "--members", 100, "M", "")
    _add(group, "--senders", 10, "K", "members who write")
    mix = scenarios.add_parser("mix", parents=[common, timed, saved], help=f"groups of eleven; {MIX_RATE:,.0f} messages a second")
    _add(mix, "--groups", 200, "G", "")
    storm = scenarios.add_parser("storm", parents=[common, timed, saved], help="all reconnect at once, while others write")
    _add(storm, "--connections", 5000, "N", "who come back")
    _add(storm, "--others", 200, "N", "who write meanwhile, in pairs")
    storm.add_argument("--during", type=float, default=10.0, metavar="S", help="what counts as the storm (%(default)s)")
    slow = scenarios.add_parser("slow", parents=[common, timed, saved], help="a group some of whose members stop reading")
    _add(slow, "--members", 100, "M", "")
    _add(slow, "--senders", 10, "K", "members who write")
    _add(slow, "--slow", 1, "K", "members who read slowly, and do not write")
    slow.add_argument("--bytes-per-second", type=int, default=0, metavar="B", help="that these read (0: nothing)")
    idle = scenarios.add_parser("idle", parents=[common, saved], help="memory and CPU of connections that are only there")
    idle.add_argument("--steps", type=_steps, default=[2000, 5000, 10000], metavar="C,C,...", help="(2000,5000,10000)")
    idle.add_argument("--hold", type=float, default=30.0, metavar="S", help="before each look (%(default)s)")
    catchup = scenarios.add_parser("catchup", parents=[common, saved], help="what was missed, all at once")
    _add(catchup, "--missed", 10_000, "N", "")
    _add(catchup, "--repeats", 5, "N", "")
    catchup.add_argument("--stored", type=int, default=0, metavar="N", help="messages in the store before (%(default)s)")
    _add(catchup, "--users", 10_000, "N", "who have written those")
    history = scenarios.add_parser("history", parents=[common, saved], help="pages, with few messages stored and with many")
    history.add_argument("--stored", type=_steps, default=[10_000, 10_000_000], metavar="N,N", help="(10000,10000000)")
    _add(history, "--users", 10_000, "N", "who have written them")
    _add(history, "--requests", 2000, "R", "of each kind")
    _add(history, "--limit", 50, "E", "events in a page")
    scenarios.add_parser("quick", parents=[common, saved], help="dm, group and idle, tiny: that they run, and their checks hold")
    _add_profile(scenarios, common, timed, saved)
    _add_alone(scenarios, saved)
    return parser


def _add_alone(scenarios: Any, saved: argparse.ArgumentParser) -> None:
    presence = scenarios.add_parser("presence", parents=[saved], help="what it costs to tell who is there")
    _add(presence, "--users", 10_000, "N", "who are online")
    _add(presence, "--watch", 50, "W", "whom each watches")
    presence.add_argument("--away-minutes", type=float, default=10.0, metavar="M", help="between two changes (%(default)s)")
    presence.add_argument("--seconds", type=float, default=60.0, metavar="S", help="what is measured (%(default)s)")
    presence.add_argument("--warmup", type=float, default=30.0, metavar="S", help="what comes before it (%(default)s)")
    _add(presence, "--generators", 1, "N", "generator processes")
    limits = scenarios.add_parser("limits", parents=[saved], help="rate limits: a check's cost, and how well nodes share one")
    limits.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each measurement (%(default)s)")
    _add(limits, "--nodes", 4, "N", "that share a limit")
    search = scenarios.add_parser("search", parents=[saved], help="searching and completing in a long history, made first")
    _add(search, "--users", 100_000, "N", "")
    _add(search, "--messages", 1_000_000, "N", "")
    _add(search, "--requests", 1000, "R", "of each kind")
    _add(search, "--searchers", 4, "S", "at once")
    _add_compare(scenarios, saved)
    outage_command.add_parser(scenarios)
    _add_many(scenarios)


def _add_compare(scenarios: Any, saved: argparse.ArgumentParser) -> None:
    compare = scenarios.add_parser("compare", parents=[_timed_options(), saved], help="several servers, in interleaved rounds")
    compare.add_argument("--baseline", choices=server_names(), default="chatd", metavar="NAME", help="(%(default)s)")
    compare.add_argument("--peers", type=_servers, metavar="NAME,NAME,...", help=f"all of {', '.join(server_names())}")
    compare.add_argument("--scenario", dest="of", choices=("dm", "group", "both"), default="both", help="(%(default)s)")
    _add(compare, "--connections", 200, "N", "dm:")
    _add(compare, "--members", 100, "M", "group:")
    _add(compare, "--senders", 10, "K", "group: members who write")
    _add(compare, "--rounds", 5, "N", "")
    _add(compare, "--tries", 2, "N", "of a run that is void, within its round")
    _add(compare, "--generators", 1, "N", "generator processes")
    compare.add_argument("--keep-void", action="store_true", help="let void runs count, on a machine that is never quiet")
    compare.set_defaults(body_bytes=120)


def _add_many(scenarios: Any) -> None:
    """What is made of results, and what makes many."""
    report = scenarios.add_parser("report", help="saved results as Markdown and plots, with what is to be reached")
    report.add_argument("of", type=Path, nargs="*", default=[RESULTS], metavar="RESULT", help=f"files or directories ({RESULTS})")
    report.add_argument("--to", type=Path, default=RESULTS, metavar="DIR", help="where it goes (%(default)s)")
    suite = scenarios.add_parser("suite", help="many runs, and their report")
    suite.add_argument("of", choices=SUITES, help="short: chatd and the anchors; all: every scenario and every server")
    suite.add_argument("--seconds", type=float, default=10.0, metavar="S", help="what is measured of each run (%(default)s)")
    _add(suite, "--rounds", 5, "N", "of comparisons")
    _add(suite, "--tries", 2, "N", "of a run that is void")
    suite.add_argument("--peers", metavar="NAME,NAME,...", help="who is compared (all)")
    suite.add_argument("--keep-void", action="store_true", help="let void runs count in comparisons")
    suite.add_argument("--only", action="append", metavar="SCENARIO", help="of its scenarios only this one; may be repeated")
    suite.add_argument("--results", type=Path, metavar="DIR", help=f"where ({RESULTS}/short, {RESULTS}/all)")


def _add_profile(scenarios: Any, *parents: argparse.ArgumentParser) -> None:
    profile = scenarios.add_parser("profile", parents=parents, help="where the server's CPU time goes for a message")
    profile.add_argument("of", choices=("dm", "group"), help="the scenario")
    _add(profile, "--connections", 200, "N", "dm:")
    _add(profile, "--members", 100, "M", "group:")
    _add(profile, "--senders", 10, "K", "group: members who write")
    _add(profile, "--samples", 200, "HZ", "looks a second")


def _add(parser: argparse.ArgumentParser, name: str, default: int, letter: str, what: str) -> None:
    parser.add_argument(name, type=positive, default=default, metavar=letter, help=f"{what} (%(default)s)".strip())


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", choices=server_names(), default="chatd", metavar="NAME", help="(%(default)s)")
    common.add_argument("--encoding", choices=("cbor", "json"), help="of chatd's (cbor)")
    common.add_argument("--dialect", metavar="NAME", help="the server's first one")
    _add(common, "--nodes", 1, "N", "server processes")
    common.add_argument("--url", help="load the chatd at http://HOST:PORT instead of starting a server")
    common.add_argument("--key-file", type=Path, help="with --url: private Ed25519 key (PEM) of an issuer it trusts")
    common.add_argument("--issuer", default=ISSUER, help="with --url: that issuer's name (%(default)s)")
    common.add_argument("--audience", default=AUDIENCE, help="with --url: its audience (%(default)s)")
    common.add_argument("--pid", type=int, help="with --url: the server's process, for its CPU time and memory")
    _add(common, "--generators", 1, "N", "generator processes")
    return common


def _timed_options() -> argparse.ArgumentParser:
    timed = argparse.ArgumentParser(add_help=False)
    timed.add_argument("--open-loop", type=float, metavar="RATE", help="messages a second, by a plan (else a closed loop)")
    timed.add_argument("--arrivals", choices=("poisson", "uniform"), default="poisson", help="of the plan (%(default)s)")
    timed.add_argument("--seed", default="1", help="of the plan (%(default)s)")
    timed.add_argument("--closed-loop", action="store_true", help="where a plan is the default: saturation instead")
    _add(timed, "--window", 5, "W", "closed loop: sends in flight, each")
    timed.add_argument("--seconds", type=float, default=10.0, metavar="S", help="what is measured (%(default)s)")
    timed.add_argument("--warmup", type=float, default=3.0, metavar="S", help="what comes before it (%(default)s)")
    timed.add_argument("--body-bytes", type=positive, metavar="B", help="(120; slow: 1000)")
    return timed


def _saved_options() -> argparse.ArgumentParser:
    saved = argparse.ArgumentParser(add_help=False)
    saved.add_argument("--save", action="store_true", help="keep the result as JSON")
    saved.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")
    return saved


def _servers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(server_names()):
        raise argparse.ArgumentTypeError(f"no server {', '.join(sorted(unknown))}; there are {', '.join(server_names())}")
    return names


def _steps(text: str) -> list[int]:
    steps = [positive(word) for word in text.split(",")]
    if steps != sorted(set(steps)):
        raise ValueError(text)
    return steps


def wrong(options: argparse.Namespace) -> str | None:
    """What argparse cannot see."""
    if options.scenario == "limits":
        return None
    if options.scenario == "presence":
        least = options.generators * (options.watch + 1)
        return None if options.users >= least else f"--users {options.users}: a group for each generator takes {least}"
    if options.scenario == "search":
        least = options.searchers
        return None if options.requests >= least else f"--requests {options.requests}: at least one for each searcher, {least}"
    if options.scenario == "outage":
        return outage_command.wrong(options)
    if options.scenario in ("compare", "report", "suite"):
        return None
    if options.url and options.key_file is None:
        return "--url needs --key-file: users sign in with tokens of an issuer that the server trusts"
    return _wrong_size(options)


def _wrong_size(options: argparse.Namespace) -> str | None:
    scenario = options.of if options.scenario == "profile" else options.scenario
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
    if hasattr(options, "body_bytes"):
        return common_of(options, running=False).wrong()
    return None


def common_of(options: argparse.Namespace, running: bool = True) -> Options:
    """What all scenarios are told."""
    target = None
    if options.url and running:
        target = running_server(options.url, options.key_file, options.issuer, options.audience, options.pid)
    dialect = options.dialect or (f"chatd-{options.encoding}" if options.encoding else None)
    chosen: dict[str, Any] = {
        "server": options.server, "dialect": dialect, "nodes": options.nodes, "generators": options.generators,
        "running": target,
    }  # fmt: skip
    if hasattr(options, "open_loop"):
        standard = {"mix": MIX_RATE, "storm": STORM_RATE, "slow": SLOW_RATE}.get(options.scenario)
        chosen |= {
            "rate": None if options.closed_loop else options.open_loop or standard, "arrivals": options.arrivals,
            "seed": options.seed, "window": options.window, "seconds": options.seconds, "warmup": options.warmup,
            "body_bytes": options.body_bytes or (SLOW_BODY_BYTES if options.scenario == "slow" else 120),
        }  # fmt: skip
    if options.scenario == "quick":
        chosen["settings"] = {"CHATD_SERVER_HEARTBEAT_MS": QUICK_HEARTBEAT_MS}
        chosen |= {"warmup": 0.3, "seconds": 1.0}
    return Options(**chosen)
