"""A generator process: takes the parent's commands one after another, and turns its connections in between.

Owns one load. Waits for the pipe and for its sockets. Ends at ``stop``, or when the parent has gone.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.resource_tracker import ensure_running
from typing import Any, Protocol, cast

from chatd_bench.faults import NotOffered, RunFailed
from chatd_bench.progress import Progress

PROGRESS_SECONDS = 0.1


class Load(Protocol):
    """What a generator process does; a command is the name of another public method."""

    def turn(self, seconds: float) -> None:
        """Keep the connections alive for so long."""

    def close(self) -> None:
        """Let go of them."""


ENDINGS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""A terminal sends them to the whole group of processes, but only the parent answers them: it ends the generators itself."""

MakeLoad = Callable[[Any, Callable[[int], None]], Load]
"""From an order, and from whom to tell how many of a command's things are done."""
COMMAND_SECONDS = 0.02
"""How often the pipe is looked at between commands; a command is never part of what is timed."""


def run_generator(make: MakeLoad, order: Any, pipe: Pipe) -> None:
    """The body of the process. Answers a command with ``("done", result)``, or once with ``("failed", why)``; before, at
    times, with ``("at", how many)``."""
    raise_file_limit()
    told = 0.0

    def progress(count: int) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            pipe.send(("at", count))

    try:
        load = make(order, progress)
        while True:
            while not pipe.poll():
                load.turn(COMMAND_SECONDS)
            name, arguments = pipe.recv()
            if name == "stop":
                break
            pipe.send(("done", getattr(load, name)(*arguments)))
        load.close()
    except EOFError:
        return
    except (RunFailed, NotOffered) as fault:
        pipe.send(("failed", str(fault)))
    except Exception:  # noqa: BLE001 - whatever it is, the parent shows it
        pipe.send(("failed", traceback.format_exc()))


def raise_file_limit() -> None:
    """Let this process have as many sockets as the system allows without asking."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Generators:
    """The parent's side: all generator processes of one run. Use as a context manager; it ends them."""

    def __init__(self, make: MakeLoad, orders: Sequence[Any]) -> None:
        # Spawned, not forked: a generator has nothing of the parent's but its order.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Pipe] = []
        self._processes = []
        ensure_running()  # multiprocessing's own helper, which unblocks signals when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        try:
            for order in orders:
                ours, theirs = context.Pipe()
                process = context.Process(target=run_generator, args=(make, order, theirs), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                pipe.send(("stop", ()))
            except OSError:
                process.kill()
            if kind is not None:
                process.kill()  # it may be in the middle of a minute's command, and has nothing that must be ended well
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def sleep(self, seconds: float) -> None:
        """Let that time pass while commands are carried out that take longer. Raises RunFailed as soon as one of them fails."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for ready in wait(self._pipes, left):
                if time.monotonic() < end:  # after it, it may be an answer
                    self.answers(only=self._pipes.index(cast(Pipe, ready)))

    def start(self, name: str, *arguments: Any, only: int | None = None) -> None:
        """Give a command to all generators, or to one; ``answers`` must follow."""
        for pipe in self._pipes if only is None else [self._pipes[only]]:
            try:
                pipe.send((name, arguments))
            except OSError as fault:  # it has ended between two commands, and said why
                raise RunFailed(_received(pipe)[1]) from fault

    def answers(self, only: int | None = None, progress: Progress | None = None) -> list[Any]:
        """Wait for the answers to the last command. Raises RunFailed with the first generator's fault."""
        asked = list(self._pipes) if only is None else [self._pipes[only]]
        results: dict[Pipe, Any] = {}
        counts: dict[Pipe, int] = {}
        while len(results) < len(asked):
            for ready in wait([pipe for pipe in asked if pipe not in results]):
                pipe = cast(Pipe, ready)
                status, result = _received(pipe)
                if status == "at":
                    counts[pipe] = result
                elif status == "done":
                    results[pipe] = result
                else:
                    raise RunFailed(result)
            if progress is not None:
                progress.show(sum(counts.values()))
        return [results[pipe] for pipe in asked]

    def call(self, name: str, *arguments: Any, only: int | None = None, progress: Progress | None = None) -> list[Any]:
        """``start`` and ``answers``."""
        self.start(name, *arguments, only=only)
        return self.answers(only, progress)


def add_up(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """What all generators counted, together."""
    return {key: sum(part[key] for part in parts) for key in parts[0]}


def _received(pipe: Pipe) -> tuple[str, Any]:
    try:
        status, result = pipe.recv()
    except EOFError as fault:
        raise RunFailed("a generator has ended without a word") from fault
    return status, result
