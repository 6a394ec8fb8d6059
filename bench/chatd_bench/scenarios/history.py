"""``catchup`` and ``history``: what was missed, and pages of the log, with few messages in the store or with millions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from chatd_bench.archive import Archive, Group, build
from chatd_bench.cast import Cast, pairs
from chatd_bench.dialects.dialect import Event, User
from chatd_bench.dialects.registry import must_offer
from chatd_bench.faults import RunFailed
from chatd_bench.histogram import Histogram
from chatd_bench.scenarios.stage import Options, Result, foreign_reasons, run_id, spent, stage
from chatd_bench.servers.registry import make_server

MISSED_RATE = 4000.0
GROUPS = 20
"""Those with the longest logs, whose pages are asked for."""
DATABASE = "chatd.db"
EVENTS_AT_LOGIN = {"CHATD_DELIVERY_REPLAY_NEW_DEVICE_EVENTS": "0"}
"""Who asks for pages wants nothing else."""

Prepare = Callable[[Path], None]


def run_catchup(options: Options, missed: int, repeats: int, stored: int, users: int) -> Result:
    """One is away while ``missed`` messages come, and then logs in, again and again: nothing says that it has them.

    ``stored``: messages of others that are in the store before.
    """
    must_offer(_dialect(options), "catch_up")
    cast = pairs(run_id(), 2, 1)
    cast = replace(cast, writers=(cast.users[:1],))
    seconds = (missed + 0.5) / MISSED_RATE
    sending = replace(options, generators=1, rate=MISSED_RATE, arrivals="uniform", warmup=0.0, seconds=seconds)
    with _archive(users, stored) as (_, prepare), stage(sending, cast, prepare=prepare) as on:
        on.set_up()
        on.call("lose", 1, 2)
        sent = on.timed()
        before, began = on.cpu(), time.monotonic()
        runs = [on.call("catch_up", 1)[0] for _ in range(repeats)]
        cpu, about = spent(before, on.cpu(), bool(on.running.pids)), on.about()
        void = foreign_reasons(cpu, time.monotonic() - began)
        [checked] = on.call("check_caught", missed)
    caught = {
        "messages": missed, "seconds": median(run["seconds"] for run in runs), "all_s": [run["seconds"] for run in runs],
        "generator_cpu_s": median(run["generator_cpu_s"] for run in runs), "stored": stored,
    }  # fmt: skip
    checks = {"messages_checked": sent["checks"]["messages_checked"], "missed_messages_checked": checked}
    return {"catch_up": caught, "cpu": cpu, "void": void, "checks": checks, **about}


def run_history(options: Options, stored: list[int], users: int, requests: int, limit: int) -> Result:
    """Pages of the longest logs in stores of these sizes: the newest page, and one from anywhere in the log."""
    must_offer(_dialect(options), "page")
    results = [_pages(options, messages, users, requests, limit) for messages in stored]
    pages = [page for result in results for page in result["pages"]]
    checks = {"pages": sum(result["checked"] for result in results), "events_in_them": sum(page["events"] for page in pages)}
    void = [f"{messages:,} stored: {why}" for messages, result in zip(stored, results, strict=True) for why in result["void"]]
    return {**results[-1], "pages": pages, "void": void, "checks": checks}


def _dialect(options: Options) -> str:
    return options.dialect or make_server(options.server).dialects[0]


def _pages(options: Options, stored: int, users: int, requests: int, limit: int) -> Result:
    pages = []
    options = replace(options, generators=1, settings={**EVENTS_AT_LOGIN, **options.settings})
    with _archive(users, stored) as (archive, prepare):
        assert archive is not None, "something is stored"
        asking, groups = _asking(archive)
        logs = {number: (group.conv, last_of(group)) for number, group in enumerate(groups)}
        with stage(options, Cast(asking, homes=(0,) * len(asking)), prepare=prepare) as on:
            on.call("open", 0, len(asking), what="connected", total=len(asking))
            before, began = on.cpu(), time.monotonic()
            for what, deep in (("newest", False), ("anywhere", True)):
                [asked] = on.call("pages", logs, requests, limit, deep)
                histogram = Histogram()
                for seconds in asked["seconds"]:
                    histogram.record(int(seconds * 1e6))
                pages.append({"what": what, "messages": stored, "requests": requests, "latency_ms": histogram.figures_ms()})
            cpu, about = spent(before, on.cpu(), bool(on.running.pids)), on.about()
            void = foreign_reasons(cpu, time.monotonic() - began)
            [answered] = on.call("answered")
    for number, before_seq, events in answered:
        check_page(archive, groups[number], before_seq, limit, events)
    for page, some in zip(pages, (answered[:requests], answered[requests:]), strict=True):
        page["events"] = sum(len(events) for _, _, events in some)
    return {"pages": pages, "cpu": cpu, "void": void, "checked": len(answered), **about}


def last_of(group: Group) -> int:
    """The last position of its log: its founding, and what was said."""
    return 1 + len(group.said)


def check_page(archive: Archive, group: Group, before: int | None, limit: int, events: Sequence[Event]) -> None:
    """Whether a page is what the archive has there: the newest entries below ``before``, all, in order. Raises RunFailed."""
    end = last_of(group) + 1 if before is None else before
    wanted = list(range(max(1, end - limit), end))
    if (got := [event.position for event in events]) != wanted:
        raise RunFailed(f"{group.conv}: a page before {before} has the seqs {_shortly(got)}, not {_shortly(wanted)}")
    for event in events:
        if event != (written := _written(archive, group, event.position)):
            raise RunFailed(f"{group.conv}: a page before {before} has {event}, not {written}")


def _written(archive: Archive, group: Group, position: int) -> Event:
    if position == 1:
        return Event(group.conv, 1, archive.users[group.members[0]], "created", None)
    at = position - 2
    return Event(group.conv, position, archive.users[group.senders[at]], "message", archive.bodies[group.said[at]])


def _shortly(positions: list[int]) -> str:
    steady = positions == list(range(positions[0], positions[-1] + 1)) if positions else False
    return f"{positions[0]} to {positions[-1]}" if steady else str(positions)


def _asking(archive: Archive) -> tuple[tuple[User, ...], list[Group]]:
    """One member of each of the groups, each another user; and the groups."""
    users: dict[str, Group] = {}
    for group in archive.groups[:GROUPS]:
        name = next((name for member in group.members if (name := archive.users[member]) not in users), None)
        if name is not None:
            users[name] = group
    return tuple(map(User, range(len(users)), users)), list(users.values())


@contextmanager
def _archive(users: int, stored: int) -> Iterator[tuple[Archive | None, Prepare | None]]:
    """A store with a history, without an index for searches; how it gets into a server's data directory."""
    if not stored:
        yield None, None
        return
    with TemporaryDirectory(prefix="chatd-bench-") as name:
        path = Path(name) / DATABASE
        archive = build(path, users, stored, indexed=False)

        def prepare(data: Path) -> None:
            for file in path.parent.glob(DATABASE + "*"):
                shutil.move(file, data / file.name)

        yield archive, prepare
