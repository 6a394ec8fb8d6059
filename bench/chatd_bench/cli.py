"""What the command line (``command_line``) asks for: which scenario, how big, against whom; and where the results go.

Exit status 1 when a check failed or the server could not be loaded, 2 for a wrong command line. Being slow is none; a run
that is void says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from chatd_bench import outage_command
from chatd_bench.command_check import writable, wrong
from chatd_bench.command_line import common_of, make_parser
from chatd_bench.faults import NotOffered, RunFailed
from chatd_bench.generator import raise_file_limit
from chatd_bench.hostile.attacks import ATTACKS
from chatd_bench.machine import describe, given_settings
from chatd_bench.report import RESULTS, render, save
from chatd_bench.scenarios.flow import run_dm, run_group, run_mix
from chatd_bench.scenarios.hostile import run_hostile
from chatd_bench.scenarios.idle import run_idle
from chatd_bench.scenarios.slow import run_slow
from chatd_bench.scenarios.stage import WINDOW, Options, Result
from chatd_bench.scenarios.storm import run_storm
from chatd_bench.servers.registry import make_server, server_names

Run = tuple[str, dict[str, Any], Callable[[Options], Result]]


def main(arguments: list[str]) -> int:
    """Run what the command line says; the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if fault := wrong(options):
        parser.error(fault)
    raise_file_limit()
    try:
        for directory in _places(options):
            writable(directory)
        if options.scenario == "suite":
            return _run_suite(options)
        if options.scenario in _ALONE:
            _ALONE[options.scenario](options)
            return 0
        common = common_of(options)
        for scenario, parameters, run in _runs(options, common):
            _show(options, common, scenario, parameters, run(common))
    except (RunFailed, NotOffered) as fault:
        print(f"FAILED: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _places(options: argparse.Namespace) -> Iterator[Path]:
    """Where something will be written: found out before the run, and not after it."""
    if options.scenario == "suite":
        yield _suite_place(options)
    elif options.scenario == "report":
        yield options.to
    elif options.save:
        yield options.results


def _suite_place(options: argparse.Namespace) -> Path:
    place: Path = options.results or RESULTS / options.of
    return place


def _run_suite(options: argparse.Namespace) -> int:
    from chatd_bench.suite import Suite, run_suite

    chosen = {key: getattr(options, key) for key in ("seconds", "rounds", "tries", "peers", "keep_void", "resume")}
    return run_suite(Suite(options.of, _suite_place(options), only=options.only or (), **chosen), main)


# --- scenarios that are of chatd alone ------------------------------------------------------------


def _run_search(options: argparse.Namespace) -> None:
    """On a server of its own, whose store is made before it starts."""
    from chatd_bench.archive import Archive, build
    from chatd_bench.search import SETTINGS, run_search, search_rows
    from chatd_bench.server import own_server

    made: list[Archive] = []
    with own_server(SETTINGS, lambda data: made.append(build(data / "chatd.db", options.users, options.messages))) as target:
        parameters = {key: getattr(options, key) for key in ("users", "messages", "requests", "searchers")}
        result = run_search(target, made[0], options.requests, options.searchers)
        _show_plainly(options, parameters, search_rows(result), result)


def _run_presence(options: argparse.Namespace) -> None:
    from chatd_bench.scenarios.presence import presence_rows, run_presence

    parameters = {"users": options.users, "watch": options.watch}
    timing = {"warmup": options.warmup, "seconds": options.seconds, "away_minutes": options.away_minutes}
    changes = options.users / (60 * options.away_minutes)
    result = run_presence({}, parameters, options.generators, options.warmup, options.seconds, changes)
    _show_plainly(options, {**parameters, **timing, "generators": options.generators}, presence_rows(result), result)


def _run_limits(options: argparse.Namespace) -> None:
    """The one scenario that loads no server, but runs parts of one here."""
    from chatd_bench.limits import limit_rows, run_limits

    parameters = {"seconds": options.seconds, "nodes": options.nodes}
    result = run_limits(options.seconds, options.nodes)
    _show_plainly(options, parameters, limit_rows(result), result)


def _run_compare(options: argparse.Namespace) -> None:
    """Rounds of ``dm`` or ``group`` on several servers; or of one after the other. Raises RunFailed for who never ran well."""
    from chatd_bench.compare import Match, compare, compare_rows, install_all, never_well

    peers = tuple(options.peers or (name for name in server_names() if name != options.baseline))
    match, absent = install_all(Match(options.baseline, peers, options.rounds, options.tries, options.seed, options.keep_void))
    loop = {key: getattr(options, key) for key in ("generators", "warmup", "seconds", "body_bytes", "seed")}
    loop["window"], failed = options.window or WINDOW, list[str]()
    for scenario in ("dm", "group") if options.of == "both" else (options.of,):
        keys = ("connections",) if scenario == "dm" else ("members", "senders")
        sizes = {key: getattr(options, key) for key in keys}
        run = run_dm if scenario == "dm" else run_group

        def measure(name: str, run: Any = run, sizes: dict[str, int] = sizes) -> Result:
            return cast(Result, run(Options(server=name, rate=options.open_loop, **loop), *sizes.values()))

        result = compare(match, measure)
        rounds = {"rounds": match.rounds, "keep_void": match.keep_void, "rate": options.open_loop}
        parameters = {"of": scenario, **sizes, **rounds, **loop}
        print(" ".join(f"{key}={value}" for key, value in parameters.items()))
        print("\n".join(compare_rows(match, result, absent)), end="\n\n", flush=True)
        compared = {"scenario": "compare", "server": scenario, "baseline": match.baseline, "absent": absent}
        _save(options, {**compared, "parameters": parameters, "result": result})
        failed += [f"{scenario} on {name}" for name in never_well(result)]
    if failed:
        raise RunFailed(f"every run of {', '.join(failed)} has failed")


def _run_outage(options: argparse.Namespace) -> None:
    outage_command.run(options, _show_plainly)


# --- what is made of runs ---------------------------------------------------------------------------


def _run_report(options: argparse.Namespace) -> None:
    from chatd_bench.reporting.markdown import write_report

    print(write_report(options.of, options.to))


def _run_profile(options: argparse.Namespace) -> None:
    """A run of ``dm``, ``group`` or ``mix`` on one server, with py-spy beside it."""
    from chatd_bench.profile import Profiler, as_python, profile_rows, profiled

    keys = {"dm": ("connections",), "group": ("members", "senders"), "mix": ("groups",)}[options.of]
    scenarios: Mapping[str, Callable[..., Result]] = {"dm": run_dm, "group": run_group, "mix": run_mix}
    sizes = {key: getattr(options, key) for key in keys}
    common = common_of(options)
    with Profiler(options.samples) as profiler:
        to = replace(common, observe=profiler.observe, settings={**common.settings, **as_python()})
        run = scenarios[options.of](to, *sizes.values())
        result = profiled(run, profiler.seen())
    loop = {"rate": common.rate} if common.rate is not None else {"window": common.window}
    parameters = {"of": options.of, **sizes, **loop, "seconds": common.seconds, "nodes": common.nodes, "samples": options.samples}
    _show_plainly(options, parameters, profile_rows(result), result)


_ALONE: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "search": _run_search, "presence": _run_presence, "limits": _run_limits, "outage": _run_outage,
    "compare": _run_compare, "report": _run_report, "profile": _run_profile,
}  # fmt: skip


def _show_plainly(
    options: argparse.Namespace, parameters: dict[str, Any], rows: list[tuple[str, str]], result: Result
) -> None:
    given = " ".join(f"{key}={value}" for key, value in parameters.items())
    width = max(12, *(len(name) for name, _ in rows))
    shown = [("scenario", f"{options.scenario}   {given}"), *rows]
    print("\n".join(f"{name:<{width}} {text}" for name, text in shown))
    server = {"server": options.server} if hasattr(options, "server") else {}
    _save(options, {"scenario": options.scenario, **server, "parameters": parameters, "result": result})


def _save(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Where it is asked for; with the time, the machine, the settings that were given, and the step of a suite that it is.

    ``external``: of a server that ran already, whose version, build and settings nobody knows.
    """
    if options.save:
        more: dict[str, Any] = {"step": options.step} if getattr(options, "step", None) else {}
        more |= {"external": True} if getattr(options, "url", None) else {"settings": given_settings()}
        whole = {**report, **more, "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "machine": describe()}
        print(f"saved in {save(whole, options.results)}")


# --- those that any server can do ---------------------------------------------------------------------


def _runs(options: argparse.Namespace, common: Options) -> Iterator[Run]:
    given = vars(options)

    def chosen(*keys: str) -> dict[str, Any]:
        return {key: given[key] for key in keys}

    match options.scenario:
        case "dm":
            yield "dm", chosen("connections"), lambda to: run_dm(to, given["connections"])
        case "group":
            yield "group", chosen("members", "senders"), lambda to: run_group(to, given["members"], given["senders"])
        case "mix":
            yield "mix", chosen("groups"), lambda to: run_mix(to, given["groups"])
        case "storm":
            spans = (common.seconds, given["during"], common.seconds)
            sizes = chosen("connections", "others", "during")
            yield "storm", sizes, lambda to: run_storm(to, given["connections"], given["others"], spans)
        case "slow":
            sizes = chosen("members", "senders", "slow", "bytes_per_second")
            yield "slow", sizes, lambda to: run_slow(to, *sizes.values())
        case "hostile":
            attacks = given["attack"] or list(ATTACKS)
            sizes = {**chosen("connections", "rounds"), "attacks": attacks}
            yield "hostile", sizes, lambda to: run_hostile(to, *sizes.values())
        case "idle":
            yield "idle", chosen("steps", "hold"), lambda to: run_idle(to, given["steps"], given["hold"])
        case "quick":
            yield from _quick_runs(common)
        case _:
            yield from _history_runs(options.scenario, chosen)


def _history_runs(scenario: str, chosen: Callable[..., dict[str, Any]]) -> Iterator[Run]:
    from chatd_bench.scenarios.history import run_catchup, run_history  # they need the store's own library

    if scenario == "catchup":
        sizes = chosen("missed", "repeats", "stored", "users")
        yield scenario, sizes, lambda to: run_catchup(to, *sizes.values())
    else:
        sizes = chosen("stored", "users", "requests", "limit")
        yield scenario, sizes, lambda to: run_history(to, *sizes.values())


def _quick_runs(common: Options) -> Iterator[Run]:
    pairs = 10 * common.generators
    yield "dm", {"connections": pairs}, lambda to: run_dm(to, pairs)
    yield "group", {"members": 20, "senders": 5}, lambda to: run_group(to, 20, 5)
    if common.running is None:  # one that runs already has a heartbeat of its own, which is not due so soon
        yield "idle", {"steps": [20, 60], "hold": 1.0}, lambda to: run_idle(to, [20, 60], 1.0)


def _show(
    options: argparse.Namespace, common: Options, scenario: str, parameters: dict[str, Any], result: Result
) -> None:
    timing: dict[str, Any] = {}
    if "method" in result:
        loop = {"rate": common.rate, "arrivals": common.arrivals} if common.rate is not None else {"window": common.window}
        timing = {"body_bytes": common.body_bytes, **loop, "warmup": common.warmup, "seconds": common.seconds}
    report = {
        "scenario": scenario,
        "server": common.server,
        "dialect": common.dialect or make_server(common.server).dialects[0],
        "parameters": {**parameters, **timing, "nodes": common.nodes, "generators": common.generators},
        "result": result,
    }
    print(render(report), end="\n\n", flush=True)
    _save(options, report)
