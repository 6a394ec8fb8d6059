"""The report's plots, by matplotlib (extra ``bench``). Each writes a picture where there is something to show, and says so."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chatd_bench.faults import RunFailed
from chatd_bench.reporting.results import Results, Saved
from chatd_bench.servers.registry import make_server, server_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
TICKS = (0, 50, 90, 99, 99.9, 99.99, 99.999)
LAST = 99.999
"""The rest of a curve is its one worst sample, which is told beside it."""
KEEPS, KEEPS_NOT, OURS = "#2a6f97", "#b0b7bf", "#e07a1f"
Curve = Sequence[tuple[float, float]]
Lines = dict[str, list[tuple[float, float]]]


def draw_all(results: Results, directory: Path) -> list[str]:
    """Every plot for which there is something; their file names. Raises RunFailed without matplotlib."""
    begin_to_draw()
    plots: dict[str, Callable[[Results], Figure | None]] = {
        "throughput": _throughput, "latency": _latency, "memory": _memory, "growth": _growth,
    }  # fmt: skip
    made = []
    for name, draw in plots.items():
        figure = draw(results)
        if figure is not None:
            figure.savefig(directory / f"{name}.png", dpi=DPI, metadata={"Software": None})
            made.append(f"{name}.png")
    return made


def begin_to_draw() -> None:
    """Without a screen. Raises RunFailed where there is no matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as fault:
        raise RunFailed("plots take matplotlib: pip install 'chatd[bench]', or `make bench`") from fault
    mpl.use("Agg")


def _figure(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _tidy(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


# --- throughput -----------------------------------------------------------------------------------


class Bar(NamedTuple):
    """One server's; ``low`` and ``high``: how far the rounds reach below and above."""

    server: str
    value: float
    low: float = 0.0
    high: float = 0.0


RATES = (("delivered_per_s", "deliveries/s"), ("delivered_per_cpu_s", "deliveries per CPU-second"))


def _throughput(results: Results) -> Figure | None:
    """Of comparisons the median of the rounds, and from the least to the most of them; of others the single runs."""
    panels = [
        (f"{one.of} {_size(one)}: {what}", _compared(one, key))
        for of in ("dm", "group") for one in results.of("compare", of=of) for key, what in RATES
    ] or [
        (f"{scenario} {size}: {what}", bars)
        for scenario, name in (("dm", "connections"), ("group", "members"))
        for size in sorted({run.parameters[name] for run in results.of(scenario)}) for key, what in RATES
        if len(bars := _single(results, scenario, {name: size}, key)) > 1
    ]  # fmt: skip
    if not panels:
        return None
    figure, places = _figure(len(panels) // 2, 2, 3.6)
    for axes, (title, bars) in zip(places, panels, strict=True):
        _bars(axes, title, bars)
    return figure


def _size(one: Saved) -> str:
    return str(one.parameters["connections" if one.of == "dm" else "members"])


def _compared(one: Saved, key: str) -> list[Bar]:
    return [
        Bar(server["server"], value, *_reach(one, server["server"], key, value))
        for server in one.result["servers"] if (value := server[key])
    ]  # fmt: skip


def _single(results: Results, scenario: str, size: dict[str, int], key: str) -> list[Bar]:
    runs = [results.best(scenario, name, nodes=1, **size) for name in server_names()]
    return [Bar(run.server, float(run.result[key])) for run in runs if run and run.result.get(key)]


def _bars(axes: Axes, title: str, bars: Sequence[Bar]) -> None:
    from matplotlib.ticker import NullFormatter

    ordered = sorted(bars, key=lambda bar: bar.value)
    colours = [
        OURS if bar.server == "chatd" else KEEPS if make_server(bar.server).keeps_history else KEEPS_NOT for bar in ordered
    ]
    spread = [[bar.low for bar in ordered], [bar.high for bar in ordered]]
    names, values = [bar.server for bar in ordered], [bar.value for bar in ordered]
    axes.barh(names, values, xerr=spread, color=colours, ecolor="#444444", capsize=2)
    axes.set_xscale("log")  # the slowest is a thousandth of the quickest, and would be seen as nothing
    axes.set_xlim(left=min(values) / 10)
    axes.xaxis.set_minor_formatter(NullFormatter())
    _tidy(axes, f"{title}, logarithmic", "", "")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(_plain)
    axes.legend(handles=_legend(), fontsize=7, loc="lower right")


def _plain(value: float, _place: object) -> str:
    return f"{value:,.10g}"


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    named = {"chatd, keeps history": OURS, "keeps history": KEEPS, "keeps none": KEEPS_NOT}
    return [Patch(color=colour, label=name) for name, colour in named.items()]


def _reach(one: Saved, name: str, key: str, median: float) -> tuple[float, float]:
    """How far below and above the median the rounds lie."""
    counted = one.parameters.get("keep_void")
    runs = [run for run in one.result["runs"] if run["server"] == name and run.get(key) and (counted or not run["void"])]
    values = [float(run[key]) for run in runs] or [median]
    return max(0.0, median - min(values)), max(0.0, max(values) - median)


# --- latency --------------------------------------------------------------------------------------


def _latency(results: Results) -> Figure | None:
    """By percentile, stretched at the end, where it matters: of single runs, and of all servers of an open-loop comparison."""
    curves = {
        f"{run.scenario} {run.parameters['rate']:,.0f}/s{' (void)' if run.void else ''}": run.result["curve_ms"]["delivery"]
        for scenario in ("dm", "group", "mix") for run in results.flows(scenario, open_loop=True)
    } | {
        f"{run.scenario}, saturated{' (void)' if run.void else ''}": run.result["curve_ms"]["delivery"]
        for scenario in ("dm", "group") if (run := results.best(scenario))
    }  # fmt: skip
    panels = [("to the delivery, chatd", curves)] if curves else []
    for one in results.of("compare"):
        if servers := _server_curves(one):
            loop = f"{one.parameters['rate']:,.0f}/s" if one.open_loop else "saturated"
            panels.append((f"to the delivery, {one.of}, {loop}", servers))
    if not panels:
        return None
    figure, places = _figure(len(panels), 1, 4.2)
    for axes, (title, some) in zip(places, panels, strict=True):
        for name, curve in some.items():
            axes.plot(*_stretched(curve), label=name, linewidth=1.5)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
        axes.set_xticks([_place(tick) for tick in TICKS], [f"{tick:g} %" for tick in TICKS])
        _tidy(axes, title, "of the deliveries took at most", "ms")
        axes.legend(fontsize=7, loc="upper left")
    return figure


def _server_curves(one: Saved) -> dict[str, Curve]:
    """The median of the rounds, point by point."""
    curves: dict[str, list[Curve]] = {}
    for run in one.result["runs"]:
        if "curve_ms" in run and (one.parameters.get("keep_void") or not run["void"]):
            curves.setdefault(run["server"], []).append(run["curve_ms"]["delivery"])
    return {
        name: [(points[0][0], statistics.median(ms for _, ms in points)) for points in zip(*some, strict=True)]
        for name, some in sorted(curves.items())
    }


def _stretched(curve: Curve) -> tuple[list[float], list[float]]:
    points = [(_place(percent), max(ms, 0.001)) for percent, ms in curve if percent <= LAST]
    return [x for x, _ in points], [y for _, y in points]


def _place(percent: float) -> float:
    """Each further nine is one step."""
    return -math.log10(1 - percent / 100)


# --- memory and growth ------------------------------------------------------------------------------


def _memory(results: Results) -> Figure | None:
    runs = [run for run in results.of("idle") if len(run.result["steps"]) > 1]
    if not runs:
        return None
    figure, (memory, share) = _figure(1, 2, 4.2)
    for run in runs:
        steps = run.result["steps"]
        counts = [step["connections"] for step in steps]
        nodes = f"{run.server}, {run.parameters.get('nodes', 1)} processes"
        slope = (steps[-1]["rss_kib"] - steps[0]["rss_kib"]) / (counts[-1] - counts[0])
        label = f"{nodes}: {slope:.2f} KiB each"
        memory.plot(counts, [step["rss_kib"] / 1024 for step in steps], marker="o", label=label)
        share.plot(counts, [step["share_of_core"] * 100 for step in steps], marker="o", label=nodes)
    _tidy(memory, "resident, idle connections", "connections", "MiB")
    _tidy(share, "CPU for heartbeats", "connections", "% of one core")
    for axes in (memory, share):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    return figure


def _growth(results: Results) -> Figure | None:
    """What becomes of a message's cost when there is more of something."""
    panels: list[tuple[str, str, Lines]] = [
        ("connections, 1:1", "us of server CPU per message", _cost(results, "dm", "connections")),
        ("members of the group", "us of server CPU per delivery", _cost(results, "group", "members")),
        ("messages in the store", "ms, p99 of a page", _pages(results)),
        ("processes", "deliveries/s", _by_nodes(results)),
    ]
    panels = [
        (x, y, several) for x, y, lines in panels
        if (several := {name: points for name, points in lines.items() if len(points) > 1})
    ]  # fmt: skip
    if not panels:
        return None
    figure, places = _figure((len(panels) + 1) // 2, 2, 3.6)
    for axes, (x, y, lines) in zip(places, panels, strict=False):
        for label, points in lines.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
        sizes = sorted({size for points in lines.values() for size, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(_plain)
        axes.set_ylim(bottom=0)
        _tidy(axes, "", x, y)
        axes.legend(fontsize=8)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    return figure


def _cost(results: Results, scenario: str, parameter: str) -> Lines:
    lines: Lines = {}
    for server in server_names():
        by_size: dict[float, float] = {}
        for run in reversed(results.flows(scenario, server, nodes=1)):
            if run.result.get("delivered_per_cpu_s"):
                by_size[run.parameters[parameter]] = 1e6 / run.result["delivered_per_cpu_s"]
        lines[server] = list(by_size.items())
    return lines


def _pages(results: Results) -> Lines:
    lines: Lines = {}
    for run in results.of("history"):
        for page in run.result["pages"]:
            lines.setdefault(page["what"], []).append((page["messages"], page["latency_ms"]["p99"]))
    return lines


def _by_nodes(results: Results) -> Lines:
    lines: Lines = {}
    for scenario, parameter in (("dm", "connections"), ("group", "members")):
        for run in results.flows(scenario):
            name = f"{scenario} {run.parameters[parameter]}"
            lines.setdefault(name, []).append((run.parameters["nodes"], run.result["delivered_per_s"]))
    return lines
