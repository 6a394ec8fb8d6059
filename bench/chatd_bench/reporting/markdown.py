"""The report's text: Markdown, in sections that are there where there is something to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatd_bench.compare import PER_CPU, RATE
from chatd_bench.reporting.goals import VOID, Goal, goals
from chatd_bench.reporting.plots import draw_all
from chatd_bench.reporting.results import Results, Saved, read
from chatd_bench.scenarios.stage import BODY_BYTES
from chatd_bench.servers.registry import keeps_history

NAME = "report.md"
PROFILED = 15
"""Functions of a profile that are named."""
UNTOLD = ("seed", "arrivals", "body_bytes", "warmup", "keep_void")
TITLES = {
    "throughput.png": "Medians of the rounds; the lines go from the least to the most of them.",
    "latency.png": "From the intended time (open loop), or from the send (saturated), to the last byte at the recipient.",
    "memory.png": "Server processes only; what the kernel keeps for sockets is not in it.",
    "growth.png": "How the cost grows.",
}
UNLIKE = "with settings (`CHATD_...`) that were given, of a server that ran already, or with other versions than the newest one's"
Section = Iterator[str]


def write_report(paths: Sequence[Path], directory: Path, failed: Sequence[str] = ()) -> Path:
    """Read results from files and directories; write the plots and the report into ``directory``. Raises RunFailed.

    ``failed``: command lines that have left no result.
    """
    results = Results(read(paths), failed)
    directory.mkdir(parents=True, exist_ok=True)
    plots = draw_all(results.alike(), directory)
    path = directory / NAME
    path.write_text(report(results, plots))
    return path


def report(results: Results, plots: Sequence[str]) -> str:
    """The whole text."""
    parts: list[tuple[Callable[[Results], Section], tuple[str, ...]]] = [
        (_machine, ()), (_goals, ()), (_comparisons, ("throughput.png", "latency.png")), (_memory, ("memory.png",)),
        (_profiles, ("growth.png",)), (_others, ()), (_runs, ()),
    ]  # fmt: skip
    lines = ["# Results", ""]
    for part, pictures in parts:
        lines += part(results)
        lines += [line for name in pictures if name in plots for line in _picture(name)]
    if results.failed:
        lines += ["## What failed", "", *(f"- `{words}`" for words in results.failed)]
    return "\n".join(lines).rstrip() + "\n"


def _picture(name: str) -> list[str]:
    return [f"![{name.partition('.')[0]}]({name})", "", TITLES[name], ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    rule = ["--:" if column in right else "---" for column in range(len(head))]
    return ["", *(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)), ""]


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


# --- sections ---------------------------------------------------------------------------------------


def _machine(results: Results) -> Section:
    newest = results.all[-1]
    machine, versions = newest.machine, newest.machine.get("versions", {})
    commits = list(dict.fromkeys(one.commit for one in results.chosen))
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mib']:,} MiB; {machine['kernel']}."
    yield ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    yield f"Commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}; {results.chosen[0].time} to {newest.time}."
    yield "The generator is on the same cores. `bench/README.md` says how it is measured, and what makes a run void."
    if results.left_out:
        yield f"{results.left_out} results of other machines are left out."
    yield ""


def _goals(results: Results) -> Section:
    found, unlike = goals(results), results.alike().unlike
    yield "## What is to be reached"
    yield from _table(("what", "at least", "aim for", "measured", ""), [_goal_row(goal) for goal in found])
    for goal in found:
        if goal.void:
            how = "void" if goal.verdict == VOID else "reached in a void run, which can only be worse than a quiet one"
            yield f"- {goal.what}: {how}: {'; '.join(goal.void)}"
    if unlike:
        yield f"- {unlike} results have no part in this table or the plots: {UNLIKE}."
    yield ""


def _goal_row(goal: Goal) -> tuple[str, ...]:
    return (goal.what, goal.least, goal.aim or "-", goal.measured or "-", goal.verdict)


def _comparisons(results: Results) -> Section:
    shown = results.of("compare")
    if shown:
        yield "## Against other servers"
    for one in shown:
        told = {name: value for name, value in one.parameters.items() if name not in (*UNTOLD, "of")}
        yield ""
        yield f"`{one.of}`: {_given(told)}{_apart(one)}"
        head = (
            "server", "version", "deliveries/s", "per CPU-second", "p50 ms", "p99 ms", f"{one.baseline} / it, keeps history",
            f"{one.baseline} / it, keeps none", "the same per CPU-second", "rounds",
        )  # fmt: skip
        yield from _table(head, [_server_row(server, one) for server in one.result["servers"]], right=(2, 3, 4, 5))
        yield from _not_counted(one)
        yield ""


def _not_counted(one: Saved) -> Section:
    """Runs and servers that have no part in the table, or only by the reader's leave."""
    for server in one.result["servers"]:
        if server["void"]:
            done = "counted all the same" if one.parameters.get("keep_void") else "left out"
            runs = "1 void run" if server["void"] == 1 else f"{server['void']} void runs"
            yield f"- {server['server']}: {runs} {done}: {'; '.join(server['void_reasons'])}"
        for fault in server["failed"]:
            yield f"- {server['server']} failed: {fault.splitlines()[0]}"
    for name, why in (one.absent or {}).items():
        yield f"- {name}: could not be installed: {' '.join(why.splitlines())}"


def _server_row(server: dict[str, Any], one: Saved) -> tuple[str, ...]:
    latency, ratio = server["latency_ms"] or {}, server[f"{RATE}_ratio"]
    columns = (_ratio(ratio), "") if server["keeps_history"] else ("", _ratio(ratio))
    version = one.commit if server["server"] == "chatd" else next(iter(server["versions"].values()), "-")
    return (
        server["server"], version, _number(server[RATE]), _number(server[PER_CPU]),
        _number(latency.get("p50"), 2), _number(latency.get("p99"), 2), *columns, _ratio(server[f"{PER_CPU}_ratio"]),
        f"{len(ratio['each']) if ratio else 0} of {one.parameters['rounds']}",
    )  # fmt: skip


def _ratio(ratio: dict[str, Any] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "-"


def _memory(results: Results) -> Section:
    runs = results.of("idle")
    if not runs:
        return
    yield "## Idle connections"
    rows = []
    for run in runs:
        for step in run.result["steps"]:
            slope = step.get("rss_kib_per_connection")
            cells = (f"{_whose(run)}, {run.parameters['nodes']} processes", f"{step['connections']:,}", f"{step['rss_kib']:,}")
            rows.append((*cells, f"{step['pss_kib']:,}", _number(slope, 2), f"{step['share_of_core']:.1%}"))
    head = ("server", "connections", "RSS KiB", "PSS KiB", "RSS KiB per connection, since the step before", "of a core")
    yield from _table(head, rows, right=(1, 2, 3, 4, 5))


def _profiles(results: Results) -> Section:
    for one in results.of("profile"):
        result = one.result
        yield f"## Where the CPU time of `{one.parameters['of']}` goes ({_whose(one)})"
        yield ""
        yield f"{_given({name: value for name, value in one.parameters.items() if name not in (*UNTOLD, 'of')})}."
        yield f"{result['us_per_message']:.1f} us of CPU for each message, {result['us_per_delivery']:.2f} for each delivery;"
        yield f"by {result['samples']:,} samples."
        rows = [
            (f"`{function['function']}`", function["file"], f"{function['self_us']:.2f}", f"{function['total_us']:.2f}")
            for function in result["functions"][:PROFILED]
        ]
        head = ("function", "file", "self, us per message", "with what it calls")
        yield from _table(head, rows, right=(2, 3))


def _others(results: Results) -> Section:
    """Costs that have no line in the first table."""
    lines = [
        f"- presence, {_given(one.parameters)}{_apart(one)}: {one.result['share']:.2%} of one core"
        for one in results.of("presence")
    ]
    for one in results.of("limits"):
        checks, redis = one.result["in_process"], one.result["through_redis"]
        each = f"{checks['cpu_us_per_check']:.2f} us of CPU for a check in the process"
        lines.append(f"- rate limits{_apart(one)}: {each}; through Redis p99 {redis['latency_ms']['p99']:.2f} ms")
    for one in results.of("slow"):
        factor = one.result.get("others_p99_factor")
        slow = f"- slow readers, {_given(one.parameters)}{_apart(one)}"
        lines.append(f"{slow}: the others' p99 {_number(factor, 2)} times as long meanwhile")
    for one in results.of("hostile"):
        lines += [f"- {line}{_apart(one)}" for line in map(_attacked, one.result["attacks"])]
    for one in results.of("catchup"):
        caught = one.result["catch_up"]
        sizes = f"{caught['messages']:,}, {caught['stored']:,} stored before"
        lines.append(f"- catch-up of {sizes}{_apart(one)}: {caught['seconds'] * 1000:,.0f} ms")
    for one in results.of("outage"):
        healed = f"deliveries {one.result['delivery_heal_s']:.2f} s, presence {one.result['presence_heal_s']:.2f} s"
        lines.append(f"- Redis away ({one.parameters['how']}){_apart(one)}: healed after {healed}")
    if lines:
        yield "## Other costs"
        yield ""
        yield from lines
        yield ""


def _attacked(one: Mapping[str, Any]) -> str:
    ratio = one["ratio"]
    told = f"attacked ({one['attack']}): the others' p99"
    if ratio is None:
        return f"{told} not known, for no round counts"
    return f"{told} {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) times as long"


def _runs(results: Results) -> Section:
    flows = [one for one in results.chosen if "delivered_per_s" in one.result or "spans" in one.result]
    runs = [one for one in flows if one.scenario != "profile"]
    if not runs:
        return
    yield "## Every run"
    head = (
        "what", "stored/s", "acknowledged/s, not stored", "delivered/s", "p50", "p90", "p99", "p99.9", "max ms",
        "us of server CPU per delivery",
    )  # fmt: skip
    yield from _table(head, [row for run in runs for row in _run_rows(run)], right=range(1, len(head)))
    for run in runs:
        if run.void:
            yield f"- void: {_name(run)}: {'; '.join(run.void)}"
    yield ""


def _run_rows(run: Saved) -> Iterator[tuple[str, ...]]:
    per_cpu = run.result.get("delivered_per_cpu_s")
    cost = _number(1e6 / per_cpu, 2) if per_cpu else "-"
    for span in run.result.get("spans", [run.result]):
        latency = span["latency_ms"]["delivery"] or {}
        name = " ".join(filter(None, (_name(run), span.get("name", ""), "**void**" if run.void else "")))
        figures = (_number(latency.get(point), 2) for point in ("p50", "p90", "p99", "p99.9", "max"))
        acked = _number(span["acked_per_s"])
        columns = (acked, "") if keeps_history(run.server) else ("", acked)
        yield (name, *columns, _number(span["delivered_per_s"]), *figures, cost)


def _name(run: Saved) -> str:
    size = run.parameters.get("body_bytes", BODY_BYTES)
    told = {name: value for name, value in run.parameters.items() if name not in UNTOLD}
    told |= {"body_bytes": size} if size != BODY_BYTES else {}
    return f"`{run.scenario}` {_whose(run)} {_given(told)}"


def _whose(run: Saved) -> str:
    """The server, and what of it was not as it is where nothing is asked for."""
    return f"{run.server}{_apart(run)}"


def _apart(run: Saved) -> str:
    told = [text for text, so in (("it ran already", run.external), ("other versions", run.other_build)) if so]
    told += [f"{name}={value}" for name, value in run.settings.items()]
    return f" ({', '.join(told)})" if told else ""


def _given(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parameters.items() if value is not None)
