"""``storm``: thousands lose their connections at one moment and all come back at once, while others write as before."""

from __future__ import annotations

import time

from chatd_bench.cast import Cast, joined, make_users, pairs
from chatd_bench.histogram import Histogram
from chatd_bench.scenarios.stage import Options, Result, Stage, run_id, stage

NAMES = ("before", "during", "after")


def run_storm(options: Options, connections: int, others: int, spans: tuple[float, float, float]) -> Result:
    """``connections`` come back; ``others`` write in pairs. ``spans``: seconds before, during and after.

    Those who come back have a generator process of their own, so that the others are measured as well as before.
    """
    writing = pairs(run_id(), others, options.generators)
    users = make_users(run_id(), connections)
    cast = joined(writing, Cast(users, homes=(options.generators,) * connections))
    storm: Result = {}
    with stage(options, cast, options.generators + 1) as on:
        on.set_up()

        def meanwhile(begun: float) -> None:
            time.sleep(max(0.0, begun + spans[0] - time.monotonic()))
            storm.update(_storm(on, options.generators, others, len(cast.users)))

        result = on.timed(meanwhile, spans)
    for span, name in zip(result["spans"], NAMES, strict=True):
        span["name"] = name
    before, during = (span["latency_ms"]["delivery"] for span in result["spans"][:2])
    if before and during:
        storm["others_p99_factor"] = during["p99"] / before["p99"]
    return {**result, "storm": storm}


def _storm(on: Stage, process: int, first: int, last: int) -> Result:
    began = time.monotonic()
    [count] = on.call("lose", first, last, only=process)
    [back] = on.call("open", first, last, count, only=process)
    seconds = time.monotonic() - began
    on.loads.append(back["cpu_s"] / seconds)
    on.call("arm", only=process)
    histogram = Histogram()
    for live_s in back["live_s"]:
        histogram.record(int(live_s * 1e6))
    return {"connections": count, "seconds": seconds, "live_ms": histogram.figures_ms(), "generator_cpu_s": back["cpu_s"]}
