"""The memory of the nodes over an outage: what was seen, and whether it grew. Pure, but for ``Samples.take``.

An outage may not leave anything behind. What grows without one (the log's caches, a heap that finds its size) is measured
first, over a *control* phase as long as the phase that is judged; more than that, and than the noise, is a failure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from chatd_bench.connection import RunFailed
from chatd_bench.machine import Memory, read_memory

EVERY_SECONDS = 1.0
NOISES = 3
"""How many times the noise is still noise."""


class Line(NamedTuple):
    """A straight line through samples: the level at their first and last moment, and the greatest distance from it."""

    first: float
    last: float
    noise: float

    @property
    def growth(self) -> float:
        """Over the whole of it."""
        return self.last - self.first


@dataclass
class Samples:
    """Memory of each node, KiB, once a second. ``marks``: the places where phases begin."""

    pids: Sequence[int]
    times: list[float] = field(default_factory=list)
    seen: list[list[Memory]] = field(default_factory=list)

    def take(self, until: float) -> None:
        """Look once a second, until this moment of the monotonic clock."""
        while True:
            self.times.append(time.monotonic())
            self.seen.append([read_memory(pid) for pid in self.pids])
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(EVERY_SECONDS, left))

    def line(self, node: int, kind: str, since: float, until: float) -> Line:
        """``kind``: rss or pss."""
        points = [
            (moment, float(getattr(seen[node], kind)))
            for moment, seen in zip(self.times, self.seen, strict=True) if since <= moment <= until
        ]  # fmt: skip
        return fitted(points)


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """By least squares."""
    middle = sum(x for x, _ in points) / len(points)
    mean = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    slope = sum((x - middle) * (y - mean) for x, y in points) / spread if spread else 0.0
    at = [mean + slope * (x - middle) for x, _ in points]
    return Line(at[0], at[-1], max(abs(y - on) for (_, y), on in zip(points, at, strict=True)))


def judge(where: str, control: Line, after: Line, between: float, bound_kib: float) -> dict[str, float]:
    """``between``: seconds between the two as a share of a phase's length. Raises RunFailed.

    Judged: the step from the end of the control to the beginning of what came after, and the growth in there.
    """
    noise = max(bound_kib, NOISES * control.noise)
    steady = max(0.0, control.growth)
    step = after.first - control.last
    for what, found, allowed in (
        ("more at the end of the settling time than before the outage", step, steady * between + noise),
        ("growth afterwards", after.growth, steady + noise),
    ):
        if found > allowed:
            raise RunFailed(
                f"memory, {where}: {found:,.0f} KiB {what}; {allowed:,.0f} are allowed, {noise:,.0f} of them for noise"
            )
    return {
        "control_kib": round(control.last), "control_growth_kib": round(control.growth), "noise_kib": round(control.noise),
        "step_kib": round(step), "after_growth_kib": round(after.growth), "allowed_noise_kib": round(noise),
    }  # fmt: skip
