"""The command line: its scenarios and their options, and what all scenarios are told of them (``common_of``)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatd_bench import outage_command
from chatd_bench.dialects.registry import dialect_names
from chatd_bench.hostile.attacks import ATTACKS
from chatd_bench.quantities import above_zero, counted, not_negative, positive
from chatd_bench.report import RESULTS
from chatd_bench.scenarios.flow import MIX_RATE
from chatd_bench.scenarios.stage import BODY_BYTES, WINDOW, Options
from chatd_bench.servers.chatd import AUDIENCE, ISSUER, running_server
from chatd_bench.servers.registry import server_names

STORM_RATE = 1000.0
SLOW_RATE = 500.0
HOSTILE_RATE = 700.0
SLOW_BODY_BYTES = 1000
SUITES = ("short", "all")
QUICK_HEARTBEAT_MS = "1000"
ABOUT = "Measures messaging servers: starts one, loads it with thousands of WebSocket clients, and checks every message."
EPILOG = f"""`COMMAND --help` tells what each does and takes; bench/README.md, what is measured, what makes a run void, and how to
read the figures. Results are saved with --save, in {RESULTS}. Exit status: 0 also for a slow or void run, 1 where a check
failed or the server could not be loaded, 2 for a wrong command line."""
CLOSED_LOOP = "A closed loop, which finds saturation, or with --open-loop a plan, for latencies."


def make_parser() -> argparse.ArgumentParser:
    """Of everything that ``python -m chatd_bench`` can do."""
    parser = argparse.ArgumentParser(prog="python -m chatd_bench", description=ABOUT, epilog=EPILOG)
    scenarios = parser.add_subparsers(dest="scenario", required=True, metavar="COMMAND", title="commands")
    common, timed, saved = _common_options(), _timed_options(), _saved_options()
    _add_flows(scenarios, common, timed, saved)
    _add_states(scenarios, common, saved)
    _add_profile(scenarios, common, timed, saved)
    _add_alone(scenarios, saved)
    return parser


def _command(scenarios: Any, name: str, parents: Sequence[argparse.ArgumentParser], what: str, more: str = "") -> Any:
    """``what`` is its line in the list of commands; ``--help`` has ``more`` behind it."""
    described = f"{what[0].upper()}{what[1:]}. {more}".strip()
    return scenarios.add_parser(name, parents=parents, help=what, description=described)


def _add_flows(scenarios: Any, *parents: argparse.ArgumentParser) -> None:
    dm = _command(scenarios, "dm", parents, "pairs of connections that write to each other", CLOSED_LOOP)
    _add(dm, "--connections", 200, "N", "all of them, two for each pair")
    group = _command(scenarios, "group", parents, "one group, all members connected, some of whom write", CLOSED_LOOP)
    _add(group, "--members", 100, "M", "of the group")
    _add(group, "--senders", 10, "K", "members who write")
    what = f"groups of eleven, all of whom write, {MIX_RATE:,.0f} messages a second by a plan"
    mix = _command(scenarios, "mix", parents, what)
    _add(mix, "--groups", 200, "G", "of eleven members each")
    storm = _command(scenarios, "storm", parents, "all reconnect at once, while others write by a plan")
    _add(storm, "--connections", 5000, "N", "who come back")
    _add(storm, "--others", 200, "N", "who write meanwhile, in pairs")
    storm.add_argument("--during", type=above_zero, default=10.0, metavar="S", help="what counts as the storm (%(default)s)")
    slow = _command(scenarios, "slow", parents, "a group some of whose members stop reading in the second half", "By a plan.")
    _add(slow, "--members", 100, "M", "of the group")
    _add(slow, "--senders", 10, "K", "members who write")
    _add(slow, "--slow", 1, "K", "members who read slowly, and do not write")
    slow.add_argument("--bytes-per-second", type=counted, default=0, metavar="B", help="that these read (0: nothing)")
    _add_hostile(scenarios, *parents)


def _add_hostile(scenarios: Any, *parents: argparse.ArgumentParser) -> None:
    what = "others write by a plan, and in turns one address attacks"
    hostile = _command(scenarios, "hostile", parents, what, "Of chatd, with the limits that it has by default.")
    _add(hostile, "--connections", 200, "N", "who write to each other, or in groups of ten")
    _add(hostile, "--rounds", 5, "N", "of --seconds in calm and as many under attack, for each of the attacks")
    named = f"only this one of {', '.join(ATTACKS)}; may be repeated"
    hostile.add_argument("--attack", action="append", choices=tuple(ATTACKS), metavar="NAME", help=named)


def _add_states(scenarios: Any, *parents: argparse.ArgumentParser) -> None:
    """What a server costs that keeps connections, or messages."""
    idle = _command(scenarios, "idle", parents, "memory and CPU of connections that are only there, with heartbeats")
    steps = "connections (2000,5000,10000)"
    idle.add_argument("--steps", type=_steps, default=[2000, 5000, 10000], metavar="C,C,...", help=steps)
    idle.add_argument("--hold", type=float, default=30.0, metavar="S", help="how long each step is held (%(default)s)")
    catchup = _command(scenarios, "catchup", parents, "what one has missed, all at once")
    _add(catchup, "--missed", 10_000, "N", "messages")
    _add(catchup, "--repeats", 5, "N", "logins that get all of them")
    catchup.add_argument("--stored", type=counted, default=0, metavar="N", help="messages in the store before (%(default)s)")
    _add(catchup, "--users", 10_000, "N", "who have written those")
    history = _command(scenarios, "history", parents, "pages of history, with few messages stored and with many",
                       "The stores are made first, at about 20,000 messages a second.")  # fmt: skip
    history.add_argument("--stored", type=_steps, default=[10_000, 10_000_000], metavar="N,N", help="(10000,10000000)")
    _add(history, "--users", 10_000, "N", "who have written them")
    _add(history, "--requests", 2000, "R", "pages of each kind")
    _add(history, "--limit", 50, "E", "events in a page")
    _command(scenarios, "quick", parents, "tiny dm, group and idle: that they run, and their checks hold", "In ten seconds.")


def _add_alone(scenarios: Any, saved: argparse.ArgumentParser) -> None:
    presence = _command(scenarios, "presence", [saved], "what it costs chatd to tell who is there")
    _add(presence, "--users", 10_000, "N", "who are online")
    _add(presence, "--watch", 50, "W", "whom each watches")
    presence.add_argument("--away-minutes", type=above_zero, default=10.0, metavar="M", help="between two changes (%(default)s)")
    presence.add_argument("--seconds", type=above_zero, default=60.0, metavar="S", help="what is measured (%(default)s)")
    presence.add_argument("--warmup", type=not_negative, default=30.0, metavar="S", help="what comes before it (%(default)s)")
    _add(presence, "--generators", 1, "N", "generator processes")
    limits = _command(scenarios, "limits", [saved], "rate limits of chatd: a check's cost, and how well nodes share one")
    limits.add_argument("--seconds", type=above_zero, default=5.0, metavar="S", help="for each measurement (%(default)s)")
    _add(limits, "--nodes", 4, "N", "that share a limit")
    search = _command(scenarios, "search", [saved], "searching and completing in a long history of chatd, made first")
    _add(search, "--users", 100_000, "N", "in the store")
    _add(search, "--messages", 1_000_000, "N", "in the store")
    _add(search, "--requests", 1000, "R", "of each kind")
    _add(search, "--searchers", 4, "S", "at once")
    _add_compare(scenarios, saved)
    outage_command.add_parser(scenarios)
    _add_many(scenarios)


def _add_compare(scenarios: Any, saved: argparse.ArgumentParser) -> None:
    compare = _command(
        scenarios, "compare", [_timed_options(), saved], "several servers, in interleaved rounds",
        "Each is installed when it is first asked for; one that cannot be is left out, and the report says why.",
    )  # fmt: skip
    compare.add_argument("--baseline", choices=server_names(), default="chatd", metavar="NAME", help="(%(default)s)")
    compare.add_argument("--peers", type=_servers, metavar="NAME,NAME,...", help=f"all of {', '.join(server_names())}")
    compare.add_argument("--scenario", dest="of", choices=("dm", "group", "both"), default="both", help="(%(default)s)")
    _add(compare, "--connections", 200, "N", "dm: all of them")
    _add(compare, "--members", 100, "M", "group: all of them")
    _add(compare, "--senders", 10, "K", "group: members who write")
    _add(compare, "--rounds", 5, "N", "in each of which every server is measured once")
    _add(compare, "--tries", 2, "N", "of a run that is void, within its round")
    _add(compare, "--generators", 1, "N", "generator processes")
    compare.add_argument("--keep-void", action="store_true", help="let void runs count, on a machine that is never quiet")
    compare.set_defaults(body_bytes=BODY_BYTES)


def _add_many(scenarios: Any) -> None:
    """What is made of results, and what makes many."""
    takes = "Takes the extra `bench`, which `make bench` installs."
    report = _command(scenarios, "report", (), "saved results as Markdown and plots, with what is to be reached", takes)
    report.add_argument("of", type=Path, nargs="*", default=[RESULTS], metavar="RESULT", help=f"files or directories ({RESULTS})")
    report.add_argument("--to", type=Path, default=RESULTS, metavar="DIR", help="where it goes (%(default)s)")
    steps = "Each step is a command line, printed before it is run; one that fails does not end the others."
    suite = _command(scenarios, "suite", (), "many runs, and their report: make bench and make bench-peers", steps)
    which = "short: chatd and the anchors; all: every scenario but search and outage, and every server"
    suite.add_argument("of", choices=SUITES, help=which)
    suite.add_argument("--seconds", type=above_zero, default=10.0, metavar="S", help="what is measured of each run (%(default)s)")
    _add(suite, "--rounds", 5, "N", "of comparisons")
    _add(suite, "--tries", 2, "N", "of a run that is void")
    suite.add_argument("--peers", type=_server_list, metavar="NAME,NAME,...", help="who is compared (all)")
    suite.add_argument("--keep-void", action="store_true", help="let void runs count in comparisons")
    suite.add_argument("--only", action="append", metavar="SCENARIO", help="of its scenarios only this one; may be repeated")
    suite.add_argument("--resume", action="store_true", help="leave out what this commit has a result of, made on this machine")
    suite.add_argument("--results", type=Path, metavar="DIR", help=f"where ({RESULTS}/short, {RESULTS}/all)")


def _add_profile(scenarios: Any, *parents: argparse.ArgumentParser) -> None:
    takes = "Takes the extra `bench`, and the right to look into processes: root, or kernel.yama.ptrace_scope at 0."
    profile = _command(scenarios, "profile", parents, "where the server's CPU time goes for a message, by py-spy", takes)
    profile.add_argument("of", choices=("dm", "group", "mix"), help="the scenario")
    _add(profile, "--connections", 200, "N", "dm: all of them")
    _add(profile, "--members", 100, "M", "group: all of them")
    _add(profile, "--senders", 10, "K", "group: members who write")
    _add(profile, "--groups", 200, "G", "mix: of eleven members each")
    _add(profile, "--samples", 200, "HZ", "looks a second")


def _add(parser: Any, name: str, default: int, letter: str, what: str) -> None:
    parser.add_argument(name, type=positive, default=default, metavar=letter, help=f"{what} (%(default)s)")


def _common_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    common = parser.add_argument_group("whom to load")
    servers, dialects = ", ".join(server_names()), ", ".join(dialect_names())
    common.add_argument("--server", choices=server_names(), default="chatd", metavar="NAME", help=f"{servers} (%(default)s)")
    common.add_argument("--encoding", choices=("cbor", "json"), help="of chatd's (cbor)")
    common.add_argument("--dialect", choices=dialect_names(), metavar="NAME", help=f"{dialects} (the server's first one)")
    _add(common, "--nodes", 1, "N", "server processes")
    common.add_argument("--url", help="load the chatd at http://HOST:PORT instead of starting a server")
    common.add_argument("--key-file", type=Path, help="with --url: private Ed25519 key (PEM) of an issuer it trusts")
    common.add_argument("--issuer", default=ISSUER, help="with --url: that issuer's name (%(default)s)")
    common.add_argument("--audience", default=AUDIENCE, help="with --url: its audience (%(default)s)")
    common.add_argument("--pid", type=positive, help="with --url: the server's process, for its CPU time and memory")
    _add(common, "--generators", 1, "N", "generator processes")
    return parser


def _timed_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    timed = parser.add_argument_group("how it is loaded")
    timed.add_argument("--open-loop", type=above_zero, metavar="RATE", help="messages a second, by a plan (else a closed loop)")
    timed.add_argument("--arrivals", choices=("poisson", "uniform"), default="poisson", help="of the plan (%(default)s)")
    timed.add_argument("--seed", default="1", help="of the plan (%(default)s)")
    timed.add_argument("--closed-loop", action="store_true", help="where a plan is the default: saturation instead")
    timed.add_argument("--window", type=positive, metavar="W", help=f"closed loop: sends in flight, of each sender ({WINDOW})")
    timed.add_argument("--seconds", type=above_zero, default=10.0, metavar="S", help="what is measured (%(default)s)")
    timed.add_argument("--warmup", type=not_negative, default=3.0, metavar="S", help="what comes before it (%(default)s)")
    timed.add_argument("--body-bytes", type=positive, metavar="B", help="of each message (120; slow: 1000)")
    return parser


def _saved_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    saved = parser.add_argument_group("where the result goes")
    saved.add_argument("--save", action="store_true", help="keep the result as JSON")
    saved.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")
    saved.add_argument("--step", help=argparse.SUPPRESS)  # of a suite, which finds by it what is done already
    return parser


def _servers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(server_names()):
        raise argparse.ArgumentTypeError(f"no server {', '.join(sorted(unknown))}; there are {', '.join(server_names())}")
    return names


def _server_list(text: str) -> str:
    """A wrong name is told at once, and not by the step that has it, after hours."""
    return ",".join(_servers(text))


def _steps(text: str) -> list[int]:
    steps = [positive(word) for word in text.split(",")]
    if steps != sorted(set(steps)):
        raise argparse.ArgumentTypeError(f"invalid value {text}: must be different numbers, the least first")
    return steps


def loaded_by(options: argparse.Namespace) -> str:
    """The scenario; of a profile, the one that is looked at."""
    return str(options.of if options.scenario == "profile" else options.scenario)


def dialect_of(options: argparse.Namespace) -> str | None:
    """None: the server's first one."""
    named: str | None = options.dialect
    return named or (f"chatd-{options.encoding}" if options.encoding else None)


def rate_of(options: argparse.Namespace) -> float | None:
    """Of the plan; None: a closed loop."""
    standard = {"mix": MIX_RATE, "storm": STORM_RATE, "slow": SLOW_RATE, "hostile": HOSTILE_RATE}.get(loaded_by(options))
    return None if options.closed_loop else options.open_loop or standard


def common_of(options: argparse.Namespace, running: bool = True) -> Options:
    """What all scenarios are told."""
    target = None
    if options.url and running:
        target = running_server(options.url, options.key_file, options.issuer, options.audience, options.pid)
    chosen: dict[str, Any] = {
        "server": options.server, "dialect": dialect_of(options), "nodes": options.nodes, "generators": options.generators,
        "running": target,
    }  # fmt: skip
    if hasattr(options, "open_loop"):
        chosen |= {
            "rate": rate_of(options), "arrivals": options.arrivals, "seed": options.seed,
            "window": options.window or WINDOW, "seconds": options.seconds, "warmup": options.warmup,
            "body_bytes": options.body_bytes or (SLOW_BODY_BYTES if options.scenario == "slow" else BODY_BYTES),
        }  # fmt: skip
    if options.scenario == "quick":
        chosen["settings"] = {"CHATD_SERVER_HEARTBEAT_MS": QUICK_HEARTBEAT_MS}
        chosen |= {"warmup": 0.3, "seconds": 1.0}
    return Options(**chosen)
