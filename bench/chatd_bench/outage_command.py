"""The command line of ``outage``, and how its result is shown."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from chatd_bench.cluster import KINDS
from chatd_bench.outage import HEAL_SECONDS
from chatd_bench.outage_run import Outage, run_outage
from chatd_bench.quantities import above_zero, not_negative, positive
from chatd_bench.report import RESULTS, latencies
from chatd_bench.scenarios.stage import Result
from chatd_bench.wire import MAX_BODY_BYTES, MIN_BODY_BYTES

if TYPE_CHECKING:
    Parsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Parsers = Any

Rows = list[tuple[str, str]]
Show = Callable[[argparse.Namespace, dict[str, Any], Rows, Result], None]


def add_parser(parsers: Parsers) -> None:
    """Its options."""
    what = "two nodes of chatd lose Redis for a while, under load, and get it back"
    described = f"{what[0].upper()}{what[1:]}. bench/README.md says what is checked."
    outage = parsers.add_parser("outage", help=what, description=described)
    outage.add_argument("--connections", type=positive, default=2000, metavar="N", help="over both nodes (%(default)s)")
    outage.add_argument("--group-size", type=positive, default=12, metavar="M", help="a multiple of 4 (%(default)s)")
    outage.add_argument("--rate", type=positive, default=300, metavar="R", help="messages a second, in all (%(default)s)")
    outage.add_argument("--body-bytes", type=positive, default=120, metavar="B", help="(%(default)s)")
    outage.add_argument("--how", choices=KINDS, action="append", help="killed, or silent; default: one after the other")
    outage.add_argument("--away", type=above_zero, default=10.0, metavar="S", help="without Redis (%(default)s)")
    outage.add_argument("--warmup", type=not_negative, default=20.0, metavar="S", help="what comes first (%(default)s)")
    outage.add_argument("--control", type=above_zero, default=55.0, metavar="S", help="without an outage before (%(default)s)")
    outage.add_argument("--settle", type=above_zero, default=10.0, metavar="S", help="after the healing (%(default)s)")
    outage.add_argument("--renew", type=above_zero, default=30.0, metavar="S", help="presence.renew_seconds (%(default)s)")
    outage.add_argument("--memory-mib", type=not_negative, default=4.0, metavar="MIB", help="taken for noise (%(default)s)")
    outage.add_argument("--generators", type=positive, default=1, metavar="N", help="generator processes (1)")
    outage.add_argument("--save", action="store_true", help="keep the result as JSON")
    outage.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where (%(default)s)")


def wrong(options: argparse.Namespace) -> str | None:
    """What argparse cannot see."""
    if options.group_size % 4 or options.group_size < 8:
        return f"--group-size {options.group_size}: must be a multiple of 4, from 8 on"
    if options.connections < options.group_size * options.generators:
        return f"--connections {options.connections}: must be a group for each generator"
    if options.rate > options.connections / 2:
        return f"--rate {options.rate}: more than one message in two seconds for each connection is no typing"
    if not MIN_BODY_BYTES <= options.body_bytes <= MAX_BODY_BYTES:
        return f"--body-bytes {options.body_bytes}: must be from {MIN_BODY_BYTES} to {MAX_BODY_BYTES}"
    return None


def run(options: argparse.Namespace, show: Show) -> None:
    """One kind of outage after the other, each on a cluster of its own. Raises RunFailed."""
    parameters = {key: getattr(options, key) for key in ("connections", "group_size", "rate", "body_bytes")}
    timing = {key: getattr(options, key) for key in ("away", "warmup", "control", "settle", "renew")}
    outage = Outage(parameters=parameters, generators=options.generators, memory_kib=options.memory_mib * 1024, **timing)
    for how in options.how or KINDS:
        result = run_outage(outage, how)
        given = {"how": how, **parameters, **timing, "memory_mib": options.memory_mib, "generators": options.generators}
        show(options, given, outage_rows(result), result)
        print(flush=True)


def outage_rows(result: Result) -> Rows:
    """For people: of one kind of outage."""
    stored, away = result["stored_while_away"], result["away_s"]
    left_over = (f"{name} {'/'.join(f'{value:.0f}' for value in values)}" for name, values in result["left_over"].items())
    load = f"generator {result['generator_load']:.0%} of a core and {result['late_s']:.2f} s late at most"
    healed = f"{result['delivery_heal_s']:.2f} s after the return all earlier messages had come, at most {HEAL_SECONDS:.0f}"
    return [
        *_phase_rows(result["phases"]),
        ("stored", f"all {stored:,} messages that were acknowledged while Redis was away, for {away:.1f} s"),
        ("healed", healed),
        ("presence", f"{result['presence_heal_s']:.2f} s after the return everybody was shown right"),
        ("typing", f"shown for {result['longest_typing_s']:.1f} s at most"),
        *_memory_rows(result["memory"]),
        ("left over", ", ".join(left_over)),
        ("load", f"{load}; the machine {result['machine_load']:.1f} cores"),
        ("checked", ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in result["checks"].items())),
    ]


def _phase_rows(phases: Result) -> Iterator[tuple[str, str]]:
    for name, phase in phases.items():
        rates = f"{phase['acked_per_s']:,.0f} acks/s, {phase['delivered_per_s']:,.0f} deliveries/s"
        yield name, f"{rates}, {phase['seconds']:.0f} s"
        for what in ("ack", "delivery"):
            yield "", f"due -> {what:<8} {latencies(phase[f'{what}_latency_ms'])}"


def _memory_rows(memory: Sequence[Result]) -> Iterator[tuple[str, str]]:
    for node, kinds in enumerate(memory):
        for kind, found in kinds.items():
            grown = f"control {found['control_growth_kib']:+,}, step {found['step_kib']:+,}, after {found['after_growth_kib']:+,}"
            noise = f"{found['allowed_noise_kib']:,} taken for noise"
            yield f"{kind.upper()} {node}", f"{found['control_kib']:,} KiB before; growth: {grown} KiB; {noise}"
