"""Many seeds, over all processors: each in a process whose sets of strings are ordered as in any other (PYTHONHASHSEED)."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from chatd.logs import configure_logging
from chatd_proof.history import encoded, write_history
from chatd_proof.simulation.world import simulate
from chatd_proof.verdict import readable

AHEAD = 4
"""Seeds handed out at once to each process."""


@dataclass(frozen=True)
class Finding:
    """One seed's: ``text`` is empty where every promise was kept. ``trace``: the digest of all that happened. ``broken``: faults
    that were found, by their question (``verdict.QUESTIONS``)."""

    seed: int
    trace: str
    text: str = ""
    records: int = 0
    figures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)


def run_seed(seed: int, keep: Path | None = None) -> Finding:
    """One run. Where a promise was broken, or a node failed, the text says how; ``keep`` gets the history."""
    try:
        outcome = simulate(seed)
    except Exception as fault:  # noqa: BLE001 - whatever a node raises is what is looked for
        return Finding(seed, "", f"seed {seed}: a node failed: {_first(fault)!r}")
    trace = blake2b(b"".join(map(encoded, outcome.records)), digest_size=8).hexdigest()
    text = ""
    if not outcome.good:
        text = "\n".join([readable(outcome.verdict), *outcome.complaints])
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            write_history(keep / f"seed-{seed}.jsonl", outcome.records, f"seed {seed}")
    return Finding(seed, trace, text, len(outcome.records), outcome.verdict.figures, outcome.faults, outcome.verdict.counts)


def _first(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def run_seeds(seeds: Iterable[int], jobs: int, keep: Path | None = None) -> Iterator[Finding]:
    """Each seed's finding, in their order. Ends its processes when it is closed."""
    spawning = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, spawning, initializer=configure_logging, initargs=("critical", "json"))
    with _hash_seed("0"), pool:
        waiting = iter(seeds)
        flying = [pool.submit(run_seed, seed, keep) for seed in islice(waiting, jobs * AHEAD)]
        try:
            while flying:
                yield flying.pop(0).result()
                flying += [pool.submit(run_seed, seed, keep) for seed in islice(waiting, 1)]
        finally:
            for one in flying:
                one.cancel()


@contextmanager
def _hash_seed(seed: str) -> Iterator[None]:
    """For the processes that are started meanwhile: this one has its own already, and gets its environment back."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = seed
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before
