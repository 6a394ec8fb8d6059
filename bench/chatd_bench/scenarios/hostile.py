"""``hostile``: others write by a plan, and in turns somebody attacks: what that does to their latency.

Each attack has a server of its own, and rounds: a calm window, one under attack, and a pause in which the server gets over it,
which is not measured. Ratios are of the two windows of one round, so that what changes slowly on the machine is in both. The
server has its own default limits, and the attacker (``chatd_bench.hostile``) one address and one process. Each round counts,
or is void, by itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from chatd_bench.cast import Cast, make_users, pairs
from chatd_bench.compare import alike, spread
from chatd_bench.dialects.dialect import Channel, User
from chatd_bench.faults import RunFailed
from chatd_bench.generator import Generators
from chatd_bench.hostile.attacker import Attacker, AttackOrder
from chatd_bench.hostile.attacks import ATTACKS
from chatd_bench.machine import Cpu, read_cpu
from chatd_bench.scenarios.stage import OPEN, Options, Result, Stage, run_id, spent, stage, void_reasons, windows_of

PAUSE_SECONDS = 2.0
GROUP = 10
"""Members of a group who write, beside the attacker."""
MAX_ROUNDS = 20
"""Of three windows each; the engine takes 64."""
ATTACKER_LIMIT = 0.5


def run_hostile(options: Options, connections: int, rounds: int, attacks: Sequence[str]) -> Result:
    """``connections`` who write; for each of the attacks ``rounds`` of two windows of ``options.seconds``, calm and attacked."""
    found = []
    for place, name in enumerate(attacks, 1):
        print(f"attack {place} of {len(attacks)}: {name}", file=sys.stderr, flush=True)
        found.append(_measured(options, connections, rounds, name))
    checks = {key: sum(one["checks"][key] for one in found) for key in found[0]["checks"]}
    cpu = _added([one.pop("cpu") for one in found])
    void = [f"{one['attack']}: no round counts" for one in found if one["ratio"] is None]
    about = {key: found[0][key] for key in ("server_versions", "server_settings")}
    attacked = [{key: value for key, value in one.items() if key not in (*about, "checks")} for one in found]
    return {"attacks": attacked, "method": OPEN, "cpu": cpu, "void": void, "checks": checks, **about}


def _added(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """CPU time of all attacks' runs; the load is that of the busiest."""
    keys = ("server_s", "bus_s", "generators_s", "others_s", "stolen_s")
    added: dict[str, Any] = {key: round(sum(part[key] for part in parts), 3) for key in keys}
    return {**added, "generator_load": max(part["generator_load"] for part in parts)}


def _measured(options: Options, connections: int, rounds: int, name: str) -> Result:
    kind, begins = ATTACKS[name], run_id()
    attacker = User(connections, f"{begins}-{connections:06d}")
    options = replace(options, limited=True, body_bytes=kind.body_bytes or options.body_bytes)
    if kind.grouped:
        assert options.rate is not None, "it follows a plan"
        options = replace(options, rate=options.rate / (GROUP - 1))  # as many deliveries
        cast = _grouped(attacker, begins, connections, options.generators)
    else:
        cast = pairs(begins, connections, options.generators)
    spans = (options.seconds, options.seconds, PAUSE_SECONDS) * rounds
    with stage(options, cast) as on:
        order = AttackOrder(name, attacker.name, on.running.endpoints[0], on.running.credentials)
        with Generators(Attacker, [order]) as attackers:
            attackers.call("prepare")
            on.set_up()
            besieged = _Siege(on, attackers, spans)
            result = on.timed(besieged.watch, spans)
            attacked = attackers.answers()[0]
    kept = {key: result[key] for key in ("checks", "cpu")}
    return {"attack": name, **_judged(result, besieged.cpu, attacked), **kept, **on.about()}


def _grouped(attacker: User, begins: str, connections: int, generators: int) -> Cast:
    """Groups of GROUP who write, each with the attacker, who is in no generator process."""
    users = make_users(begins, connections)
    groups = [users[at : at + GROUP] for at in range(0, connections, GROUP)]
    channels = tuple(Channel(number, "group", f"{begins}-g{number:05d}", (*some, attacker)) for number, some in enumerate(groups))
    homes = tuple(user.number // GROUP % generators for user in users)
    return Cast((*users, attacker), channels, tuple(groups), (*homes, generators))


class _Siege:
    """Tells the attacker when, and reads what everybody has used at the ends of all windows."""

    def __init__(self, on: Stage, attackers: Generators, spans: Sequence[float]) -> None:
        self._on = on
        self._attackers = attackers
        self._spans = spans
        self.cpu: list[Cpu] = []

    def watch(self, begun: float) -> None:
        """From the beginning of the first window to the end of the last."""
        windows = windows_of(begun, self._spans)
        self._attackers.start("attack", windows[1::3])
        for moment in (begun, *(end for _, end in windows)):
            self._on.generators.sleep(moment - time.monotonic())
            self.cpu.append(read_cpu(self._on.running.pids, [*self._on.generators.pids, *self._attackers.pids]))


def _judged(result: Result, cpu: Sequence[Cpu], attacked: Sequence[Mapping[str, Any]]) -> Result:
    """By round, and all together; only rounds that are not void are in the medians."""
    rounds = [
        _round(result["spans"][at : at + 2], cpu[at : at + 3], attacked[at // 3]) for at in range(0, len(result["spans"]), 3)
    ]
    good = [one for one in rounds if not one["void"]]
    whole: Result = {"rounds": rounds, "void_reasons": alike([why for one in rounds for why in one["void"]])}
    whole |= {"ratio": spread([one["p99_ratio"] for one in good], "1")}
    whole["p50_ratio"] = spread([one["p50_ratio"] for one in good], "1")
    for part in ("calm", "attacked"):
        whole[part] = {key: median(one[part][key] for one in good) for key in good[0][part]} if good else None
    return whole


def _round(spans: Sequence[Result], cpu: Sequence[Cpu], attack: Mapping[str, Any]) -> Result:
    calm, attacked = _window(spans[0], cpu[0], cpu[1], 0.0), _window(spans[1], cpu[1], cpu[2], attack["cpu_s"])
    if not calm["p99"] or not attacked["p99"]:
        raise RunFailed("a window without any delivery: the rate is too low for its length")
    ratios = {f"{point}_ratio": attacked[point] / calm[point] for point in ("p50", "p99")}
    void = [f"{name}: {why}" for name, one in (("calm", calm), ("attacked", attacked)) for why in one.pop("void")]
    counts = {key: value for key, value in attack.items() if key != "cpu_s"}
    return {**ratios, "calm": calm, "attacked": attacked, "attacker": counts, "void": void}


def _window(span: Result, before: Cpu, after: Cpu, attacker_s: float) -> Result:
    """Latencies of the others, in ms; shares of a core; and why it is void."""
    seconds, latency, lag = span["seconds"], span["latency_ms"]["delivery"] or {}, span["latency_ms"]["lag"]
    cpu = spent(before, after, known=True)
    generators = cpu["generators_s"] - attacker_s
    void = void_reasons({**cpu, "generator_load": generators / seconds}, seconds, lag)
    if attacker_s / seconds > ATTACKER_LIMIT:
        void.append(f"the attacker used {attacker_s / seconds:.0%} of a core, which the others may have missed")
    shares = {
        "server": cpu["server_s"], "valkey": cpu["bus_s"], "generators": generators, "attacker": attacker_s,
        "others": cpu["others_s"],
    }  # fmt: skip
    points = {point: latency.get(point, 0.0) for point in ("p50", "p99", "p99.9")} | {"late_p99": lag["p99"] if lag else 0.0}
    return {**points, **{name: round(used / seconds, 4) for name, used in shares.items()}, "void": void}
