"""How a result is shown to people, and kept. Pure, but for ``save``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatd_bench.servers.registry import keeps_history

Rows = list[tuple[str, str]]
RESULTS = Path("bench/results")


def render(report: dict[str, Any]) -> str:
    """The report as a table of a few lines."""
    result = report["result"]
    given = " ".join(f"{key}={value}" for key, value in report["parameters"].items())
    rows: Rows = [("scenario", f"{report['scenario']}   {given}")]
    stored = keeps_history(report["server"])
    if "spans" in result:
        rows += _span_rows(result["spans"], stored)
    for name, show in (("steps", _idle_rows), ("storm", _storm_rows), ("pages", _page_rows), ("attacks", _attack_rows)):
        if name in result:
            rows += show(result[name])
    if "catch_up" in result:
        rows += _catch_up_rows(result["catch_up"])
    if "delivered_per_s" in result:
        rows += _flow_rows(result, stored)
    if "method" in result:
        rows.append(("method", result["method"]))
    rows += _cpu_rows(result)
    rows += [("checked", ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in result["checks"].items()))]
    rows += [("VOID", text) for text in result["void"]]
    return "\n".join(f"{name:<12} {text}" for name, text in rows)


def _flow_rows(result: Mapping[str, Any], stored: bool) -> Rows:
    """``stored``: by the server, before it acknowledges."""
    latency = result["latency_ms"]
    first, acked = ("stored", " acknowledged,") if stored else ("acknowledged", ", not stored,")
    rows = [
        (first, f"{result['acked_per_s']:>10,.0f} msg/s{acked} over {result['seconds']:.1f} s"),
        ("delivered", f"{result['delivered_per_s']:>10,.0f} msg/s"),
        ("->ack", latencies(latency["ack"])),
        ("->delivery", latencies(latency["delivery"])),
    ]
    if latency["lag"] is not None:
        rows.append(("->sent", latencies(latency["lag"])))
    return rows


def _span_rows(spans: list[dict[str, Any]], stored: bool) -> Rows:
    return [row for span in spans for row in (("", span["name"] + ":"), *_flow_rows(span, stored))]


def latencies(percentiles: Mapping[str, float] | None) -> str:
    """In one line."""
    if percentiles is None:
        return "none"
    return "   ".join(f"{name} {value:.2f}" for name, value in percentiles.items() if name != "count") + "   ms"


def _idle_rows(steps: list[dict[str, Any]]) -> Rows:
    rows = []
    for step in steps:
        text = f"{step['connections']:>7} connections   RSS {step['rss_kib']:>8,} KiB   PSS {step['pss_kib']:>8,} KiB"
        if "pss_kib_per_connection" in step:
            text += f"   slope: RSS {step['rss_kib_per_connection']:.2f}, PSS {step['pss_kib_per_connection']:.2f}"
            text += " KiB per connection"
        rows.append(("memory", f"{text}   {step['share_of_core']:.1%} of a core"))
    return rows


def _storm_rows(storm: Mapping[str, Any]) -> Rows:
    rates = f"{storm['connections'] / storm['seconds']:,.0f} a second"
    return [
        ("storm", f"{storm['connections']:,} came back within {storm['seconds']:.2f} s, {rates}"),
        ("->live", latencies(storm["live_ms"])),
    ]


def _catch_up_rows(caught: Mapping[str, Any]) -> Rows:
    took = f"{caught['messages']:,} messages in {caught['seconds'] * 1000:.0f} ms, from the connect to the last"
    return [("caught up", f"{took}; {caught['messages'] / caught['seconds']:,.0f} a second")]


def _page_rows(pages: list[dict[str, Any]]) -> Rows:
    return [
        (page["what"], f"{page['messages']:>10,} stored   {page['requests']:>6} requests   {latencies(page['latency_ms'])}")
        for page in pages
    ]


def _attack_rows(attacks: list[dict[str, Any]]) -> Rows:
    """A line for each: medians of the rounds that count; shares of a core in calm and under attack."""
    head = f"{'p99 ms, calm':>13}{'attacked':>10}   {'ratio':<20}{'of p50':<20}{'server':>14}{'attacker':>10}   rounds"
    return [("attacks", head), *((one["attack"], _attack_row(one)) for one in attacks)]


def _attack_row(one: Mapping[str, Any]) -> str:
    calm, attacked, rounds = one["calm"], one["attacked"], one["rounds"]
    why = "; ".join(one["void_reasons"])
    counted = f"{sum(not each['void'] for each in rounds)} of {len(rounds)}{f' ({why})' if why else ''}"
    if calm is None:
        return f"{counted:>90}"
    shares = f"{calm['server']:.0%} -> {attacked['server']:.0%}"
    return (
        f"{calm['p99']:>13.2f}{attacked['p99']:>10.2f}   {_spread(one['ratio']):<20}{_spread(one['p50_ratio']):<20}"
        f"{shares:>14}{attacked['attacker']:>10.0%}   {counted}"
    )


def _spread(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} - {ratio['high']:.2f})"


def _cpu_rows(result: Mapping[str, Any]) -> Rows:
    cpu = result["cpu"]
    names = {"server": "server_s", "Valkey": "bus_s", "generators": "generators_s", "others": "others_s",
             "stolen": "stolen_s"}  # fmt: skip
    shown = [f"{name} {cpu[key]:.2f} s" for name, key in names.items() if cpu[key] is not None]
    unknown = [] if cpu["server_s"] is not None else ["server not known (--pid)"]
    rows = [("CPU", ", ".join(shown + unknown))]
    if "generator_load" in cpu:
        each = f", {result['generator_us_per_message']:.2f} us a message" if "generator_us_per_message" in result else ""
        rows.append(("generator", f"{cpu['generator_load']:.0%} of a core, in the busiest process{each}"))
    if "delivered_per_cpu_s" in result:
        rows.append(("per CPU-s", f"{result['delivered_per_cpu_s']:>10,.0f} deliveries per second of all server processes"))
    return rows


def save(report: dict[str, Any], directory: Path) -> Path:
    """Write the report as JSON; its name has the scenario, the server and the time. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    name = "-".join(filter(None, (report["scenario"], report.get("server"), f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")))
    path = directory / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    return path
