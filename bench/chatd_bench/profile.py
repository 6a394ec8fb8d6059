"""``profile``: where the server's CPU time goes for a message, by py-spy's samples of its stacks during a run.

Within a thread, a function's share of the samples is taken for its share of the CPU time that the thread used while it was
measured; divided by the messages of that time, this is what the function costs per message. What a C function or a system call
takes is told of the Python line that called it. A thread that waits for work is left out. Redis or Valkey is not in it: its
share is told apart. In a checkout the server runs as Python, also where `make bench` measures it compiled.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from chatd_bench.faults import RunFailed
from chatd_bench.machine import thread_seconds
from chatd_bench.scenarios.stage import Result
from chatd_bench.servers.server import Running

END_SECONDS = 60.0
SHOWN = 25
HOT_LINES = 40
RATE_HZ = 200
WAITS = {"WorkerThread._work", "wait", "Thread._wait_for_tstate_lock"}
"""Innermost functions of threads that wait: py-spy takes them for busy when they have just begun to."""
_THREAD = re.compile(r"thread \((\d+)\)")
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+?)(?::(?P<line>\d+))?\)$")


class Place(NamedTuple):
    """A function; with a line, that line of it."""

    function: str
    file: str
    line: int = 0


class Seen(NamedTuple):
    """Of one thread: its stacks (frames from the outermost on) with their numbers, and the CPU seconds that it used meanwhile."""

    stacks: Counter[str]
    cpu_s: float


@dataclass
class Profiler:
    """Watches a run's server while it is measured; ``seen`` has the result. Use as a context manager: it ends py-spy."""

    rate: int = RATE_HZ
    _stack: ExitStack = field(default_factory=ExitStack)
    _running: dict[int, tuple[subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    _threads: dict[int, dict[int, float]] = field(default_factory=dict)

    def __enter__(self) -> Profiler:
        self._program = _find_program()
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="chatd-bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        for process, _output in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self._stack.close()

    def observe(self, running: Running, seconds: float) -> Callable[[], None]:
        """Begin, for so long: one py-spy for each of the server's own processes. What is returned is called at the end."""
        for pid in running.main_pids:
            self._running[pid] = self._begin(pid, seconds)
            self._threads[pid] = thread_seconds(pid)
        return self._end

    def _begin(self, pid: int, seconds: float) -> tuple[subprocess.Popen[bytes], Path]:
        output = self._directory / f"{pid}.stacks"
        command = (
            str(self._program), "record", "--pid", str(pid), "--format", "raw", "--threads", "--output", str(output),
            "--rate", str(self.rate), "--duration", str(max(1, int(seconds))),
        )  # fmt: skip
        with output.with_suffix(".said").open("wb") as said:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT), output

    def _end(self) -> None:
        for pid, before in self._threads.items():
            self._threads[pid] = {tid: used - before.get(tid, 0.0) for tid, used in thread_seconds(pid).items()}

    def seen(self) -> list[Seen]:
        """All threads of all processes. Raises RunFailed."""
        return [each for pid in self._running for each in by_thread(self._output(pid), self._threads[pid])]

    def _output(self, pid: int) -> str:
        process, output = self._running[pid]
        try:
            status = process.wait(END_SECONDS)
        except subprocess.TimeoutExpired as fault:
            raise RunFailed(f"py-spy did not end within {END_SECONDS:.0f} s") from fault
        if status or not output.exists():
            said = output.with_suffix(".said").read_text(errors="replace").strip()[-500:]
            raise RunFailed(f"py-spy ended with status {status}: {said}\n{_ADVICE}")
        return output.read_text()


def as_python() -> dict[str, str]:
    """What makes a server run from the checkout in which the command is given: py-spy does not see into compiled code."""
    return {"PYTHONPATH": ".:protocol"} if Path("chatd/wire").is_dir() else {}


def by_thread(raw: str, cpu_s: Mapping[int, float]) -> list[Seen]:
    """From py-spy's raw lines, ``thread (TID): NAME;FRAME;FRAME NUMBER``. Threads without a TID share what is left."""
    threads: dict[int, Counter[str]] = {}
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, _, frames = stack.partition(";")
        found = _THREAD.match(thread)
        tid = int(found[1]) if found and int(found[1]) in cpu_s else 0
        if _innermost(frames) not in WAITS:
            threads.setdefault(tid, Counter())[frames] += int(count)
    rest = sum(used for tid, used in cpu_s.items() if tid not in threads)
    return [Seen(stacks, cpu_s[tid] if tid else rest) for tid, stacks in threads.items()]


def _innermost(frames: str) -> str:
    return frames.rpartition(";")[2].partition(" (")[0]


_ADVICE = "It has to be allowed to look into processes: run this as root, or set kernel.yama.ptrace_scope to 0."


def _find_program() -> Path:
    beside = Path(sys.executable).parent / "py-spy"
    found = beside if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise RunFailed("profile takes py-spy: pip install 'chatd[bench]', or `make bench ARGS='profile dm'`")
    return Path(found)


def costs(threads: Sequence[Seen], messages: int) -> tuple[list[Result], list[Result]]:
    """By function and by line, the dearest first: us of CPU per message, by itself and with what it calls."""
    own: Counter[Place] = Counter()
    whole: Counter[Place] = Counter()
    lines: Counter[Place] = Counter()
    for stacks, cpu_s in threads:
        each = round(cpu_s / messages / sum(stacks.values()) * 1e9)  # in thousandths of a us, for counters count whole things
        for stack, count in stacks.items():
            places = list(_places(stack.split(";")))
            if places:
                lines[places[-1]] += count * each
                own[places[-1]._replace(line=0)] += count * each
            for place in {place._replace(line=0) for place in places}:
                whole[place] += count * each
    functions = [
        {"function": place.function, "file": place.file, "self_us": own[place] / 1000, "total_us": cost / 1000}
        for place, cost in whole.items()
    ]
    hot = [{**place._asdict(), "self_us": cost / 1000} for place, cost in lines.most_common(HOT_LINES)]
    return sorted(functions, key=lambda one: (-float(one["self_us"]), -float(one["total_us"]))), hot


def _places(frames: Iterable[str]) -> Iterator[Place]:
    for frame in frames:
        found = _FRAME.match(frame)
        if found:
            yield Place(found["function"], found["file"], int(found["line"] or 0))


def profiled(run: Result, threads: Sequence[Seen]) -> Result:
    """The result of a run, and of what was seen meanwhile. Raises RunFailed where that is nothing."""
    if not threads or not run["acked"]:
        raise RunFailed("py-spy saw nothing: measure for longer")
    cpu = run["cpu"]
    functions, lines = costs(threads, run["acked"])
    return {
        **run, "samples": sum(sum(seen.stacks.values()) for seen in threads),
        "us_per_message": cpu["server_s"] / run["acked"] * 1e6, "bus_us_per_message": cpu["bus_s"] / run["acked"] * 1e6,
        "us_per_delivery": cpu["server_s"] / run["delivered"] * 1e6, "functions": functions, "lines": lines,
    }  # fmt: skip


def profile_rows(result: Result) -> list[tuple[str, str]]:
    """For people: the functions that take most by themselves, then those that take most with what they call."""
    each = f"{result['us_per_message']:.1f} us of CPU per message, {result['us_per_delivery']:.2f} per delivery"
    rates = f"{result['acked_per_s']:,.0f} messages/s, {result['delivered_per_s']:,.0f} deliveries/s, under observation"
    head = f"{'self':>8} {'total':>8}   us per message"
    return [
        ("rate", rates),
        ("server", f"{each}; Redis or Valkey {result['bus_us_per_message']:.1f} per message; {result['samples']:,} samples"),
        ("by itself", head),
        *(("", _line(function)) for function in result["functions"][:SHOWN]),
        ("with calls", head),
        *(("", _line(each)) for each in sorted(result["functions"], key=lambda one: -float(one["total_us"]))[:SHOWN]),
        ("lines", f"{'self':>8}"),
        *(("", f"{one['self_us']:8.2f}   {one['file']}:{one['line']} {one['function']}") for one in result["lines"][:SHOWN]),
    ]


def _line(function: Result) -> str:
    return f"{function['self_us']:8.2f} {function['total_us']:8.2f}   {function['function']} ({function['file']})"
