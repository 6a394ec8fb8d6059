"""How a result is shown to people, and kept. Pure, but for ``save``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

METHOD = "closed loop: a sender waits for acks, so a slow server is sent less, and its latencies look better"


def render(report: dict[str, Any]) -> str:
    """The report as a table of a few lines."""
    result = report["result"]
    given = " ".join(f"{key}={value}" for key, value in report["parameters"].items())
    rows = [("scenario", f"{report['scenario']}   {given}")]
    rows += _idle_rows(result) if report["scenario"] == "idle" else _flow_rows(result)
    rows += _cpu_rows(result)
    rows += [("checked", ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in result["checks"].items()))]
    rows += [("WARNING", text) for text in result["warnings"]]
    return "\n".join(f"{name:<12} {text}" for name, text in rows)


def _flow_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("stored", f"{result['acked_per_s']:>10,.0f} msg/s acknowledged, over {result['seconds']:.1f} s"),
        ("delivered", f"{result['delivered_per_s']:>10,.0f} msg/s"),
        ("send->ack", _latencies(result["ack_latency_ms"])),
        ("->delivery", _latencies(result["delivery_latency_ms"])),
        ("method", METHOD),
    ]


def _latencies(percentiles: dict[str, float | None]) -> str:
    shown = (f"{name} {value:.2f}" for name, value in percentiles.items() if value is not None)
    return ("   ".join(shown) or "none") + "   ms"


def _idle_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for step in result["steps"]:
        text = f"{step['connections']:>7} connections   RSS {step['rss_kib']:>8,} KiB   PSS {step['pss_kib']:>8,} KiB"
        if "pss_kib_per_connection" in step:
            text += f"   slope: RSS {step['rss_kib_per_connection']:.2f}, PSS {step['pss_kib_per_connection']:.2f}"
            text += " KiB per connection"
        rows.append(("memory", text))
    return rows


def _cpu_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    cpu = result["cpu"]
    names = {"server": "server_s", "Valkey": "bus_s", "generators": "generators_s", "others": "others_s",
             "stolen": "stolen_s"}  # fmt: skip
    shown = [f"{name} {cpu[key]:.2f} s" for name, key in names.items() if cpu[key] is not None]
    unknown = [] if cpu["server_s"] is not None else ["server not known (--pid)"]
    rows = [("CPU", ", ".join(shown + unknown))]
    if "generator_load" in cpu:
        rows.append(("generator", f"{cpu['generator_load']:.0%} of a core, in the busiest process"))
    if "delivered_per_cpu_s" in result:
        rows.append(("per CPU-s", f"{result['delivered_per_cpu_s']:>10,.0f} deliveries per second of server + Valkey"))
    return rows


def save(report: dict[str, Any], directory: Path) -> Path:
    """Write the report as JSON; its name has the scenario and the time. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{report['scenario']}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    return path
