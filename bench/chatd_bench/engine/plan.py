"""When who writes to what: made before the run, and the same for the same seed. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Arrivals = Literal["poisson", "uniform"]


@dataclass(frozen=True)
class Plan:
    """``due``: us from the beginning of the run, ascending; ``places``: what the engine calls a sender in a channel."""

    due: array[int]
    places: array[int]


def make_plan(places: Sequence[int], rate: float, seconds: float, seed: str, arrivals: Arrivals = "poisson") -> Plan:
    """``rate`` messages a second over ``seconds``, each from a place drawn by lot.

    Poisson arrivals are those of many independent people, with the bursts that they make; uniform ones are evenly spaced.
    """
    random = Random(seed)
    due, drawn = array("q"), array("I")
    moment = 0.0
    gap = 1e6 / rate
    while True:
        moment += random.expovariate(1.0) * gap if arrivals == "poisson" else gap
        if moment >= seconds * 1e6:
            return Plan(due, drawn)
        due.append(int(moment))
        drawn.append(random.choice(places))
