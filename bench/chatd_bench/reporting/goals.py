"""What is to be reached on a machine with two cores, the generator among them; and what was measured of it. Pure.

What makes a run void, others on the machine or a generator at its limit, makes its own figures worse and never better. So a
void run that reaches a goal all the same has reached it; one that does not says nothing. Where a figure is held against
another of a void run, which noise may have made worse to our favour, nothing is reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chatd_bench.reporting.results import Results, Saved
from chatd_bench.scenarios.flow import MIX_RATE

AIM, LEAST, NOT, NONE, VOID = "aim reached", "reached", "**not reached**", "not measured", "void"
FLAT = 1.25
"""How many times as long is still the same."""
HALF = (0.4, 0.6)
"""Of saturation: what is still half."""
MIX_SECONDS = 60.0
MIX_STEP = ["mix", "--seconds", "60"]
"""The suite's command line for it."""
FEW, MANY = 10_000, 10_000_000


@dataclass(frozen=True)
class Figure:
    """One number that is held against two. ``up``: more is better."""

    value: float
    least: float | None = None
    aim: float | None = None
    up: bool = True

    def reaches(self, bound: float | None) -> bool | None:
        """None where there is no bound."""
        if bound is None:
            return None
        return self.value >= bound if self.up else self.value <= bound


@dataclass(frozen=True)
class Goal:
    """A line of the table. ``void``: why what was measured is void, also where it is reached in spite of that."""

    what: str
    least: str
    aim: str
    measured: str = ""
    verdict: str = NONE
    void: tuple[str, ...] = ()


def judged(
    what: str, least: str, aim: str, figures: Sequence[Figure], measured: str, void: Sequence[str] = (),
    flattered: Sequence[str] = (),
) -> Goal:  # fmt: skip
    """All figures have to reach their bounds; none is there where nothing was measured.

    ``void``: why the figures may be too bad; ``flattered``: why they may be too good, for what they are held against is void.
    """
    reasons = tuple(dict.fromkeys((*void, *flattered)))
    if not figures:
        return Goal(what, least, aim, measured)
    missed = any(figure.reaches(figure.least) is False for figure in figures)
    if flattered or (void and missed):
        return Goal(what, least, aim, measured, VOID, reasons)
    aims = [reached for figure in figures if (reached := figure.reaches(figure.aim)) is not None]
    verdict = AIM if aims and all(aims) else LEAST
    return Goal(what, least, aim, measured, NOT if missed else verdict, reasons)


def goals(results: Results) -> list[Goal]:
    """All of them; of the results that may be held against them (``Results.alike``)."""
    alike = results.alike()
    return [goal for make in _GOALS for goal in make(alike)]


def _saturated(results: Results) -> Iterator[Goal]:
    run = results.best("dm", nodes=1)
    texts = ("1:1 stored, acked, delivered, saturated", "30,000/s", "60,000/s")
    if run is None:
        yield Goal(*texts)
        return
    rate = min(run.result["acked_per_s"], run.result["delivered_per_s"])
    shown = f"{rate:,.0f}/s over {run.parameters['connections']:,} connections"
    yield judged(*texts, [Figure(rate, 30_000, 60_000)], shown, run.void)


def _ratios(results: Results) -> Iterator[Goal]:
    bounds = {
        "socketio-redis": ("Socket.IO + Redis (stores nothing)", 1.0, 2.0),
        "ejabberd-archive": ("ejabberd with archive", 12.0, 20.0),
        "prosody-archive": ("Prosody with archive", 12.0, 20.0),
        "python-socketio-redis": ("python-socketio + Redis", 4.0, 8.0),
    }
    for peer, (name, least, aim) in bounds.items():
        texts = (f"the same against {name}", f"{least:g} x", f"{aim:g} x")
        against = results.against("dm", peer)
        ratio = against["delivered_per_s_ratio"] if against else None
        if against is None or ratio is None:
            yield _no_ratio(texts, peer, against, results)
            continue
        yield judged(*texts, [Figure(ratio["median"], least, aim)], _spread(ratio, against))


def _no_ratio(texts: tuple[str, str, str], peer: str, against: dict[str, Any] | None, results: Results) -> Goal:
    """All its runs are void or have failed; or it could not be installed; or nobody asked for it."""
    if against is not None:
        why = (*(text.partition("\n")[0] for text in against["failed"]), *against["void_reasons"])
        return Goal(*texts, verdict=VOID, void=why or ("no run of chatd in the same round counts",))
    absent = any(peer in (one.absent or {}) for one in results.of("compare", of="dm"))
    return Goal(*texts, measured="it could not be installed" if absent else "")


def _spread(ratio: dict[str, Any], against: dict[str, Any]) -> str:
    kept = ", void runs counted" if against["keep_void"] and against["void"] else ""
    return f"{ratio['median']:.2f} x ({ratio['low']:.2f} to {ratio['high']:.2f}, {len(ratio['each'])} rounds{kept})"


def _groups(results: Results) -> Iterator[Goal]:
    for members in (100, 1000):
        run = results.best("group", members=members, nodes=1)
        texts = (f"group of {members:,}, deliveries/s", "150,000", "70 % of the C anchor")
        if run is None:
            yield Goal(*texts)
            continue
        share, told = _share_of_anchor(results, run)
        figures = [Figure(run.result["delivered_per_s"], 150_000)]
        if share is not None:
            figures.append(Figure(share, None, 0.7))
        yield judged(*texts, figures, f"{run.result['delivered_per_s']:,.0f}/s; {told}", run.void)


def _share_of_anchor(results: Results, run: Saved) -> tuple[float | None, str]:
    """In the same rounds, or else in another run; where the generator was the anchor's limit, per CPU-second of the server."""
    members = run.parameters["members"]
    against = results.against("group", "anchor-c", members=members) or {}
    for key, what in (("delivered_per_s_ratio", "deliveries/s"), ("delivered_per_cpu_s_ratio", "per CPU-second")):
        if ratio := against.get(key):
            return ratio["median"], f"{ratio['median']:.0%} of the anchor's {what}, {len(ratio['each'])} rounds"
    anchor = results.best("group", "anchor-c", members=members)
    if anchor is None:
        return None, "the anchor was not measured"
    if not anchor.void:
        share = run.result["delivered_per_s"] / anchor.result["delivered_per_s"]
        return share, f"{share:.0%} of the anchor's {anchor.result['delivered_per_s']:,.0f}/s"
    if not all("the generator was the limit" in reason for reason in anchor.void):
        return None, f"the anchor's run is void: {'; '.join(anchor.void)}"
    ours, theirs = (float(one.result["delivered_per_cpu_s"]) for one in (run, anchor))
    return ours / theirs, f"{ours / theirs:.0%} of the anchor's {theirs:,.0f} per CPU-second (the generator was its limit)"


def _mix(results: Results) -> Iterator[Goal]:
    texts = ("the mission's mix, open loop for 60 s", "all delivered, p99 < 100 ms", "p99 < 25 ms")
    flows = results.flows("mix", open_loop=True, nodes=1)
    runs = [run for run in flows if run.parameters["rate"] >= MIX_RATE]
    if not runs:
        refused = any(words.split() == MIX_STEP for words in results.failed)
        shown = "not all was taken (see what failed)" if refused else ""
        yield Goal(*texts, f"{shown}{_lesser_mix(flows)}", NOT if refused else NONE)
        return
    run = max(runs, key=lambda one: (not one.void, one.parameters["seconds"]))
    p99, seconds = _delivery(run)["p99"], run.parameters["seconds"]
    shown = f"all {run.result['checks']['deliveries_checked']:,} delivered in {seconds:g} s, p99 {p99:.1f} ms"
    if seconds < MIX_SECONDS:
        yield Goal(*texts, shown)
        return
    yield judged(*texts, [Figure(p99, 100, 25, up=False)], f"{shown}{_lesser_mix(flows)}", run.void)


def _lesser_mix(flows: Sequence[Saved]) -> str:
    """What was held of it, by plans of fewer messages a second."""
    lesser = [run for run in flows if run.parameters["rate"] < MIX_RATE and not run.void]
    return "".join(f"; at {run.parameters['rate']:,.0f}/s p99 {_delivery(run)['p99']:.1f} ms" for run in lesser)


def _delivery(run: Saved) -> dict[str, float]:
    """Where nothing was delivered, no bound is reached."""
    return run.result["latency_ms"]["delivery"] or {"p99": math.inf, "p99.9": math.inf}


def _half(results: Results) -> Iterator[Goal]:
    texts = ("1:1 at half of saturation, p99 / p99.9", "15 / 50 ms", "5 / 20 ms")
    most = results.best("dm", nodes=1)
    runs = results.flows("dm", open_loop=True, nodes=1)
    if most is None or not runs:
        yield Goal(*texts)
        return
    saturation = float(most.result["acked_per_s"])
    run = min(runs, key=lambda one: (bool(one.void), abs(one.parameters["rate"] / saturation - 0.5)))
    share, latency = run.parameters["rate"] / saturation, _delivery(run)
    shown = f"{latency['p99']:.1f} / {latency['p99.9']:.1f} ms at {run.parameters['rate']:,.0f}/s, {share:.0%} of saturation"
    if not HALF[0] <= share <= HALF[1]:
        yield Goal(*texts, shown)
        return
    figures = [Figure(latency["p99"], 15, 5, up=False), Figure(latency["p99.9"], 50, 20, up=False)]
    yield judged(*texts, figures, shown, run.void, most.void)


def _idle(results: Results) -> Iterator[Goal]:
    texts = ("idle connection, resident, as a slope", "8 KiB", "5 KiB")
    runs = [run for run in results.of("idle", "chatd", nodes=1) if len(run.result["steps"]) > 1]
    if runs:
        run = max(runs, key=lambda one: int(one.result["steps"][-1]["connections"]))
        first, last = run.result["steps"][0], run.result["steps"][-1]
        slope = (last["rss_kib"] - first["rss_kib"]) / (last["connections"] - first["connections"])
        shown = f"{slope:.2f} KiB, from {first['connections']:,} to {last['connections']:,}"
        yield judged(*texts, [Figure(slope, 8, 5, up=False)], shown, run.void)
    else:
        yield Goal(*texts)
    yield _many_idle(results)


def _many_idle(results: Results) -> Goal:
    texts = ("50,000 idle connections with heartbeats, 4 processes", "held, under 15 % of one core", "")
    shown = ""
    for run in results.of("idle", "chatd", nodes=4):
        last, beats = run.result["steps"][-1], run.result.get("checks", {}).get("heartbeats_answered", 0)
        if last["connections"] < 50_000:
            continue
        if beats >= last["connections"]:
            figure = Figure(last["share_of_core"], 0.15, up=False)
            return judged(*texts, [figure], f"held, {last['share_of_core']:.1%} of a core", run.void)
        shown = f"held, but with {beats:,} heartbeats only: not one for each connection (--hold)"
    return Goal(*texts, shown)


def _storm(results: Results) -> Iterator[Goal]:
    texts = ("reconnect storm of 5,000", "all live within 10 s, p99 of the others doubles at most", "")
    for run in results.of("storm", "chatd", nodes=1, connections=5000):
        storm = run.result["storm"]
        factor = storm.get("others_p99_factor", math.inf)  # none where nothing was delivered to them
        figures = [Figure(storm["seconds"], 10, up=False), Figure(factor, 2, up=False)]
        others = f"the others' p99 {factor:.2f} times, over {run.parameters['during']:g} s from the loss on"
        yield judged(*texts, figures, f"{storm['seconds']:.1f} s; {others}", flattered=run.void)
        return
    yield Goal(*texts)


def _history(results: Results) -> Iterator[Goal]:
    texts = ("with 10 M messages", "flat against 10 k messages", "p99 < 20 ms")
    runs = [run for run in results.of("history", "chatd") if {FEW, MANY} <= {page["messages"] for page in run.result["pages"]}]
    for what in ("newest", "anywhere"):
        name = f"history page, {what}, {texts[0]}"
        if not runs:
            yield Goal(name, *texts[1:])
            continue
        found = {page["messages"]: page["latency_ms"] for page in runs[0].result["pages"] if page["what"] == what}
        few, many = found[FEW], found[MANY]
        factor = many["p50"] / few["p50"]
        figures = [Figure(factor, FLAT, FLAT, up=False), Figure(many["p99"], None, 20, up=False)]
        shown = f"p50 {factor:.2f} times as long, p99 {many['p99']:.1f} ms"
        yield judged(name, *texts[1:], figures, shown, flattered=runs[0].void)
    yield _replay(results)


def _replay(results: Results) -> Goal:
    texts = ("replay of 10,000 missed, with 10 M messages", f"flat: {FLAT:g} times at most", "")
    many = results.of("catchup", "chatd", missed=10_000, stored=MANY)
    few = [run for stored in (FEW, 0) for run in results.of("catchup", "chatd", missed=10_000, stored=stored)]
    if not many or not few:
        return Goal(*texts)
    seconds, before = (float(runs[0].result["catch_up"]["seconds"]) for runs in (many, few))
    shown = f"{seconds:.2f} s, {seconds / before:.2f} times as long"
    return judged(*texts, [Figure(seconds / before, FLAT, up=False)], shown, many[0].void, few[0].void)


def _nodes(results: Results) -> Iterator[Goal]:
    texts = ("two processes against one", "1.5 x where CPU allows", "")
    for two in results.flows("dm", nodes=2):
        for one in results.flows("dm", nodes=1, connections=two.parameters["connections"]):
            factor = two.result["delivered_per_s"] / one.result["delivered_per_s"]
            idle = 1 - _busy(two)
            shown = f"{factor:.2f} x; with two, {max(idle, 0.0):.0%} of the machine was idle"
            yield judged(*texts, [Figure(factor, 1.5)], shown, two.void, one.void)
            return
    yield Goal(*texts)


def _busy(run: Saved) -> float:
    """The share of all cores that everybody used."""
    cpu = run.result["cpu"]
    used = sum(cpu[name] or 0.0 for name in ("server_s", "bus_s", "generators_s", "others_s", "stolen_s"))
    return float(used / (run.result["seconds"] * run.machine["cores"]))


_GOALS: Sequence[Callable[[Results], Iterator[Goal]]] = (
    _saturated, _ratios, _groups, _mix, _half, _idle, _storm, _history, _nodes,
)  # fmt: skip
