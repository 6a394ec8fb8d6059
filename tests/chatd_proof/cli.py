"""The command line of the proof. Exit status: 0 every promise was kept, 1 one was broken, 2 neither can be said."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from chatd_proof.checker import check
from chatd_proof.history import BadHistory, read_history
from chatd_proof.verdict import readable

HOLDS, BROKEN, UNDECIDED = 0, 1, 2
SEEDS = 1000
PROGRESS = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m chatd_proof", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checking = commands.add_parser("check", help="judge recorded histories", description="Judge histories, each by itself.")
    checking.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON lines; see docs/histories.md")
    checking.set_defaults(command=_check)
    _add_simulate(commands)
    options = parser.parse_args(arguments)
    status: int = options.command(options)
    return status


def _add_simulate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    said = "Run nodes, clients and faults under a clock that jumps, once for each seed. The same seed is the same run."
    simulating = commands.add_parser("simulate", help="many seeds of nodes, clients and faults", description=said)
    for name, default, meaning in (
        ("--first", 0, "the first seed"), ("--seeds", SEEDS, "how many, one after the other"),
        ("--new", 0, "and so many that nobody has tried, drawn anew"), ("--jobs", os.cpu_count() or 1, "processes"),
    ):  # fmt: skip
        simulating.add_argument(name, type=int, default=default, metavar="N", help=f"{meaning} ({default})")
    simulating.add_argument("--keep", type=Path, metavar="DIR", help="where the histories of broken seeds go")
    simulating.add_argument("--traces", action="store_true", help="print each seed with the digest of its run")
    simulating.set_defaults(command=_simulate)


def _check(options: argparse.Namespace) -> int:
    worst = HOLDS
    for path in options.files:
        try:
            verdict = check(read_history(path))
        except (BadHistory, OSError) as fault:
            print(fault, file=sys.stderr)
            worst = worst or UNDECIDED
            continue
        print(readable(verdict))
        if verdict.broken:
            worst = BROKEN
        elif not verdict.proven:
            worst = worst or UNDECIDED
    return worst


def _simulate(options: argparse.Namespace) -> int:
    from chatd_proof.simulation.campaign import run_seeds  # the server's modules: `check` does without

    fresh = [SystemRandom().randrange(2**32) for _ in range(options.new)]
    if fresh:
        print(f"new seeds: {' '.join(map(str, fresh))}")
    seeds = [*range(options.first, options.first + options.seeds), *fresh]
    figures: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    broken, began = [], time.monotonic()
    for number, finding in enumerate(run_seeds(seeds, options.jobs, options.keep), 1):
        figures += finding.figures
        faults += finding.faults
        if options.traces:
            print(f"{finding.seed} {finding.trace}")
        if finding.text:
            broken.append(finding.seed)
            again = f"python -m chatd_proof simulate --first {finding.seed} --seeds 1"
            print(f"{finding.text}\nagain: {again}\n", flush=True)
        if number % PROGRESS == 0 or number == len(seeds):
            passed = time.monotonic() - began
            print(f"{number:,} of {len(seeds):,} seeds in {passed:.0f} s, {len(broken)} broken", file=sys.stderr, flush=True)
    said = ", ".join(f"{name} {count:,}" for name, count in sorted(faults.items()))
    print(f"{len(seeds):,} seeds: {figures['changes']:,} changes, {figures['sessions']:,} sessions; faults: {said}")
    print(f"BROKEN: seeds {' '.join(map(str, broken))}" if broken else "holds")
    return BROKEN if broken else HOLDS
