"""Many runs and one report: what ``make bench`` and ``make bench-peers`` do. Every step is a command line of its own.

A step that fails does not end the others; the exit status tells of it. Results, report and plots are in one directory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatd_bench.faults import RunFailed
from chatd_bench.reporting.markdown import write_report
from chatd_bench.reporting.results import Results, read

Step = tuple[str, ...]
HALF = "half"
"""Stands for a rate: half of what the closed loop before it has reached."""
ANCHORS = ("anchor-c", "anchor-c-gather", "anchor-py")
MIX_SECONDS = "60"
MANY = "10000000"


@dataclass(frozen=True)
class Suite:
    """Which steps, and where everything goes. ``only``: those whose scenario is one of these."""

    name: str
    directory: Path
    seconds: float = 10.0
    rounds: int = 5
    peers: str | None = None
    keep_void: bool = False
    tries: int = 2
    only: Sequence[str] = ()

    def steps(self) -> list[Step]:
        """In the order in which they are run."""
        made = _short(self) if self.name == "short" else _all(self)
        return [step for step in made if not self.only or step[0] in self.only]


def _short(suite: Suite) -> Iterator[Step]:
    """chatd and the anchors, in about six minutes."""
    timed = ("--seconds", f"{suite.seconds:g}")
    yield ("dm", *timed)
    yield ("dm", "--open-loop", HALF, *timed)
    for members in ("100", "1000"):
        yield ("group", "--members", members, *timed)
    yield ("mix", *timed)
    yield ("idle",)
    for anchor in ANCHORS:
        yield ("dm", "--server", anchor, *timed)
        for members in ("100", "1000"):
            yield ("group", "--server", anchor, "--members", members, *timed)


def _all(suite: Suite) -> Iterator[Step]:
    """Every scenario, every size, every server: in two to three hours, most of it the comparison."""
    timed = ("--seconds", f"{suite.seconds:g}")
    for connections in ("100", "200", "1000", "10000"):
        yield ("dm", "--connections", connections, *timed)
    yield ("dm", "--open-loop", HALF, *timed)
    yield ("dm", "--nodes", "2", *timed)
    for members in ("10", "100", "1000"):
        yield ("group", "--members", members, *timed)
    yield ("group", "--nodes", "2", *timed)
    yield ("mix", "--seconds", MIX_SECONDS)
    yield ("storm", *timed)
    yield ("slow", *timed)
    yield ("idle",)
    yield ("idle", "--steps", "10000,30000,50000", "--nodes", "4", "--generators", "4")
    for stored in ("0", MANY):
        yield ("catchup", "--stored", stored)
    yield ("history",)
    yield ("presence",)
    yield ("limits",)
    for scenario in ("dm", "group"):
        yield ("profile", scenario, *timed)
    kept = ("--keep-void",) if suite.keep_void else ()
    peers = ("--peers", suite.peers) if suite.peers else ()
    yield ("compare", "--rounds", str(suite.rounds), *peers, *kept, *timed)
    yield ("compare", "--scenario", "group", "--members", "1000", "--peers", ",".join(ANCHORS), "--rounds", str(suite.rounds),
           *kept, *timed)  # fmt: skip


def run_suite(suite: Suite, run: Callable[[list[str]], int]) -> int:
    """All steps, then the report; the exit status. ``run`` is given a command line, and returns its status. Raises RunFailed."""
    suite.directory.mkdir(parents=True, exist_ok=True)
    steps, failed, began = suite.steps(), [], time.monotonic()
    for number, step in enumerate(steps, 1):
        minutes = (time.monotonic() - began) / 60
        print(f"\n== {number} of {len(steps)}, after {minutes:.0f} min: {' '.join(step)}", file=sys.stderr, flush=True)
        status = _tried(step, suite, run)
        if status == 130:  # Ctrl-C
            return status
        if status:
            failed.append(" ".join(step))
    print(f"\nreport: {write_report([suite.directory], suite.directory)}", flush=True)
    for words in failed:
        print(f"FAILED: {words}", file=sys.stderr)
    return 1 if failed else 0


def _tried(step: Step, suite: Suite, run: Callable[[list[str]], int]) -> int:
    """A void run is made once more: the newest that counts is in the report. A comparison does so by itself."""
    for _ in range(suite.tries):
        before = set(suite.directory.glob("*.json"))
        try:
            status = run([*_settled(step, suite.directory), "--save", "--results", str(suite.directory)])
        except RunFailed as fault:
            print(f"FAILED: {fault}", file=sys.stderr)
            return 1
        made = sorted(set(suite.directory.glob("*.json")) - before)
        if status or step[0] == "profile" or not (made and any(one.void for one in read(made))):
            return status
    return 0


def _settled(step: Step, directory: Path) -> list[str]:
    """With half of saturation as a number. Raises RunFailed where that was not measured."""
    if HALF not in step:
        return list(step)
    best = Results(read([directory])).best("dm", nodes=1)
    if best is None:
        raise RunFailed("half of saturation is not known: dm in a closed loop has no result")
    return [f"{best.result['acked_per_s'] / 2:.0f}" if word == HALF else word for word in step]
