"""Many runs and one report: what ``make bench`` and ``make bench-peers`` do. Every step is a command line of its own.

A step that fails does not end the others; the report and the exit status tell of it. Results, report and plots are in one
directory. A suite that was interrupted goes on where it was: see ``_done``.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatd_bench.compare import RATE
from chatd_bench.faults import RunFailed
from chatd_bench.machine import describe, given_settings
from chatd_bench.reporting.markdown import write_report
from chatd_bench.reporting.plots import begin_to_draw
from chatd_bench.reporting.results import Results, Saved, read, same_machine

Step = tuple[str, ...]
HALF = "half"
"""Stands for a rate: half of what the closed loop before it has reached."""
ANCHORS = ("anchor-c", "anchor-c-gather", "anchor-py")
MIX_SECONDS = "60"
LESSER_MIXES = ("5787", "2894")
"""A half and a quarter of the mission's rate: what a machine that does not hold it does hold."""
MANY = "10000000"
INTERRUPTED = 130
"""Ctrl-C, as an exit status."""


@dataclass(frozen=True)
class Suite:
    """Which steps, and where everything goes.

    ``only``: those whose scenario is one of these. ``resume``: without those that are done.
    """

    name: str
    directory: Path
    seconds: float = 10.0
    rounds: int = 5
    peers: str | None = None
    keep_void: bool = False
    tries: int = 2
    only: Sequence[str] = ()
    resume: bool = False

    def steps(self) -> list[Step]:
        """In the order in which they are run. Raises RunFailed where ``only`` names what is not there."""
        made = list(_short(self) if self.name == "short" else _all(self))
        if unknown := set(self.only) - {step[0] for step in made}:
            there = ", ".join(dict.fromkeys(step[0] for step in made))
            raise RunFailed(f"--only {', '.join(sorted(unknown))}: the suite {self.name} has {there}")
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
    """Every size, every server, and every scenario but ``search`` and ``outage``: in two to three hours."""
    timed = ("--seconds", f"{suite.seconds:g}")
    for connections in ("100", "200", "1000"):
        yield ("dm", "--connections", connections, *timed)
    # With 5, most would wait in their sockets, unread: what may wait for the store has 20,000 places.
    yield ("dm", "--connections", "10000", "--window", "1", *timed)
    yield ("dm", "--open-loop", HALF, *timed)
    yield ("dm", "--nodes", "2", *timed)
    for members in ("10", "100", "1000"):
        yield ("group", "--members", members, *timed)
    yield ("group", "--nodes", "2", *timed)
    yield ("mix", "--seconds", MIX_SECONDS)
    for rate in LESSER_MIXES:
        yield ("mix", "--open-loop", rate, *timed)
    yield ("storm", *timed)
    yield ("slow", *timed)
    yield ("hostile", "--seconds", f"{suite.seconds / 2:g}")
    yield ("idle",)
    yield ("idle", "--steps", "10000,30000,50000", "--nodes", "4", "--generators", "4")
    for stored in ("0", MANY):
        yield ("catchup", "--stored", stored)
    yield ("history",)
    yield ("presence",)
    yield ("limits",)
    for scenario in ("dm", "group"):
        yield ("profile", scenario, *timed)
    yield ("profile", "mix", "--open-loop", LESSER_MIXES[-1], *timed)
    kept = ("--keep-void",) if suite.keep_void else ()
    rounds = ("--rounds", str(suite.rounds), "--tries", str(suite.tries), *kept)
    peers = ("--peers", suite.peers) if suite.peers else ()
    for scenario in ("dm", "group"):  # two steps: each is long, and the first need not be made again for the second
        yield ("compare", "--scenario", scenario, *peers, *rounds, *timed)
    yield ("compare", "--scenario", "group", "--members", "1000", "--peers", ",".join(ANCHORS), *rounds, *timed)


def run_suite(suite: Suite, run: Callable[[list[str]], int]) -> int:
    """All steps, then the report; the exit status. ``run`` is given a command line, and returns its status. Raises RunFailed."""
    begin_to_draw()  # what the report will take is asked for before the hours, not after them
    suite.directory.mkdir(parents=True, exist_ok=True)
    steps, failed, began = suite.steps(), [], time.monotonic()
    for number, step in enumerate(steps, 1):
        words, minutes = " ".join(step), (time.monotonic() - began) / 60
        _tell(f"\n== {number} of {len(steps)}, after {minutes:.0f} min: {words}")
        if suite.resume and (file := _done(words, suite.directory)):
            _tell(f"done already: {suite.directory / file}")
            continue
        status = _tried(step, suite, run)
        if status == INTERRUPTED:
            _tell(f"interrupted; `suite {suite.name} --resume`, with the same options, goes on with this step")
            return status
        if status:
            failed.append(words)
    print(f"\nreport: {write_report([suite.directory], suite.directory, failed)}", flush=True)
    for words in failed:
        _tell(f"FAILED: {words}")
    return 1 if failed else 0


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _done(words: str, directory: Path) -> str | None:
    """The file of a result that this step has left, and that counts: of this machine and commit, with no file changed since,
    with the server settings that are given now, and of this Python and its packages, the message path compiled or not."""
    here = describe()
    if here["commit"] == "unknown" or here["commit"].endswith("-dirty"):
        _tell(f"made again: of commit {here['commit']} nobody can say what source it is")
        return None
    for one in reversed(_saved(directory)):
        made = one.step == words and one.commit == here["commit"] and same_machine(one.machine, here)
        if made and one.made_by == (here.get("versions"), given_settings(), False) and _counts(one):
            return one.file
    return None


def _saved(directory: Path) -> list[Saved]:
    return read([directory]) if any(directory.glob("*.json")) else []


def _counts(one: Saved) -> bool:
    """A comparison with a ratio in it does; and a profile that is void, for py-spy is somebody else on the machine."""
    if one.scenario == "compare":
        return any(server[f"{RATE}_ratio"] for server in one.result["servers"] if server["server"] != one.baseline)
    return not one.void or one.scenario == "profile"


def _tried(step: Step, suite: Suite, run: Callable[[list[str]], int]) -> int:
    """A void run is made once more, and so is one that failed: where the hypervisor takes the cores, servers refuse what they
    else take. The newest that counts is in the report. A comparison does so by itself."""
    place = ("--save", "--results", str(suite.directory), "--step", " ".join(step))
    status = 0
    for _ in range(1 if step[0] == "compare" else suite.tries):
        before = {one.file for one in _saved(suite.directory)}
        try:
            status = run([*_settled(step, suite.directory), *place])
        except RunFailed as fault:
            _tell(f"FAILED: {fault}")
            status = 1
        except SystemExit as end:  # a command line that is refused, and that argparse has told of
            return int(end.code or 2)
        except Exception:  # noqa: BLE001 - a mistake in one step is shown, and does not cost the others' hours
            traceback.print_exc()
            return 1
        counted = all(_counts(one) for one in _saved(suite.directory) if one.file not in before)
        if status == INTERRUPTED or (not status and counted):
            return status
    return status


def _settled(step: Step, directory: Path) -> list[str]:
    """With half of saturation as a number. Raises RunFailed where that was not measured."""
    if HALF not in step:
        return list(step)
    saved = _saved(directory)
    best = Results([one for one in saved if one.made_by == saved[-1].made_by]).best("dm", nodes=1) if saved else None
    if best is None:
        raise RunFailed("half of saturation is not known: dm in a closed loop has no result")
    return [f"{best.result['acked_per_s'] / 2:.0f}" if word == HALF else word for word in step]
