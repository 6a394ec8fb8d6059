"""Several servers side by side: in rounds, each round in an order drawn by lot, and the ratio taken within a round.

On a shared machine no two minutes are alike. What was measured within one round is compared, and the ratios of all rounds have a
median, with the interval in which the median of other such rounds would be (a bootstrap, 95 %).

A void run (see ``stage``) is tried again within its round; one that stays void has no part in any ratio, and the report
says so; on a machine that is never quiet ``keep_void`` has them all take part, and the report says that as well. That the
generator was the limit makes the rate void, but not the server's CPU time for a delivery. Owns nothing.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from chatd_bench.faults import NotOffered, RunFailed
from chatd_bench.scenarios.stage import Result, void_reasons
from chatd_bench.servers.registry import make_server

Measure = Callable[[str], Result]
"""One run of the server of that name. Raises RunFailed."""

RESAMPLES = 10_000
RATE, PER_CPU = "delivered_per_s", "delivered_per_cpu_s"
KEPT = ("sent_per_s", "acked_per_s", RATE, PER_CPU, "latency_ms", "curve_ms", "cpu", "generator_us_per_message", "void",
        "seconds", "checks", "server_versions")  # fmt: skip
"""What a comparison keeps of a run's result."""


@dataclass(frozen=True)
class Match:
    """Who is compared, and how often. ``tries``: runs of one server in one round, until one is not void."""

    baseline: str
    peers: tuple[str, ...]
    rounds: int
    tries: int = 2
    seed: str = "1"
    keep_void: bool = False


def install_all(match: Match) -> tuple[Match, dict[str, str]]:
    """Install everybody; what is left to compare, and why others cannot be. Raises RunFailed for the baseline."""
    absent: dict[str, str] = {}
    make_server(match.baseline).install()
    for name in match.peers:
        try:
            make_server(name).install()
        except RunFailed as fault:
            absent[name] = str(fault)
    there = tuple(name for name in match.peers if name not in absent)
    return replace(match, peers=there), absent


def compare(match: Match, measure: Measure) -> Result:
    """All rounds; every run, and the summary of each server. A server whose run fails has no ratio in that round."""
    order = [match.baseline, *match.peers]
    random = Random(match.seed)
    runs: list[Result] = []
    for number in range(1, match.rounds + 1):
        random.shuffle(order)
        for place, name in enumerate(order, 1):
            print(f"round {number} of {match.rounds}, {place} of {len(order)}: {name}", file=sys.stderr, flush=True)
            runs += _tried(1 if match.keep_void else match.tries, number, name, measure)
    return {"runs": runs, "servers": [summary(name, match, runs) for name in (match.baseline, *match.peers)]}


def _tried(tries: int, number: int, name: str, measure: Measure) -> list[Result]:
    runs: list[Result] = []
    while len(runs) < tries:
        entry: Result = {"round": number, "server": name}
        try:
            result = measure(name)
            runs.append(entry | {key: result[key] for key in KEPT if key in result})
        except (RunFailed, NotOffered) as fault:
            runs.append(entry | {"failed": str(fault), "void": ["it failed"]})
            print(f"{name} FAILED: {fault}", file=sys.stderr, flush=True)
        if not runs[-1]["void"]:
            break
    return runs


def never_well(result: Result) -> list[str]:
    """Servers each of whose runs has failed."""
    runs = result["runs"]
    return [
        name for name in (server["server"] for server in result["servers"])
        if all("failed" in run for run in runs if run["server"] == name)
    ]  # fmt: skip


def summary(name: str, match: Match, runs: Sequence[Result]) -> Result:
    """One server's figures over all rounds, and those of the baseline divided by its own."""
    own = [run for run in runs if run["server"] == name]
    result: Result = {
        "server": name, "keeps_history": make_server(name).keeps_history,
        "versions": next((run["server_versions"] for run in own if "server_versions" in run), {}),
        "void": sum(bool(run["void"]) for run in own), "failed": sorted({run["failed"] for run in own if "failed" in run}),
        "void_reasons": alike([reason for run in own for reason in run["void"]]),
    }  # fmt: skip
    for key in (RATE, PER_CPU):
        by_round = _by_round(own, key, match.keep_void)
        against = _by_round([run for run in runs if run["server"] == match.baseline], key, match.keep_void)
        ratios = [against[number] / value for number, value in by_round.items() if number in against]
        result[key] = statistics.median(by_round.values()) if by_round else None
        result[f"{key}_ratio"] = spread(ratios, match.seed)
    good = [run["latency_ms"]["delivery"] for run in own if _counts(run, RATE, match.keep_void) and run[RATE]]
    result["latency_ms"] = {point: statistics.median(each[point] for each in good) for point in ("p50", "p99")} if good else None
    return result


def _by_round(runs: Sequence[Result], key: str, keep_void: bool) -> dict[int, float]:
    return {run["round"]: run[key] for run in runs if run.get(key) and _counts(run, key, keep_void)}


def _counts(run: Result, key: str, keep_void: bool) -> bool:
    if "failed" in run:
        return False
    if key == PER_CPU and not keep_void:
        return not void_reasons({**run["cpu"], "generator_load": 0.0}, run["seconds"], None)
    return keep_void or not run["void"]


def alike(reasons: Sequence[str]) -> list[str]:
    """One of each kind: those that differ in their figures only are counted."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(re.sub(r"[\d.]+", "", reason), []).append(reason)
    return [f"{some[0]}{f' (and {len(some) - 1} like it)' if len(some) > 1 else ''}" for some in kinds.values()]


def spread(ratios: Sequence[float], seed: str) -> Result | None:
    """Median, and the interval of the medians of samples drawn from the same ratios; None where there are none."""
    if not ratios:
        return None
    random = Random(seed)
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return {
        "median": statistics.median(ratios), "low": medians[int(0.025 * RESAMPLES)], "high": medians[int(0.975 * RESAMPLES)],
        "each": list(ratios),
    }  # fmt: skip


def compare_rows(match: Match, result: Result, absent: dict[str, str]) -> list[str]:
    """For people: a line for each server, its ratio in the column of its kind."""
    baseline = match.baseline
    head = (
        f"{'server':<22}{'deliveries/s':>13}{'per CPU-s':>11}{'p50 ms':>9}{'p99 ms':>9}   "
        f"{f'{baseline} / it, keeps history':<30}{f'{baseline} / it, keeps none':<30}{'the same per CPU-second':<26}rounds"
    )
    lines = [head]
    for server in result["servers"]:
        latency = server["latency_ms"] or {}
        ratio, per_cpu = server[f"{RATE}_ratio"], server[f"{PER_CPU}_ratio"]
        columns = (_ratio(ratio), "") if server["keeps_history"] else ("", _ratio(ratio))
        lines.append(
            f"{server['server']:<22}{_number(server[RATE]):>13}{_number(server[PER_CPU]):>11}"
            f"{_number(latency.get('p50'), 2):>9}{_number(latency.get('p99'), 2):>9}   {columns[0]:<30}{columns[1]:<30}"
            f"{_ratio(per_cpu):<26}{len(ratio['each']) if ratio else 0} of {match.rounds}"
        )
    for server in result["servers"]:
        if server["void"]:
            done = "void, and counted all the same" if match.keep_void else "left out"
            runs = "1 run" if server["void"] == 1 else f"{server['void']} runs"
            lines.append(f"{server['server']}: {runs} {done}: {'; '.join(server['void_reasons'])}")
        lines += [f"{server['server']} FAILED: {fault}" for fault in server["failed"]]
    return [*lines, *(f"{name}: not compared, for it could not be installed: {why}" for name, why in absent.items())]


def _ratio(ratio: Result | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "none"


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
