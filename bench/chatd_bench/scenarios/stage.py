"""A server with its generators around it, and what a timed run on them gives.

The parent's own part; while something is timed it does nothing but read /proc at both ends of the window.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from chatd_bench.cast import Cast
from chatd_bench.dialects.dialect import MIN_BODY_BYTES
from chatd_bench.engine.build import library
from chatd_bench.engine.plan import Arrivals
from chatd_bench.faults import RunFailed
from chatd_bench.generator import Generators
from chatd_bench.histogram import merged
from chatd_bench.machine import Cpu, read_cpu
from chatd_bench.progress import Progress
from chatd_bench.servers.registry import make_server
from chatd_bench.servers.server import Needs, Running
from chatd_bench.traffic import Order, SentTable, Traffic

Result = dict[str, Any]
Windows = list[tuple[float, float]]
"""Beginning and end of each, by the monotonic clock."""

LEAD_SECONDS = 0.3
"""From the order to its beginning: time for all generators to hear it."""
GENERATOR_LIMIT = 0.9
FOREIGN_LIMIT = 0.1
LAG_LIMIT_MS = 1.0
MAX_BODY_BYTES = 60_000
BODY_BYTES, WINDOW = 120, 5
"""Where nothing else is asked for: of a message, and sends in flight of each sender in a closed loop."""
UNKNOWN = "the server's CPU time is not known (--pid): nobody can say whether somebody else was there"
CLOSED = "closed loop: a sender waits for acks, so a slow server is sent less, and its latencies look better"
OPEN = "open loop: a plan fixes every send, and latency runs from the time in the plan"


@dataclass(frozen=True)
class Options:
    """What all scenarios are told. ``rate`` in messages a second makes an open loop, ``window`` (in flight) a closed one."""

    server: str = "chatd"
    dialect: str | None = None
    nodes: int = 1
    generators: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    limited: bool = False
    """With the server's own limits, which are out of the way elsewhere."""
    running: Running | None = None
    """A server that runs already."""
    body_bytes: int = BODY_BYTES
    warmup: float = 3.0
    seconds: float = 10.0
    rate: float | None = None
    window: int = WINDOW
    arrivals: Arrivals = "poisson"
    seed: str = "1"
    observe: Callable[[Running, float], Callable[[], None]] | None = None
    """Called as the measured time begins, with the server and how long it will be; what it returns is called at the end."""

    def wrong(self) -> str | None:
        """What cannot be run, in words."""
        if not MIN_BODY_BYTES <= self.body_bytes <= MAX_BODY_BYTES:
            return f"--body-bytes {self.body_bytes}: must be from {MIN_BODY_BYTES} to {MAX_BODY_BYTES}"
        return None


def run_id() -> str:
    """Begins the name of every user, so that a run on a server with data meets nobody it knows."""
    return f"b{secrets.token_hex(4)}"


@dataclass
class Stage:
    """One server and its generators."""

    options: Options
    running: Running
    generators: Generators
    cast: Cast
    loads: list[float] = field(default_factory=list)
    """Of generator processes that are in no ``timed``, as that of a storm: the share of a core while each had its work."""

    def call(self, name: str, *arguments: Any, only: int | None = None, what: str = "", total: int = 0) -> list[Any]:
        """A step of all generators, or of one; with progress where it has a name."""
        if not what:
            return self.generators.call(name, *arguments, only=only)
        with Progress(what, total) as progress:
            return self.generators.call(name, *arguments, only=only, progress=progress)

    def set_up(self, users: int | None = None) -> None:
        """Connect, make the channels, join them, and hand everything to the engine."""
        count = len(self.cast.users) if users is None else users
        self.call("open", 0, count, what="connected", total=count)
        addresses: dict[int, str] = {}
        for some in self.call("found", what="channels", total=len(self.cast.channels)):
            addresses |= some
        members = sum(len(channel.members) for channel in self.cast.channels)
        self.call("join", addresses, what="members", total=members)
        self.call("arm")

    def cpu(self) -> Cpu:
        """Used until now."""
        return read_cpu(self.running.pids, self.generators.pids)

    def timed(self, meanwhile: Callable[[float], None] | None = None, spans: tuple[float, ...] = ()) -> Result:
        """Warm up, measure, drain, and check everything.

        With ``spans`` (in seconds) the measured time has several windows, one after another, each with its own figures.
        ``meanwhile`` is called when it begins, with that moment.
        """
        options = self.options
        spans = spans or (options.seconds,)
        if options.rate is not None:
            self.generators.call("plan", options.rate, options.warmup + sum(spans), options.arrivals)
        begin = time.monotonic() + LEAD_SECONDS
        windows = windows_of(begin + options.warmup, spans)
        in_flight = 0 if options.rate is not None else options.window
        active = range(options.generators)
        for number in active:
            self.generators.start("timed", begin, windows, windows[-1][1], in_flight, only=number)
        before, after = self._watched(begin, windows, meanwhile)
        parts = [self.generators.answers(only=number)[0] for number in active]
        checks = self._checks()
        for number, part in zip(active, parts, strict=True):
            [part["windows"]] = self.generators.call("seen", len(windows), only=number)
        return {**self._result(parts, windows, before, after), "checks": checks, **self.about()}

    def _watched(self, begin: float, windows: Windows, meanwhile: Callable[[float], None] | None) -> tuple[Cpu, Cpu]:
        """Wait until the run is over; the CPU time at the two ends of what is measured."""
        start, end = windows[0][0], windows[-1][1]
        observe = self.options.observe
        with Progress("seconds", int(end - begin)) as progress:
            self._watch(begin, start, progress)
            before = self.cpu()
            observed = observe(self.running, end - start) if observe is not None else None
            if meanwhile is not None:
                meanwhile(start)
            self._watch(begin, end, progress)
            after = self.cpu()
            if observed is not None:
                observed()
        return before, after

    def _watch(self, start: float, end: float, progress: Progress) -> None:
        """Wait until ``end``. Raises RunFailed as soon as a generator does."""
        while (left := end - time.monotonic()) > 0:
            self.generators.sleep(min(left, 0.5) if sys.stderr.isatty() else left)
            progress.show(max(0, int(time.monotonic() - start)))

    def about(self) -> Result:
        """The server that it was."""
        return {"server_versions": dict(self.running.versions), "server_settings": dict(self.running.settings)}

    def _checks(self) -> dict[str, int]:
        active = range(self.options.generators)
        sent: SentTable = {}
        for number in active:
            for channel, senders in self.generators.call("sent", only=number)[0].items():
                sent.setdefault(channel, {}).update(senders)
        for number in active:
            self.generators.start("settle", sent, only=number)
        settled = [self.generators.answers(only=number)[0] for number in active]
        orders: dict[int, int] = {}
        for part in settled:
            for channel, order in part.pop("orders").items():
                if orders.setdefault(channel, order) != order:
                    raise RunFailed(f"members of channel {channel} in different processes saw different orders")
        return {**{key: sum(part[key] for part in settled) for key in settled[0]}, "channels": len(orders)}

    def _result(self, parts: list[Result], windows: Windows, before: Cpu, after: Cpu) -> Result:
        spans = [_span([part["windows"][index] for part in parts], window) for index, window in enumerate(windows)]
        result = dict(spans[0])
        if len(spans) > 1:
            result = {"spans": spans}
        seconds = windows[-1][1] - windows[0][0]
        known = bool(self.running.pids)
        cpu = spent(before, after, known)
        cpu["generator_load"] = max([part["cpu_s"] / part["seconds"] for part in parts] + self.loads)
        totals = {key: sum(part[key] for part in parts) for key in ("sent_total", "acked_total")}
        counted: dict[str, int] = {}
        for part in parts:
            for name, count in part["counted"].items():
                counted[name] = counted.get(name, 0) + count
        result |= {"method": CLOSED if self.options.rate is None else OPEN, "cpu": cpu, **totals, "counted": counted}
        result["server_versions"] = dict(self.running.versions)
        delivered = sum(span["delivered"] for span in spans)
        served = (cpu["server_s"] or 0.0) + (cpu["bus_s"] or 0.0)
        if served:
            result["delivered_per_cpu_s"] = delivered / served
        messages = sum(span["acked"] + span["delivered"] for span in spans)
        if messages:
            result["generator_us_per_message"] = cpu["generators_s"] / messages * 1e6
        lag = merged(window["latencies"]["lag"] for part in parts for window in part["windows"]).figures_ms()
        result["void"] = void_reasons(cpu, seconds, lag if self.options.rate is not None else None)
        return result


def windows_of(at: float, spans: Sequence[float]) -> Windows:
    """One after another, from that moment on."""
    ends = list(accumulate(spans, initial=at))
    return list(pairwise(ends))


def _span(parts: list[Result], window: tuple[float, float]) -> Result:
    seconds = window[1] - window[0]
    span: Result = {"seconds": seconds}
    for key in ("sent", "acked", "delivered"):
        span[key] = sum(part[key] for part in parts)
        span[f"{key}_per_s"] = span[key] / seconds
    histograms = {name: merged(part["latencies"][name] for part in parts) for name in ("delivery", "ack", "lag")}
    span["latency_ms"] = {name: histogram.figures_ms() for name, histogram in histograms.items()}
    span["curve_ms"] = {name: histograms[name].curve_ms() for name in ("delivery", "ack")}
    return span


def spent(before: Cpu, after: Cpu, known: bool) -> dict[str, Any]:
    """CPU seconds of each; None of a server whose process is not known, and then nobody can say who the others are."""
    used = Cpu(*(round(end - begin, 3) for begin, end in zip(before, after, strict=True)))
    others = max(0.0, round(used.machine - used.server - used.bus - used.generators, 3))
    return {
        "server_s": used.server if known else None, "bus_s": used.bus if known else None,
        "generators_s": used.generators, "others_s": others if known else None, "stolen_s": used.stolen,
    }  # fmt: skip


def void_reasons(cpu: Mapping[str, Any], seconds: float, lag: Mapping[str, float] | None) -> list[str]:
    """Why a run is worth nothing, though every check held; none for one that counts. ``lag`` is of open loops."""
    reasons = []
    if cpu["generator_load"] > GENERATOR_LIMIT:
        reasons.append(
            f"the generator was the limit: it used {cpu['generator_load']:.0%} of a core (try --generators 2); the server "
            "may do more than this"
        )
    if lag is not None and lag["p99"] > LAG_LIMIT_MS:
        reasons.append(f"the generator sent too late: p99 {lag['p99']:.2f} ms behind its plan, {LAG_LIMIT_MS:.0f} ms at most")
    return reasons + foreign_reasons(cpu, seconds)


def foreign_reasons(cpu: Mapping[str, Any], seconds: float) -> list[str]:
    """Why a run is worth nothing that has no generator which could be its limit."""
    if cpu["others_s"] is None:
        return [UNKNOWN]
    foreign = (cpu["others_s"] + (cpu["stolen_s"] or 0.0)) / seconds
    if foreign <= FOREIGN_LIMIT:
        return []
    return [f"others used {foreign:.0%} of a core meanwhile, or the hypervisor took it: run it again"]


@contextmanager
def stage(
    options: Options, cast: Cast, processes: int | None = None, prepare: Callable[[Path], None] | None = None
) -> Iterator[Stage]:
    """Start the server and ``processes`` generators (those of ``options``, where nothing else is said)."""
    library()  # before anything is started: without a compiler nothing goes
    server = make_server(options.server)
    with ExitStack() as stack:
        running = options.running
        if running is None:
            server.install()
            needs = Needs(
                users=[user.name for user in cast.users], connections=len(cast.users),
                members=max((len(channel.members) for channel in cast.channels), default=2), nodes=options.nodes,
                settings=options.settings, limited=options.limited, prepare=prepare,
            )  # fmt: skip
            running = stack.enter_context(server.start(needs))
        count = options.generators if processes is None else processes
        orders = [
            Order(
                dialect=options.dialect or server.dialects[0], credentials=running.credentials,
                endpoints=running.endpoints, cast=cast, generator=number, generators=count, body_bytes=options.body_bytes,
                seed=options.seed,
            )
            for number in range(count)
        ]  # fmt: skip
        generators = stack.enter_context(Generators(Traffic, orders))
        yield Stage(options, running, generators, cast)
