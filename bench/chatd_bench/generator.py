"""A generator process: takes the parent's commands one after another, and turns its connections in between.

Owns one ``Load``. Waits for the pipe and for its sockets. Ends at ``stop``, or when the parent has gone.
"""

from __future__ import annotations

import multiprocessing
import resource
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from typing import Any

from chatd_bench.connection import RunFailed
from chatd_bench.dm import DmLoad
from chatd_bench.group import GroupLoad
from chatd_bench.idle import IdleLoad
from chatd_bench.load import Load, Plan
from chatd_bench.outage import OutageLoad
from chatd_bench.presence import PresenceLoad

LOADS: dict[str, type[Load]] = {
    "dm": DmLoad, "group": GroupLoad, "idle": IdleLoad, "presence": PresenceLoad, "outage": OutageLoad,
}  # fmt: skip
COMMAND_SECONDS = 0.02
"""How often the pipe is looked at between commands; a command is never part of what is timed."""


def run_generator(plan: Plan, pipe: Pipe) -> None:
    """The body of the process. Answers a command with ``("done", result)``, or once with ``("failed", why)``."""
    raise_file_limit()
    try:
        load = LOADS[plan.scenario](plan)
        while True:
            while not pipe.poll():
                load.loop.turn(COMMAND_SECONDS)
            name, arguments = pipe.recv()
            if name == "stop":
                break
            pipe.send(("done", getattr(load, name)(*arguments)))
        load.loop.close()
    except EOFError:
        return
    except RunFailed as fault:
        pipe.send(("failed", str(fault)))
    except Exception:  # noqa: BLE001 - whatever it is, the parent shows it
        pipe.send(("failed", traceback.format_exc()))


def raise_file_limit() -> None:
    """Let this process have as many sockets as the system allows without asking."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Generators:
    """The parent's side: all generator processes of one run. Use as a context manager; it ends them."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        # Spawned, not forked: a generator has nothing of the parent's but its plan.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Pipe] = []
        self._processes = []
        for plan in plans:
            ours, theirs = context.Pipe()
            process = context.Process(target=run_generator, args=(plan, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                pipe.send(("stop", ()))
            except OSError:
                process.terminate()
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def start(self, name: str, *arguments: Any, only: int | None = None) -> None:
        """Give a command to all generators, or to one; ``answers`` must follow."""
        for pipe in self._pipes if only is None else [self._pipes[only]]:
            with suppress(BrokenPipeError):  # it has failed since the last command; its answer says why
                pipe.send((name, arguments))

    def answers(self, only: int | None = None) -> list[Any]:
        """Wait for the answers to the last command. Raises RunFailed with the first generator's fault."""
        results = []
        for pipe in self._pipes if only is None else [self._pipes[only]]:
            try:
                status, result = pipe.recv()
            except EOFError as fault:
                raise RunFailed("a generator has ended without a word") from fault
            if status != "done":
                raise RunFailed(result)
            results.append(result)
        return results

    def call(self, name: str, *arguments: Any, only: int | None = None) -> list[Any]:
        """``start`` and ``answers``."""
        self.start(name, *arguments, only=only)
        return self.answers(only)
